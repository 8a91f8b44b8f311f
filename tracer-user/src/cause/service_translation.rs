// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets to a service address that no rule of kube-proxy translated. Names of chains are facts of kube-proxy
//! (pkg/proxy/iptables, pkg/proxy/nftables).

use std::net::{IpAddr, SocketAddr};

use super::Certainty::{self, Certain, Likely};
use super::Finding;
use super::catalogue as c;
use super::ipsec::NodeState;
use crate::cluster::egress::datapath::cluster_set;
use crate::firewall::{Criterion, IpRange, Match, MemberField, Miss, PacketView, Rule, Target, near_misses};
use crate::node::Hook;
use crate::snapshot::NetnsEvidence;

const SERVICES: &str = "KUBE-SERVICES";
/// nftables' kube-proxy has a table of this name.
const TABLE: &str = "kube-proxy";

/// What makes an address a service's.
enum KnownService {
    /// Rules of kube-proxy name it; `port`: for the packet's port too.
    Named { rule: String, port: bool },
    /// It is in the range of other services' addresses.
    Cluster { set: String },
}

/// A packet that left its node for a service's own address, as if that were a host somewhere. `hook`: where it would have
/// been translated, `packet`: as it came there, `untracked`: the rule for which it is not tracked.
pub(crate) fn missing(
    node: &NodeState<'_>,
    hook: Hook,
    packet: &PacketView,
    untracked: Option<&str>,
) -> Option<Finding> {
    let NodeState { evidence, name, command } = node;
    if !has_kube_proxy(evidence) {
        return None;
    }
    let known = known(evidence, packet.dst, packet)?;
    let (address, port) = (packet.dst, packet.dst_port.unwrap_or(0));
    let list =
        command(format!("{} -t nat -S {SERVICES}", if address.is_ipv6() { "ip6tables" } else { "iptables" }));
    let why = || match untracked {
        Some(rule) => format!("{rule} says NOTRACK, and what is not tracked is not translated"),
        None => why(evidence, hook, packet, name),
    };
    let (certainty, what): (Certainty, String) = match &known {
        KnownService::Named { port: false, .. } => (
            Likely,
            format!(
                "the service at {address} has no port {port}: kube-proxy translates only its other ports"
            ),
        ),
        KnownService::Named { .. } => (Certain, why()),
        KnownService::Cluster { .. } => (Likely, why()),
    };
    let to = SocketAddr::new(address, port);
    let finding = Finding::new(
        &c::SERVICE_NOT_TRANSLATED,
        certainty,
        format!("{to} is a service's address, and {name} sends it out untranslated: {what}"),
    );
    let finding = match &known {
        KnownService::Named { rule, .. } => {
            finding.checked(format!("kube-proxy knows {address}: {rule}"), list)
        }
        KnownService::Cluster { set } => finding.checked(
            format!("{address} is in the range of {set} that other services have their addresses from"),
            list,
        ),
    };
    let fix = match &known {
        _ if let Some(rule) = untracked => format!("remove {rule}, or let it spare what is for services"),
        KnownService::Named { port: false, .. } => {
            format!("ask for a port that the service has (kubectl get service), or add {port} to it")
        }
        _ => {
            format!(
                "see whether kube-proxy runs on {name} and read its log; restart it: it writes its rules again"
            )
        }
    };
    Some(finding.fix(fix).about(to))
}

/// What kept the packet from its translation.
fn why(evidence: &NetnsEvidence, hook: Hook, packet: &PacketView, name: &str) -> String {
    let first = PacketView {
        ct_state: Some(crate::firewall::CtState::New),
        ct_direction: Some(crate::firewall::CtDirection::Original),
        ..packet.clone()
    };
    let near = near_misses(evidence, hook, "nat", &first);
    let services = |chain: &str| chain.starts_with("KUBE-");
    let near = near.into_iter().find(|m| services(&m.rule.chain) && m.action.starts_with("DNAT"));
    match near.map(|m| m.miss) {
        Some(Miss::NotReached { by, verdict }) => format!("{by} ({verdict}) ends the walk before"),
        Some(Miss::NotEntered { jump, why, .. }) => format!("{jump} does not lead there: {why}"),
        Some(Miss::Failed { why, .. }) => why,
        None if !jumps(evidence, hook) => format!("nat {} has no jump to {SERVICES}", hook.name()),
        None => format!("no rule that {SERVICES} of {name} leads to took it"),
    }
}

fn jumps(evidence: &NetnsEvidence, hook: Hook) -> bool {
    let leads =
        |rule: &Rule| matches!(rule.target(), Some(Target::Jump(to) | Target::Goto(to)) if to == SERVICES);
    let chains = evidence.tables("nat").flat_map(|t| &t.chains);
    let mut base = chains.filter(|c| c.base.as_ref().is_some_and(|b| b.hook == hook));
    base.any(|chain| chain.rules.iter().any(leads)) || evidence.tables(TABLE).next().is_some()
}

fn has_kube_proxy(evidence: &NetnsEvidence) -> bool {
    evidence.tables("nat").any(|t| t.chain(SERVICES).is_some()) || evidence.tables(TABLE).next().is_some()
}

fn known(evidence: &NetnsEvidence, address: IpAddr, packet: &PacketView) -> Option<KnownService> {
    let alone = |range: &IpRange| range.first == range.last && range.first == address;
    let names = |m: &Match| !m.negated && matches!(&m.what, Criterion::Destination(r) if r.iter().any(alone));
    let asks_port = |m: &Match| match &m.what {
        Criterion::DestinationPort(ports) => {
            packet.dst_port.is_some_and(|p| ports.iter().any(|r| r.contains(p)))
        }
        Criterion::Protocol(protocols) => protocols.contains(&packet.proto),
        _ => true,
    };
    let kube = |name: &str| {
        name.starts_with("KUBE-") || name.starts_with("service-") || name.starts_with("services")
    };
    let mut named = None;
    let tables = evidence.tables("nat").chain(evidence.tables(TABLE));
    for chain in tables.flat_map(|t| &t.chains).filter(|chain| kube(&chain.name)) {
        for rule in chain.rules.iter().filter(|rule| rule.matches.iter().any(names)) {
            let port = rule.matches.iter().all(asks_port);
            if port || named.is_none() {
                named = Some(KnownService::Named { rule: format!("chain {} names it", chain.name), port });
            }
            if port {
                return named;
            }
        }
    }
    named.or_else(|| {
        let siblings: Vec<IpAddr> = services(evidence);
        let set = cluster_set(address.is_ipv6());
        let inside = |range: &IpRange| {
            range.contains(address)
                && range.first != range.last
                && siblings.iter().any(|sibling| range.contains(*sibling))
        };
        let member = evidence
            .sets
            .get(set)?
            .members
            .iter()
            .any(|m| matches!(m.fields.first(), Some(MemberField::Address(range)) if inside(range)));
        // Pods have routes of their own; services have not.
        let routed =
            evidence.routes.iter().any(|r| !r.destination.is_empty() && r.destination.contains(address));
        (member && !routed).then(|| KnownService::Cluster { set: set.to_owned() })
    })
}

/// The addresses of services that kube-proxy's rules name.
fn services(evidence: &NetnsEvidence) -> Vec<IpAddr> {
    const MAX: usize = 64;
    let chains = evidence.tables("nat").flat_map(|t| &t.chains).filter(|c| c.name.starts_with("KUBE-S"));
    let named = chains.flat_map(|c| c.rules.iter()).flat_map(|r| &r.matches).filter_map(|m| match &m.what {
        Criterion::Destination(ranges) if !m.negated => ranges.first(),
        _ => None,
    });
    named.filter(|range| range.first == range.last).map(|range| range.first).take(MAX).collect()
}
