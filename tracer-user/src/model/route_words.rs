// SPDX-License-Identifier: MIT OR Apache-2.0
//! Routes in the words of `ip route`.

use std::net::IpAddr;

use super::world::Host;
use crate::node::rtnl::Route;

pub(super) fn ip_command(address: IpAddr) -> &'static str {
    if address.is_ipv6() { "ip -6" } else { "ip" }
}

/// As `ip route` words it.
pub(super) fn words(host: &Host, route: &Route) -> String {
    let hop = route.next_hops.first().copied().unwrap_or_default();
    let to = if route.destination.is_empty() { "default".to_owned() } else { route.destination.to_string() };
    let via = hop.gateway.map_or_else(String::new, |gateway| format!(" via {gateway}"));
    let metric = if route.priority == 0 { String::new() } else { format!(" metric {}", route.priority) };
    let table = if route.table == u32::from(libc::RT_TABLE_MAIN) {
        String::new()
    } else {
        format!(" table {}", route.table)
    };
    format!("{to}{via} dev {}{metric}{table}", host.device(hop.ifindex))
}
