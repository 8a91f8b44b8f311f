// SPDX-License-Identifier: MIT OR Apache-2.0
//! Listens to ARP requests and neighbour solicitations on the networks of the nodes with packet sockets: an address
//! that is asked for again and again has no owner that answers.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use super::packet_socket::{self, ETH_P_ARP, ETH_P_IPV6, step};
use crate::explain::{Answered, Asked};
use crate::node::{Netns, NetnsId};

/// Packets looked at in one go, and addresses that are told: a storm must not keep us.
const MOST: usize = 4096;

/// Answers that are told of one look.
const ANSWERS: usize = 256;

/// What was heard since the last time.
#[derive(Debug, Default)]
pub(super) struct HeardArp {
    pub(super) asked: Vec<Asked>,
    pub(super) answered: Vec<Answered>,
}

/// The sockets of the watched nodes.
#[derive(Debug, Default)]
pub(super) struct Askers {
    sockets: Vec<(NetnsId, OwnedFd)>,
}

impl Askers {
    /// These are the namespaces of nodes from now on. Where there is no right to look, nothing is told.
    pub(super) fn watch(&mut self, nodes: &[&Netns]) {
        self.sockets.retain(|(id, _)| nodes.iter().any(|netns| netns.id() == *id));
        for netns in nodes {
            if self.sockets.iter().all(|(id, _)| *id != netns.id()) {
                for protocol in [ETH_P_ARP, ETH_P_IPV6] {
                    let socket = netns.run(|| open(protocol)).ok().and_then(Result::ok);
                    self.sockets.extend(socket.map(|socket| (netns.id(), socket)));
                }
            }
        }
    }

    /// What was asked and answered since the last time.
    pub(super) fn take(&mut self) -> HeardArp {
        let mut found: HashMap<(NetnsId, IpAddr), (IpAddr, u32)> = HashMap::new();
        let mut answered: Vec<Answered> = Vec::new();
        for (netns, socket) in &self.sockets {
            let mut buffer = [0u8; 128];
            for _ in 0..MOST {
                let Some((_, packet)) = packet_socket::receive(socket, &mut buffer) else { break };
                if let Some((address, mac)) = answer(packet) {
                    let one = Answered { netns: *netns, address, mac };
                    // In turns: whoever is heard again after another one.
                    let newest = answered.iter().rfind(|a| (a.netns, a.address) == (*netns, address));
                    if newest != Some(&one) && answered.len() < ANSWERS {
                        answered.push(one);
                    }
                    continue;
                }
                let Some((by, target)) = question(packet) else { continue };
                if found.len() < MOST || found.contains_key(&(*netns, target)) {
                    found.entry((*netns, target)).or_insert((by, 0)).1 += 1;
                }
            }
        }
        let told = found.into_iter();
        let asked = told.map(|((netns, target), (by, times))| Asked { netns, target, by, times }).collect();
        HeardArp { asked, answered }
    }
}

/// For one protocol; of IPv6 neighbour solicitations and advertisements only.
fn open(protocol: u16) -> io::Result<OwnedFd> {
    if protocol != ETH_P_IPV6 {
        return packet_socket::open(protocol, &[]);
    }
    let load = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let give = libc::BPF_RET | libc::BPF_K;
    // Next header ICMPv6, type 135 or 136.
    let filter = [
        step(load, 0, 0, 6),
        step(equal, 0, 4, 58),
        step(load, 0, 0, 40),
        step(equal, 1, 0, 135),
        step(equal, 0, 1, 136),
        step(give, 0, 0, 128),
        step(give, 0, 0, 0),
    ];
    packet_socket::open(protocol, &filter)
}

/// Who asks for whom. Announcements (of one's own address) and probes from nobody ask for nothing.
fn question(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let (by, target): (IpAddr, IpAddr) = match packet {
        // Ethernet and IPv4, a request (RFC 826).
        [0, 1, 8, 0, 6, 4, 0, 1, rest @ ..] if rest.len() >= 20 => {
            let four = |at: usize| rest[at..].first_chunk::<4>().map(|b| Ipv4Addr::from(*b));
            (four(6)?.into(), four(16)?.into())
        }
        [first, ..] if first >> 4 == 6 && packet.len() >= 64 && packet[6] == 58 && packet[40] == 135 => {
            let sixteen = |at: usize| packet[at..].first_chunk::<16>().map(|b| Ipv6Addr::from(*b));
            (sixteen(8)?.into(), sixteen(48)?.into())
        }
        _ => return None,
    };
    (by != target && !by.is_unspecified()).then_some((by, target))
}

/// Who says of itself that it has an address: an ARP reply, a neighbour advertisement that is to replace what was
/// known (several may answer for an anycast address, without that flag).
fn answer(packet: &[u8]) -> Option<(IpAddr, [u8; 6])> {
    const OVERRIDE: u8 = 0x20;
    let mac = |at: usize| packet.get(at..)?.first_chunk::<6>().copied();
    match packet {
        [0, 1, 8, 0, 6, 4, 0, 2, rest @ ..] if rest.len() >= 20 => {
            let address = Ipv4Addr::from(*rest[6..].first_chunk::<4>()?);
            (!address.is_unspecified()).then_some((address.into(), mac(8)?))
        }
        // With the option "target link-layer address", of the length of an Ethernet address.
        [first, ..]
            if first >> 4 == 6
                && packet.len() >= 72
                && (packet[6], packet[40]) == (58, 136)
                && packet[44] & OVERRIDE != 0
                && packet[64..66] == [2, 1] =>
        {
            Some((Ipv6Addr::from(*packet[48..].first_chunk::<16>()?).into(), mac(66)?))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests() {
        let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1];
        arp.extend([172, 16, 25, 183, 0, 0, 0, 0, 0, 0, 172, 16, 25, 189]);
        let by: IpAddr = "172.16.25.183".parse().unwrap();
        let target: IpAddr = "172.16.25.189".parse().unwrap();
        assert_eq!(question(&arp), Some((by, target)));
        // An answer.
        arp[7] = 2;
        assert_eq!(question(&arp), None);
        assert_eq!(answer(&arp), Some((by, [2, 0, 0, 0, 0, 1])));
        // An announcement.
        arp[7] = 1;
        arp[17] = 189;
        assert_eq!(question(&arp), None);
    }

    #[test]
    fn advertisements() {
        let target: Ipv6Addr = "fd00:172::189".parse().unwrap();
        let mut packet = vec![0x60, 0, 0, 0, 0, 32, 58, 255];
        packet.extend([0; 32]);
        packet.extend([136, 0, 0, 0, 0x20, 0, 0, 0]);
        packet.extend(target.octets());
        packet.extend([2, 1, 2, 0, 0, 0, 0, 7]);
        assert_eq!(answer(&packet), Some((target.into(), [2, 0, 0, 0, 0, 7])));
        // Anycast.
        packet[44] = 0;
        assert_eq!(answer(&packet), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = answer(&bytes);
            let _ = question(&bytes);
        }
    }
}
