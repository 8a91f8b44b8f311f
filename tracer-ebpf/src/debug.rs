// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Messages for `--debug-bpf`, all behind a frozen constant: the verifier takes them out of other runs.

use aya_ebpf::{
    helpers::generated::{bpf_get_smp_processor_id, bpf_ktime_get_ns},
    macros::map,
    maps::RingBuf,
};
use tracer_common::{DebugCode, DebugRecord, Kind, Tuple};

use crate::{
    emit::{NO_WAKEUP, count},
    frozen,
    judge::Hit,
    maps::{CONFIG, COUNTERS},
};

/// As small as can be; user space makes it larger when it is used.
#[map]
static DEBUG: RingBuf = RingBuf::with_byte_size(4096, 0);

/// Says `code`. `kind`: a `Kind`, or 0.
#[inline(always)]
pub fn say(code: DebugCode, kind: u8, arg: u64, flow: u32, tuple: &Tuple) {
    if frozen!(CONFIG.debug) != 0 {
        write(u16::from(code as u8) | u16::from(kind) << 8, arg, flow, tuple);
    }
}

/// Says what a packet was found to be.
#[inline(always)]
pub fn judged(kind: Kind, skb: u64, ours: bool, hit: &Hit) {
    let code = if ours { DebugCode::Hit } else { DebugCode::Miss };
    say(code, kind as u8, skb, hit.flow.id, &hit.packet.tuple);
}

/// `what`: code, and kind in the high byte.
#[inline(never)]
fn write(what: u16, arg: u64, flow: u32, tuple: &Tuple) -> bool {
    let Some(entry) = DEBUG.reserve::<DebugRecord>(0) else {
        if let Some(counters) = COUNTERS.get_ptr_mut(0) {
            // SAFETY: this CPU's value of the map.
            count(unsafe { &raw mut (*counters).debug_lost });
        }
        return false;
    };
    let record = core::mem::ManuallyDrop::new(entry).as_mut_ptr();
    // SAFETY: `record` points at 64 reserved bytes; every one of them is written, and it is given back once.
    unsafe {
        (*record).ts = bpf_ktime_get_ns();
        (*record).arg = arg;
        (*record).flow = flow;
        (*record).cpu = bpf_get_smp_processor_id() as u16;
        (*record).code = what as u8;
        (*record).kind = (what >> 8) as u8;
        (*record).tuple.src = tuple.src;
        (*record).tuple.dst = tuple.dst;
        (*record).tuple.sport = tuple.sport;
        (*record).tuple.dport = tuple.dport;
        (*record).tuple.proto = tuple.proto;
        aya_ebpf::helpers::generated::bpf_ringbuf_submit(record.cast(), NO_WAKEUP);
    }
    true
}
