// SPDX-License-Identifier: MIT OR Apache-2.0
//! The bpf(2) system call, and the information about a program.

use std::ffi::c_long;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_prog_info};

pub(crate) fn prog_info(program: BorrowedFd<'_>) -> io::Result<bpf_prog_info> {
    // SAFETY: the structure is made of integers; all zero is a value of it.
    let mut info: bpf_prog_info = unsafe { mem::zeroed() };
    let mut attr = zeroed();
    attr.info.bpf_fd = program.as_raw_fd() as u32;
    attr.info.info_len = size_of::<bpf_prog_info>() as u32;
    attr.info.info = (&raw mut info) as u64;
    // SAFETY: `info` is as long as `info_len` says and outlives the call.
    unsafe { bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(info)
}

pub(crate) fn zeroed() -> bpf_attr {
    // SAFETY: a union of structures of integers; all zero is a value of each.
    unsafe { mem::zeroed() }
}

/// # Safety
/// Pointers in `attr` must be valid for what `cmd` does with them.
pub(crate) unsafe fn bpf(cmd: bpf_cmd, attr: &mut bpf_attr) -> io::Result<c_long> {
    // SAFETY: `attr` is as long as said; what it points to is the caller's word.
    let result = unsafe { libc::syscall(libc::SYS_bpf, cmd as c_long, attr, size_of::<bpf_attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// # Safety
/// As [`bpf`]; and `cmd` must be one that returns a new descriptor.
pub(crate) unsafe fn bpf_fd(cmd: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    // SAFETY: the caller's word.
    let fd = unsafe { bpf(cmd, attr) }?;
    // SAFETY: a new descriptor, known to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
