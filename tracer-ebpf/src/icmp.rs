// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! ICMP errors that this kernel sends about a packet of ours.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use tracer_common::Kind;

use crate::{
    emit::{self, Meta, Sighting},
    judge::{Hit, judge},
    kernel::{is_watched, netns_of_device, number},
    maps::SETTINGS,
    packet::SkbBytes,
    probed, typed,
};

// kernel: void icmp_send(const struct sk_buff *, int type, int code), 6.11 -
#[btf_tracepoint(function = "icmp_send")]
pub fn icmp_send(ctx: BtfTracePointContext) -> i32 {
    observe(&ctx);
    0
}

#[inline(always)]
fn observe(ctx: &BtfTracePointContext) {
    let skb: u64 = ctx.arg(0);
    let head = number(typed!(skb, skb_head, u64));
    let Some(settings) = SETTINGS.get(0) else { return };
    let bytes = SkbBytes { base: head + u64::from(typed!(skb, skb_network_header, u16)), settings };
    let mut hit = Hit::blank(settings);
    if judge(&bytes, 0, &mut hit) {
        report(ctx, &bytes, &hit);
    }
}

/// Sends the record. A function of its own in the object: it shares no stack with `judge`.
#[inline(never)]
fn report(ctx: &BtfTracePointContext, bytes: &SkbBytes, hit: &Hit) -> bool {
    let skb: u64 = ctx.arg(0);
    let dev = number(typed!(skb, skb_dev, u64));
    let dst = number(typed!(skb, skb_dst, u64)) & !1;
    let dev = if dev == 0 && dst != 0 { probed!(dst, dst_dev, u64) } else { dev };
    let netns = netns_of_device(dev);
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
    if hit.is_encap() {
        emit::outer(hit, skb, &meta);
    }
    let transport = hit.packet.transport(bytes);
    let (point, position) = (ctx.arg::<u64>(1) as u8, ctx.arg::<u64>(2) as u8);
    let detail = [0, 0, u64::from(hit.packet.l3len) << 48];
    let sighting = Sighting {
        kind: Kind::IcmpSend,
        point,
        position,
        dir: hit.flow.dir,
        skb,
        ts: emit::now(),
        transport,
        meta,
        detail,
    };
    emit::hit(&sighting, hit)
}
