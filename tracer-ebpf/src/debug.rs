// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Messages for `--debug-bpf`, by aya-log, all behind a frozen constant: the verifier takes them out of other runs.

use aya_ebpf::{
    helpers::generated::{bpf_get_smp_processor_id, bpf_ktime_get_ns},
    macros::map,
    maps::PerCpuArray,
};
use aya_log_ebpf::debug;
use tracer_common::Tuple;

use crate::{
    emit::count,
    frozen,
    maps::{CONFIG, COUNTERS},
};

/// What is said of the number that follows it: the address of an skb or of a conntrack entry.
const TEXTS: [&str; 7] = [
    "tc: not ours, skb",
    "tc: ours, skb",
    "netfilter: not ours, skb",
    "netfilter: ours, skb",
    "kfree_skb: ours, skb",
    "conntrack: the flow has entry",
    // A tuple was learned from an entry that has gone, and the entry that has it now is another connection's.
    "conntrack: not of the flow any more, entry",
];
pub const TC_OTHER: usize = 0;
pub const TC_OURS: usize = 1;
pub const NF_OTHER: usize = 2;
pub const NF_OURS: usize = 3;
pub const DROP_OURS: usize = 4;
pub const FOLLOWED: usize = 5;
pub const FORGOTTEN: usize = 6;

/// A message is written byte by byte, and the verifier lets no pointer be shifted: what comes out of a map is a number.
#[map]
static NUMBER: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Says `TEXTS[TEXT]` of `arg`.
#[inline(always)]
pub fn say<const TEXT: usize>(arg: u64, flow: u32, tuple: &Tuple) {
    if frozen!(CONFIG.debug) != 0 {
        log::<TEXT>(arg, flow, tuple);
    }
}

/// Out of line: a message takes much of the stack.
#[inline(never)]
fn log<const TEXT: usize>(arg: u64, flow: u32, tuple: &Tuple) -> bool {
    if let Some(counters) = COUNTERS.get_ptr_mut(0) {
        // SAFETY: this CPU's value of the map.
        count(unsafe { &raw mut (*counters).debug_sent });
    }
    let Some(number) = NUMBER.get_ptr_mut(0) else { return false };
    // SAFETY: this CPU's value of the map.
    let arg = unsafe {
        number.write_volatile(arg);
        number.read_volatile()
    };
    // SAFETY: helpers without arguments.
    let (ts, cpu) = unsafe { (bpf_ktime_get_ns(), bpf_get_smp_processor_id()) };
    debug!(
        &(),
        "{} cpu{} {} {:x}: {:i} {} → {:i} {} proto {} flow {:x}",
        ts,
        cpu,
        const { TEXTS[TEXT] },
        arg,
        octets(tuple.src),
        tuple.sport,
        octets(tuple.dst),
        tuple.dport,
        tuple.proto,
        flow
    );
    true
}

/// An address, four words in network order, as aya-log prints one.
#[inline(always)]
fn octets(words: [u32; 4]) -> [u8; 16] {
    // SAFETY: the same bytes.
    unsafe { core::mem::transmute(words) }
}
