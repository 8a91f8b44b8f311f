// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets too large for the next link, and the ICMP error that should report it.

use std::net::IpAddr;

use super::context::{Lookup, View};
use super::firewall;
use crate::cause::Certainty::{Certain, Likely};
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::flow::{DropSite, Place as At};
use crate::node::{Hook, IpPrefix, NetnsId, PathRole, Role};

pub(super) fn too_big(view: &View<'_>, site: &DropSite) -> Finding {
    let packet = &view.journey.packet;
    let own = view.lookups().find(|l| l.netns == site.netns && !l.reverse && l.error == 0 && l.ifindex != 0);
    let out = own.or_else(|| view.routes.iter().find(|l| l.netns == site.netns).copied());
    let out = out.map_or(site.ifindex, |l| l.ifindex);
    let device = view.device_name(site.netns, out);
    let own_mtu = view.device(site.netns, out).map_or(0, |d| d.mtu);
    let size = if packet.gso_size == 0 { packet.l3len } else { u32::from(packet.gso_size) + 52 };
    let to = view.journey.hops.last().map_or(packet.ends, |h| h.ends).dst.addr;
    let told = view.icmp_sent().is_some();
    let route = of_route(
        view,
        site,
        own.or_else(|| view.routes.iter().find(|l| l.netns == site.netns).copied()),
        to.ip(),
    )
    .filter(|(_, mtu)| *mtu < own_mtu);
    // Neither is too small: the path's MTU was learned from somebody's ICMP error.
    let learned = route.is_none() && size <= own_mtu && view.of(site.netns).is_some();
    let (mtu, what) = match &route {
        Some((prefix, mtu)) => (*mtu, format!("the route {prefix} by {device} (MTU {mtu})")),
        None if learned => {
            (own_mtu, format!("the MTU that {} learned of the path to {to}", view.netns(site.netns)))
        }
        None => (own_mtu, format!("{device} (MTU {own_mtu})")),
    };
    let show = if route.is_some() || learned {
        format!("{} route get {to}", view.ip_command())
    } else {
        format!("ip link show {device}")
    };
    let finding = Finding::new(
        &c::PACKET_TOO_BIG,
        if told { Certain } else { Likely },
        // A packet that is still to be cut up is as long as all of its segments.
        if size > 2 * own_mtu && packet.gso_size == 0 {
            format!("packets do not fit into {what} and may not be fragmented")
        } else {
            format!("packets of {size} B do not fit into {what} and may not be fragmented")
        },
    )
    .checked(format!("dropped before {device}: PKT_TOO_BIG"), view.command(site.netns, show));
    let fix = match origin(view) {
        _ if learned => format!(
            "see which hop has the small MTU (tracepath {to}); if there is none any more: {}",
            view.command(site.netns, format!("{} route flush cache", view.ip_command()))
        ),
        Origin::Pods => format!("set the MTU of the sending pods to {mtu} or less (CNI configuration)"),
        Origin::Node(netns) => format!(
            "let {} send no more than {mtu} B to {}: `{}`",
            view.netns(netns),
            packet.ends.dst.addr,
            view.command(
                netns,
                format!("{} route replace {} … mtu {mtu}", view.ip_command(), packet.ends.dst.addr)
            ),
        ),
        Origin::Outside => format!(
            "{} is no pod of this node: let the ICMP frag-needed through to it so that it sends less, or set the \
             MTU of its route to {mtu} on that host; else give {device} a larger MTU, if its network carries it",
            packet.ends.src.addr
        ),
    };
    let sender = view.journey.hops.last().map_or(packet.ends, |h| h.ends).src.addr;
    let finding =
        if told { finding.fact(format!("ICMP frag-needed was sent back to {sender}")) } else { finding };
    finding.about(sender).fix(fix).at(view.place(site.netns, out))
}

/// Who can be told to send smaller packets.
enum Origin {
    Pods,
    /// The node itself, in this namespace.
    Node(NetnsId),
    /// Another host: it came in by an uplink, not in a tunnel.
    Outside,
}

fn origin(view: &View<'_>) -> Origin {
    let first = view.journey.hops.iter().find(|h| !matches!(h.place, At::Route { .. }));
    match first.map(|hop| (hop, hop.place)) {
        Some((hop, At::Device { egress: false, .. }))
            if view.role(hop) == Some(PathRole::Uplink)
                && hop.encap.is_none()
                && !view.is_pod_address(view.journey.packet.ends.src.addr.ip()) =>
        {
            Origin::Outside
        }
        Some((hop, At::Hook { hook: Hook::Output, .. }))
            if view.role_of(hop.netns) == Some(Role::Node) && hop.encap.is_none() =>
        {
            Origin::Node(hop.netns)
        }
        _ => Origin::Pods,
    }
}

/// The MTU that the route itself has.
fn of_route(view: &View<'_>, site: &DropSite, lookup: Option<Lookup>, to: IpAddr) -> Option<(IpPrefix, u32)> {
    let table = lookup?.table;
    let routes = view.of(site.netns)?.routes.iter();
    let best = routes
        .filter(|r| r.table == table && r.destination.contains(to))
        .max_by_key(|r| r.destination.len())?;
    (best.mtu != 0).then_some((best.destination, best.mtu))
}

/// The ICMP error about a packet that was too big was dropped.
pub(super) fn untold(view: &View<'_>) -> Option<Finding> {
    let journey = view.journey;
    let ipv6 = journey.packet.ipv6;
    let site = view.dropped()?;
    let to = journey.packet.ends.dst.addr;
    let name = view.netns(site.netns);
    let mtu = journey.packet.ack;
    let rule = firewall::dropped(view, site).filter(|found| found.place.rule.is_some());
    let (who, check) = match &rule {
        Some(found) => (
            format!("{} of {name}", found.place.rule.as_deref().unwrap_or_default()),
            found.evidence.first().map(|fact| fact.check.clone()).unwrap_or_default(),
        ),
        None => (name.clone(), view.command(site.netns, format!("{} -vnL", view.iptables()))),
    };
    let message = if ipv6 { "icmpv6 packet-too-big" } else { "icmp fragmentation-needed" };
    let place = rule.map_or_else(|| view.place(site.netns, site.ifindex), |found| found.place);
    Some(
        Finding::new(
            &c::PATH_MTU_BLACK_HOLE,
            Certain,
            format!("large packets are dropped (MTU {mtu}), and {who} drops the ICMP message that would tell {to}"),
        )
        .checked(format!("the ICMP error died: {}", view.reason(site)), check)
        .fact("small packets pass, large ones are sent again and again")
        .fix(format!("accept {message} in the firewall of {name} before that, or set the MTU of the sending pods to {mtu}"))
        .about(to)
        .at(place),
    )
}
