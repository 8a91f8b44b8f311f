// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the sets and rules of EgressGateway's agents say of a packet that left its node without mark and tunnel, or
//! would. Shared with `check`.

use std::net::IpAddr;

use super::bare::Bare;
use super::catalogue as c;
use super::cluster_address::{of_cluster, rules, selects};
use super::finding::Certainty::{self, Certain, Likely, Possible};
use super::finding::Finding;
use super::policies;
use crate::cluster::egress::Objects;
use crate::cluster::egress::datapath::{REQUEST_CHAIN, SNAT_CHAIN, cluster_set};
use crate::firewall::{Criterion, Rule, Target};
use crate::snapshot::NetnsEvidence;

/// What is asked about, and what is known besides the pod's node.
pub(crate) struct ForeignDestination<'a> {
    pub(crate) bare: &'a Bare<'a>,
    /// The other nodes that were read, by name.
    pub(crate) others: &'a [(String, &'a NetnsEvidence)],
    pub(crate) objects: Option<&'a Objects>,
    pub(crate) command: &'a dyn Fn(String) -> String,
    /// Why the rule that asks for this set did not act, and how sure that is.
    pub(crate) missed: &'a dyn Fn(&str) -> Option<(Certainty, String)>,
}

/// The surest of what the policies' sets say; nothing where one of them has the packet leave as it does.
pub(crate) fn say(asked: &ForeignDestination<'_>) -> Option<Finding> {
    let bare = asked.bare;
    let prefix = if bare.source.is_ipv6() { "egress-src-v6-" } else { "egress-src-v4-" };
    let mut found: Option<Finding> = None;
    for from in bare.node.sets.keys().filter(|set| set.starts_with(prefix)) {
        let policy = NamedPolicy { from, to: from.replacen("-src-", "-dst-", 1) };
        if policy.selects_source(bare.node, bare.source)
            && policy.selects_destination(bare.node, bare)
            && policy.is_gateway(bare)
        {
            return None;
        }
        if let Some(more) = policy.say(asked)
            && found.as_ref().is_none_or(|known| more.certainty < known.certainty)
        {
            found = Some(more);
        }
    }
    found
}

/// A policy, by its sets.
struct NamedPolicy<'a> {
    from: &'a str,
    to: String,
}

impl NamedPolicy<'_> {
    fn selects_source(&self, node: &NetnsEvidence, source: IpAddr) -> bool {
        node.set_has(self.from, source)
    }

    /// By its rule, where there is one: without destinations it is for all that is not the cluster's.
    fn selects_destination(&self, node: &NetnsEvidence, bare: &Bare<'_>) -> bool {
        let mut rules = self.rules(node).peekable();
        match rules.peek() {
            Some(_) => rules.any(|rule| self.lets(node, rule, bare)),
            None => !node.sets.contains_key(&self.to) || node.set_has(&self.to, bare.destination),
        }
    }

    /// The rule's other sets have the destination.
    fn lets(&self, node: &NetnsEvidence, rule: &Rule, bare: &Bare<'_>) -> bool {
        selects(node, rule, bare.source, bare.destination)
            || rule.matches.iter().all(|m| match &m.what {
                Criterion::Set { name, .. } if name != self.from => {
                    node.set_has(name, bare.destination) != m.negated
                }
                _ => true,
            })
    }

    fn rules<'n>(&self, node: &'n NetnsEvidence) -> impl Iterator<Item = &'n Rule> {
        rules(node).filter(move |rule| rule.names_set(self.from))
    }

    /// This node is its gateway and gives the source that the packet has: no mark is needed.
    fn is_gateway(&self, bare: &Bare<'_>) -> bool {
        let chains = bare.node.tables("nat").filter_map(|t| t.chain(SNAT_CHAIN));
        chains.flat_map(|chain| chain.rules.iter()).filter(|rule| rule.names_set(self.from)).any(|rule| {
            let Some(Target::Snat(to)) = rule.target() else { return false };
            to.addresses.is_some_and(|range| range.contains(bare.left_as))
        })
    }

    fn say(&self, asked: &ForeignDestination<'_>) -> Option<Finding> {
        let ForeignDestination { bare, others, objects, command, .. } = *asked;
        let Bare { node, name, source, destination, left_as, left } = *bare;
        let (from, to) = (self.from, &self.to);
        let policy =
            |unknown: &str| policies::policy_of_set(objects, from).unwrap_or_else(|| unknown.to_owned());
        let list = |set: &str| command(format!("ipset list {set}"));
        let elsewhere =
            |set: &str, address| others.iter().find(|(_, e)| e.set_has(set, address)).map(|(name, _)| name);
        let used = self.rules(node).next().is_some();
        let (has_source, has_destination) =
            (self.selects_source(node, source), self.selects_destination(node, bare));
        let restart = format!("restart the egressgateway agent on {name}, read its log");
        match (has_source, has_destination) {
            (true, true) => {
                let tables = if source.is_ipv6() { "ip6tables" } else { "iptables" };
                let chain = |chain: &str| command(format!("{tables} -t mangle -vnL {chain} --line-numbers"));
                let (certainty, why, show, fix) = if used {
                    let (certainty, why) = (asked.missed)(from)?;
                    let fix = "let EgressGateway's rules come first in mangle PREROUTING (restart its agent; Calico: FelixConfiguration chainInsertMode: Append)";
                    (certainty, why, chain("PREROUTING"), fix.to_owned())
                } else {
                    let why = format!("no rule of mangle {REQUEST_CHAIN} uses these sets");
                    (
                        Certain,
                        why,
                        chain(REQUEST_CHAIN),
                        format!("start (or restart) the egressgateway agent on {name}; read its log"),
                    )
                };
                Some(
                    Finding::new(
                        &c::EGRESS_NOT_HANDLED,
                        certainty,
                        format!("{} selects {source} and {destination}, but {name} does not mark them: {left} as {left_as}", policy("a policy of EgressGateway")),
                    )
                    .checked(why, show)
                    .checked(format!("{from} and {to} select both ends"), list(from))
                    .fix(fix),
                )
            }
            (false, true) if used => {
                if let Some(peer) = elsewhere(from, source) {
                    return Some(
                        Finding::new(
                            &c::EGRESS_POD_NOT_SELECTED,
                            Certain,
                            format!("{} selects {source} for {destination}, but {name} does not know: {left} as {left_as}", policy("an EgressPolicy")),
                        )
                        .checked(format!("{from} of {peer} contains {source}, {from} of {name} does not"), list(from))
                        .checked(format!("{to} contains {destination}"), list(to))
                        .fix(format!("{restart}; see the pod's EgressEndpointSlice")),
                    );
                }
                let nobody = |e: &NetnsEvidence| e.sets.get(from).is_none_or(|s| s.members.is_empty());
                let meant = nobody(node) && others.iter().all(|(_, e)| nobody(e)) && !self.is_own(asked);
                meant.then(|| {
                    Finding::new(
                        &c::EGRESS_POD_NOT_SELECTED,
                        Possible,
                        format!("{destination} is a destination of an EgressPolicy that selects no pod here: {source} goes without the gateway, as {left_as}"),
                    )
                    .checked(format!("{from} is empty"), list(from))
                    .fix("if the policy should select this pod: correct its spec.appliedTo.podSelector, or see why the agent is behind (EgressEndpointSlice)")
                })
            }
            (true, false) if used => {
                if let Some(peer) = elsewhere(to, destination) {
                    return Some(
                        Finding::new(
                            &c::EGRESS_DESTINATION_NOT_SELECTED,
                            Certain,
                            format!("{} sends {source} to {destination} through the gateway, but {name} does not know that destination: {left} as {left_as}", policy("an EgressPolicy")),
                        )
                        .checked(format!("{to} of {peer} contains {destination}, {to} of {name} does not"), list(to))
                        .fix(restart),
                    );
                }
                if self.is_own(asked) {
                    return None;
                }
                let empty = node.sets.get(to).is_some_and(|set| set.members.is_empty());
                let (certainty, why) = if empty {
                    (Likely, "its set of destinations is empty")
                } else {
                    (Possible, "this is none of its destinations")
                };
                Some(
                    Finding::new(
                        &c::EGRESS_DESTINATION_NOT_SELECTED,
                        certainty,
                        format!("{} selects {source}, and {why}: {destination} is reached without the gateway, as {left_as}", policy("an EgressPolicy")),
                    )
                    .checked(if empty { format!("{to} is empty") } else { format!("{to} does not contain {destination}") }, list(to))
                    .fix(format!("if it is to leave by the gateway: add {destination} to the policy's spec.destSubnet")),
                )
            }
            _ => None,
        }
    }

    /// The destination is the cluster's own: no policy is meant for it.
    fn is_own(&self, asked: &ForeignDestination<'_>) -> bool {
        let (node, to) = (asked.bare.node, asked.bare.destination);
        node.set_has(cluster_set(to.is_ipv6()), to) || of_cluster(node, asked.others, to).is_some()
    }
}
