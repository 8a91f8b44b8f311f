// SPDX-License-Identifier: MIT OR Apache-2.0
//! A namespace's answers to its firewall rules.

use std::net::IpAddr;

use super::model::NetnsEvidence;
use crate::firewall::{IpSet, NodeFacts, Table};

impl NodeFacts for NetnsEvidence {
    fn rulesets(&self) -> &[Table] {
        &self.rulesets
    }

    fn set(&self, name: &str) -> Option<&IpSet> {
        self.sets.get(name)
    }

    fn ifindex(&self, device: &str) -> Option<u32> {
        self.link(device).map(|link| link.ifindex)
    }

    fn address_type(&self, address: IpAddr, device: Option<u32>) -> Option<&'static str> {
        if self.routes.is_empty() {
            return None;
        }
        if address.is_multicast() {
            return Some("MULTICAST");
        }
        let local = self.routes.iter().filter(|route| {
            route.table == u32::from(libc::RT_TABLE_LOCAL)
                && route.destination.contains(address)
                && device.is_none_or(|d| route.next_hops.iter().any(|hop| hop.ifindex == d))
        });
        // RTN_* of the most specific route; an address in none is unicast.
        let best = local.max_by_key(|route| route.destination.len());
        Some(match best.map(|route| route.kind) {
            Some(libc::RTN_LOCAL) => "LOCAL",
            Some(libc::RTN_BROADCAST) => "BROADCAST",
            Some(libc::RTN_ANYCAST) => "ANYCAST",
            Some(libc::RTN_MULTICAST) => "MULTICAST",
            _ => "UNICAST",
        })
    }

    fn has_socket(&self, proto: u8, port: Option<u16>) -> bool {
        self.sockets.iter().any(|s| s.proto == proto && port.is_none_or(|port| s.local.port() == port))
    }
}
