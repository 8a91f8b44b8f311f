// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is read of each namespace.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::connection::TrackedConnection;
use super::xfrm::{XfrmPolicy, XfrmState};
use crate::cluster::egress::Objects;
use crate::firewall::{IpSet, Member, MemberField, Table};
use crate::node::rtnl::{Address, FdbEntry, Link, Neighbour, Nexthop, Qdisc, Route, Rule};
use crate::node::{NetnsId, Socket};

/// All that was read, by namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    pub netns: BTreeMap<NetnsId, Arc<NetnsEvidence>>,
    /// EgressGateway's objects; `None`: the API server says nothing, or is not asked. In a recording they have lines
    /// of their own.
    #[serde(skip)]
    pub policies: Option<Arc<Objects>>,
}

/// One network namespace at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetnsEvidence {
    /// As shown on screen.
    pub name: String,
    /// CLOCK_MONOTONIC, ns.
    pub taken_ns: u64,
    /// nftables' own number of what was read (it rises with every change); `None`: it changed meanwhile, or there are
    /// rules that it does not count (iptables-legacy).
    pub nft_generation: Option<u32>,
    /// The firewall: both back ends of iptables and native nftables.
    pub rulesets: Arc<Vec<Table>>,
    /// ipsets by name; nftables' own named sets as `FAMILY TABLE NAME` ("inet kube-proxy cluster-ips").
    pub sets: Arc<BTreeMap<String, IpSet>>,
    pub links: Vec<Link>,
    pub addresses: Vec<Address>,
    /// Policy routing (`ip rule`), by priority.
    pub rules: Vec<Rule>,
    pub routes: Arc<Vec<Route>>,
    /// Next hop objects (`ip nexthop`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nexthops: Vec<Nexthop>,
    /// What the kernel learned of single destinations: redirects, path MTUs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exceptions: Vec<Route>,
    pub neighbours: Vec<Neighbour>,
    pub fdb: Vec<FdbEntry>,
    /// By their path under /proc/sys: `net/ipv4/conf/eth0/rp_filter`.
    pub sysctls: Arc<BTreeMap<String, String>>,
    /// Counters without an event, as /proc/net/{snmp,netstat,snmp6} name them: `TcpExt.ListenOverflows`,
    /// `Ip.OutNoRoutes`, `Ip6.InNoRoutes`. Absolute values since the namespace was made.
    pub counters: Arc<BTreeMap<String, u64>>,
    /// Listening TCP sockets and bound UDP sockets.
    pub sockets: Vec<Socket>,
    /// EtherTypes that packet sockets of other programs listen to, with their device (0: all); `None`: not known.
    pub packet_sockets: Option<Vec<(u16, u32)>>,
    pub conntrack: Conntrack,
    /// Conntrack entries that share an address with the flow.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub connections: Vec<TrackedConnection>,
    /// Why [`Self::connections`] may lack some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unread_connections: Option<String>,
    /// IPsec policies, but those of single sockets; and, where there are any, states.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub xfrm_policies: Vec<XfrmPolicy>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub xfrm_states: Vec<XfrmState>,
    /// Queueing disciplines that are not the device's default.
    pub qdiscs: Vec<Qdisc>,
    /// What looks at packets on devices besides netfilter; this tracer's own programs are not in it.
    pub programs: Vec<Attached>,
    /// What could not be read, and what to do about it; one sentence each.
    pub unreadable: Vec<String>,
}

/// Where on a device something looks at packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachPoint {
    Xdp,
    Ingress,
    Egress,
}

/// A program or filter on a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    pub ifindex: u32,
    pub at: AttachPoint,
    /// "XDP program", "TCX program", "tc u32 filter".
    pub kind: String,
    /// The kernel's number of the BPF program, when it is one.
    pub id: Option<u32>,
    /// As it was loaded. Safe to print.
    pub name: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conntrack {
    /// Entries of this namespace; `None` without conntrack.
    pub count: Option<u64>,
    /// nf_conntrack_max: one for the whole machine.
    pub max: Option<u64>,
}

impl Evidence {
    pub fn of(&self, netns: NetnsId) -> Option<&NetnsEvidence> {
        self.netns.get(&netns).map(Arc::as_ref)
    }
}

impl NetnsEvidence {
    /// The ipset is here and has the address as its first field, not as an exception.
    pub fn set_has(&self, set: &str, address: IpAddr) -> bool {
        let has = |m: &Member| {
            !m.nomatch
                && matches!(m.fields.first(), Some(MemberField::Address(range)) if range.contains(address))
        };
        self.sets.get(set).is_some_and(|set| set.members.iter().any(has))
    }

    /// A sysctl by its path under /proc/sys, as a number.
    pub fn sysctl(&self, path: &str) -> Option<i64> {
        self.sysctls.get(path)?.parse().ok()
    }

    pub fn counter(&self, name: &str) -> Option<u64> {
        self.counters.get(name).copied()
    }

    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    pub fn link_by_index(&self, ifindex: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.ifindex == ifindex)
    }

    /// The tables called `name` of all families and back ends.
    pub fn tables<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Table> + 'a {
        self.rulesets.iter().filter(move |table| table.name == name)
    }
}

impl std::fmt::Display for Attached {
    /// `XDP program block_web (id 12)`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.kind)?;
        if !self.name.is_empty() {
            write!(f, " {}", self.name)?;
        }
        self.id.map_or(Ok(()), |id| write!(f, " (id {id})"))
    }
}
