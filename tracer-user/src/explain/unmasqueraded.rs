// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets that leave the node with a pod address, and why no rule in nat POSTROUTING translated them.

use super::context::View;
use super::packet::before_hop;
use crate::cause::Certainty::Likely;
use crate::cause::catalogue as c;
use crate::cause::{Finding, Place};
use crate::cluster::egress::datapath::CHAIN_PREFIX;
use crate::firewall::{
    Criterion, CtDirection, CtState, Match, Matched, Miss, NearMiss, PacketView, Target, near_misses,
    walk_hook,
};
use crate::flow::Place as At;
use crate::node::{DeviceKind, Hook, NetnsId};
use crate::snapshot::Routed;

/// Routes go with their device.
fn down_tunnel(view: &View<'_>, netns: NetnsId) -> String {
    let down = view
        .namespace(netns)
        .and_then(|ns| ns.devices.values().find(|d| !d.up && matches!(d.kind, DeviceKind::Vxlan { .. })));
    down.map_or_else(String::new, |d| {
        format!(" ({} is down, and routes go with their device)", view.device_name(netns, d.ifindex))
    })
}

/// Why no rule gave the packet another source, where the rules tell.
pub(super) fn explain(view: &View<'_>, netns: NetnsId, ifindex: u32) -> Option<Finding> {
    let journey = view.journey;
    let evidence = view.of(netns)?;
    let at = journey.hops.iter().rposition(|h| {
        h.netns == netns && h.encap.is_none() && matches!(h.place, At::Hook { hook: Hook::Postrouting, .. })
    })?;
    let packet = PacketView {
        ct_state: Some(CtState::New),
        ct_direction: Some(CtDirection::Original),
        ..before_hop(view, at)?
    };
    let (device, source) = (view.device_name(netns, ifindex), packet.src);
    let to = packet.dst;
    let place = Place { hook: Some("POSTROUTING".to_owned()), ..view.place(netns, ifindex) };
    let walk = walk_hook(evidence, Hook::Postrouting, i32::MIN..i32::MAX, &packet);
    let spares = walk.trace.iter().find(|step| {
        let names = |m: &Match| {
            !m.negated && matches!(&m.what, Criterion::Destination(r) if r.iter().any(|r| r.contains(to)))
        };
        step.matched == Matched::Yes
            && step.at.table.name == "nat"
            && step.at.rule.is_some_and(|rule| {
                matches!(rule.target(), Some(Target::Return | Target::Accept))
                    && rule.matches.iter().any(names)
            })
    });
    let by_default = match evidence.routed(None, to, 0) {
        Routed::By(route) => route.destination.is_empty(),
        _ => false,
    };
    if let (Some(step), true) = (spares, by_default) {
        let rule = step.at.name();
        return Some(
            Finding::new(
                &c::POD_ROUTE_MISSING,
                Likely,
                format!("{} has no route to the pods' network of {to}{}: packets leave {device} for the default gateway as they are", view.netns(netns), down_tunnel(view, netns)),
            )
            .checked(
                format!("the lookup found only the default route for {to}"),
                view.command(netns, format!("{} route get {to}", view.ip_command())),
            )
            .checked(
                format!("{to} is one of the cluster's addresses: {rule} spares it from masquerading"),
                view.command(netns, format!("{} -t nat -vnL {} --line-numbers", view.iptables(), rule.chain)),
            )
            .fix(format!("let the CNI write its routes again (flannel, Calico: restart its agent on {}); see that the other node is registered", view.netns(netns)))
            .at(Place { hook: None, ..place }),
        );
    }
    let translates = |m: &NearMiss| m.action.starts_with("MASQUERADE") || m.action.starts_with("SNAT");
    // EgressGateway's are for policies, kube-proxy's for services.
    let general =
        |near: &NearMiss| ![CHAIN_PREFIX, "KUBE-"].iter().any(|theirs| near.rule.chain.starts_with(theirs));
    let near = near_misses(evidence, Hook::Postrouting, "nat", &packet);
    let near = near.into_iter().find(|near| translates(near) && general(near))?;
    let why = match &near.miss {
        Miss::Failed { why, .. } => why.clone(),
        Miss::NotReached { by, verdict } => format!("{by} ({verdict}) ends the walk before it"),
        Miss::NotEntered { jump, why, .. } => format!("{jump} does not lead there: {why}"),
    };
    let rule = near.rule;
    Some(
        Finding::new(
            &c::POD_ADDRESS_ON_THE_WIRE,
            Likely,
            format!("packets to {to} leave {device} with the pod's own address {source}, so no answer finds the way back: {rule} does not translate them, {why}"),
        )
        .checked(
            why,
            view.command(netns, format!("{} -t nat -vnL {} --line-numbers", view.iptables(), rule.chain)),
        )
        .fact(format!("{rule} is the rule that would have"))
        .fix(format!("let {rule} apply to {to} (Calico: no ippool may contain {to}, or its address is not masqueraded)"))
        .at(Place { rule: Some(rule.place()), ..place }),
    )
}
