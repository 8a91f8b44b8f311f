// SPDX-License-Identifier: MIT OR Apache-2.0
//! The few socket operations which the standard library lacks.

use std::{
    io, mem,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use crate::ns::check;

/// Listens with a chosen backlog; an IPv6 wildcard leaves IPv4 to others.
///
/// # Errors
/// As `socket`, `bind` and `listen`.
pub fn listen(address: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let socket = socket(family, libc::SOCK_STREAM, 0)?;
    set(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if address.is_ipv6() {
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
    }
    bind(&socket, address)?;
    // SAFETY: a valid descriptor and a number.
    check(unsafe { libc::listen(socket.as_raw_fd(), backlog) })?;
    Ok(TcpListener::from(socket))
}

/// Where a redirected connection was meant to go (`SO_ORIGINAL_DST`, IPv4).
///
/// # Errors
/// When the connection was not translated.
pub fn original_destination(stream: &TcpStream) -> io::Result<SocketAddr> {
    // SAFETY: sockaddr_in is plain old data; all zero is valid.
    let mut address: libc::sockaddr_in = unsafe { mem::zeroed() };
    let mut length = mem::size_of_val(&address) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `address`, which both live across the call.
    check(unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_IP,
            libc::SO_ORIGINAL_DST,
            (&raw mut address).cast(),
            &raw mut length,
        )
    })?;
    let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
    Ok(SocketAddrV4::new(ip, u16::from_be(address.sin_port)).into())
}

/// A new close-on-exec socket.
///
/// # Errors
/// As `socket`.
pub fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: socket takes numbers only.
    let raw = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    check(raw)?;
    // SAFETY: the kernel just gave us this descriptor, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Sets an integer socket option.
///
/// # Errors
/// As `setsockopt`.
pub fn set(socket: &impl AsRawFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: the value is read for its size during the call only.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            mem::size_of_val(&value) as libc::socklen_t,
        )
    })
}

/// Binds a socket made by [`socket`].
///
/// # Errors
/// As `bind`.
pub fn bind(socket: &OwnedFd, address: SocketAddr) -> io::Result<()> {
    // SAFETY: sockaddr_storage is plain old data; all zero is valid.
    let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
    let length = match address.ip() {
        IpAddr::V4(ip) => {
            let v4 = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from(ip).to_be() },
                sin_zero: [0; 8],
            };
            // SAFETY: sockaddr_storage is larger than, and aligned for, every socket address.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in>().write(v4) };
            mem::size_of_val(&v4)
        }
        IpAddr::V6(ip) => {
            let v6 = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: address.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: ip.octets() },
                sin6_scope_id: 0,
            };
            // SAFETY: as above.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in6>().write(v6) };
            mem::size_of_val(&v6)
        }
    };
    // SAFETY: `storage` holds an address of `length` bytes and lives across the call.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const storage).cast(), length as libc::socklen_t) })
}

/// Index and MAC of a device of this namespace.
///
/// # Errors
/// When there is none of this name.
pub fn device(name: &str) -> io::Result<(i32, [u8; 6])> {
    let any = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    // SAFETY: ifreq is plain old data; all zero is valid.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: the request lives across the call; the kernel writes into it only.
    check(unsafe { libc::ioctl(any.as_raw_fd(), libc::SIOCGIFINDEX, &raw mut request) })?;
    // SAFETY: after SIOCGIFINDEX the union holds the index.
    let index = unsafe { request.ifr_ifru.ifru_ifindex };
    // SAFETY: as above.
    check(unsafe { libc::ioctl(any.as_raw_fd(), libc::SIOCGIFHWADDR, &raw mut request) })?;
    // SAFETY: after SIOCGIFHWADDR the union holds the address.
    let data = unsafe { request.ifr_ifru.ifru_hwaddr.sa_data };
    Ok((index, std::array::from_fn(|at| data[at] as u8)))
}
