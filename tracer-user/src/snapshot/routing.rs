// SPDX-License-Identifier: MIT OR Apache-2.0
//! The way the kernel would look up a route for a packet of this host, from the rules and tables that were read.

use std::net::IpAddr;

use super::model::NetnsEvidence;
use crate::node::rtnl::{Route, Rule};

/// FR_ACT_TO_TBL, include/uapi/linux/fib_rules.h.
const LOOK_UP: u8 = 1;
/// RTN_THROW: the next rule is asked.
const THROW: u8 = 9;
/// The device that the host's own packets come in by, for rules.
const OWN: &str = "lo";

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routed<'e> {
    By(&'e Route),
    /// A rule refuses (unreachable, prohibit, blackhole).
    Refused(&'e Rule),
    NoRoute,
    /// A rule on the way asks for what is not known.
    Unknown,
}

impl NetnsEvidence {
    /// How a packet of this host with this mark goes; before it has a source address, when that is `None`.
    pub fn routed(&self, source: Option<IpAddr>, destination: IpAddr, mark: u32) -> Routed<'_> {
        self.routed_from(OWN, source, destination, mark)
    }

    /// The same for one that came in by this device, `lo` for the host's own.
    pub fn routed_from(
        &self,
        from: &str,
        source: Option<IpAddr>,
        destination: IpAddr,
        mark: u32,
    ) -> Routed<'_> {
        for rule in self.rules.iter().filter(|rule| rule.ipv6 == destination.is_ipv6()) {
            if rule.source.is_some() && source.is_none() || rule.output.is_some() {
                return Routed::Unknown;
            }
            let any = if destination.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
            let input = rule.input.as_deref().is_none_or(|name| name == from);
            // "not" turns all of the rule's conditions round, the device too.
            let applies = if rule.inverted && rule.input.is_some() {
                return Routed::Unknown;
            } else {
                input && rule.matches(source.unwrap_or(any), destination, mark)
            };
            if !applies {
                continue;
            }
            if !rule.more.is_empty() {
                return Routed::Unknown;
            }
            if rule.action != LOOK_UP {
                return Routed::Refused(rule);
            }
            if let Some(route) = self.best(rule.table, destination, rule.suppress_prefix_len)
                && route.kind != THROW
            {
                return Routed::By(route);
            }
        }
        Routed::NoRoute
    }

    /// The longest prefix of a table; of equals the one with the lowest metric.
    pub fn best(&self, table: u32, destination: IpAddr, suppressed: Option<u32>) -> Option<&Route> {
        let fits = |route: &&Route| route.table == table && route.destination.contains(destination);
        let best = self
            .routes
            .iter()
            .filter(fits)
            .max_by_key(|route| (route.destination.len(), std::cmp::Reverse(route.priority)))?;
        suppressed.is_none_or(|most| u32::from(best.destination.len()) > most).then_some(best)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(table: u32, to: &str) -> Route {
        Route { destination: to.parse().unwrap(), table, kind: 1, ..Route::default() }
    }

    fn rule(priority: u32, table: u32, mark: u32) -> Rule {
        Rule {
            priority,
            action: LOOK_UP,
            table,
            mark,
            mask: if mark == 0 { 0 } else { u32::MAX },
            ..Rule::default()
        }
    }

    fn table_of(routed: Routed<'_>) -> Option<u32> {
        match routed {
            Routed::By(route) => Some(route.table),
            _ => None,
        }
    }

    #[test]
    fn rules_then_tables_then_prefixes() {
        let mut evidence = NetnsEvidence {
            rules: vec![rule(0, 255, 0), rule(99, 7, 7), rule(32766, 254, 0)],
            routes: vec![route(254, "10.0.0.0/8"), route(254, "10.1.0.0/16"), route(7, "0.0.0.0/0")],
            ..NetnsEvidence::default()
        };
        let to = "10.1.2.3".parse().unwrap();
        match evidence.routed(None, to, 0) {
            Routed::By(route) => assert_eq!(route.destination.to_string(), "10.1.0.0/16"),
            other => panic!("{other:?}"),
        }
        assert_eq!(table_of(evidence.routed(None, to, 7)), Some(7));
        assert_eq!(evidence.routed(None, "11.0.0.1".parse().unwrap(), 0), Routed::NoRoute);
        // The default route of a table that is only asked for what is more precise.
        evidence.rules[1].suppress_prefix_len = Some(0);
        assert_eq!(table_of(evidence.routed(None, to, 7)), Some(254));
        evidence.rules[1].source = Some("10.9.0.0/16".parse().unwrap());
        assert_eq!(evidence.routed(None, to, 7), Routed::Unknown);
        evidence.rules[1].source = None;
        evidence.rules[1].action = 7;
        assert!(matches!(evidence.routed(None, to, 7), Routed::Refused(_)));
    }
}
