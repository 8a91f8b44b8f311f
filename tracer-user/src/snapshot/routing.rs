// SPDX-License-Identifier: MIT OR Apache-2.0
//! The way the kernel would look up a route for a packet of this host, from the rules and tables that were read.

use std::net::IpAddr;

use super::model::NetnsEvidence;
use crate::fib::{Decision, Outcome, Question, RefusedBy, Selector, Why};
use crate::node::rtnl::{Route, Rule};

/// The device that the host's own packets come in by, for rules.
const OWN: &str = "lo";

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routed<'e> {
    /// By a route, which may be one that refuses.
    By(&'e Route),
    /// A rule refuses (unreachable, prohibit, blackhole).
    Refused(&'e Rule),
    NoRoute,
    /// It depends on what is not known.
    Unknown,
}

impl NetnsEvidence {
    /// How a packet of this host with this mark goes; `source`: `None` when it is not known.
    pub fn routed(&self, source: Option<IpAddr>, destination: IpAddr, mark: u32) -> Routed<'_> {
        self.routed_from(OWN, source, destination, mark)
    }

    /// The same for one that came in by this device, `lo` for the host's own. Whether the source is accepted and the
    /// packet is forwarded is not looked at.
    pub fn routed_from(
        &self,
        from: &str,
        source: Option<IpAddr>,
        destination: IpAddr,
        mark: u32,
    ) -> Routed<'_> {
        let input = match self.link(from) {
            _ if from == OWN => None,
            Some(link) => Some(link.ifindex),
            // No rule can ask for a device that is not there by its number.
            None => Some(u32::MAX),
        };
        let mut question = Question { input, ..Question::to(destination).mark(mark) };
        question.source = source;
        let addresses: Vec<_> = source.into_iter().chain([destination]).collect();
        let answer = self.fib_about(&addresses).lookup_unchecked(&question);
        let mut each = answer.outcomes.iter().map(|outcome| {
            if source.is_none() && asks_for_source(outcome) { Routed::Unknown } else { simple(outcome) }
        });
        let first = each.next().unwrap_or(Routed::Unknown);
        if each.all(|other| other == first) { first } else { Routed::Unknown }
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

fn simple<'e>(outcome: &Outcome<'e>) -> Routed<'e> {
    match &outcome.decision {
        Decision::Routed(routed) => routed.route.map_or(Routed::Unknown, Routed::By),
        Decision::Refused(refusal) => match refusal.by {
            RefusedBy::Rule(rule) => Routed::Refused(rule),
            RefusedBy::Route(route) => Routed::By(route),
            _ => Routed::NoRoute,
        },
        Decision::Unknown(_) => Routed::Unknown,
    }
}

/// With another source than none a rule might have applied, or the one that did might not.
fn asks_for_source(outcome: &Outcome<'_>) -> bool {
    let nearly = outcome.passed.iter().any(|passed| match passed.why {
        Why::Selectors(failed) => failed.single() == Some(Selector::Source),
        Why::Inverted => passed.rule.source.is_some(),
        _ => false,
    });
    nearly || outcome.rule.is_some_and(|rule| rule.source.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(table: u32, to: &str) -> Route {
        Route { destination: to.parse().unwrap(), table, ..Route::default() }
    }

    fn rule(priority: u32, table: u32, mark: u32) -> Rule {
        Rule {
            priority,
            action: 1,
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
            routes: vec![route(254, "10.0.0.0/8"), route(254, "10.1.0.0/16"), route(7, "0.0.0.0/0")].into(),
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
