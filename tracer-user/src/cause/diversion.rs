// SPDX-License-Identifier: MIT OR Apache-2.0
//! A NAT rule that sent a packet where it does not get through.

use super::catalogue as c;
use super::finding::Certainty::Likely;
use super::finding::{Finding, Place};
use crate::cluster::egress::datapath::CHAIN_PREFIX;
use crate::firewall::{Backend, Hiding, NodeFacts, PacketView, RuleRef, hides};
use crate::node::{Hook, NetnsId};
use crate::snapshot::Change;

/// Whose translations are as they should be: kube-proxy, network plugins, port mappings, sidecars, EgressGateway.
const ORDINARY: [&str; 16] = [
    "KUBE-",
    "CNI-",
    "DOCKER",
    "NETAVARK",
    "FLANNEL",
    "cali-",
    "CILIUM_",
    "WEAVE",
    "ANTREA-",
    "ISTIO_",
    "PROXY_",
    "LINKERD",
    "CUSTOM_",
    "OUTPUT_direct",
    CHAIN_PREFIX,
    "IP-MASQ-AGENT",
];
const ORDINARY_TABLES: [&str; 3] = ["kube-proxy", "cilium", "netavark"];

/// A translation by a rule, in words.
#[derive(Clone, Debug)]
pub(crate) struct Diversion {
    pub(crate) rule: RuleRef,
    pub(crate) id: NetnsId,
    pub(crate) netns: String,
    pub(crate) hook: &'static str,
    /// "source" or "destination".
    pub(crate) what: &'static str,
    pub(crate) from: String,
    pub(crate) to: String,
    /// Commands: shows the rule; makes conntrack forget.
    pub(crate) list: String,
    pub(crate) forget: String,
    /// Another rule for the same packets comes after it; the command that takes the first one away.
    pub(crate) hides: Option<(String, Hiding)>,
}

impl Diversion {
    /// It as the cause of what was found after it, where that may follow from it.
    pub(crate) fn explains(&self, found: &Finding) -> Option<Finding> {
        found.kind().follows.then(|| self.led_to(found))
    }

    pub(crate) fn led_to(&self, found: &Finding) -> Finding {
        let Self { rule, netns, what, from, to, .. } = self;
        let mut finding = Finding::new(
            &c::TRANSLATED_ASTRAY,
            Likely,
            format!(
                "{rule} on {netns} changes the {what} {from} to {to}, and so the packet does not get through: {}",
                found.title
            ),
        )
        .checked(
            if rule.text.is_empty() { format!("{rule} translates") } else { format!("the rule: {}", rule.text) },
            self.list.clone(),
        );
        finding.evidence.extend(found.evidence.iter().take(1).cloned());
        finding.besides =
            format!("then `{}`: connections that are known keep their translation", self.forget);
        let fix = format!("remove or correct that rule, {}", finding.besides);
        let place = Place {
            netns: netns.clone(),
            hook: Some(self.hook.to_owned()),
            rule: Some(rule.place()),
            ..Place::default()
        };
        let finding = finding.change(self.id, Change::DeleteRule(rule.clone())).about(rule.place()).at(place);
        match &self.hides {
            Some((remove, Hiding { rule: first, hidden, to })) => finding
                .checked(
                    format!("{hidden} comes after it and would send the same packets to {to}: {first} was left behind, or is too early"),
                    self.list.clone(),
                )
                .fix(remove),
            None => finding.fix(fix),
        }
    }
}

/// A rule for a mapped port before another one for it. kube-proxy writes all of its rules anew, and leaves none behind.
pub(crate) fn hides_another(
    node: &dyn NodeFacts,
    hook: Hook,
    packet: &PacketView,
    rule: &RuleRef,
) -> Option<Hiding> {
    if rule.chain.starts_with("KUBE-") || rule.backend == Backend::Nft {
        return None;
    }
    hides(node, hook, packet, rule)
}

/// The command that takes a rule of iptables away.
pub(crate) fn removal(rule: &RuleRef, ipv6: bool) -> String {
    let tool = if ipv6 { "ip6tables" } else { "iptables" };
    let legacy = if rule.backend == Backend::IptablesLegacy { "-legacy" } else { "" };
    format!("{tool}{legacy} -t {} -D {} {}", rule.table, rule.chain, rule.number)
}

/// Masquerading, and rules of those whose business it is.
pub(crate) fn is_ordinary(rule: &RuleRef) -> bool {
    rule.text.to_ascii_lowercase().contains("masquerade") || is_of_a_service(rule)
}

/// A rule of those whose business translations are.
pub(crate) fn is_of_a_service(rule: &RuleRef) -> bool {
    let comment = rule.comment.as_deref().unwrap_or_default();
    ORDINARY.iter().any(|chain| rule.chain.starts_with(chain))
        || ORDINARY_TABLES.iter().any(|table| rule.table.starts_with(table))
        || comment.starts_with("cali:")
        || comment.contains("kubernetes")
}
