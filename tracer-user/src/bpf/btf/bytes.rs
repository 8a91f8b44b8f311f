// SPDX-License-Identifier: MIT OR Apache-2.0
//! The bytes of a BTF file: mapped where the kernel can (6.16 and later), read where it cannot.

use std::fs::File;
use std::io::{self, Read as _};
use std::ops::Deref;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::ptr::{self, NonNull};

/// Larger than any kernel's BTF by an order of magnitude; a guard, not a limit anyone meets.
const MAX_LEN: u64 = 256 << 20;

/// Read-only bytes, freed or unmapped on drop.
pub(super) enum Bytes {
    Mapped(Mapping),
    Owned(Vec<u8>),
}

impl Bytes {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        if len > MAX_LEN {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("{len} bytes")));
        }
        if let Some(mapping) = Mapping::new(&file, len as usize) {
            return Ok(Self::Mapped(mapping));
        }
        let mut bytes = Vec::with_capacity(len as usize);
        file.by_ref().take(MAX_LEN).read_to_end(&mut bytes)?;
        Ok(Self::Owned(bytes))
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(mapping) => mapping.as_slice(),
            Self::Owned(bytes) => bytes,
        }
    }
}

/// A private, read-only mapping of a whole file.
pub(super) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

impl Mapping {
    /// `None` where the file cannot be mapped (sysfs files before Linux 6.16, module BTF, empty files).
    fn new(file: &File, len: usize) -> Option<Self> {
        if len == 0 {
            return None;
        }
        // SAFETY: no address is asked for, so nothing existing is replaced; the result is checked.
        let start = unsafe {
            libc::mmap(ptr::null_mut(), len, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), 0)
        };
        if start == libc::MAP_FAILED {
            return None;
        }
        NonNull::new(start.cast()).map(|start| Self { start, len })
    }

    fn as_slice(&self) -> &[u8] {
        // SAFETY: `new` mapped `len` readable bytes here, and they stay until drop. The kernel never changes
        // its BTF while it runs, and sysfs files cannot be truncated.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is the one that mmap returned, and `as_slice` borrows end before drop.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

// SAFETY: the mapping is read-only and owned by this value alone.
unsafe impl Send for Mapping {}
// SAFETY: as above; shared reads of memory that nobody writes.
unsafe impl Sync for Mapping {}
