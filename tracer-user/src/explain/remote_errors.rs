// SPDX-License-Identifier: MIT OR Apache-2.0
//! Errors reported by other hosts: refused connections, ICMP errors.

use std::net::IpAddr;

use super::context::{Lookup, View};
use super::flow_history::FlowState;
use super::neighbour::{self, Question};
use crate::cause::Certainty::Likely;
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::cause::ipsec::NodeState;
use crate::cause::no_route;
use crate::flow::{Addr, Endpoint, Ends};
use crate::node::NetnsId;

/// A watched host gave up looking for its neighbour, and says so.
/// `sent`: the ends of the packet that it could not send.
pub(super) fn unresolved(view: &View<'_>, lookup: &Lookup, sent: Option<Ends>) -> Finding {
    let told = view.journey.packet.ends;
    let ends = sent.unwrap_or(Ends { src: told.dst, dst: told.src });
    let question = Question {
        netns: lookup.netns,
        ifindex: lookup.ifindex,
        next: if lookup.gateway.is_none() { ends.dst.addr.ip() } else { lookup.gateway.ip() },
        is_gateway: !lookup.gateway.is_none(),
        source: ends.src.addr.ip(),
    };
    let seen = format!("{} gave up resolving it and says host unreachable", view.netns(lookup.netns));
    neighbour::explain(view, &question, seen)
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

/// A router out there says so.
pub(super) fn ttl_used_up(view: &View<'_>, sent: Option<Ends>) -> Finding {
    let from = view.journey.packet.ends.src.addr;
    let to = sent.map_or_else(|| "the destination".to_owned(), |ends| ends.dst.addr.to_string());
    Finding::new(
        &c::ROUTING_LOOP,
        Likely,
        format!("packets to {to} go round in circles beyond this node: {from} says that their TTL is used up"),
    )
    .checked(format!("ICMP time-exceeded came in from {from}"), format!("traceroute -n {to}"))
    .fix(format!("two routers out there send it to each other: correct the route to {to} on {from} or on the one before it"))
    .about(to)
    .at(view.place(view.journey.hops.first().map_or(0, |h| h.netns), 0))
}

/// Two routers of one network, each of which points to another one: what they send on comes round.
pub(super) fn redirected(view: &View<'_>, by: &[Addr], sent: Option<Ends>) -> Option<Finding> {
    let [one, two, ..] = by else { return None };
    let to = sent.or(view.journey.hops.last().map(|h| h.ends)).unwrap_or(view.journey.packet.ends).dst.addr;
    Some(
        Finding::new(
            &c::ROUTING_LOOP,
            Likely,
            format!("packets to {to} go round in circles beyond this node, between {one} and {two}: each says that another router of the same network is the better one"),
        )
        .checked(format!("ICMP redirects came in from {one} and from {two}, and no answer"), format!("traceroute -n {to}"))
        .fix(format!("correct the route to {to} on {one} or on {two}"))
        .about(to)
        .at(view.place(view.journey.hops.first().map_or(0, |h| h.netns), 0)),
    )
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

/// They left by the default route, because the tunnel to the other nodes lost its routes.
pub(super) fn without_tunnel(view: &View<'_>, netns: NetnsId, ifindex: u32, to: IpAddr) -> Option<Finding> {
    let (evidence, name) = (view.of(netns)?, view.netns(netns));
    let command = |command: String| view.command(netns, command);
    let node = NodeState { evidence, name: &name, command: &command };
    let found = no_route::without_tunnel(&node, to, &view.device_name(netns, ifindex))?;
    Some(found.at(view.place(netns, ifindex)))
}
