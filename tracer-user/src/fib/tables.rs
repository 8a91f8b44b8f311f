// SPDX-License-Identifier: MIT OR Apache-2.0
//! What routing is decided from, with an index of the routes.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;

use rustc_hash::FxHashMap;

use super::ipv4::error_of;
use crate::node::rtnl::{Address, Link, Neighbour, NextHop, Nexthop, Route, Rule};

/// What was read of a namespace, as far as routing depends on it. All in the order of the kernel's dumps.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'e> {
    pub rules: &'e [Rule],
    pub routes: &'e [Route],
    /// Route exceptions.
    pub exceptions: &'e [Route],
    pub nexthops: &'e [Nexthop],
    pub links: &'e [Link],
    pub addresses: &'e [Address],
    /// IPv6 prefers routers that answer, on a host that does not forward.
    pub neighbours: &'e [Neighbour],
    /// By path under /proc/sys.
    pub sysctls: &'e BTreeMap<String, String>,
}

/// Routing of one namespace. Building it costs one sort of the routes.
#[derive(Debug)]
pub struct Fib<'e> {
    pub(super) from: Sources<'e>,
    pub(super) rules4: Vec<&'e Rule>,
    pub(super) rules6: Vec<&'e Rule>,
    sorted: Vec<&'e Route>,
    tables: FxHashMap<(bool, u32), Table>,
    pub(super) links: FxHashMap<u32, &'e Link>,
    nexthops: FxHashMap<u32, &'e Nexthop>,
    exceptions: FxHashMap<IpAddr, Vec<&'e Route>>,
}

/// Where the routes of a table are, by the length of their prefix; the longest first.
#[derive(Debug, Default)]
struct Table {
    lengths: Vec<(u8, Range<usize>)>,
}

/// The next hops of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hops {
    /// With the weight of each.
    Of(Vec<(NextHop, u16)>),
    Blackhole,
    /// A next hop object that was not read.
    Unread(u32),
}

/// The bits of an address; those of IPv4 are the low ones.
pub(super) fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => a.to_bits().into(),
        IpAddr::V6(a) => a.to_bits(),
    }
}

fn masked(address: IpAddr, length: u8) -> u128 {
    let unused = if address.is_ipv4() { 32 } else { 128 } - u32::from(length);
    bits(address) & u128::MAX.checked_shl(unused).unwrap_or(0)
}

impl<'e> Fib<'e> {
    pub fn new(from: Sources<'e>) -> Self {
        Self::of(from, from.routes.iter().filter(|route| !route.cached).collect())
    }

    /// Only the routes that concern these addresses are looked at: for a few questions about them.
    pub fn about(from: Sources<'e>, addresses: &[IpAddr]) -> Self {
        let wanted =
            |route: &&Route| !route.cached && addresses.iter().any(|a| route.destination.contains(*a));
        Self::of(from, from.routes.iter().filter(wanted).collect())
    }

    fn of(from: Sources<'e>, mut sorted: Vec<&'e Route>) -> Self {
        let of = |ipv6| {
            let mut rules: Vec<&Rule> = from.rules.iter().filter(|rule| rule.ipv6 == ipv6).collect();
            rules.sort_by_key(|rule| rule.priority);
            rules
        };
        // Equal prefixes stay in the order of the dump, which is the kernel's, but for what a caller has added.
        let key = |route: &&Route| {
            let ipv6 = route.destination.is_ipv6();
            let tos = if ipv6 { 0 } else { route.tos };
            (
                ipv6,
                route.table,
                Reverse(route.destination.len()),
                bits(route.destination.address()),
                Reverse(route.from.map_or(0, |from| from.len())),
                Reverse(tos),
                route.priority,
            )
        };
        sorted.sort_by_cached_key(key);
        let mut tables: FxHashMap<(bool, u32), Table> = FxHashMap::default();
        let mut start = 0;
        for run in sorted.chunk_by(|a, b| {
            (a.destination.is_ipv6(), a.table, a.destination.len())
                == (b.destination.is_ipv6(), b.table, b.destination.len())
        }) {
            let range = start..start + run.len();
            start = range.end;
            let route = run[0];
            let table = tables.entry((route.destination.is_ipv6(), route.table)).or_default();
            table.lengths.push((route.destination.len(), range));
        }
        let mut exceptions: FxHashMap<IpAddr, Vec<&Route>> = FxHashMap::default();
        for route in from.exceptions.iter().chain(from.routes.iter().filter(|route| route.cached)) {
            exceptions.entry(route.destination.address()).or_default().push(route);
        }
        Self {
            from,
            rules4: of(false),
            rules6: of(true),
            sorted,
            tables,
            links: from.links.iter().map(|link| (link.ifindex, link)).collect(),
            nexthops: from.nexthops.iter().map(|nexthop| (nexthop.id, nexthop)).collect(),
            exceptions,
        }
    }

    /// The routes of a table whose prefix has the address, by prefix; the longest first.
    pub(super) fn candidates(&self, table: u32, address: IpAddr) -> impl Iterator<Item = &[&'e Route]> {
        let table = self.tables.get(&(address.is_ipv6(), table));
        table.into_iter().flat_map(|table| &table.lengths).filter_map(move |(length, range)| {
            let run = self.sorted.get(range.clone())?;
            let wanted = masked(address, *length);
            let first = run.partition_point(|route| bits(route.destination.address()) < wanted);
            let found = run.get(first..)?;
            let count = found.partition_point(|route| bits(route.destination.address()) == wanted);
            found.get(..count).filter(|found| !found.is_empty())
        })
    }

    /// There is a route in it.
    pub(super) fn has_table(&self, ipv6: bool, table: u32) -> bool {
        let is = |route: &Route| route.table == table && route.destination.is_ipv6() == ipv6;
        self.tables.contains_key(&(ipv6, table)) || self.from.routes.iter().any(is)
    }

    pub(super) fn hops_of(&self, route: &Route) -> Hops {
        let own = || match route.next_hops.as_slice() {
            // IPv6 routes that refuse are by the loopback; others have one, but for what is made by hand.
            [] => {
                let ifindex = if error_of(route.kind).is_some() { self.loopback() } else { 0 };
                Hops::Of(vec![(NextHop { ifindex, ..NextHop::default() }, 1)])
            }
            hops => Hops::Of(hops.iter().map(|hop| (*hop, u16::from(hop.weight) + 1)).collect()),
        };
        let Some(id) = route.nexthop_id else { return own() };
        let Some(object) = self.nexthops.get(&id) else {
            // The kernel tells the hops as the route's own too, unless it is told not to.
            return if route.next_hops.is_empty() { Hops::Unread(id) } else { own() };
        };
        if object.blackhole {
            return Hops::Blackhole;
        }
        if object.group.is_empty() {
            return Hops::Of(vec![(object.hop, 1)]);
        }
        let mut hops = Vec::new();
        for (id, weight) in &object.group {
            match self.nexthops.get(id) {
                Some(member) if member.blackhole => return Hops::Blackhole,
                Some(member) => hops.push((member.hop, weight.saturating_add(1))),
                None => return Hops::Unread(*id),
            }
        }
        Hops::Of(hops)
    }

    /// What the kernel remembers of a destination for a hop of a route.
    pub(super) fn exception(&self, destination: IpAddr, table: u32, ifindex: u32) -> Option<&'e Route> {
        let known = self.exceptions.get(&destination)?;
        let fits = |route: &&&Route| {
            route.table == table && route.next_hops.first().is_some_and(|hop| hop.ifindex == ifindex)
        };
        known.iter().find(fits).copied()
    }

    /// A sysctl of a device, e.g. `("ipv4", "eth0", "rp_filter")`. A device that has none is `None`.
    fn device_sysctl(&self, family: &str, device: &str, name: &str) -> Option<i64> {
        self.from.sysctls.get(&format!("net/{family}/conf/{device}/{name}"))?.parse().ok()
    }

    /// Of the device alone, 0 when it is not known.
    pub(super) fn own(&self, ipv6: bool, ifindex: u32, name: &str) -> i64 {
        let family = if ipv6 { "ipv6" } else { "ipv4" };
        let device = self.links.get(&ifindex).map_or("", |link| link.name.as_str());
        self.device_sysctl(family, device, name).unwrap_or(0)
    }

    pub(super) fn all(&self, ipv6: bool, name: &str) -> i64 {
        self.device_sysctl(if ipv6 { "ipv6" } else { "ipv4" }, "all", name).unwrap_or(0)
    }

    /// The greater of the device's and that of all (IPv4): how `rp_filter` and most switches combine.
    pub(super) fn either(&self, ifindex: u32, name: &str) -> i64 {
        self.own(false, ifindex, name).max(self.all(false, name))
    }

    /// The device is up. One that was not read is taken to be.
    pub(super) fn is_up(&self, ifindex: u32) -> bool {
        self.links.get(&ifindex).is_none_or(|link| link.is_up())
    }

    pub(super) fn loopback(&self) -> u32 {
        self.from.links.iter().find(|link| link.is_loopback()).map_or(LOOPBACK, |link| link.ifindex)
    }

    /// The VRF that a device is, or is a port of; 0 for none.
    pub(super) fn vrf_of(&self, ifindex: u32) -> u32 {
        let Some(link) = self.links.get(&ifindex) else { return 0 };
        if link.is_kind("vrf") {
            return ifindex;
        }
        let master = link.master.and_then(|master| self.links.get(&master));
        master.filter(|master| master.is_kind("vrf")).map_or(0, |master| master.ifindex)
    }

    /// Not so: the hop's device is down, or has no carrier and routes over such devices are to be ignored. An address of
    /// this host does not depend on its device's state.
    pub(super) fn usable(&self, route: &Route, hop: &NextHop, ignore_linkstate: bool) -> bool {
        if matches!(route.kind, libc::RTN_LOCAL | libc::RTN_ANYCAST) {
            return true;
        }
        let Some(link) = self.links.get(&hop.ifindex) else {
            return !hop.is_dead() || ignore_linkstate && hop.is_linkdown();
        };
        if !link.is_up() {
            return false;
        }
        let ignored = if route.destination.is_ipv6() {
            self.own(true, hop.ifindex, "ignore_routes_with_linkdown")
        } else {
            self.either(hop.ifindex, "ignore_routes_with_linkdown")
        };
        ignore_linkstate || ignored == 0 || link.has_carrier()
    }
}

/// The kernel's number of `lo`.
pub(super) const LOOPBACK: u32 = 1;
