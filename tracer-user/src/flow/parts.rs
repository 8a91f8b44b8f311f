// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets merged into others or split from them: GRO, segmentation, fragments.

use tracer_common::{Event, Kind};

use super::fingerprint::{Fingerprint, in_range};
use super::model::{Ending, Note, NoteKind, Place};
use super::sighting::push_note;
use super::slots::At;
use super::tracker::Tracker;
use crate::node::PathRole;

impl Tracker {
    /// GRO and segmentation make other packets of the same data.
    pub(crate) fn find_part(
        &mut self,
        e: &Event,
        fp: &Fingerprint,
        place: &Place,
    ) -> Result<At, Option<(At, u64)>> {
        if fp.frag {
            return Err(self.cut_from(e, fp, place));
        }
        if let Some(whole) = self.segmented(e, fp, place) {
            return Err(Some(whole));
        }
        let merges = matches!(place, Place::Device { ifindex, egress: false }
            if matches!(self.places.role(e.netns, *ifindex), Some(PathRole::Uplink | PathRole::Tunnel)));
        let range = fp.tcp_range().filter(|_| merges || fp.gso);
        if range.is_none() {
            return Err(None);
        }
        let Some(flow) = self.flows.peek(e.flow) else { return Err(None) };
        let mut part_of = None;
        for &(at, id) in &flow.large {
            if !self.slots.holds(at, id) {
                continue;
            }
            let slot = self.slots.get(at);
            if slot.fp.dir != fp.dir || slot.settled {
                continue;
            }
            if let (Some(_), Some((start, end))) = (range, slot.fp.tcp_range()) {
                let other_end = matches!(slot.journey.ending, Ending::Left { .. } | Ending::Open);
                if fp.l4a == start && other_end && self.continues(at, e, place) {
                    return Ok(at);
                }
                if slot.fp.gso && fp.l4a != start && in_range(fp.l4a, start, end) {
                    part_of = Some((at, id));
                }
            }
        }
        Err(part_of)
    }

    /// The large TCP packet that was made into packets of the size of the wire, this one among them, without a sight
    /// in between: what does not fit into the MTU behind the last hook, or what a device cannot cut up itself.
    pub(crate) fn segmented(&self, e: &Event, fp: &Fingerprint, place: &Place) -> Option<(At, u64)> {
        let Place::Device { ifindex, egress } = *place else { return None };
        if fp.tcp_range().is_none() || fp.gso {
            return None;
        }
        let is_whole = |&&(at, id): &&(At, u64)| {
            if !self.slots.holds(at, id) {
                return false;
            }
            let slot = self.slots.get(at);
            let Some((start, end)) = slot.fp.tcp_range().filter(|_| slot.fp.gso && !slot.settled) else {
                return false;
            };
            let crossed = || match slot.last_seen().map(|h| (h.netns, h.place)) {
                Some((netns, Place::Device { ifindex: from, egress: true })) => {
                    let peer = self.places.device(netns, from).and_then(|facts| facts.peer);
                    matches!(slot.journey.ending, Ending::Open | Ending::CutUp { .. })
                        && peer == Some((e.netns, ifindex))
                }
                _ => false,
            };
            let on_its_way =
                if egress { slot.netns == e.netns && slot.is_on_its_way_out() } else { crossed() };
            // What is sent again comes by where the whole was seen.
            let again = slot.ttl_at(e.netns, place, e.is_encap()).is_some();
            slot.fp.dir == fp.dir && in_range(fp.l4a, start, end) && on_its_way && !again
        };
        self.flows.peek(e.flow)?.large.iter().rfind(is_whole).copied()
    }

    /// The same, of a record.
    pub(crate) fn segmented_from(&self, e: &Event, fp: &Fingerprint) -> Option<(At, u64)> {
        let kind = e.kind().filter(|kind| *kind == Kind::Tc)?;
        self.segmented(e, fp, &self.place(e, kind))
    }

    /// The packet grew: others of its flow are in it now.
    pub(crate) fn absorb(&mut self, at: At, fp: &Fingerprint) {
        let Some(flow) = self.flows.peek(fp.flow) else { return };
        let into = self.slots.get(at).journey.id;
        let is_part = |&(other, id): &(At, u64)| {
            if other == at || !self.slots.holds(other, id) {
                return false;
            }
            let part = self.slots.get(other);
            if part.fp.dir != fp.dir || part.settled || !matches!(part.journey.ending, Ending::Open) {
                return false;
            }
            match (fp.tcp_range(), part.fp.tcp_range()) {
                (Some((start, end)), Some((own, _))) => {
                    !part.shown && own != start && in_range(own, start, end)
                }
                _ => !fp.frag && part.fp.frag && part.fp.ip_id == self.slots.get(at).fp.ip_id,
            }
        };
        let parts: Vec<At> = flow.large.iter().filter(|part| is_part(part)).map(|&(part, _)| part).collect();
        for &other in &parts {
            if self.slots.get(other).fp.frag && self.slots.get(other).fp.frag_offset == 0 {
                self.hand_on(other, at);
            }
            let now = self.now;
            let part = self.slots.get_mut(other);
            part.journey.ending = Ending::Merged { into };
            part.close = part.journey.end_ns + self.options.grace_ns;
            if part.shown {
                part.news.get_or_insert(now);
            }
            self.slots.due[other as usize] = self.slots.get(other).close;
            self.slots.forget_skb(other);
        }
        if !parts.is_empty() {
            let now = self.now;
            let journey = &mut self.slots.get_mut(at).journey;
            let after = journey.hops.len() as u16;
            let netns = journey.hops.last().map_or(0, |h| h.netns);
            let what = NoteKind::Absorbed { packets: parts.len() as u16 };
            push_note(&mut journey.notes, Note { ts: now, netns, after, what });
        }
    }
}
