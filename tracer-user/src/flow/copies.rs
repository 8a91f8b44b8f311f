// SPDX-License-Identifier: MIT OR Apache-2.0
//! Duplicates of one packet: a bridge floods an unknown destination to all ports, a queue may duplicate.

use tracer_common::{Event, Kind};

use super::fingerprint::Fingerprint;
use super::model::{Ending, Note, NoteKind, Place};
use super::pairing::RTO_MIN;
use super::sighting::push_note;
use super::slots::{At, Slot, same_place};
use super::tracker::Tracker;
use crate::node::{Hook, PathRole};

const SYN: u8 = 0x02;

impl Tracker {
    /// The journey under way that the packet of `e`, which begins another one, is a copy of.
    pub(crate) fn twin(&self, at: At, e: &Event, fp: &Fingerprint) -> Option<At> {
        if fp.quoted || fp.frag || fp.is_weak() {
            return None;
        }
        let twin = self.slots.by_print(fp).find(|&other| other != at && self.slots.get(other).fp == *fp)?;
        let slot = self.slots.get(twin);
        let soon = e.ts.saturating_sub(slot.journey.start_ns) < RTO_MIN;
        let elsewhere = self.began_elsewhere(slot, e);
        let copy = match (fp.ip_id, fp.proto) {
            // Whoever sends again gives the packet another identification, if any.
            (1.., 6) => soon || elsewhere,
            (1.., _) => elsewhere,
            (0, 6) if fp.tcp_flags & SYN != 0 => soon,
            // All that it comes to is seen: had it been sent again, then also where the first one began.
            (0, _) => {
                let all_seen = self.loss.total() == slot.lost_before
                    && self.former.since(slot.journey.start_ns).next().is_none();
                soon && elsewhere && all_seen
            }
        };
        copy.then_some(twin)
    }

    fn began_elsewhere(&self, slot: &Slot, e: &Event) -> bool {
        let Some(first) = slot.journey.hops.iter().find(|h| !matches!(h.place, Place::Route { .. })) else {
            return false;
        };
        let place = match e.kind() {
            Some(kind @ (Kind::Tc | Kind::Nf)) => self.place(e, kind),
            _ => return e.netns != 0 && first.netns != e.netns,
        };
        first.netns != e.netns || first.encap.is_some() != e.is_encap() || !same_place(&first.place, &place)
    }

    /// The packet at `at` is a copy of the one at `twin`.
    pub(crate) fn copy(&mut self, at: At, twin: At, e: &Event) {
        let slot = self.slots.get_mut(twin);
        let (of, since, asks) = (slot.copy_of.unwrap_or(slot.journey.id), slot.journey.start_ns, slot.asks);
        self.copy_of(at, of, since, e);
        // What answers the one answers the other.
        let copy = self.slots.get_mut(at);
        (copy.asks, copy.twin) = (asks, Some((twin, of)));
    }

    /// A copy came to this place: where the packet itself was not, it was sent elsewhere, to a port that is not
    /// watched.
    pub(crate) fn copy_goes_on(&mut self, at: At, e: &Event, place: &Place) {
        let Some((twin, of)) = self.slots.get(at).twin else { return };
        if !self.slots.holds(twin, of) || self.slots.get(twin).settled {
            return;
        }
        let slot = self.slots.get_mut(twin);
        slot.copied |= slot.ttl_at(e.netns, place, e.is_encap()).is_none();
        if matches!(slot.journey.ending, Ending::Open)
            && let Some(ending) = self.ending_of_copy(self.slots.get(twin))
        {
            self.slots.get_mut(twin).journey.ending = ending;
            self.schedule(twin, e.ts);
        }
    }

    /// The same, of a packet whose journey may be over. `since`: when it was first seen, ns.
    pub(crate) fn copy_of(&mut self, at: At, of: u64, since: u64, e: &Event) {
        let slot = self.slots.get_mut(at);
        (slot.copy_of, slot.asks) = (Some(of), of);
        let what = NoteKind::Copy { of, after_ns: e.ts.saturating_sub(since) };
        push_note(&mut slot.journey.notes, Note { ts: e.ts, netns: e.netns, after: 0, what });
    }

    /// Nothing more came of a packet that there are several copies of: no reason to call it lost.
    pub(crate) fn ending_of_copy(&self, slot: &Slot) -> Option<Ending> {
        if let Some(of) = slot.copy_of {
            return Some(Ending::Copy { of });
        }
        let last = slot.last_seen().filter(|_| slot.copied)?;
        let at = match last.place {
            Place::Hook { ifindex, out_ifindex: 0, .. } => ifindex,
            Place::Hook { out_ifindex: ifindex, .. } | Place::Device { ifindex, .. } => ifindex,
            Place::Route { .. } => return None,
        };
        let facts = self.places.device(last.netns, at)?;
        let ifindex = facts.master.or_else(|| facts.bridge.then_some(at))?;
        Some(Ending::Unwatched { netns: last.netns, ifindex })
    }

    /// It came in on one node, is not beyond its routing, and now comes in on another one just so: a switch sent it
    /// to both.
    pub(crate) fn is_flooded(&self, slot: &Slot, e: &Event, place: &Place) -> bool {
        let uplink = |netns, place: &Place| {
            matches!(*place, Place::Device { ifindex, egress: false }
                if self.places.role(netns, ifindex) == Some(PathRole::Uplink))
        };
        let Some(last) = slot.last_seen() else { return false };
        let within = match last.place {
            Place::Hook { hook, .. } => matches!(hook, Hook::Prerouting | Hook::Input | Hook::Forward),
            ref device => uplink(last.netns, device),
        };
        let entered = |h: &super::model::Hop| h.netns == last.netns && uplink(h.netns, &h.place);
        last.netns != e.netns
            && within
            && last.encap.is_some() == e.is_encap()
            && uplink(e.netns, place)
            && slot.journey.hops.iter().any(entered)
    }
}
