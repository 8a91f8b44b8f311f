// SPDX-License-Identifier: MIT OR Apache-2.0
//! Routing loops.

use super::context::View;
use super::other_hooks;
use crate::cause::Certainty::{self, Certain, Likely};
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::cluster::egress::datapath::is_marked;
use crate::flow::{DropSite, NoteKind};
use crate::node::Role;

/// TTL or hop limit is used up.
pub(super) fn ttl_used_up(view: &View<'_>, site: &DropSite) -> Option<Finding> {
    let journey = view.journey;
    let looped = journey.notes.iter().any(|n| matches!(n.what, NoteKind::Looped { .. }));
    if !looped && journey.packet.ttl <= 16 {
        // Sent with a small TTL: traceroute.
        return None;
    }
    if !looped && let Some(found) = other_hooks::ttl_lowered(view, site) {
        return Some(found);
    }
    Some(
        circle(view, site, if looped { Certain } else { Likely })
            .fact(if looped { "seen at the same place again and again with a smaller TTL" } else { "its TTL was used up here" })
            .fix(if is_marked(site.mark) {
                "an EgressGateway mark is put on packets that come back from the gateway: upgrade the agent to 0.6.6 or later"
            } else {
                "two nodes route to each other: correct the route (or the mark that chooses it) on one of them"
            }),
    )
}

/// It came back to a host that had sent it on, from the host's own address.
pub(super) fn came_back(view: &View<'_>, site: &DropSite) -> Finding {
    let (name, device) = (view.netns(site.netns), view.device_name(site.netns, site.ifindex));
    circle(view, site, Certain)
        .fact(format!(
            "{name} sent it, and it came back by {device} with {name}'s own address as its source: {}",
            view.reason(site)
        ))
        .fix("two hosts route to each other: correct the route on one of them")
}

fn circle(view: &View<'_>, site: &DropSite, sure: Certainty) -> Finding {
    let to = view.journey.hops.last().map_or(view.journey.packet.ends, |h| h.ends).dst.addr;
    let mut by: Vec<String> = Vec::new();
    let mut told = Vec::new();
    for lookup in view.lookups().filter(|l| l.error == 0 && !l.reverse && !l.encap && l.ifindex != 0) {
        // The first of each host: others may be of the outer packet.
        if view.role_of(lookup.netns) == Some(Role::Pod) || told.contains(&lookup.netns) || told.len() == 3 {
            continue;
        }
        told.push(lookup.netns);
        let (name, device) = (view.netns(lookup.netns), view.device_name(lookup.netns, lookup.ifindex));
        let next = if lookup.gateway.is_none() { String::new() } else { format!("to {} ", lookup.gateway) };
        by.push(format!("{name} sends them {next}by {device}"));
    }
    let by = if by.is_empty() { String::new() } else { format!(": {}", by.join(", ")) };
    let ip = view.ip_command();
    Finding::new(&c::ROUTING_LOOP, sure, format!("packets to {to} go round in circles{by}"))
        .checked(
            format!("the way it takes from {}", view.netns(site.netns)),
            view.command(site.netns, format!("{ip} rule; {ip} route get {to}")),
        )
        .about(to)
        .at(view.place(site.netns, 0))
}
