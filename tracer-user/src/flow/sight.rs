// SPDX-License-Identifier: MIT OR Apache-2.0
//! A sighting: to which journey it belongs, and what changed since the one before.

use tracer_common::{Event, FLAG_FRAG, FLAG_IPV6, FLAG_QUOTED, FLAG_REVERSE, Kind};

use super::addr::{Addr, Endpoint, Ends};
use super::author::{Deed, distinct_priorities};
use super::ending::ending_at;
use super::fingerprint::{Fingerprint, in_range};
use super::model::{Cause, Encap, Ending, Hop, Interval, MarkChange, Nat, Note, NoteKind, Packet, Place};
use super::nat::{ends_of, translation};
use super::slots::{At, visit_bit};
use super::tracker::Tracker;
use super::zoom::{Change, Zoom};
use crate::node::{Family, Hook, PathRole};

const LARGE: usize = 32;
const LOOKUPS: usize = 64;
/// A lookup this long before a packet was for another one.
const LOOKUP_AGE: u64 = 100_000_000;
const CT_NEW: u8 = 2;

pub(crate) fn family_of(e: &Event) -> Family {
    if e.flags & FLAG_IPV6 != 0 { Family::Ipv6 } else { Family::Ipv4 }
}

impl Tracker {
    pub(crate) fn sighting(&mut self, e: &Event, kind: Kind) {
        let fp = Fingerprint::of(e);
        let place = self.place(e, kind);
        let at = match self.find(e, &fp, &place) {
            Ok(at) => at,
            Err(part_of) => self.start(e, &fp, part_of),
        };
        self.append(at, e, &fp, place);
    }

    fn place(&self, e: &Event, kind: Kind) -> Place {
        match (kind, Hook::parse(e.point)) {
            (Kind::Nf, Some(hook)) => Place::Hook {
                hook,
                ifindex: e.ifindex,
                out_ifindex: e.out_ifindex(),
                position: e.position,
                priority: self.positions.priority(e.netns, self.hook_family(e), hook, e.position),
            },
            _ => Place::Device { ifindex: e.ifindex, egress: e.point != 0 },
        }
    }

    /// Family of the hook: of the outer packet when there is one.
    fn hook_family(&self, e: &Event) -> Family {
        if !e.is_encap() {
            family_of(e)
        } else if e.outer_v4().is_some() {
            Family::Ipv4
        } else {
            Family::Ipv6
        }
    }

    /// The journey that this sighting continues; else the one it turns out to be a part of.
    fn find(&mut self, e: &Event, fp: &Fingerprint, place: &Place) -> Result<At, Option<u64>> {
        if e.skb != 0
            && let Some(at) = self.slots.by_skb(e.skb)
        {
            let slot = self.slots.get(at);
            if slot.fp.same_skb(fp) && !slot.settled && self.continues(at, e, place) {
                return Ok(at);
            }
            // The memory holds another packet now.
            self.slots.forget_skb(at);
        }
        let same = |&at: &At| {
            let slot = self.slots.get(at);
            slot.fp == *fp && !slot.settled && self.continues(at, e, place)
        };
        if let Some(at) = self.slots.by_print(fp).find(same) {
            return Ok(at);
        }
        self.find_part(e, fp, place)
    }

    /// GRO and segmentation make other packets of the same data.
    fn find_part(&mut self, e: &Event, fp: &Fingerprint, place: &Place) -> Result<At, Option<u64>> {
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

    /// The packet in this slot can have come to this place.
    fn continues(&self, at: At, e: &Event, place: &Place) -> bool {
        let slot = self.slots.get(at);
        if slot.ttl_at(e.netns, place, e.is_encap()).is_some_and(|ttl| e.ttl >= ttl) {
            return false;
        }
        match slot.journey.ending {
            Ending::Dropped(_) | Ending::Merged { .. } => false,
            // Out by one uplink: through a lower one (bond, VLAN), or into another node.
            Ending::Left { netns, .. } => match place {
                Place::Device { egress: true, .. } => netns == e.netns,
                Place::Device { egress: false, .. } | Place::Hook { hook: Hook::Prerouting, .. } => {
                    netns != e.netns
                }
                Place::Hook { .. } | Place::Route { .. } => false,
            },
            Ending::Delivered { netns } => netns == e.netns,
            _ => true,
        }
    }

    pub(crate) fn start(&mut self, e: &Event, fp: &Fingerprint, part_of: Option<u64>) -> At {
        if self.slots.is_full() {
            self.evict();
        }
        self.ids += 1;
        let id = self.ids;
        self.stats.summary.packets += 1;
        let at = self.slots.take(fp);
        let ends = ends_of(e);
        let lost_before = self.loss.total();
        let slot = self.slots.get_mut(at);
        slot.family = family_of(e);
        slot.netns = e.netns;
        slot.ends = ends;
        slot.mark = if junk_mark(e) { 0 } else { e.mark };
        slot.lost_before = lost_before;
        let journey = &mut slot.journey;
        journey.id = id;
        journey.flow = e.flow;
        journey.reply = e.dir != 0;
        journey.start_ns = e.ts;
        journey.end_ns = e.ts;
        journey.packet = packet_of(e, ends, slot.mark);
        if let Some(of) = part_of {
            journey.notes.push(Note { ts: e.ts, netns: e.netns, after: 0, what: NoteKind::PartOf { of } });
        }
        self.relate(at, e, fp);
        self.adopt_lookups(at, e);
        if !self.options.whole && !self.options.drops_only {
            self.order.push_back((at, id));
            if self.order.len() > 4 * self.options.max_open {
                self.order.retain(|&(at, id)| self.slots.holds(at, id));
            }
        }
        at
    }

    /// What the packet is to the others of its flow.
    fn relate(&mut self, at: At, e: &Event, fp: &Fingerprint) {
        let id = self.slots.get(at).journey.id;
        let large = fp.frag || fp.tcp_range().is_some() || fp.l3len > 1280;
        let flow = self.flows.entry(e.flow, Default::default);
        flow.last = Some((at, id));
        if fp.proto == 6 && fp.tcp_flags & 4 != 0 {
            flow.reset = Some((at, id));
        }
        if large {
            if flow.large.len() == LARGE {
                flow.large.pop_front();
            }
            flow.large.push_back((at, id));
        }
        let relation = flow.outstanding.packet(id, e.ts, fp);
        let resent = flow.resent.take_if(|(dir, seq, _)| *dir == e.dir && *seq == e.l4a).is_some();
        let slot = self.slots.get_mut(at);
        slot.request = relation.answers;
        if relation.repeats.is_some() || resent {
            let (of, after_ns) = relation.repeats.map(|(of, since)| (of, e.ts.saturating_sub(since))).unzip();
            let what = NoteKind::Retransmission { of, after_ns };
            slot.journey.notes.push(Note { ts: e.ts, netns: e.netns, after: 0, what });
        }
    }

    fn append(&mut self, at: At, e: &Event, fp: &Fingerprint, place: Place) {
        let outer = self.outer(e);
        let grown = {
            let slot = self.slots.get(at);
            slot.fp.frag != fp.frag || (fp.proto == 6 && fp.l3len > slot.fp.l3len)
        };
        if grown {
            self.absorb(at, fp);
        }
        self.slots.set_print(at, fp);
        self.slots.set_skb(at, e.skb);
        let mut hop = Hop {
            ts: e.ts,
            netns: e.netns,
            place,
            ends: ends_of(e),
            mark: e.mark,
            len: e.len,
            l3len: e.l3len(),
            ttl: e.ttl,
            encap: None,
            conntrack: None,
            mark_change: None,
            ct_mark_change: None,
            nat: None,
        };
        let slot = self.slots.get_mut(at);
        if e.flags & FLAG_FRAG != 0 && hop.ends.src.port == 0 && hop.ends.dst.port == 0 {
            hop.ends.src.port = slot.ends.src.port;
            hop.ends.dst.port = slot.ends.dst.port;
        }
        if let Some(ttl) = slot.ttl_at(e.netns, &place, e.is_encap())
            && ttl > e.ttl
        {
            looped(&mut slot.journey.notes, e, slot.journey.hops.len());
        }
        hop.encap = outer.and_then(|outer| encap_index(&mut slot.journey.encaps, outer));
        self.compare(at, e, &mut hop);

        let slot = self.slots.get_mut(at);
        slot.netns = e.netns;
        slot.ends = hop.ends;
        slot.mark = hop.mark;
        slot.encap = hop.encap;
        slot.visited |= visit_bit(e.netns, &place, hop.encap.is_some());
        slot.journey.end_ns = slot.journey.end_ns.max(e.ts);
        if slot.journey.hops.len() < self.options.max_hops {
            slot.journey.hops.push(hop);
        } else {
            slot.journey.hops_cut += 1;
            self.stats.summary.hops_cut += 1;
        }
        let ending = ending_at(&slot.journey.hops, slot.family, &self.places, &self.positions);
        slot.journey.ending = ending.unwrap_or_default();
        let (id, dir) = (slot.journey.id, e.dir);
        match slot.journey.ending {
            Ending::Left { .. } => self.flow(e.flow).outstanding.ended(id, dir, Some(e.ts), None),
            Ending::Delivered { .. } => self.flow(e.flow).outstanding.ended(id, dir, None, Some(e.ts)),
            _ => {}
        }
        self.schedule(at, e.ts);
    }

    /// The outer header: in the record, or in the one before it.
    fn outer(&mut self, e: &Event) -> Option<Encap> {
        if !e.is_encap() {
            return None;
        }
        if let Some((src, dst, sport, dport, vni)) = e.outer_v4() {
            let src = Endpoint { addr: Addr::v4(src), port: sport };
            let dst = Endpoint { addr: Addr::v4(dst), port: dport };
            return Some(Encap { src, dst, vni });
        }
        let unknown = Encap { src: Endpoint::default(), dst: Endpoint::default(), vni: 0 };
        let outer = self.cpu(e).outer.take_if(|(skb, _)| *skb == e.skb);
        Some(outer.map_or(unknown, |(_, outer)| outer))
    }

    /// Marks what differs from the sighting before.
    fn compare(&mut self, at: At, e: &Event, hop: &mut Hop) {
        let slot = self.slots.get(at);
        let first = slot.visited == 0;
        let moved = slot.netns != e.netns;
        let crossed = moved || slot.encap.is_some() != hop.encap.is_some();
        let abroad = moved && matches!(slot.journey.ending, Ending::Left { .. });
        if junk_mark(e) {
            hop.mark = slot.mark;
        }
        let (from, before) = (slot.mark, slot.ends);
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
        if !first && let Some(kind) = translation(before, hop.ends, e) {
            let interval = match hop.place {
                Place::Hook { .. } => self.attribute(at, e, hop, (Deed::Translation, kind as u64, 0)),
                _ => None,
            };
            hop.nat = Some(Nat { kind, from: before, interval });
        }
        self.compare_conntrack(at, e, hop);
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
        let told = &mut slot.journey.conntrack;
        if (id != now.0 || hop.nat.is_some())
            && let Some(entry) = self.conntracks.find(now.0)
        {
            hop.conntrack = tell_conntrack(told, entry);
        }
        slot.ct = now;
    }

    /// The interval in which something happened between the last sighting and this one.
    fn attribute(
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
        let change = Change { at: Zoom::from(&interval), deed, from, to };
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

    /// The packet grew: others of its flow are in it now.
    fn absorb(&mut self, at: At, fp: &Fingerprint) {
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
        if self.lookups.len() == LOOKUPS {
            self.lookups.pop_front();
        }
        self.lookups.push_back(*e);
    }

    fn adopt_lookups(&mut self, at: At, e: &Event) {
        if self.lookups.is_empty() {
            return;
        }
        let mut kept = 0;
        for i in 0..self.lookups.len() {
            let lookup = self.lookups[i];
            let age = e.ts.saturating_sub(lookup.ts);
            if lookup.flow == e.flow && lookup.dir == e.dir && age < LOOKUP_AGE {
                self.route(at, &lookup);
            } else if age < LOOKUP_AGE {
                self.lookups[kept] = lookup;
                kept += 1;
            }
        }
        self.lookups.truncate(kept);
    }

    fn route(&mut self, at: At, e: &Event) {
        let slot = self.slots.get(at);
        let reverse = e.flags & FLAG_REVERSE != 0;
        let place = Place::Route {
            table: e.fib_table(),
            error: e.fib_error(),
            gateway: Addr(e.fib_gateway()),
            ifindex: e.ifindex,
            in_ifindex: e.l4a,
            reverse,
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
        };
        // The mark that was looked up is the packet's own on the way on, unless the lookup is for the
        // outer packet.
        let own = e.dst == slot.ends.dst.addr.0 && !reverse && slot.visited != 0 && e.skb != 0;
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

    pub(crate) fn conntrack(&mut self, e: &Event) {
        self.conntracks.observe(e);
        let Some(entry) = self.conntracks.find(e.ct()) else { return };
        let Some(at) = (e.skb != 0).then(|| self.slots.by_skb(e.skb)).flatten() else { return };
        let journey = &mut self.slots.get_mut(at).journey;
        if journey.flow == e.flow
            && let Some(index) = tell_conntrack(&mut journey.conntrack, entry)
            && let Some(hop) = journey.hops.last_mut()
        {
            hop.conntrack = Some(index);
        }
    }
}

/// `skb->mark` shares its memory with `reserved_tailroom`, which IGMP, MLD and ND packets use.
fn junk_mark(e: &Event) -> bool {
    e.proto == 2 || (e.proto == 58 && e.sport == 0 && e.kind == Kind::Tc as u8 && e.point == 1)
}

fn packet_of(e: &Event, ends: Ends, mark: u32) -> Packet {
    let quoted = e.flags & FLAG_QUOTED != 0;
    let is_fragment = e.flags & FLAG_FRAG != 0;
    Packet {
        proto: e.proto,
        ipv6: e.flags & FLAG_IPV6 != 0,
        ends,
        mark,
        l3len: u32::from(e.l3len()),
        ttl: e.ttl,
        ip_id: e.ip_id,
        frag: e.frag,
        is_fragment,
        tcp_flags: e.tcp_flags,
        seq: e.l4a,
        ack: e.l4b,
        gso_size: e.gso_size,
        gso_segs: e.gso_segs,
        vlan: e.vlan,
        icmp_error: quoted.then_some(((e.sport >> 8) as u8, e.sport as u8)),
        echo_id: if matches!(e.proto, 1 | 58) && !quoted { e.sport } else { 0 },
    }
}

fn encap_index(encaps: &mut Vec<Encap>, outer: Encap) -> Option<u8> {
    let at = encaps.iter().position(|&known| known == outer).unwrap_or_else(|| {
        if encaps.len() < 16 {
            encaps.push(outer);
        }
        encaps.len() - 1
    });
    u8::try_from(at).ok()
}

/// Adds or renews an entry; its index when there is news to tell.
fn tell_conntrack(
    told: &mut Vec<super::model::ConntrackEntry>,
    entry: super::model::ConntrackEntry,
) -> Option<u8> {
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

fn looped(notes: &mut Vec<Note>, e: &Event, hops: usize) {
    for note in notes.iter_mut() {
        if let NoteKind::Looped { times } = &mut note.what {
            *times = times.saturating_add(1);
            return;
        }
    }
    let what = NoteKind::Looped { times: 1 };
    push_note(notes, Note { ts: e.ts, netns: e.netns, after: hops as u16, what });
}

/// Notes of one journey are few; a flood of them says nothing new.
pub(crate) fn push_note(notes: &mut Vec<Note>, note: Note) {
    if notes.len() < 32 {
        notes.push(note);
    }
}
