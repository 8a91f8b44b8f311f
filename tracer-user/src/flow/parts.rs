// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets that become part of others, or come out of them: GRO, segmentation, fragments.

use tracer_common::Event;

use super::fingerprint::{Fingerprint, in_range};
use super::model::{Ending, Note, NoteKind, Place};
use super::sight::push_note;
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
    ) -> Result<At, Option<u64>> {
        let fragment = fp.frag && fp.frag_offset != 0;
        let merges = matches!(place, Place::Device { ifindex, egress: false }
            if matches!(self.places.role(e.netns, *ifindex), Some(PathRole::Uplink | PathRole::Tunnel)));
        let range = fp.tcp_range().filter(|_| merges || fp.gso);
        if !fragment && range.is_none() {
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
            let was_whole = !slot.journey.packet.is_fragment
                || slot.journey.notes.iter().any(|n| matches!(n.what, NoteKind::Absorbed { .. }));
            if fragment && was_whole && slot.fp.ip_id == fp.ip_id {
                part_of = Some(id);
            }
            if let (Some(_), Some((start, end))) = (range, slot.fp.tcp_range()) {
                let other_end = matches!(slot.journey.ending, Ending::Left { .. } | Ending::Open);
                if fp.l4a == start && other_end && self.continues(at, e, place) {
                    return Ok(at);
                }
                if slot.fp.gso && fp.l4a != start && in_range(fp.l4a, start, end) {
                    part_of = Some(id);
                }
            }
        }
        Err(part_of)
    }

    /// The packet grew: others of its flow are in it now.
    pub(crate) fn absorb(&mut self, at: At, fp: &Fingerprint) {
        let Some(flow) = self.flows.get_mut(fp.flow) else { return };
        let into = self.slots.get(at).journey.id;
        let mut absorbed = 0;
        for &(other, id) in &flow.large {
            if other == at || !self.slots.holds(other, id) {
                continue;
            }
            let part = self.slots.get(other);
            if part.fp.dir != fp.dir
                || part.settled
                || part.shown
                || !matches!(part.journey.ending, Ending::Open)
            {
                continue;
            }
            let merged = match (fp.tcp_range(), part.fp.tcp_range()) {
                (Some((start, end)), Some((own, _))) => own != start && in_range(own, start, end),
                _ => !fp.frag && part.fp.frag && part.fp.ip_id == self.slots.get(at).fp.ip_id,
            };
            if merged {
                let part = self.slots.get_mut(other);
                part.journey.ending = Ending::Merged { into };
                part.close = part.journey.end_ns + self.options.grace_ns;
                self.slots.due[other as usize] = self.slots.get(other).close;
                self.slots.forget_skb(other);
                absorbed += 1;
            }
        }
        if absorbed > 0 {
            let now = self.now;
            let journey = &mut self.slots.get_mut(at).journey;
            let after = journey.hops.len() as u16;
            let netns = journey.hops.last().map_or(0, |h| h.netns);
            let what = NoteKind::Absorbed { packets: absorbed };
            push_note(&mut journey.notes, Note { ts: now, netns, after, what });
        }
    }
}
