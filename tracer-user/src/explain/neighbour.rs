// SPDX-License-Identifier: MIT OR Apache-2.0
//! The MAC of the next hop could not be resolved: who was asked and, where the owner is watched too, why it does not
//! answer.

use std::net::IpAddr;

use super::context::View;
use super::duplicate::is_everybodys;
use super::{neighbour_owner, tunnel};
use crate::cause::Certainty::{Certain, Likely};
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::firewall::NatKind;
use crate::flow::{DropSite, Hop, Place as At};
use crate::node::{DeviceKind, Hook, NetnsId, Role};
use crate::snapshot::Routed;

/// A question for a MAC.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    /// Who asks, and by which device.
    pub(super) netns: NetnsId,
    pub(super) ifindex: u32,
    pub(super) next: IpAddr,
    /// `next` is a gateway, not the destination itself.
    pub(super) is_gateway: bool,
    /// The source of the packet that waits: an ARP request has it.
    pub(super) source: IpAddr,
}

/// NEIGH_FAILED and its like.
pub(super) fn failed(view: &View<'_>, site: &DropSite) -> Finding {
    let question = question(view, site.netns, site.encap, site.mark);
    let question = Question { ifindex: site.ifindex, ..question };
    explain(view, &question, format!("address resolution failed: {}", view.reason(site)))
}

/// A packet that waits, while nobody has answered: the kernel asks for some three seconds before it gives up.
pub(super) fn pending(view: &View<'_>) -> Option<Finding> {
    let question = unresolved(view)?;
    let next = question.next;
    let mut finding =
        explain(view, &question, format!("the packet waits for the MAC of {next}: its entry is INCOMPLETE"));
    finding.certainty = finding.certainty.max(Likely);
    Some(finding)
}

/// Its next hop's entry is being resolved: the packet is in that entry's queue.
pub(super) fn waits(view: &View<'_>) -> bool {
    unresolved(view).is_some()
}

fn unresolved(view: &View<'_>) -> Option<Question> {
    const NUD_INCOMPLETE: u16 = 0x01;
    let last = view.journey.hops.last()?;
    let question = question(view, last.netns, last.encap, last.mark);
    let Question { netns, ifindex, next, .. } = question;
    let entry = view.of(netns)?.neighbours.iter().find(|n| n.ifindex == ifindex && n.address == next)?;
    (entry.state & NUD_INCOMPLETE != 0).then_some(question)
}

/// Whose MAC the packet needs there: by the lookup that was seen, else as the tables say.
fn question(view: &View<'_>, netns: NetnsId, encap: Option<u8>, mark: u32) -> Question {
    let ends = view.journey.hops.last().map_or(view.journey.packet.ends, |h| h.ends);
    let lookup = view.last_lookup(netns, encap.is_some()).filter(|l| l.error == 0);
    // A translation in OUTPUT has the way looked up again, unseen.
    let lookup = lookup.filter(|_| encap.is_some() || !rerouted(view, netns));
    let (gateway, ifindex) = match lookup {
        Some(lookup) => ((!lookup.gateway.is_none()).then_some(lookup.gateway.ip()), lookup.ifindex),
        // So do IPv6 sockets.
        None if encap.is_none() => view
            .of(netns)
            .and_then(|e| match e.routed(Some(ends.src.addr.ip()), ends.dst.addr.ip(), mark) {
                Routed::By(route) => route.next_hops.first().map(|hop| (hop.gateway, hop.ifindex)),
                _ => None,
            })
            .unwrap_or_default(),
        None => (None, 0),
    };
    let outer = encap.and_then(|i| view.journey.encaps.get(usize::from(i)));
    let gateway = gateway.filter(|gateway| !redirected(view, (netns, ifindex), *gateway, ends.dst.addr.ip()));
    Question {
        netns,
        ifindex,
        next: gateway.unwrap_or(outer.map_or(ends.dst.addr, |o| o.dst.addr).ip()),
        is_gateway: gateway.is_some(),
        source: outer.map_or(ends.src.addr, |o| o.src.addr).ip(),
    }
}

/// The gateway is known, and it is the destination itself that is looked for: an ICMP redirect said that it is on
/// this network.
fn redirected(
    view: &View<'_>,
    (netns, ifindex): (NetnsId, u32),
    gateway: IpAddr,
    destination: IpAddr,
) -> bool {
    let Some(evidence) = view.of(netns) else { return false };
    let here =
        |address| evidence.neighbours.iter().find(move |n| n.ifindex == ifindex && n.address == address);
    here(gateway).is_some_and(|n| !n.mac.is_empty()) && here(destination).is_some_and(|n| n.mac.is_empty())
}

/// The destination was changed after the way was looked up.
fn rerouted(view: &View<'_>, netns: NetnsId) -> bool {
    let hops = &view.journey.hops;
    let looked = hops.iter().rposition(|h| {
        h.netns == netns && h.encap.is_none() && matches!(h.place, At::Route { reverse: false, .. })
    });
    let translated = |h: &Hop| {
        h.netns == netns
            && h.encap.is_none()
            && matches!(h.place, At::Hook { hook: Hook::Output, .. })
            && h.nat.is_some_and(|n| matches!(n.kind, NatKind::Dnat | NatKind::Both))
    };
    hops.iter().rposition(translated) > looked
}

/// Why nobody answers. `seen`: what shows it.
pub(super) fn explain(view: &View<'_>, question: &Question, seen: String) -> Finding {
    let Question { netns, ifindex, next, is_gateway, .. } = *question;
    let device = view.device_name(netns, ifindex);
    let check = view.command(netns, format!("ip neigh show {next} dev {device}"));
    if view.is_vxlan(netns, ifindex) {
        return of_tunnel(view, question, seen);
    }
    if let Some(finding) = tunnel::wrong_peer(view).filter(|_| !is_gateway) {
        return finding.checked(seen, check);
    }
    if let Some(finding) = neighbour_owner::explain(view, question) {
        return finding.checked(seen, check);
    }
    let pod = view.namespace(netns).is_some_and(|ns| ns.role == Role::Pod);
    let unowned = is_gateway && view.owner(next).is_none();
    let bridge =
        neighbour_owner::segment(view, netns, ifindex).filter(|at| unowned && *at != (netns, ifindex));
    let bridge = bridge.and_then(|(ns, bridge)| view.device(ns, bridge).map(|d| (ns, d)));
    let bridge = bridge.filter(|(_, d)| d.kind == DeviceKind::Bridge);
    let what = match (bridge, is_gateway, pod) {
        (Some((ns, d)), ..) => {
            let same = |a: &&IpAddr| a.is_ipv6() == next.is_ipv6() && !is_everybodys(**a);
            let own: Vec<String> = d.addresses.iter().filter(same).map(ToString::to_string).collect();
            let own = if own.is_empty() { "no address".to_owned() } else { own.join(", ") };
            let (at, name) = (view.device_name(ns, d.ifindex), view.netns(ns));
            format!(
                "the gateway {next} does not answer on {device}: nobody watched has that address, and {at} of {name}, the bridge there, has {own}"
            )
        }
        (None, true, true) => format!(
            "the pod's gateway {next} does not answer on {device}: wrong gateway, or its host is not there"
        ),
        (None, true, false) => format!("the gateway {next} does not answer on {device}"),
        (None, false, _) => format!(
            "{next} does not answer on {device}: no such host or pod, it is down, or it is not on that network"
        ),
    };
    let entry = view.journey.conntrack.iter().find(|e| e.reply.src.addr.ip() == next && e.translates());
    let translated = |h: &&Hop| h.nat.is_some_and(|n| matches!(n.kind, NatKind::Dnat | NatKind::Both));
    let fix = match entry.filter(|_| !is_gateway) {
        Some(entry) => format!(
            "{next} is where {} is translated to: if that endpoint is gone, remove its rule and `{}`",
            entry.original.dst,
            view.command(
                view.journey.hops.iter().find(translated).map_or(netns, |h| h.netns),
                format!("conntrack -D -d {}", entry.original.dst.addr)
            )
        ),
        None if is_gateway => format!(
            "set a gateway that exists: {}",
            view.command(netns, format!("{} route", ip_command(next)))
        ),
        None => format!("start {next}, or correct the address that was asked for"),
    };
    Finding::new(&c::NEIGHBOUR_SILENT, Certain, what)
        .checked(seen, check)
        .fix(fix)
        .about(next)
        .at(view.place(netns, ifindex))
}

pub(super) fn ip_command(address: IpAddr) -> &'static str {
    if address.is_ipv6() { "ip -6" } else { "ip" }
}

/// A tunnel has nobody to ask: its agent writes the entries.
fn of_tunnel(view: &View<'_>, question: &Question, seen: String) -> Finding {
    let Question { netns, ifindex, next, .. } = *question;
    let device = view.device_name(netns, ifindex);
    let known: Vec<String> = view.of(netns).map_or_else(Vec::new, |e| {
        let here = e.neighbours.iter().filter(|n| n.ifindex == ifindex && !n.mac.is_empty());
        here.filter(|n| n.address.is_ipv6() == next.is_ipv6())
            .map(|n| n.address.to_string())
            .take(4)
            .collect()
    });
    let finding = Finding::new(
        &c::TUNNEL_NEIGHBOUR_MISSING,
        Certain,
        format!("{device} has no neighbour entry for its peer {next}: that node was not made known to it"),
    )
    .checked(seen, view.command(netns, format!("ip neigh show dev {device}")));
    let finding = if known.is_empty() {
        finding
    } else {
        finding.checked(
            format!("the peers that {device} knows: {}; is {next} the right one?", known.join(", ")),
            view.command(netns, format!("{} route show table all dev {device}", ip_command(next))),
        )
    };
    finding
        .fix(format!("the agent that owns {device} must add the peer (restart it, read its log), or correct the route that names {next}"))
        .about(next)
        .at(view.place(netns, ifindex))
}
