// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finds causes journey by journey, over a run.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::attribution::{Authors, HopAuthors};
use super::came_back::{self, Heard, OpenRequest};
use super::compare::{self, Opening};
use super::context::View;
use super::drop_rate::Odds;
use super::flow_history::Connections;
use super::ledger::{Ledger, Told};
use super::{
    drops, egress, egress_policy_match, neighbour, never_sent, no_reply, programs, slow, split_routing,
};
use crate::cause::{Certainty, Finding};
use crate::flow::{Ending, Journey, Names};
use crate::model::Snapshot;
use crate::node::{NetnsId, Topology};
use crate::snapshot::Evidence;

/// What a moment brings besides packets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tick<'a> {
    /// CLOCK_MONOTONIC.
    pub now_ns: u64,
    /// By how much counters rose since the last time, as [`crate::snapshot::NetnsEvidence::counters`] names
    /// them; those that did not are left out.
    pub counters: &'a [(NetnsId, BTreeMap<String, u64>)],
    /// Where the packets that are followed go to.
    pub destinations: &'a [IpAddr],
    /// Who asked for MACs since the last time.
    pub asked: &'a [Asked],
    /// Who answered.
    pub answered: &'a [Answered],
    /// What came back after requests that have no answer.
    pub heard: &'a [Heard],
    /// Records that were lost, and flows forgotten for lack of room, since the last time.
    pub lost: u64,
}

/// An answer to such a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Answered {
    pub netns: NetnsId,
    pub address: IpAddr,
    /// Whose it is, as the answer says.
    pub mac: [u8; 6],
}

/// ARP requests or neighbour solicitations for one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    pub netns: NetnsId,
    pub target: IpAddr,
    pub by: IpAddr,
    pub times: u32,
}

/// Finds causes, journey by journey.
#[derive(Debug, Default)]
pub struct Explainer {
    connections: Connections,
    authors: Authors,
    ledger: Ledger,
    first_tick_ns: Option<u64>,
    saw_any: bool,
    whole: slow::Whole,
    odds: Odds,
}

/// Requests that are listened for at once.
const LISTENED: usize = 8;

/// How often a guess about one flow is held against the model.
const GUESSES_HELD: u8 = 3;

/// Silence that is not explained by what is certain to refuse.
const PATIENCE_NS: u64 = 1_000_000_000;

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
        self.whole.remember(journey.id, &journey.hops);
        let unknown = matches!(journey.ending, Ending::Open | Ending::Unclear { .. } | Ending::Evicted);
        if unknown || (journey.resumed && !journey.is_dropped()) {
            return Vec::new();
        }
        self.came();
        self.odds.observe(journey);
        let odds = &self.odds;
        let state = self.connections.flow(journey.flow);
        state.opening = state.opening.or_else(|| Opening::of(journey));
        Arc::make_mut(&mut state.tracking).observe(journey);
        let (exit, tunnel) = (state.exit, state.tunnelled_into);
        let routes = std::mem::take(&mut state.routes);
        let (tracking, risen) = (Arc::clone(&state.tracking), Arc::clone(&self.connections.counters));
        let (tracking, risen) = (&*tracking, &*risen);
        let seen =
            View { exit, tunnel, tracking, risen, ..View::new(journey, topology, names, evidence, odds) };
        let view = View { routes: &routes, ..seen };
        let mut found = explain(&view);
        found.extend(slow::explain(&view, &mut self.whole));
        self.connections.flow(journey.flow).routes.clone_from(&routes);
        let view = seen;
        // Of an address that nobody has, no answer is to be expected.
        let nobodys = |f: &Finding| {
            f.id == crate::cause::catalogue::SNAT_TO_ANOTHER_ADDRESS.id
                && journey.hops.last().is_some_and(|h| view.owner(h.ends.src.addr.ip()).is_none())
        };
        if found.iter().any(|f| f.breaks() || nobodys(f)) {
            self.connections.flow(journey.flow).explained = true;
        }
        let together = self.connections.observe(&view).map(|found| self.by_model(&view, found));
        // The ICMP error that was dropped is a fault of its own only for what it would have told.
        if journey.packet.icmp_error.is_some() && (together.is_some() || !view.is_too_big()) {
            found.clear();
        }
        if !found.iter().any(Finding::breaks) {
            found.extend(together);
        }
        found.extend(self.connections.programs(&view));
        let translation = self.connections.translation(&view);
        if let Some(translation) = translation {
            for finding in &mut found {
                if let Some(better) = translation.explains(&view, finding) {
                    *finding = better;
                }
            }
        }
        let opening = self.connections.flow(journey.flow).opening;
        let new = found
            .iter()
            .any(|found| (found.breaks() || compare::is_repairable(found)) && !self.ledger.knows(found));
        // A guess was perhaps told before the node was read.
        let state = self.connections.flow(journey.flow);
        let again = state.guesses_held < GUESSES_HELD && found.iter().any(|f| f.breaks() && f.kind().guess);
        state.guesses_held += u8::from(again);
        let new = new || again;
        let unknown = journey.is_dropped()
            && view.is_opening()
            && found.is_empty()
            && !self.connections.flow(journey.flow).explained;
        let path = egress::path(&view).filter(|_| evidence.is_some());
        let on_path = path.is_some_and(|path| self.connections.first_on_path(path));
        if let (true, Some(evidence)) = (new || unknown || on_path, evidence) {
            let mut snapshot = Snapshot::new(evidence, topology, &|netns| view.prefix(netns));
            compare::hold_against_model(&view, opening, &mut snapshot, &mut found);
        }
        if found.iter().any(Finding::breaks) {
            self.connections.flow(journey.flow).explained = true;
        }
        // Of a guess, what comes back may tell more.
        if found.iter().any(|f| f.breaks() && !f.kind().guess) {
            self.connections.unanswered.over(journey.flow);
        }
        if journey.reply && journey.packet.icmp_error.is_none() && !found.iter().any(Finding::breaks) {
            self.ledger.answered(journey.flow);
        }
        for finding in &found {
            self.connections.askers.silence(finding, journey);
        }
        found.into_iter().filter_map(|found| self.ledger.tell(found, journey)).collect()
    }

    fn by_model(&self, view: &View<'_>, found: Finding) -> Finding {
        let (Some(opening), Some(evidence)) = (self.connections.opening(view.journey.flow), view.evidence)
        else {
            return found;
        };
        if self.ledger.knows(&found) {
            return found;
        }
        let mut snapshot = Snapshot::new(evidence, view.topology, &|netns| view.prefix(netns));
        compare::instead_of_guess(view, &opening, &mut snapshot, found)
    }

    /// With what repairs it by the model, where it is told for the first time.
    fn repaired(&self, view: &View<'_>, found: Finding) -> Finding {
        let opening = self.connections.opening(view.journey.flow);
        let (Some(opening), Some(evidence)) = (opening, view.evidence) else { return found };
        if !compare::is_repairable(&found) || self.ledger.knows(&found) {
            return found;
        }
        let mut snapshot = Snapshot::new(evidence, view.topology, &|netns| view.prefix(netns));
        let mut found = [found];
        compare::repair(&opening, &mut snapshot, &mut found);
        let [found] = found;
        found
    }

    /// A packet of what is followed was seen: guesses about why there is none are over.
    fn came(&mut self) {
        if !std::mem::replace(&mut self.saw_any, true) {
            self.ledger.something_came();
        }
    }

    /// Something that breaks the flow of this packet is known.
    pub fn is_explained(&mut self, journey: &Journey) -> bool {
        self.connections.flow(journey.flow).explained
    }

    /// The packet is queued at a neighbour entry that is being resolved.
    pub fn waits_for_neighbour(
        &self,
        journey: &Journey,
        topology: &Topology,
        names: &dyn Names,
        evidence: Option<&Evidence>,
    ) -> bool {
        let view = View::new(journey, topology, names, evidence, &self.odds);
        neighbour::waits(&view)
    }

    /// Looks at a packet under way that may wait for its next hop's link-layer address.
    pub fn held(
        &mut self,
        journey: &Journey,
        topology: &Topology,
        names: &dyn Names,
        evidence: Option<&Evidence>,
    ) -> Option<Told> {
        self.came();
        let view = View::new(journey, topology, names, evidence, &self.odds);
        let found = neighbour::pending(&view)?;
        let translation = self.connections.translation(&view);
        let found = translation.and_then(|t| t.explains(&view, &found)).unwrap_or(found);
        let found = self.repaired(&view, found);
        self.connections.flow(journey.flow).explained = true;
        self.connections.askers.silence(&found, journey);
        self.ledger.expect(found, journey)
    }

    /// Requests that have no answer: what comes back for them is worth listening for ([`Tick::heard`]).
    pub fn unanswered(&mut self, now_ns: u64) -> Vec<OpenRequest> {
        let open = self.connections.unanswered.open(now_ns).map(OpenRequest::of);
        open.take(LISTENED).collect()
    }

    /// Packets that came back, though not as the filter expects them.
    fn hear(
        &mut self,
        heard: &[Heard],
        topology: &Topology,
        names: &dyn Names,
        evidence: Option<&Evidence>,
    ) -> Vec<Told> {
        let mut news: Vec<Journey> = Vec::new();
        let requests = self.connections.unanswered.requests();
        for one in heard {
            for request in &requests {
                let Some(relation) = request.relation(one) else { continue };
                let known = &mut self.connections.flow(request.flow).came_back;
                came_back::note(known, *one, relation);
                if news.iter().all(|journey| journey.flow != request.flow) {
                    news.extend(self.connections.unanswered.of(request.flow).cloned());
                }
            }
        }
        let mut told = Vec::new();
        for journey in news {
            let state = self.connections.flow(journey.flow);
            let came = state.came_back.clone();
            if came_back::is_answered(&journey, &came) {
                state.answered = true;
                self.connections.unanswered.over(journey.flow);
                self.ledger.answered(journey.flow);
                continue;
            }
            let view = View::new(&journey, topology, names, evidence, &self.odds);
            if let Some(found) = came_back::explain(&view, &came) {
                told.extend(self.ledger.tell(found, &journey));
            }
        }
        told
    }

    /// Looks at what no packet shows: answers that do not come, counters. Call it every half second or so.
    pub fn tick(
        &mut self,
        now: &Tick<'_>,
        topology: &Topology,
        names: &dyn Names,
        evidence: Option<&Evidence>,
    ) -> Vec<Told> {
        let mut told = Vec::new();
        if now.lost > 0 {
            self.connections.lost(now.now_ns);
        }
        if !now.heard.is_empty() {
            told.extend(self.hear(now.heard, topology, names, evidence));
        }
        let odds = &self.odds;
        for journey in self.connections.unanswered.overdue(now.now_ns) {
            let state = self.connections.flow(journey.flow);
            let (exit, tunnel) = (state.exit, state.tunnelled_into);
            let tracking = Arc::clone(&state.tracking);
            let view = View {
                exit,
                tunnel,
                tracking: &tracking,
                ..View::new(&journey, topology, names, evidence, odds)
            };
            if let Some(found) = no_reply::lone(&view, &mut self.connections) {
                let found = self.by_model(&view, found);
                let translation = self.connections.translation(&view);
                let found = translation.and_then(|t| t.explains(&view, &found)).unwrap_or(found);
                let found = self.repaired(&view, found);
                self.connections.flow(journey.flow).explained = true;
                self.connections.askers.silence(&found, &journey);
                told.extend(self.ledger.tell(found, &journey));
            }
        }
        for (flow, found) in self.connections.overdue(now.now_ns) {
            // A guess, where nothing else is wrong.
            if found.certainty == Certainty::Possible && self.ledger.knows_a_break() {
                continue;
            }
            let journey = Journey { flow, ..Journey::default() };
            let found = self.repaired(&View::new(&journey, topology, names, evidence, odds), found);
            told.extend(self.ledger.tell(found, &journey));
        }
        self.connections.askers.hear(now.asked, now.now_ns);
        self.connections.askers.hear_answers(now.answered, now.now_ns);
        for journey in self.connections.askers.silent() {
            let view = View::new(&journey, topology, names, evidence, odds);
            if let Some(found) = no_reply::unclaimed(&view, &self.connections) {
                told.extend(self.ledger.tell(found, &journey));
                self.connections.askers.over(journey.flow);
            }
        }
        for (netns, risen) in now.counters {
            let known = Arc::make_mut(&mut self.connections.counters).entry(*netns).or_default();
            for (name, by) in risen {
                let sum = known.entry(name.clone()).or_default();
                *sum = sum.saturating_add(*by);
            }
        }
        let nobody = Journey::default();
        let view = View::new(&nobody, topology, names, evidence, odds);
        for (netns, risen) in now.counters {
            for destination in now.destinations {
                if let Some(mut found) = never_sent::nowhere_to_go(&view, *netns, *destination, risen) {
                    if !self.ledger.knows(&found) {
                        found = never_sent::repaired(&view, *netns, *destination, found);
                    }
                    told.extend(self.ledger.tell(found, &nobody));
                }
            }
        }
        let waited = now.now_ns.saturating_sub(*self.first_tick_ns.get_or_insert(now.now_ns));
        if !self.saw_any {
            for destination in now.destinations {
                for (netns, finding) in never_sent::refused_at_once(&view, *destination) {
                    let early = finding.certainty == Certainty::Possible && waited < PATIENCE_NS;
                    if !early && !self.ledger.knows(&finding) {
                        let finding = never_sent::repaired(&view, netns, *destination, finding);
                        told.extend(self.ledger.tell(finding, &nobody));
                    }
                }
            }
        }
        told
    }

    /// The rules that did what shows at the hops of a journey from `from` on, where they can be named.
    pub fn authors(
        &mut self,
        journey: &Journey,
        from: usize,
        topology: &Topology,
        names: &dyn Names,
        evidence: Option<&Evidence>,
    ) -> Vec<HopAuthors> {
        evidence.map_or_else(Vec::new, |e| self.authors.of(journey, from, topology, names, e))
    }

    /// All causes of the run, the surest and most frequent first.
    pub fn causes(&self) -> Vec<Told> {
        self.ledger.causes()
    }
}

/// What one journey shows by itself: one finding for each thing that is wrong. Of EgressGateway's path the first
/// divergence; what comes after follows from it.
fn explain(view: &View<'_>) -> Vec<Finding> {
    let dropped = view.dropped().is_some();
    let mut found: Vec<Finding> = Vec::new();
    found.extend(split_routing::wrong_gateway_mac(view));
    let selected = if dropped {
        egress_policy_match::not_selected(view).filter(|f| f.kind().reroutes)
    } else {
        egress_policy_match::explain(view)
    };
    found.extend(split_routing::mark_after_routing(view));
    found.extend(selected);
    if dropped {
        let rerouted = found.iter().any(|f| f.kind().reroutes);
        let drop = drops::explain(view);
        found.extend(
            drop.filter(|drop| !(rerouted && drop.id == crate::cause::catalogue::REPLY_NOT_MARKED.id)),
        );
    } else {
        found.extend(programs::suspect(view));
        found.extend(egress_policy_match::sidecar_bypassed(view));
    }
    if found.iter().any(|f| f.kind().reroutes) {
        found.retain(|f| !f.kind().follows);
    }
    found
}
