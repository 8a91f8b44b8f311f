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
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_OIFNAME: u16 = 17;
const FRA_L3MDEV: u16 = 19;
const FRA_UID_RANGE: u16 = 20;
const FRA_IP_PROTO: u16 = 22;
const FRA_SPORT_RANGE: u16 = 23;
const FRA_DPORT_RANGE: u16 = 24;
const FIB_RULE_INVERT: u32 = 2;

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

    fn asks_for(&mut self, kind: u16, value: &[u8]) {
        let two = |at: usize| value.get(at..at + 2).map_or(0, |b| u16::from_ne_bytes([b[0], b[1]]));
        let four = |at: usize| value.get(at..).and_then(ne32).unwrap_or_default();
        let words = match kind {
            FRA_L3MDEV => "l3mdev".to_owned(),
            // Any user: set for every rule by some.
            FRA_UID_RANGE if (four(0), four(4)) == (0, u32::MAX) => return,
            FRA_UID_RANGE => format!("uidrange {}-{}", four(0), four(4)),
            FRA_IP_PROTO => format!("ipproto {}", value.first().copied().unwrap_or_default()),
            FRA_SPORT_RANGE => format!("sport {}-{}", two(0), two(2)),
            _ => format!("dport {}-{}", two(0), two(2)),
        };
        if !self.more.is_empty() {
            self.more.push(' ');
        }
        self.more.push_str(&words);
    }

    /// What it does with a packet that it fits, as `ip rule` words it.
    pub fn does(&self) -> &'static str {
        match self.action {
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
        let mut rule = Self {
            ipv6,
            table: fixed[4].into(),
            action: fixed[7],
            inverted: ne32(&fixed[8..])? & FIB_RULE_INVERT != 0,
            ..Self::default()
        };
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
                FRA_L3MDEV | FRA_UID_RANGE | FRA_IP_PROTO | FRA_SPORT_RANGE | FRA_DPORT_RANGE => {
                    rule.asks_for(kind, value);
                }
                _ => {}
            }
        }
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

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Rule::parse(libc::RTM_NEWRULE, &bytes);
        }
    }
}
