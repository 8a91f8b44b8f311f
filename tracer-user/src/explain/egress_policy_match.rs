// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets that EgressGateway's rules and sets did not select, or that got another source address than the policy's.

use super::context::View;
use super::packet::before_hop;
use crate::cause::Certainty::{Certain, Likely, Possible};
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::cause::policies::{self, Bare, Said};
use crate::cluster::egress::datapath::{
    REQUEST_CHAIN, SNAT_CHAIN, SOURCE_SETS, destination_set, is_marked, source_sets,
};
use crate::firewall::{
    Criterion, CtDirection, CtState, Done, IpRange, Miss, NatKind, PacketView, Rule, RuleRef, Target,
    attribute_nat, near_misses, walk_hook,
};
use crate::flow::Place as At;
use crate::node::{Hook, NetnsId};
use crate::snapshot::NetnsEvidence;

pub(super) fn explain(view: &View<'_>) -> Option<Finding> {
    let journey = view.journey;
    if journey.reply || journey.packet.icmp_error.is_some() {
        return None;
    }
    other_source(view).or_else(|| not_selected(view))
}

fn chain_rules<'e>(evidence: &'e NetnsEvidence, table: &'e str, chain: &'e str) -> Option<Vec<&'e Rule>> {
    let chains: Vec<_> = evidence.tables(table).filter_map(|t| t.chain(chain)).collect();
    (!chains.is_empty()).then(|| chains.iter().flat_map(|c| c.rules.iter()).collect())
}

/// Left a node unmarked and untunnelled, with sets of a policy that name its ends.
fn not_selected(view: &View<'_>) -> Option<Finding> {
    let journey = view.journey;
    let exit = view.bare_exit()?;
    let first =
        journey.hops.iter().find(|h| h.netns == exit.netns && !matches!(h.place, At::Route { .. }))?;
    let marked = journey.hops.iter().any(|h| h.netns == exit.netns && is_marked(h.mark));
    let translated = journey.hops.iter().any(|h| h.nat.is_some_and(|n| n.kind == NatKind::Dnat));
    if marked || translated {
        return None;
    }
    let evidence = view.of(exit.netns)?;
    let ipv6 = journey.packet.ipv6;
    let (source, destination) = (first.ends.src.addr.ip(), first.ends.dst.addr.ip());
    let sources = source_sets(ipv6);
    let name = view.netns(exit.netns);
    let place = view.place(exit.netns, 0);
    let objects = view.evidence.and_then(|e| e.policies.as_deref());
    if let Some(objects) = objects {
        let left_as = exit.ends.src.addr.ip();
        let bare =
            Bare { node: evidence, name: &name, source, destination, left_as, left: "the packet left" };
        match policies::say(objects, &bare, &|command| view.command(exit.netns, command)) {
            Some(Said::Cause(finding)) => return Some(finding.at(place)),
            Some(Said::Fine) => return None,
            Some(Said::Rules) | None => {}
        }
    }
    let policy = |set: &str, unknown: &str| {
        policies::policy_of_set(objects, set).unwrap_or_else(|| unknown.to_owned())
    };
    let rules = chain_rules(evidence, "mangle", REQUEST_CHAIN);
    for set in evidence.sets.keys().filter(|name| name.starts_with(&sources)) {
        let other = destination_set(set);
        let (from, to) = (evidence.set_has(set, source), evidence.set_has(&other, destination));
        let empty = evidence.sets.get(&other).is_some_and(|s| s.members.is_empty());
        let used = rules.as_ref().is_some_and(|rules| rules.iter().any(|rule| rule.names_set(set)));
        let list = |set: &str| view.command(exit.netns, format!("ipset list {set}"));
        // On its own gateway a pod needs no tunnel.
        let translated = || {
            chain_rules(evidence, "nat", SNAT_CHAIN).into_iter().flatten().any(|rule| {
                rule.names_set(set)
                    && matches!(rule.target(), Some(Target::Snat(to)) if to.addresses.is_some_and(|a| a.contains(exit.ends.src.addr.ip())))
            })
        };
        if from && to && translated() {
            return None;
        }
        if from && to && !used {
            return Some(
                Finding::new(
                    &c::EGRESS_NOT_HANDLED,
                    Certain,
                    format!("{} selects {source} and {destination}, but {name} has no rule that marks them: the packet left as {}", policy(set, "a policy of EgressGateway"), exit.ends.src.addr),
                )
                .checked(format!("{set} and {other} contain them"), list(set))
                .checked(
                    format!("no rule of mangle {REQUEST_CHAIN} uses these sets"),
                    view.command(exit.netns, format!("{} -t mangle -S {REQUEST_CHAIN}", view.iptables())),
                )
                .fix(format!("start (or restart) the egressgateway agent on {name}; read its log"))
                .at(place),
            );
        }
        // Here and elsewhere: what the sets of this policy hold on the other nodes that are watched.
        let others = || view.evidence.into_iter().flat_map(|e| &e.netns).filter(|(id, _)| **id != exit.netns);
        let elsewhere =
            |set: &str, address| others().find(|(_, e)| e.set_has(set, address)).map(|(id, _)| *id);
        let peer = if used && to && !from { elsewhere(set, source) } else { None };
        if let Some(peer) = peer {
            let peer = view.netns(peer);
            return Some(
                Finding::new(
                    &c::EGRESS_POD_NOT_SELECTED,
                    Certain,
                    format!("{} selects {source} for {destination}, but {name} does not know: the packet left as {}", policy(set, "an EgressPolicy"), exit.ends.src.addr),
                )
                .checked(format!("{set} of {peer} contains {source}, {set} of {name} does not"), list(set))
                .checked(format!("{other} contains {destination}"), list(&other))
                .fix(format!("restart the egressgateway agent on {name}, read its log; see the pod's EgressEndpointSlice"))
                .at(place),
            );
        }
        let nobody = |e: &NetnsEvidence| e.sets.get(set).is_none_or(|s| s.members.is_empty());
        if used && to && !from && nobody(evidence) && others().all(|(_, e)| nobody(e)) {
            return Some(
                Finding::new(
                    &c::EGRESS_POD_NOT_SELECTED,
                    Possible,
                    format!("{destination} is a destination of an EgressPolicy that selects no pod here: {source} left as {}", exit.ends.src.addr),
                )
                .checked(format!("{set} is empty"), list(set))
                .checked(format!("{other} contains {destination}"), list(&other))
                .fix("if the policy should select this pod: correct its spec.appliedTo.podSelector, or see why the agent is behind (EgressEndpointSlice)")
                .at(place),
            );
        }
        let peer = if used && from && !to { elsewhere(&other, destination) } else { None };
        if let Some(peer) = peer {
            let peer = view.netns(peer);
            return Some(
                Finding::new(
                    &c::EGRESS_DESTINATION_NOT_SELECTED,
                    Certain,
                    format!("{} sends {source} to {destination} through the gateway, but {name} does not know that destination: the packet left as {}", policy(set, "an EgressPolicy"), exit.ends.src.addr),
                )
                .checked(format!("{other} of {peer} contains {destination}, {other} of {name} does not"), list(&other))
                .fix(format!("restart the egressgateway agent on {name}, read its log"))
                .at(place),
            );
        }
        if from
            && to
            && used
            && let Some(finding) = not_reached(view, exit.netns, set)
        {
            return Some(
                finding.checked(format!("{set} and {other} contain both ends"), list(set)).at(place),
            );
        }
        if used && from && empty {
            return Some(
                Finding::new(
                    &c::EGRESS_DESTINATION_NOT_SELECTED,
                    Likely,
                    format!("an EgressPolicy selects {source}, but its set of destinations is empty: {destination} was left alone"),
                )
                .checked(format!("{other} is empty"), list(&other))
                .fix(format!("add {destination} to the policy's spec.destSubnet"))
                .at(place),
            );
        }
    }
    None
}

/// A policy's rule that would have marked the packet, what kept it from doing so, and at which hook. `set`: part of
/// the name of a set that the rule asks for.
pub(super) fn obstacle(view: &View<'_>, netns: NetnsId, set: &str) -> Option<(RuleRef, String, Hook)> {
    let (packet, hook) = entering(view, netns)?;
    let near = near_misses(view.of(netns)?, hook, "mangle", &packet);
    let near = near.into_iter().find(|m| m.rule.text.contains(set))?;
    let why = match &near.miss {
        Miss::NotReached { by, verdict } => format!("{by} ({verdict}) ends the walk before it"),
        Miss::NotEntered { jump, why, .. } => format!("{jump} does not lead there: {why}"),
        Miss::Failed { why, .. } => why.clone(),
    };
    Some((near.rule, why, hook))
}

/// The policy's own rule marks such packets, and did not get to this one, it failed on something else, or the mark
/// was replaced.
fn not_reached(view: &View<'_>, netns: NetnsId, set: &str) -> Option<Finding> {
    let (rule, why, hook) = obstacle(view, netns, set).or_else(|| replaced(view, netns, set))?;
    let name = view.netns(netns);
    let show =
        view.command(netns, format!("{} -t mangle -vnL {} --line-numbers", view.iptables(), hook.name()));
    Some(
        Finding::new(
            &c::EGRESS_NOT_HANDLED,
            Likely,
            format!("{name} does not mark the packet for its gateway: {rule} would, but {why}"),
        )
        .checked(why, show)
        .fix("let EgressGateway's rules come first in mangle PREROUTING (restart its agent; Calico: chainInsertMode: Append)"),
    )
}

/// The packet before the rules that mark, and their hook.
fn entering(view: &View<'_>, netns: NetnsId) -> Option<(PacketView, Hook)> {
    let hops = &view.journey.hops;
    let at = hops.iter().position(|h| {
        h.netns == netns
            && h.encap.is_none()
            && matches!(h.place, At::Hook { hook: Hook::Prerouting | Hook::Output, .. })
    })?;
    let At::Hook { hook, .. } = hops.get(at)?.place else { return None };
    Some((before_hop(view, at)?, hook))
}

/// The policy's rule marked the packet, and a later one set another mark.
fn replaced(view: &View<'_>, netns: NetnsId, set: &str) -> Option<(RuleRef, String, Hook)> {
    let (packet, hook) = entering(view, netns)?;
    let walk = walk_hook(view.of(netns)?, hook, i32::MIN..i32::MAX, &packet);
    let marks = walk.effects.iter().filter_map(|effect| match effect.done {
        Done::Mark { to: Some(to), .. } if effect.certain => Some((effect.at, to)),
        _ => None,
    });
    let marks: Vec<_> = marks.collect();
    let own = marks.iter().position(|(at, _)| at.rule.is_some_and(|rule| rule.names_set(set)))?;
    let (last, to) = marks.last().filter(|_| own + 1 < marks.len())?;
    Some((marks[own].0.name(), format!("{} replaces its mark by {to:#x}", last.name()), hook))
}

/// On the gateway: SNAT gave another address than the policy's rule.
fn other_source(view: &View<'_>) -> Option<Finding> {
    let hop = view.journey.hops.iter().find(|h| {
        matches!(h.place, At::Hook { hook: Hook::Postrouting, .. })
            && h.encap.is_none()
            && h.nat.is_some_and(|n| n.kind == NatKind::Snat)
    })?;
    let evidence = view.of(hop.netns)?;
    let (before, after) = (hop.nat?.from.src.addr.ip(), hop.ends.src.addr.ip());
    let destination = hop.ends.dst.addr.ip();
    let rules = chain_rules(evidence, "nat", SNAT_CHAIN)?;
    let (wanted, set): (IpRange, &str) = rules.iter().find_map(|rule| {
        let mut fits = false;
        let mut named = "";
        for m in rule.matches.iter().filter(|m| !m.negated) {
            if let Criterion::Set { name, .. } = &m.what {
                let address = if name.starts_with(SOURCE_SETS) { before } else { destination };
                if !evidence.set_has(name, address) {
                    return None;
                }
                named = name;
                fits = true;
            }
        }
        match rule.target() {
            Some(Target::Snat(to)) if fits => Some((to.addresses?, named)),
            _ => None,
        }
    })?;
    if wanted.contains(after) {
        return None;
    }
    let at = view.journey.hops.iter().position(|h| std::ptr::eq(h, hop))?;
    let by = hop.nat.and_then(|n| n.interval).and_then(|interval| {
        let packet = PacketView {
            ct_state: Some(CtState::New),
            ct_direction: Some(CtDirection::Original),
            ..before_hop(view, at)?
        };
        attribute_nat(evidence, &interval, &packet, NatKind::Snat, Some((after, 0))).rules.into_iter().next()
    });
    let first = by.as_ref().map_or_else(|| "another rule".to_owned(), ToString::to_string);
    Some(
        Finding::new(
            &c::SNAT_TO_ANOTHER_ADDRESS,
            Certain,
            format!("{} translated the source to {after}, the policy's egress IP is {wanted}: {first} came first", view.netns(hop.netns)),
        )
        .checked(
            format!("{SNAT_CHAIN} would give {wanted} ({set} matches)"),
            view.command(hop.netns, format!("{} -t nat -S {SNAT_CHAIN}", view.iptables())),
        )
        .checked(
            "what stands before it in nat POSTROUTING",
            view.command(hop.netns, format!("{} -t nat -vnL POSTROUTING --line-numbers", view.iptables())),
        )
        .fix(format!("let the jump to {SNAT_CHAIN} be the first rule of nat POSTROUTING (restart the egressgateway agent), or remove the rule before it"))
        .at(view.place(hop.netns, 0)),
    )
}

/// A proxy listens in the pod, and nothing is redirected to it.
pub(super) fn sidecar_bypassed(view: &View<'_>) -> Option<Finding> {
    const PROXY_PORTS: [u16; 3] = [15001, 15003, 15006];
    let journey = view.journey;
    let first = journey.hops.iter().find(|h| !matches!(h.place, At::Route { .. }))?;
    if journey.reply || !view.is_syn() || !view.scene().is_pod(first.netns) {
        return None;
    }
    if journey.conntrack.iter().any(|e| e.translates()) || journey.hops.iter().any(|h| h.nat.is_some()) {
        return None;
    }
    let evidence = view.of(first.netns)?;
    let proxy = evidence.sockets.iter().find(|s| s.proto == 6 && PROXY_PORTS.contains(&s.local.port()))?;
    if evidence
        .tables("nat")
        .flat_map(|t| &t.chains)
        .flat_map(|c| c.rules.iter())
        .any(|r| matches!(r.target(), Some(Target::Redirect { .. } | Target::Dnat(_) | Target::Tproxy(_))))
    {
        return None;
    }
    let name = view.netns(first.netns);
    let port = proxy.local.port();
    Some(
        Finding::new(
            &c::SIDECAR_BYPASSED,
            Likely,
            format!("traffic of {name} bypasses its sidecar: the proxy listens on {port}, but no rule redirects to it"),
        )
        .checked("no REDIRECT rule in its nat table", view.command(first.netns, "iptables -t nat -S"))
        .checked(format!("a proxy listens on {port}"), view.command(first.netns, "ss -tlnp"))
        .fix("see whether the init container that writes the rules ran and ended with 0; restart the pod")
        .at(view.place(first.netns, 0)),
    )
}
