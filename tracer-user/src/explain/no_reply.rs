// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets that were retransmitted because no reply came.

use super::came_back;
use super::context::View;
use super::flow_history::Connections;
use super::unanswered;
use super::{delivered_unanswered, duplicate, lost, neighbour_entries, remote_errors};
use crate::cause::Certainty::{Certain, Likely, Possible};
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::firewall::NatKind;
use crate::flow::{Ending, NoteKind, Place as At};
use crate::model::Preempted;
use crate::node::PathRole;

/// Nothing came back for so long after the first packet.
const PATIENCE_NS: u64 = 900_000_000;

pub(super) fn explain(view: &View<'_>, seen: &mut Connections) -> Option<Finding> {
    let journey = view.journey;
    let state = seen.flow(journey.flow);
    let waited = journey.start_ns.saturating_sub(state.first_ns);
    let asks = !matches!(journey.packet.proto, 1 | 17 | 58) || unanswered::wants_answer(view);
    if state.answered || state.explained || !asks {
        return None;
    }
    let again = journey.notes.iter().any(|n| matches!(n.what, NoteKind::Retransmission { .. }));
    let repeated = state.sent >= 2 && waited >= PATIENCE_NS && (again || !journey.packet.is_tcp());
    let mut count = state.sent;
    // Other connections to the same destination wait too.
    let mut since = state.first_ns;
    let others = seen.receivers.waiting(journey).filter(|(since, sent)| {
        view.is_syn() && *sent >= 2 && journey.start_ns.saturating_sub(*since) >= PATIENCE_NS
    });
    match others {
        Some((first, sent)) if !repeated => (since, count) = (first, sent),
        None if !repeated => return None,
        _ => {}
    }
    // An answer may be among what was lost.
    if seen.sees_all_since(since) { say(view, seen, count) } else { None }
}

/// Of the one packet there was.
pub(super) fn lone(view: &View<'_>, seen: &mut Connections) -> Option<Finding> {
    let state = seen.flow(view.journey.flow);
    let (over, count) = (state.answered || state.explained, state.sent.max(1));
    let over = over || !seen.sees_all_since(view.journey.start_ns);
    let finding = if over { None } else { say(view, seen, count) };
    finding.map(|found| found.fact(format!("the packet that waits is #{}", view.journey.id)))
}

fn say(view: &View<'_>, seen: &mut Connections, count: u32) -> Option<Finding> {
    let journey = view.journey;
    let came = seen.flow(journey.flow).came_back.clone();
    if came_back::is_answered(journey, &came) {
        return None;
    }
    if let Some(found) = came_back::explain(view, &came) {
        return Some(found);
    }
    match journey.ending {
        Ending::Left { .. } => not_masqueraded(view)
            .or_else(|| preempted(view, "nothing came back from there"))
            .or_else(|| unclaimed(view, seen))
            .or_else(|| contested(view, seen))
            .or_else(|| lost::never_arrived(view))
            .or_else(|| remote_errors::redirected(view, seen.redirected_by(journey.flow), None))
            .or_else(|| Some(after_leaving(view, count))),
        Ending::Delivered { .. } | Ending::Unwatched { .. } => not_masqueraded(view)
            .or_else(|| preempted(view, "nothing came back from there"))
            .or_else(|| contested(view, seen))
            .or_else(|| {
                let alive = seen.receivers.is_alive(journey);
                delivered_unanswered::explain(view, seen, alive, count)
            }),
        _ => None,
    }
}

/// Another program's rule or route took it to where nothing came back from.
pub(super) fn preempted(view: &View<'_>, seen: &str) -> Option<Finding> {
    let (netns, question) = view.way_out()?;
    let host = view.host(netns)?;
    let preempted = Preempted::find(&host, &question)?;
    Some(preempted.say(&host, preempted.after_silence(&host), seen))
}

/// Two hosts answer for the next hop.
fn contested(view: &View<'_>, seen: &Connections) -> Option<Finding> {
    let (netns, _, next) = duplicate::next_hop(view)?;
    let (macs, again) = seen.askers.contested(netns, next)?;
    Some(duplicate::contested(view, netns, next, &macs, again))
}

/// From outside to a service, and on to another node with the client's own address.
pub(super) fn not_masqueraded(view: &View<'_>) -> Option<Finding> {
    let journey = view.journey;
    let first = journey.hops.iter().find(|h| matches!(h.place, At::Device { .. }))?;
    let from_outside = matches!(first.place, At::Device { egress: false, .. })
        && first.encap.is_none()
        && view.role(first) == Some(PathRole::Uplink);
    let translated = journey
        .hops
        .iter()
        .find(|h| h.nat.is_some_and(|n| n.kind == NatKind::Dnat) && h.netns == first.netns)?;
    let onwards = journey.hops.iter().find(|h| {
        h.netns == first.netns
            && matches!(h.place, At::Device { egress: true, .. })
            && matches!(view.role(h), Some(PathRole::Tunnel | PathRole::Uplink))
    })?;
    if !from_outside || onwards.ends.src.addr != journey.packet.ends.src.addr {
        return None;
    }
    let (service, endpoint) = (translated.nat?.from.dst, translated.ends.dst);
    let client = onwards.ends.src.addr;
    Some(
        Finding::new(
            &c::SERVICE_NOT_MASQUERADED,
            Likely,
            format!("traffic to {service} is sent on to {endpoint} on another node with the client's address {client}: replies take another way"),
        )
        .checked(
            "it was translated to the endpoint but not masqueraded (kube-proxy's mark 0x4000 is missing)",
            view.command(first.netns, format!("{} -t nat -S | grep -e KUBE-MARK-MASQ -e KUBE-EXT", view.iptables())),
        )
        .fix("let kube-proxy write its rules again (restart it); with externalTrafficPolicy: Local, ask a node that has an endpoint")
        .at(view.place(first.netns, 0)),
    )
}

fn after_leaving(view: &View<'_>, count: u32) -> Finding {
    let journey = view.journey;
    let last = journey.hops.iter().rev().find(|h| matches!(h.place, At::Device { .. }));
    let (netns, ifindex) = match journey.ending {
        Ending::Left { netns, ifindex } => (netns, ifindex),
        _ => (0, 0),
    };
    let device = view.device_name(netns, ifindex);
    let place = view.place(netns, ifindex);
    let ends = last.map_or(journey.packet.ends, |h| h.ends);
    if let Some((netns, ifindex, next)) = duplicate::next_hop(view)
        && let Some(found) = neighbour_entries::written(view, netns, ifindex, next)
    {
        return found;
    }
    let packets = if count == 1 { "1 packet".to_owned() } else { format!("{count} packets") };
    let tunnelled = last.is_some_and(|h| h.encap.is_some());
    let owned = view.owner(ends.src.addr.ip()).is_some();
    let finding = Finding::new(
        &c::NO_ANSWER,
        Possible,
        if tunnelled {
            format!("{packets} left {device} in the tunnel and nothing came back: the cause is on the other node or beyond it")
        } else {
            format!("{packets} left {device} as {} and nothing came back: {} does not answer, or its answer goes elsewhere", ends.src, ends.dst)
        },
    )
    .checked("no reply, no ICMP error, no drop on this node", view.command(netns, format!("tcpdump -nei {device} host {}", ends.dst.addr)));
    let finding = if tunnelled || owned {
        finding
    } else {
        finding.fact(format!(
            "{} is on no device here: if it is an egress IP, its gateway must answer ARP (IPv6: neighbour solicitations) for it",
            ends.src.addr
        ))
    };
    finding
        .fix(if tunnelled {
            "trace on the other node too".to_owned()
        } else {
            format!(
                "look at the firewall and the routes of {}; from its network: arping {}",
                ends.dst.addr, ends.src.addr
            )
        })
        .at(place)
}

/// Somebody out there wants to answer, asks for the MAC of the packet's source, and nobody has it.
pub(super) fn unclaimed(view: &View<'_>, seen: &Connections) -> Option<Finding> {
    let Ending::Left { netns, ifindex } = view.journey.ending else { return None };
    let last = view.journey.hops.iter().rev().find(|h| matches!(h.place, At::Device { .. }))?;
    let source = last.ends.src.addr.ip();
    let (by, times) =
        seen.askers.of(netns, source, view.journey.start_ns).filter(|(_, times)| *times >= 2)?;
    if last.encap.is_some() || view.owner(source).is_some() {
        return None;
    }
    let (device, name) = (view.device_name(netns, ifindex), view.netns(netns));
    let what = if source.is_ipv4() { "ARP" } else { "neighbour solicitations" };
    Some(
        Finding::new(
            &c::SOURCE_UNCLAIMED,
            if times >= 3 { Certain } else { Likely },
            format!("{by} wants to answer {source}, but nobody answers {what} for that address: answers cannot be delivered"),
        )
        .checked(
            format!("{by} asked {times} times for {source} on the network of {device}, and no answer came to the packet"),
            view.command(netns, format!("tcpdump -nei {device} {}", if source.is_ipv4() { "arp" } else { "icmp6" })),
        )
        .fact(format!("{source} is on no device of {name}: something has to answer for it (an egress IP: EgressGateway's agent)"))
        .fix(format!("restart the egressgateway agent on {name}; see that {device} is not among its announcedInterfacesToExclude"))
        .about(source)
        .at(view.place(netns, ifindex)),
    )
}
