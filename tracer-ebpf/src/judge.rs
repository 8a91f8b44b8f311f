// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Is this packet ours? The sieve and the filter's constants turn away most packets without a map lookup.

use tracer_common::{
    DIR_FORWARD, DIR_REPLY, FLAG_ENCAP, FLAG_FRAG, FOLLOW_DST, FOLLOW_SRC, MAX_ADDRS, Prefix, SIEVE_SIZE,
    Settings, Tuple,
};

use crate::{
    frozen,
    maps::{CONFIG, COUNTERS, FLOWS, FRAGS, Flow, FragKey, SETTINGS, SIEVE},
    packet::{Bytes, ICMP, ICMPV6, MAPPED, Outer, Packet, SCTP, TCP, UDP, is_vxlan_port, read_quoted},
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

    /// Makes the verifier forget what it knows of it (see [`Packet::forget`]).
    #[inline(always)]
    pub fn forget<B: Bytes>(&mut self, bytes: &B) {
        let zero = bytes.settings().zero as u32;
        self.packet.forget(bytes);
        self.outer.family = self.outer.family.wrapping_add(zero);
        self.flow.id = self.flow.id.wrapping_add(zero);
        self.flow.dir = self.flow.dir.wrapping_add(zero as u8);
        self.flow.learned = self.flow.learned.wrapping_add(zero as u8);
    }

    #[inline(always)]
    pub fn is_encap(&self) -> bool {
        self.outer.family != 0
    }
}

/// Is the packet at `head`, IPv4 with nothing unusual about it, certainly not ours? False: somebody else has to look.
/// Most packets of a node end here, some tens of instructions after their first bytes were read.
///
/// `head`: the IP header, of which 28 bytes may be loaded directly.
#[inline(always)]
pub fn is_foreign_v4(head: *const u32, settings: &Settings) -> bool {
    const FRAGMENT: u32 = (0x3fff_u16.to_be() as u32) << 16;
    // SAFETY: a word of the 28 bytes.
    let word = |i: usize| unsafe { core::ptr::read_volatile(head.add(i)) };
    let first = word(0);
    if first as u8 != 0x45 || word(1) & FRAGMENT != 0 || u16::from_be((first >> 16) as u16) < 28 {
        return false;
    }
    is_foreign([0, 0, MAPPED, word(3)], [0, 0, MAPPED, word(4)], (word(2) >> 8) as u8, word(5), settings)
}

/// The same for IPv6. `head`: 44 bytes may be loaded.
#[inline(always)]
pub fn is_foreign_v6(head: *const u32, settings: &Settings) -> bool {
    // SAFETY: a word of the 44 bytes.
    let word = |i: usize| unsafe { core::ptr::read_volatile(head.add(i)) };
    if word(0) as u8 >> 4 != 6 || u16::from_be(word(1) as u16) < 8 {
        return false;
    }
    let address = |at: usize| [word(at), word(at + 1), word(at + 2), word(at + 3)];
    is_foreign(address(2), address(6), (word(1) >> 16) as u8, word(10), settings)
}

#[inline(always)]
fn is_foreign(src: [u32; 4], dst: [u32; 4], proto: u8, ports: u32, settings: &Settings) -> bool {
    if !matches!(proto, TCP | UDP | SCTP) {
        return false;
    }
    let (sport, dport) = (u16::from_be(ports as u16), u16::from_be((ports >> 16) as u16));
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
    let ours = find(bytes, offset, hit);
    hit.forget(bytes);
    ours
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
    if !judge_tuple(&packet.tuple, flow) {
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
    read_quoted(bytes, at, &mut tuple) && judge_tuple(&tuple, flow)
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

/// Whose tuple is this? False: not ours.
#[inline(never)]
pub fn judge_tuple(tuple: &Tuple, flow: &mut Flow) -> bool {
    // What was learned comes first: a filter that names only one end takes a translated packet for a flow of its own.
    if has_learned(tuple) {
        // SAFETY: the value is copied at once; a torn copy can only misname a flow that is being evicted.
        if let Some(known) = unsafe { FLOWS.get(tuple) } {
            *flow = *known;
            return true;
        }
    }
    match wanted(tuple) {
        NOT_OURS => false,
        dir => {
            *flow = Flow { id: flow_id(tuple), dir: dir as u8, learned: 0, unused: 0 };
            true
        }
    }
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
            core::ptr::write_volatile(&raw mut (*sieve).used, 1);
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

/// May the flow table have this tuple?
#[inline(always)]
fn has_learned(tuple: &Tuple) -> bool {
    let Some(sieve) = SIEVE.get_ptr(0) else { return true };
    // SAFETY: numbers in the map's value, the slot within it.
    unsafe {
        core::ptr::read_volatile(&raw const (*sieve).used) != 0
            && *(&raw const (*sieve).slots).cast::<u8>().add(sieve_slot(tuple) & (SIEVE_SIZE - 1)) != 0
    }
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

/// An id that no other flow is likely to have, the same for both directions.
#[inline(always)]
fn flow_id(tuple: &Tuple) -> u32 {
    let ends = end_id(&tuple.src, tuple.sport).wrapping_add(end_id(&tuple.dst, tuple.dport));
    let mixed = (ends ^ u64::from(tuple.proto)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    ((mixed >> 32) as u32) | 1
}

#[inline(always)]
fn end_id(addr: &[u32; 4], port: u16) -> u64 {
    let upper = u64::from(addr[0]) | u64::from(addr[1]) << 32;
    let lower = u64::from(addr[2] ^ u32::from(port)) | u64::from(addr[3]) << 32;
    let mixed = (upper.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ lower).wrapping_mul(0x2545_f491_4f6c_dd1d);
    mixed ^ mixed >> 29
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
#[inline(always)]
fn is_followed(addr: &[u32; 4]) -> bool {
    let Some(settings) = SETTINGS.get(0) else { return false };
    for followed in &settings.followed {
        if followed[3] == addr[3]
            && followed[2] == addr[2]
            && followed[1] == addr[1]
            && followed[0] == addr[0]
        {
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
