// SPDX-License-Identifier: MIT OR Apache-2.0
//! What rules, and what they are made of, are called.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::rule::{Backend, Chain, IpRange, PortRange, Rule, Side, Table, TableFamily};
use crate::node::IpPrefix;

/// The name of a rule, or (number 0) of a chain's policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RuleRef {
    pub family: TableFamily,
    pub backend: Backend,
    pub table: String,
    pub chain: String,
    /// From 1; 0: the chain's policy.
    pub number: u32,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub handle: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub comment: Option<String>,
    /// The rule as its tool prints it; empty for a policy.
    pub text: String,
}

impl Table {
    pub fn rule_ref(&self, chain: &Chain, rule: &Rule) -> RuleRef {
        RuleRef {
            family: self.family,
            backend: self.backend,
            table: self.name.clone(),
            chain: chain.name.clone(),
            number: rule.number,
            handle: rule.handle,
            comment: rule.label().map(str::to_owned),
            text: rule.text.clone(),
        }
    }

    pub fn policy_ref(&self, chain: &Chain) -> RuleRef {
        RuleRef {
            family: self.family,
            backend: self.backend,
            table: self.name.clone(),
            chain: chain.name.clone(),
            number: 0,
            handle: None,
            comment: None,
            text: String::new(),
        }
    }
}

impl RuleRef {
    /// Table, chain, and number or handle.
    pub fn place(&self) -> String {
        let family = if self.backend == Backend::Nft { format!("{} ", self.family) } else { String::new() };
        let which = match (self.number, self.handle) {
            (0, _) => "policy".to_owned(),
            (_, Some(handle)) => format!("handle {handle}"),
            (number, None) => format!("rule {number}"),
        };
        format!("{family}{} {} {which}", self.table, self.chain)
    }
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place())?;
        match &self.comment {
            Some(comment) => write!(f, " \"{comment}\""),
            None => Ok(()),
        }
    }
}

impl fmt::Display for TableFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Inet => "inet",
            Self::Bridge => "bridge",
            Self::Netdev => "netdev",
        })
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "src",
            Self::Destination => "dst",
        })
    }
}

impl fmt::Display for IpRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.first == self.last, IpPrefix::spanning(self.first, self.last)) {
            (true, _) => self.first.fmt(f),
            (false, Some(prefix)) => prefix.fmt(f),
            (false, None) => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { self.first.fmt(f) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}
