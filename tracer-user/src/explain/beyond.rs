// SPDX-License-Identifier: MIT OR Apache-2.0
//! What others say of a connection: refusals, ICMP errors.

use super::catalogue as c;
use super::connections::FlowState;
use super::finding::Certainty::{Certain, Likely};
use super::finding::Finding;
use super::view::{Lookup, View};
use crate::flow::{Addr, Endpoint};
use crate::node::NetnsId;

pub(super) fn unresolved(view: &View<'_>, lookup: &Lookup) -> Finding {
    let device = view.device_name(lookup.netns, lookup.ifindex);
    let next = if lookup.gateway.is_none() {
        "the destination".to_owned()
    } else {
        format!("the gateway {}", lookup.gateway)
    };
    let tunnel = view.is_vxlan(lookup.netns, lookup.ifindex);
    let kind = if tunnel { &c::TUNNEL_NEIGHBOUR_MISSING } else { &c::NEIGHBOUR_SILENT };
    let title = if tunnel {
        format!("{device} has no neighbour entry for its peer {}", lookup.gateway)
    } else {
        format!("{next} does not answer on {device}: wrong address, or its host is not there")
    };
    Finding::new(kind, Certain, title)
        .checked(
            format!("{} gave up resolving it and says host unreachable", view.netns(lookup.netns)),
            view.command(lookup.netns, format!("ip neigh show dev {device}")),
        )
        .fix(if tunnel {
            format!("the agent that owns {device} must add the peer (restart it, read its log)")
        } else {
            format!("set a gateway that exists: {}", view.command(lookup.netns, "ip route"))
        })
        .at(view.place(lookup.netns, lookup.ifindex))
}

/// Somebody beyond says so of the port that was asked for.
pub(super) fn port_unreachable(view: &View<'_>, from: Addr, tcp: bool) -> Finding {
    let place = view.place(view.journey.hops.first().map_or(0, |h| h.netns), 0);
    // A TCP port on which nothing listens is answered by a RST.
    let finding = if tcp {
        Finding::new(
            &c::UNREACHABLE_BEYOND,
            Likely,
            format!("a firewall on {from}, beyond this node, rejects the connection (ICMP port-unreachable)"),
        )
        .fact(format!("ICMP port-unreachable came in from {from}; a closed TCP port is answered by a RST"))
        .fix(format!("look at the REJECT rules on {from}; kube-proxy rejects so what goes to a service without endpoints"))
    } else {
        Finding::new(
            &c::PORT_CLOSED,
            Likely,
            format!("{from} says that nothing listens on the port that was asked for"),
        )
        .fact(format!("ICMP port-unreachable came in from {from}"))
        .fix(format!("start the server on {from}, or correct the port (a service's targetPort)"))
    };
    finding.about(from).at(place)
}

/// The first answer to a SYN is a RST.
pub(super) fn refused(view: &View<'_>, state: &mut FlowState) -> Option<Finding> {
    let packet = &view.journey.packet;
    if !packet.is_tcp() || packet.tcp_flags & 0x06 != 0x04 || state.answered || state.explained {
        return None;
    }
    let from = packet.ends.src;
    let netns = view.journey.hops.first().map_or(0, |h| h.netns);
    if !state.syn {
        state.reset = Some((from, view.journey.start_ns, netns));
        return None;
    }
    Some(refuses(view, from, netns))
}

pub(super) fn refuses(view: &View<'_>, from: Endpoint, netns: NetnsId) -> Finding {
    Finding::new(
        &c::PORT_CLOSED,
        Likely,
        format!("{from} refuses connections: nothing listens on the port, or a firewall there rejects"),
    )
    .fact(format!("the first answer to the SYN was a RST from {from}"))
    .fix(format!("start the server on port {}, or correct the port (a service's targetPort)", from.port))
    .about(from)
    .at(view.place(netns, 0))
}
