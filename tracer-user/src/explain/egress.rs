// SPDX-License-Identifier: MIT OR Apache-2.0
//! What EgressGateway does to a packet, and where it first did something else. The constants are facts of that
//! product (charts' defaults, agent/pkg/...): marks, names of its device, chains and sets.

use super::catalogue as c;
use super::finding::Certainty::{Certain, Likely};
use super::finding::{Finding, Place};
use super::view::View;
use crate::flow::{Hop, NatKind, Place as At};
use crate::node::rtnl::Link;
use crate::node::{DeviceKind, Hook, NetnsId};

/// `feature.mark`: the prefix of every node's mark; alone, of packets that are done with.
pub(crate) const MARK_DONE: u32 = 0x2600_0000;
const MARK_MASK: u32 = 0xff00_0000;
pub(crate) const DEVICE: &str = "egress.vxlan";
const VNI: u32 = 100;
const PORT: u16 = 7789;

/// The mark of a node: its routing table has the same number.
pub(crate) fn is_node_mark(mark: u32) -> bool {
    mark & MARK_MASK == MARK_DONE && mark != MARK_DONE
}

/// EgressGateway's tunnel device.
pub(crate) fn is_egress_tunnel(link: &Link) -> bool {
    link.vxlan.as_ref().is_some_and(|v| link.name == DEVICE || (v.vni == VNI && v.port == PORT))
}

fn is_tunnel(view: &View<'_>, netns: NetnsId, ifindex: u32) -> bool {
    view.device(netns, ifindex).is_some_and(|d| match d.kind {
        DeviceKind::Vxlan { vni, port, .. } => d.name == DEVICE || (vni == VNI && port == PORT),
        _ => false,
    })
}

/// The first divergence from the egress path that the journey itself proves.
pub(super) fn explain(view: &View<'_>) -> Option<Finding> {
    if view.journey.reply || view.journey.packet.icmp_error.is_some() {
        return None;
    }
    masqueraded(view).or_else(|| fwmark(view)).or_else(|| without_snat(view))
}

fn masqueraded(view: &View<'_>) -> Option<Finding> {
    let hop = view.journey.hops.iter().find(|h| {
        let into = matches!(h.place, At::Hook { hook: Hook::Postrouting, out_ifindex, .. }
            if is_tunnel(view, h.netns, out_ifindex));
        into && h.encap.is_none() && h.nat.is_some_and(|n| matches!(n.kind, NatKind::Snat | NatKind::Both))
    })?;
    let (from, to) = (hop.nat?.from.src.addr, hop.ends.src.addr);
    let place = Place { hook: Some("POSTROUTING".to_owned()), ..view.place(hop.netns, out_of(hop)) };
    Some(
        Finding::new(
            &c::MASQUERADED_BEFORE_TUNNEL,
            Certain,
            format!("the source {from} was masqueraded to {to} before the tunnel: the gateway does not know it as the pod's"),
        )
        .checked(
            format!("SNAT in POSTROUTING of {} on the way into {}", view.netns(hop.netns), view.device_name(hop.netns, out_of(hop))),
            view.command(hop.netns, format!("{} -t nat -S POSTROUTING", view.iptables())),
        )
        .fact("EgressGateway expects EGRESSGATEWAY-SNAT-EIP and the ACCEPT of mark 0x26000000 before every other rule there")
        .fix("put the CNI's rules after EgressGateway's (Calico: FelixConfiguration chainInsertMode: Append); restart the egressgateway agent if its ACCEPT is gone")
        .at(place),
    )
}

fn out_of(hop: &Hop) -> u32 {
    match hop.place {
        At::Hook { out_ifindex, .. } => out_ifindex,
        At::Device { ifindex, .. } | At::Route { ifindex, .. } => ifindex,
    }
}

/// Marked for a gateway, but not routed by the mark's table.
fn fwmark(view: &View<'_>) -> Option<Finding> {
    let found = view.lookups().find(|l| {
        !l.reverse && !l.encap && l.error == 0 && is_node_mark(l.mark) && l.table != l.mark && l.table != 255
    })?;
    let mark = found.mark;
    let asked = view.lookups().any(|l| l.netns == found.netns && l.table == mark && l.error != 0);
    let out = view.device_name(found.netns, found.ifindex);
    let name = view.netns(found.netns);
    let table = crate::output::table_name(found.table);
    let tunnel = view
        .namespace(found.netns)
        .and_then(|ns| ns.devices.values().find(|d| is_tunnel(view, ns.id, d.ifindex)));
    let place = view.place(found.netns, found.ifindex);
    let ip = view.ip_command();
    if asked {
        let why = match tunnel {
            None => format!("{DEVICE} does not exist on {name}"),
            Some(d) if !d.up => format!("{} is down", d.name),
            Some(_) => "its route is missing".to_owned(),
        };
        return Some(
            Finding::new(
                &c::FWMARK_TABLE_EMPTY,
                Certain,
                format!(
                    "the routing table of mark {mark:#x} is empty ({why}): the packet leaks out of {out}"
                ),
            )
            .checked(
                format!("the lookup in table {mark} failed, table {table} was used"),
                view.command(found.netns, format!("{ip} route show table {mark}")),
            )
            .checked(why, view.command(found.netns, format!("ip -d link show {DEVICE}")))
            .fix(format!("restart the egressgateway agent on {name}: it makes {DEVICE} and the route again"))
            .at(place),
        );
    }
    Some(
        Finding::new(
            &c::FWMARK_WITHOUT_RULE,
            Certain,
            format!(
                "the packet has mark {mark:#x}, but no ip rule for it: table {table} sent it out of {out}"
            ),
        )
        .checked(
            format!("table {mark} was never asked"),
            view.command(found.netns, format!("{ip} rule show fwmark {mark:#x}")),
        )
        .fix(view.command(found.netns, format!("{ip} rule add priority 99 fwmark {mark:#x} lookup {mark}")))
        .at(place),
    )
}

/// Out of the tunnel, out of the gateway, with the source that it came with.
fn without_snat(view: &View<'_>) -> Option<Finding> {
    let exit = view.bare_exit()?;
    let entry = view.journey.hops.iter().find(|h| {
        h.netns == exit.netns
            && h.encap.is_none()
            && matches!(h.place, At::Device { ifindex, egress: false } if is_tunnel(view, h.netns, ifindex))
    })?;
    if entry.ends.src != exit.ends.src {
        return None;
    }
    let source = exit.ends.src.addr;
    let name = view.netns(exit.netns);
    let ifindex = out_of(exit);
    let place = Place { hook: Some("POSTROUTING".to_owned()), ..view.place(exit.netns, ifindex) };
    let back = view.lookups().find(|l| l.netns == exit.netns && l.reverse && l.error == 0);
    if back.is_some_and(|l| is_tunnel(view, l.netns, l.ifindex)) {
        // Its source is on the tunnel's own network.
        return Some(
            Finding::new(
                &c::MASQUERADED_BEFORE_TUNNEL,
                Likely,
                format!("the pod's node masqueraded the source to its tunnel address {source}: {name} does not know it as a pod's"),
            )
            .checked(format!("{source} is on the network of {DEVICE}"), view.command(exit.netns, format!("ip route get {source}")))
            .fix("on the pod's node, put the CNI's POSTROUTING rules after EgressGateway's (Calico: chainInsertMode: Append)")
            .at(place),
        );
    }
    Some(
        Finding::new(
            &c::LEFT_WITHOUT_SNAT,
            Certain,
            format!("{name} sent the packet out with the pod's own address {source}: no rule gave it the egress IP"),
        )
        .checked(
            "it came by the egress tunnel, and nat POSTROUTING left its source as it was",
            view.command(exit.netns, format!("{} -t nat -S EGRESSGATEWAY-SNAT-EIP", view.iptables())),
        )
        .fix("see whether the EgressPolicy has an egress IP (status.eip); restart the egressgateway agent on the gateway")
        .at(place),
    )
}
