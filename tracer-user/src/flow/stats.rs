// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counts and latencies of a whole run.

use hdrhistogram::Histogram;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::model::{Ending, Hop, Journey, Place};
use crate::node::{Hook, NetnsId};

/// Kinds of hop-to-hop steps that are kept apart; more are counted only.
const EDGES: usize = 128;
/// 10 minutes in ns: the longest time a histogram tells apart.
const LONGEST: u64 = 600_000_000_000;
/// Bars of a small histogram.
pub const BARS: usize = 12;

/// A place without what differs from packet to packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PlaceKey {
    pub netns: NetnsId,
    /// `None`: the device. Routing decisions are no places of their own.
    pub hook: Option<Hook>,
    /// Device; for a hook 0.
    pub ifindex: u32,
    /// At a device: going out.
    pub egress: bool,
    /// The packet is inside another one.
    pub encap: bool,
}

impl PlaceKey {
    pub(crate) fn of(hop: &Hop) -> Option<Self> {
        let encap = hop.encap.is_some();
        match hop.place {
            Place::Device { ifindex, egress } => {
                Some(Self { netns: hop.netns, hook: None, ifindex, egress, encap })
            }
            Place::Hook { hook, .. } => {
                Some(Self { netns: hop.netns, hook: Some(hook), ifindex: 0, egress: false, encap })
            }
            Place::Route { .. } => None,
        }
    }
}

/// Times in ns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    pub count: u64,
    pub min: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub max: u64,
    /// Counts in `BARS` bins of equal ratio between min and max.
    pub bars: Vec<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeTimes {
    pub from: PlaceKey,
    pub to: PlaceKey,
    pub times: Times,
}

/// What to say at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    pub duration_ns: u64,
    /// Journeys. Each has exactly one of the endings below.
    pub packets: u64,
    pub left: u64,
    pub delivered: u64,
    /// Handed to a device behind which nothing is watched.
    pub unwatched: u64,
    /// Became part of others.
    pub merged: u64,
    /// Cut up into fragments, which are packets of their own here.
    pub cut_up: u64,
    /// Copies of others that went no further.
    pub copies: u64,
    /// Of `packets`: by `enum skb_drop_reason`, most frequent first.
    pub dropped: Vec<(u32, u64)>,
    pub vanished: u64,
    /// Not seen to the end while events were lost.
    pub unclear: u64,
    /// Not over when the run ended.
    pub under_way: u64,
    /// Given up because too many packets were under way.
    pub evicted: u64,
    pub events: u64,
    pub events_lost: u64,
    /// As far as the CPU is known.
    pub lost_by_cpu: Vec<(u16, u64)>,
    /// Frees that belong to healthy traffic.
    pub healthy_frees: u64,
    /// Flows, conntrack entries and hops forgotten for lack of room.
    pub flows_evicted: u64,
    pub conntracks_evicted: u64,
    pub hops_cut: u64,
    /// In the order packets took them.
    pub edges: Vec<EdgeTimes>,
    pub edges_uncounted: u64,
    pub round_trip: Times,
    /// Of the round trips, the part beyond the uplink.
    pub beyond: Times,
}

impl Summary {
    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().map(|(_, n)| n).sum()
    }
}

#[derive(Debug)]
pub(crate) struct Stats {
    pub(crate) summary: Summary,
    dropped: FxHashMap<u32, u64>,
    index: FxHashMap<(PlaceKey, PlaceKey), usize>,
    edges: Vec<HopEdge>,
    round_trip: Spread,
    beyond: Spread,
}

#[derive(Debug)]
struct HopEdge {
    from: PlaceKey,
    to: PlaceKey,
    /// First journey that took it, and how far along: the order in which to show it.
    first: (u64, usize),
    spread: Spread,
}

/// A histogram (two significant digits) with exact bounds.
#[derive(Debug)]
struct Spread {
    histogram: Histogram<u32>,
    min: u64,
    max: u64,
}

impl Spread {
    fn new() -> Self {
        // The bounds are constants that hdrhistogram accepts; a failure would be a bug of ours.
        let histogram = Histogram::new_with_bounds(1, LONGEST, 2).expect("constant bounds");
        Self { histogram, min: u64::MAX, max: 0 }
    }

    fn record(&mut self, ns: u64) {
        self.histogram.saturating_record(ns.max(1));
        self.min = self.min.min(ns);
        self.max = self.max.max(ns);
    }
}

impl Stats {
    pub(crate) fn new() -> Self {
        Self {
            summary: Summary::default(),
            dropped: FxHashMap::default(),
            index: FxHashMap::default(),
            edges: Vec::new(),
            round_trip: Spread::new(),
            beyond: Spread::new(),
        }
    }

    /// Counts a journey under its ending.
    pub(crate) fn ending(&mut self, ending: &Ending) {
        *self.counter(ending) += 1;
    }

    /// A journey that was counted already turned out to end otherwise.
    pub(crate) fn correct(&mut self, before: &Ending, after: &Ending) {
        *self.counter(before) -= 1;
        *self.counter(after) += 1;
    }

    fn counter(&mut self, ending: &Ending) -> &mut u64 {
        let s = &mut self.summary;
        match ending {
            Ending::Left { .. } => &mut s.left,
            Ending::Delivered { .. } => &mut s.delivered,
            Ending::Unwatched { .. } => &mut s.unwatched,
            Ending::Merged { .. } => &mut s.merged,
            Ending::CutUp { .. } => &mut s.cut_up,
            Ending::Copy { .. } => &mut s.copies,
            Ending::Dropped(site) => self.dropped.entry(site.reason).or_insert(0),
            Ending::Vanished { .. } => &mut s.vanished,
            Ending::Unclear { .. } => &mut s.unclear,
            Ending::Open => &mut s.under_way,
            Ending::Evicted => &mut s.evicted,
        }
    }

    /// Times of a journey that is complete and lost no event.
    pub(crate) fn times(&mut self, journey: &Journey) {
        let mut last: Option<(PlaceKey, u64)> = None;
        let mut device: Option<(PlaceKey, u64)> = None;
        for (at, hop) in journey.hops.iter().enumerate() {
            let Some(key) = PlaceKey::of(hop) else { continue };
            if key.hook.is_none() {
                let before = device.replace((key, hop.ts));
                // Where no hook is seen in between, the step below is the same one.
                if let Some((from, since)) = before.filter(|_| last != before) {
                    self.edge(from, key, hop.ts.saturating_sub(since), (journey.id, at));
                }
            }
            // Positions of one hook count as one place, at its last position.
            let next = journey.hops[at + 1..].iter().find(|h| PlaceKey::of(h).is_some());
            if next.is_some_and(|n| n.same_run(hop)) {
                continue;
            }
            if let Some((from, since)) = last.replace((key, hop.ts)) {
                self.edge(from, key, hop.ts.saturating_sub(since), (journey.id, at));
            }
        }
        if let Some(rt) = journey.round_trip.filter(|rt| !rt.ambiguous) {
            self.round_trip.record(rt.total_ns);
            if let Some(beyond) = rt.beyond_ns {
                self.beyond.record(beyond);
            }
        }
    }

    fn edge(&mut self, from: PlaceKey, to: PlaceKey, ns: u64, first: (u64, usize)) {
        if from == to {
            return;
        }
        let at = match self.index.get(&(from, to)) {
            Some(&at) => at,
            None if self.edges.len() < EDGES => {
                self.index.insert((from, to), self.edges.len());
                self.edges.push(HopEdge { from, to, first, spread: Spread::new() });
                self.edges.len() - 1
            }
            None => {
                self.summary.edges_uncounted += 1;
                return;
            }
        };
        let edge = &mut self.edges[at];
        edge.first = edge.first.min(first);
        edge.spread.record(ns);
    }

    pub(crate) fn finish(&mut self) -> Summary {
        let mut summary = self.summary.clone();
        summary.dropped = self.dropped.iter().filter(|(_, n)| **n > 0).map(|(r, n)| (*r, *n)).collect();
        summary.dropped.sort_by_key(|&(reason, n)| (std::cmp::Reverse(n), reason));
        self.index.clear();
        self.edges.sort_by_key(|edge| edge.first);
        let edges = self.edges.drain(..);
        summary.edges =
            edges.map(|e| EdgeTimes { from: e.from, to: e.to, times: times(&e.spread) }).collect();
        summary.round_trip = times(&self.round_trip);
        summary.beyond = times(&self.beyond);
        summary
    }
}

fn times(spread: &Spread) -> Times {
    let Spread { histogram: h, min, max } = spread;
    if h.is_empty() {
        return Times::default();
    }
    let (min, max) = (*min, *max);
    let mut bars = vec![0; BARS];
    let low = min.max(1) as f64;
    let span = (max.max(1) as f64 / low).ln();
    for v in h.iter_recorded() {
        let value = v.value_iterated_to().clamp(min.max(1), max.max(1)) as f64;
        let share = if span > 0.0 { (value / low).ln() / span } else { 0.0 };
        let bar = ((share * BARS as f64) as usize).min(BARS - 1);
        bars[bar] += v.count_since_last_iteration();
    }
    let quantile = |q| h.value_at_quantile(q).clamp(min, max);
    Times { count: h.len(), min, p50: quantile(0.50), p90: quantile(0.90), p99: quantile(0.99), max, bars }
}
