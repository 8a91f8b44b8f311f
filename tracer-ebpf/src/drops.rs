// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `kfree_skb`: where packets die.

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::bpf_get_stack,
    macros::{btf_tracepoint, map},
    maps::PerCpuArray,
    programs::BtfTracePointContext,
};
use tracer_common::{Kind, STACK_DEPTH};

use crate::{
    debug,
    emit::{self, Meta, Sighting},
    frozen,
    judge::{Hit, judge},
    kernel::{is_watched, netns_of_device, netns_of_net, number},
    maps::{CONFIG, SETTINGS},
    packet::{ETH_P_8021AD, ETH_P_8021Q, ETH_P_IP, ETH_P_IPV6, SkbBytes},
    probed, typed,
};

/// Frames that are read: those of the tracing itself come first.
const FRAMES: usize = STACK_DEPTH + 8;

#[map]
static FRAMES_READ: PerCpuArray<[u64; FRAMES]> = PerCpuArray::with_max_entries(1, 0);

// kernel: void kfree_skb(struct sk_buff *, void *location [, enum skb_drop_reason [, struct sock *rx_sk]]),
// reason from 5.17, rx_sk from 6.11
#[btf_tracepoint(function = "kfree_skb")]
pub fn kfree_skb(ctx: BtfTracePointContext) -> i32 {
    observe(&ctx);
    0
}

#[inline(always)]
fn observe(ctx: &BtfTracePointContext) {
    let skb: u64 = ctx.arg(0);
    let protocol = u16::from_be(typed!(skb, skb_protocol, u16));
    if !matches!(protocol, ETH_P_IP | ETH_P_IPV6 | ETH_P_8021Q | ETH_P_8021AD) {
        return;
    }
    let network_header = typed!(skb, skb_network_header, u16);
    if network_header == u16::MAX {
        return;
    }
    let Some(settings) = SETTINGS.get(0) else { return };
    let bytes = SkbBytes::of(skb, settings);
    if bytes.is_foreign() {
        return;
    }
    let mut hit = Hit::blank(settings);
    if judge(&bytes, 0, &mut hit) {
        debug::say::<{ debug::DROP_OURS }>(skb, hit.flow.id, &hit.packet.tuple);
        report(ctx, &bytes, &hit);
    }
}

/// Sends the records. A function of its own in the object: it shares no stack with `judge`.
#[inline(never)]
fn report(ctx: &BtfTracePointContext, bytes: &SkbBytes, hit: &Hit) -> bool {
    let skb: u64 = ctx.arg(0);
    let args = frozen!(CONFIG.kfree_skb_args);
    let location: u64 = ctx.arg(1);
    let reason = if args >= 3 { ctx.arg::<u64>(2) as u32 } else { u32::MAX };
    let receiver: u64 = if args >= 4 { number(ctx.arg(3)) } else { 0 };
    let dev = number(typed!(skb, skb_dev, u64));
    let netns = namespace(skb, dev, receiver);
    if !is_watched(netns) {
        return false;
    }
    let meta = Meta {
        mark: typed!(skb, skb_mark, u32),
        len: typed!(skb, skb_len, u32),
        ifindex: if dev == 0 { 0 } else { probed!(dev, dev_ifindex, u32) },
        netns,
        ..Meta::NONE
    };
    stack(ctx, skb, location, hit);
    if hit.is_encap() {
        emit::outer(hit, skb, &meta);
    }
    let transport = hit.packet.transport(bytes);
    let detail = [location, u64::from(reason), u64::from(hit.packet.l3len) << 48];
    let sighting = Sighting {
        kind: Kind::Drop,
        point: 0,
        position: 0,
        dir: hit.flow.dir,
        skb,
        ts: emit::now(),
        transport,
        meta,
        detail,
    };
    emit::hit(&sighting, hit)
}

/// The namespace of a packet that may have no device: from the receiving socket, its own socket or its route.
#[inline(always)]
fn namespace(skb: u64, dev: u64, receiver: u64) -> u32 {
    if dev != 0 {
        return netns_of_device(dev);
    }
    if receiver != 0 {
        return netns_of_net(probed!(receiver, sk_net, u64));
    }
    let sk = number(typed!(skb, skb_sk, u64));
    if sk != 0 {
        return netns_of_net(probed!(sk, sk_net, u64));
    }
    // The low bit says that the reference is not counted (SKB_DST_NOREF).
    let dst = number(typed!(skb, skb_dst, u64)) & !1;
    if dst != 0 {
        return netns_of_device(probed!(dst, dst_dev, u64));
    }
    0
}

/// Sends the return addresses from `location` outwards: they name the netfilter hook.
#[inline(always)]
fn stack(ctx: &BtfTracePointContext, skb: u64, location: u64, hit: &Hit) {
    let Some(frames) = FRAMES_READ.get_ptr_mut(0) else { return };
    // SAFETY: the buffer is the map's value, of the size given.
    let n = unsafe { bpf_get_stack(ctx.as_ptr(), frames.cast(), (FRAMES * 8) as u32, 0) };
    if n <= 0 {
        return;
    }
    // SAFETY: this CPU's value of the map.
    let frames = unsafe { &*frames };
    let got = (n as usize / 8).min(FRAMES);
    let mut from = 0;
    for i in 0..8 {
        if frames[i] == location {
            from = i;
        }
    }
    let now = emit::now();
    let Some((event, seq)) = emit::reserve() else { return };
    let bytes = event.cast::<u8>();
    // SAFETY: `event` points at 128 reserved bytes; every one of them is written.
    unsafe {
        (*event).ts = now;
        (*event).skb = skb;
        (*event).seq = seq;
        (*event).flow = hit.flow.id;
        for i in 0..STACK_DEPTH {
            let at = (from & 7) + i;
            let value = if at < got { frames[at] } else { 0 };
            let to = if i < 8 { 24 + i * 8 } else { 104 + (i - 8) * 8 };
            bytes.add(to).cast::<u64>().write(value);
        }
        (*event).gso_size = 0;
        (*event).gso_segs = 0;
        (*event).cpu = aya_ebpf::helpers::generated::bpf_get_smp_processor_id() as u16;
        (*event).vlan = 0;
        (*event).kind = Kind::Stack as u8;
        (*event).point = 0;
        (*event).position = 0;
        (*event).flags = hit.packet.flags;
        (*event).proto = hit.packet.proto;
        (*event).ttl = hit.packet.ttl;
        (*event).tcp_flags = 0;
        (*event).dir = hit.flow.dir;
    }
    emit::submit(event, now);
}
