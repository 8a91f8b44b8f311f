// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Following a flow across NAT: a packet's conntrack entry names the tuple before and after.

use tracer_common::{CT_TUPLE_REPLY, Kind, Tuple};

use crate::{
    debug,
    emit::{self, Sighting},
    field,
    judge::{Hit, insert_both, judge_tuple},
    kernel::probe_into,
    maps::{CT_NOT_OURS, CT_SEEN, CT_SLOTS, FLOWS, Flow, SETTINGS},
    packet::{ICMP, ICMPV6, MAPPED, Packet},
    probed,
};

const AF_INET: u16 = 2;
/// IPS_SRC_NAT | IPS_DST_NAT | IPS_SRC_NAT_DONE | IPS_DST_NAT_DONE, `enum ip_conntrack_status` (uapi).
const NAT_BITS: u64 = 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8;
/// IPS_SRC_NAT | IPS_DST_NAT.
const TRANSLATED: u64 = 1 << 4 | 1 << 5;
/// IP_CT_NEW, `enum ip_conntrack_info` (uapi).
const IS_NEW: u8 = 2;
/// IPS_TEMPLATE: not a connection.
const TEMPLATE: u64 = 1 << 11;
/// IP_CT_IS_REPLY, `enum ip_conntrack_info` (uapi): from here on the packet goes against the original direction.
const IS_REPLY: u8 = 3;

/// The conntrack entry of a packet.
#[derive(Clone, Copy)]
pub struct Ct {
    pub addr: u64,
    pub status: u64,
    pub mark: u32,
    /// `enum ip_conntrack_info`.
    pub info: u8,
}

impl Ct {
    pub const NONE: Self = Self { addr: 0, status: 0, mark: 0, info: 0 };

    /// From `skb->_nfct`: the entry's address, its low three bits the packet's `ip_conntrack_info`.
    #[inline(always)]
    pub fn of(nfct: u64) -> Self {
        let addr = nfct & !7;
        let info = nfct as u8 & 7;
        if addr == 0 {
            return Self { info, ..Self::NONE };
        }
        let status = probed!(addr, ct_status, u64);
        if status & TEMPLATE != 0 {
            return Self::NONE;
        }
        Self { addr, status, mark: probed!(addr, ct_mark, u32), info }
    }

    /// The first two words of `Event::detail`.
    #[inline(always)]
    pub fn detail(&self) -> [u64; 2] {
        [self.addr, self.status & 0xffff_ffff | u64::from(self.mark) << 32]
    }
}

/// Is a packet ours whose tuple says nothing? It is where it belongs to a connection that was ours before it
/// was translated: the first packet of a flow behind a NAT, or of one that is older than the trace.
///
/// Asked once per connection that is not: the answer is kept for its later packets.
#[inline(always)]
pub fn is_ours(nfct: u64, hit: &mut Hit) -> bool {
    let (ct, info) = (nfct & !7, nfct as u8 & 7);
    if ct == 0 || hit.packet.tuple.proto == 0 {
        return false;
    }
    let Some(slot) = CT_NOT_OURS.get_ptr_mut((ct >> 6) as u32 % (CT_SLOTS * 8)) else { return false };
    // SAFETY: a pointer into the map's value, one word.
    if info != IS_NEW && unsafe { *slot } == ct {
        return false;
    }
    if translated(ct, info, hit) {
        return true;
    }
    // SAFETY: as above.
    unsafe { *slot = ct };
    false
}

/// Does the packet's connection say nothing about whose it is: there is none, or it is not translated?
#[inline(always)]
pub fn is_plain(nfct: u64) -> bool {
    let (ct, info) = (nfct & !7, nfct as u8 & 7);
    if ct == 0 {
        return true;
    }
    if probed!(ct, ct_status, u64) & TRANSLATED == 0 {
        return true;
    }
    let Some(slot) = CT_NOT_OURS.get_ptr_mut((ct >> 6) as u32 % (CT_SLOTS * 8)) else { return false };
    // SAFETY: a pointer into the map's value, one word.
    info != IS_NEW && unsafe { *slot } == ct
}

#[inline(never)]
fn translated(ct: u64, info: u8, hit: &mut Hit) -> bool {
    let Some(settings) = SETTINGS.get(0) else { return false };
    if probed!(ct, ct_status, u64) & TRANSLATED == 0 {
        return false;
    }
    let mut tuple = Packet::blank(settings).tuple;
    if !read_tuple(ct, 0, &mut tuple) || !judge_tuple(&tuple, &mut hit.flow) {
        return false;
    }
    if info >= IS_REPLY {
        hit.flow.dir = 1 - (hit.flow.dir & 1);
    }
    true
}

/// Learns the tuples of the entry, once per entry and change of its NAT state, and reports them.
/// `sighting` is used for that: kind, position, direction and detail are to be set after. False when the entry shows that the packet is not ours after all: its tuple was learned from another
/// connection, which has gone.
#[inline(always)]
pub fn follow(ct: &Ct, hit: &mut Hit, sighting: &mut Sighting) -> bool {
    if ct.addr == 0 || hit.is_encap() || hit.packet.flags & tracer_common::FLAG_QUOTED != 0 {
        return true;
    }
    let Some(slot) = CT_SEEN.get_ptr_mut((ct.addr >> 6) as u32 % CT_SLOTS) else { return true };
    let nat = ct.status & NAT_BITS;
    // SAFETY: a pointer into the map's value. Two CPUs that race send the entry twice.
    let seen = unsafe { *slot };
    if seen.ct == ct.addr && seen.status == nat {
        return true;
    }
    learn_entry(ct, hit, sighting)
}

#[inline(never)]
fn learn_entry(ct: &Ct, hit: &mut Hit, sighting: &mut Sighting) -> bool {
    let Some(slot) = CT_SEEN.get_ptr_mut((ct.addr >> 6) as u32 % CT_SLOTS) else { return true };
    let nat = ct.status & NAT_BITS;
    // The packet is in no encapsulation: there is room for a tuple, which the stack has not.
    let tuple = &mut hit.outer.tuple;
    if !read_tuple(ct.addr, 0, tuple) {
        return true;
    }
    let Flow { dir, learned, .. } = hit.flow;
    if judge_tuple(tuple, &mut hit.flow) {
        // What the packet was before its translation is older than what it is now: a filter that names only
        // one end takes a translated packet for a flow of its own.
        (hit.flow.dir, hit.flow.learned) = (dir, learned);
    } else if learned != 0 {
        debug::say::<{ debug::FORGOTTEN }>(ct.addr, hit.flow.id, &hit.packet.tuple);
        let _ = FLOWS.remove(&hit.packet.tuple);
        hit.packet.tuple.reverse();
        let _ = FLOWS.remove(&hit.packet.tuple);
        return false;
    }
    // SAFETY: a pointer into the map's value.
    unsafe { *slot = crate::maps::CtSlot { ct: ct.addr, status: nat } };

    let against = ct.info >= IS_REPLY;
    let dir = if against { 1 - (dir & 1) } else { dir & 1 };
    let flow = Flow { id: hit.flow.id, dir, learned: 1, unused: 0 };
    debug::say::<{ debug::FOLLOWED }>(ct.addr, flow.id, tuple);
    learn(tuple, &flow);
    let [a, b] = ct.detail();
    sighting.kind = Kind::Conntrack;
    sighting.detail = [a, b, u64::from(probed!(ct.addr, ct_zone, u16))];
    sighting.position = 0;
    sighting.dir = dir;
    emit::record(sighting, &hit.packet, tuple, flow.id);
    if read_tuple(ct.addr, 1, tuple) {
        let flow = Flow { dir: 1 - dir, ..flow };
        debug::say::<{ debug::FOLLOWED }>(ct.addr, flow.id, tuple);
        learn(tuple, &flow);
        sighting.position = CT_TUPLE_REPLY;
        sighting.dir = 1 - dir;
        emit::record(sighting, &hit.packet, tuple, flow.id);
    }
    true
}

/// Puts a tuple and its reverse into the flow table, unless they are known as this flow's.
#[inline(always)]
fn learn(tuple: &mut Tuple, flow: &Flow) -> bool {
    let mut known = *flow;
    if judge_tuple(tuple, &mut known) && known.id == flow.id {
        return false;
    }
    insert_both(tuple, flow)
}

/// Reads one tuple of an entry, 0 original, 1 reply; false where it cannot be read.
#[inline(never)]
fn read_tuple(ct: u64, which: u64, tuple: &mut Tuple) -> bool {
    read(ct, which, tuple).is_some()
}

#[inline(always)]
fn read(ct: u64, which: u64, tuple: &mut Tuple) -> Option<()> {
    let size = field!(tuplehash_size);
    let first = field!(ct_tuplehash);
    let inside = field!(tuplehash_tuple);
    let (src_at, dst_at) = (field!(tuple_src_addr), field!(tuple_dst_addr));
    if size <= 0 || first < 0 || inside < 0 || src_at < 0 || dst_at < 0 {
        return None;
    }
    let at = ct + first as u64 + which * size as u64 + inside as u64;
    if !probe_into(at + src_at as u64, &mut tuple.src) || !probe_into(at + dst_at as u64, &mut tuple.dst) {
        return None;
    }
    if probed!(at, tuple_l3num, u16) == AF_INET {
        tuple.src = [0, 0, MAPPED, tuple.src[0]];
        tuple.dst = [0, 0, MAPPED, tuple.dst[0]];
    }
    let proto = probed!(at, tuple_proto, u8);
    tuple.proto = u32::from(proto);
    tuple.sport = u16::from_be(probed!(at, tuple_src_port, u16));
    // An ICMP tuple has type and code where the others have the destination port.
    tuple.dport = if proto == ICMP || proto == ICMPV6 {
        tuple.sport
    } else {
        u16::from_be(probed!(at, tuple_dst_port, u16))
    };
    Some(())
}
