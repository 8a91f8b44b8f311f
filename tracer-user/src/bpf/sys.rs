// SPDX-License-Identifier: MIT OR Apache-2.0
//! The calls of bpf(2) that aya does not offer. Every descriptor returned is close-on-exec (the kernel sees
//! to that), and owned.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use aya_obj::generated::{bpf_attach_type, bpf_cmd, bpf_insn, bpf_stats_type};

use crate::node::bpf_syscall::{bpf, bpf_fd, prog_info, zeroed};

/// `EAGAIN` from the verifier means that a signal came in between.
const LOAD_ATTEMPTS: usize = 5;

/// What a program has cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgStats {
    /// The kernel's number for the program.
    pub id: u32,
    /// Time spent in it; counted only while run-time statistics are enabled.
    pub run_time_ns: u64,
    /// Number of runs; as above.
    pub run_cnt: u64,
    /// Runs left out because the program was already running on that CPU: events that were not seen.
    pub recursion_misses: u64,
    /// Instructions that the verifier walked through; 0 before Linux 5.16.
    pub verified_insns: u32,
}

/// Run-time statistics of a loaded program.
///
/// # Errors
/// Of `BPF_OBJ_GET_INFO_BY_FD`.
pub fn prog_stats(program: BorrowedFd<'_>) -> io::Result<ProgStats> {
    let info = prog_info(program)?;
    Ok(ProgStats {
        id: info.id,
        run_time_ns: info.run_time_ns,
        run_cnt: info.run_cnt,
        recursion_misses: info.recursion_misses,
        verified_insns: info.verified_insns,
    })
}

/// Enables run-time statistics of all programs until the descriptor is closed (Linux 5.8). They cost some
/// 60 ns a run themselves.
///
/// # Errors
/// Of `BPF_ENABLE_STATS`: `EPERM` without `CAP_SYS_ADMIN`, `EINVAL` on older kernels.
pub fn enable_stats() -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.enable_stats.type_ = bpf_stats_type::BPF_STATS_RUN_TIME as u32;
    // SAFETY: the attributes hold no pointer.
    unsafe { bpf_fd(bpf_cmd::BPF_ENABLE_STATS, &mut attr) }
}

/// Function or line information that goes with a program's instructions: records of one length.
#[derive(Clone, Debug)]
pub(super) struct Info {
    bytes: Vec<u8>,
    count: u32,
    record_len: u32,
}

impl Info {
    pub(super) fn new(bytes: Vec<u8>, count: usize) -> Self {
        let record_len = bytes.len().checked_div(count).unwrap_or(0) as u32;
        Self { bytes, count: count as u32, record_len }
    }
}

/// A program as the kernel takes it.
pub(super) struct Program<'a> {
    pub(super) name: &'a str,
    pub(super) prog_type: u32,
    pub(super) expected_attach_type: u32,
    /// Of a tracepoint's type in vmlinux; 0 for other programs.
    pub(super) attach_btf_id: u32,
    pub(super) instructions: &'a [bpf_insn],
    pub(super) license: &'a CStr,
    /// The object's BTF, functions and lines.
    pub(super) btf: Option<(BorrowedFd<'a>, &'a Info, &'a Info)>,
}

/// Loads a program. With a `log`, the verifier writes to it what it thinks (level 1, and statistics).
pub(super) fn prog_load(program: &Program<'_>, log: Option<&mut [u8]>) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    // SAFETY: all fields of the union are integers and the attributes are zeroed: any of them may be borrowed.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = program.prog_type;
    load.expected_attach_type = program.expected_attach_type;
    load.attach_btf_id = program.attach_btf_id;
    load.insns = program.instructions.as_ptr() as u64;
    load.insn_cnt = program.instructions.len() as u32;
    load.license = program.license.as_ptr() as u64;
    // The kernel wants its zero at the end.
    let name_len = load.prog_name.len() - 1;
    for (to, from) in load.prog_name[..name_len].iter_mut().zip(program.name.bytes()) {
        *to = from as _;
    }
    if let Some((btf, functions, lines)) = program.btf {
        load.prog_btf_fd = btf.as_raw_fd() as u32;
        if functions.record_len != 0 {
            load.func_info = functions.bytes.as_ptr() as u64;
            load.func_info_cnt = functions.count;
            load.func_info_rec_size = functions.record_len;
        }
        if lines.record_len != 0 {
            load.line_info = lines.bytes.as_ptr() as u64;
            load.line_info_cnt = lines.count;
            load.line_info_rec_size = lines.record_len;
        }
    }
    if let Some(log) = log {
        load.log_level = 1 | 4;
        load.log_buf = log.as_mut_ptr() as u64;
        load.log_size = log.len() as u32;
    }
    for _ in 1..LOAD_ATTEMPTS {
        // SAFETY: every pointer is to something borrowed for this call, with the length beside it.
        match unsafe { bpf_fd(bpf_cmd::BPF_PROG_LOAD, &mut attr) } {
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
            result => return result,
        }
    }
    // SAFETY: as above.
    unsafe { bpf_fd(bpf_cmd::BPF_PROG_LOAD, &mut attr) }
}

/// Loads an object's BTF.
pub(super) fn btf_load(btf: &[u8]) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    // SAFETY: all fields of the union are integers and the attributes are zeroed.
    let load = unsafe { &mut attr.__bindgen_anon_7 };
    load.btf = btf.as_ptr() as u64;
    load.btf_size = btf.len() as u32;
    // SAFETY: `btf` is borrowed for the call, with its length.
    unsafe { bpf_fd(bpf_cmd::BPF_BTF_LOAD, &mut attr) }
}

/// Attaches a tracepoint program for as long as the descriptor returned is open.
pub(super) fn raw_tracepoint_open(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.raw_tracepoint.prog_fd = program.as_raw_fd() as u32;
    // SAFETY: the name is null, as it must be for a program that knows its tracepoint by type.
    unsafe { bpf_fd(bpf_cmd::BPF_RAW_TRACEPOINT_OPEN, &mut attr) }
}

/// Writes one value.
pub(super) fn map_update(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    let mut attr = zeroed();
    // SAFETY: all fields of the union are integers and the attributes are zeroed.
    let update = unsafe { &mut attr.__bindgen_anon_2 };
    update.map_fd = map.as_raw_fd() as u32;
    update.key = key.as_ptr() as u64;
    update.__bindgen_anon_1.value = value.as_ptr() as u64;
    // SAFETY: key and value are borrowed for the call; the callers' are as long as the map says.
    unsafe { bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr) }.map(|_| ())
}

/// Makes a map constant for user space too, so that the verifier may fold what is in it.
pub(super) fn map_freeze(map: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed();
    // SAFETY: all fields of the union are integers and the attributes are zeroed.
    unsafe { &mut attr.__bindgen_anon_2 }.map_fd = map.as_raw_fd() as u32;
    // SAFETY: the attributes hold no pointer.
    unsafe { bpf(bpf_cmd::BPF_MAP_FREEZE, &mut attr) }.map(|_| ())
}

/// What a link attaches to.
#[derive(Clone, Copy)]
pub(super) enum Target {
    Netfilter { pf: u32, hook: u32, priority: i32 },
    Tcx { ifindex: u32, attach_type: bpf_attach_type, flags: u32 },
}

/// Attaches `program` for as long as the descriptor returned is open.
pub(super) fn link_create(program: BorrowedFd<'_>, target: Target) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
    match target {
        Target::Netfilter { pf, hook, priority } => {
            attr.link_create.attach_type = bpf_attach_type::BPF_NETFILTER as u32;
            attr.link_create.__bindgen_anon_3.netfilter.pf = pf;
            attr.link_create.__bindgen_anon_3.netfilter.hooknum = hook;
            attr.link_create.__bindgen_anon_3.netfilter.priority = priority;
        }
        Target::Tcx { ifindex, attach_type, flags } => {
            attr.link_create.__bindgen_anon_2.target_ifindex = ifindex;
            attr.link_create.attach_type = attach_type as u32;
            attr.link_create.flags = flags;
        }
    }
    // SAFETY: the attributes of these links are plain numbers, no pointers.
    unsafe { bpf_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr) }
}
