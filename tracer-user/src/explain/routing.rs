// SPDX-License-Identifier: MIT OR Apache-2.0
//! Drops by routing: no route, routes that refuse, forwarding that is off, loops.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::catalogue as c;
use super::finding::Certainty::{self, Certain, Likely};
use super::finding::Finding;
use super::view::{Lookup, View};
use crate::flow::{DropSite, NoteKind, Place};
use crate::node::evidence::Routed;
use crate::node::rtnl::Rule;
use crate::node::{Hook, NetnsId, Role};

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
    if let Some(found) = refused_by_rule(view, site, &get) {
        return Some(found);
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

/// An ip rule that refuses by itself: no table was asked for more.
fn refused_by_rule(view: &View<'_>, site: &DropSite, get: &str) -> Option<Finding> {
    let ends = view.journey.hops.last().map_or(view.journey.packet.ends, |h| h.ends);
    let encap = site.encap.and_then(|i| view.journey.encaps.get(usize::from(i)));
    let (source, to) = encap.map_or((ends.src.addr, ends.dst.addr), |o| (o.src.addr, o.dst.addr));
    let evidence = view.of(site.netns)?;
    let came_in = view.journey.hops.iter().rev().find_map(|h| match h.place {
        Place::Hook { hook: Hook::Prerouting, ifindex, .. } if h.netns == site.netns => Some(ifindex),
        Place::Hook { hook: Hook::Output, .. } if h.netns == site.netns => Some(0),
        _ => None,
    });
    let from = match came_in.unwrap_or(site.ifindex) {
        0 => "lo".to_owned(),
        ifindex => view.device_name(site.netns, ifindex),
    };
    let Routed::Refused(rule) = evidence.routed_from(&from, Some(source.ip()), to.ip(), site.mark) else {
        return None;
    };
    Some(
        by_rule(view, site.netns, to.ip(), rule)
            .checked("no table was asked for a route to it", get)
            .at(view.place(site.netns, site.ifindex)),
    )
}

/// `ip rule` itself says no.
fn by_rule(view: &View<'_>, netns: NetnsId, to: IpAddr, rule: &Rule) -> Finding {
    let kind = match rule.does() {
        "blackhole" => &c::ROUTE_BLACKHOLE,
        "prohibit" => &c::ROUTE_PROHIBIT,
        _ => &c::ROUTE_UNREACHABLE,
    };
    let name = view.netns(netns);
    let ip = if to.is_ipv6() { "ip -6" } else { "ip" };
    Finding::new(
        kind,
        Certain,
        format!(
            "ip rule {} of {name} ({} {}) refuses packets to {to}",
            rule.priority,
            rule.selector(),
            rule.does()
        ),
    )
    .checked(
        format!("ip rule {} fits the packet and says {}", rule.priority, rule.does()),
        view.command(netns, format!("{ip} rule show")),
    )
    .fix(
        view.command(netns, format!("{ip} rule del priority {}", rule.priority))
            + ", or let it spare this packet",
    )
    .about(format!("{to} rule {}", rule.priority))
}

/// The check of the source found a route that refuses: the filter only says what the route means.
pub(super) fn way_back_refused(view: &View<'_>, site: &DropSite, source: IpAddr) -> Option<Finding> {
    let back = view.lookups().rev().find(|l| l.reverse && l.netns == site.netns)?;
    let kind = refusal(&back)?;
    let word = kind.id.strip_prefix("route-").unwrap_or(kind.id);
    let (name, device) = (view.netns(site.netns), view.device_name(site.netns, site.ifindex));
    Some(
        Finding::new(
            kind,
            Certain,
            format!(
                "{name} has {} {word} route for {source} in table {}: it refuses packets from there",
                article(word),
                table_name(back.table)
            ),
        )
        .checked(
            format!("dropped on arrival by {device}: the lookup of the way back ended with that route"),
            view.command(
                site.netns,
                format!("{} route show table {} type {word}", view.ip_command(), back.table),
            ),
        )
        .fix(format!("delete that route, so that answers to {source} find their way"))
        .about(source)
        .at(view.place(site.netns, site.ifindex)),
    )
}

/// Delivered where the destination is no address of the host: its route leads into the loopback.
pub(super) fn into_itself(view: &View<'_>, site: &DropSite, to: IpAddr) -> Option<Finding> {
    let ns = view.namespace(site.netns)?;
    let own = ns.devices.values().any(|d| d.addresses.contains(&to));
    let translated = view.journey.conntrack.iter().any(|e| e.translates());
    let here = view.journey.hops.iter().all(|h| h.netns == site.netns);
    if own || translated || !here || to.is_loopback() {
        return None;
    }
    let earlier = view.routes.iter().find(|l| l.netns == site.netns).copied();
    let looked = view.last_lookup(site.netns, false).or(earlier)?;
    let name = view.netns(site.netns);
    let device = view.device_name(site.netns, looked.ifindex);
    Some(
        Finding::new(
            &c::WRONG_ROUTE,
            Certain,
            format!(
                "{name} routes {to} into itself by {device} (table {}), though it does not have that address",
                table_name(looked.table)
            ),
        )
        .checked(
            "the packet came back by the loopback, and no socket takes it: NO_SOCKET",
            view.command(site.netns, format!("{} route get {to}", view.ip_command())),
        )
        .fix(format!(
            "correct that route: {}",
            view.command(site.netns, format!("{} route show table all", view.ip_command()))
        ))
        .about(to)
        .at(view.place(site.netns, site.ifindex)),
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
    Some(
        circle(view, site, if looped { Certain } else { Likely })
            .fact(if looped { "seen at the same place again and again with a smaller TTL" } else { "its TTL was used up here" })
            .fix(if site.mark >> 24 == 0x26 {
                "an EgressGateway mark is put on packets that come back from the gateway: upgrade the agent to 0.6.6 or later"
            } else {
                "two nodes route to each other: correct the route (or the mark that chooses it) on one of them"
            }),
    )
}

/// It came back to a host that had sent it on, from the host's own address.
pub(super) fn came_back(view: &View<'_>, site: &DropSite) -> Finding {
    let (name, device) = (view.netns(site.netns), view.device_name(site.netns, site.ifindex));
    circle(view, site, Certain)
        .fact(format!(
            "{name} sent it, and it came back by {device} with {name}'s own address as its source: {}",
            view.reason(site)
        ))
        .fix("two hosts route to each other: correct the route on one of them")
}

fn circle(view: &View<'_>, site: &DropSite, sure: Certainty) -> Finding {
    let to = view.journey.hops.last().map_or(view.journey.packet.ends, |h| h.ends).dst.addr;
    let mut by: Vec<String> = Vec::new();
    let mut told = Vec::new();
    for lookup in view.lookups().filter(|l| l.error == 0 && !l.reverse && !l.encap && l.ifindex != 0) {
        // The first of each host: others may be of the outer packet.
        if view.role_of(lookup.netns) == Some(Role::Pod) || told.contains(&lookup.netns) || told.len() == 3 {
            continue;
        }
        told.push(lookup.netns);
        let (name, device) = (view.netns(lookup.netns), view.device_name(lookup.netns, lookup.ifindex));
        let next = if lookup.gateway.is_none() { String::new() } else { format!("to {} ", lookup.gateway) };
        by.push(format!("{name} sends them {next}by {device}"));
    }
    let by = if by.is_empty() { String::new() } else { format!(": {}", by.join(", ")) };
    let ip = view.ip_command();
    Finding::new(&c::ROUTING_LOOP, sure, format!("packets to {to} go round in circles{by}"))
        .checked(
            format!("the way it takes from {}", view.netns(site.netns)),
            view.command(site.netns, format!("{ip} rule; {ip} route get {to}")),
        )
        .about(to)
        .at(view.place(site.netns, 0))
}

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
    pods.filter_map(|ns| device_down(view, ns.id).or_else(|| refuses_own(view, ns.id, to))).collect()
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
        let sure = if rule.more.is_empty() { Certain } else { Likely };
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
        .fix(
            view.command(netns, format!("{ip} route add default via GATEWAY"))
                + " (the CNI plugin should have done so: see its log)",
        )
        .about(destination)
        .at(view.place(netns, 0)),
    )
}
