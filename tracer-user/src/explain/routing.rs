// SPDX-License-Identifier: MIT OR Apache-2.0
//! Drops by routing: no route, routes that refuse, forwarding that is off, loops.

use std::net::IpAddr;

use super::context::{Lookup, View};
use crate::cause::Certainty::{self, Certain, Likely};
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::flow::{DropSite, Place};
use crate::node::rtnl::Rule;
use crate::node::{Hook, NetnsId};
use crate::snapshot::Routed;

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
pub(super) fn by_rule(view: &View<'_>, netns: NetnsId, to: IpAddr, rule: &Rule) -> Finding {
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

pub(super) fn article(word: &str) -> &'static str {
    if word.starts_with('u') { "an" } else { "a" }
}

pub(super) fn table_name(table: u32) -> String {
    crate::text::table_name(table).into_owned()
}

fn no_route(view: &View<'_>, site: &DropSite, get: &str) -> Finding {
    let ends = view.journey.hops.last().map_or(view.journey.packet.ends, |h| h.ends);
    let to = ends.dst.addr;
    let name = view.netns(site.netns);
    Finding::new(&c::NO_ROUTE, Certain, format!("{name} has no route to {to}"))
        .checked(format!("dropped for lack of a route: {}", view.reason(site)), get)
        .fix(format!("add a route for {to}: none of the routes of {name} fits"))
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
