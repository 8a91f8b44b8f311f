// SPDX-License-Identifier: MIT OR Apache-2.0
//! The device of a VPN whose far end never answers: a tun device that swallows what it is given.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::fd::AsRawFd,
};

/// `TUNSETIFF` (include/uapi/linux/if_tun.h): `_IOW('T', 202, int)`.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
/// `IFF_TUN | IFF_NO_PI`: IP packets, without a header before them.
const FLAGS: libc::c_short = 0x1001;

/// Makes the tun device `dev` in this namespace. It goes when the descriptor is closed.
///
/// # Errors
/// When the name is too long or taken, or the caller may not make devices.
pub(crate) fn open(dev: &str) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: ifreq is plain data, for which zeroes are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if dev.len() >= request.ifr_name.len() {
        return Err(io::Error::other("the device's name is too long"));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(dev.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = FLAGS;
    // SAFETY: the descriptor is open, and TUNSETIFF reads and writes one ifreq, which outlives the call.
    crate::ns::check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF as _, &raw mut request) })?;
    Ok(file)
}

/// Reads packets for ever and drops them.
pub(crate) fn swallow(mut file: File) {
    let mut packet = vec![0; 65536];
    while file.read(&mut packet).is_ok_and(|length| length > 0) {}
}
