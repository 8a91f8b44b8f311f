// SPDX-License-Identifier: MIT OR Apache-2.0
//! The MAC of the next hop could not be resolved: who was asked and, where the owner is watched too, why it does not
//! answer.

use std::net::IpAddr;

use super::context::View;
use crate::cause::Certainty::{Likely, Possible};
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::firewall::NatKind;
use crate::flow::{DropSite, Hop, Place as At};
use crate::model::{Preempted, SilentHop, Snapshot, World as _};
use crate::node::{Hook, NetnsId};
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
    let Question { netns, ifindex, next, .. } = *question;
    let device = view.device_name(netns, ifindex);
    let check = view.command(netns, format!("ip neigh show {next} dev {device}"));
    if let Some(finding) = preempted(view, question) {
        return finding.checked(seen, check);
    }
    let Some((mut world, asked)) = asked(view, question) else {
        return unread(view, question, seen, check);
    };
    if let Some(finding) = asked.reason(&mut world) {
        return finding.checked(seen, check);
    }
    asked.unexplained(&mut world).checked(seen, check)
}

/// The question as the model of the node takes it.
fn asked(view: &View<'_>, question: &Question) -> Option<(Snapshot, SilentHop)> {
    let world = Snapshot::new(view.evidence?, view.topology, &|netns| view.prefix(netns));
    let asked = SilentHop {
        asker: world.host(question.netns)?,
        ifindex: question.ifindex,
        address: question.next,
        source: question.source,
        is_gateway: question.is_gateway,
    };
    Some((world, asked))
}

/// Nothing was read of the namespace.
fn unread(view: &View<'_>, question: &Question, seen: String, check: String) -> Finding {
    let Question { netns, ifindex, next, .. } = *question;
    let (name, device) = (view.netns(netns), view.device_name(netns, ifindex));
    Finding::new(
        &c::NEIGHBOUR_SILENT,
        Likely,
        format!(
            "{name} asks for {next} on {device} and gets no answer; nothing was read of {name} that tells why"
        ),
    )
    .checked(seen, check)
    .fix(format!(
        "see whether the question gets there and who answers: {}",
        view.command(netns, format!("tcpdump -nei {device} host {next}"))
    ))
    .about(next)
    .at(view.place(netns, ifindex))
}

/// It is asked for where another program's rule or route leads.
fn preempted(view: &View<'_>, question: &Question) -> Option<Finding> {
    let (netns, asked) = view.way_out().filter(|(netns, _)| *netns == question.netns)?;
    let host = view.host(netns)?;
    let preempted = Preempted::find(&host, &asked)?;
    let certainty = preempted.after_silence(&host);
    (certainty != Possible)
        .then(|| preempted.say(&host, certainty, &format!("{} does not answer there", question.next)))
}
