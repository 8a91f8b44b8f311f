// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Is this packet ours? The sieve and the filter's constants turn away most packets without a map lookup.

use tracer_common::{
    DIR_FORWARD, DIR_REPLY, DebugCode, FLAG_ENCAP, FLAG_FRAG, FOLLOW_DST, FOLLOW_SRC, MAX_ADDRS, Prefix, SIEVE_SIZE, Settings, Tuple,
};

use crate::{
    debug, frozen,
    maps::{CONFIG, COUNTERS, FLOWS, FRAGS, Flow, FragKey, SETTINGS, SIEVE},
    packet::{
        Bytes, ICMP, ICMPV6, MAPPED, Outer, Packet, SCTP, TCP, UDP, is_vxlan_port, read_quoted,
    },
};

/// A packet that is ours.
pub struct Hit {
    pub packet: Packet,
    pub flow: Flow,
    pub outer: Outer,
}

impl Hit {
    /// Nothing yet. Made of zeros that the verifier does not know, so that what is filled in on one path and
    /// not on another does not make them two (see [`Settings::zero`]).
    #[inline(always)]
    pub fn blank(settings: &Settings) -> Self {
        let zero = settings.zero as u32;
        let packet = Packet::blank(settings);
        let tuple = packet.tuple;
        Self {
            packet,
            flow: Flow { id: zero, dir: zero as u8, learned: zero as u8, unused: zero as u16 },
            outer: Outer { tuple, vni: zero, family: zero },
        }
    }

    #[inline(always)]
    pub fn is_encap(&self) -> bool {
        self.outer.family != 0
    }
}

/// Is the IP packet at `head`, with nothing unusual about it, certainly not ours? False: [`judge`] has to look. Most
/// packets of a node end here, some tens of instructions after their first bytes were read.
///
/// `head`: what may be loaded from directly, 28 bytes of it, and as many as `readable` says.
#[inline(always)]
pub fn is_foreign(head: *const u32, readable: impl Fn(usize) -> bool, settings: &Settings) -> bool {
    const FRAGMENT: u32 = (0x3fff_u16.to_be() as u32) << 16;
    // SAFETY: a word of the 28 bytes, or after asking `readable`.
    let word = |i: usize| unsafe { core::ptr::read_volatile(head.add(i)) };
    let first = word(0);
    let (proto, src, dst, at) = if first as u8 == 0x45 {
        let length = u16::from_be((first >> 16) as u16);
        if word(1) & FRAGMENT != 0 || length < 28 {
            return false;
        }
        ((word(2) >> 8) as u8, [0, 0, MAPPED, word(3)], [0, 0, MAPPED, word(4)], 5)
    } else if first as u8 >> 4 == 6 && readable(48) {
        if u16::from_be(word(1) as u16) < 8 {
            return false;
        }
        let address = |at: usize| [word(at), word(at + 1), word(at + 2), word(at + 3)];
        ((word(1) >> 16) as u8, address(2), address(6), 10)
    } else {
        return false;
    };
    let (sport, dport) = match proto {
        TCP | UDP | SCTP => (u16::from_be(word(at) as u16), u16::from_be((word(at) >> 16) as u16)),
        _ => return false,
    };
    if proto == UDP && is_vxlan_port(settings, dport) {
        return false;
    }
    let tuple = Tuple { src, dst, sport, dport, proto: u32::from(proto) };
    wanted(&tuple) == NOT_OURS && !has_learned(&tuple)
}

/// Finds the flow of the IP packet at `offset`, looking into VXLAN and at what ICMP errors quote. False: not ours.
///
/// A function of its own in the object: its variables are off the stack again when the record is made.
#[inline(never)]
pub fn judge<B: Bytes>(bytes: &B, offset: usize, hit: &mut Hit) -> bool {
    if !find(bytes, offset, hit) {
        return false;
    }
    hit.packet.forget(bytes);
    let zero = bytes.settings().zero as u32;
    hit.outer.family = hit.outer.family.wrapping_add(zero);
    hit.flow.dir = hit.flow.dir.wrapping_add(zero as u8);
    hit.flow.learned = hit.flow.learned.wrapping_add(zero as u8);
    true
}

#[inline(always)]
fn find<B: Bytes>(bytes: &B, offset: usize, hit: &mut Hit) -> bool {
    if !hit.packet.parse(bytes, offset) {
        return false;
    }
    let mut inner = Packet::blank(bytes.settings());
    if let Some(at) = hit.packet.vxlan(bytes, &mut hit.outer) {
        if inner.parse(bytes, at) && judge_ip(bytes, &mut inner, &mut hit.flow) {
            hit.packet = inner;
            hit.packet.flags |= FLAG_ENCAP;
            return true;
        }
        // Not the inner packet: the outer one itself may be asked for.
        hit.outer.family = 0;
    }
    judge_ip(bytes, &mut hit.packet, &mut hit.flow)
}

#[inline(always)]
fn judge_ip<B: Bytes>(bytes: &B, packet: &mut Packet, flow: &mut Flow) -> bool {
    if packet.flags & FLAG_FRAG != 0 && packet.is_later_fragment() {
        return later_fragment(packet, flow);
    }
    if packet.is_icmp()
        && let Some(at) = packet.quoted(bytes)
        && judge_quoted(bytes, at, flow)
    {
        packet.mark_quoted(bytes);
        // The error travels against the packet it is about.
        flow.dir = 1 - (flow.dir & 1);
        return true;
    }
    if !judge_tuple(&mut packet.tuple, flow) {
        return false;
    }
    if packet.flags & FLAG_FRAG != 0 {
        first_fragment(packet, flow);
    }
    true
}

#[inline(never)]
fn judge_quoted<B: Bytes>(bytes: &B, at: usize, flow: &mut Flow) -> bool {
    let mut tuple = Packet::blank(bytes.settings()).tuple;
    read_quoted(bytes, at, &mut tuple) && judge_tuple(&mut tuple, flow)
}

#[inline(never)]
fn later_fragment(packet: &Packet, flow: &mut Flow) -> bool {
    // SAFETY: the value is copied at once; a torn copy can only misname a flow that is being evicted.
    match unsafe { FRAGS.get(frag_key(packet)) } {
        Some(known) => {
            *flow = *known;
            true
        }
        None => false,
    }
}

#[inline(never)]
fn first_fragment(packet: &Packet, flow: &Flow) -> bool {
    FRAGS.insert(frag_key(packet), flow, 0).is_ok()
}

/// Looks a tuple up, and puts it into the flow table when the filter says that it is ours.
#[inline(always)]
pub fn judge_tuple(tuple: &mut Tuple, flow: &mut Flow) -> bool {
    if sieve_has(tuple) {
        // SAFETY: as above.
        if let Some(known) = unsafe { FLOWS.get(&*tuple) } {
            *flow = *known;
            return true;
        }
    }
    match filter(tuple) {
        NOT_OURS => false,
        dir => {
            *flow = Flow { id: 0, dir: dir as u8, learned: 0, unused: 0 };
            first_sight(tuple, flow)
        }
    }
}

#[inline(never)]
fn first_sight(tuple: &mut Tuple, flow: &mut Flow) -> bool {
    flow.id = flow_id(tuple);
    debug::say(DebugCode::Inserted, 0, 0, flow.id, tuple);
    insert_both(tuple, flow)
}

/// Puts a tuple and its reverse into the flow table.
#[inline(always)]
pub fn insert_both(tuple: &mut Tuple, flow: &Flow) -> bool {
    insert(tuple, flow);
    let back = Flow { dir: 1 - (flow.dir & 1), ..*flow };
    // In place: a copy would be on the stack.
    tuple.reverse();
    let done = insert(tuple, &back);
    tuple.reverse();
    done
}

/// Puts a tuple into the flow table.
#[inline(never)]
fn insert(tuple: &Tuple, flow: &Flow) -> bool {
    if let Some(sieve) = SIEVE.get_ptr_mut(0) {
        let slot = sieve_slot(tuple) & (SIEVE_SIZE - 1);
        // SAFETY: the slot is within the map's value; single numbers are written whole.
        unsafe {
            core::ptr::write_volatile((&raw mut (*sieve).slots).cast::<u8>().add(slot), 1);
            if flow.learned != 0 {
                core::ptr::write_volatile(&raw mut (*sieve).learned, 1);
            }
        }
    }
    let r = FLOWS.insert(tuple, flow, 0);
    if let Some(counters) = COUNTERS.get_ptr_mut(0) {
        // SAFETY: this CPU's value of the map. An interrupt may lose one count of a statistic.
        unsafe {
            if r.is_ok() {
                (*counters).inserted += 1;
            } else {
                (*counters).insert_failed += 1;
            }
        }
    }
    r.is_ok()
}

#[inline(always)]
fn sieve_has(tuple: &Tuple) -> bool {
    let Some(sieve) = SIEVE.get_ptr(0) else { return true };
    let slot = sieve_slot(tuple) & (SIEVE_SIZE - 1);
    // SAFETY: the slot is within the map's value.
    unsafe { *(&raw const (*sieve).slots).cast::<u8>().add(slot) != 0 }
}

/// May the flow table have this tuple, which the filter does not want?
#[inline(always)]
fn has_learned(tuple: &Tuple) -> bool {
    // SAFETY: a number in the map's value.
    SIEVE.get_ptr(0).is_none_or(|sieve| unsafe { core::ptr::read_volatile(&raw const (*sieve).learned) } != 0)
        && sieve_has(tuple)
}

/// The same for both directions.
#[inline(always)]
fn sieve_slot(tuple: &Tuple) -> usize {
    let (s, d) = (&tuple.src, &tuple.dst);
    let words = (s[0] ^ d[0]) ^ (s[1] ^ d[1]).rotate_left(7) ^ (s[2] ^ d[2]).rotate_left(13) ^ (s[3] ^ d[3]);
    let ports = u32::from(tuple.sport ^ tuple.dport);
    let mixed = (u64::from(words) | u64::from(ports) << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 48) as usize
}

/// An id that no other flow is likely to have. Two CPUs that see the first packet at once agree on it.
#[inline(always)]
fn flow_id(tuple: &Tuple) -> u32 {
    let mut h = 0x2545_f491_4f6c_dd1du64;
    for i in 0..4 {
        h = (h ^ u64::from(tuple.src[i]) ^ u64::from(tuple.dst[i]) << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        h ^= h >> 29;
    }
    h = (h ^ u64::from(tuple.sport) << 16 ^ u64::from(tuple.dport)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    ((h >> 32) as u32) | 1
}

#[inline(always)]
fn frag_key(packet: &Packet) -> FragKey {
    FragKey {
        src: packet.tuple.src,
        dst: packet.tuple.dst,
        id: u32::from(packet.ip_id),
        proto: u32::from(packet.proto),
    }
}

/// What `filter` says of a tuple that it does not want.
pub const NOT_OURS: u32 = u32::MAX;

/// Does the filter want this tuple, and in which direction (`DIR_*`)?
#[inline(never)]
pub fn filter(tuple: &Tuple) -> u32 {
    wanted(tuple)
}

#[inline(always)]
fn wanted(tuple: &Tuple) -> u32 {
    let proto = frozen!(CONFIG.proto);
    if proto != 0 && proto != tuple.proto && !(proto == u32::from(ICMP) && tuple.proto == u32::from(ICMPV6)) {
        return NOT_OURS;
    }
    let has_ports =
        tuple.proto == u32::from(TCP) || tuple.proto == u32::from(UDP) || tuple.proto == u32::from(SCTP);
    let (sport, dport) = (frozen!(CONFIG.sport), frozen!(CONFIG.dport));
    if (sport != 0 || dport != 0) && !has_ports {
        return NOT_OURS;
    }
    if fits_port(sport, tuple.sport)
        && fits_port(dport, tuple.dport)
        && fits_src(&tuple.src)
        && fits_dst(&tuple.dst)
    {
        return u32::from(DIR_FORWARD);
    }
    if fits_port(sport, tuple.dport)
        && fits_port(dport, tuple.sport)
        && fits_src(&tuple.dst)
        && fits_dst(&tuple.src)
    {
        return u32::from(DIR_REPLY);
    }
    NOT_OURS
}

#[inline(always)]
fn fits_port(wanted: u16, port: u16) -> bool {
    wanted == 0 || wanted == port
}

#[inline(always)]
pub fn fits_src(addr: &[u32; 4]) -> bool {
    if frozen!(CONFIG.follow) == FOLLOW_SRC {
        return is_followed(addr);
    }
    let count = frozen!(CONFIG.src_count);
    if count == 0 {
        return true;
    }
    for i in 0..MAX_ADDRS {
        if i as u32 >= count {
            return false;
        }
        if fits(&raw const CONFIG.src[i], addr) {
            return true;
        }
    }
    false
}

#[inline(always)]
pub fn fits_dst(addr: &[u32; 4]) -> bool {
    if frozen!(CONFIG.follow) == FOLLOW_DST {
        return is_followed(addr);
    }
    let count = frozen!(CONFIG.dst_count);
    if count == 0 {
        return true;
    }
    for i in 0..MAX_ADDRS {
        if i as u32 >= count {
            return false;
        }
        if fits(&raw const CONFIG.dst[i], addr) {
            return true;
        }
    }
    false
}

/// Is it an address of a pod that may get others while it is followed?
#[inline(never)]
fn is_followed(addr: &[u32; 4]) -> bool {
    let Some(settings) = SETTINGS.get(0) else { return false };
    for followed in &settings.followed {
        if followed[3] == addr[3] && followed[2] == addr[2] && followed[1] == addr[1] && followed[0] == addr[0] {
            return (addr[3] | addr[2] | addr[1] | addr[0]) != 0;
        }
    }
    false
}

/// The last word first: it tells most addresses apart.
#[inline(always)]
fn fits(prefix: *const Prefix, addr: &[u32; 4]) -> bool {
    // SAFETY: `prefix` points into CONFIG.
    let at = |i: usize| unsafe {
        (
            core::ptr::read_volatile(&raw const (*prefix).addr[i]),
            core::ptr::read_volatile(&raw const (*prefix).mask[i]),
        )
    };
    for i in [3, 2, 1, 0] {
        let (want, mask) = at(i);
        if addr[i] & mask != want {
            return false;
        }
    }
    true
}
