// SPDX-License-Identifier: MIT OR Apache-2.0
//! One packet as rules see it.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::node::Family;

/// A packet at a hook. `None` everywhere: not known, so matches on it are neither true nor false.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketView {
    pub src: IpAddr,
    pub dst: IpAddr,
    /// IP protocol.
    pub proto: u8,
    /// Host order.
    pub src_port: Option<u16>,
    pub dst_port: Option<u16>,
    /// Type and code of an ICMP or ICMPv6 packet.
    pub icmp: Option<(u8, u8)>,
    pub tcp_flags: Option<u8>,
    /// Not the first part of a fragmented packet: it has no ports.
    pub later_fragment: bool,
    /// Device names as the hook has them; empty: the hook has none there.
    pub input: Option<String>,
    pub output: Option<String>,
    /// Bridge ports, when br_netfilter calls; empty: none.
    pub phys_in: Option<String>,
    pub phys_out: Option<String>,
    /// `skb->mark` before the hook.
    pub mark: Option<u32>,
    pub ct_state: Option<CtState>,
    pub ct_direction: Option<CtDirection>,
    pub ct_mark: Option<u32>,
    /// The connection is translated: source, destination.
    pub ct_snat: Option<bool>,
    pub ct_dnat: Option<bool>,
    /// Link-layer source address.
    pub mac: Option<[u8; 6]>,
    /// Owner of the sending socket; only in OUTPUT and POSTROUTING.
    pub uid: Option<u32>,
    /// Bytes of the IP packet, header and all.
    #[serde(default)]
    pub length: Option<u32>,
    #[serde(default)]
    pub ttl: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum CtState {
    New,
    Established,
    Related,
    Invalid,
    Untracked,
    /// Virtual states: the connection is translated.
    Snat,
    Dnat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum CtDirection {
    Original,
    Reply,
}

impl PacketView {
    /// Only what every packet has; the rest is not known.
    pub fn new(proto: u8, src: IpAddr, dst: IpAddr) -> Self {
        Self {
            src,
            dst,
            proto,
            src_port: None,
            dst_port: None,
            icmp: None,
            tcp_flags: None,
            later_fragment: false,
            input: None,
            output: None,
            phys_in: None,
            phys_out: None,
            mark: None,
            ct_state: None,
            ct_direction: None,
            ct_mark: None,
            ct_snat: None,
            ct_dnat: None,
            mac: None,
            uid: None,
            length: None,
            ttl: None,
        }
    }

    #[must_use]
    pub fn ports(mut self, src: u16, dst: u16) -> Self {
        (self.src_port, self.dst_port) = (Some(src), Some(dst));
        self
    }

    /// Device names at the hook; empty for none.
    #[must_use]
    pub fn devices(mut self, input: &str, output: &str) -> Self {
        (self.input, self.output) = (Some(input.to_owned()), Some(output.to_owned()));
        self
    }

    #[must_use]
    pub fn mark(mut self, mark: u32) -> Self {
        self.mark = Some(mark);
        self
    }

    #[must_use]
    pub fn conntrack(mut self, state: CtState, direction: CtDirection) -> Self {
        (self.ct_state, self.ct_direction) = (Some(state), Some(direction));
        self
    }

    #[must_use]
    pub fn mac(mut self, mac: [u8; 6]) -> Self {
        self.mac = Some(mac);
        self
    }

    pub fn family(&self) -> Family {
        if self.src.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 }
    }
}

impl CtState {
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text.to_ascii_uppercase().as_str() {
            "NEW" => Self::New,
            "ESTABLISHED" => Self::Established,
            "RELATED" => Self::Related,
            "INVALID" => Self::Invalid,
            "UNTRACKED" => Self::Untracked,
            "SNAT" => Self::Snat,
            "DNAT" => Self::Dnat,
            _ => return None,
        })
    }
}

impl fmt::Display for CtState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::New => "NEW",
            Self::Established => "ESTABLISHED",
            Self::Related => "RELATED",
            Self::Invalid => "INVALID",
            Self::Untracked => "UNTRACKED",
            Self::Snat => "SNAT",
            Self::Dnat => "DNAT",
        })
    }
}

impl fmt::Display for CtDirection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Original => "ORIGINAL",
            Self::Reply => "REPLY",
        })
    }
}
