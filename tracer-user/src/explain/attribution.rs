// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rule that changed a mark or translated a packet, for the hop line that shows the change.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::context::View;
use super::drop_rate::Odds;
use super::packet::before_hop;
use crate::firewall::{
    Attribution, CtDirection, CtState, NatKind, PacketView, attribute_mark, attribute_nat,
};
use crate::flow::{Cause, Hop, Journey, Names};
use crate::node::{Interval, Topology};
use crate::snapshot::{Evidence, NetnsEvidence};

/// Answers that are remembered: packets of one connection meet the same rules.
const KNOWN: usize = 4096;

/// The rules behind what happened at one hop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HopAuthors {
    /// Index into [`Journey::hops`].
    pub hop: usize,
    pub mark: Option<Arc<Attribution>>,
    pub nat: Option<Arc<Attribution>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct AttributionKey {
    flow: u32,
    reply: bool,
    state: Option<CtState>,
    /// Namespace, hook, priorities.
    at: (u32, u8, i32, i32),
    deed: AttributedChange,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum AttributedChange {
    Mark { from: u32, to: u32 },
    Nat,
}

/// Names rules, and remembers.
#[derive(Debug, Default)]
pub(super) struct Authors {
    known: FxHashMap<AttributionKey, Arc<Attribution>>,
    /// What the answers rest on: when each namespace was read.
    read: Vec<u64>,
}

impl Authors {
    /// For the hops from `from` on.
    pub(super) fn of(
        &mut self,
        journey: &Journey,
        from: usize,
        topology: &Topology,
        names: &dyn Names,
        evidence: &Evidence,
    ) -> Vec<HopAuthors> {
        let changed = |hop: &Hop| hop.mark_change.is_some() || hop.nat.is_some();
        if !journey.hops.iter().skip(from).any(changed) {
            return Vec::new();
        }
        let read = evidence.netns.values().map(|netns| netns.taken_ns);
        if !read.clone().eq(self.read.iter().copied()) {
            self.known.clear();
            self.read = read.collect();
        }
        let odds = Odds::default();
        let view = View::new(journey, topology, names, Some(evidence), &odds);
        let mut out = Vec::new();
        for (at, hop) in journey.hops.iter().enumerate().skip(from).filter(|(_, hop)| changed(hop)) {
            let Some(netns) = evidence.of(hop.netns) else { continue };
            let found = HopAuthors {
                hop: at,
                mark: self.mark(&view, netns, at, hop),
                nat: self.nat(&view, netns, at, hop),
            };
            if found.mark.is_some() || found.nat.is_some() {
                out.push(found);
            }
        }
        out
    }

    fn mark(
        &mut self,
        view: &View<'_>,
        netns: &NetnsEvidence,
        at: usize,
        hop: &Hop,
    ) -> Option<Arc<Attribution>> {
        let change = hop.mark_change?;
        let Cause::Hook(interval) = change.cause else { return None };
        let deed = AttributedChange::Mark { from: change.from, to: change.to };
        self.ask(view, at, hop, &interval, deed, |packet| {
            let found = attribute_mark(netns, &interval, packet, change.from, change.to);
            if found.rules.is_empty() && interval.learned {
                // What an equal change showed need not hold for this one.
                let whole = Interval { after: i32::MIN, until: i32::MAX, ..interval };
                return attribute_mark(netns, &whole, packet, change.from, change.to);
            }
            found
        })
    }

    fn nat(
        &mut self,
        view: &View<'_>,
        netns: &NetnsEvidence,
        at: usize,
        hop: &Hop,
    ) -> Option<Arc<Attribution>> {
        let nat = hop.nat?;
        let interval = nat.interval?;
        let to = match nat.kind {
            NatKind::Dnat => Some(hop.ends.dst),
            NatKind::Snat => Some(hop.ends.src),
            NatKind::Both => None,
            NatKind::UnSnat | NatKind::UnDnat | NatKind::UnBoth => return None,
        };
        let to = to.map(|end| (end.addr.ip(), end.port));
        // Rules are asked for a connection's first packet only, and its entry then remembers: they are the same
        // for all that follow, as long as they are not changed.
        self.ask(view, at, hop, &interval, AttributedChange::Nat, |packet| {
            let first = first_packet(packet);
            attribute_nat(netns, &interval, &first, nat.kind, to)
        })
    }

    fn ask(
        &mut self,
        view: &View<'_>,
        at: usize,
        hop: &Hop,
        interval: &Interval,
        deed: AttributedChange,
        walk: impl FnOnce(&PacketView) -> Attribution,
    ) -> Option<Arc<Attribution>> {
        let journey = view.journey;
        let question = AttributionKey {
            flow: journey.flow,
            reply: journey.reply,
            state: hop.tracking.map(|t| t.state),
            at: (hop.netns, interval.hook as u8, interval.after, interval.until),
            deed,
        };
        if let Some(known) = self.known.get(&question) {
            return (!known.rules.is_empty()).then(|| Arc::clone(known));
        }
        let found = Arc::new(walk(&before_hop(view, at)?));
        if self.known.len() >= KNOWN {
            self.known.clear();
        }
        self.known.insert(question, Arc::clone(&found));
        (!found.rules.is_empty()).then_some(found)
    }
}

/// As the first packet of its connection: the only one that rules of nat tables are asked for.
pub(super) fn first_packet(packet: &PacketView) -> PacketView {
    PacketView {
        ct_state: Some(CtState::New),
        ct_direction: Some(CtDirection::Original),
        ct_snat: None,
        ct_dnat: None,
        ..packet.clone()
    }
}
