// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keeps what was found over a run: one cause for one fault, counted.

use serde::Serialize;

use super::connections::Connections;
use super::finding::{Finding, Place};
use super::view::View;
use super::{drops, egress, lookups, selection};
use crate::flow::{Ending, Journey, Names};
use crate::node::Topology;
use crate::node::evidence::Evidence;

/// Causes that are remembered.
const CAUSES: usize = 256;

/// A cause, and how often it was met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Told {
    #[serde(flatten)]
    pub finding: Finding,
    /// Packets that it was found for so far.
    pub count: u64,
}

/// Finds causes, journey by journey.
#[derive(Debug, Default)]
pub struct Explainer {
    connections: Connections,
    told: Vec<(Key, Told, u64)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    id: &'static str,
    place: Place,
    /// Tells faults of one kind apart where the place does not.
    title: String,
}

impl Explainer {
    /// Looks at a journey whose ending is known by now. The same journey may come again with more known.
    ///
    /// Returns what was found for it; `count` is 1 for what was not told before.
    pub fn observe(
        &mut self,
        journey: &Journey,
        topology: &Topology,
        names: &dyn Names,
        evidence: Option<&Evidence>,
    ) -> Vec<Told> {
        let unknown = matches!(journey.ending, Ending::Open | Ending::Unclear { .. } | Ending::Evicted);
        if unknown || (journey.resumed && !journey.is_dropped()) {
            return Vec::new();
        }
        let state = self.connections.flow(journey.flow);
        let exit = state.exit;
        let routes = std::mem::take(&mut state.routes);
        let view = View { journey, topology, names, evidence, routes: &routes, exit };
        let found = explain(&view);
        self.connections.flow(journey.flow).routes.clone_from(&routes);
        let view = View { routes: &[], ..view };
        let together = self.connections.observe(&view);
        // The ICMP error that was dropped is a fault of its own only for what it would have told.
        let found = match (found, together) {
            (_, Some(together)) if journey.packet.icmp_error.is_some() => Some(together),
            (Some(found), _) => Some(found),
            (None, together) => together,
        };
        let Some(found) = found else { return Vec::new() };
        self.connections.flow(journey.flow).explained = true;
        if found.id == "path-mtu-black-hole" {
            // It says what the drops alone did not.
            self.told.retain(|(key, ..)| key.id != "packet-too-big");
        }
        vec![self.tell(found, journey.id)]
    }

    /// All causes of the run, the surest and most frequent first.
    pub fn causes(&self) -> Vec<Told> {
        let mut all: Vec<Told> = self.told.iter().map(|(_, told, _)| told.clone()).collect();
        all.sort_by_key(|told| (told.finding.certainty, std::cmp::Reverse(told.count)));
        all
    }

    fn tell(&mut self, finding: Finding, journey: u64) -> Told {
        // Numbers in titles differ from packet to packet of one fault.
        let title = finding.title.chars().filter(|c| !c.is_ascii_digit()).collect();
        let key = Key { id: finding.id, place: finding.place.clone(), title };
        if let Some((_, told, last)) = self.told.iter_mut().find(|(known, ..)| *known == key) {
            if *last != journey {
                *last = journey;
                told.count += 1;
                told.finding = finding;
            }
            return told.clone();
        }
        if self.told.len() >= CAUSES {
            self.told.remove(0);
        }
        let told = Told { finding, count: 1 };
        self.told.push((key, told.clone(), journey));
        told
    }
}

/// What one journey shows by itself.
fn explain(view: &View<'_>) -> Option<Finding> {
    if view.dropped().is_some() {
        return drops::explain(view);
    }
    egress::explain(view)
        .or_else(|| lookups::mark_after_routing(view))
        .or_else(|| selection::explain(view))
        .or_else(|| selection::sidecar_bypassed(view))
        .or_else(|| lookups::slow(view))
}
