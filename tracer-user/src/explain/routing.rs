// SPDX-License-Identifier: MIT OR Apache-2.0
//! Drops by routing: no route, routes that refuse, forwarding that is off, loops.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::catalogue as c;
use super::elsewhere;
use super::finding::Certainty::{self, Certain, Likely};
use super::finding::Finding;
use super::view::{Lookup, View};
use crate::flow::{DropSite, NoteKind};
use crate::node::evidence::Routed;
use crate::node::{NetnsId, Role};

/// A lookup that a route ended, by errno.
fn refusal(lookup: &Lookup) -> Option<&'static c::CauseKind> {
    Some(match -lookup.error {
        22 => &c::ROUTE_BLACKHOLE,
        13 => &c::ROUTE_PROHIBIT,
        113 => &c::ROUTE_UNREACHABLE,
        _ => return None,
    })
}

/// Freed on the path for packets without a usable route.
pub(super) fn refused(view: &View<'_>, site: &DropSite) -> Option<Finding> {
    let encap = site.encap.is_some();
    let ends = view.journey.hops.last().map_or(view.journey.packet.ends, |h| h.ends);
    let to = ends.dst.addr;
    let name = view.netns(site.netns);
    let place = view.place(site.netns, site.ifindex);
    let mark = view.last_lookup(site.netns, encap).map_or(site.mark, |l| l.mark);
    let with_mark = if mark == 0 { String::new() } else { format!(" mark {mark:#x}") };
    let get = view.command(site.netns, format!("{} route get {to}{with_mark}", view.ip_command()));
    let by_lookup = view.lookups().rev().find_map(|l| {
        (l.netns == site.netns && !l.reverse && l.encap == encap).then(|| Some((refusal(&l)?, l.table)))?
    });
    let reason = view.reason(site);
    if let Some((kind, table)) = by_lookup {
        let word = kind.id.strip_prefix("route-").unwrap_or(kind.id);
        return Some(
            Finding::new(
                kind,
                Certain,
                format!("{name} has {} {word} route for {to} in table {}", article(word), table_name(table)),
            )
            .checked(format!("the lookup in table {} ended with it", table_name(table)), get)
            .fix(
                view.command(
                    site.netns,
                    format!("{} route show table {table} type {word}", view.ip_command()),
                ) + &format!(" shows it: delete it, or add a route for {to}"),
            )
            .at(place),
        );
    }
    if reason.contains("NOROUTES") {
        return Some(no_route(view, site, &get));
    }
    // An old kernel, or a lookup that was not seen: the ICMP error tells.
    let kind = match view.icmp_sent()? {
        (3, 0) => return Some(no_route(view, site, &get)),
        (3, 1) | (1, 3 | 6) => &c::ROUTE_UNREACHABLE,
        (3, 13) | (1, 1) => &c::ROUTE_PROHIBIT,
        _ => return None,
    };
    let word = kind.id.strip_prefix("route-").unwrap_or(kind.id);
    Some(
        Finding::new(kind, Likely, format!("{name} has {} {word} route for {to}", article(word)))
            .checked("the kernel refused to route it and said so by ICMP", get)
            .fix(format!("delete that route, or add one for {to}"))
            .at(place),
    )
}

fn article(word: &str) -> &'static str {
    if word.starts_with('u') { "an" } else { "a" }
}

fn table_name(table: u32) -> String {
    crate::output::table_name(table).into_owned()
}

fn no_route(view: &View<'_>, site: &DropSite, get: &str) -> Finding {
    let ends = view.journey.hops.last().map_or(view.journey.packet.ends, |h| h.ends);
    let to = ends.dst.addr;
    let name = view.netns(site.netns);
    Finding::new(&c::NO_ROUTE, Certain, format!("{name} has no route to {to}"))
        .checked(format!("dropped for lack of a route: {}", view.reason(site)), get)
        .fix(view.command(site.netns, format!("{} route add {to} via GATEWAY dev DEVICE", view.ip_command())))
        .at(view.place(site.netns, site.ifindex))
}

/// The node does not forward.
pub(super) fn forwarding_off(view: &View<'_>, site: &DropSite, sure: Certainty) -> Option<Finding> {
    if view.icmp_sent().is_some() {
        return None;
    }
    let ipv6 = view.journey.packet.ipv6;
    let device = view.device_name(site.netns, site.ifindex);
    let key = if ipv6 { "net.ipv6.conf.all.forwarding" } else { "net.ipv4.ip_forward" };
    let own = format!("net/{}/conf/{device}/forwarding", if ipv6 { "ipv6" } else { "ipv4" });
    let mut sure = sure;
    let mut key = key.to_owned();
    if let Some(evidence) = view.of(site.netns) {
        match evidence.sysctl(&key.replace('.', "/")) {
            Some(0) => sure = Certain,
            Some(_) if evidence.sysctl(&own) == Some(0) => {
                sure = Certain;
                key = own
                    .replace(&device, "\u{0}")
                    .replace('/', ".")
                    .replace('\u{0}', &device.replace('.', "/"));
            }
            Some(_) => return None,
            None => {}
        }
    }
    Some(
        Finding::new(
            &c::FORWARDING_OFF,
            sure,
            format!("{} does not forward packets: {key} is 0", view.netns(site.netns)),
        )
        .checked(
            "dropped where a packet for another host ends on a host that is no router",
            view.command(site.netns, format!("sysctl {key}")),
        )
        .fact("no ICMP error was sent, as there would be without a route")
        .fix(view.command(site.netns, format!("sysctl -w {key}=1")))
        .at(view.place(site.netns, site.ifindex)),
    )
}

/// TTL or hop limit is used up.
pub(super) fn ttl_used_up(view: &View<'_>, site: &DropSite) -> Option<Finding> {
    let journey = view.journey;
    let looped = journey.notes.iter().any(|n| matches!(n.what, NoteKind::Looped { .. }));
    if !looped && journey.packet.ttl <= 16 {
        // Sent with a small TTL: traceroute.
        return None;
    }
    if !looped && let Some(found) = elsewhere::ttl_lowered(view, site) {
        return Some(found);
    }
    let mut by: Vec<String> = Vec::new();
    for lookup in view.lookups().filter(|l| l.error == 0 && !l.reverse && l.ifindex != 0) {
        let name = view.device_name(lookup.netns, lookup.ifindex);
        if !by.contains(&name) && by.len() < 3 {
            by.push(name);
        }
    }
    let by = if by.is_empty() { String::new() } else { format!(" by {}", by.join(" and ")) };
    Some(
        Finding::new(
            &c::ROUTING_LOOP,
            if looped { Certain } else { Likely },
            format!("packets to {} go round in circles{by} until their TTL is used up", journey.packet.ends.dst.addr),
        )
        .fact(if looped { "seen at the same place again and again with a smaller TTL" } else { "its TTL was used up here" })
        .checked(
            format!("the way it takes from {}", view.netns(site.netns)),
            view.command(site.netns, format!("{} rule; {} route get {}", view.ip_command(), view.ip_command(), journey.packet.ends.dst.addr)),
        )
        .fix(if site.mark >> 24 == 0x26 {
            "an EgressGateway mark is put on packets that come back from the gateway: upgrade the agent to 0.6.6 or later"
        } else {
            "two nodes route to each other: correct the route (or the mark that chooses it) on one of them"
        })
        .at(view.place(site.netns, site.ifindex)),
    )
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
    if !pod || evidence.routed(None, destination, 0) != Routed::NoRoute {
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
        .fix(
            view.command(netns, format!("{ip} route add default via GATEWAY"))
                + " (the CNI plugin should have done so: see its log)",
        )
        .about(destination)
        .at(view.place(netns, 0)),
    )
}
