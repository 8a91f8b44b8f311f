// SPDX-License-Identifier: MIT OR Apache-2.0
//! Assigns routing lookups to packets.

use tracer_common::{Event, FLAG_REVERSE, SCOPE_NOWHERE};

use super::addr::Addr;
use super::author::Deed;
use super::model::{Cause, Ending, Hop, MarkChange, Place};
use super::slots::At;
use super::topology_index::During;
use super::tracker::Tracker;
use crate::node::Hook;

const LOOKUPS: usize = 64;
/// A lookup this long before a packet was for another one.
const LOOKUP_AGE: u64 = 100_000_000;
/// A socket sends soon after it has looked for the way.
const CONNECT_DELAY: u64 = 5_000_000;
/// Routing follows PREROUTING at once.
const LOOKUP_DELAY: u64 = 1_000_000;

impl Tracker {
    /// A routing lookup.
    pub(crate) fn lookup(&mut self, e: &Event) {
        if e.skb != 0
            && let Some(at) = self.slots.by_skb(e.skb)
        {
            let slot = self.slots.get(at);
            let under_way = matches!(slot.journey.ending, Ending::Open | Ending::Unwatched { .. });
            if slot.journey.flow == e.flow && under_way && !slot.settled {
                self.route(at, e);
                return;
            }
        }
        if let Some(at) = self.awaiting_route(e) {
            self.route(at, e);
            return;
        }
        if self.lookups.len() == LOOKUPS {
            self.lookups.pop_front();
        }
        self.lookups.push_back(*e);
    }

    /// The newest packet of the flow, when routing is what comes next for it and the record names no packet.
    fn awaiting_route(&self, e: &Event) -> Option<At> {
        let (at, id) = self.flows.peek(e.flow)?.last?;
        if e.skb != 0 || !self.slots.holds(at, id) {
            return None;
        }
        let slot = self.slots.get(at);
        let last = slot.last_seen()?;
        let next = match last.place {
            Place::Device { egress, .. } => !egress,
            Place::Hook { hook, .. } => hook == Hook::Prerouting,
            Place::Route { .. } => false,
        };
        let just = e.ts.saturating_sub(last.ts) < LOOKUP_DELAY;
        (next && just && last.netns == e.netns && slot.fp.dir == e.dir && !slot.settled).then_some(at)
    }

    pub(crate) fn adopt_lookups(&mut self, at: At, e: &Event) {
        if self.lookups.is_empty() {
            return;
        }
        let mut kept = 0;
        for i in 0..self.lookups.len() {
            let lookup = self.lookups[i];
            let age = e.ts.saturating_sub(lookup.ts);
            let here = lookup.netns == e.netns || lookup.netns == 0;
            let ours = match lookup.flow {
                0 => age < CONNECT_DELAY && is_towards(&lookup, e),
                flow => flow == e.flow,
            };
            if ours && lookup.dir == e.dir && here && age < LOOKUP_AGE {
                self.route(at, &lookup);
            } else if age < LOOKUP_AGE {
                self.lookups[kept] = lookup;
                kept += 1;
            }
        }
        self.lookups.truncate(kept);
    }

    fn route(&mut self, at: At, e: &Event) {
        if e.fib_error() == 0 && e.flags & FLAG_REVERSE == 0 && e.point != SCOPE_NOWHERE {
            self.lead_to_device(e.netns, e.ifindex);
        }
        let slot = self.slots.get(at);
        let reverse = e.flags & FLAG_REVERSE != 0;
        let place = Place::Route {
            table: e.fib_table(),
            error: e.fib_error(),
            gateway: Addr(e.fib_gateway()),
            ifindex: e.ifindex,
            in_ifindex: e.l4a,
            reverse,
            local: e.fib_error() == 0 && e.point == SCOPE_NOWHERE,
        };
        let (from, encap, netns) = (slot.mark, slot.encap, if e.netns == 0 { slot.netns } else { e.netns });
        let mut hop = Hop {
            ts: e.ts,
            netns,
            place,
            ends: slot.ends,
            mark: e.mark,
            len: 0,
            l3len: 0,
            ttl: slot.journey.hops.last().map_or(0, |h| h.ttl),
            encap,
            conntrack: None,
            mark_change: None,
            ct_mark_change: None,
            nat: None,
            tracking: None,
            macs: None,
        };
        // The mark that was looked up is the packet's own on the way on, unless the lookup is for the
        // outer packet.
        let own = e.dst == slot.ends.dst.addr.0 && !reverse && slot.visited != 0 && e.skb != 0;
        // A table of OUTPUT that changes the mark has the way looked up again: the next position there tells which.
        let told_there = match slot.last_seen().map(|h| (h.netns, h.place)) {
            Some((netns, Place::Hook { hook: Hook::Output, priority: Some(priority), .. })) => {
                let now = During { from: e.ts, until: e.ts };
                self.positions.next_after(netns, slot.family, Hook::Output, priority, now).is_some()
            }
            _ => false,
        };
        let own = own && !told_there;
        if own && e.mark != from {
            let interval = self.attribute(at, e, &hop, (Deed::Mark, u64::from(from), u64::from(e.mark)));
            if let Some(interval) = interval {
                hop.mark_change = Some(MarkChange { from, to: e.mark, cause: Cause::Hook(interval) });
                self.slots.get_mut(at).mark = e.mark;
            }
        }
        let slot = self.slots.get_mut(at);
        if slot.journey.hops.len() < self.options.max_hops {
            slot.journey.hops.push(hop);
        } else {
            slot.journey.hops_cut += 1;
            self.stats.summary.hops_cut += 1;
        }
        if slot.visited != 0 {
            slot.journey.end_ns = slot.journey.end_ns.max(e.ts);
            self.schedule(at, e.ts);
        }
    }
}

/// The lookup was for the destination of this packet, before it had a source.
fn is_towards(lookup: &Event, packet: &Event) -> bool {
    let port = lookup.dport == 0 || lookup.dport == packet.dport;
    lookup.dst == packet.dst && lookup.proto == packet.proto && port
}
