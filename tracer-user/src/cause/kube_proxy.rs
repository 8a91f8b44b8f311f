// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rules of kube-proxy that drop or reject, in both of its modes, and what that says of the service.

use crate::firewall::RuleRef;

/// What to do about a rule of kube-proxy's that drops or rejects; `None` for what is none of its. `led_by`: the rule
/// that leads to its chain.
pub(crate) fn fix(rule: &RuleRef, led_by: Option<&RuleRef>) -> Option<String> {
    let both = [Some(rule), led_by];
    let says = |words: &str| {
        let has =
            |r: &&RuleRef| r.comment.as_deref().unwrap_or_default().contains(words) || r.text.contains(words);
        both.iter().flatten().any(has)
    };
    // iptables mode by comment, nftables mode by the map that leads there.
    if says("no endpoints") || says("no local endpoints") || says("of map no-endpoint-") {
        let fix = "the service has no (local) endpoint: check its selector, and that its pods are ready";
        return Some(fix.to_owned());
    }
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
        || chain.starts_with("KUBE-FW-");
    firewall.then(|| "let the service's loadBalancerSourceRanges contain the client".to_owned())
}
