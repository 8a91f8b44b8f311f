// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rules of kube-proxy that drop or reject, in both of its modes, and what that says of the service.

use std::net::IpAddr;

use crate::firewall::{Criterion, Done, IpRange, PacketView, Rule, RuleRef, walk_hook};
use crate::node::Hook;
use crate::snapshot::NetnsEvidence;

/// Rules that only drop what another one marked (KUBE-FIREWALL what was sent through KUBE-MARK-DROP): the rule that
/// marked the packet, and the one that led to its chain.
#[derive(Debug)]
pub(crate) struct Marking {
    pub(crate) rule: RuleRef,
    pub(crate) led_by: Option<RuleRef>,
}

impl Marking {
    /// The rule that had a reason: the one that sent the packet to be marked.
    pub(crate) fn reason(&self) -> &RuleRef {
        self.led_by.as_ref().unwrap_or(&self.rule)
    }
}

/// What marked the packet that `dropped_by` drops for its mark. `packet`: as it was dropped, untranslated.
pub(crate) fn marked(
    evidence: &NetnsEvidence,
    hook: Hook,
    packet: &PacketView,
    dropped_by: &RuleRef,
) -> Option<Marking> {
    if !dropped_by.text.contains("mark") || packet.mark.is_none_or(|mark| mark == 0) {
        return None;
    }
    let (first, output) = match hook {
        Hook::Input | Hook::Forward => (Hook::Prerouting, Some(String::new())),
        _ => (hook, packet.output.clone()),
    };
    let before = PacketView { mark: Some(0), output, ..packet.clone() };
    let walk = walk_hook(evidence, first, i32::MIN..i32::MAX, &before);
    let marks = walk.effects.iter().rev();
    let by = marks.filter(|e| e.certain).find_map(|effect| match effect.done {
        Done::Mark { from, to } if from != to && to == packet.mark => Some(effect.at),
        _ => None,
    })?;
    Some(Marking { rule: by.name(), led_by: walk.led_to(&by).map(|at| at.name()) })
}

/// kube-proxy's rules name the address as a service's.
pub(crate) fn is_service(evidence: &NetnsEvidence, address: IpAddr) -> bool {
    let alone = |range: &IpRange| range.first == range.last && range.first == address;
    let names = |rule: &Rule| {
        let mut all = rule.matches.iter().filter(|m| !m.negated);
        all.any(|m| matches!(&m.what, Criterion::Destination(ranges) if ranges.iter().any(alone)))
    };
    let chains = || evidence.tables("nat").chain(evidence.tables("filter")).flat_map(|t| &t.chains);
    let family = if address.is_ipv4() { "ip" } else { "ip6" };
    evidence.set_has(&format!("{family} kube-proxy cluster-ips"), address)
        || chains()
            .filter(|chain| chain.name == "KUBE-SERVICES")
            .flat_map(|chain| chain.rules.iter())
            .any(names)
}

/// What to do about a rule of kube-proxy's that drops or rejects; `None` for what is none of its. `led_by`: the rule
/// that leads to its chain. `node`: the rule's, safe to print.
pub(crate) fn fix(rule: &RuleRef, led_by: Option<&RuleRef>, node: &str) -> Option<String> {
    let both = [Some(rule), led_by];
    let says = |words: &str| {
        let has =
            |r: &&RuleRef| r.comment.as_deref().unwrap_or_default().contains(words) || r.text.contains(words);
        both.iter().flatten().any(has)
    };
    // iptables mode by comment, nftables mode by the map that leads there.
    if says("no local endpoints") {
        return Some(format!(
            "the service's traffic policy is Local and {node} has no endpoint of it: ask a node that has one, or set its externalTrafficPolicy (internalTrafficPolicy for its cluster IP) to Cluster"
        ));
    }
    if says("no endpoints") || says("of map no-endpoint-") {
        let fix = "the service has no (local) endpoint: check its selector, and that its pods are ready";
        return Some(fix.to_owned());
    }
    let in_chain = |name: &str| both.iter().flatten().any(|r| r.chain.starts_with(name));
    let chain = rule.chain.as_str();
    if rule.table == "kube-proxy" && says("invalid ports of ClusterIPs") {
        return Some(
            "the service has no such port, or not of this protocol: kubectl get service -A".to_owned(),
        );
    }
    if rule.table == "kube-proxy" && says("unallocated ClusterIPs") {
        return Some(
            "no service has this address (any more): kubectl get service -A; look its name up again"
                .to_owned(),
        );
    }
    let firewall = chain.starts_with("firewall-") && rule.table == "kube-proxy"
        || chain == "KUBE-PROXY-FIREWALL"
        || in_chain("KUBE-FW-");
    firewall.then(|| "let the service's loadBalancerSourceRanges contain the client".to_owned())
}
