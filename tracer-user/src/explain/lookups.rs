// SPDX-License-Identifier: MIT OR Apache-2.0
//! Marks and routing of packets that got through.

use super::catalogue as c;
use super::finding::Certainty::Certain;
use super::finding::{Finding, Place};
use super::view::View;
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
    let place = Place { hook: Some("POSTROUTING".to_owned()), netns: view.netns(hop.netns), device: None };
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
