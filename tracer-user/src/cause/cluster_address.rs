// SPDX-License-Identifier: MIT OR Apache-2.0
//! Addresses that are the cluster's own (services, pods, nodes), as far as the nodes' rules, routes and tunnels tell;
//! and packets for these that EgressGateway takes to its gateway. Shared with `check`.

use std::net::IpAddr;

use super::bare::Bare;
use super::catalogue as c;
use super::finding::Certainty::{Certain, Likely};
use super::finding::Finding;
use super::kube_proxy::is_service;
use crate::cluster::egress::datapath::{REQUEST_CHAIN, is_egress_tunnel};
use crate::firewall::{Criterion, Match, Rule};
use crate::node::IpPrefix;
use crate::node::rtnl::NextHop;
use crate::snapshot::{NetnsEvidence, Routed};

/// What an address is in the cluster ("a service's address"), and the network that it is of.
pub(crate) fn of_cluster(
    node: &NetnsEvidence,
    others: &[(String, &NetnsEvidence)],
    address: IpAddr,
) -> Option<(&'static str, IpPrefix)> {
    let host = IpPrefix::host(address);
    if is_service(node, address) {
        return Some(("a service's address", host));
    }
    let is_node = |address: IpAddr| {
        let has = |e: &NetnsEvidence| e.addresses.iter().any(|a| a.address == address);
        node.fdb.iter().any(|entry| entry.remote == Some(address))
            || others.iter().any(|(_, other)| has(other))
    };
    if is_node(address) {
        return Some(("a node's address", host));
    }
    let Routed::By(route) = node.routed(None, address, 0) else { return None };
    let to_nodes = |hop: &NextHop| {
        let tunnel =
            node.link_by_index(hop.ifindex).is_some_and(|l| l.vxlan.is_some() && !is_egress_tunnel(l));
        tunnel || hop.gateway.is_some_and(is_node)
    };
    let pods = !route.destination.is_empty() && route.next_hops.iter().any(to_nodes);
    pods.then_some(("on the pods' network of another node", route.destination))
}

/// EgressGateway's rule marked a packet for its gateway, and the destination is one of the cluster's own.
pub(crate) fn sent_to_gateway(
    bare: &Bare<'_>,
    others: &[(String, &NetnsEvidence)],
    command: &dyn Fn(String) -> String,
) -> Option<Finding> {
    let (source, to) = (bare.source, bare.destination);
    let rule = rules(bare.node).find(|rule| selects(bare.node, rule, source, to))?;
    let (what, network) = of_cluster(bare.node, others, to)?;
    let mut sets = rule.matches.iter().filter_map(|m| set_of(m).map(|name| (name, m.negated)));
    let (set, negated) = sets.rfind(|(name, _)| !name.starts_with("egress-src-"))?;
    let said = if negated { "does not contain" } else { "contains" };
    let finding = Finding::new(
        &c::EGRESS_TAKES_CLUSTER,
        if negated { Certain } else { Likely },
        format!("{} sends what is for {to}, {what}, to the egress gateway: {set} {said} it", bare.name),
    )
    .checked(format!("{set} {said} {to}"), command(format!("ipset list {set}")))
    .checked(
        format!("a rule of mangle {REQUEST_CHAIN} marks by that set"),
        command(format!(
            "{} -t mangle -S {REQUEST_CHAIN}",
            if to.is_ipv6() { "ip6tables" } else { "iptables" }
        )),
    );
    Some(if negated {
        finding
            .fact("the set is made of EgressClusterInfo: what is in its status is left alone, spec.extraCidr adds to it")
            .fix(format!("{}; for good: add the network to spec.extraCidr of EgressClusterInfo default", command(format!("ipset add {set} {network}"))))
    } else {
        finding.fix(format!(
            "take {network} out of spec.destSubnet of the policy: list only what is outside of the cluster"
        ))
    })
}

/// Those that mark requests of pods.
pub(crate) fn rules(node: &NetnsEvidence) -> impl Iterator<Item = &Rule> {
    node.tables("mangle").filter_map(|t| t.chain(REQUEST_CHAIN)).flat_map(|chain| chain.rules.iter())
}

fn set_of(m: &Match) -> Option<&str> {
    match &m.what {
        Criterion::Set { name, .. } => Some(name),
        _ => None,
    }
}

/// The sets that a rule asks for have these ends.
pub(crate) fn selects(node: &NetnsEvidence, rule: &Rule, source: IpAddr, destination: IpAddr) -> bool {
    let mut sets = rule.matches.iter().filter_map(|m| set_of(m).map(|name| (name, m.negated))).peekable();
    sets.peek().is_some()
        && sets.all(|(name, negated)| {
            let end = if name.starts_with("egress-src-") { source } else { destination };
            node.set_has(name, end) != negated
        })
}
