// SPDX-License-Identifier: MIT OR Apache-2.0
//! One sighting of a packet: the journey it belongs to, and what changed since the previous one.

use tracer_common::{Event, FLAG_FRAG, FLAG_IPV6, FLAG_NO_WINDOW, FLAG_QUOTED, Kind};

use super::addr::{Addr, Endpoint, Ends};
use super::change::junk_mark;
use super::ending::ending_at;
use super::fingerprint::Fingerprint;
use super::model::{Encap, Ending, Hop, Macs, Note, NoteKind, Packet, Place, Tracking};
use super::nat::{CT_ESTABLISHED_REPLY, CT_RELATED_REPLY, ends_of};
use super::pairing::Repeat;
use super::slots::{At, visit_bit};
use super::tracker::Tracker;
use crate::firewall::CtState;
use crate::node::{Family, Hook};

/// Journeys of one flow that others may be a part of.
const LARGE: usize = 32;
/// The same, while they are fragments that wait.
const FRAGMENTS: usize = 256;
/// Bytes that no link in use cuts up.
const ALWAYS_WHOLE: u16 = 576;
/// `enum ip_conntrack_info`.
const CT_UNTRACKED: u8 = 7;

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

    pub(crate) fn place(&self, e: &Event, kind: Kind) -> Place {
        match (kind, Hook::parse(e.point)) {
            (Kind::Nf, Some(hook)) => Place::Hook {
                hook,
                ifindex: e.ifindex,
                out_ifindex: e.out_ifindex(),
                position: e.position,
                priority: self.positions.priority(e.netns, self.hook_family(e), hook, e.position, e.ts),
            },
            _ => Place::Device { ifindex: e.ifindex, egress: e.point != 0 },
        }
    }

    /// Family of the hook: of the outer packet when there is one.
    pub(crate) fn hook_family(&self, e: &Event) -> Family {
        if !e.is_encap() {
            family_of(e)
        } else if e.outer_v4().is_some() {
            Family::Ipv4
        } else {
            Family::Ipv6
        }
    }

    /// The journey that this sighting continues; else the one it turns out to be a part of.
    fn find(&mut self, e: &Event, fp: &Fingerprint, place: &Place) -> Result<At, Option<(At, u64)>> {
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
        if let Some(at) = self.reassembled(e, fp, place) {
            return Ok(at);
        }
        self.find_part(e, fp, place)
    }

    /// The packet in this slot can have come to this place.
    pub(crate) fn continues(&self, at: At, e: &Event, place: &Place) -> bool {
        let slot = self.slots.get(at);
        if slot.ttl_at(e.netns, place, e.is_encap()).is_some_and(|ttl| e.ttl >= ttl) {
            return false;
        }
        match slot.journey.ending {
            Ending::Dropped(_) | Ending::Merged { .. } | Ending::CutUp { .. } | Ending::Copy { .. } => false,
            Ending::Open if self.is_flooded(slot, e, place) => false,
            // Out by one uplink: through a lower one (bond, VLAN), or into another node.
            Ending::Left { netns, .. } => match place {
                Place::Device { egress: true, .. } => netns == e.netns,
                // Sent back to this node, another router having taken it: a loop.
                Place::Device { egress: false, .. } if netns == e.netns => {
                    slot.journey.hops.last().is_some_and(|h| e.ttl < h.ttl)
                }
                Place::Device { egress: false, .. } | Place::Hook { hook: Hook::Prerouting, .. } => {
                    netns != e.netns
                }
                Place::Hook { .. } | Place::Route { .. } => false,
            },
            Ending::Delivered { netns } => netns == e.netns,
            _ => true,
        }
    }

    pub(crate) fn start(&mut self, e: &Event, fp: &Fingerprint, part_of: Option<(At, u64)>) -> At {
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
        slot.asks = id;
        let journey = &mut slot.journey;
        journey.id = id;
        journey.flow = e.flow;
        journey.reply = e.dir != 0;
        journey.start_ns = e.ts;
        journey.end_ns = e.ts;
        journey.packet = packet_of(e, ends, slot.mark);
        if let Some((_, of)) = part_of {
            journey.notes.push(Note { ts: e.ts, netns: e.netns, after: 0, what: NoteKind::PartOf { of } });
        }
        match part_of {
            Some((whole, of)) if fp.frag || self.segmented_from(e, fp) == Some((whole, of)) => {
                self.keep_if_large(at, e, fp);
                self.cut(whole, at, e);
            }
            _ => self.relate(at, e, fp),
        }
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
        self.keep_if_large(at, e, fp);
        let id = self.slots.get(at).journey.id;
        let flow = self.flows.entry(e.flow, Default::default);
        if fp.proto == 6 && fp.tcp_flags & 4 != 0 {
            flow.reset = Some((at, id));
        }
        let resent = flow.resent.take_if(|(dir, seq, _)| *dir == e.dir && *seq == e.l4a).is_some();
        if !resent && let Some(twin) = self.twin(at, e, fp) {
            self.copy(at, twin, e);
            return;
        }
        let relation = self.flow(e.flow).outstanding.packet(id, e.ts, fp);
        self.slots.get_mut(at).request = relation.answers;
        if let Some(Repeat { of, since, .. }) = relation.repeats.filter(|r| r.copy && !resent) {
            self.copy_of(at, of, since, e);
        } else if relation.repeats.is_some() || resent {
            let (of, after_ns) = relation.repeats.map(|r| (r.of, e.ts.saturating_sub(r.since))).unzip();
            let slot = self.slots.get_mut(at);
            let what = NoteKind::Retransmission { of, after_ns };
            slot.journey.notes.push(Note { ts: e.ts, netns: e.netns, after: 0, what });
        }
    }

    /// Others may turn out to be a part of it, or it of others.
    fn keep_if_large(&mut self, at: At, e: &Event, fp: &Fingerprint) {
        let id = self.slots.get(at).journey.id;
        let flow = self.flows.entry(e.flow, Default::default);
        flow.last = Some((at, id));
        if !fp.frag && fp.tcp_range().is_none() && fp.l3len <= ALWAYS_WHOLE {
            return;
        }
        // A packet of 64 KiB has more fragments than are kept of other packets, and all of them count.
        let waits = |&(at, id): &(At, u64)| {
            self.slots.holds(at, id) && self.slots.get(at).fp.frag && !self.slots.get(at).settled
        };
        while flow.large.len() >= FRAGMENTS
            || flow.large.len() >= LARGE && flow.large.front().is_some_and(|oldest| !waits(oldest))
        {
            flow.large.pop_front();
        }
        flow.large.push_back((at, id));
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
            tracking: self.tracking(e, &place),
            macs: e.macs().map(|(destination, source)| Macs { destination, source }),
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
        let by = |places| ending_at(&slot.journey.hops, slot.family, places, &self.positions);
        // What need not have been seen then is not missed now.
        let ending = self.former.since(slot.journey.start_ns).find_map(by).or_else(|| by(&self.places));
        let ending = ending.unwrap_or_default();
        slot.journey.ending = ending;
        let (id, dir) = (slot.asks, e.dir);
        self.copy_goes_on(at, e, &place);
        match ending {
            Ending::Left { .. } => self.flow(e.flow).outstanding.ended(id, dir, Some(e.ts), None),
            Ending::Delivered { .. } => self.flow(e.flow).outstanding.ended(id, dir, None, Some(e.ts)),
            _ => {}
        }
        self.schedule(at, e.ts);
    }

    /// What conntrack says of the packet: by its entry, or, behind conntrack's own place in a hook, by the lack of one.
    fn tracking(&self, e: &Event, place: &Place) -> Option<Tracking> {
        const ENTERED: [Hook; 2] = [Hook::Prerouting, Hook::Output];
        if e.is_encap() {
            return None;
        }
        let state = match (e.ct(), e.ct_info()) {
            (0, info) => {
                let Place::Hook { hook, priority, .. } = *place else { return None };
                if ENTERED.contains(&hook) && priority.is_none_or(|p| p <= libc::NF_IP_PRI_CONNTRACK)
                    || !self.places.tracks(e.netns)
                {
                    return None;
                }
                if info == CT_UNTRACKED { CtState::Untracked } else { CtState::Invalid }
            }
            (_, 0 | CT_ESTABLISHED_REPLY) => CtState::Established,
            (_, 1 | CT_RELATED_REPLY) => CtState::Related,
            (_, 2) => CtState::New,
            _ => return None,
        };
        let reply = matches!(e.ct_info(), CT_ESTABLISHED_REPLY | CT_RELATED_REPLY);
        let mark = if e.ct() == 0 { 0 } else { e.ct_mark() };
        Some(Tracking { state, reply, mark, wrong_checksum: e.has_wrong_checksum() })
    }

    /// The outer header: in the record, or in the one before it.
    fn outer(&mut self, e: &Event) -> Option<Encap> {
        if !e.is_encap() {
            return None;
        }
        if let Some(outer) = e.outer_v4() {
            let src = Endpoint { addr: Addr::v4(outer.src), port: outer.sport };
            let dst = Endpoint { addr: Addr::v4(outer.dst), port: outer.dport };
            return Some(Encap { src, dst, vni: outer.vni });
        }
        let unknown = Encap { src: Endpoint::default(), dst: Endpoint::default(), vni: 0 };
        let outer = self.cpu(e).outer.take_if(|(skb, _)| *skb == e.skb);
        Some(outer.map_or(unknown, |(_, outer)| outer))
    }
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
        // The window of a RST means nothing.
        zero_window: e.proto == 6 && e.flags & FLAG_NO_WINDOW != 0 && e.tcp_flags & 0x06 == 0,
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
