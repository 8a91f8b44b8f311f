// SPDX-License-Identifier: MIT OR Apache-2.0
//! Listening sockets, over sock_diag: on a busy node /proc/net/tcp is long and slow.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::netlink::{Netlink, Request, attributes, ne32};

// include/uapi/linux/{sock_diag,inet_diag}.h
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_SKV6ONLY: u16 = 11;
/// Bits of TCP states (include/net/tcp_states.h).
const LISTEN: u32 = 1 << 10;
/// What an unconnected UDP socket is in.
const CLOSE: u32 = 1 << 7;

/// struct inet_diag_msg up to its attributes.
const FIXED: usize = 72;
const MAX: usize = 65_536;

/// A socket that takes packets from anyone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Socket {
    /// IP protocol: 6 or 17.
    pub proto: u8,
    pub local: SocketAddr,
    /// Takes IPv4 as well, though its address is `::`.
    pub dual: bool,
    pub uid: u32,
    /// TCP: connections waiting for accept(2). UDP: bytes waiting to be read.
    pub queued: u32,
    /// TCP: how many may wait. 0: not known.
    pub backlog: u32,
    /// `SO_BINDTODEVICE`, 0 none.
    pub ifindex: u32,
}

impl Socket {
    /// It would take a packet to `address` and `port`, by address only.
    pub fn takes(&self, proto: u8, address: IpAddr, port: u16) -> bool {
        let local = self.local.ip().to_canonical();
        let same_family = local.is_ipv4() == address.is_ipv4();
        self.proto == proto
            && self.local.port() == port
            && if local.is_unspecified() { same_family || self.dual } else { local == address }
    }
}

/// The sockets of the namespace of the calling thread, with their inodes, by which processes hold them.
pub(crate) fn listening_sockets(netns: &str, unreadable: &mut Vec<String>) -> Vec<(Socket, u32)> {
    let mut out = Vec::new();
    let mut netlink = match Netlink::open(libc::NETLINK_SOCK_DIAG, netns, &[]) {
        Ok(netlink) => netlink,
        Err(error) => {
            unreadable.push(error.to_string());
            return out;
        }
    };
    for (family, proto, states) in [
        (libc::AF_INET, libc::IPPROTO_TCP, LISTEN),
        (libc::AF_INET6, libc::IPPROTO_TCP, LISTEN),
        (libc::AF_INET, libc::IPPROTO_UDP, CLOSE),
        (libc::AF_INET6, libc::IPPROTO_UDP, CLOSE),
    ] {
        // struct inet_diag_req_v2: family, protocol, extensions, padding, states, sockid.
        let mut fixed = vec![0; 56];
        (fixed[0], fixed[1]) = (family as u8, proto as u8);
        fixed[4..8].copy_from_slice(&states.to_ne_bytes());
        let request = Request::dump("listening sockets", SOCK_DIAG_BY_FAMILY, &fixed);
        match netlink.dump(&request, |kind, payload| parse(kind, proto as u8, payload)) {
            Ok(sockets) => out.extend(sockets),
            // A kernel without IPv6, or without the module.
            Err(error) if error.is_unsupported() => {}
            Err(error) => unreadable.push(error.to_string()),
        }
    }
    out.truncate(MAX);
    out
}

fn parse(kind: u16, proto: u8, payload: &[u8]) -> Option<(Socket, u32)> {
    let (fixed, rest) = payload.split_at_checked(FIXED)?;
    if kind != SOCK_DIAG_BY_FAMILY {
        return None;
    }
    let port = u16::from_be_bytes([fixed[4], fixed[5]]);
    let address: IpAddr = match i32::from(fixed[0]) {
        libc::AF_INET => Ipv4Addr::from(*fixed[8..].first_chunk::<4>()?).into(),
        libc::AF_INET6 => Ipv6Addr::from(*fixed[8..].first_chunk::<16>()?).into(),
        _ => return None,
    };
    let only_v6 = attributes(rest).any(|(kind, v)| kind == INET_DIAG_SKV6ONLY && v.first() == Some(&1));
    let backlog = ne32(&fixed[60..])?;
    let socket = Socket {
        proto,
        local: SocketAddr::new(address, port),
        dual: address.is_ipv6() && address.is_unspecified() && !only_v6,
        uid: ne32(&fixed[64..])?,
        queued: ne32(&fixed[56..])?,
        backlog: if i32::from(proto) == libc::IPPROTO_TCP { backlog } else { 0 },
        ifindex: ne32(&fixed[40..])?,
    };
    Some((socket, ne32(&fixed[68..])?))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_listener_of_this_process() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = listener.local_addr().unwrap();
        let mut unreadable = Vec::new();
        let sockets = listening_sockets("here", &mut unreadable);
        assert!(unreadable.is_empty(), "{unreadable:?}");
        let found = sockets.iter().find(|(s, _)| s.local == local).unwrap().0.clone();
        assert!(found.takes(6, local.ip(), local.port()) && found.backlog > 0);
        assert!(!found.takes(17, local.ip(), local.port()));
        assert!(!found.takes(6, Ipv4Addr::new(127, 0, 0, 2).into(), local.port()));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = parse(SOCK_DIAG_BY_FAMILY, 6, &bytes);
        }
    }
}
