// SPDX-License-Identifier: MIT OR Apache-2.0
//! When a journey is reported, and when it is complete.

use serde::{Deserialize, Serialize};

use super::addr::Ends;
use super::author::{Deed, distinct_priorities};
use super::ending::vanished;
use super::model::{Cause, Ending, Journey, MarkChange, NoteKind, Place};
use super::slots::{At, NEVER, Slot};
use super::stats::Summary;
use super::tracker::{Recent, Tracker};
use super::zoom::{Zoom, ZoomChange};
use crate::node::{Hook, NetnsId, PathRole};

const RECENT: usize = 512;

/// What comes out of the tracker.
#[derive(Debug)]
pub enum Update<'a> {
    Journey(News<'a>),
    Notice(Notice),
    /// Stand between the tables of this hook.
    Zoom(Zoom),
    /// Back to the standing positions there.
    Unzoom(Zoom),
}

/// A journey, or what is new of one that was shown before.
#[derive(Clone, Copy, Debug)]
pub struct News<'a> {
    pub journey: &'a Journey,
    /// Hops and notes before these were shown.
    pub from_hop: usize,
    pub from_note: usize,
    /// False: it was shown before.
    pub first: bool,
    /// Its ending stands.
    pub last: bool,
}

/// Something to tell between journeys. Times are CLOCK_MONOTONIC, ns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "notice", rename_all = "lowercase")]
pub enum Notice {
    /// Records were lost; `cpu` where that is known.
    Lost { ts: u64, cpu: Option<u16>, count: u64, total: u64 },
    /// Said about a packet of the flow that was not seen.
    Stray { ts: u64, netns: NetnsId, ends: Ends, what: NoteKind },
    /// For the session: a device came or went.
    Device { ts: u64, netns: String, device: String, appeared: bool },
    /// For the session: positions were put between the tables of a hook, or taken away.
    Zoomed { ts: u64, zoom: Zoom, on: bool },
    /// Anything else.
    Text { ts: u64, text: String },
}

impl Tracker {
    /// Plans what happens to a journey if nothing more comes. `ts`: its newest record.
    pub(crate) fn schedule(&mut self, at: At, ts: u64) {
        let o = &self.options;
        let slot = self.slots.get(at);
        let waits = self.may_wait_for_neighbour(slot);
        let over = match slot.journey.ending {
            // Equal packets must not pile up; others may come back (a loop).
            Ending::Left { .. } => !self.places.several_nodes() && slot.fp.is_weak(),
            Ending::Dropped(_) | Ending::Merged { .. } | Ending::CutUp { .. } | Ending::Copy { .. } => true,
            _ => false,
        };
        if over {
            self.slots.unlink(at);
        }
        let slot = self.slots.get_mut(at);
        let end = slot.journey.end_ns.max(ts);
        slot.close = end
            + match slot.journey.ending {
                Ending::Open if waits => o.neighbour_ns,
                Ending::Open if slot.awaits_rest() => o.reassembly_ns,
                Ending::Open => o.quiet_ns,
                Ending::Left { .. } if self.places.several_nodes() => o.join_ns,
                _ => o.grace_ns,
            };
        let news = *slot.news.get_or_insert(ts);
        let due = if slot.shown { slot.close.min(news + o.hold_ns) } else { slot.close };
        self.slots.due[at as usize] = due;
    }

    /// After POSTROUTING a packet may wait for its next hop's link-layer address.
    pub(crate) fn may_wait_for_neighbour(&self, slot: &Slot) -> bool {
        match slot.last_seen().map(|h| (h.netns, h.place)) {
            Some((_, Place::Hook { hook: Hook::Postrouting, .. })) => true,
            Some((netns, Place::Hook { hook: Hook::Forward | Hook::Output, .. })) => {
                self.positions.last(netns, slot.family, Hook::Postrouting).is_none()
            }
            _ => false,
        }
    }

    /// Packets that are where one waits for its next hop's link-layer address, and have been for `ns`.
    pub fn held(&self, now_ns: u64, ns: u64) -> impl Iterator<Item = &Journey> {
        let slots = self.slots.indexes().map(|at| self.slots.get(at));
        slots
            .filter(move |slot| {
                slot.used
                    && !slot.settled
                    && matches!(slot.journey.ending, Ending::Open)
                    && now_ns.saturating_sub(slot.journey.start_ns) >= ns
                    && self.may_wait_for_neighbour(slot)
            })
            .map(|slot| &slot.journey)
    }

    /// These packets (ids) are known to be queued at an unresolved neighbour entry: they are not missed yet.
    pub fn still_waiting(&mut self, ids: &[u64], now_ns: u64) {
        for at in self.slots.indexes() {
            let until = now_ns + self.options.neighbour_ns;
            let slot = self.slots.get_mut(at);
            let open = slot.used && !slot.settled && matches!(slot.journey.ending, Ending::Open);
            if !open || slot.close >= until || !ids.contains(&slot.journey.id) {
                continue;
            }
            slot.close = until;
            if slot.shown {
                self.slots.due[at as usize] = until;
            }
        }
    }

    /// Gives up an old journey to make room.
    pub(crate) fn evict(&mut self) {
        let at = self.slots.victim();
        let slot = self.slots.get(at);
        if !slot.settled {
            // What was shown to its end is not lost by forgetting it.
            let over = slot.shown && slot.news.is_none() && !matches!(slot.journey.ending, Ending::Open);
            let ending = if over && !slot.journey.resumed { slot.journey.ending } else { Ending::Evicted };
            if !slot.journey.resumed {
                self.stats.ending(&ending);
            }
        }
        self.slots.release(at);
    }

    /// Hands out what is due. Call it after each batch of records, and at least every 10 ms or so.
    /// `now_ns`: CLOCK_MONOTONIC.
    pub fn advance(&mut self, now_ns: u64, out: &mut impl FnMut(Update<'_>)) {
        self.now = self.now.max(now_ns);
        let total = self.loss.total();
        self.loss.report(now_ns, |cpu, gap| {
            out(Update::Notice(Notice::Lost { ts: gap.ts, cpu, count: gap.count, total }));
        });
        for stray in self.strays.drain(..) {
            out(Update::Notice(stray));
        }
        for at in self.slots.indexes() {
            if self.slots.due[at as usize] > now_ns {
                continue;
            }
            let slot = self.slots.get(at);
            if slot.close <= now_ns {
                if matches!(slot.journey.ending, Ending::Open) && slot.close > self.counted_to {
                    continue;
                }
                self.settle(at, false, out);
            } else {
                self.show(at, out);
                self.slots.due[at as usize] = self.slots.get(at).close;
            }
        }
        self.in_order(now_ns, out);
        self.zooming.advance(now_ns, |zoom, on| {
            out(if on { Update::Zoom(zoom) } else { Update::Unzoom(zoom) });
        });
    }

    /// Ends the run: everything under way is shown as it is, then the sums.
    pub fn finish(&mut self, now_ns: u64, out: &mut impl FnMut(Update<'_>)) -> Summary {
        self.advance(now_ns, out);
        let mut open: Vec<_> = self.slots.indexes().filter(|&at| self.slots.get(at).used).collect();
        open.sort_by_key(|&at| self.slots.get(at).journey.id);
        for at in open {
            if !self.slots.get(at).settled {
                self.settle(at, true, out);
            }
        }
        self.in_order(u64::MAX, out);
        let mut summary = self.stats.finish();
        summary.duration_ns = now_ns.saturating_sub(self.first_ts.unwrap_or(now_ns));
        summary.events_lost = self.loss.total();
        summary.lost_by_cpu = self.loss.by_cpu();
        summary.flows_evicted = self.flows.evicted();
        summary.conntracks_evicted = self.conntracks.evicted();
        summary
    }

    /// Shows journeys for the first time, in the order in which their packets came.
    fn in_order(&mut self, now: u64, out: &mut impl FnMut(Update<'_>)) {
        while let Some(&(at, id)) = self.order.front() {
            if self.slots.holds(at, id) {
                let slot = self.slots.get(at);
                if slot.settled {
                    self.show(at, out);
                    self.slots.release(at);
                } else if now.saturating_sub(slot.journey.start_ns) >= self.options.hold_ns {
                    self.show(at, out);
                    let close = self.slots.get(at).close;
                    self.slots.due[at as usize] = close;
                } else {
                    return;
                }
            }
            self.order.pop_front();
        }
    }

    /// A journey is over: decides how, counts it, shows it when its turn is now.
    /// `early`: the run ends before its time is up.
    fn settle(&mut self, at: At, early: bool, out: &mut impl FnMut(Update<'_>)) {
        let lost = self.loss.total();
        let copy = self.ending_of_copy(self.slots.get(at)).filter(|_| !early);
        let slot = self.slots.get_mut(at);
        let before = slot.journey.ending;
        if matches!(before, Ending::Open) {
            let missing = lost.saturating_sub(slot.lost_before);
            slot.journey.ending = if let Some(ending) = copy {
                ending
            } else if missing > 0 {
                Ending::Unclear { lost: missing }
            } else if early {
                Ending::Open
            } else {
                let by = |places| vanished(&slot.journey, slot.family, places, &self.positions);
                let (next, bridge) = by(&self.places);
                let mut former = self.former.since(slot.journey.start_ns);
                let expected_before = |former| {
                    by(former) == (next, bridge) && self.places.still_watch(former, slot.last_seen(), next)
                };
                if former.all(expected_before) {
                    Ending::Vanished { next, bridge }
                } else {
                    Ending::Unclear { lost: 0 }
                }
            };
        }
        // The vanishing is news, even where all hops were shown.
        if before != slot.journey.ending {
            slot.news.get_or_insert(slot.journey.end_ns);
        }
        slot.settled = true;
        self.round_trip(at);
        let skb = self.slots.skb(at);
        let slot = self.slots.get(at);
        let journey = &slot.journey;
        if !journey.resumed {
            self.stats.ending(&journey.ending);
            if lost == slot.lost_before {
                self.stats.times(journey);
            }
            if self.recent.len() == RECENT {
                self.recent.pop_front();
            }
            if skb != 0 && !journey.is_dropped() {
                self.recent.push_back(Recent {
                    skb,
                    hash: slot.fp.hash(),
                    id: journey.id,
                    ending: journey.ending,
                });
            }
        }
        self.slots.forget_skb(at);
        self.slots.due[at as usize] = NEVER;
        let slot = self.slots.get(at);
        let whole = self.options.whole || self.options.drops_only;
        if whole {
            let wanted = !self.options.drops_only
                || matches!(slot.journey.ending, Ending::Dropped(_) | Ending::Vanished { .. });
            if wanted {
                self.show(at, out);
            }
            self.slots.release(at);
        } else if slot.shown {
            if slot.news.is_some() {
                self.show(at, out);
            }
            self.slots.release(at);
        }
        // Else it waits for its turn in `in_order`.
    }

    fn show(&mut self, at: At, out: &mut impl FnMut(Update<'_>)) {
        self.round_trip(at);
        self.attribute_late(at);
        let slot = self.slots.get_mut(at);
        slot.news = None;
        out(Update::Journey(News {
            journey: &slot.journey,
            from_hop: slot.shown_hops,
            from_note: slot.shown_notes,
            first: !slot.shown && !slot.journey.resumed,
            last: slot.settled,
        }));
        slot.shown = true;
        slot.shown_hops = slot.journey.hops.len();
        slot.shown_notes = slot.journey.notes.len();
    }

    /// A later packet may have shown whose doing a change was while this one was held back.
    fn attribute_late(&mut self, at: At) {
        let slot = self.slots.get_mut(at);
        for hop in &mut slot.journey.hops[slot.shown_hops..] {
            let Some(MarkChange { from, to, cause: Cause::Hook(interval) }) = &mut hop.mark_change else {
                continue;
            };
            if distinct_priorities(&self.topology, interval, Deed::Mark) < 2 {
                continue;
            }
            let at = Zoom::from(&*interval);
            let change = ZoomChange { at, deed: Deed::Mark, from: u64::from(*from), to: u64::from(*to) };
            if let Some(known) = self.zooming.recall(change, interval, self.now) {
                *interval = known;
            }
        }
    }

    fn round_trip(&mut self, at: At) {
        let Some(request) = self.slots.get(at).request else { return };
        let (began, entered) = self.began(at);
        let journey = &mut self.slots.get_mut(at).journey;
        journey.round_trip = Some(request.answered(began, journey.end_ns, entered));
    }

    /// First sight of an answer, and whether it came in by an uplink.
    pub(crate) fn began(&self, at: At) -> (u64, bool) {
        let slot = self.slots.get(at);
        let journey = &slot.journey;
        let first = journey.hops.iter().find(|h| !matches!(h.place, Place::Route { .. }));
        let entered = first.is_some_and(|h| {
            matches!(h.place, Place::Device { ifindex, egress: false }
                if self.places.role(h.netns, ifindex) == Some(PathRole::Uplink))
        });
        slot.began.unwrap_or((journey.start_ns, entered))
    }
}
