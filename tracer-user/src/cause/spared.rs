// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rules that would have let a packet go on before another one ended it, but for one condition.

use super::finding::Finding;
use crate::firewall::{Backend, Miss, NodeFacts, PacketView, RuleRef, nearly_spared};

/// Adds to the finding about `ended` what nearly spared the packet, where that is one rule. `command`: as it is typed.
pub(crate) fn tell(
    mut finding: Finding,
    node: &dyn NodeFacts,
    packet: &PacketView,
    ended: &RuleRef,
    command: &dyn Fn(String) -> String,
) -> Finding {
    let near = nearly_spared(node, packet, ended);
    let [one] = near.as_slice() else { return finding };
    let (rule, Miss::Failed { condition, why }) = (&one.rule, &one.miss) else { return finding };
    // What nobody marked is not meant by a rule for a mark, and the policy is for all the rest.
    if ended.number == 0 && condition.contains("mark") && packet.mark == Some(0) {
        return finding;
    }
    finding.title.push_str(&format!("; {rule} would have spared it, but {why}"));
    let finding = finding.fact(format!("the rule that did not: {}", rule.text));
    let text = rule.text.strip_prefix(&format!("-A {} ", rule.chain));
    let tool = if packet.src.is_ipv4() { "iptables" } else { "ip6tables" };
    let tool = match rule.backend {
        Backend::Nft => return finding,
        Backend::IptablesNft => tool.to_owned(),
        Backend::IptablesLegacy => format!("{tool}-legacy"),
    };
    match text {
        Some(text) if condition.starts_with("-m rpfilter") && !text.contains("--loose") => {
            let text = text.replacen("-m rpfilter", "-m rpfilter --loose", 1);
            let RuleRef { table, chain, number, .. } = rule;
            finding.fix(command(format!("{tool} -t {table} -R {chain} {number} {text}")))
        }
        _ => finding,
    }
}

/// A rule that a NetworkPolicy was made into: it does what it is for.
pub(crate) fn is_network_policy(rule: &RuleRef) -> bool {
    /// Calico, kube-router, Weave Net, Antrea.
    const CHAINS: [&str; 5] = ["cali-", "KUBE-NWPLCY-", "KUBE-POD-FW-", "WEAVE-NPC", "ANTREA-POL-"];
    let comment = rule.comment.as_deref().unwrap_or_default();
    CHAINS.iter().any(|chain| rule.chain.starts_with(chain)) || comment.contains("polic")
}
