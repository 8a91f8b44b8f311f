// SPDX-License-Identifier: MIT OR Apache-2.0
//! ipsets, and nftables' named sets.

use serde::{Deserialize, Serialize};

use super::rule::{IpRange, PortRange};

/// A set and its members.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpSet {
    pub name: String,
    /// `hash:net`, `hash:ip,port`, `list:set`; an nft set's: its key types, joined by " . ".
    pub kind: String,
    pub ipv6: bool,
    /// Bits of an address that count, where the set says so and not its members (`netmask`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netmask: Option<u8>,
    pub members: Vec<Member>,
    /// Members there are beyond those that were kept.
    pub cut: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub fields: Vec<MemberField>,
    /// An exception: what it covers is not in the set.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nomatch: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemberField {
    Address(IpRange),
    /// `proto` 0: any. ICMP: type and code in one number.
    Port {
        proto: u8,
        ports: PortRange,
    },
    Protocol(u8),
    Mac([u8; 6]),
    Device(String),
    Mark {
        value: u32,
    },
    /// Another set (list:set).
    Set(String),
    /// All that is in no other member: nft's `*`.
    Any,
    /// Not understood.
    Other(String),
}
