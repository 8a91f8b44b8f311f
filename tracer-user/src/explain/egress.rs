// SPDX-License-Identifier: MIT OR Apache-2.0
//! What EgressGateway does to a packet, and where it first did something else.

use super::context::{Entry, View, is_tunnel};
use crate::cause::Certainty::{Certain, Likely};
use crate::cause::catalogue as c;
use crate::cause::{Finding, Place};
use crate::cluster::egress::datapath::{DEVICE, is_node_mark};
use crate::firewall::{Done, PacketView, walk_hook};
use crate::flow::{Addr, Endpoint, Hop, Packet, Place as At};
use crate::node::{Hook, NetnsId};

/// NF_IP_PRI_CONNTRACK: rules that turn tracking off stand before it.
const CONNTRACK_PRIORITY: i32 = -200;

/// Where the packet came in by an egress tunnel.
pub(super) fn came_by_tunnel(view: &View<'_>) -> Option<Entry> {
    view.journey.hops.iter().find_map(|h| match h.place {
        At::Device { ifindex, egress: false } if h.encap.is_none() && is_tunnel(view, h.netns, ifindex) => {
            Some(Entry { netns: h.netns, ifindex })
        }
        _ => None,
    })
}

/// What the model is asked about, though nothing bad was seen yet: a packet with an EgressGateway mark or in its tunnel may
/// take the wrong way and still be answered.
pub(super) fn path(view: &View<'_>) -> Option<EgressPath> {
    let handled = |h: &Hop| {
        is_node_mark(h.mark)
            || matches!(h.place, At::Device { ifindex, .. } if is_tunnel(view, h.netns, ifindex))
    };
    let Packet { ends, proto, .. } = view.journey.packet;
    let asked = view.is_opening() && view.journey.hops.iter().any(handled);
    asked.then_some((proto, ends.src.addr, ends.dst, view.journey.reply))
}

/// Protocol, source, destination, and whether it is an answer.
pub(super) type EgressPath = (u8, Addr, Endpoint, bool);

fn out_of(hop: &Hop) -> u32 {
    match hop.place {
        At::Hook { out_ifindex, .. } => out_ifindex,
        At::Device { ifindex, .. } | At::Route { ifindex, .. } => ifindex,
    }
}

/// Where it came out of EgressGateway's tunnel.
fn tunnel_entry<'a>(view: &View<'a>, netns: NetnsId) -> Option<&'a Hop> {
    view.journey.hops.iter().find(|h| {
        h.netns == netns
            && h.encap.is_none()
            && matches!(h.place, At::Device { ifindex, egress: false } if is_tunnel(view, h.netns, ifindex))
    })
}

/// A rule in raw turned tracking off, and without tracking there is no NAT.
pub(super) fn untracked(view: &View<'_>) -> Option<Finding> {
    let exit = view.bare_exit()?;
    let entry = tunnel_entry(view, exit.netns)?;
    if entry.ends.src != exit.ends.src || view.journey.reply || view.journey.packet.icmp_error.is_some() {
        return None;
    }
    let followed = |h: &Hop| h.netns == exit.netns && h.encap.is_none() && h.conntrack.is_some();
    if view.journey.hops.iter().any(followed) {
        return None;
    }
    let evidence = view.of(exit.netns)?;
    let ends = entry.ends;
    let mut packet = PacketView::new(view.journey.packet.proto, ends.src.addr.ip(), ends.dst.addr.ip())
        .devices(&view.device_name(exit.netns, out_of(entry)), "")
        .mark(entry.mark);
    if view.journey.packet.has_ports() {
        packet = packet.ports(ends.src.port, ends.dst.port);
    }
    let walk = walk_hook(evidence, Hook::Prerouting, i32::MIN..CONNTRACK_PRIORITY, &packet);
    let effect = walk.effects.iter().find(|e| matches!(e.done, Done::Notrack))?;
    let name = view.netns(exit.netns);
    let source = exit.ends.src.addr;
    let rule = effect.at.name();
    Some(
        Finding::new(
            &c::UNTRACKED,
            if effect.certain { Certain } else { Likely },
            format!("{name} does not track the packet ({rule} says NOTRACK), so nothing can give it the egress IP: it left as {source}"),
        )
        .checked(format!("{rule} matches it"), view.command(exit.netns, format!("{} -t raw -S", view.iptables())))
        .fact("no conntrack entry was seen for it, and nat POSTROUTING left its source as it was")
        .fix(format!("remove {rule}, or let it spare what comes from {DEVICE}"))
        .at(Place { hook: Some("PREROUTING".to_owned()), ..view.place(exit.netns, out_of(entry)) }),
    )
}
