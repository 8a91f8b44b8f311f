// SPDX-License-Identifier: MIT OR Apache-2.0
//! Changes between two sightings of one packet, and the chains that can have made them.

use tracer_common::{Event, Kind};

use super::addr::Ends;
use super::author::{Deed, distinct_priorities};
use super::model::{Cause, ConntrackEntry, Ending, Hop, MarkChange, Nat, Place};
use super::nat::{CT_ESTABLISHED_REPLY, translation};
use super::slots::At;
use super::tracker::Tracker;
use super::zoom::{Zoom, ZoomChange};
use crate::node::{Hook, Interval};

const CT_NEW: u8 = 2;

impl Tracker {
    /// Marks what differs from the sighting before.
    pub(crate) fn compare(&mut self, at: At, e: &Event, hop: &mut Hop) {
        let slot = self.slots.get(at);
        let first = slot.visited == 0;
        let moved = slot.netns != e.netns;
        let crossed = moved || slot.encap.is_some() != hop.encap.is_some();
        let abroad = moved && matches!(slot.journey.ending, Ending::Left { .. });
        if junk_mark(e) {
            hop.mark = slot.mark;
        }
        let from = slot.mark;
        let before = if first { self.before_output(e, hop) } else { Some(slot.ends) };
        if !first && !abroad && hop.mark != from {
            let to = hop.mark;
            let cause = if to == 0 && crossed {
                Cause::Scrubbed
            } else {
                let change = (Deed::Mark, u64::from(from), u64::from(to));
                self.attribute(at, e, hop, change).map_or(Cause::Unknown, Cause::Hook)
            };
            hop.mark_change = Some(MarkChange { from, to, cause });
        }
        if let Some(before) = before
            && let Some(kind) = translation(before, hop.ends, e)
        {
            if first {
                self.slots.get_mut(at).journey.packet.ends = before;
            }
            let interval = match hop.place {
                Place::Hook { .. } => self.attribute(at, e, hop, (Deed::Translation, kind as u64, 0)),
                _ => None,
            };
            hop.nat = Some(Nat { kind, from: before, interval });
        }
        self.compare_conntrack(at, e, hop);
    }

    /// A packet of this host is first seen behind the table that can have translated its destination: what it was
    /// sent to, its conntrack entry knows.
    fn before_output(&mut self, e: &Event, hop: &Hop) -> Option<Ends> {
        if !matches!(hop.place, Place::Hook { hook: Hook::Output, .. }) || e.is_encap() || e.ct() == 0 {
            return None;
        }
        let entry = self.conntracks.find(e.ct())?;
        let sent = if e.ct_info() < CT_ESTABLISHED_REPLY { entry.original } else { entry.reply };
        (sent.src == hop.ends.src).then_some(Ends { dst: sent.dst, ..hop.ends })
    }

    fn compare_conntrack(&mut self, at: At, e: &Event, hop: &mut Hop) {
        if e.is_encap() || e.ct() == 0 {
            return;
        }
        let slot = self.slots.get_mut(at);
        let now = (e.ct(), e.ct_mark());
        let (id, mark) = slot.ct;
        if id == now.0 && mark != now.1 {
            hop.ct_mark_change = Some((mark, now.1));
        } else if id != now.0 && now.1 != 0 && e.ct_info() == CT_NEW {
            hop.ct_mark_change = Some((0, now.1));
        }
        if (id != now.0 || hop.nat.is_some())
            && let Some(entry) = self.conntracks.find(now.0)
        {
            let journey = &mut slot.journey;
            hop.conntrack = tell_conntrack(&mut journey.conntrack, entry);
            if hop.nat.is_some() {
                // The entry is told where it translates, also if its records came before this one.
                let known = journey.conntrack.iter().position(|known| known.id == entry.id);
                hop.conntrack = known.and_then(|at| u8::try_from(at).ok());
                if let Some(before) = journey.hops.last_mut()
                    && before.nat.is_none()
                    && before.conntrack == hop.conntrack
                {
                    before.conntrack = None;
                }
            }
        }
        slot.ct = now;
    }

    /// The interval in which something happened between the last sighting and this one.
    pub(crate) fn attribute(
        &mut self,
        at: At,
        e: &Event,
        hop: &Hop,
        (deed, from, to): (Deed, u64, u64),
    ) -> Option<Interval> {
        let family = self.hook_family(e);
        let slot = self.slots.get(at);
        let before = slot.last_seen();
        let (hook, after, until) = match (hop.place, before.map(|b| b.place)) {
            (Place::Hook { hook, priority, .. }, last) => {
                let after = match last {
                    Some(Place::Hook { priority, .. }) if before.is_some_and(|b| b.same_run(hop)) => priority,
                    _ => None,
                };
                (hook, after.unwrap_or(i32::MIN), priority.unwrap_or(i32::MAX))
            }
            // Seen after a hook that was watched: something behind our last position.
            (_, Some(Place::Hook { hook, priority, .. })) if slot.netns == e.netns => {
                (hook, priority.unwrap_or(i32::MIN), i32::MAX)
            }
            // Between coming in and routing there is PREROUTING only.
            (_, Some(Place::Device { egress: false, .. }))
                if slot.netns == e.netns
                    && self.positions.last(e.netns, family, Hook::Prerouting).is_none() =>
            {
                (Hook::Prerouting, i32::MIN, i32::MAX)
            }
            _ => return None,
        };
        let interval = Interval { netns: e.netns, family, hook, after, until, learned: false };
        let watched = matches!(hop.place, Place::Hook { .. });
        self.narrow(interval, deed, from, to, watched)
    }

    /// One author: remembered. Several: recalled from an equal change, or looked at closely next time.
    pub(crate) fn narrow(
        &mut self,
        interval: Interval,
        deed: Deed,
        from: u64,
        to: u64,
        certain: bool,
    ) -> Option<Interval> {
        let change = ZoomChange { at: Zoom::from(&interval), deed, from, to };
        match distinct_priorities(&self.topology, &interval, deed) {
            0 if !certain => None,
            0 => Some(interval),
            1 => {
                self.zooming.learn(change, &interval, self.now);
                Some(interval)
            }
            _ => Some(match self.zooming.recall(change, &interval, self.now) {
                Some(known) => known,
                None => {
                    self.zooming.want(change, self.now);
                    interval
                }
            }),
        }
    }

    pub(crate) fn conntrack(&mut self, e: &Event) {
        self.conntracks.observe(e);
        let Some(entry) = self.conntracks.find(e.ct()) else { return };
        self.lead_to_end(e, &entry);
        let Some(at) = (e.skb != 0).then(|| self.slots.by_skb(e.skb)).flatten() else { return };
        let slot = self.slots.get_mut(at);
        let journey = &mut slot.journey;
        // Otherwise the sighting that these records precede will tell it.
        if slot.ct.0 == entry.id
            && journey.flow == e.flow
            && let Some(index) = tell_conntrack(&mut journey.conntrack, entry)
            && let Some(hop) = journey.hops.last_mut()
        {
            hop.conntrack = Some(index);
        }
    }
}

/// `skb->mark` shares its memory with `reserved_tailroom`, which IGMP, MLD and ND packets use.
pub(crate) fn junk_mark(e: &Event) -> bool {
    // OUTPUT and POSTROUTING are hooks 3 and 4.
    let sent = if e.kind == Kind::Tc as u8 { e.point == 1 } else { e.point >= 3 };
    e.proto == 2 || (e.proto == 58 && e.sport == 0 && sent)
}

/// Adds or renews an entry; its index when there is news to tell.
fn tell_conntrack(told: &mut Vec<ConntrackEntry>, entry: ConntrackEntry) -> Option<u8> {
    match told.iter().position(|known| known.id == entry.id) {
        Some(at) if told[at].reply == entry.reply && told[at].original == entry.original => None,
        Some(at) => {
            told[at] = entry;
            u8::try_from(at).ok()
        }
        None if told.len() < 8 => {
            told.push(entry);
            u8::try_from(told.len() - 1).ok()
        }
        None => None,
    }
}
