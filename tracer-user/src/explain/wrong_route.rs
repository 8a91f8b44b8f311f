// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets to a pod that take another route than the one made for it: a more specific one, one with a lower metric,
//! or one in a table that an earlier ip rule looks up.

use std::net::IpAddr;

use super::context::{Lookup, View};
use crate::cause::Certainty::{Certain, Likely};
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::flow::DropSite;
use crate::node::rtnl::Route;
use crate::node::{Device, DeviceKind, IpPrefix, NetnsId, PathRole};
use crate::snapshot::{NetnsEvidence, Routed};

/// RTN_UNICAST.
const UNICAST: u8 = 1;

/// The route that is used for an address, and the one that should be.
pub(super) struct Detour<'a> {
    pub(super) used: &'a Route,
    pub(super) meant: &'a Route,
}

/// Towards `address`, which is a pod's: the device of the route in use leads out, and another route leads to
/// a tunnel or to a bridge of this host. `from`: the device that the packet came in by, 0 the host's own.
pub(super) fn find<'a>(
    view: &View<'a>,
    netns: NetnsId,
    (from, source): (u32, Option<IpAddr>),
    address: IpAddr,
    mark: u32,
) -> Option<Detour<'a>> {
    let evidence = view.of(netns)?;
    let from = if from == 0 { "lo".to_owned() } else { view.device_name(netns, from) };
    let used = match evidence.routed_from(&from, source, address, mark) {
        Routed::By(route) if route.kind == UNICAST && !route.next_hops.is_empty() => route,
        _ => return None,
    };
    let leads_in = |route: &Route| route.next_hops.iter().any(|hop| inside(view, netns, hop.ifindex));
    if leads_in(used) {
        return None;
    }
    let meant = evidence
        .routes
        .iter()
        .filter(|route| {
            route.kind == UNICAST
                && !route.destination.is_empty()
                && route.destination.contains(address)
                && leads_in(route)
        })
        .max_by_key(|route| route.destination.len())?;
    Some(Detour { used, meant })
}

/// Tunnels, bridges, pods' devices.
fn inside(view: &View<'_>, netns: NetnsId, ifindex: u32) -> bool {
    view.device(netns, ifindex).is_some_and(|d: &Device| {
        matches!(d.kind, DeviceKind::Vxlan { .. } | DeviceKind::Bridge)
            || (d.kind == DeviceKind::Veth && d.watched != Some(PathRole::Uplink) && d.link.is_some_and(|l| l.0.is_some()))
            || matches!(&d.kind, DeviceKind::Other(kind) if ["ipip", "sit", "wireguard", "geneve", "tun"].contains(&kind.as_str()))
    })
}

/// As `ip route` words it.
pub(super) fn words(view: &View<'_>, netns: NetnsId, route: &Route) -> String {
    use std::fmt::Write as _;
    let mut text =
        if route.destination.is_empty() { "default".to_owned() } else { route.destination.to_string() };
    if let Some(hop) = route.next_hops.first() {
        if let Some(gateway) = hop.gateway {
            let _ = write!(text, " via {gateway}");
        }
        if hop.ifindex != 0 {
            let _ = write!(text, " dev {}", view.device_name(netns, hop.ifindex));
        }
    }
    if route.priority != 0 {
        let _ = write!(text, " metric {}", route.priority);
    }
    if route.table != u32::from(libc::RT_TABLE_MAIN) {
        let _ = write!(text, " table {}", route.table);
    }
    text
}

impl Detour<'_> {
    /// Why the kernel prefers the wrong one.
    fn why(&self, evidence: &NetnsEvidence) -> String {
        let (used, meant) = (self.used, self.meant);
        if used.table != meant.table {
            let rule = evidence.rules.iter().find(|r| r.table == used.table && r.action == 1);
            return match rule {
                Some(rule) => format!(
                    "ip rule {} ({}) asks table {} first",
                    rule.priority,
                    rule.selector(),
                    crate::text::table_name(used.table)
                ),
                None => format!("table {} is asked first", crate::text::table_name(used.table)),
            };
        }
        match used.destination.len().cmp(&meant.destination.len()) {
            std::cmp::Ordering::Greater => "it is the more precise one".to_owned(),
            _ => format!("its metric {} is lower than {}", used.priority, meant.priority),
        }
    }

    /// `wrong`: what becomes of packets by it.
    pub(super) fn say(&self, view: &View<'_>, netns: NetnsId, address: IpAddr, wrong: &str) -> Finding {
        let name = view.netns(netns);
        let (used, meant) = (words(view, netns, self.used), words(view, netns, self.meant));
        let why = view.of(netns).map_or_else(String::new, |e| self.why(e));
        let ip = if address.is_ipv6() { "ip -6" } else { "ip" };
        let sure = if view.is_pod_address(address) { Certain } else { Likely };
        Finding::new(
            &c::WRONG_ROUTE,
            sure,
            format!("{name} routes {address} by {used}, not by {meant}: {wrong}"),
        )
        .checked(
            format!("both routes fit {address}, and {why}"),
            view.command(netns, format!("{ip} route show table all match {address}")),
        )
        .fix(view.command(netns, format!("{ip} route del {used}")))
        .about(address)
        .at(view.place(netns, self.used.next_hops.first().map_or(0, |hop| hop.ifindex)))
    }
}

/// The destination is of the network of one of the host's own bridges, but the route leads elsewhere.
pub(super) fn of_network(view: &View<'_>, netns: NetnsId, to: IpAddr, used: &Lookup) -> Option<Finding> {
    let evidence = view.of(netns)?;
    let own = evidence.addresses.iter().find_map(|a| {
        let network = IpPrefix::new(a.address, a.prefix_len)?;
        let bridge = view.device(netns, a.ifindex).is_some_and(|d| d.kind == DeviceKind::Bridge);
        (bridge && a.ifindex != used.ifindex && network.contains(to) && !network.is_empty())
            .then_some((network, a.ifindex))
    });
    let (network, index) = own?;
    let (name, bridge) = (view.netns(netns), view.device_name(netns, index));
    let out = view.device_name(netns, used.ifindex);
    let via = if used.gateway.is_none() { String::new() } else { format!(" via {}", used.gateway) };
    let ip = if to.is_ipv6() { "ip -6" } else { "ip" };
    if view.device(netns, index).is_some_and(|d| !d.up) {
        return Some(
            Finding::new(
                &c::POD_ROUTE_MISSING,
                Certain,
                format!("{bridge} of {name}, which has the network {network} of {to}, is down: its route is gone, and the packet leaves by {out}{via}"),
            )
            .checked(format!("{bridge} is down"), view.command(netns, format!("ip -d addr show dev {bridge}")))
            .checked(
                format!("the lookup in table {} found {out}{via}", crate::text::table_name(used.table)),
                view.command(netns, format!("{ip} route get {to}")),
            )
            .fix(view.command(netns, format!("ip link set {bridge} up")))
            .about(to)
            .at(view.place(netns, index)),
        );
    }
    Some(
        Finding::new(
            &c::WRONG_ROUTE,
            Certain,
            format!("{to} is of the network {network} of {bridge} on {name}, but {name} routes it{via} out of {out}"),
        )
        .checked(
            format!("the lookup in table {} found {out}{via}", crate::text::table_name(used.table)),
            view.command(netns, format!("{ip} route get {to}")),
        )
        .checked(format!("{bridge} has an address of {network}"), view.command(netns, format!("ip addr show dev {bridge}")))
        .fix(view.command(netns, format!("{ip} route replace {network} dev {bridge}")) + &format!(", and delete what leads {to} to {out}"))
        .about(to)
        .at(view.place(netns, used.ifindex)),
    )
}

/// A reverse path filter that only does its work: the way back is wrong, not the filter.
pub(super) fn of_way_back(view: &View<'_>, site: &DropSite, source: IpAddr) -> Option<Finding> {
    let detour = find(view, site.netns, (0, None), source, 0)?;
    let device = view.device_name(site.netns, site.ifindex);
    // The one that is meant leads back to where it came from.
    if detour.meant.next_hops.iter().all(|hop| hop.ifindex != site.ifindex) {
        return None;
    }
    let wrong = format!(
        "{device} refuses packets from there (strict reverse path filter), and answers would go astray"
    );
    Some(detour.say(view, site.netns, source, &wrong))
}
