// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! tc: a device's ingress and egress. The same programs serve TCX and clsact; they always say "next".

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::bpf_tail_call,
    macros::{classifier, map},
    maps::{PerCpuArray, ProgramArray},
    programs::TcContext,
};
use tracer_common::{Kind, Settings};

use crate::{
    conntrack::{self, Ct},
    debug,
    emit::{self, Meta, Sighting},
    judge::{Hit, is_foreign_v4, is_foreign_v6, judge},
    kernel::netns_of_device,
    maps::{MEMO, SETTINGS, STAGE_ENCAP},
    nf::remember,
    packet::{Bytes, ETH_P_8021AD, ETH_P_8021Q, ETH_P_IP, ETH_P_IPV6, TcBytes, Transport},
    probed,
};

/// TCX_NEXT and TC_ACT_UNSPEC.
const NEXT: i32 = -1;
const INGRESS: u8 = 0;
const EGRESS: u8 = 1;
const ETHERNET: u8 = 14;
const NO_HEADER: u8 = 0;

/// What the programs on the devices leave for `tc_main`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Note {
    /// The packet that it was called for; 0: taken.
    skb: u64,
    /// Bytes of the link-layer header, and `point` in the high byte.
    way: u64,
}

/// None comes between a program and `tc_main`: softirqs are off, and no interrupt handler sends packets.
#[map]
static TC_NOTE: PerCpuArray<Note> = PerCpuArray::with_max_entries(1, 0);
/// Holds `tc_main`.
#[map]
static TC_MAIN: ProgramArray = ProgramArray::with_max_entries(1, 0);

// kernel: int (*)(struct __sk_buff *), BPF_PROG_TYPE_SCHED_CLS, 4.1 -
//
// What is attached turns away what is certainly not ours and goes on in `tc_main`: a packet that is not ours pays
// for as little as can be, the verifier walks the rest once for all devices, and its stack is not used up.
#[classifier]
pub fn tc_ingress(ctx: TcContext) -> i32 {
    observe(&ctx, INGRESS, ETHERNET)
}
#[classifier]
pub fn tc_egress(ctx: TcContext) -> i32 {
    observe(&ctx, EGRESS, ETHERNET)
}
// The same for devices without a link-layer header.
#[classifier]
pub fn tc_ingress_l3(ctx: TcContext) -> i32 {
    observe(&ctx, INGRESS, NO_HEADER)
}
#[classifier]
pub fn tc_egress_l3(ctx: TcContext) -> i32 {
    observe(&ctx, EGRESS, NO_HEADER)
}

#[inline(always)]
fn observe(ctx: &TcContext, point: u8, header: u8) -> i32 {
    let skb = ctx.skb.skb;
    let Some(settings) = SETTINGS.get(0) else { return NEXT };
    if is_foreign(skb, usize::from(header), settings) {
        return NEXT;
    }
    if let Some(note) = TC_NOTE.get_ptr_mut(0) {
        // SAFETY: this CPU's value of the map.
        unsafe { *note = Note { skb: skb as u64, way: u64::from(header) | u64::from(point) << 8 } };
        // SAFETY: the map holds a program of this type, or nothing.
        unsafe { bpf_tail_call(skb.cast(), (&raw const TC_MAIN).cast_mut().cast(), 0) };
    }
    emit::lose();
    NEXT
}

/// Is the packet certainly not ours? Only where its headers are in the linear part.
#[inline(always)]
fn is_foreign(skb: *mut __sk_buff, header: usize, settings: &Settings) -> bool {
    // SAFETY: the program's context; the verifier makes these the bounds of the linear part.
    let (protocol, data, end) =
        unsafe { (u16::from_be((*skb).protocol as u16), (*skb).data as usize, (*skb).data_end as usize) };
    let head = data + header;
    match protocol {
        ETH_P_IP if head + 28 <= end => is_foreign_v4(head as *const u32, settings),
        ETH_P_IPV6 if head + 44 <= end => is_foreign_v6(head as *const u32, settings),
        ETH_P_IP | ETH_P_IPV6 | ETH_P_8021Q | ETH_P_8021AD => false,
        _ => true,
    }
}

#[classifier]
pub fn tc_main(ctx: TcContext) -> i32 {
    look(&ctx);
    NEXT
}

#[inline(always)]
fn look(ctx: &TcContext) {
    let skb = ctx.skb.skb;
    let Some(note) = TC_NOTE.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's value of the map.
    let Note { skb: noted, way } = unsafe { *note };
    if noted != skb as u64 {
        emit::lose();
        return;
    }
    // SAFETY: `skb` is the program's context; the verifier rewrites these to loads of the sk_buff.
    let (protocol, tci) = unsafe { ((*skb).protocol, (*skb).vlan_tci) };
    let Some(settings) = SETTINGS.get(0) else { return };
    let bytes = TcBytes { skb, settings };
    let mut protocol = u16::from_be(protocol as u16);
    let mut offset = (way & 15) as usize;
    let mut vlan = tci as u16;
    // Tags that the device did not take out, at most two.
    for _ in 0..2 {
        if protocol == ETH_P_8021Q || protocol == ETH_P_8021AD {
            let Some(tag) = bytes.load::<[u16; 2]>(offset) else { return };
            vlan = u16::from_be(tag[0]);
            protocol = u16::from_be(tag[1]);
            offset += 4;
        }
    }
    if protocol != ETH_P_IP && protocol != ETH_P_IPV6 {
        return;
    }
    let mut hit = Hit::blank(settings);
    let ours = judge(&bytes, offset, &mut hit);
    if ours {
        debug::say::<{ debug::TC_OURS }>(skb as u64, hit.flow.id, &hit.packet.tuple);
        report(&bytes, way, vlan, &mut hit);
    } else {
        debug::say::<{ debug::TC_OTHER }>(skb as u64, hit.flow.id, &hit.packet.tuple);
    }
}

/// Sends the record. A function of its own in the object: it shares no stack with `judge`.
#[inline(never)]
fn report(bytes: &TcBytes, way: u64, vlan: u16, hit: &mut Hit) -> bool {
    let point = (way >> 8) as u8;
    let skb = bytes.skb;
    let address = skb as u64;
    let netns = netns_of_device(probed!(address, skb_dev, u64));
    // SAFETY: the program's context, as in `observe`.
    let (mark, len, ifindex, gso_size, gso_segs) =
        unsafe { ((*skb).mark, (*skb).len, (*skb).ifindex, (*skb).gso_size as u16, (*skb).gso_segs as u16) };
    let mut sighting = Sighting {
        kind: Kind::Tc,
        point,
        position: 0,
        dir: hit.flow.dir,
        skb: address,
        ts: emit::now(),
        transport: Transport::NONE,
        meta: Meta { mark, len, ifindex, netns, gso_size, gso_segs, vlan },
        detail: [0; 3],
    };
    let ct = if hit.is_encap() { Ct::NONE } else { Ct::of(probed!(address, skb_nfct, u64)) };
    if !conntrack::follow(&ct, hit, &mut sighting) {
        return false;
    }
    if point == EGRESS
        && !hit.is_encap()
        && let Some(memo) = MEMO.get_ptr_mut(0)
    {
        // SAFETY: this CPU's value of the map.
        unsafe { remember(memo, hit, &sighting, STAGE_ENCAP) };
    }
    sighting.detail = emit::sighting_detail(&ct, hit, &sighting, 0);
    // What comes in has no conntrack entry yet: its addresses take that place.
    if way == u64::from(ETHERNET) | u64::from(INGRESS) << 8 && ct.addr == 0 && !hit.is_encap() {
        add_macs(bytes, &mut sighting.detail);
    }
    sighting.kind = Kind::Tc;
    sighting.position = 0;
    sighting.dir = hit.flow.dir;
    sighting.transport = hit.packet.transport(bytes);
    emit::hit(&sighting, hit)
}

/// A function of its own in the object, so that its stack is free again for what follows.
#[inline(never)]
fn add_macs(bytes: &TcBytes, detail: &mut [u64; 3]) -> bool {
    let Some([a, b, c]) = bytes.load::<[u32; 3]>(0) else { return false };
    detail[1] = u64::from(a) | u64::from(b) << 32;
    detail[2] |= u64::from(c);
    true
}
