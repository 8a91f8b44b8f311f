// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Maps and frozen constants.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use tracer_common::{Config, Counters, FLOW_TABLE_SIZE, Fields, Prefix, SIEVE_SIZE, Settings, Tuple};

/// What a tuple leads to.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Flow {
    /// Id of the flow, never 0.
    pub id: u32,
    /// `DIR_*`.
    pub dir: u8,
    /// 1: learned from conntrack, not from the filter.
    pub learned: u8,
    pub unused: u16,
}

/// Identity of a fragmented packet.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FragKey {
    pub src: [u32; 4],
    pub dst: [u32; 4],
    pub id: u32,
    pub proto: u32,
}

/// Result of judging a packet, kept for the netfilter positions and route lookups that follow on this CPU.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Memo {
    /// The skb last found not to be ours.
    pub miss: u64,
    /// The skb last found to be ours; 0 none.
    pub hit: u64,
    /// `ts` mixed with `flow`, so that a half-written memo is recognised.
    pub tag: u64,
    pub flow: u32,
    pub dir: u32,
    pub netns: u32,
    /// Which lookups may follow: `STAGE_*`.
    pub stage: u32,
    /// When it was seen, CLOCK_MONOTONIC ns.
    pub ts: u64,
    pub src: [u32; 4],
    pub dst: [u32; 4],
}

/// No lookup about this packet follows.
pub const STAGE_NONE: u32 = 0;
/// It passed PREROUTING or OUTPUT: its way is looked up next.
pub const STAGE_ROUTE: u32 = 1;
/// It was about to leave through a device, not yet encapsulated: only an encapsulation looks up a way now.
pub const STAGE_ENCAP: u32 = 2;

/// What may be in `FLOWS`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Sieve {
    /// 0: nothing yet.
    pub used: u64,
    /// One byte a slot: some tuple hashes to it. Bytes, because two CPUs may write at once.
    pub slots: [u8; SIEVE_SIZE],
}

/// What was last sent of a conntrack entry.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CtSlot {
    pub ct: u64,
    pub status: u64,
}

/// Slots of `CT_SEEN`.
pub const CT_SLOTS: u32 = 512;

/// A device and the namespace it is in.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct DevSlot {
    pub dev: u64,
    pub netns: u64,
}

/// Slots of `DEVICES`.
pub const DEV_SLOTS: u32 = 64;

#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(8 << 20, 0);
#[map]
pub static FLOWS: LruHashMap<Tuple, Flow> = LruHashMap::with_max_entries(FLOW_TABLE_SIZE, 0);
#[map]
pub static FRAGS: LruHashMap<FragKey, Flow> = LruHashMap::with_max_entries(1024, 0);
#[map]
pub static SIEVE: Array<Sieve> = Array::with_max_entries(1, 0);
/// Inode numbers of the watched network namespaces.
#[map]
pub static NETNS: HashMap<u32, u32> = HashMap::with_max_entries(256, 0);
/// Settings that user space may change while the programs run.
#[map]
pub static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);
#[map]
pub static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub static MEMO: PerCpuArray<Memo> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub static CT_SEEN: Array<CtSlot> = Array::with_max_entries(CT_SLOTS, 0);
/// Translated connections found not to be ours, by a hash of their address; an older one gives way.
#[map]
pub static CT_NOT_OURS: Array<u64> = Array::with_max_entries(CT_SLOTS * 8, 0);
#[map]
pub static DEVICES: PerCpuArray<DevSlot> = PerCpuArray::with_max_entries(DEV_SLOTS, 0);

const ANY: Prefix = Prefix { addr: [0; 4], mask: [0; 4] };

#[unsafe(no_mangle)]
pub static CONFIG: Config = Config {
    src: [ANY; tracer_common::MAX_ADDRS],
    dst: [ANY; tracer_common::MAX_ADDRS],
    src_count: 0,
    dst_count: 0,
    sport: 0,
    dport: 0,
    proto: 0,
    kfree_skb_args: 0,
    tcp_send_reset_args: 0,
    debug: 0,
    skb_type: 0,
    follow: 0,
};

#[unsafe(no_mangle)]
pub static FIELDS: Fields = Fields::NONE;

/// Reads a member of a frozen constant so that the compiler cannot fold its initial value, and the
/// verifier can fold the loaded one.
#[macro_export]
macro_rules! frozen {
    ($($place:tt)+) => {{
        let place = &raw const $($place)+;
        // SAFETY: the place is a member of a static, valid and aligned.
        unsafe { core::ptr::read_volatile(place) }
    }};
}
