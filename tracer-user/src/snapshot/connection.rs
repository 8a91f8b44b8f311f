// SPDX-License-Identifier: MIT OR Apache-2.0
//! Conntrack entries as the kernel keeps them, and which one a packet belongs to.

use std::fmt::{self, Write as _};
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::model::NetnsEvidence;

// enum ip_conntrack_status, include/uapi/linux/netfilter/nf_conntrack_common.h.
const SEEN_REPLY: u32 = 1 << 1;
const ASSURED: u32 = 1 << 2;
const SRC_NAT: u32 = 1 << 4;
const DST_NAT: u32 = 1 << 5;

/// `enum tcp_conntrack`, include/uapi/linux/netfilter/nf_conntrack_tcp.h.
const TCP_STATES: [&str; 10] = [
    "NONE",
    "SYN_SENT",
    "SYN_RECV",
    "ESTABLISHED",
    "FIN_WAIT",
    "CLOSE_WAIT",
    "LAST_ACK",
    "TIME_WAIT",
    "CLOSE",
    "SYN_SENT2",
];

/// Addresses, ports and protocol of one direction. ICMP: the identifier is in the source's port, 0 in the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ConnectionTuple {
    pub proto: u8,
    pub src: SocketAddr,
    pub dst: SocketAddr,
}

/// Which way a packet of a connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionDirection {
    Original,
    Reply,
}

/// An entry of conntrack's table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackedConnection {
    pub original: ConnectionTuple,
    /// What an answer has on the wire: `original` turned round, after translation.
    pub reply: ConnectionTuple,
    pub zone: u16,
    /// `IPS_*` bits.
    pub status: u32,
    pub mark: u32,
    /// Seconds until it is forgotten, when nothing comes.
    pub timeout_s: u32,
    /// `enum tcp_conntrack`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_state: Option<u8>,
}

impl ConnectionTuple {
    pub fn reversed(self) -> Self {
        Self { src: self.dst, dst: self.src, ..self }
    }

    fn without_icmp_type(self) -> Self {
        if !matches!(self.proto, 1 | 58) {
            return self;
        }
        let id = self.src.port().max(self.dst.port());
        Self { src: SocketAddr::new(self.src.ip(), id), dst: SocketAddr::new(self.dst.ip(), 0), ..self }
    }
}

impl TrackedConnection {
    pub fn seen_reply(&self) -> bool {
        self.status & SEEN_REPLY != 0
    }

    pub fn is_assured(&self) -> bool {
        self.status & ASSURED != 0
    }

    pub fn translates_source(&self) -> bool {
        self.status & SRC_NAT != 0
    }

    pub fn translates_destination(&self) -> bool {
        self.status & DST_NAT != 0
    }

    pub fn has_address(&self, address: IpAddr) -> bool {
        [self.original.src, self.original.dst, self.reply.src, self.reply.dst]
            .iter()
            .any(|end| end.ip() == address)
    }

    /// The command that removes this entry and no other one of the namespace.
    pub fn delete_command(&self) -> String {
        let ConnectionTuple { proto, src, dst } = self.original;
        let mut out = "conntrack -D".to_owned();
        if src.is_ipv6() {
            out.push_str(" -f ipv6");
        }
        let name = match proto {
            1 => "icmp".to_owned(),
            6 => "tcp".to_owned(),
            17 => "udp".to_owned(),
            58 => "icmpv6".to_owned(),
            132 => "sctp".to_owned(),
            other => other.to_string(),
        };
        // Writing to a String cannot fail.
        let _ = write!(out, " -p {name} -s {} -d {}", src.ip(), dst.ip());
        if matches!(proto, 6 | 17 | 132) {
            let _ = write!(out, " --sport {} --dport {}", src.port(), dst.port());
        }
        if self.zone != 0 {
            let _ = write!(out, " -w {}", self.zone);
        }
        out
    }
}

impl fmt::Display for TrackedConnection {
    /// `10.0.0.1:4000 → 10.96.0.7:53, answered from 10.0.0.9:53: ASSURED, 118 s left`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = |end: SocketAddr, f: &mut fmt::Formatter<'_>| match end.port() {
            0 => write!(f, "{}", end.ip()),
            _ => write!(f, "{end}"),
        };
        end(self.original.src, f)?;
        f.write_str(" → ")?;
        end(self.original.dst, f)?;
        if self.translates_source() || self.translates_destination() {
            f.write_str(", answers: ")?;
            end(self.reply.src, f)?;
            f.write_str(" → ")?;
            end(self.reply.dst, f)?;
        }
        f.write_str(": ")?;
        if let Some(state) = self.tcp_state.and_then(|state| TCP_STATES.get(usize::from(state))) {
            write!(f, "{state}, ")?;
        }
        f.write_str(match (self.seen_reply(), self.is_assured()) {
            (false, _) => "unreplied",
            (true, false) => "replied",
            (true, true) => "assured",
        })?;
        if self.zone != 0 {
            write!(f, ", zone {}", self.zone)?;
        }
        if self.mark != 0 {
            write!(f, ", mark {:#x}", self.mark)?;
        }
        write!(f, ", {} s left", self.timeout_s)
    }
}

impl NetnsEvidence {
    /// The entry that a packet with this tuple belongs to, and which way it goes. `zone`: conntrack's, 0 by default.
    pub fn connection_of(
        &self,
        tuple: ConnectionTuple,
        zone: u16,
    ) -> Option<(&TrackedConnection, ConnectionDirection)> {
        let tuple = tuple.without_icmp_type();
        self.connections.iter().filter(|entry| entry.zone == zone).find_map(|entry| {
            let direction = if entry.original.without_icmp_type() == tuple {
                ConnectionDirection::Original
            } else if entry.reply.without_icmp_type() == tuple {
                ConnectionDirection::Reply
            } else {
                return None;
            };
            Some((entry, direction))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(proto: u8, src: &str, dst: &str) -> ConnectionTuple {
        ConnectionTuple { proto, src: src.parse().unwrap(), dst: dst.parse().unwrap() }
    }

    #[test]
    fn an_entry_is_found_by_both_of_its_tuples() {
        let entry = TrackedConnection {
            original: tuple(17, "10.0.0.1:4000", "10.96.0.7:53"),
            reply: tuple(17, "10.0.0.9:5353", "10.0.0.1:4000"),
            zone: 0,
            status: SEEN_REPLY | DST_NAT,
            mark: 0,
            timeout_s: 18,
            tcp_state: None,
        };
        let node = NetnsEvidence { connections: vec![entry.clone()], ..NetnsEvidence::default() };
        let way = |tuple, zone| node.connection_of(tuple, zone).map(|(_, way)| way);
        assert_eq!(way(entry.original, 0), Some(ConnectionDirection::Original));
        assert_eq!(way(entry.reply, 0), Some(ConnectionDirection::Reply));
        assert_eq!((way(entry.original, 3), way(entry.original.reversed(), 0)), (None, None));
        assert_eq!(
            entry.delete_command(),
            "conntrack -D -p udp -s 10.0.0.1 -d 10.96.0.7 --sport 4000 --dport 53"
        );
        assert_eq!(
            entry.to_string(),
            "10.0.0.1:4000 → 10.96.0.7:53, answers: 10.0.0.9:5353 → 10.0.0.1:4000: replied, 18 s left"
        );
    }
}
