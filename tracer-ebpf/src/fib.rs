// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Route lookups: which table answered, and what.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use tracer_common::{DIR_FORWARD, FLAG_IPV6, FLAG_REVERSE, Kind, SCOPE_NOWHERE, Tuple};

use crate::{
    emit::{self, Meta, Sighting},
    field, frozen,
    judge::{NOT_OURS, filter, fits_dst, judge_tuple},
    kernel::{is_watched, netns_of_device, probe},
    maps::{CONFIG, Flow, MEMO, Memo, SETTINGS, STAGE_ENCAP, STAGE_NONE},
    nf::memo_tag,
    packet::{MAPPED, Packet, Transport, is_vxlan_port},
    probed, typed,
};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `fib6_type` values (RTN_*, uapi/linux/rtnetlink.h) and the errors a lookup gives for them.
const RTN_LOCAL: u8 = 2;
const RTN_BLACKHOLE: u8 = 6;
const RTN_UNREACHABLE: u8 = 7;
const RTN_PROHIBIT: u8 = 8;
const EAGAIN: i32 = -11;
const EINVAL: i32 = -22;
const EACCES: i32 = -13;
const EHOSTUNREACH: i32 = -113;

/// From the sighting to the lookup that follows it, ns: generous.
const AT_ONCE: u64 = 100_000;

/// One lookup, of either family.
struct Lookup {
    tuple: Tuple,
    table: u32,
    error: i32,
    mark: u32,
    iif: u32,
    flags: u8,
    /// Namespace of the lookup; 0 where only its result tells.
    netns: u32,
    /// Scope of the next hop.
    scope: u8,
    /// Address of the `struct fib_nh_common`; 0 none.
    nexthop: u64,
}

// kernel: void fib_table_lookup(u32 tb_id, const struct flowi4 *, const struct fib_nh_common *, int err), 5.3 -
#[btf_tracepoint(function = "fib_table_lookup")]
pub fn fib_table_lookup(ctx: BtfTracePointContext) -> i32 {
    let key: u64 = ctx.arg(1);
    if is_of_no_interest(typed!(key, fl4_iif, u32)) {
        return 0;
    }
    let (src, dst) = (typed!(key, fl4_saddr, u32), typed!(key, fl4_daddr, u32));
    let lookup = Lookup {
        tuple: Tuple {
            src: [0, 0, MAPPED, src],
            dst: [0, 0, MAPPED, dst],
            sport: u16::from_be(typed!(key, fl4_sport, u16)),
            dport: u16::from_be(typed!(key, fl4_dport, u16)),
            proto: u32::from(typed!(key, fl4_proto, u8)),
        },
        table: ctx.arg::<u64>(0) as u32,
        error: ctx.arg::<u64>(3) as i32,
        mark: typed!(key, fl4_mark, u32),
        iif: typed!(key, fl4_iif, u32),
        flags: 0,
        netns: 0,
        scope: 0,
        nexthop: ctx.arg(2),
    };
    observe(&lookup);
    0
}

// kernel: void fib6_table_lookup(const struct net *, const struct fib6_result *, struct fib6_table *,
// const struct flowi6 *), 5.3 -
#[btf_tracepoint(function = "fib6_table_lookup")]
pub fn fib6_table_lookup(ctx: BtfTracePointContext) -> i32 {
    let result: u64 = ctx.arg(1);
    let table: u64 = ctx.arg(2);
    let key: u64 = ctx.arg(3);
    let (src_at, dst_at) = (field!(fl6_saddr), field!(fl6_daddr));
    if src_at < 0 || dst_at < 0 {
        return 0;
    }
    let Some(src) = probe::<[u32; 4]>(key + src_at as u64) else { return 0 };
    let Some(dst) = probe::<[u32; 4]>(key + dst_at as u64) else { return 0 };
    // A table without a route answers with one of its own, of the largest metric.
    let info = typed!(result, fib6_info, u64);
    let none = info == 0 || probed!(info, f6i_metric, u32) == u32::MAX;
    let error = match typed!(result, fib6_type, u8) {
        _ if none => EAGAIN,
        RTN_BLACKHOLE => EINVAL,
        RTN_UNREACHABLE => EHOSTUNREACH,
        RTN_PROHIBIT => EACCES,
        _ => 0,
    };
    let lookup = Lookup {
        tuple: Tuple {
            src,
            dst,
            sport: u16::from_be(typed!(key, fl6_sport, u16)),
            dport: u16::from_be(typed!(key, fl6_dport, u16)),
            proto: u32::from(typed!(key, fl6_proto, u8)),
        },
        table: typed!(table, fib6_table_id, u32),
        error,
        mark: typed!(key, fl6_mark, u32),
        iif: typed!(key, fl6_iif, u32),
        flags: FLAG_IPV6,
        netns: typed!(ctx.arg::<u64>(0), net_inum, u32),
        scope: if typed!(result, fib6_type, u8) == RTN_LOCAL { SCOPE_NOWHERE } else { 0 },
        // `struct fib6_nh` begins with its `struct fib_nh_common`.
        nexthop: if none { 0 } else { typed!(result, fib6_nh, u64) },
    };
    observe(&lookup);
    0
}

/// A packet under way that is not the one last found to be ours: most lookups of a node.
#[inline(always)]
fn is_of_no_interest(iif: u32) -> bool {
    // SAFETY: this CPU's value of the map.
    iif > 1 && MEMO.get_ptr(0).is_none_or(|memo| unsafe { (*memo).stage } == STAGE_NONE)
}

#[inline(always)]
fn observe(lookup: &Lookup) {
    let Some(memo) = MEMO.get_ptr(0) else { return };
    // SAFETY: this CPU's value of the map; a half-written one is caught by its tag.
    let memo = unsafe { &*memo };
    let netns = if lookup.netns != 0 {
        lookup.netns
    } else if lookup.nexthop != 0 {
        netns_of_device(probed!(lookup.nexthop, nhc_dev, u64))
    } else {
        0
    };
    if memo.stage != STAGE_NONE
        && memo.tag == memo_tag(memo.ts, memo.flow)
        && is_here(memo, netns)
        && let Some(flags) = about(memo, lookup)
    {
        let flow = Flow { id: memo.flow, dir: memo.dir as u8, learned: 0, unused: 0 };
        send(lookup, flow, memo.hit, memo.netns, flags);
        return;
    }
    // A socket looks its route up before there is a packet, and often before it has a source address.
    if lookup.iif > 1 || netns == 0 {
        return;
    }
    let tuple = &lookup.tuple;
    let flow = match of_socket(tuple) {
        Some(flow) => flow,
        // IPv6 looks up once, to choose the source address: the packet that follows tells which flow it was.
        None if lookup.flags & FLAG_IPV6 != 0 && is_without_source(tuple) => {
            Flow { id: 0, dir: DIR_FORWARD, learned: 0, unused: 0 }
        }
        None => return,
    };
    if is_watched(netns) {
        send(lookup, flow, 0, netns, 0);
    }
}

/// Is this lookup made where the packet was last seen? An IPv4 lookup that finds nothing does not tell its
/// namespace: then only one that follows the sighting at once counts.
#[inline(always)]
fn is_here(memo: &Memo, netns: u32) -> bool {
    if netns == 0 { emit::now().wrapping_sub(memo.ts) < AT_ONCE } else { netns == memo.netns }
}

/// Is this lookup about the packet last seen on this CPU? Then the flags of its record.
#[inline(always)]
fn about(memo: &Memo, lookup: &Lookup) -> Option<u8> {
    let (src, dst) = (&lookup.tuple.src, &lookup.tuple.dst);
    if memo.stage == STAGE_ENCAP {
        // vxlan_xmit looks up the way of the outer packet.
        return if SETTINGS.get(0).is_some_and(|s| is_vxlan_port(s, lookup.tuple.dport)) {
            Some(tracer_common::FLAG_ENCAP)
        } else {
            None
        };
    }
    if same(src, &memo.src) && same(dst, &memo.dst) {
        return Some(0);
    }
    if same(dst, &memo.src) && same(src, &memo.dst) {
        return Some(FLAG_REVERSE);
    }
    None
}

#[inline(always)]
fn same(a: &[u32; 4], b: &[u32; 4]) -> bool {
    a[3] == b[3] && a[2] == b[2] && a[1] == b[1] && a[0] == b[0]
}

#[inline(always)]
fn of_socket(tuple: &Tuple) -> Option<Flow> {
    if frozen!(CONFIG.dst_count) == 0 && frozen!(CONFIG.src_count) == 0 && frozen!(CONFIG.follow) == 0 {
        return None;
    }
    // Before the socket has an address and a port nothing can tell which flow it will be.
    if tuple.sport == 0 || tuple.dport == 0 || (tuple.src[3] | tuple.src[0]) == 0 {
        return None;
    }
    if filter(tuple) == NOT_OURS {
        return None;
    }
    let mut flow = Flow { id: 0, dir: 0, learned: 0, unused: 0 };
    if judge_tuple(tuple, &mut flow) { Some(flow) } else { None }
}

/// A lookup for a packet to a wanted destination that has no source yet.
#[inline(always)]
fn is_without_source(tuple: &Tuple) -> bool {
    let (proto, dport) = (frozen!(CONFIG.proto), frozen!(CONFIG.dport));
    let any = tuple.src[0] | tuple.src[1] | tuple.src[2] | tuple.src[3] == 0;
    any && frozen!(CONFIG.dst_count) != 0
        && (proto == 0 || proto == tuple.proto)
        && (dport == 0 || dport == tuple.dport)
        && fits_dst(&tuple.dst)
}

#[inline(always)]
fn send(lookup: &Lookup, flow: Flow, skb: u64, netns: u32, flags: u8) {
    let nexthop = lookup.nexthop;
    let mut oif = 0;
    let mut scope = lookup.scope;
    let mut gateway = [0u64; 2];
    if nexthop != 0 && lookup.error == 0 {
        let dev = probed!(nexthop, nhc_dev, u64);
        oif = if dev == 0 { 0 } else { probed!(dev, dev_ifindex, u32) };
        if lookup.flags & FLAG_IPV6 == 0 {
            scope = probed!(nexthop, nhc_scope, u8);
        }
        let at = field!(nhc_gw);
        match probed!(nexthop, nhc_gw_family, u8) {
            AF_INET if at >= 0 => {
                let v4: u32 = probe(nexthop + at as u64).unwrap_or(0);
                gateway[1] = u64::from(MAPPED) | u64::from(v4) << 32;
            }
            AF_INET6 if at >= 0 => gateway = probe(nexthop + at as u64).unwrap_or([0; 2]),
            _ => {}
        }
    }
    let packet = Packet {
        tuple: lookup.tuple,
        proto: lookup.tuple.proto as u8,
        flags: lookup.flags | flags,
        ..Packet::NONE
    };
    let transport = Transport { a: lookup.iif, ..Transport::NONE };
    let meta = Meta { mark: lookup.mark, ifindex: oif, netns, ..Meta::NONE };
    let head = u64::from(lookup.table) | u64::from(lookup.error as u32) << 32;
    let detail = [head, gateway[0], gateway[1]];
    let sighting = Sighting {
        kind: Kind::Fib,
        point: scope,
        position: 0,
        dir: flow.dir,
        skb,
        ts: emit::now(),
        transport,
        meta,
        detail,
    };
    emit::record(&sighting, &packet, &packet.tuple, flow.id);
}
