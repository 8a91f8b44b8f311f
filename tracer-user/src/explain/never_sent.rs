// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pods that cannot send: their devices, rules and routes. There is no packet to see.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::context::View;
use super::routing::{article, by_rule, table_name};
use crate::cause::Certainty::{Certain, Possible};
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::model::no_usable_address;
use crate::node::{NetnsId, Role};
use crate::snapshot::Routed;

/// RTN_BLACKHOLE, RTN_UNREACHABLE, RTN_PROHIBIT.
fn refuses(kind: u8) -> Option<&'static c::CauseKind> {
    Some(match kind {
        6 => &c::ROUTE_BLACKHOLE,
        7 => &c::ROUTE_UNREACHABLE,
        8 => &c::ROUTE_PROHIBIT,
        _ => return None,
    })
}

/// Pods whose own rules and routes refuse the destination: connecting fails at once, no packet is sent and no
/// counter moves.
pub(super) fn refused_at_once(view: &View<'_>, to: IpAddr) -> Vec<Finding> {
    let pods = view.topology.namespaces.values().filter(|ns| ns.role == Role::Pod);
    let address = |netns| no_usable_address(&view.host(netns)?, to);
    pods.filter_map(|ns| {
        device_down(view, ns.id).or_else(|| address(ns.id)).or_else(|| refuses_own(view, ns.id, to))
    })
    .collect()
}

/// None of a pod's devices is up.
fn device_down(view: &View<'_>, netns: NetnsId) -> Option<Finding> {
    let evidence = view.of(netns)?;
    let mut devices = evidence.links.iter().filter(|link| !link.is_loopback());
    let first = devices.clone().find(|link| link.mac.len() == 6)?;
    if devices.any(|link| link.is_up()) {
        return None;
    }
    let (name, device) = (view.netns(netns), view.device_name(netns, first.ifindex));
    Some(
        Finding::new(
            &c::DEVICE_DOWN,
            Certain,
            format!("{device} of {name} is down: the pod can send nothing, connecting fails at once"),
        )
        .checked(format!("{device} is down"), view.command(netns, format!("ip link show {device}")))
        .fix(
            view.command(netns, format!("ip link set {device} up"))
                + "; its routes went with it: restart the pod, or add the default route again",
        )
        .at(view.place(netns, first.ifindex)),
    )
}

fn refuses_own(view: &View<'_>, netns: NetnsId, to: IpAddr) -> Option<Finding> {
    let evidence = view.of(netns)?;
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let name = view.netns(netns);
    let ip = if to.is_ipv6() { "ip -6" } else { "ip" };
    let what = "connecting fails at once, and no packet is sent";
    for rule in evidence.rules.iter().filter(|rule| rule.ipv6 == to.is_ipv6() && rule.input.is_none()) {
        if rule.source.is_some() || rule.output.is_some() || !rule.matches(any, to, 0) {
            continue;
        }
        // Who sends, and as which user, is not known.
        let sure = if rule.more.is_empty() { Certain } else { Possible };
        let fact = (!rule.more.is_empty()).then(|| {
            format!("it concerns only what fits {}: does the program that connects? (id -u)", rule.more)
        });
        let finding = if rule.does() == "lookup" {
            let Some(route) = evidence.best(rule.table, to, rule.suppress_prefix_len) else { continue };
            let Some(kind) = refuses(route.kind) else {
                // That is the way, for everybody.
                if rule.more.is_empty() {
                    return None;
                }
                continue;
            };
            let word = kind.id.strip_prefix("route-").unwrap_or(kind.id);
            let table = table_name(route.table);
            let by = if rule.more.is_empty() {
                String::new()
            } else {
                format!(" (ip rule {}: {})", rule.priority, rule.selector())
            };
            Finding::new(
                kind,
                sure,
                format!("{name} has {} {word} route for {to} in table {table}{by}: {what}", article(word)),
            )
            .checked(
                format!("{} {} is in table {table}", word, route.destination),
                view.command(netns, format!("{ip} route show table {} type {word}", route.table)),
            )
            .checked(
                format!("ip rule {} leads there", rule.priority),
                view.command(netns, format!("{ip} rule show")),
            )
            .fix(
                view.command(
                    netns,
                    format!("{ip} route del {word} {} table {}", route.destination, route.table),
                ),
            )
            .about(format!("{to} {word}"))
        } else {
            let found = by_rule(view, netns, to, rule);
            Finding { certainty: sure, title: format!("{}: {what}", found.title), ..found }
        };
        let finding = match fact {
            Some(fact) => finding.fact(fact),
            None => finding,
        };
        return Some(finding.at(view.place(netns, 0)));
    }
    None
}

/// Counters of connections and datagrams that found no route: there is no packet to see.
const NOWHERE: [&str; 2] = ["Ip.OutNoRoutes", "Ip6.OutNoRoutes"];

/// A namespace that sends has no route to the destination, and something in it just tried in vain.
pub(super) fn nowhere_to_go(
    view: &View<'_>,
    netns: NetnsId,
    destination: IpAddr,
    risen: &BTreeMap<String, u64>,
) -> Option<Finding> {
    let counter = NOWHERE[usize::from(destination.is_ipv6())];
    let times = *risen.get(counter)?;
    let pod = view.namespace(netns)?.role == Role::Pod;
    let evidence = view.of(netns)?;
    if !pod || evidence.routed(None, destination, 0) != Routed::NoRoute || device_down(view, netns).is_some()
    {
        return None;
    }
    let name = view.netns(netns);
    let ip = if destination.is_ipv6() { "ip -6" } else { "ip" };
    let any = if destination.is_ipv6() { "::/0" } else { "0.0.0.0/0" };
    let default = evidence.routes.iter().any(|r| r.destination.to_string() == any && r.kind == 1);
    let why = if default { "" } else { ", not even a default route" };
    Some(
        Finding::new(
            &c::NO_ROUTE,
            Certain,
            format!(
                "{name} has no route to {destination}{why}: connecting fails at once, and no packet is sent"
            ),
        )
        .checked(
            format!("no table that its ip rules lead to has a route for {destination}"),
            view.command(netns, format!("{ip} route get {destination}")),
        )
        .checked(
            format!("{counter} rose by {times}: something in {name} tried in vain just now"),
            view.command(netns, "nstat -az IpOutNoRoutes Ip6OutNoRoutes"),
        )
        .fix(format!("give {name} a default route: the CNI plugin should have done so, see its log"))
        .about(destination)
        .at(view.place(netns, 0)),
    )
}
