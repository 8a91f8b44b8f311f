// SPDX-License-Identifier: MIT OR Apache-2.0
//! IPsec policies and states, without keys, and which policy a packet meets.

use std::fmt::{self, Write as _};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::firewall::PacketView;
use crate::node::IpPrefix;
use crate::text::protocol_name;

/// `XFRM_POLICY_IN`, `_OUT`, `_FWD` (include/uapi/linux/xfrm.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XfrmDirection {
    In,
    Out,
    Fwd,
}

/// What a policy asks of a packet: to be, or to have been, in such an outer packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct XfrmTemplate {
    pub src: IpAddr,
    pub dst: IpAddr,
    /// IP protocol: 50 ESP, 51 AH, 108 IPcomp.
    pub proto: u8,
    /// 0: any.
    pub reqid: u32,
    pub optional: bool,
}

/// A policy (`ip xfrm policy`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct XfrmPolicy {
    pub direction: XfrmDirection,
    /// The lowest number comes first.
    pub priority: u32,
    pub blocks: bool,
    pub src: IpPrefix,
    pub dst: IpPrefix,
    /// 0: any.
    pub proto: u8,
    /// Port and mask.
    pub src_port: (u16, u16),
    pub dst_port: (u16, u16),
    /// 0: any.
    pub ifindex: u32,
    /// Value and mask.
    pub mark: (u32, u32),
    pub templates: Vec<XfrmTemplate>,
}

/// A state, or security association (`ip xfrm state`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct XfrmState {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub proto: u8,
    pub reqid: u32,
}

impl XfrmPolicy {
    /// `None`: it depends on what is not known of the packet.
    pub(super) fn selects(&self, packet: &PacketView, ifindex: Option<u32>) -> Option<bool> {
        let port = |(wanted, mask): (u16, u16), has: Option<u16>| match has {
            _ if mask == 0 => Some(true),
            Some(port) => Some(port & mask == wanted & mask),
            None => None,
        };
        let mark = match packet.mark {
            _ if self.mark.1 == 0 => Some(true),
            Some(mark) => Some(mark & self.mark.1 == self.mark.0),
            None => None,
        };
        let all = [
            Some(self.src.contains(packet.src) && self.dst.contains(packet.dst)),
            Some(self.proto == 0 || self.proto == packet.proto),
            if self.ifindex == 0 { Some(true) } else { ifindex.map(|ifindex| ifindex == self.ifindex) },
            port(self.src_port, packet.src_port),
            port(self.dst_port, packet.dst_port),
            mark,
        ];
        if all.contains(&Some(false)) {
            return Some(false);
        }
        (!all.contains(&None)).then_some(true)
    }

    /// What must be so: optional templates are not.
    pub fn required(&self) -> impl Iterator<Item = &XfrmTemplate> {
        self.templates.iter().filter(|template| !template.optional)
    }

    /// The command that removes this policy and no other one.
    pub fn delete_command(&self) -> String {
        let mut out = format!("ip xfrm policy delete src {} dst {}", self.src, self.dst);
        // Writing to a String cannot fail.
        if self.proto != 0 {
            let _ = write!(out, " proto {}", self.proto);
        }
        for (name, (port, mask)) in [("sport", self.src_port), ("dport", self.dst_port)] {
            if mask != 0 {
                let _ = write!(out, " {name} {port}");
            }
        }
        let _ = write!(out, " dir {}", self.direction);
        if self.mark.1 != 0 {
            let _ = write!(out, " mark {:#x} mask {:#x}", self.mark.0, self.mark.1);
        }
        out
    }
}

impl fmt::Display for XfrmDirection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::In => "in",
            Self::Out => "out",
            Self::Fwd => "fwd",
        })
    }
}

impl fmt::Display for XfrmPolicy {
    /// `src 10.0.0.0/24 dst 10.0.1.0/24 dir fwd priority 100`, as `ip xfrm policy` has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "src {} dst {} dir {} priority {}", self.src, self.dst, self.direction, self.priority)
    }
}

impl fmt::Display for XfrmTemplate {
    /// `ESP 172.16.0.1 → 172.16.0.2`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = protocol_name(self.proto);
        if self.src.is_unspecified() && self.dst.is_unspecified() {
            return f.write_str(&what);
        }
        write!(f, "{what} {} → {}", self.src, self.dst)
    }
}
