// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! TCP's own words: resets sent and received, retransmissions.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use tracer_common::{FLAG_IPV6, Kind, Tuple};

use crate::{
    emit::{self, Meta, Sighting},
    field, frozen,
    judge::{Hit, judge, judge_tuple},
    kernel::{is_watched, netns_of_device, netns_of_net, number, probe},
    maps::{CONFIG, Flow, SETTINGS},
    packet::{MAPPED, Packet, SkbBytes, TCP, Transport},
    probed, typed,
};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

// kernel: void tcp_send_reset(const struct sock *, const struct sk_buff * [, const enum sk_rst_reason]), 5.3 -,
// reason from 6.10; skb may be null from 6.10, sk before and after
#[btf_tracepoint(function = "tcp_send_reset")]
pub fn tcp_send_reset(ctx: BtfTracePointContext) -> i32 {
    let sk: u64 = ctx.arg(0);
    let skb: u64 = ctx.arg(1);
    if skb == 0 {
        if sk != 0 {
            of_socket(sk, Kind::ResetSend, 0, 0, reset_reason(&ctx));
        }
        return 0;
    }
    let head = number(typed!(skb, skb_head, u64));
    let Some(settings) = SETTINGS.get(0) else { return 0 };
    let bytes = SkbBytes { base: head + u64::from(typed!(skb, skb_network_header, u16)), settings };
    let mut hit = Hit::blank(settings);
    if judge(&bytes, 0, &mut hit) {
        report(&ctx, &bytes, &hit);
    }
    0
}

#[inline(always)]
fn reset_reason(ctx: &BtfTracePointContext) -> u32 {
    if frozen!(CONFIG.tcp_send_reset_args) >= 3 { ctx.arg::<u64>(2) as u32 } else { u32::MAX }
}

/// Sends the record of a packet that is answered with a reset. A function of its own in the object: it shares no
/// stack with `judge`.
#[inline(never)]
fn report(ctx: &BtfTracePointContext, bytes: &SkbBytes, hit: &Hit) -> bool {
    let sk: u64 = ctx.arg(0);
    let skb: u64 = ctx.arg(1);
    if skb == 0 {
        return false;
    }
    let dev = number(typed!(skb, skb_dev, u64));
    // The device is forgotten before TCP sees the packet; its route still knows one.
    let dst = number(typed!(skb, skb_dst, u64)) & !1;
    let netns = if dev != 0 {
        netns_of_device(dev)
    } else if sk != 0 {
        netns_of_net(probed!(sk, sk_net, u64))
    } else {
        netns_of_device(if dst == 0 { 0 } else { probed!(dst, dst_dev, u64) })
    };
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
    let transport = hit.packet.transport(bytes);
    let sighting = Sighting {
        kind: Kind::ResetSend,
        point: 0,
        position: 0,
        dir: hit.flow.dir,
        skb,
        ts: emit::now(),
        transport,
        meta,
        detail: [0, u64::from(reset_reason(ctx)), 0],
    };
    emit::hit(&sighting, hit)
}

// kernel: void tcp_receive_reset(struct sock *), 4.16 -
#[btf_tracepoint(function = "tcp_receive_reset")]
pub fn tcp_receive_reset(ctx: BtfTracePointContext) -> i32 {
    of_socket(ctx.arg(0), Kind::ResetReceive, 0, 0, 0);
    0
}

// kernel: void tcp_retransmit_skb(const struct sock *, const struct sk_buff * [, int err]), 4.16 -
#[btf_tracepoint(function = "tcp_retransmit_skb")]
pub fn tcp_retransmit_skb(ctx: BtfTracePointContext) -> i32 {
    let skb: u64 = ctx.arg(1);
    // `struct tcp_skb_cb` begins with the segment's sequence number.
    let cb = field!(skb_cb);
    let seq = if cb < 0 { 0 } else { probe::<u32>(skb + cb as u64).unwrap_or(0) };
    of_socket(ctx.arg(0), Kind::Retransmit, skb, seq, 0);
    0
}

/// Sends a record about a socket; the tuple goes from the local to the remote end. A function of its own in the
/// object: it shares no stack with `judge`.
#[inline(never)]
fn of_socket(sk: u64, kind: Kind, skb: u64, seq: u32, reason: u32) -> bool {
    let family = probed!(sk, sk_family, u16);
    let (src, dst, flags) = match family {
        AF_INET => {
            let (src, dst) = (probed!(sk, sk_rcv_saddr, u32), probed!(sk, sk_daddr, u32));
            ([0, 0, MAPPED, src], [0, 0, MAPPED, dst], 0)
        }
        AF_INET6 => {
            let (src_at, dst_at) = (field!(sk_v6_rcv_saddr), field!(sk_v6_daddr));
            if src_at < 0 || dst_at < 0 {
                return false;
            }
            let Some(src) = probe::<[u32; 4]>(sk + src_at as u64) else { return false };
            let Some(dst) = probe::<[u32; 4]>(sk + dst_at as u64) else { return false };
            // An IPv6 socket that talks IPv4 has mapped addresses.
            let flags = if src[2] == MAPPED && src[0] == 0 && src[1] == 0 { 0 } else { FLAG_IPV6 };
            (src, dst, flags)
        }
        _ => return false,
    };
    let tuple = Tuple {
        src,
        dst,
        sport: probed!(sk, sk_num, u16),
        dport: u16::from_be(probed!(sk, sk_dport, u16)),
        proto: u32::from(TCP),
    };
    let mut flow = Flow { id: 0, dir: 0, learned: 0, unused: 0 };
    let packet = Packet { tuple, proto: TCP, flags, ..Packet::NONE };
    if !judge_tuple(&packet.tuple, &mut flow) {
        return false;
    }
    let netns = netns_of_net(probed!(sk, sk_net, u64));
    if !is_watched(netns) {
        return false;
    }
    let transport = Transport { a: seq, ..Transport::NONE };
    let meta = Meta { netns, ..Meta::NONE };
    let sighting = Sighting {
        kind,
        point: 0,
        position: 0,
        dir: flow.dir,
        skb,
        ts: emit::now(),
        transport,
        meta,
        detail: [0, u64::from(reason), 0],
    };
    emit::record(&sighting, &packet, &packet.tuple, flow.id)
}
