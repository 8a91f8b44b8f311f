// SPDX-License-Identifier: MIT OR Apache-2.0
//! The packets under way: a fixed number of slots, found by skb address and by fingerprint.

use rustc_hash::FxHashMap;

use super::addr::Ends;
use super::fingerprint::Fingerprint;
use super::model::{Ending, Hop, Journey, Place};
use super::pairing::Request;
use crate::node::{Family, NetnsId};

/// Index of a slot.
pub(crate) type At = u32;
const NONE: At = At::MAX;
/// [`Slots::due`] of a slot that nothing waits for.
pub(crate) const NEVER: u64 = u64::MAX;

/// A journey with what is needed to continue it.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) journey: Journey,
    pub(crate) fp: Fingerprint,
    hash: u64,
    /// It can be found by its fingerprint.
    linked: bool,
    prev: At,
    next: At,
    skb: u64,
    pub(crate) family: Family,
    pub(crate) netns: NetnsId,
    pub(crate) ends: Ends,
    pub(crate) mark: u32,
    pub(crate) encap: Option<u8>,
    /// Address of the last conntrack entry and its mark.
    pub(crate) ct: (u64, u32),
    /// One bit per place by hash: most places are answered without looking at the hops.
    pub(crate) visited: u64,
    pub(crate) request: Option<Request>,
    /// First sight of the answer, and whether it came in by an uplink: where another journey had it before.
    pub(crate) began: Option<(u64, bool)>,
    /// Id under which an answer to it is looked for: of the journey before, when this one continues it.
    pub(crate) asks: u64,
    /// The journey that it is a copy of.
    pub(crate) copy_of: Option<u64>,
    /// Where that journey is, and its number, while it is under way.
    pub(crate) twin: Option<(At, u64)>,
    /// A copy of it was seen elsewhere: a bridge or switch sent it to several ports.
    pub(crate) copied: bool,
    /// Identification of the fragments that it was cut into.
    pub(crate) cut_as: Option<u16>,
    /// Records lost before it began.
    pub(crate) lost_before: u64,
    /// When it is over if nothing more comes.
    pub(crate) close: u64,
    /// First news since it was last shown.
    pub(crate) news: Option<u64>,
    pub(crate) shown: bool,
    pub(crate) shown_hops: usize,
    pub(crate) shown_notes: usize,
    /// Its ending stands; it waits to be shown.
    pub(crate) settled: bool,
    pub(crate) used: bool,
}

#[derive(Debug)]
pub(crate) struct Slots {
    slots: Vec<Slot>,
    /// Next time a slot wants attention, ns: apart, so that looking through them is cheap.
    pub(crate) due: Vec<u64>,
    free: Vec<At>,
    by_skb: FxHashMap<u64, At>,
    /// First and last of the slots with one fingerprint, oldest first.
    by_print: FxHashMap<u64, (At, At)>,
    limit: usize,
    hand: usize,
}

impl Slots {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            slots: Vec::new(),
            due: Vec::new(),
            free: Vec::new(),
            by_skb: FxHashMap::default(),
            by_print: FxHashMap::default(),
            limit: limit.max(2),
            hand: 0,
        }
    }

    pub(crate) fn get(&self, at: At) -> &Slot {
        &self.slots[at as usize]
    }

    pub(crate) fn get_mut(&mut self, at: At) -> &mut Slot {
        &mut self.slots[at as usize]
    }

    /// The slot still holds this journey.
    pub(crate) fn holds(&self, at: At, id: u64) -> bool {
        self.slots.get(at as usize).is_some_and(|s| s.used && s.journey.id == id)
    }

    pub(crate) fn indexes(&self) -> std::ops::Range<At> {
        0..self.slots.len() as At
    }

    pub(crate) fn is_full(&self) -> bool {
        self.free.is_empty() && self.slots.len() >= self.limit
    }

    /// An old journey, to make room: of a few, the oldest that was shown and is over.
    pub(crate) fn victim(&mut self) -> At {
        let len = self.slots.len();
        let picks = (0..8.min(len)).map(|i| (self.hand + i) % len);
        let worth = |i: &usize| {
            let Slot { shown, journey, .. } = &self.slots[*i];
            (!*shown || matches!(journey.ending, Ending::Open), journey.start_ns)
        };
        let victim = picks.min_by_key(worth).unwrap_or(0);
        self.hand = (victim + 1) % len.max(1);
        victim as At
    }

    /// An empty slot; the caller has made sure there is room.
    pub(crate) fn take(&mut self, fp: &Fingerprint) -> At {
        let at = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::empty());
            self.due.push(NEVER);
            (self.slots.len() - 1) as At
        });
        let slot = self.get_mut(at);
        let mut journey = std::mem::take(&mut slot.journey);
        journey.clear();
        *slot = Slot { journey, used: true, fp: *fp, hash: fp.hash(), ..Slot::empty() };
        self.link(at);
        at
    }

    pub(crate) fn release(&mut self, at: At) {
        self.forget_skb(at);
        self.unlink(at);
        let slot = self.get_mut(at);
        slot.used = false;
        slot.settled = false;
        slot.journey.clear();
        self.due[at as usize] = NEVER;
        self.free.push(at);
    }

    pub(crate) fn by_skb(&self, skb: u64) -> Option<At> {
        self.by_skb.get(&skb).copied()
    }

    pub(crate) fn set_skb(&mut self, at: At, skb: u64) {
        if skb == 0 || self.get(at).skb == skb {
            return;
        }
        self.forget_skb(at);
        if let Some(old) = self.by_skb.insert(skb, at) {
            self.get_mut(old).skb = 0;
        }
        self.get_mut(at).skb = skb;
    }

    pub(crate) fn skb(&self, at: At) -> u64 {
        self.get(at).skb
    }

    pub(crate) fn forget_skb(&mut self, at: At) {
        let skb = std::mem::take(&mut self.get_mut(at).skb);
        if skb != 0 {
            self.by_skb.remove(&skb);
        }
    }

    /// Slots with this fingerprint, oldest first.
    pub(crate) fn by_print(&self, fp: &Fingerprint) -> impl Iterator<Item = At> {
        let first = self.by_print.get(&fp.hash()).map(|&(first, _)| first);
        std::iter::successors(first, |&at| {
            let next = self.get(at).next;
            (next != NONE).then_some(next)
        })
        // Packets that nothing tells apart: a few are looked at, not thousands.
        .take(32)
    }

    /// The packet's length or the like changed on the way.
    pub(crate) fn set_print(&mut self, at: At, fp: &Fingerprint) {
        if self.get(at).fp != *fp || !self.get(at).linked {
            self.unlink(at);
            let slot = self.get_mut(at);
            slot.fp = *fp;
            slot.hash = fp.hash();
            self.link(at);
        }
    }

    fn link(&mut self, at: At) {
        let hash = self.get(at).hash;
        let (first, last) = self.by_print.get(&hash).copied().unwrap_or((at, NONE));
        self.get_mut(at).linked = true;
        self.get_mut(at).prev = last;
        self.get_mut(at).next = NONE;
        if last != NONE {
            self.get_mut(last).next = at;
        }
        self.by_print.insert(hash, (first, at));
    }

    /// It is not looked for by fingerprint any more: with many equal packets that would take long.
    pub(crate) fn unlink(&mut self, at: At) {
        let Slot { hash, prev, next, linked, .. } = *self.get(at);
        if !linked {
            return;
        }
        self.get_mut(at).linked = false;
        let Some((mut first, mut last)) = self.by_print.get(&hash).copied() else { return };
        if prev == NONE {
            first = next;
        } else {
            self.get_mut(prev).next = next;
        }
        if next == NONE {
            last = prev;
        } else {
            self.get_mut(next).prev = prev;
        }
        if first == NONE {
            self.by_print.remove(&hash);
        } else {
            self.by_print.insert(hash, (first, last));
        }
    }

    pub(crate) fn used(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

impl Slot {
    fn empty() -> Self {
        Self {
            journey: Journey::default(),
            fp: Fingerprint::default(),
            hash: 0,
            linked: false,
            prev: NONE,
            next: NONE,
            skb: 0,
            family: Family::Ipv4,
            netns: 0,
            ends: Ends::default(),
            mark: 0,
            encap: None,
            ct: (0, 0),
            visited: 0,
            request: None,
            began: None,
            asks: 0,
            copy_of: None,
            twin: None,
            copied: false,
            cut_as: None,
            lost_before: 0,
            close: NEVER,
            news: None,
            shown: false,
            shown_hops: 0,
            shown_notes: 0,
            settled: false,
            used: false,
        }
    }

    /// The TTL with which the packet was last seen at this place.
    pub(crate) fn ttl_at(&self, netns: NetnsId, place: &Place, encap: bool) -> Option<u8> {
        if self.visited & visit_bit(netns, place, encap) == 0 {
            return None;
        }
        let same = |h: &&Hop| h.netns == netns && h.encap.is_some() == encap && same_place(&h.place, place);
        self.journey.hops.iter().rev().find(same).map(|h| h.ttl)
    }

    /// Last hop that is no routing lookup.
    pub(crate) fn last_seen(&self) -> Option<&Hop> {
        self.journey.hops.iter().rev().find(|h| !matches!(h.place, Place::Route { .. }))
    }
}

pub(crate) fn same_place(a: &Place, b: &Place) -> bool {
    match (a, b) {
        (
            Place::Hook { hook: h1, ifindex: i1, out_ifindex: o1, position: p1, .. },
            Place::Hook { hook: h2, ifindex: i2, out_ifindex: o2, position: p2, .. },
        ) => h1 == h2 && i1 == i2 && o1 == o2 && p1 == p2,
        (a, b) => a == b,
    }
}

pub(crate) fn visit_bit(netns: NetnsId, place: &Place, encap: bool) -> u64 {
    let word = match *place {
        Place::Device { ifindex, egress } => u64::from(ifindex) << 1 | u64::from(egress),
        Place::Hook { hook, ifindex, out_ifindex, position, .. } => {
            1 << 63
                | (hook as u64) << 56
                | u64::from(position) << 48
                | u64::from(ifindex as u16) << 32
                | u64::from(out_ifindex)
        }
        Place::Route { .. } => return 0,
    };
    let mixed = (word ^ u64::from(netns).rotate_left(40) ^ u64::from(encap) << 55)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    1 << (mixed >> 58)
}
