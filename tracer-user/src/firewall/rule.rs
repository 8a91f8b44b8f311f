// SPDX-License-Identifier: MIT OR Apache-2.0
//! The firewall as data: tables, chains, rules, what they match and what they do. One model for iptables
//! (both back ends) and nftables.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::packet::{CtDirection, CtState};
use crate::node::{Family, Hook, IpPrefix};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    pub family: TableFamily,
    pub backend: Backend,
    pub name: String,
    pub chains: Vec<Chain>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableFamily {
    Ip,
    Ip6,
    Inet,
    Bridge,
    /// At devices.
    Netdev,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// iptables over nf_tables.
    IptablesNft,
    /// ip_tables.
    IptablesLegacy,
    /// nftables' own.
    Nft,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    pub name: String,
    /// What the kernel calls the chain at; `None`: only other chains do.
    pub base: Option<Base>,
    pub rules: Arc<Vec<Rule>>,
}

/// Where a chain is registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    pub hook: Hook,
    pub priority: i32,
    /// nft's chain type: filter, nat, route.
    pub kind: String,
    pub policy: Policy,
    /// Of chains at devices (netdev, ingress of inet): which. Their hook is PREROUTING for ingress, POSTROUTING for egress.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    Accept,
    Drop,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// From 1 within its chain, as `iptables -L --line-numbers` counts.
    pub number: u32,
    /// nftables only.
    pub handle: Option<u64>,
    /// As the tool prints it, safe to print.
    pub text: String,
    pub comments: Vec<String>,
    /// All must hold.
    pub matches: Vec<Match>,
    /// In order; iptables has at most one, none when the rule only counts.
    pub actions: Vec<Target>,
    pub counters: Option<Counters>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    pub packets: u64,
    pub bytes: u64,
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Match {
    pub negated: bool,
    pub what: Criterion,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Criterion {
    /// Any of the ranges.
    Source(Vec<IpRange>),
    Destination(Vec<IpRange>),
    /// IP protocol numbers, any of them.
    Protocol(Vec<u8>),
    /// nft: `meta nfproto`.
    Family(Family),
    SourcePort(Vec<PortRange>),
    DestinationPort(Vec<PortRange>),
    /// multiport `--ports`.
    EitherPort(Vec<PortRange>),
    /// Device names, any of them; a `+` at the end stands for any rest.
    Input(Vec<String>),
    Output(Vec<String>),
    /// Bridge ports (physdev).
    PhysIn(String),
    PhysOut(String),
    /// `mark & mask == value`.
    Mark {
        value: u32,
        mask: u32,
    },
    Connmark {
        value: u32,
        mask: u32,
    },
    /// Any of them.
    CtState(Vec<CtState>),
    CtDirection(CtDirection),
    /// An ipset, or an nft set (key of [`super::NetnsEvidence::sets`]), by these fields of the packet.
    Set {
        name: String,
        fields: Vec<Side>,
    },
    /// LOCAL, UNICAST, BROADCAST ... any of them.
    AddressType {
        side: Side,
        types: Vec<String>,
        limit_iface: Option<Side>,
    },
    SourceMac([u8; 6]),
    OwnerUid {
        first: u32,
        last: u32,
    },
    /// `flags & mask == value`.
    TcpFlags {
        mask: u8,
        value: u8,
    },
    /// Type, and range of codes.
    Icmp {
        kind: u8,
        codes: Option<(u8, u8)>,
    },
    /// Ranges of types, of any code.
    IcmpTypes(Vec<(u8, u8)>),
    /// Bytes of the IP packet, header and all.
    Length(Vec<(u32, u32)>),
    /// Time to live, hop limit.
    Ttl(Vec<(u8, u8)>),
    /// A later fragment.
    Fragment,
    /// By chance or by count.
    Statistic(String),
    /// Not understood: the text.
    Other(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    #[serde(rename = "src")]
    Source,
    #[serde(rename = "dst")]
    Destination,
}

/// Both ends included; of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpRange {
    pub first: IpAddr,
    pub last: IpAddr,
}

/// Both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    Accept,
    Drop,
    Return,
    Reject {
        with: String,
    },
    Jump(String),
    Goto(String),
    /// `mark = (mark & !mask) ^ value`: what `--set-xmark value/mask` means; the others are written as that.
    Mark {
        value: u32,
        mask: u32,
    },
    Connmark(ConnmarkOp),
    Dnat(NatTo),
    Snat(NatTo),
    Masquerade {
        ports: Option<PortRange>,
        random: bool,
    },
    Redirect {
        ports: Option<PortRange>,
        random: bool,
    },
    Notrack,
    /// `CT --zone` and the like; `--notrack` is [`Target::Notrack`].
    Ct(String),
    /// `None`: to the path's MTU.
    TcpMss(Option<u16>),
    Tproxy(String),
    Queue(String),
    Log(String),
    /// A value decides what is done (nft's vmap, map): not understood further.
    Other(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConnmarkOp {
    /// Packet's to connection's: `ct = (ct & !ct_mask) ^ (mark & mask)`.
    Save { ct_mask: u32, mask: u32 },
    /// Connection's to packet's: `mark = (mark & !mask) ^ (ct & ct_mask)`.
    Restore { ct_mask: u32, mask: u32 },
    /// `ct = (ct & !mask) ^ value`.
    Set { value: u32, mask: u32 },
}

/// Where a translation leads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatTo {
    pub addresses: Option<IpRange>,
    pub ports: Option<PortRange>,
    pub random: bool,
    pub persistent: bool,
}

impl Table {
    pub fn chain(&self, name: &str) -> Option<&Chain> {
        self.chains.iter().find(|chain| chain.name == name)
    }

    /// It sees packets of this family.
    pub fn sees(&self, family: Family) -> bool {
        match self.family {
            TableFamily::Ip => family == Family::Ipv4,
            TableFamily::Ip6 => family == Family::Ipv6,
            TableFamily::Inet => true,
            TableFamily::Bridge | TableFamily::Netdev => false,
        }
    }
}

impl Rule {
    /// One of its conditions asks this ipset.
    pub fn names_set(&self, set: &str) -> bool {
        self.matches.iter().any(|m| matches!(&m.what, Criterion::Set { name, .. } if name == set))
    }

    /// The comment for people: not the hash that EgressGateway's and Calico's agents put first.
    pub fn label(&self) -> Option<&str> {
        let is_hash = |c: &&String| {
            c.split_once(':').is_some_and(|(owner, hash)| {
                hash.len() == 16 && !owner.contains(' ') && !hash.contains([' ', ':'])
            })
        };
        let words = self.comments.iter().rev().find(|c| !is_hash(c));
        words.or(self.comments.first()).map(String::as_str)
    }

    /// In our words: for rules of which there is no text.
    pub fn in_words(&self) -> String {
        let matches = self.matches.iter().map(ToString::to_string);
        matches.chain(self.actions.iter().map(ToString::to_string)).collect::<Vec<_>>().join(", ")
    }

    /// What decides: the last thing it does.
    pub fn target(&self) -> Option<&Target> {
        self.actions.last()
    }
}

impl IpRange {
    pub fn contains(&self, address: IpAddr) -> bool {
        self.first.is_ipv4() == address.is_ipv4() && (self.first..=self.last).contains(&address)
    }
}

impl From<IpPrefix> for IpRange {
    fn from(prefix: IpPrefix) -> Self {
        Self { first: prefix.address(), last: prefix.last() }
    }
}

impl PortRange {
    pub fn one(port: u16) -> Self {
        Self { first: port, last: port }
    }

    pub fn contains(&self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}
