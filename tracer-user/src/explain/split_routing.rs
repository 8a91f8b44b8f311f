// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets that got through, but with a mark set after the route was chosen, or to a wrong gateway MAC.

use super::context::View;
use crate::cause::Certainty::Certain;
use crate::cause::catalogue as c;
use crate::cause::{Finding, Place};
use crate::flow::{Cause, Place as At};
use crate::node::Hook;

/// A mark for which there is an ip rule, set when the packet was routed already.
pub(super) fn mark_after_routing(view: &View<'_>) -> Option<Finding> {
    let hop = view.journey.hops.iter().find(|h| {
        matches!(h.place, At::Hook { hook: Hook::Postrouting, .. })
            && h.encap.is_none()
            && h.mark_change.is_some_and(|m| m.to != 0 && matches!(m.cause, Cause::Hook(_)))
    })?;
    let mark = hop.mark_change?.to;
    let ipv6 = view.journey.packet.ipv6;
    let rule =
        view.of(hop.netns)?.rules.iter().find(|r| {
            r.ipv6 == ipv6 && r.mask != 0 && !r.inverted && mark & r.mask == r.mark && r.mark != 0
        })?;
    let table = rule.table;
    if view.lookups().any(|l| l.netns == hop.netns && l.table == table) {
        return None;
    }
    let place = Place { hook: Some("POSTROUTING".to_owned()), ..view.place(hop.netns, 0) };
    Some(
        Finding::new(
            &c::MARK_AFTER_ROUTING,
            Certain,
            format!("mark {mark:#x} is set in POSTROUTING, after routing: its table {table} is not used"),
        )
        .checked(
            "the mark changes at POSTROUTING",
            view.command(hop.netns, format!("{} -t mangle -S POSTROUTING", view.iptables())),
        )
        .checked(
            format!("an ip rule leads mark {mark:#x} to table {table}"),
            view.command(hop.netns, format!("{} rule show", view.ip_command())),
        )
        .fix("set the mark in mangle PREROUTING (OUTPUT for the node's own packets)")
        .at(place),
    )
}

/// The pod sends to its gateway, but the frame is for another MAC than the gateway has.
pub(super) fn wrong_gateway_mac(view: &View<'_>) -> Option<Finding> {
    let sent = view.lookups().find(|l| l.error == 0 && !l.reverse && !l.gateway.is_none() && !l.encap)?;
    let (owner, device) = view.owner(sent.gateway.ip())?;
    let arrived = view.journey.hops.iter().find(|h| {
        h.netns == owner.id
            && h.encap.is_none()
            && matches!(h.place, At::Device { ifindex, egress: false }
                if ifindex == device.ifindex
                    || view.device(h.netns, ifindex).is_some_and(|d| d.master == Some(device.ifindex)))
    })?;
    let to = arrived.macs?.destination;
    if view.is_vxlan(sent.netns, sent.ifindex)
        || owner.id == sent.netns
        || device.mac == to
        || device.mac.len() != to.len()
        || to[0] & 1 != 0
    {
        return None;
    }
    // Virtual router addresses (VRRP) are no device's own.
    let virtual_router = to[..4] == [0, 0, 0x5e, 0];
    if virtual_router {
        return None;
    }
    let (to, own) = (crate::text::mac(to), crate::text::mac(&device.mac));
    let (gateway, name) = (sent.gateway, view.netns(sent.netns));
    let out = view.device_name(sent.netns, sent.ifindex);
    let bridge = view.device_name(owner.id, device.ifindex);
    Some(
        Finding::new(
            &c::OTHER_HOST,
            Certain,
            format!("{name} sends to MAC {to} what is for its gateway {gateway}, but {bridge} of {}, which has that address, has MAC {own}", view.netns(owner.id)),
        )
        .checked(
            format!("the neighbour entry of {gateway} in {name} is wrong or stale"),
            view.command(sent.netns, format!("{} neigh show {gateway}", view.ip_command())),
        )
        .checked(
            format!("{bridge} has MAC {own}"),
            view.command(owner.id, format!("ip link show {bridge}")),
        )
        .fix(view.command(sent.netns, format!("{} neigh del {gateway} dev {out}", view.ip_command())))
        .about(gateway)
        .at(view.place(sent.netns, sent.ifindex)),
    )
}
