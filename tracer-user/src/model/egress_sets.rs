// SPDX-License-Identifier: MIT OR Apache-2.0
//! EgressGateway's sets and rules, looked at without a packet; rules that nearly matched.

use std::net::IpAddr;

use super::world::Host;
use crate::cluster::egress::datapath::{
    DEVICE, SNAT_CHAIN, SOURCE_SETS, destination_set, is_egress_tunnel, source_sets,
};
use crate::firewall::{Criterion, IpRange, Miss, NearMiss, PacketView, Rule, Target, near_misses};
use crate::node::Hook;
use crate::node::rtnl::Link;
use crate::snapshot::NetnsEvidence;

/// The address of the policy that selects both ends, by the rules of a gateway; with the set that says so.
pub(crate) fn policys_address(
    evidence: &NetnsEvidence,
    source: IpAddr,
    destination: IpAddr,
) -> Option<(IpRange, String)> {
    chain_rules(evidence, "nat", SNAT_CHAIN).iter().find_map(|rule| {
        let mut named = None;
        for m in &rule.matches {
            let Criterion::Set { name, .. } = &m.what else { continue };
            let address = if name.starts_with(SOURCE_SETS) { source } else { destination };
            if evidence.set_has(name, address) == m.negated {
                return None;
            }
            named = Some(name.clone());
        }
        match rule.target() {
            Some(Target::Snat(to)) => Some((to.addresses?, named?)),
            _ => None,
        }
    })
}

/// A policy's sets name both ends. On the node of a pod they name the pods of that node only.
pub(crate) fn selected(evidence: &NetnsEvidence, source: IpAddr, destination: IpAddr) -> bool {
    let prefix = source_sets(source.is_ipv6());
    evidence.sets.keys().filter(|set| set.starts_with(&prefix)).any(|set| {
        let other = destination_set(set);
        // Without a set of destinations the policy is for all of them.
        let to = !evidence.sets.contains_key(&other) || evidence.set_has(&other, destination);
        to && evidence.set_has(set, source)
    })
}

pub(crate) fn chain_rules<'e>(evidence: &'e NetnsEvidence, table: &'e str, chain: &'e str) -> Vec<&'e Rule> {
    evidence.tables(table).filter_map(|t| t.chain(chain)).flat_map(|c| c.rules.iter()).collect()
}

/// Why the rule of a chain that should have acted did not.
pub(crate) fn nearest(
    evidence: &NetnsEvidence,
    hook: Hook,
    table: &str,
    packet: &PacketView,
    chain: &str,
) -> Option<NearMiss> {
    near_misses(evidence, hook, table, packet).into_iter().find(|near| near.rule.chain == chain)
}

pub(crate) fn why(near: &NearMiss) -> String {
    match &near.miss {
        Miss::Failed { why, .. } => format!("{} does not match: {why}", near.rule),
        Miss::NotReached { by, verdict } => {
            format!("{} is not reached: {by} ends the walk before ({verdict})", near.rule)
        }
        Miss::NotEntered { jump, why, .. } => {
            format!("{} is not reached: {jump} does not match: {why}", near.rule)
        }
    }
}

/// EgressGateway's tunnel device of a host.
pub(crate) fn egress_tunnel(host: &Host) -> Option<&Link> {
    host.evidence.link(DEVICE).or_else(|| host.evidence.links.iter().find(|l| is_egress_tunnel(l)))
}
