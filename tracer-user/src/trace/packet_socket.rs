// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packet sockets: all devices of a namespace, from the network header on, behind a filter of classic BPF.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use libc::sock_filter;

// include/uapi/linux/if_ether.h
pub(super) const ETH_P_ALL: u16 = 0x0003;
pub(super) const ETH_P_IP: u16 = 0x0800;
pub(super) const ETH_P_ARP: u16 = 0x0806;
pub(super) const ETH_P_IPV6: u16 = 0x86dd;

/// Where a packet was heard.
#[derive(Clone, Copy, Debug)]
pub(super) struct From {
    pub(super) ifindex: u32,
    pub(super) outgoing: bool,
    pub(super) protocol: u16,
}

/// One instruction. `jt`, `jf`: how many to leave out when a comparison holds, and when not.
pub(super) fn step(code: u32, jt: usize, jf: usize, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: jt as u8, jf: jf as u8, k }
}

/// For one protocol of all devices of the namespace of the calling thread. An empty filter lets all pass.
pub(super) fn open(protocol: u16, filter: &[sock_filter]) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // Nothing is received before the filter is in its place.
    // SAFETY: numbers only.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    if !filter.is_empty() {
        set_filter(&socket, filter)?;
    }
    // SAFETY: all zero is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol.to_be();
    // SAFETY: the address is of the size that is told.
    let bound = unsafe { libc::bind(fd, (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as u32) };
    if bound == 0 { Ok(socket) } else { Err(io::Error::last_os_error()) }
}

/// Replaces the filter at once.
pub(super) fn set_filter(socket: &OwnedFd, filter: &[sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the structure and what it points to live through the call, which only reads them.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as u32,
        )
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The next packet, cut to the buffer; `None`: there is none.
pub(super) fn receive<'b>(socket: &OwnedFd, buffer: &'b mut [u8]) -> Option<(From, &'b [u8])> {
    // SAFETY: all zero is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    let mut size = size_of::<libc::sockaddr_ll>() as u32;
    // SAFETY: buffer and address are ours, their lengths are told; the call does not wait.
    let read = unsafe {
        libc::recvfrom(
            socket.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            libc::MSG_DONTWAIT,
            (&raw mut address).cast(),
            &raw mut size,
        )
    };
    let length @ 1.. = usize::try_from(read).ok()? else { return None };
    let from = From {
        ifindex: address.sll_ifindex.unsigned_abs(),
        outgoing: address.sll_pkttype == libc::PACKET_OUTGOING,
        protocol: u16::from_be(address.sll_protocol),
    };
    Some((from, &buffer[..length.min(buffer.len())]))
}
