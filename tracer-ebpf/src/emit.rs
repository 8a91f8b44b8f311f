// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Writing the record.

use core::arch::asm;

use aya_ebpf::helpers::generated::{bpf_get_smp_processor_id, bpf_ktime_get_ns};
use tracer_common::{Event, Kind, Tuple};

use crate::{
    conntrack::Ct,
    judge::Hit,
    maps::{COUNTERS, EVENTS},
    packet::{Packet, Transport},
};

/// BPF_RB_NO_WAKEUP: user space looks every few milliseconds; waking it costs more than the record.
pub const NO_WAKEUP: u64 = 1;
/// Wakes user space if it has read all before this record.
const WAKE_IF_IDLE: u64 = 0;
/// So that it learns of a new flow while that is young, it is woken, but not more often than this (ns, per CPU).
const WAKE_PAUSE: u64 = 250_000;

/// What is known of the packet besides its headers.
#[derive(Clone, Copy)]
pub struct Meta {
    pub mark: u32,
    pub len: u32,
    pub ifindex: u32,
    pub netns: u32,
    pub gso_size: u16,
    pub gso_segs: u16,
    pub vlan: u16,
}

impl Meta {
    pub const NONE: Self = Self { mark: 0, len: 0, ifindex: 0, netns: 0, gso_size: 0, gso_segs: 0, vlan: 0 };
}

/// One record to be.
pub struct Sighting {
    pub kind: Kind,
    pub point: u8,
    pub position: u8,
    pub dir: u8,
    pub skb: u64,
    /// CLOCK_MONOTONIC, ns.
    pub ts: u64,
    pub transport: Transport,
    pub meta: Meta,
    pub detail: [u64; 3],
}

/// Now.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: no arguments, no failure.
    unsafe { bpf_ktime_get_ns() }
}

/// Sends a record about a packet of ours.
#[inline(always)]
pub fn hit(sighting: &Sighting, hit: &Hit) -> bool {
    record(sighting, &hit.packet, &hit.packet.tuple, hit.flow.id)
}

/// Sends one record. Where the ring buffer has no room the record is counted as lost, and its number skipped.
#[inline(never)]
pub fn record(sighting: &Sighting, packet: &Packet, tuple: &Tuple, flow: u32) -> bool {
    let Some((event, seq)) = reserve() else { return false };
    let (meta, transport) = (&sighting.meta, &sighting.transport);
    // SAFETY: `event` points at 128 reserved bytes; every one of them is written below.
    unsafe {
        (*event).ts = sighting.ts;
        (*event).skb = sighting.skb;
        (*event).seq = seq;
        (*event).flow = flow;
        (*event).mark = meta.mark;
        (*event).len = meta.len;
        (*event).ifindex = meta.ifindex;
        (*event).netns = meta.netns;
        (*event).l4a = transport.a;
        (*event).l4b = transport.b;
        (&raw mut (*event).src).cast::<[u32; 4]>().write(tuple.src);
        (&raw mut (*event).dst).cast::<[u32; 4]>().write(tuple.dst);
        (*event).sport = tuple.sport;
        (*event).dport = tuple.dport;
        (*event).ip_id = packet.ip_id;
        (*event).frag = packet.frag;
        (*event).gso_size = meta.gso_size;
        (*event).gso_segs = meta.gso_segs;
        (*event).cpu = bpf_get_smp_processor_id() as u16;
        (*event).vlan = meta.vlan;
        (*event).kind = sighting.kind as u8;
        (*event).point = sighting.point;
        (*event).position = sighting.position;
        (*event).flags = packet.flags | transport.flags;
        (*event).proto = packet.proto;
        (*event).ttl = packet.ttl;
        (*event).tcp_flags = transport.tcp_flags;
        (*event).dir = sighting.dir;
        (&raw mut (*event).detail).cast::<[u64; 3]>().write(sighting.detail);
    }
    submit(event, sighting.ts);
    true
}

/// Adds one to a counter and returns what it was. Atomic, because an interrupt on this CPU may send records
/// between our read and write.
#[inline(always)]
pub fn count(counter: *mut u64) -> u64 {
    let mut value: u64 = 1;
    // SAFETY: `counter` points at an aligned counter of this CPU. (`core`'s atomics have no read-modify-write
    // for this target.)
    unsafe {
        asm!(
            "{v} = atomic_fetch_add((u64 *)({p} + 0), {v})",
            p = in(reg) counter,
            v = inout(reg) value,
            options(nostack),
        );
    }
    value
}

/// Counts a record that cannot be made as lost.
#[inline(always)]
pub fn lose() {
    if let Some(counters) = COUNTERS.get_ptr_mut(0) {
        // SAFETY: this CPU's value of the map.
        let (seen, lost) = unsafe { (&raw mut (*counters).seen, &raw mut (*counters).lost) };
        count(seen);
        count(lost);
    }
}

/// Reserves a record and numbers it.
#[inline(always)]
pub fn reserve() -> Option<(*mut Event, u32)> {
    let counters = COUNTERS.get_ptr_mut(0)?;
    // SAFETY: this CPU's value of the map.
    let (seen, lost) = unsafe { (&raw mut (*counters).seen, &raw mut (*counters).lost) };
    let seq = count(seen) as u32;
    match EVENTS.reserve::<Event>(0) {
        Some(entry) => Some((core::mem::ManuallyDrop::new(entry).as_mut_ptr(), seq)),
        None => {
            count(lost);
            None
        }
    }
}

#[inline(always)]
pub fn submit(event: *mut Event, now: u64) {
    let mut flags = NO_WAKEUP;
    if let Some(counters) = COUNTERS.get_ptr_mut(0) {
        // SAFETY: this CPU's value of the map. An interrupt in between costs a wake-up at most.
        unsafe {
            if now.wrapping_sub((*counters).woken) > WAKE_PAUSE {
                (*counters).woken = now;
                flags = WAKE_IF_IDLE;
            }
        }
    }
    // SAFETY: `event` came from `reserve` and is given back once.
    unsafe { aya_ebpf::helpers::generated::bpf_ringbuf_submit(event.cast(), flags) };
}

/// `detail` of a tc or netfilter sighting; sends the `Outer` record first where `detail` cannot hold it.
#[inline(always)]
pub fn sighting_detail(ct: &Ct, hit: &Hit, sighting: &Sighting, out_ifindex: u32) -> [u64; 3] {
    let tail = u64::from(out_ifindex) | u64::from(hit.packet.l3len) << 48;
    let o = &hit.outer;
    match o.family {
        0 => {
            let [a, b] = ct.detail();
            [a, b, tail | u64::from(ct.info) << 32]
        }
        6 => {
            outer(hit, sighting.skb, &sighting.meta);
            [0, u64::from(o.vni) << 32, tail | 6 << 40]
        }
        _ => [
            u64::from(o.tuple.src[3]) | u64::from(o.tuple.dst[3]) << 32,
            u64::from(o.tuple.sport) | u64::from(o.tuple.dport) << 16 | u64::from(o.vni) << 32,
            tail | 4 << 40,
        ],
    }
}

/// The record with the outer packet's addresses, for the record of the same skb that follows.
#[inline(never)]
pub fn outer(hit: &Hit, skb: u64, meta: &Meta) -> bool {
    let sighting = Sighting {
        kind: Kind::Outer,
        point: 0,
        position: 0,
        dir: hit.flow.dir,
        skb,
        ts: now(),
        transport: Transport::NONE,
        meta: *meta,
        detail: [0, u64::from(hit.outer.vni) << 32, 0],
    };
    record(&sighting, &hit.packet, &hit.outer.tuple, hit.flow.id)
}
