// SPDX-License-Identifier: MIT OR Apache-2.0
//! The packet as rules saw it at a point of its journey.

use super::context::View;
use crate::firewall::{CtDirection, CtState, PacketView};
use crate::flow::{DropSite, Ends, Hop, Place as At};
use crate::node::{Hook, Interval, NetnsId};

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// As it came to the hook in which it died.
pub(super) fn at_drop(view: &View<'_>, site: &DropSite, at: &Interval) -> PacketView {
    let journey = view.journey;
    let name = |ifindex| device(view, site.netns, ifindex);
    if let Some(outer) = site.encap.and_then(|i| journey.encaps.get(usize::from(i))) {
        let mut out = PacketView::new(17, outer.src.addr.ip(), outer.dst.addr.ip())
            .ports(outer.src.port, outer.dst.port)
            .mark(site.mark);
        if matches!(at.hook, Hook::Prerouting | Hook::Input) {
            out = out.devices(&name(site.ifindex), "");
        }
        out.uid = None;
        return out;
    }
    let hops = &journey.hops;
    let ends = hops.iter().rev().find(|h| h.netns == site.netns).map_or(journey.packet.ends, |h| h.ends);
    let mut out = header(view, ends).mark(site.mark);
    let seen = hops.iter().rev().find(|h| is_at(h, site.netns, at.hook));
    let (input, output) = match seen.map(|h| h.place) {
        Some(At::Hook { ifindex, out_ifindex, .. }) => (Some(ifindex), Some(out_ifindex)),
        _ => around(view, site, at.hook),
    };
    out.input = input.map(name);
    out.output = output.map(name);
    bridge_ports(view, &mut out, hops, site.netns, input);
    out.mac = source_mac(hops, site.netns);
    conntrack(view, &mut out, hops, site.netns);
    // What was put together on the way is cut up again for rules that look at lengths.
    out.length = (journey.packet.gso_size == 0 && journey.packet.l3len != 0).then_some(journey.packet.l3len);
    out.ttl = last_ttl(hops, site.netns, at.hook);
    out
}

/// It is one less from FORWARD on (ip_forward, ip6_forward).
fn last_ttl(hops: &[Hop], netns: NetnsId, hook: Hook) -> Option<u8> {
    let last = hops.iter().rev().find(|h| h.netns == netns && h.encap.is_none())?;
    let forwards = matches!(hook, Hook::Forward | Hook::Postrouting);
    let forwarded = match last.place {
        At::Device { egress, .. } => egress,
        At::Hook { hook, .. } => hook != Hook::Prerouting,
        At::Route { .. } => false,
    };
    if forwards && !forwarded { last.ttl.checked_sub(1) } else { Some(last.ttl) }
}

/// As it came to the hook of `hops[at]`, where it was changed.
pub(super) fn before_hop(view: &View<'_>, at: usize) -> Option<PacketView> {
    let hops = &view.journey.hops;
    let hop = hops.get(at)?;
    let At::Hook { ifindex, out_ifindex, .. } = hop.place else { return None };
    if hop.encap.is_some() {
        return None;
    }
    let mark = hop.mark_change.map_or(hop.mark, |change| change.from);
    let mut out = header(view, hop.nat.map_or(hop.ends, |nat| nat.from)).mark(mark);
    let name = |ifindex| device(view, hop.netns, ifindex);
    (out.input, out.output) = (Some(name(ifindex)), Some(name(out_ifindex)));
    bridge_ports(view, &mut out, &hops[..at], hop.netns, Some(ifindex));
    out.mac = source_mac(&hops[..at], hop.netns);
    conntrack(view, &mut out, &hops[..=at], hop.netns);
    if let Some((before, _)) = hop.ct_mark_change {
        out.ct_mark = Some(before);
    }
    Some(out)
}

fn header(view: &View<'_>, ends: Ends) -> PacketView {
    let packet = &view.journey.packet;
    let mut out = PacketView::new(packet.proto, ends.src.addr.ip(), ends.dst.addr.ip());
    out.later_fragment = packet.is_fragment && packet.frag & 0x1fff != 0;
    if let Some(icmp) = packet.icmp_error {
        out.proto = if packet.ipv6 { ICMPV6 } else { ICMP };
        out.icmp = Some(icmp);
    } else if packet.has_ports() {
        out = out.ports(ends.src.port, ends.dst.port);
        out.tcp_flags = packet.is_tcp().then_some(packet.tcp_flags);
    } else if matches!(packet.proto, ICMP | ICMPV6) {
        // Of a flow itself there are echo requests and their replies.
        out.icmp = Some((packet.echo_type(), 0));
    }
    out
}

fn is_at(hop: &Hop, netns: NetnsId, hook: Hook) -> bool {
    hop.netns == netns && hop.encap.is_none() && matches!(hop.place, At::Hook { hook: at, .. } if at == hook)
}

fn device(view: &View<'_>, netns: NetnsId, ifindex: u32) -> String {
    if ifindex == 0 { String::new() } else { view.device_name(netns, ifindex) }
}

/// Devices at a hook in which no position saw the packet. 0: the hook has none there; `None`: not known.
fn around(view: &View<'_>, site: &DropSite, hook: Hook) -> (Option<u32>, Option<u32>) {
    let own = |h: &&Hop| h.netns == site.netns && h.encap.is_none();
    let hops = view.journey.hops.iter().rev().filter(own);
    let port = hops.clone().find_map(|h| match h.place {
        At::Device { ifindex, egress: false } => view.device(h.netns, ifindex).and_then(|d| d.master),
        _ => None,
    });
    let routed = view.lookups().rev().find(|l| l.netns == site.netns && !l.reverse && l.error == 0);
    let routed = routed.or_else(|| view.routes.iter().find(|l| l.netns == site.netns).copied());
    let routed = routed.map(|l| l.ifindex).filter(|ifindex| *ifindex != 0);
    let came_in = hops.clone().find_map(|h| match h.place {
        At::Hook { hook: Hook::Prerouting, ifindex, .. } => Some(ifindex),
        _ => None,
    });
    let input = came_in.or(port).or((site.ifindex != 0).then_some(site.ifindex));
    match hook {
        Hook::Prerouting | Hook::Input => (input, Some(0)),
        // From one port of a bridge to another: both are the bridge.
        Hook::Forward => (input, routed.or(port)),
        Hook::Output => (Some(0), routed),
        Hook::Postrouting => {
            let forwarded = hops.clone().any(|h| matches!(h.place, At::Hook { hook: Hook::Forward, .. }));
            // What a device of the node sent itself has no input device here.
            (if forwarded { None } else { Some(0) }, routed)
        }
    }
}

/// Where the bridge calls the hook: the port that the packet came in by.
fn bridge_ports(view: &View<'_>, out: &mut PacketView, hops: &[Hop], netns: NetnsId, input: Option<u32>) {
    let port = hops.iter().rev().find_map(|h| match h.place {
        At::Device { ifindex, egress: false } if h.netns == netns => Some(ifindex),
        _ => None,
    });
    let Some((port, input)) = port.zip(input) else { return };
    if view.device(netns, port).and_then(|d| d.master) == Some(input) {
        out.phys_in = Some(view.device_name(netns, port));
    } else {
        out.phys_in = Some(String::new());
        out.phys_out = Some(String::new());
    }
}

fn source_mac(hops: &[Hop], netns: NetnsId) -> Option<[u8; 6]> {
    hops.iter().rev().filter(|h| h.netns == netns).find_map(|h| h.macs).map(|macs| macs.source)
}

fn conntrack(view: &View<'_>, out: &mut PacketView, hops: &[Hop], netns: NetnsId) {
    let journey = view.journey;
    let seen = hops.iter().rev().filter(|h| h.netns == netns).find_map(|h| h.tracking);
    let Some(seen) = seen else {
        if view.is_syn() && !journey.reply {
            *out = out.clone().conntrack(CtState::New, CtDirection::Original);
            out.ct_mark = Some(0);
        } else {
            out.ct_direction = Some(if journey.reply { CtDirection::Reply } else { CtDirection::Original });
        }
        return;
    };
    out.ct_state = Some(seen.state);
    if matches!(seen.state, CtState::Invalid | CtState::Untracked) {
        return;
    }
    out.ct_direction = Some(if seen.reply { CtDirection::Reply } else { CtDirection::Original });
    out.ct_mark = Some(if seen.state == CtState::New { 0 } else { seen.mark });
    let translated = |bit: u32| journey.conntrack.iter().any(|entry| entry.status & bit != 0);
    if seen.state != CtState::New {
        // IPS_SRC_NAT, IPS_DST_NAT (uapi): told where the entry was seen.
        let known = !journey.conntrack.is_empty();
        out.ct_snat = known.then(|| translated(1 << 4));
        out.ct_dnat = known.then(|| translated(1 << 5));
    }
}
