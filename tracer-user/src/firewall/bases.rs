// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which chains the kernel calls for a packet, and in what order.

use std::ops::Range;

use super::facts::NodeFacts;
use super::packet::{CtDirection, CtState, PacketView};
use super::rule::{Base, Chain, Table, TableFamily};
use crate::node::Hook;

/// The base chains that see the packet at a hook, in the kernel's order. Chains of type nat stand where the NAT core
/// does.
pub(super) fn bases<'e>(
    node: &'e dyn NodeFacts,
    hook: Hook,
    priorities: Range<i32>,
    packet: &PacketView,
) -> Vec<(&'e Table, &'e Chain, &'e Base)> {
    let mut found: Vec<_> = (node.rulesets().iter())
        .filter(|table| table.sees(packet.family()))
        .flat_map(|table| table.chains.iter().map(move |chain| (table, chain)))
        .filter_map(|(table, chain)| Some((table, chain, chain.base.as_ref()?)))
        .filter(|(.., base)| {
            base.hook == hook && base.devices.is_empty() && priorities.contains(&base.stands_at())
        })
        .collect();
    found.sort_by_key(|(.., base)| (base.stands_at(), base.priority));
    found
}

/// Chains that are not IP's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aside<'a> {
    /// Of one device (family netdev, ingress of inet): before all else when packets come in, after all else when they leave.
    Device(&'a str),
    /// Of bridges, between their ports (family bridge).
    Bridge,
}

/// The base chains of those that see a packet, in the kernel's order. Of devices: PREROUTING is their ingress,
/// POSTROUTING their egress.
pub(super) fn bases_aside<'e>(
    node: &'e dyn NodeFacts,
    which: Aside<'_>,
    hook: Hook,
) -> Vec<(&'e Table, &'e Chain, &'e Base)> {
    let sees = |table: &Table, base: &Base| match which {
        Aside::Device(device) => base.devices.iter().any(|name| name == device),
        Aside::Bridge => table.family == TableFamily::Bridge && base.devices.is_empty(),
    };
    let mut found: Vec<_> = (node.rulesets().iter())
        .flat_map(|table| table.chains.iter().map(move |chain| (table, chain)))
        .filter_map(|(table, chain)| Some((table, chain, chain.base.as_ref()?)))
        .filter(|(table, _, base)| base.hook == hook && sees(table, base))
        .collect();
    found.sort_by_key(|(.., base)| base.priority);
    found
}

/// A socket that a TPROXY rule hands the packet to: one at its port, or, without, at the packet's own.
pub(super) fn has_proxy(node: &dyn NodeFacts, rule: &str, packet: &PacketView) -> bool {
    let port = rule.split_once("--on-port ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    let port = port.filter(|port| *port != 0).or(packet.dst_port);
    node.has_socket(packet.proto, port)
}

impl Base {
    /// The priority at which the kernel calls it.
    pub fn stands_at(&self) -> i32 {
        if self.kind != "nat" {
            return self.priority;
        }
        crate::node::nat_priority(self.hook).unwrap_or(self.priority)
    }
}

impl PacketView {
    /// Chains of type nat see the first packet of a connection only (nf_nat_inet_fn).
    pub fn asks_nat(&self) -> bool {
        self.ct_direction != Some(CtDirection::Reply)
            && !matches!(self.ct_state, Some(CtState::Established | CtState::Invalid | CtState::Untracked))
    }
}
