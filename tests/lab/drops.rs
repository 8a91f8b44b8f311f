// SPDX-License-Identifier: MIT OR Apache-2.0
//! Drops at any of the five hooks, by rule or by policy, in any table: what a tracer must be able
//! to tell apart.

use std::{fmt, net::IpAddr};

use anyhow::{Result, bail};

use crate::{Lab, topology::Family};

/// A netfilter hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hook {
    /// Before routing.
    Prerouting,
    /// To a local process.
    Input,
    /// Through.
    Forward,
    /// From a local process.
    Output,
    /// After routing.
    Postrouting,
}

impl Hook {
    /// All five.
    pub const ALL: [Self; 5] =
        [Self::Prerouting, Self::Input, Self::Forward, Self::Output, Self::Postrouting];

    /// As nftables names it; in capitals, as iptables does.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        }
    }

    /// Whether this iptables table has a chain there.
    pub fn has_table(self, table: &str) -> bool {
        match table {
            "raw" => matches!(self, Self::Prerouting | Self::Output),
            "mangle" => true,
            "filter" | "security" => matches!(self, Self::Input | Self::Forward | Self::Output),
            _ => false,
        }
    }
}

/// What drops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// A rule on top of the chain of this iptables table, of the lab's back end.
    Rule {
        /// `raw`, `mangle`, `filter` or `security`.
        table: &'static str,
    },
    /// The policy of the chain of this iptables table: everything that gets to its end.
    Policy {
        /// As above.
        table: &'static str,
    },
    /// A rule in an nftables table of its own, `egwt_drop`.
    NftRule {
        /// Priority of its chain; any.
        priority: i32,
    },
    /// The policy of a chain without rules in a table of its own: everything.
    NftPolicy {
        /// Priority of its chain; any.
        priority: i32,
    },
}

/// Which packets a rule drops. What is `None` matches all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// `tcp`, `udp`, `icmp` or `ipv6-icmp`.
    pub protocol: Option<&'static str>,
    /// Source address.
    pub from: Option<IpAddr>,
    /// Destination address.
    pub to: Option<IpAddr>,
    /// Source port; needs a protocol.
    pub sport: Option<u16>,
    /// Destination port; needs a protocol.
    pub dport: Option<u16>,
}

impl Traffic {
    /// TCP to this port.
    pub fn tcp_to_port(port: u16) -> Self {
        Self { protocol: Some("tcp"), dport: Some(port), ..Self::default() }
    }

    /// UDP to this port.
    pub fn udp_to_port(port: u16) -> Self {
        Self { protocol: Some("udp"), dport: Some(port), ..Self::default() }
    }

    /// The same, narrowed to a destination.
    #[must_use]
    pub fn to(mut self, to: IpAddr) -> Self {
        self.to = Some(to);
        self
    }

    /// The same, narrowed to a source.
    #[must_use]
    pub fn from(mut self, from: IpAddr) -> Self {
        self.from = Some(from);
        self
    }

    fn iptables(&self) -> String {
        let mut words = Vec::new();
        words.extend(self.protocol.map(|protocol| format!("-p {protocol}")));
        words.extend(self.from.map(|from| format!("-s {from}")));
        words.extend(self.to.map(|to| format!("-d {to}")));
        words.extend(self.sport.map(|port| format!("--sport {port}")));
        words.extend(self.dport.map(|port| format!("--dport {port}")));
        words.join(" ")
    }

    fn nft(&self, family: Family) -> String {
        let ip = family.pick("ip", "ip6");
        let mut words = Vec::new();
        words.extend(self.from.map(|from| format!("{ip} saddr {from}")));
        words.extend(self.to.map(|to| format!("{ip} daddr {to}")));
        words.extend(self.protocol.map(|protocol| format!("meta l4proto {protocol}")));
        words.extend(self.sport.map(|port| format!("th sport {port}")));
        words.extend(self.dport.map(|port| format!("th dport {port}")));
        words.join(" ")
    }
}

/// A drop to be put into a lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DropAt {
    /// The place: `node1`, `visitor` …
    pub place: &'static str,
    /// Where.
    pub hook: Hook,
    /// By what.
    pub by: By,
    /// Of what, for rules; a policy drops everything.
    pub traffic: Traffic,
    /// Of which family.
    pub family: Family,
}

/// The comment of every rule made here, by which it can be found again.
pub const COMMENT: &str = "egwt-drop";

impl DropAt {
    /// Puts it in.
    ///
    /// # Errors
    /// When the table has no chain at this hook, or the tool refuses.
    pub fn apply(&self, lab: &Lab) -> Result<()> {
        let hook = self.hook.name();
        let chain = hook.to_uppercase();
        let nft = |policy: &str, priority: i32, rule: &str| {
            let family = self.family.pick("ip", "ip6");
            let text = format!(
                "table {family} egwt_drop {{\n chain {hook} {{\n  type filter hook {hook} priority {priority}; \
                 policy {policy};\n  {rule}\n }}\n}}\n"
            );
            lab.ns(self.place).exec(&["nft", "-f", "-"], Some(&text)).map(drop)
        };
        match self.by {
            By::Rule { table } => {
                self.check_table(table)?;
                let text = format!(
                    "*{table}\n-I {chain} 1 {} -m comment --comment {COMMENT} -j DROP\nCOMMIT\n",
                    self.traffic.iptables()
                );
                lab.iptables_restore(self.place, self.family, &text)
            }
            By::Policy { table } => {
                self.check_table(table)?;
                lab.iptables(self.place, self.family, &format!("-t {table} -P {chain} DROP")).map(drop)
            }
            By::NftRule { priority } => {
                let rule = format!("{} counter drop comment \"{COMMENT}\"", self.traffic.nft(self.family));
                nft("accept", priority, &rule)
            }
            By::NftPolicy { priority } => nft("drop", priority, ""),
        }
    }

    /// Takes it out again.
    ///
    /// # Errors
    /// When it is not in.
    pub fn remove(&self, lab: &Lab) -> Result<()> {
        let chain = self.hook.name().to_uppercase();
        match self.by {
            By::Rule { table } => {
                lab.iptables(self.place, self.family, &format!("-t {table} -D {chain} 1")).map(drop)
            }
            By::Policy { table } => {
                lab.iptables(self.place, self.family, &format!("-t {table} -P {chain} ACCEPT")).map(drop)
            }
            By::NftRule { .. } | By::NftPolicy { .. } => {
                let family = self.family.pick("ip", "ip6");
                lab.sh(self.place, &format!("nft delete table {family} egwt_drop")).map(drop)
            }
        }
    }

    fn check_table(&self, table: &str) -> Result<()> {
        if self.hook.has_table(table) {
            Ok(())
        } else {
            bail!("iptables' table {table} has no chain {}", self.hook.name().to_uppercase())
        }
    }
}

impl fmt::Display for DropAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = match self.by {
            By::Rule { table } => format!("a rule in {table}"),
            By::Policy { table } => format!("the policy of {table}"),
            By::NftRule { priority } => format!("an nftables rule at {priority}"),
            By::NftPolicy { priority } => format!("an nftables policy at {priority}"),
        };
        write!(f, "{} {} by {by} (IPv{})", self.place, self.hook.name().to_uppercase(), self.family.digit())
    }
}
