// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fragments: reassembly on the way, and fragmentation of a whole packet.

use tracer_common::Event;

use super::fingerprint::Fingerprint;
use super::model::{Ending, Note, NoteKind, Place};
use super::sighting::push_note;
use super::slots::{At, Slot};
use super::tracker::Tracker;

/// In the IPv4 header, and in our record of an IPv6 one: more fragments follow.
const MORE: u16 = 0x2000;

impl Tracker {
    /// The fragment that carries on as the packet put together from it and others. The kernel keeps the memory of
    /// the last one to come, but may have copied it; then only what is in it tells.
    pub(crate) fn reassembled(&self, e: &Event, fp: &Fingerprint, place: &Place) -> Option<At> {
        if fp.frag || fp.quoted || matches!(place, Place::Device { egress: true, .. }) {
            return None;
        }
        let waits = |at: At| {
            let slot = self.slots.get(at);
            slot.fp.frag && slot.fp.dir == fp.dir && slot.netns == e.netns && slot.awaits_rest()
        };
        let mut waiting = self.fragments(e.flow).filter(|&at| waits(at));
        if fp.ip_id != 0 {
            return waiting.rfind(|&at| self.slots.get(at).fp.ip_id == fp.ip_id);
        }
        // The identification of an IPv6 packet goes with its fragment header: the last fragment tells how long the
        // whole is.
        let last =
            waiting.clone().find(|&at| whole_length(self.slots.get(at)) == Some(u32::from(fp.l3len)))?;
        let id = self.slots.get(last).fp.ip_id;
        waiting.rfind(|&at| self.slots.get(at).fp.ip_id == id)
    }

    /// The whole that a fragment was cut from, when this is the first sight of it.
    pub(crate) fn cut_from(&self, e: &Event, fp: &Fingerprint, place: &Place) -> Option<(At, u64)> {
        if !fp.frag {
            return None;
        }
        let id = Some(fp.ip_id);
        // The kernel makes new fragments of the whole, or makes the whole the first of them.
        let made_anew = |slot: &Slot| !slot.fp.frag && slot.is_on_its_way_out() && slot.netns == e.netns;
        let goes_on = |slot: &Slot| {
            let merged = matches!(slot.journey.ending, Ending::Merged { .. });
            slot.fp.frag && slot.fp.frag_offset == 0 && fp.frag_offset != 0 && !merged && slot.was_whole()
        };
        let of_this = |&at: &At| {
            let slot = self.slots.get(at);
            let same = slot.cut_as == id || Some(slot.fp.ip_id) == id;
            slot.fp.dir == fp.dir && same && (made_anew(slot) || goes_on(slot))
        };
        // An IPv6 packet gets its identification only now.
        let to_be_cut = |&at: &At| {
            let slot = self.slots.get(at);
            let nameless = slot.fp.ip_id == 0 && slot.cut_as.is_none();
            slot.fp.dir == fp.dir && nameless && made_anew(slot)
        };
        let outward = matches!(place, Place::Device { egress: true, .. });
        let mut large = self.fragments(e.flow);
        let at = large.clone().rfind(of_this).or_else(|| large.find(to_be_cut).filter(|_| outward))?;
        Some((at, self.slots.get(at).journey.id))
    }

    /// Journeys of the flow that were fragments, or are large enough to become some; oldest first.
    fn fragments(&self, flow: u32) -> impl DoubleEndedIterator<Item = At> + Clone {
        let large = self.flows.peek(flow).map(|flow| &flow.large);
        large.into_iter().flatten().filter(|&&(at, id)| self.slots.holds(at, id)).filter_map(|&(at, _)| {
            let slot = self.slots.get(at);
            (!slot.settled && !slot.fp.quoted).then_some(at)
        })
    }

    /// `piece` was cut from `whole`.
    pub(crate) fn cut(&mut self, whole: At, piece: At, e: &Event) {
        let (id, fp) = (self.slots.get(piece).journey.id, self.slots.get(piece).fp);
        if fp.frag_offset == 0 {
            self.hand_on(whole, piece);
        }
        let slot = self.slots.get_mut(whole);
        if fp.frag {
            slot.cut_as = Some(fp.ip_id);
        }
        if slot.fp.frag {
            let notes = &mut slot.journey.notes;
            let known = notes.iter_mut().find_map(|note| match &mut note.what {
                NoteKind::CutUp { last, packets, .. } => Some((last, packets)),
                _ => None,
            });
            if let Some((last, packets)) = known {
                (*last, *packets) = (id, packets.saturating_add(1));
                return;
            }
            let after = slot.journey.hops.len() as u16;
            let what = NoteKind::CutUp { first: id, last: id, packets: 1 };
            push_note(notes, Note { ts: e.ts, netns: e.netns, after, what });
            return;
        }
        slot.journey.ending = match slot.journey.ending {
            Ending::CutUp { first, packets, .. } => {
                Ending::CutUp { first, last: id, packets: packets.saturating_add(1) }
            }
            _ => Ending::CutUp { first: id, last: id, packets: 1 },
        };
        self.slots.forget_skb(whole);
        self.schedule(whole, e.ts);
    }

    /// The kernel gave up waiting for the rest of a packet, and said so of one of its fragments.
    pub(crate) fn give_up_rest(&mut self, told: At, e: &Event) {
        let (fp, netns) = (self.slots.get(told).fp, e.netns);
        let into = self.slots.get(told).journey.id;
        let waiting: Vec<At> = self
            .fragments(e.flow)
            .filter(|&at| {
                let slot = self.slots.get(at);
                let same = slot.fp.ip_id == fp.ip_id && slot.fp.dir == fp.dir && slot.netns == netns;
                at != told && same && slot.awaits_rest()
            })
            .collect();
        for at in waiting {
            self.slots.get_mut(at).journey.ending = Ending::Merged { into };
            self.slots.forget_skb(at);
            self.schedule(at, e.ts);
        }
    }

    /// What one packet answers, and what answers it, is the affair of the other one now.
    pub(crate) fn hand_on(&mut self, from: At, to: At) {
        let began = self.began(from);
        let slot = self.slots.get_mut(from);
        let (asks, request) = (slot.asks, slot.request.take());
        if !slot.shown {
            slot.journey.round_trip = None;
        }
        let slot = self.slots.get_mut(to);
        slot.asks = asks;
        if request.is_some() {
            slot.request = request;
            slot.began = Some(began);
        }
    }
}

impl Slot {
    /// It was put together from fragments, or never was one.
    fn was_whole(&self) -> bool {
        let absorbed = |n: &Note| matches!(n.what, NoteKind::Absorbed { .. });
        !self.journey.packet.is_fragment || self.journey.notes.iter().any(absorbed)
    }

    /// A fragment that has come in: conntrack or the host itself waits for the rest of its packet.
    pub(crate) fn awaits_rest(&self) -> bool {
        self.fp.frag
            && self.encap.is_none()
            && matches!(self.journey.ending, Ending::Open)
            && self.last_seen().is_some_and(|hop| {
                matches!(
                    hop.place,
                    Place::Device { egress: false, .. }
                        | Place::Hook { hook: crate::node::Hook::Prerouting, .. }
                )
            })
    }

    /// Beyond the routing decision, and not yet at a device.
    pub(crate) fn is_on_its_way_out(&self) -> bool {
        matches!(self.journey.ending, Ending::Open | Ending::CutUp { .. })
            && self.last_seen().is_some_and(|hop| match hop.place {
                Place::Hook { hook, .. } => hook != crate::node::Hook::Input,
                Place::Device { egress, .. } => !egress,
                Place::Route { .. } => true,
            })
    }
}

/// Length of the IPv6 packet whose last fragment this is, as it was before it was cut: bytes from the IP header on.
fn whole_length(slot: &Slot) -> Option<u32> {
    /// The fragment header, which the whole does not have.
    const HEADER: u32 = 8;
    let last = slot.journey.packet.ipv6 && slot.journey.packet.frag & MORE == 0;
    last.then(|| (u32::from(slot.fp.frag_offset) * 8 + u32::from(slot.fp.l3len)).saturating_sub(HEADER))
}
