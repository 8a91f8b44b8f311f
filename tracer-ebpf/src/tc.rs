// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! tc: a device's ingress and egress. The same programs serve TCX and clsact; they always say "next".

use aya_ebpf::{bindings::__sk_buff, macros::classifier, programs::TcContext};
use tracer_common::{Kind, Settings};

use crate::{
    conntrack::{self, Ct},
    debug,
    emit::{self, Meta, Sighting},
    judge::{Hit, is_foreign, judge},
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
const ETHERNET: usize = 14;
const NO_HEADER: usize = 0;

// kernel: int (*)(struct __sk_buff *), BPF_PROG_TYPE_SCHED_CLS, 4.1 -
#[classifier]
pub fn tc_ingress(ctx: TcContext) -> i32 {
    observe::<INGRESS, ETHERNET>(&ctx)
}
#[classifier]
pub fn tc_egress(ctx: TcContext) -> i32 {
    observe::<EGRESS, ETHERNET>(&ctx)
}
// The same for devices without a link-layer header.
#[classifier]
pub fn tc_ingress_l3(ctx: TcContext) -> i32 {
    observe::<INGRESS, NO_HEADER>(&ctx)
}
#[classifier]
pub fn tc_egress_l3(ctx: TcContext) -> i32 {
    observe::<EGRESS, NO_HEADER>(&ctx)
}

#[inline(always)]
fn observe<const POINT: u8, const HEADER: usize>(ctx: &TcContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: `skb` is the program's context; the verifier rewrites these to loads of the sk_buff.
    let (protocol, tci) = unsafe { ((*skb).protocol, (*skb).vlan_tci) };
    let Some(settings) = SETTINGS.get(0) else { return NEXT };
    if is_foreign_here(skb, HEADER, settings) {
        return NEXT;
    }
    let bytes = TcBytes { skb, settings };
    let mut protocol = u16::from_be(protocol as u16);
    let mut offset = HEADER;
    let mut vlan = tci as u16;
    // Tags that the device did not take out, at most two.
    for _ in 0..2 {
        if protocol == ETH_P_8021Q || protocol == ETH_P_8021AD {
            let Some(tag) = bytes.load::<[u16; 2]>(offset) else { return NEXT };
            vlan = u16::from_be(tag[0]);
            protocol = u16::from_be(tag[1]);
            offset += 4;
        }
    }
    if protocol != ETH_P_IP && protocol != ETH_P_IPV6 {
        return NEXT;
    }
    let mut hit = Hit::blank(settings);
    let ours = judge(&bytes, offset, &mut hit);
    debug::judged(Kind::Tc, skb as u64, ours, &hit);
    if ours {
        report(&bytes, POINT, HEADER == ETHERNET, vlan, &mut hit);
    }
    NEXT
}

/// Is the packet, with its IP header at `offset` of the linear part, certainly not ours?
///
/// A function of its own in the object, so that its stack is free again for what follows.
#[inline(never)]
fn is_foreign_here(skb: *mut __sk_buff, offset: usize, settings: &Settings) -> bool {
    // SAFETY: the program's context; the verifier makes these the bounds of the linear part.
    let (protocol, data, end) =
        unsafe { (u16::from_be((*skb).protocol as u16), (*skb).data as usize, (*skb).data_end as usize) };
    let readable = |bytes: usize| data + offset + bytes <= end;
    matches!(protocol, ETH_P_IP | ETH_P_IPV6)
        && readable(28)
        && is_foreign((data + offset) as *const u32, readable, settings)
}

/// Sends the record. A function of its own in the object: it shares no stack with `judge`.
#[inline(never)]
fn report(bytes: &TcBytes, point: u8, ethernet: bool, vlan: u16, hit: &mut Hit) -> bool {
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
    if ethernet
        && point == INGRESS
        && ct.addr == 0
        && !hit.is_encap()
        && let Some([a, b, c]) = bytes.load::<[u32; 3]>(0)
    {
        sighting.detail[1] = u64::from(a) | u64::from(b) << 32;
        sighting.detail[2] |= u64::from(c);
    }
    sighting.kind = Kind::Tc;
    sighting.position = 0;
    sighting.dir = hit.flow.dir;
    sighting.transport = hit.packet.transport(bytes);
    emit::hit(&sighting, hit)
}
