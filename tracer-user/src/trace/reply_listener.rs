// SPDX-License-Identifier: MIT OR Apache-2.0
//! Listens, for a few seconds after a request that got no answer, to all that comes for the port that asked, and to ICMP
//! errors. The programs at the devices see what the filter names only; so every other packet costs nothing until then.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use libc::sock_filter;

use super::packet_socket::{self, ETH_P_ALL, ETH_P_IP, ETH_P_IPV6, From, step};
use crate::explain::{Heard, HeardError, OpenRequest};
use crate::flow::{Addr, Endpoint, Ends};
use crate::node::{Netns, NetnsId};

/// A resolver repeats its question after five seconds.
const LISTENING: Duration = Duration::from_secs(6);
/// Packets that are read in one go, and that are told.
const READ: usize = 1024;
const TOLD: usize = 128;
/// Conversations that are remembered.
const CONVERSATIONS: usize = 1024;
/// Headers of an ICMPv6 error, of the packet it quotes, and of what that one carries.
const SNAP: u32 = 192;

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// A socket in each watched namespace, while there are requests.
#[derive(Debug, Default)]
pub(super) struct ReplyListener {
    sockets: Vec<(NetnsId, OwnedFd)>,
    requests: Vec<OpenRequest>,
    /// Listens until then; after that not before as much time has passed again.
    until: Option<Instant>,
    /// Whom those ports talk to besides, the way that answers have.
    conversations: HashSet<(u8, Ends)>,
}

impl ReplyListener {
    /// These requests have no answer by now.
    pub(super) fn listen_for(&mut self, requests: Vec<OpenRequest>, netns: &[Netns]) {
        if requests.is_empty() && self.sockets.is_empty() {
            return;
        }
        let now = Instant::now();
        let over = self.until.is_some_and(|until| now >= until);
        if requests.is_empty() || over {
            self.sockets.clear();
            self.requests.clear();
            self.conversations.clear();
        }
        let rests = over && self.until.is_some_and(|until| now < until + LISTENING);
        if requests.is_empty() || rests || requests == self.requests {
            return;
        }
        let filter = filter(&requests);
        self.requests = requests;
        if self.sockets.is_empty() {
            self.until = Some(now + LISTENING);
            for netns in netns {
                let socket = netns.run(|| packet_socket::open(ETH_P_ALL, &filter)).ok().and_then(Result::ok);
                self.sockets.extend(socket.map(|socket| (netns.id(), socket)));
            }
        } else {
            self.sockets.retain(|(_, socket)| packet_socket::set_filter(socket, &filter).is_ok());
        }
    }

    /// What was heard since the last time.
    pub(super) fn take(&mut self) -> Vec<Heard> {
        let mut out = Vec::new();
        let mut buffer = [0u8; SNAP as usize];
        for (netns, socket) in &self.sockets {
            for _ in 0..READ {
                let Some((from, packet)) = packet_socket::receive(socket, &mut buffer) else { break };
                let Some(heard) = heard(*netns, from, packet) else { continue };
                if heard.error.is_none() {
                    let own = |request: &OpenRequest| {
                        request.proto == heard.proto
                            && request.ends.iter().any(|own| own.src == heard.ends.src)
                    };
                    if self.requests.iter().any(own) && self.conversations.len() < CONVERSATIONS {
                        self.conversations.insert((heard.proto, heard.ends.reversed()));
                    }
                }
                if out.len() < TOLD && self.requests.iter().any(|request| request.relation(&heard).is_some())
                {
                    out.push(heard);
                }
            }
        }
        let conversations = &self.conversations;
        out.retain(|heard| heard.error.is_some() || !conversations.contains(&(heard.proto, heard.ends)));
        out
    }
}

/// Packets from or to the ports that asked, and ICMP errors.
fn filter(requests: &[OpenRequest]) -> Vec<sock_filter> {
    let byte = libc::BPF_LD | libc::BPF_B;
    let half = libc::BPF_LD | libc::BPF_H;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let (absolute, indexed) = (libc::BPF_ABS, libc::BPF_IND);
    let give = |bytes: u32| step(libc::BPF_RET | libc::BPF_K, 0, 0, bytes);
    let one_of = |values: &[u32]| -> Vec<sock_filter> {
        values.iter().flat_map(|value| [step(equal, 0, 1, *value), give(SNAP)]).collect()
    };
    let mut ports: Vec<u32> =
        requests.iter().flat_map(|r| &r.ends).map(|ends| u32::from(ends.src.port)).collect();
    ports.sort_unstable();
    ports.dedup();
    // Two instructions each, twice: within what a jump reaches.
    ports.truncate(48);
    let transport = |mode: u32, at: u32| -> Vec<sock_filter> {
        let mut out = vec![step(half | mode, 0, 0, at)];
        out.extend(one_of(&ports));
        out.push(step(half | mode, 0, 0, at + 2));
        out.extend(one_of(&ports));
        out.push(give(0));
        out
    };
    let icmp = |mode: u32, at: u32, kinds: &[u32]| -> Vec<sock_filter> {
        let mut out = vec![step(byte | mode, 0, 0, at)];
        out.extend(one_of(kinds));
        out.push(give(0));
        out
    };
    let block = |value: u32, then: Vec<sock_filter>| -> Vec<sock_filter> {
        std::iter::once(step(equal, 0, then.len(), value)).chain(then).collect()
    };
    let header_length = step(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0, 0, 0);
    let mut v4 = vec![
        // Of a later fragment nothing can be told.
        step(half | absolute, 0, 0, 6),
        step(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0, 1, 0x1fff),
        give(0),
        header_length,
        step(byte | absolute, 0, 0, 9),
    ];
    v4.extend(block(u32::from(ICMP), icmp(indexed, 0, &[0, 3, 11, 12])));
    v4.extend(transport(indexed, 0));
    let mut v6 = vec![step(byte | absolute, 0, 0, 6)];
    v6.extend(block(u32::from(ICMPV6), icmp(absolute, 40, &[1, 3, 4, 129])));
    v6.extend(transport(absolute, 40));
    let protocol = step(half | absolute, 0, 0, (libc::SKF_AD_OFF + libc::SKF_AD_PROTOCOL) as u32);
    let mut out = vec![protocol];
    out.extend(block(u32::from(ETH_P_IP), v4));
    out.extend(block(u32::from(ETH_P_IPV6), v6));
    out.push(give(0));
    out
}

/// The headers of an IP packet.
struct Headers<'p> {
    proto: u8,
    src: Addr,
    dst: Addr,
    /// From the transport header on.
    rest: &'p [u8],
}

fn headers(packet: &[u8]) -> Option<Headers<'_>> {
    let bytes16 = |at: usize| packet.get(at..)?.first_chunk::<16>().map(|b| IpAddr::from(Ipv6Addr::from(*b)));
    let bytes4 = |at: usize| packet.get(at..)?.first_chunk::<4>().map(|b| IpAddr::from(Ipv4Addr::from(*b)));
    let (proto, src, dst, length) = match packet.first()? >> 4 {
        4 => (*packet.get(9)?, bytes4(12)?, bytes4(16)?, usize::from(packet[0] & 15) * 4),
        6 => (*packet.get(6)?, bytes16(8)?, bytes16(24)?, 40),
        _ => return None,
    };
    Some(Headers { proto, src: src.into(), dst: dst.into(), rest: packet.get(length..)? })
}

/// With the ports of TCP, UDP and SCTP, and the identifier of an echo.
fn ends(of: &Headers<'_>) -> Option<Ends> {
    let number = |at: usize| of.rest.get(at..)?.first_chunk::<2>().map(|b| u16::from_be_bytes(*b));
    let (sport, dport) = match (of.proto, of.rest.first()?) {
        (6 | 17 | 132, _) => (number(0)?, number(2)?),
        (ICMP, 0 | 8) | (ICMPV6, 128 | 129) => (number(4)?, number(4)?),
        _ => (0, 0),
    };
    Some(Ends { src: Endpoint { addr: of.src, port: sport }, dst: Endpoint { addr: of.dst, port: dport } })
}

/// Parses the packet, and of an ICMP error the packet that it quotes.
fn heard(netns: NetnsId, from: From, packet: &[u8]) -> Option<Heard> {
    if !matches!(from.protocol, ETH_P_IP | ETH_P_IPV6) {
        return None;
    }
    let own = headers(packet)?;
    let (ifindex, outgoing) = (from.ifindex, from.outgoing);
    let is_error = matches!((own.proto, own.rest.first()?), (ICMP, 3 | 11 | 12) | (ICMPV6, 1 | 3 | 4));
    if !is_error {
        return Some(Heard { netns, ifindex, outgoing, proto: own.proto, ends: ends(&own)?, error: None });
    }
    let error = HeardError { from: own.src, icmp_type: *own.rest.first()?, code: *own.rest.get(1)? };
    let quoted = headers(own.rest.get(8..)?)?;
    Some(Heard { netns, ifindex, outgoing, proto: quoted.proto, ends: ends(&quoted)?, error: Some(error) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn end(address: [u8; 4], port: u16) -> Endpoint {
        Endpoint { addr: Addr::v4(address), port }
    }

    fn request(flow: u32, ports: std::ops::Range<u16>) -> OpenRequest {
        let ends = ports.map(|port| Ends { src: end([10, 0, 0, 2], port), dst: end([192, 0, 2, 1], 69) });
        OpenRequest { flow, proto: 17, ends: ends.collect(), tunnels: Vec::new() }
    }

    /// From 192.0.2.1:7777 to 10.0.0.2:4000.
    fn datagram() -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 10, 0, 0, 2];
        packet.extend([0x1e, 0x61, 0x0f, 0xa0, 0, 12, 0, 0, 1, 2, 3, 4]);
        packet
    }

    fn from() -> From {
        From { ifindex: 3, outgoing: false, protocol: ETH_P_IP }
    }

    #[test]
    fn the_kernel_takes_the_longest_filter() {
        let requests: Vec<OpenRequest> =
            (0..8).map(|n| request(n, 4000 + n as u16 * 10..4010 + n as u16 * 10)).collect();
        let socket: OwnedFd = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into();
        packet_socket::set_filter(&socket, &filter(&requests)).unwrap();
    }

    #[test]
    fn a_datagram_and_an_error_that_quotes_it() {
        let ends = Ends { src: end([192, 0, 2, 1], 7777), dst: end([10, 0, 0, 2], 4000) };
        let known = heard(1, from(), &datagram()).unwrap();
        assert_eq!((known.ends, known.proto, known.error), (ends, 17, None));
        let mut error = vec![0x45, 0, 0, 60, 0, 0, 0, 0, 64, 1, 0, 0, 10, 0, 0, 2, 192, 0, 2, 1];
        error.extend([3, 3, 0, 0, 0, 0, 0, 0]);
        error.extend(datagram());
        let known = heard(1, from(), &error).unwrap();
        let expected = HeardError { from: Addr::v4([10, 0, 0, 2]), icmp_type: 3, code: 3 };
        assert_eq!((known.ends, known.proto, known.error), (ends, 17, Some(expected)));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = heard(1, from(), &bytes);
        }
    }
}
