// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Devices by tracepoint, where the kernel has no TCX: every packet of every device comes by here, and those of
//! the devices of the path are told.

use aya_ebpf::{
    macros::{btf_tracepoint, map},
    maps::HashMap,
    programs::BtfTracePointContext,
};
use tracer_common::{DeviceKey, Kind};

use crate::{
    conntrack::{self, Ct},
    emit::{self, Meta, Sighting},
    judge::{Hit, judge},
    kernel::{netns_of_device, number},
    maps::{MEMO, SETTINGS, STAGE_ENCAP},
    nf::{gso, remember},
    packet::{ETH_P_IP, ETH_P_IPV6, SkbBytes, Transport},
    probed, typed,
};

const RECEIVE: u8 = 0;
const TRANSMIT: u8 = 1;

/// The devices of the path.
#[map]
static PATH_DEVICES: HashMap<DeviceKey, u32> = HashMap::with_max_entries(1024, 0);

// kernel: void netif_receive_skb(struct sk_buff *), 3.15 -; before the network header is noted in the skb
#[btf_tracepoint(function = "netif_receive_skb")]
pub fn netif_receive_skb(ctx: BtfTracePointContext) -> i32 {
    let skb: u64 = ctx.arg(0);
    observe(&ctx, number(typed!(skb, skb_data, u64)), RECEIVE);
    0
}

// kernel: void net_dev_start_xmit(const struct sk_buff *, const struct net_device *), 3.14 -; after the queue
#[btf_tracepoint(function = "net_dev_start_xmit")]
pub fn net_dev_start_xmit(ctx: BtfTracePointContext) -> i32 {
    let skb: u64 = ctx.arg(0);
    let header = typed!(skb, skb_network_header, u16);
    observe(&ctx, number(typed!(skb, skb_head, u64)) + u64::from(header), TRANSMIT);
    0
}

#[inline(always)]
fn observe(ctx: &BtfTracePointContext, base: u64, point: u8) {
    let skb: u64 = ctx.arg(0);
    let protocol = u16::from_be(typed!(skb, skb_protocol, u16));
    if protocol != ETH_P_IP && protocol != ETH_P_IPV6 {
        return;
    }
    let Some(settings) = SETTINGS.get(0) else { return };
    let bytes = SkbBytes { base, settings };
    if is_foreign(&bytes) && conntrack::is_plain(typed!(skb, skb_nfct, u64)) {
        return;
    }
    let mut hit = Hit::blank(settings);
    // Where there is no TCX there may be no positions either, which else are the first to see a translation.
    let nfct = typed!(skb, skb_nfct, u64);
    let ours = judge(&bytes, 0, &mut hit) || conntrack::is_ours(nfct, &mut hit);
    hit.forget(&bytes);
    if ours {
        report(ctx, &bytes, point, &mut hit);
    }
}

/// A function of its own in the object, so that its stack is free again for what follows.
#[inline(never)]
fn is_foreign(bytes: &SkbBytes) -> bool {
    bytes.is_foreign()
}

/// Sends the record. A function of its own in the object: it shares no stack with `judge`.
#[inline(never)]
fn report(ctx: &BtfTracePointContext, bytes: &SkbBytes, point: u8, hit: &mut Hit) -> bool {
    let skb: u64 = ctx.arg(0);
    let dev = number(typed!(skb, skb_dev, u64));
    let key = DeviceKey { netns: netns_of_device(dev), ifindex: probed!(dev, dev_ifindex, u32) };
    // SAFETY: only whether it is there matters.
    if unsafe { PATH_DEVICES.get(&key) }.is_none() {
        return false;
    }
    let len = typed!(skb, skb_len, u32);
    let gso = gso(number(typed!(skb, skb_head, u64)), typed!(skb, skb_end, u32), len);
    let mut sighting = Sighting {
        kind: Kind::Tc,
        point,
        position: 0,
        dir: hit.flow.dir,
        skb: number(skb),
        ts: emit::now(),
        transport: Transport::NONE,
        meta: Meta {
            mark: typed!(skb, skb_mark, u32),
            len,
            ifindex: key.ifindex,
            netns: key.netns,
            gso_size: gso as u16,
            gso_segs: (gso >> 16) as u16,
            vlan: typed!(skb, skb_vlan_tci, u16),
        },
        detail: [0; 3],
    };
    let ct = if hit.is_encap() { Ct::NONE } else { Ct::of(typed!(skb, skb_nfct, u64)) };
    if !conntrack::follow(&ct, hit, &mut sighting) {
        return false;
    }
    if point == TRANSMIT
        && !hit.is_encap()
        && let Some(memo) = MEMO.get_ptr_mut(0)
    {
        // SAFETY: this CPU's value of the map.
        unsafe { remember(memo, hit, &sighting, STAGE_ENCAP) };
    }
    sighting.detail = emit::sighting_detail(&ct, hit, &sighting, 0);
    sighting.kind = Kind::Tc;
    sighting.position = 0;
    sighting.dir = hit.flow.dir;
    sighting.transport = hit.packet.transport(bytes);
    emit::hit(&sighting, hit)
}
