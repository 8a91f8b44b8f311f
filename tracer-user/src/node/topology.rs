// SPDX-License-Identifier: MIT OR Apache-2.0
//! The watched network namespaces as plain data: what the rest of the program knows of devices and hooks.
//! Filled by the netlink side of this module; read by `flow`, `explain` and `output`, and by tests that
//! build one by hand.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Inode number of a network namespace: what [`tracer_common::Event::netns`] holds.
pub type NetnsId = u32;

/// Everything that is watched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    pub namespaces: BTreeMap<NetnsId, Namespace>,
}

/// One watched network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    pub id: NetnsId,
    /// As shown: the pod's or node's name.
    pub name: String,
    pub role: Role,
    /// By ifindex. All devices of the namespace, watched or not.
    pub devices: BTreeMap<u32, Device>,
    /// What is registered at the netfilter hooks, in no particular order; our own positions are not in it.
    pub hooks: Vec<HookEntry>,
    /// False when the registered hooks could only be guessed (see `node::hooks`).
    pub hooks_exact: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Node,
    Pod,
}

/// A network device as rtnetlink describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub ifindex: u32,
    pub name: String,
    pub kind: DeviceKind,
    pub mtu: u32,
    pub up: bool,
    /// The device has no link-layer header (tun, ipip ...): packets start with the IP header.
    pub layer3: bool,
    /// Bridge or bond that this device is a port of.
    pub master: Option<u32>,
    /// The other end of a veth pair, or the lower device: namespace (when it is a watched one) and ifindex.
    pub link: Option<(Option<NetnsId>, u32)>,
    /// Why programs are attached to it; `None`: it is not on the path.
    pub watched: Option<PathRole>,
    pub addresses: Vec<IpAddr>,
    /// Link-layer address, empty when there is none.
    pub mac: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    Loopback,
    /// No kind of its own: hardware or a hypervisor's.
    Physical,
    Veth,
    Bridge,
    Vxlan {
        vni: u32,
        port: u16,
        local: Option<IpAddr>,
    },
    Other(String),
}

/// Devices of this kind (IFLA_INFO_KIND) share a lower one: it gives a frame to the one that has its MAC or address.
pub(crate) fn shares_lower_device(kind: &str) -> bool {
    matches!(kind, "macvlan" | "macvtap" | "ipvlan" | "ipvtap")
}

/// What part of the path a watched device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathRole {
    /// The pod's own device (its loopback too: sidecars).
    Pod,
    /// The host's end of the pod's veth.
    PodHost,
    /// The bridge that end is a port of.
    Bridge,
    /// An encapsulating device.
    Tunnel,
    /// A device through which packets leave the node: what is beyond it is not ours to see.
    Uplink,
    /// Another device between pod and destination (the bridge or veth of a local destination ...).
    Transit,
}

/// Address family of a netfilter hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    Ipv4,
    Ipv6,
}

/// Netfilter hook; the numbers are the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[repr(u8)]
pub enum Hook {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

impl Hook {
    pub const ALL: [Self; 5] =
        [Self::Prerouting, Self::Input, Self::Forward, Self::Output, Self::Postrouting];

    pub fn parse(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "PREROUTING",
            Self::Input => "INPUT",
            Self::Forward => "FORWARD",
            Self::Output => "OUTPUT",
            Self::Postrouting => "POSTROUTING",
        }
    }
}

/// Something registered at a netfilter hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookEntry {
    pub family: Family,
    pub hook: Hook,
    pub priority: i32,
    pub owner: HookOwner,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HookOwner {
    /// A table of iptables-legacy ("mangle").
    Iptables { table: String },
    /// A base chain of nftables (iptables-nft's are these too: table "mangle", chain "PREROUTING").
    /// `kind` is nft's chain type: filter, nat, route.
    Nft { family: String, table: String, chain: String, kind: String, policy_drop: bool },
    /// nf_conntrack_in, defragmentation, confirm, helpers, nf_nat's dispatcher ...: `name` is the function's or our word for it.
    Kernel { name: String },
}

impl HookOwner {
    /// Can change `skb->mark`.
    pub fn can_mark(&self) -> bool {
        !matches!(self, Self::Kernel { .. })
    }

    /// What the screen calls it: the table's name; with the chain where the table is not one of iptables'.
    pub fn label(&self) -> String {
        match self {
            Self::Iptables { table } => table.clone(),
            Self::Nft { table, chain, .. } if is_iptables_chain(chain) => table.clone(),
            Self::Nft { family, table, chain, .. } => format!("{family} {table} {chain}"),
            Self::Kernel { name } => name.clone(),
        }
    }
}

fn is_iptables_chain(chain: &str) -> bool {
    Hook::ALL.iter().any(|h| h.name() == chain)
}

/// A netfilter position of ours: entry function `index` stands at `priority` of this hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    pub netns: NetnsId,
    pub family: Family,
    pub hook: Hook,
    /// [`tracer_common::Event::position`].
    pub index: u8,
    pub priority: i32,
}
