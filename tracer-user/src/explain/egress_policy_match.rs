// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets that EgressGateway's rules and sets did not select, or that got another source address than the policy's.

use super::context::View;
use super::packet::before_hop;
use crate::cause::Certainty::{Certain, Likely};
use crate::cause::Finding;
use crate::cause::bare::Bare;
use crate::cause::catalogue as c;
use crate::cause::policies::{self, Said};
use crate::cause::policy_sets;
use crate::cluster::egress::datapath::{SNAT_CHAIN, SOURCE_SETS, is_marked};
use crate::firewall::{
    Criterion, CtDirection, CtState, Done, IpRange, Miss, NatKind, PacketView, Rule, RuleRef, Target,
    attribute_nat, near_misses, walk_hook,
};
use crate::flow::{Hop, Place as At};
use crate::node::{Hook, NetnsId, PathRole, Role};
use crate::snapshot::NetnsEvidence;

pub(super) fn explain(view: &View<'_>) -> Option<Finding> {
    if view.journey.reply || view.journey.packet.icmp_error.is_some() {
        return None;
    }
    other_source(view).or_else(|| not_selected(view))
}

fn chain_rules<'e>(evidence: &'e NetnsEvidence, table: &'e str, chain: &'e str) -> Option<Vec<&'e Rule>> {
    let chains: Vec<_> = evidence.tables(table).filter_map(|t| t.chain(chain)).collect();
    (!chains.is_empty()).then(|| chains.iter().flat_map(|c| c.rules.iter()).collect())
}

/// Where it left its node unmarked and untunnelled, or would have if anybody had answered for its next hop.
fn leaving<'a>(view: &View<'a>) -> Option<&'a Hop> {
    let hops = &view.journey.hops;
    let unsent = || {
        let site = view.dropped().filter(|site| view.reason(site) == "NEIGH_FAILED")?;
        hops.iter().rev().find(|hop| {
            let At::Hook { hook: Hook::Postrouting, out_ifindex, .. } = hop.place else { return false };
            let device = view.device(hop.netns, out_ifindex);
            hop.netns == site.netns
                && hop.encap.is_none()
                && device.is_some_and(|d| d.watched == Some(PathRole::Uplink))
        })
    };
    view.bare_exit().or_else(unsent)
}

/// As [`leaving`], with policies that name its ends.
pub(super) fn not_selected(view: &View<'_>) -> Option<Finding> {
    let journey = view.journey;
    if journey.reply || journey.packet.icmp_error.is_some() {
        return None;
    }
    let exit = leaving(view)?;
    let first =
        journey.hops.iter().find(|h| h.netns == exit.netns && !matches!(h.place, At::Route { .. }))?;
    let marked = journey.hops.iter().any(|h| h.netns == exit.netns && is_marked(h.mark));
    let translated = journey.hops.iter().any(|h| h.nat.is_some_and(|n| n.kind == NatKind::Dnat));
    if marked || translated {
        return None;
    }
    let evidence = view.of(exit.netns)?;
    let (source, destination) = (first.ends.src.addr.ip(), first.ends.dst.addr.ip());
    let name = view.netns(exit.netns);
    let place = view.place(exit.netns, 0);
    let objects = view.evidence.and_then(|e| e.policies.as_deref());
    let left_as = exit.ends.src.addr.ip();
    let left = if view.dropped().is_some() { "it would have left" } else { "the packet left" };
    let bare = Bare { node: evidence, name: &name, source, destination, left_as, left };
    let nodes = others(view, exit.netns);
    if let Some(objects) = objects {
        match policies::say(objects, &bare, &nodes, &|command| view.command(exit.netns, command)) {
            Some(Said::Cause(finding)) => return Some(finding.at(place)),
            Some(Said::Fine) => return None,
            Some(Said::Rules) | None => {}
        }
    }
    let asked = policy_sets::ForeignDestination {
        bare: &bare,
        others: &nodes,
        objects,
        command: &|command| view.command(exit.netns, command),
        missed: &|set| {
            let (rule, why, _) =
                obstacle(view, exit.netns, set).or_else(|| replaced(view, exit.netns, set))?;
            Some((Likely, format!("{rule} would mark it, but {why}")))
        },
    };
    policy_sets::say(&asked).map(|finding| finding.at(place))
}

/// The other nodes that are watched, by name.
pub(super) fn others<'a>(view: &View<'a>, netns: NetnsId) -> Vec<(String, &'a NetnsEvidence)> {
    let nodes = view.evidence.into_iter().flat_map(|evidence| &evidence.netns);
    let nodes = nodes.filter(|(id, _)| **id != netns && view.role_of(**id) == Some(Role::Node));
    nodes.map(|(id, evidence)| (view.netns(*id), evidence.as_ref())).collect()
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
