// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Netfilter: positions between the tables. They always accept.

use aya_ebpf::{
    helpers::generated::bpf_tail_call,
    macros::map,
    maps::{PerCpuArray, ProgramArray},
};
use tracer_common::Kind;

use crate::{
    conntrack::{self, Ct},
    debug,
    emit::{self, Meta, Sighting},
    judge::{Hit, judge},
    maps::{MEMO, Memo, SETTINGS, STAGE_NONE, STAGE_ROUTE},
    packet::{SkbBytes, Transport},
    probed, typed, typed_bit,
};

const NF_ACCEPT: i32 = 1;
const PREROUTING: u8 = 0;
const OUTPUT: u8 = 3;

/// `struct bpf_nf_ctx` (include/linux/bpf.h): const struct nf_hook_state *state; struct sk_buff *skb.
#[repr(C)]
pub struct NfContext {
    state: u64,
    skb: u64,
}

/// What a position leaves for `nf_main`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Note {
    /// The packet that it was called for; 0: taken.
    skb: u64,
    position: u64,
}

/// One for each hook: a packet that a process sends and one that comes in meanwhile are rarely at the same.
#[map]
static NF_NOTES: PerCpuArray<Note> = PerCpuArray::with_max_entries(NOTES, 0);
const NOTES: u32 = 8;
/// Holds `nf_main`.
#[map]
static NF_MAIN: ProgramArray = ProgramArray::with_max_entries(1, 0);

// kernel: unsigned int (*)(const struct bpf_nf_ctx *), BPF_PROG_TYPE_NETFILTER, 6.4 -
//
// The section only has to be one that aya parses; `bpf/programs.rs` loads these. Nothing in the context tells
// positions apart, so each has an entry function. It turns away what is certainly not ours, and for the rest notes
// its number and goes on in `nf_main`, which the verifier has to walk once.
macro_rules! positions {
    ($($name:ident = $index:literal, $section:literal;)+) => {$(
        #[unsafe(no_mangle)]
        #[unsafe(link_section = $section)]
        pub fn $name(ctx: *mut NfContext) -> i32 {
            observe(ctx, $index);
            NF_ACCEPT
        }
    )+};
}

positions! {
    nf_pos0 = 0, "raw_tp/nf_pos0";
    nf_pos1 = 1, "raw_tp/nf_pos1";
    nf_pos2 = 2, "raw_tp/nf_pos2";
    nf_pos3 = 3, "raw_tp/nf_pos3";
    nf_pos4 = 4, "raw_tp/nf_pos4";
    nf_pos5 = 5, "raw_tp/nf_pos5";
    nf_pos6 = 6, "raw_tp/nf_pos6";
    nf_pos7 = 7, "raw_tp/nf_pos7";
    nf_pos8 = 8, "raw_tp/nf_pos8";
    nf_pos9 = 9, "raw_tp/nf_pos9";
    nf_pos10 = 10, "raw_tp/nf_pos10";
    nf_pos11 = 11, "raw_tp/nf_pos11";
}

#[inline(always)]
fn observe(ctx: *mut NfContext, position: u64) {
    // SAFETY: the program's context; both pointers are typed and never null.
    let (state, skb) = unsafe { ((*ctx).state, (*ctx).skb) };
    let hook = typed!(state, state_hook, u8);
    let Some(memo) = MEMO.get_ptr_mut(0) else { return };
    // Every packet passes PREROUTING or OUTPUT before the other hooks and is judged there, so that an skb
    // whose address is used again is never taken for the one before. A position of a zoomed hook that is
    // not the first finds the memo of that first one, but a hook's positions may come and go: judge again.
    // SAFETY: this CPU's value of the map.
    if !is_entry(hook) && unsafe { (*memo).miss } == skb {
        return;
    }
    let Some(settings) = SETTINGS.get(0) else { return };
    // One that was ours at the hook before most likely still is.
    // SAFETY: as above.
    let was_ours = unsafe { (*memo).hit } == skb;
    if !was_ours
        && SkbBytes::of(skb, settings).is_foreign()
        && conntrack::is_plain(typed!(skb, skb_nfct, u64))
    {
        // SAFETY: as above.
        unsafe { (*memo).miss = skb };
        return;
    }
    if let Some(note) = NF_NOTES.get_ptr_mut(u32::from(hook) % NOTES) {
        // SAFETY: this CPU's value of the map.
        unsafe { *note = Note { skb, position } };
        // SAFETY: the map holds a program of this type, or nothing.
        unsafe { bpf_tail_call(ctx.cast(), (&raw const NF_MAIN).cast_mut().cast(), 0) };
    }
    emit::lose();
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/nf_main")]
pub fn nf_main(ctx: *mut NfContext) -> i32 {
    look(ctx);
    NF_ACCEPT
}

#[inline(always)]
fn look(ctx: *mut NfContext) {
    // SAFETY: as in `observe`.
    let (state, skb) = unsafe { ((*ctx).state, (*ctx).skb) };
    let hook = typed!(state, state_hook, u8);
    let Some(note) = NF_NOTES.get_ptr_mut(u32::from(hook) % NOTES) else { return };
    // SAFETY: this CPU's value of the map.
    let noted = unsafe { *note };
    if noted.skb != skb {
        // An interrupt came between, and a position of its own overwrote the note: which one this is is lost.
        emit::lose();
        return;
    }
    // SAFETY: as above.
    unsafe { (*note).skb = 0 };
    let Some(settings) = SETTINGS.get(0) else { return };
    let bytes = SkbBytes::of(skb, settings);
    let mut hit = Hit::blank(settings);
    let ours = judge(&bytes, 0, &mut hit) || conntrack::is_ours(typed!(skb, skb_nfct, u64), &mut hit);
    hit.forget(&bytes);
    if ours {
        debug::say::<{ debug::NF_OURS }>(skb, hit.flow.id, &hit.packet.tuple);
    } else {
        debug::say::<{ debug::NF_OTHER }>(skb, hit.flow.id, &hit.packet.tuple);
    }
    if let Some(memo) = MEMO.get_ptr_mut(0) {
        // SAFETY: as above.
        unsafe { (*memo).miss = if ours { 0 } else { skb } };
    }
    if ours {
        report(ctx, noted.position as u8, &bytes, &mut hit);
    }
}

/// Sends the record. A function of its own in the object: it shares no stack with `judge`.
#[inline(never)]
fn report(ctx: *mut NfContext, position: u8, bytes: &SkbBytes, hit: &mut Hit) -> bool {
    // SAFETY: as in `observe`.
    let (state, skb) = unsafe { ((*ctx).state, (*ctx).skb) };
    let hook = typed!(state, state_hook, u8);
    let head = typed!(skb, skb_head, u64);
    let len = typed!(skb, skb_len, u32);
    let gso = gso(head, typed!(skb, skb_end, u32), len);
    let net = typed!(state, state_net, u64);
    let input = typed!(state, state_in, u64);
    let output = typed!(state, state_out, u64);
    let netns = typed!(net, net_inum, u32);
    let mut sighting = Sighting {
        kind: Kind::Nf,
        point: hook,
        position,
        dir: hit.flow.dir,
        skb,
        ts: emit::now(),
        transport: Transport::NONE,
        meta: Meta {
            mark: typed!(skb, skb_mark, u32),
            len,
            ifindex: if input == 0 { 0 } else { typed!(input, dev_ifindex, u32) },
            netns,
            gso_size: gso as u16,
            gso_segs: (gso >> 16) as u16,
            vlan: 0,
        },
        detail: [0; 3],
    };
    let out_ifindex = if output == 0 { 0 } else { typed!(output, dev_ifindex, u32) };
    if let Some(memo) = MEMO.get_ptr_mut(0) {
        let stage = if is_entry(hook) { STAGE_ROUTE } else { STAGE_NONE };
        // SAFETY: this CPU's value of the map.
        unsafe { remember(memo, hit, &sighting, stage) };
    }
    let ct = if hit.is_encap() { Ct::NONE } else { Ct::of(typed!(skb, skb_nfct, u64)) };
    if !conntrack::follow(&ct, hit, &mut sighting) {
        return false;
    }
    sighting.detail = emit::sighting_detail(&ct, hit, &sighting, out_ifindex);
    // Conntrack computed the checksum (__skb_checksum_complete), and it was wrong.
    if ct.addr == 0
        && !hit.is_encap()
        && typed_bit!(skb, skb_csum_complete_sw)
        && !typed_bit!(skb, skb_csum_valid)
    {
        sighting.detail[2] |= 1 << 40;
    }
    sighting.kind = Kind::Nf;
    sighting.position = position;
    sighting.dir = hit.flow.dir;
    sighting.transport = hit.packet.transport(bytes);
    emit::hit(&sighting, hit)
}

/// Do packets come to this hook that have passed no other in this namespace?
#[inline(always)]
fn is_entry(hook: u8) -> bool {
    hook == PREROUTING || hook == OUTPUT
}

/// Keeps a hit for the route lookups that follow on this CPU.
///
/// # Safety
/// `memo` is this CPU's value of the map.
#[inline(always)]
pub unsafe fn remember(memo: *mut Memo, hit: &Hit, sighting: &Sighting, stage: u32) {
    if stage == STAGE_NONE {
        // SAFETY: by the caller.
        unsafe { (*memo).stage = STAGE_NONE };
        return;
    }
    // SAFETY: by the caller. The tag is written last: an interrupt in between leaves one that does not fit.
    unsafe {
        core::ptr::write_volatile(&raw mut (*memo).tag, 0);
        (*memo).ts = sighting.ts;
        (*memo).flow = hit.flow.id;
        (*memo).hit = sighting.skb;
        (*memo).dir = u32::from(hit.flow.dir);
        (*memo).netns = sighting.meta.netns;
        (*memo).stage = stage;
        (*memo).src = hit.packet.tuple.src;
        (*memo).dst = hit.packet.tuple.dst;
        core::ptr::write_volatile(&raw mut (*memo).tag, memo_tag(sighting.ts, hit.flow.id));
    }
}

#[inline(always)]
pub fn memo_tag(ts: u64, flow: u32) -> u64 {
    ts ^ u64::from(flow) << 32 | 1
}

/// gso_size in the low half, gso_segs in the high one; 0 when not GSO.
#[inline(always)]
pub fn gso(head: u64, end: u32, len: u32) -> u32 {
    // Two segments of the smallest MSS in use are longer than this.
    if len < 256 {
        return 0;
    }
    let shinfo = head + u64::from(end);
    let size = probed!(shinfo, shinfo_gso_size, u16);
    if size == 0 {
        return 0;
    }
    u32::from(size) | u32::from(probed!(shinfo, shinfo_gso_segs, u16)) << 16
}
