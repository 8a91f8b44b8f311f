// SPDX-License-Identifier: MIT OR Apache-2.0
//! What routing is decided from, with an index of the routes.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

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

/// Routing of one namespace.
#[derive(Debug)]
pub struct Fib<'e> {
    pub(super) from: Sources<'e>,
    pub(super) rules4: Vec<&'e Rule>,
    pub(super) rules6: Vec<&'e Rule>,
    index: Arc<Index>,
}

/// Where in the sources things are. Making it costs one sort of the routes; it is of use as long as routes, exceptions,
/// next hop objects and devices stay the same.
#[derive(Debug, Default)]
pub struct Index {
    /// Positions of routes, ordered by table and prefix.
    sorted: Vec<usize>,
    tables: FxHashMap<(bool, u32), RoutingTable>,
    links: FxHashMap<u32, usize>,
    nexthops: FxHashMap<u32, usize>,
    /// Positions in the exceptions, then in the routes.
    exceptions: FxHashMap<IpAddr, Vec<usize>>,
}

/// Where the routes of a table are, by the length of their prefix; the longest first.
#[derive(Debug, Default)]
struct RoutingTable {
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

impl Index {
    pub fn new(from: &Sources<'_>) -> Self {
        Self::of(from, |_| true)
    }

    fn of(from: &Sources<'_>, wanted: impl Fn(&Route) -> bool) -> Self {
        let routes = from.routes.iter().enumerate();
        let mut sorted: Vec<(usize, &Route)> =
            routes.filter(|(_, route)| !route.cached && wanted(route)).collect();
        // Equal prefixes stay in the order of the dump, which is the kernel's, but for what a caller has added.
        let key = |(_, route): &(usize, &Route)| {
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
        let mut tables: FxHashMap<(bool, u32), RoutingTable> = FxHashMap::default();
        let mut start = 0;
        for run in sorted.chunk_by(|(_, a), (_, b)| {
            (a.destination.is_ipv6(), a.table, a.destination.len())
                == (b.destination.is_ipv6(), b.table, b.destination.len())
        }) {
            let range = start..start + run.len();
            start = range.end;
            let (_, route) = run[0];
            let table = tables.entry((route.destination.is_ipv6(), route.table)).or_default();
            table.lengths.push((route.destination.len(), range));
        }
        let mut exceptions: FxHashMap<IpAddr, Vec<usize>> = FxHashMap::default();
        let all = from.exceptions.iter().map(|route| (route, true));
        let all = all.chain(from.routes.iter().map(|route| (route, route.cached)));
        for (at, (route, _)) in all.enumerate().filter(|(_, (_, known))| *known) {
            exceptions.entry(route.destination.address()).or_default().push(at);
        }
        Self {
            sorted: sorted.into_iter().map(|(at, _)| at).collect(),
            tables,
            links: from.links.iter().enumerate().map(|(at, link)| (link.ifindex, at)).collect(),
            nexthops: from.nexthops.iter().enumerate().map(|(at, nexthop)| (nexthop.id, at)).collect(),
            exceptions,
        }
    }
}

impl<'e> Fib<'e> {
    pub fn new(from: Sources<'e>) -> Self {
        Self::with(from, Arc::new(Index::new(&from)))
    }

    /// Only the routes that concern these addresses are looked at: for a few questions about them.
    pub fn about(from: Sources<'e>, addresses: &[IpAddr]) -> Self {
        let index = Index::of(&from, |route| addresses.iter().any(|a| route.destination.contains(*a)));
        Self::with(from, Arc::new(index))
    }

    /// With an index that was made of the same sources before.
    pub fn with(from: Sources<'e>, index: Arc<Index>) -> Self {
        let of = |ipv6| {
            let mut rules: Vec<&Rule> = from.rules.iter().filter(|rule| rule.ipv6 == ipv6).collect();
            rules.sort_by_key(|rule| rule.priority);
            rules
        };
        Self { from, rules4: of(false), rules6: of(true), index }
    }

    pub(super) fn link(&self, ifindex: u32) -> Option<&'e Link> {
        self.from.links.get(*self.index.links.get(&ifindex)?)
    }

    fn nexthop(&self, id: u32) -> Option<&'e Nexthop> {
        self.from.nexthops.get(*self.index.nexthops.get(&id)?)
    }

    /// The routes of a table whose prefix has the address, by prefix; the longest first.
    pub(super) fn candidates(&self, table: u32, address: IpAddr) -> impl Iterator<Item = Vec<&'e Route>> {
        let routes = self.from.routes;
        let at = move |position: &usize| routes.get(*position).map(|route| bits(route.destination.address()));
        let table = self.index.tables.get(&(address.is_ipv6(), table));
        table.into_iter().flat_map(|table| &table.lengths).filter_map(move |(length, range)| {
            let run = self.index.sorted.get(range.clone())?;
            let wanted = Some(masked(address, *length));
            let first = run.partition_point(|position| at(position) < wanted);
            let found: Vec<&Route> = run
                .get(first..)?
                .iter()
                .take_while(|position| at(position) == wanted)
                .filter_map(|position| routes.get(*position))
                .collect();
            Some(found).filter(|found| !found.is_empty())
        })
    }

    /// There is a route in it.
    pub(super) fn has_table(&self, ipv6: bool, table: u32) -> bool {
        let is = |route: &Route| route.table == table && route.destination.is_ipv6() == ipv6;
        self.index.tables.contains_key(&(ipv6, table)) || self.from.routes.iter().any(is)
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
        let Some(object) = self.nexthop(id) else {
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
            match self.nexthop(*id) {
                Some(member) if member.blackhole => return Hops::Blackhole,
                Some(member) => hops.push((member.hop, weight.saturating_add(1))),
                None => return Hops::Unread(*id),
            }
        }
        Hops::Of(hops)
    }

    /// What the kernel remembers of a destination for a hop of a route.
    pub(super) fn exception(&self, destination: IpAddr, table: u32, ifindex: u32) -> Option<&'e Route> {
        let known = self.index.exceptions.get(&destination)?;
        let fits = |route: &&Route| {
            route.table == table && route.next_hops.first().is_some_and(|hop| hop.ifindex == ifindex)
        };
        let own = self.from.exceptions;
        let at = |at: &usize| own.get(*at).or_else(|| self.from.routes.get(at.checked_sub(own.len())?));
        known.iter().filter_map(at).find(fits)
    }

    /// A sysctl of a device, e.g. `("ipv4", "eth0", "rp_filter")`. A device that has none is `None`.
    fn device_sysctl(&self, family: &str, device: &str, name: &str) -> Option<i64> {
        self.from.sysctls.get(&format!("net/{family}/conf/{device}/{name}"))?.parse().ok()
    }

    /// Of the device alone, 0 when it is not known.
    pub(super) fn own(&self, ipv6: bool, ifindex: u32, name: &str) -> i64 {
        let family = if ipv6 { "ipv6" } else { "ipv4" };
        let device = self.link(ifindex).map_or("", |link| link.name.as_str());
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
        self.link(ifindex).is_none_or(|link| link.is_up())
    }

    pub(super) fn loopback(&self) -> u32 {
        self.from.links.iter().find(|link| link.is_loopback()).map_or(LOOPBACK, |link| link.ifindex)
    }

    /// The VRF that a device is, or is a port of; 0 for none.
    pub(super) fn vrf_of(&self, ifindex: u32) -> u32 {
        let Some(link) = self.link(ifindex) else { return 0 };
        if link.is_kind("vrf") {
            return ifindex;
        }
        let master = link.master.and_then(|master| self.link(master));
        master.filter(|master| master.is_kind("vrf")).map_or(0, |master| master.ifindex)
    }

    /// Not so: the hop's device is down, or has no carrier and routes over such devices are to be ignored. An address of
    /// this host does not depend on its device's state.
    pub(super) fn usable(&self, route: &Route, hop: &NextHop, ignore_linkstate: bool) -> bool {
        if matches!(route.kind, libc::RTN_LOCAL | libc::RTN_ANYCAST) {
            return true;
        }
        let Some(link) = self.link(hop.ifindex) else {
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
