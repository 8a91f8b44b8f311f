// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets that vanish without a drop, and replies that take another path than the requests.

use super::context::View;
use super::flow_history::FlowState;
use super::{drops, duplicate, egress_reply, neighbour_entries, unanswered};
use crate::cause::Certainty::{Certain, Likely, Possible};
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::flow::{Ending, Expected, Hop, NoteKind, Place};
use crate::node::Role;

/// Not seen again, and nothing says why.
pub(super) fn vanished(view: &View<'_>, state: &mut FlowState) -> Option<Finding> {
    // IPv6 drops what is for another MAC without a word.
    let last = view.journey.hops.iter().rev().find(|h| !matches!(h.place, Place::Route { .. }));
    if let (Ending::Vanished { .. }, Some(hop)) = (view.journey.ending, last)
        && let (Place::Device { ifindex, egress: false }, Some(macs)) = (hop.place, hop.macs)
        && let Some(device) = view.device(hop.netns, ifindex)
        && device.master.is_none()
        && macs.destination[0] & 1 == 0
        && device.mac != macs.destination
    {
        return drops::other_host(view, hop.netns, ifindex).or_else(|| flooded(view, state));
    }
    if matches!(view.journey.ending, Ending::Vanished { .. })
        && let Some(found) = neighbour_entries::wrong_entries(view)
    {
        return Some(found);
    }
    let Ending::Vanished { next: Expected::Device { netns, ifindex, .. }, bridge: None } =
        view.journey.ending
    else {
        return None;
    };
    let hop = view.journey.hops.iter().rev().find(|h| !matches!(h.place, Place::Route { .. })).copied()?;
    let same = |known: &Hop| known.netns == hop.netns && known.place == hop.place;
    let count = state.vanished.as_ref().filter(|(known, _)| same(known)).map_or(1, |(_, count)| count + 1);
    state.vanished = Some((hop, count));
    if count < 2 || state.explained {
        return None;
    }
    let here = match hop.place {
        Place::Device { ifindex, .. } | Place::Route { ifindex, .. } => view.device_name(hop.netns, ifindex),
        Place::Hook { hook, .. } => hook.name().to_owned(),
    };
    let (next, name) = (view.device_name(netns, ifindex), view.netns(netns));
    let lost_at = match hop.place {
        Place::Device { ifindex, .. } => view.place(hop.netns, ifindex),
        _ => view.place(netns, ifindex),
    };
    Some(
        Finding::new(
            &c::LOST_BETWEEN,
            Possible,
            format!(
                "packets are lost between {here} of {} and {next} of {name}, and no drop is reported",
                view.netns(hop.netns)
            ),
        )
        .checked(
            format!("{count} packets were last seen at {here}; no event was lost"),
            view.command(netns, format!("ip -d -s link show {next}; bpftool net show dev {next}")),
        )
        .checked(
            "they may still wait in a queue",
            view.command(hop.netns, format!("tc -s qdisc show dev {here}")),
        )
        .fix(format!("look for an XDP program on {next}, and for drops in the counters of {here} and {next}"))
        .at(lost_at),
    )
}

/// A switch gave the frame to everybody, as it does with a MAC that no port is known for: nobody took it.
fn flooded(view: &View<'_>, state: &FlowState) -> Option<Finding> {
    if state.answered || state.explained || state.sent < 2 {
        return None;
    }
    let hops = &view.journey.hops;
    let left = hops.iter().rev().find(|h| matches!(h.place, Place::Device { egress: true, .. }))?;
    let Place::Device { ifindex, .. } = left.place else { return None };
    let lookup = view
        .lookups()
        .rev()
        .find(|l| l.netns == left.netns && l.ifindex == ifindex && !l.reverse && l.error == 0);
    let outer = left.encap.and_then(|i| view.journey.encaps.get(usize::from(i)));
    let to = outer.map_or(left.ends.dst.addr, |o| o.dst.addr).ip();
    let next = lookup.filter(|l| !l.gateway.is_none()).map_or(to, |l| l.gateway.ip());
    let found = neighbour_entries::wrong_entry(view, left.netns, ifindex, next);
    found.or_else(|| neighbour_entries::written(view, left.netns, ifindex, next))
}

/// Dropped at one place again and again, while nothing else explains it.
pub(super) fn dropped_again(view: &View<'_>, state: &mut FlowState) -> Option<Finding> {
    let site = view.dropped()?;
    if unanswered::is_for_many(view) {
        return None;
    }
    let again = view.journey.notes.iter().any(|n| matches!(n.what, NoteKind::Retransmission { .. }));
    let at = (site.netns, site.location);
    let count = state.dropped.filter(|(known, _)| *known == at).map_or(1, |(_, count)| count + 1);
    state.dropped = Some((at, count));
    if count < 2 || state.explained || (!again && view.journey.packet.is_tcp()) {
        return None;
    }
    let (device, name) = (view.device_name(site.netns, site.ifindex), view.netns(site.netns));
    let reason = view.reason(site);
    let symbol = view.symbol(site);
    // Without ARP a device takes its own MAC for everybody's.
    let macs = view.journey.hops.iter().rev().find_map(|h| h.macs);
    let nowhere = macs.is_some_and(|m| m.destination == m.source || m.destination == [0; 6]);
    if nowhere {
        return Some(
            Finding::new(
                &c::OTHER_HOST,
                Certain,
                format!("frames for {} are addressed to the sender's own MAC: ARP is switched off on its device (NOARP)", view.journey.packet.ends.dst.addr),
            )
            .checked(format!("dropped at {device} of {name}"), view.command(site.netns, format!("tcpdump -nei {device}")))
            .fix("switch ARP on for the device that sends them (ip -d link show lists NOARP)")
            .at(view.place(site.netns, site.ifindex)),
        );
    }
    Some(
        Finding::new(
            &c::SIMPLE,
            Possible,
            format!("{name} drops the flow's packets at {device}, in {symbol}, again and again ({reason}): why is not known"),
        )
        .checked(
            format!("{count} packets ended there"),
            view.command(site.netns, format!("ip -s -d link show {device}; nstat -az | grep -i drop")),
        )
        .fix(format!("look what {symbol} refuses, and at the counters of {device}"))
        .at(view.place(site.netns, site.ifindex)),
    )
}

/// Answers are sent again after this long, the first time.
const REPEATED_NS: u64 = 900_000_000;

/// The same SYN-ACK again and again: whoever asked does not get it.
pub(super) fn unheard(view: &View<'_>, state: &mut FlowState) -> Option<Finding> {
    let journey = view.journey;
    let gone = matches!(journey.ending, Ending::Left { .. } | Ending::Unwatched { .. });
    if !view.is_syn_ack() || !gone || view.is_copy() {
        return None;
    }
    let first = *state.first_answer_ns.get_or_insert(journey.start_ns);
    if state.explained || journey.start_ns.saturating_sub(first) < REPEATED_NS {
        return None;
    }
    let found = never_arrived(view).or_else(|| egress_reply::reply_not_marked(view));
    found.or_else(|| Some(reply_lost(view)))
}

fn reply_lost(view: &View<'_>) -> Finding {
    let (netns, ifindex) = match view.journey.ending {
        Ending::Left { netns, ifindex } | Ending::Unwatched { netns, ifindex } => (netns, ifindex),
        _ => (0, 0),
    };
    let (device, name) = (view.device_name(netns, ifindex), view.netns(netns));
    let last = view.journey.hops.iter().rev().find(|h| matches!(h.place, Place::Device { .. }));
    let ends = last.map_or(view.journey.packet.ends, |h| h.ends);
    let outer = last.and_then(|h| h.encap).and_then(|i| view.journey.encaps.get(usize::from(i)));
    let way = outer.map_or_else(String::new, |o| format!(" in the tunnel to {}", o.dst.addr));
    Finding::new(
        &c::REPLY_LOST,
        Possible,
        format!("answers from {} leave {device} of {name}{way} again and again, and {} does not get them: the cause is on the way back, beyond {name}", ends.src, ends.dst.addr),
    )
    .checked(
        format!("the same SYN-ACK was sent again; each time it left {device}"),
        view.command(netns, format!("tcpdump -nei {device} host {}", outer.map_or(ends.dst.addr, |o| o.dst.addr))),
    )
    .fix(format!("trace where {} is: a filter, a missing route or the reverse path filter there refuses what comes from {}", ends.dst.addr, ends.src.addr))
    .about(ends.dst.addr)
    .at(view.place(netns, ifindex))
}

/// It left for a host that is watched too, and was not seen there.
pub(super) fn never_arrived(view: &View<'_>) -> Option<Finding> {
    let (netns, ifindex, next) = duplicate::next_hop(view)?;
    let (ns, owner) = view.owner(next).filter(|(ns, d)| ns.id != netns && d.watched.is_some())?;
    if ns.role != Role::Node || !matches!(view.journey.ending, Ending::Left { .. }) {
        return None;
    }
    let (name, device) = (view.netns(netns), view.device_name(netns, ifindex));
    let (there, theirs) = (view.netns(ns.id), view.device_name(ns.id, owner.ifindex));
    if let Some(found) = neighbour_entries::wrong_entry(view, netns, ifindex, next) {
        return Some(found);
    }
    let show = view.command(netns, format!("ip neigh show {next} dev {device}"));
    let own = crate::text::mac(&owner.mac);
    Some(
        Finding::new(
            &c::LOST_BETWEEN,
            Likely,
            format!("packets leave {device} of {name} for {next} and do not come in by {theirs} of {there}: they are lost in the network between them"),
        )
        .checked("both ends are watched, and no event was lost", format!("tcpdump -nei {theirs} host {next}"))
        .checked(format!("{next} is {theirs} of {there}, MAC {own}"), show)
        .fix("look at what is between the two: security groups, a firewall, the switch; a network that does not carry packets of this size or kind (UDP of the tunnel)".to_owned())
        .about(next)
        .at(view.place(netns, ifindex)),
    )
}

/// The answer leaves another node than the one that translated the request, with the endpoint's own address.
pub(super) fn astray(view: &View<'_>, state: &FlowState) -> Option<Finding> {
    let (node, service, endpoint) = state.translated?;
    let exit = view.bare_exit()?;
    if exit.netns == node || exit.ends.src != endpoint {
        return None;
    }
    let (there, here, client) = (view.netns(node), view.netns(exit.netns), exit.ends.dst.addr);
    Some(
        Finding::new(
            &c::SERVICE_NOT_MASQUERADED,
            Certain,
            format!("{there} sent a request for {service} on to {endpoint} with the client's address: the answer leaves {here} as {endpoint}, and {client} never asked that"),
        )
        .fact(format!("the answer goes to {client} directly, not back through {there}, which would translate it"))
        .checked(
            "the request was translated but not masqueraded (kube-proxy's mark 0x4000 is missing)",
            view.command(node, format!("{} -t nat -S | grep -e KUBE-MARK-MASQ -e KUBE-EXT", view.iptables())),
        )
        .fix("let kube-proxy write its rules again (restart it); with externalTrafficPolicy: Local, ask a node that has an endpoint")
        .about(service)
        .at(view.place(node, 0)),
    )
}
