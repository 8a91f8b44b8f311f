// SPDX-License-Identifier: MIT OR Apache-2.0
//! Chains beside those of IP: in bridges (family bridge), and at devices, before and after all that IP does (family
//! netdev, and the ingress hook of inet).

use super::facts::NodeFacts;
use super::names::RuleRef;
use super::packet::PacketView;
use super::rule::{Base, Chain, Table, TableFamily};
use super::walk::{Verdict, Walk, walk_chains};

/// A rule that drops the packet there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beside {
    pub rule: RuleRef,
    /// It certainly does; false: it may.
    pub certain: bool,
}

/// Who drops the packet at the device or in its bridge: the device's chains first. The packet's own devices are those of
/// the bridge's ports; they are not asked for at a device.
pub fn attribute_beside(node: &dyn NodeFacts, device: &str, packet: &PacketView) -> Vec<Beside> {
    let mut out = Vec::new();
    let at_device = |(_, _, base): &(&Table, &Chain, &Base)| base.devices.iter().any(|name| name == device);
    let mut bases: Vec<_> = bases(node).filter(at_device).collect();
    bases.sort_by_key(|(.., base)| base.priority);
    for base in bases {
        let mut packet = packet.clone();
        // Before anything is known of where it goes, and after.
        packet.ct_state = None;
        let named = Some(device.to_owned());
        let leaves = base.2.hook == crate::node::Hook::Postrouting;
        (packet.input, packet.output) = if leaves { (None, named) } else { (named, Some(String::new())) };
        walk_chains(node, [base], &packet, &|_| None).ends(&mut out);
    }
    let mut bases: Vec<_> =
        self::bases(node).filter(|(table, ..)| table.family == TableFamily::Bridge).collect();
    bases.sort_by_key(|(.., base)| base.priority);
    for base in bases {
        walk_chains(node, [base], packet, &|_| None).ends(&mut out);
    }
    out
}

fn bases(node: &dyn NodeFacts) -> impl Iterator<Item = (&Table, &Chain, &Base)> {
    let chains =
        node.rulesets().iter().flat_map(|table| table.chains.iter().map(move |chain| (table, chain)));
    chains
        .filter_map(|(table, chain)| Some((table, chain, chain.base.as_ref()?)))
        .filter(|(table, _, base)| table.family == TableFamily::Bridge || !base.devices.is_empty())
}

impl Walk<'_> {
    fn ends(&self, out: &mut Vec<Beside>) {
        let is_end = |verdict: &Verdict| matches!(verdict, Verdict::Drop | Verdict::Reject(_));
        let certain = self.verdict.as_ref().is_some_and(is_end);
        if certain && let Some(by) = self.decided_by {
            out.push(Beside { rule: by.name(), certain });
            return;
        }
        let possible = self.possible.iter().filter(|(verdict, _)| is_end(verdict));
        out.extend(possible.map(|(_, at)| Beside { rule: at.name(), certain: false }));
    }
}
