// SPDX-License-Identifier: MIT OR Apache-2.0
//! Routing policy rules.

use std::fmt::Write as _;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::node::IpPrefix;
use crate::node::netlink::{attributes, ip, ne32, text};

// include/uapi/linux/fib_rules.h
const FRA_DST: u16 = 1;
const FRA_SRC: u16 = 2;
const FRA_IIFNAME: u16 = 3;
const FRA_GOTO: u16 = 4;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_FLOW: u16 = 11;
const FRA_TUN_ID: u16 = 12;
const FRA_SUPPRESS_IFGROUP: u16 = 13;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_OIFNAME: u16 = 17;
const FRA_PAD: u16 = 18;
const FRA_L3MDEV: u16 = 19;
const FRA_UID_RANGE: u16 = 20;
const FRA_PROTOCOL: u16 = 21;
const FRA_IP_PROTO: u16 = 22;
const FRA_SPORT_RANGE: u16 = 23;
const FRA_DPORT_RANGE: u16 = 24;
const FRA_DSCP: u16 = 25;
const FRA_FLOWLABEL: u16 = 26;
const FRA_FLOWLABEL_MASK: u16 = 27;
const FRA_SPORT_MASK: u16 = 28;
const FRA_DPORT_MASK: u16 = 29;
const FRA_DSCP_MASK: u16 = 30;
const FIB_RULE_INVERT: u32 = 2;
/// IPv6: a packet without a source is looked up with the one that it would get.
const FIB_RULE_FIND_SADDR: u32 = 0x1_0000;
const DSCP_BITS: u8 = 0x3f;

/// Ports that a rule asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    pub first: u16,
    pub last: u16,
    /// Compared under this mask, when it is set: then `first` and `last` are the same.
    #[serde(default)]
    pub mask: u16,
}

impl Ports {
    pub fn contain(&self, port: u16) -> bool {
        match self.mask {
            0 => (self.first..=self.last).contains(&port),
            mask => (port ^ self.first) & mask == 0,
        }
    }
}

/// A rule as RTM_NEWRULE describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    pub ipv6: bool,
    pub priority: u32,
    /// FR_ACT_* (1: look up `table`; 6 blackhole, 7 unreachable, 8 prohibit).
    pub action: u8,
    pub table: u32,
    pub source: Option<IpPrefix>,
    pub destination: Option<IpPrefix>,
    pub mark: u32,
    /// Of the mark; 0 when the rule does not look at it.
    pub mask: u32,
    /// Input and output device, by name.
    pub input: Option<String>,
    pub output: Option<String>,
    /// "not": the rule applies to everything but this.
    pub inverted: bool,
    /// suppress_prefixlength; `None`: not set.
    pub suppress_prefix_len: Option<u32>,
    /// What else it asks for, as `ip rule` words it: `uidrange 0-0 ipproto 6 dport 80-80`; mostly nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub more: String,
    /// The conditions of `more`, one by one. A recording may have `more` only.
    #[serde(flatten)]
    pub conditions: Conditions,
    /// suppress_ifgroup: a route by a device of this group is passed over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suppress_ifgroup: Option<u32>,
    /// "goto": the priority of the rule that is next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goto: Option<u32>,
    /// RTPROT_*: who put it there.
    #[serde(default)]
    pub protocol: u8,
}

/// What few rules ask for. `None`, 0 and false: does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Conditions {
    /// The packet comes in or goes out by a device of a VRF, whose table is looked up.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub l3mdev: bool,
    /// First and last user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub users: Option<(u32, u32)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_proto: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_ports: Option<Ports>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_ports: Option<Ports>,
    /// "tos": compared with the low three bits of the DSCP only (IPv4), as ever.
    #[serde(skip_serializing_if = "is_zero")]
    pub tos: u8,
    /// "dscp", and the bits of it that matter. Not shifted: 0 to 63.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dscp: Option<(u8, u8)>,
    /// IPv6 flow label and mask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flow_label: Option<(u32, u32)>,
    /// Key of the tunnel that it came by; 0 any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<u64>,
    /// A packet of ours without a source is looked up with the one that it would get.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub find_source: bool,
    /// Attributes of a kernel that is newer than this program: what they ask for is not known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<u16>,
}

impl Conditions {
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// As `ip rule` words them: `uidrange 0-0 ipproto 6 dport 80-80`.
    fn words(&self) -> String {
        let mut words = Vec::new();
        if self.l3mdev {
            words.push("l3mdev".to_owned());
        }
        if let Some((first, last)) = self.users {
            words.push(format!("uidrange {first}-{last}"));
        }
        if let Some(protocol) = self.ip_proto {
            words.push(format!("ipproto {protocol}"));
        }
        for (word, ports) in [("sport", self.source_ports), ("dport", self.destination_ports)] {
            words.extend(ports.map(|ports| match ports.mask {
                0 | u16::MAX => format!("{word} {}-{}", ports.first, ports.last),
                mask => format!("{word} {:#x}/{mask:#x}", ports.first),
            }));
        }
        if self.tos != 0 {
            words.push(format!("tos {:#x}", self.tos));
        }
        words.extend(self.dscp.map(|(value, mask)| match mask {
            DSCP_BITS => format!("dscp {value}"),
            mask => format!("dscp {value:#x}/{mask:#x}"),
        }));
        words.extend(self.flow_label.map(|(value, mask)| format!("flowlabel {value:#x}/{mask:#x}")));
        words.extend(self.tunnel.map(|key| format!("tun_id {key}")));
        words.extend(self.unknown.iter().map(|kind| format!("attribute-{kind}")));
        words.join(" ")
    }

    fn read(&mut self, kind: u16, value: &[u8]) {
        let first = value.first().copied().unwrap_or_default();
        let two = |at: usize| value.get(at..at + 2).map_or(0, |b| u16::from_ne_bytes([b[0], b[1]]));
        let be32 = || crate::node::netlink::be32(value).unwrap_or_default();
        let ports = || Some(Ports { first: two(0), last: two(2), mask: 0 });
        match kind {
            FRA_L3MDEV => self.l3mdev = first != 0,
            FRA_UID_RANGE => {
                let users = ne32(value).zip(value.get(4..).and_then(ne32));
                // Any user: set for every rule by some.
                self.users = users.filter(|users| *users != (0, u32::MAX));
            }
            FRA_IP_PROTO => self.ip_proto = Some(first).filter(|p| *p != 0),
            FRA_SPORT_RANGE => self.source_ports = ports(),
            FRA_DPORT_RANGE => self.destination_ports = ports(),
            FRA_SPORT_MASK => self.source_ports.iter_mut().for_each(|p| p.mask = two(0)),
            FRA_DPORT_MASK => self.destination_ports.iter_mut().for_each(|p| p.mask = two(0)),
            FRA_DSCP => self.dscp = Some((first, self.dscp.map_or(DSCP_BITS, |(_, mask)| mask))),
            FRA_DSCP_MASK => self.dscp = Some((self.dscp.map_or(0, |(value, _)| value), first)),
            FRA_FLOWLABEL => self.flow_label = Some((be32(), self.flow_label.map_or(0xf_ffff, |(_, m)| m))),
            FRA_FLOWLABEL_MASK => self.flow_label = Some((self.flow_label.map_or(0, |(v, _)| v), be32())),
            FRA_TUN_ID => {
                self.tunnel = value.first_chunk().map(|b| u64::from_be_bytes(*b)).filter(|k| *k != 0);
            }
            // The realm of what is found, and padding.
            FRA_FLOW | FRA_PAD => {}
            _ => self.unknown.push(kind),
        }
    }
}

fn is_zero(value: &u8) -> bool {
    *value == 0
}

impl Rule {
    /// Whether it applies to a packet that is looked up with these, as far as addresses and the mark say.
    pub fn matches(&self, source: IpAddr, destination: IpAddr, mark: u32) -> bool {
        let within = |prefix: &Option<IpPrefix>, address| prefix.as_ref().is_none_or(|p| p.contains(address));
        let all = within(&self.source, source)
            && within(&self.destination, destination)
            && mark & self.mask == self.mark;
        self.ipv6 == source.is_ipv6() && all != self.inverted
    }

    /// What it asks for, as `ip rule` words it: `from 10.0.0.0/8 fwmark 0x1/0xff iif cni0`. Safe to print.
    pub fn selector(&self) -> String {
        let mut words = String::new();
        if self.inverted {
            words.push_str("not ");
        }
        match &self.source {
            Some(source) => {
                let _ = write!(words, "from {source}");
            }
            None => words.push_str("from all"),
        }
        if let Some(destination) = &self.destination {
            let _ = write!(words, " to {destination}");
        }
        match self.mask {
            0 => {}
            u32::MAX => {
                let _ = write!(words, " fwmark {:#x}", self.mark);
            }
            mask => {
                let _ = write!(words, " fwmark {:#x}/{mask:#x}", self.mark);
            }
        }
        for (word, device) in [("iif", &self.input), ("oif", &self.output)] {
            if let Some(device) = device {
                let _ = write!(words, " {word} {}", device.escape_debug());
            }
        }
        if !self.more.is_empty() {
            let _ = write!(words, " {}", self.more.escape_debug());
        }
        words
    }

    /// What it does with a packet that it fits, as `ip rule` words it.
    pub fn does(&self) -> &'static str {
        match self.action {
            2 => "goto",
            3 => "nop",
            6 => "blackhole",
            7 => "unreachable",
            8 => "prohibit",
            _ => "lookup",
        }
    }

    /// The payload of an RTM_NEWRULE message (`struct fib_rule_hdr`, attributes).
    pub fn parse(kind: u16, payload: &[u8]) -> Option<Self> {
        let (fixed, rest) = payload.split_at_checked(12)?;
        let ipv6 = match i32::from(fixed[0]) {
            libc::AF_INET => false,
            libc::AF_INET6 => true,
            _ => return None,
        };
        if kind != libc::RTM_NEWRULE {
            return None;
        }
        let flags = ne32(&fixed[8..])?;
        let mut rule = Self {
            ipv6,
            table: fixed[4].into(),
            action: fixed[7],
            inverted: flags & FIB_RULE_INVERT != 0,
            ..Self::default()
        };
        rule.conditions.find_source = flags & FIB_RULE_FIND_SADDR != 0;
        for (kind, value) in attributes(rest) {
            match kind {
                FRA_DST => rule.destination = IpPrefix::new(ip(value)?, fixed[1]),
                FRA_SRC => rule.source = IpPrefix::new(ip(value)?, fixed[2]),
                FRA_IIFNAME => rule.input = Some(text(value)),
                FRA_OIFNAME => rule.output = Some(text(value)),
                FRA_PRIORITY => rule.priority = ne32(value)?,
                FRA_FWMARK => rule.mark = ne32(value)?,
                FRA_FWMASK => rule.mask = ne32(value)?,
                FRA_TABLE => rule.table = ne32(value)?,
                FRA_SUPPRESS_PREFIXLEN => {
                    rule.suppress_prefix_len = ne32(value).filter(|n| *n != u32::MAX);
                }
                FRA_SUPPRESS_IFGROUP => rule.suppress_ifgroup = ne32(value).filter(|n| *n != u32::MAX),
                FRA_GOTO => rule.goto = ne32(value),
                FRA_PROTOCOL => rule.protocol = value.first().copied().unwrap_or_default(),
                kind => rule.conditions.read(kind, value),
            }
        }
        // With a DSCP of its own the field of the header is not set.
        rule.conditions.tos = if rule.conditions.dscp.is_some() { 0 } else { fixed[3] };
        rule.more = rule.conditions.words();
        Some(rule)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::node::netlink::Request;

    #[test]
    fn a_mark_rule() {
        let fixed = [libc::AF_INET as u8, 0, 0, 0, 252, 0, 0, 1, 0, 0, 0, 0];
        let payload = Request::one("", 0, &fixed)
            .attribute(FRA_PRIORITY, &99u32.to_ne_bytes())
            .attribute(FRA_FWMARK, &0x26b7_b4e4u32.to_ne_bytes())
            .attribute(FRA_FWMASK, &u32::MAX.to_ne_bytes())
            .attribute(FRA_TABLE, &649_573_604u32.to_ne_bytes())
            .payload;
        let rule = Rule::parse(libc::RTM_NEWRULE, &payload).unwrap();
        assert_eq!(
            (rule.priority, rule.mark, rule.mask, rule.table),
            (99, 0x26b7_b4e4, u32::MAX, 649_573_604)
        );
    }

    #[test]
    fn a_rule_of_one_user_and_port() {
        let fixed = [libc::AF_INET as u8, 0, 0, 0, 77, 0, 0, 1, 0, 0, 0, 0];
        let users = [0u32.to_ne_bytes(), 0u32.to_ne_bytes()].concat();
        let ports = [80u16.to_ne_bytes(), 90u16.to_ne_bytes()].concat();
        let payload = Request::one("", 0, &fixed)
            .attribute(FRA_UID_RANGE, &users)
            .attribute(FRA_IP_PROTO, &[6])
            .attribute(FRA_DPORT_RANGE, &ports)
            .payload;
        let rule = Rule::parse(libc::RTM_NEWRULE, &payload).unwrap();
        assert_eq!(rule.selector(), "from all uidrange 0-0 ipproto 6 dport 80-90");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Rule::parse(libc::RTM_NEWRULE, &bytes);
        }
    }
}
