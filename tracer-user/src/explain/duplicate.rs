// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two hosts with the same address.

use std::net::IpAddr;

use super::context::View;
use super::loops;
use crate::cause::Certainty::{self, Certain, Likely};
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::flow::{DropSite, Ending, Place as At};
use crate::node::{Device, Namespace, NetnsId};

/// A packet came in with a source that the host has itself: it went round in circles, or another one has it too.
pub(super) fn own_source(view: &View<'_>, site: &DropSite) -> Option<Finding> {
    let hops = &view.journey.hops;
    let source = hops.last().map_or(view.journey.packet.ends, |h| h.ends).src.addr.ip();
    let (ns, own) = owners(view, source).find(|(ns, _)| ns.id == site.netns)?;
    let left = hops.iter().any(|h| {
        h.netns == site.netns && h.encap == site.encap && matches!(h.place, At::Device { egress: true, .. })
    });
    let (device, name) = (view.device_name(site.netns, site.ifindex), view.netns(site.netns));
    if left {
        return Some(loops::came_back(view, site));
    }
    let own = view.device_name(ns.id, own.ifindex);
    let other = owners(view, source).find(|(ns, _)| ns.id != site.netns);
    let dropped = format!("the kernel dropped it on arrival by {device}: {}", view.reason(site));
    let show = view.command(site.netns, format!("ip addr show to {source}"));
    let place = view.place(site.netns, site.ifindex);
    if let Some((other, theirs)) = other {
        let (there, on) = (view.netns(other.id), view.device_name(other.id, theirs.ifindex));
        let title = format!(
            "two hosts have {source}: {name} on {own}, and {there} on {on}; {name} refuses packets from an address that is its own"
        );
        return Some(
            Finding::new(&c::DUPLICATE_ADDRESS, Certain, title)
                .checked(dropped, show)
                .checked(
                    format!("{there} has it too"),
                    view.command(other.id, format!("ip addr show to {source}")),
                )
                .fix(
                    view.command(site.netns, format!("ip addr del {source} dev {own}"))
                        + ", if that one is wrong",
                )
                .about(source)
                .at(place),
        );
    }
    // One packet: the frame's sender tells whether it is this host's own.
    let sender =
        hops.iter().rev().filter(|h| h.netns == site.netns).find_map(|h| h.macs).map(|macs| macs.source);
    let ours = sender.map(|mac| ns.devices.values().any(|d| d.mac == mac));
    let capture = view.command(site.netns, format!("tcpdump -nei {device} src host {source}"));
    let (kind, sure, what, fix) = match (sender, ours) {
        (Some(mac), Some(true)) => (
            &c::OWN_SOURCE,
            Certain,
            format!("it is a packet of {name} itself that came back: the frame has its MAC {}", crate::text::mac(mac)),
            "find what sends its frames back: a loop of bridges or switches, a port in hairpin mode, a mirror port".to_owned(),
        ),
        (Some(mac), _) => (
            &c::OWN_SOURCE,
            Likely,
            format!("another host, with MAC {}, sent it: a router that sent {name}'s own packet back, or one that uses {source} too", crate::text::mac(mac)),
            format!("see whose that MAC is: if it is a router's, correct its route to {}; if not, take {source} off that host", view.journey.packet.ends.dst.addr),
        ),
        _ => (
            &c::OWN_SOURCE,
            Likely,
            format!("either a packet of {name} came back (a loop, a bridge or switch that returns frames), or another host uses {source}"),
            format!("see by the frame's MAC who sends it: {capture}"),
        ),
    };
    let title = format!(
        "{name} drops a packet that came in by {device} from {source}, which is its own address, on {own}: {what}"
    );
    Some(
        Finding::new(kind, sure, title)
            .checked(dropped, show)
            .checked("the sender's MAC tells which", capture)
            .fix(fix)
            .about(source)
            .at(place),
    )
}

/// Many hosts have it, and that is right: it means something on one link, or on one host, only.
pub(super) fn is_everybodys(address: IpAddr) -> bool {
    address.is_loopback()
        || address.is_unspecified()
        || match address {
            IpAddr::V4(a) => a.is_link_local(),
            IpAddr::V6(a) => a.is_unicast_link_local(),
        }
}

fn owners<'a>(view: &View<'a>, address: IpAddr) -> impl Iterator<Item = (&'a Namespace, &'a Device)> {
    view.topology.namespaces.values().filter_map(move |ns| {
        let own = |d: &&Device| !is_everybodys(address) && d.addresses.contains(&address);
        let device = ns.devices.values().find(own)?;
        Some((ns, device))
    })
}

/// An answer that came to another watched host than the one that asked: both have the source of the question.
pub(super) fn answered_elsewhere(view: &View<'_>, netns: NetnsId) -> Option<Finding> {
    let exit = view.exit.filter(|exit| exit.netns != netns)?;
    let address = view.journey.hops.last()?.ends.dst.addr.ip();
    let (_, own) = owners(view, address).find(|(ns, _)| ns.id == netns)?;
    if exit.ends.src.addr.ip() != address {
        return None;
    }
    let (asked, got) = (view.netns(exit.netns), view.netns(netns));
    let (out, device) = (view.device_name(exit.netns, exit.ifindex), view.device_name(netns, own.ifindex));
    Some(
        Finding::new(
            &c::DUPLICATE_ADDRESS,
            Certain,
            format!(
                "{asked} asked as {address}, but {got} has {address} on {device} as well and gets the answer"
            ),
        )
        .checked(
            format!("the request left {out} of {asked}, the answer came to {got}, which knows nothing of it"),
            view.command(netns, format!("ip addr show to {address}")),
        )
        .fix(
            view.command(netns, format!("ip addr del {address} dev {device}"))
                + " (an egress IP belongs to its gateway alone), then announce it from the right host",
        )
        .about(address)
        .at(view.place(netns, own.ifindex)),
    )
}

/// Several hosts answered for one address when its MAC was asked for.
pub(super) fn contested(
    view: &View<'_>,
    netns: NetnsId,
    address: IpAddr,
    macs: &[[u8; 6]],
    again: bool,
) -> Finding {
    let macs: Vec<String> = macs.iter().take(4).map(|mac| named(view, mac)).collect();
    let what = if address.is_ipv4() { "ARP" } else { "neighbour solicitations" };
    let sure: Certainty = if again { Certain } else { Likely };
    let name = view.netns(netns);
    let scan = if address.is_ipv4() {
        format!("arping -D -c 3 -I DEVICE {address}")
    } else {
        format!("ndisc6 -m {address} DEVICE")
    };
    Finding::new(
        &c::DUPLICATE_ADDRESS,
        sure,
        format!("two hosts answer {what} for {address}: {}; packets go to the one that answered last", macs.join(" and ")),
    )
    .checked(format!("both answers were heard on {name}, within seconds"), view.command(netns, scan))
    .fix(format!("take {address} off the one that should not have it (a pod that was left behind, a second virtual machine, an egress IP on two gateways), then `{}`",
        view.command(netns, format!("ip neigh flush to {address}"))))
    .about(address)
    .at(view.place(netns, 0))
}

/// A MAC, and whose it is where that is watched.
fn named(view: &View<'_>, mac: &[u8; 6]) -> String {
    let namespaces = view.topology.namespaces.values();
    let mut devices = namespaces.flat_map(|ns| ns.devices.values().map(move |d| (ns, d)));
    let text = crate::text::mac(mac);
    match devices.find(|(_, d)| d.mac == mac) {
        Some((ns, d)) => format!("{text} ({} of {})", view.device_name(ns.id, d.ifindex), view.netns(ns.id)),
        None => text,
    }
}

/// The address that the packet went to on the last network that it was seen to enter: where, and which.
pub(super) fn next_hop(view: &View<'_>) -> Option<(NetnsId, u32, IpAddr)> {
    let journey = view.journey;
    let (netns, ifindex) = match journey.ending {
        Ending::Left { netns, ifindex } | Ending::Unwatched { netns, ifindex } => (netns, ifindex),
        _ => return None,
    };
    let last = journey.hops.iter().rev().find(|h| matches!(h.place, At::Device { .. }))?;
    let outer = last.encap.and_then(|i| journey.encaps.get(usize::from(i)));
    let to = outer.map_or(last.ends.dst.addr, |o| o.dst.addr).ip();
    let lookup =
        view.lookups().rev().find(|l| l.netns == netns && !l.reverse && l.error == 0 && l.ifindex == ifindex);
    let next = lookup.filter(|l| !l.gateway.is_none()).map_or(to, |l| l.gateway.ip());
    Some((netns, ifindex, next))
}
