// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets that were sent again because nothing came back.

use super::catalogue as c;
use super::connections::Connections;
use super::finding::Certainty::{Likely, Possible};
use super::finding::Finding;
use super::view::View;
use crate::flow::{Ending, NatKind, NoteKind, Place as At};
use crate::node::PathRole;

/// Nothing came back for so long after the first packet.
const PATIENCE_NS: u64 = 900_000_000;

pub(super) fn explain(view: &View<'_>, seen: &mut Connections) -> Option<Finding> {
    let journey = view.journey;
    let state = seen.flow(journey.flow);
    let waited = journey.start_ns.saturating_sub(state.first_ns);
    if state.answered || state.explained {
        return None;
    }
    let again = journey.notes.iter().any(|n| matches!(n.what, NoteKind::Retransmission { .. }));
    let repeated = state.sent >= 2 && waited >= PATIENCE_NS && (again || !journey.packet.is_tcp());
    let mut count = state.sent;
    // Other connections to the same destination wait too.
    let others = seen.waiting.get(&journey.packet.ends.dst).filter(|(since, sent)| {
        view.is_syn() && *sent >= 2 && journey.start_ns.saturating_sub(*since) >= PATIENCE_NS
    });
    match others {
        Some((_, sent)) if !repeated => count = *sent,
        None if !repeated => return None,
        _ => {}
    }
    match journey.ending {
        Ending::Left { .. } => not_masqueraded(view).or_else(|| Some(after_leaving(view, count))),
        Ending::Delivered { .. } | Ending::Unwatched { .. } => not_masqueraded(view).or_else(|| {
            let alive = seen.alive.contains(&journey.packet.ends.dst);
            not_accepted(view, alive, count)
        }),
        _ => None,
    }
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
    let bare = view.bare_exit().is_some();
    let from_pod = view.is_pod_address(ends.src.addr.ip());
    if bare && from_pod {
        let to = ends.dst.addr;
        return Finding::new(
            &c::POD_ADDRESS_ON_THE_WIRE,
            Likely,
            format!("packets to {to} leave {device} with the pod's own address {}: nobody out there knows the way back", ends.src.addr),
        )
        .checked(
            "no rule in nat POSTROUTING took it",
            view.command(netns, format!("{} -t nat -vnL POSTROUTING", view.iptables())),
        )
        .checked(
            format!("it went by {device}, not by a tunnel; {count} packets are without answer"),
            view.command(netns, format!("{} route get {to}", view.ip_command())),
        )
        .fix(format!(
            "if {to} is a pod: restore the route to its node; else let the CNI masquerade it (Calico: no ippool may contain {to})"
        ))
        .at(place);
    }
    let tunnelled = last.is_some_and(|h| h.encap.is_some());
    let owned = view.owner(ends.src.addr.ip()).is_some();
    let finding = Finding::new(
        &c::NO_ANSWER,
        Possible,
        if tunnelled {
            format!("{count} packets left {device} in the tunnel and nothing came back: the cause is on the other node or beyond it")
        } else {
            format!("{count} packets left {device} as {} and nothing came back: {} does not answer, or its answer goes elsewhere", ends.src, ends.dst)
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

/// Handed to its receiver, and no sign of life: of a server that answered before, or whose socket is there,
/// the accept queue is full; of any other nothing is known.
fn not_accepted(view: &View<'_>, alive: bool, count: u32) -> Option<Finding> {
    if !view.is_syn() {
        return None;
    }
    let journey = view.journey;
    let last = journey.hops.last();
    let to = last.map_or(journey.packet.ends.dst, |h| h.ends.dst);
    let (netns, ifindex, delivered) = match journey.ending {
        Ending::Delivered { netns } => (netns, 0, true),
        Ending::Unwatched { netns, ifindex } => (netns, ifindex, false),
        _ => return None,
    };
    let place = view.place(netns, ifindex);
    let handed = format!("{count} SYNs were handed to it, no SYN-ACK, no RST, no drop on this side");
    if !delivered && !alive {
        let device = view.device_name(netns, ifindex);
        return Some(
            Finding::new(
                &c::NO_ANSWER,
                Possible,
                format!("{to} does not answer what {device} hands to it: the cause is in that pod, or its MAC or way back is wrong"),
            )
            .checked(handed, view.command(netns, format!("tcpdump -nei {device} host {}", to.addr)))
            .fix(format!(
                "trace in that pod too (--pod); look at its firewall, its routes, its accept queue (ss -tln sport = :{})",
                to.port
            ))
            .at(place),
        );
    }
    let finding = Finding::new(
        &c::ACCEPT_QUEUE_FULL,
        Likely,
        format!("{to} ignores connection requests: its accept queue is full, the server does not accept"),
    )
    .checked(
        handed,
        format!(
            "in the pod: ss -tln sport = :{}; nstat -az TcpExtListenOverflows TcpExtListenDrops",
            to.port
        ),
    );
    let finding = if alive { finding.fact("earlier connections to it were answered") } else { finding };
    Some(
        finding
            .fix("let the server accept faster, or enlarge its listen backlog and net.core.somaxconn")
            .at(place),
    )
}
