// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel itself counts: time and runs of each program, and egwtrace's counter map. The few calls of
//! bpf(2) that it takes; xtask has no BPF library.

use std::ffi::{CStr, c_char};
use std::fs;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};

use super::subject::fdinfo;

// enum bpf_cmd (uapi/linux/bpf.h)
const MAP_LOOKUP_ELEM: i64 = 1;
const PROG_GET_FD_BY_ID: i64 = 13;
const MAP_GET_FD_BY_ID: i64 = 14;
const OBJ_GET_INFO_BY_FD: i64 = 15;
const ENABLE_STATS: i64 = 32;

/// `bpf_attr`, as much of it as the calls here use.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Attr {
    words: [u64; 16],
}

/// `struct bpf_prog_info`, as far as 5.16 has it.
#[repr(C)]
#[derive(Clone, Copy)]
struct ProgInfo {
    kind: u32,
    id: u32,
    tag: u64,
    jited_len: u32,
    xlated_len: u32,
    jited: u64,
    xlated: u64,
    load_time: u64,
    uid: u32,
    map_count: u32,
    map_ids: u64,
    name: [c_char; 16],
    ifindex: u32,
    gpl: u32,
    netns_dev: u64,
    netns_ino: u64,
    jited_ksyms: u32,
    jited_lens: u32,
    jited_ksyms_at: u64,
    jited_lens_at: u64,
    btf_id: u32,
    func_info_len: u32,
    func_info: u64,
    func_infos: u32,
    line_infos: u32,
    line_info: u64,
    jited_line_info: u64,
    jited_line_infos: u32,
    line_info_len: u32,
    jited_line_info_len: u32,
    tags: u32,
    tags_at: u64,
    run_time_ns: u64,
    run_count: u64,
    recursion_misses: u64,
    verified: u32,
    attach_btf_obj_id: u32,
    attach_btf_id: u32,
    end: u32,
}

/// `struct bpf_map_info`, its beginning.
#[repr(C)]
#[derive(Clone, Copy)]
struct MapInfo {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    entries: u32,
    flags: u32,
    name: [c_char; 16],
}

/// One loaded program.
#[derive(Clone, Debug)]
pub(super) struct Program {
    pub(super) id: u32,
    pub(super) name: String,
    pub(super) run_time_ns: u64,
    pub(super) runs: u64,
    /// Instructions that the verifier walked through.
    pub(super) verified: u32,
    /// Bytes of machine code.
    pub(super) code: u32,
}

/// What a process's programs have cost until now; time and runs only while statistics are enabled.
pub(super) fn programs(pid: u32) -> Result<Vec<Program>> {
    let mut found = Vec::new();
    for id in fdinfo(pid, "prog_id") {
        let fd = by_id(PROG_GET_FD_BY_ID, id).with_context(|| format!("opening BPF program {id}"))?;
        // SAFETY: made of integers; all zero is a value of it.
        let info: ProgInfo = unsafe { info(&fd) }.with_context(|| format!("asking for BPF program {id}"))?;
        found.push(Program {
            id,
            name: text(&info.name),
            run_time_ns: info.run_time_ns,
            runs: info.run_count,
            verified: info.verified,
            code: info.jited_len,
        });
    }
    found.sort_by_key(|program| program.id);
    Ok(found)
}

/// Makes the kernel count, until the descriptor is closed.
pub(super) fn enable_stats() -> Result<OwnedFd> {
    // type: BPF_STATS_RUN_TIME, which is 0.
    fd(bpf(ENABLE_STATS, &mut Attr::default())).context("enabling the kernel's statistics of BPF programs")
}

/// A process's per-CPU map called COUNTERS: numbers, of which the first two are records seen and records lost
/// (`tracer_common::Counters`).
pub(super) struct Counters {
    map: OwnedFd,
    cpus: usize,
    /// Numbers in it.
    numbers: usize,
}

impl Counters {
    pub(super) fn of(pid: u32) -> Result<Self> {
        for id in fdinfo(pid, "map_id") {
            let map = by_id(MAP_GET_FD_BY_ID, id).with_context(|| format!("opening BPF map {id}"))?;
            // SAFETY: made of integers; all zero is a value of it.
            let info: MapInfo = unsafe { info(&map) }.with_context(|| format!("asking for BPF map {id}"))?;
            if text(&info.name) == "COUNTERS" && info.value_size >= 16 {
                // The kernel copies each CPU's value in whole words.
                let numbers = info.value_size.div_ceil(8) as usize;
                return Ok(Self { map, cpus: possible_cpus()?, numbers });
            }
        }
        anyhow::bail!("the process has no BPF map COUNTERS")
    }

    /// Seen, lost.
    pub(super) fn read(&self) -> Result<(u64, u64)> {
        let key = 0u32;
        let mut values = vec![0u64; self.numbers * self.cpus];
        let mut attr = Attr::default();
        attr.words[0] = self.map.as_raw_fd() as u64;
        attr.words[1] = (&raw const key) as u64;
        attr.words[2] = values.as_mut_ptr() as u64;
        bpf(MAP_LOOKUP_ELEM, &mut attr).context("reading COUNTERS")?;
        Ok(values.chunks_exact(self.numbers).fold((0, 0), |(seen, lost), of| (seen + of[0], lost + of[1])))
    }
}

fn possible_cpus() -> Result<usize> {
    let file = "/sys/devices/system/cpu/possible";
    let text = fs::read_to_string(file).with_context(|| format!("reading {file}"))?;
    let last = text.trim().rsplit(['-', ',']).next().unwrap_or_default();
    Ok(last.parse::<usize>().with_context(|| format!("{file} says \"{}\"", text.trim()))? + 1)
}

fn text(name: &[c_char; 16]) -> String {
    // SAFETY: the kernel ends names with a zero.
    unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned()
}

fn by_id(command: i64, id: u32) -> io::Result<OwnedFd> {
    let mut attr = Attr::default();
    attr.words[0] = u64::from(id);
    fd(bpf(command, &mut attr))
}

/// # Safety
/// All zero, and whatever the kernel writes, must be a value of `T`.
unsafe fn info<T: Copy>(object: &OwnedFd) -> io::Result<T> {
    // SAFETY: by the caller.
    let mut info: T = unsafe { mem::zeroed() };
    let mut attr = Attr::default();
    attr.words[0] = object.as_raw_fd() as u64 | (size_of::<T>() as u64) << 32;
    attr.words[1] = (&raw mut info) as u64;
    bpf(OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

fn fd(result: io::Result<i64>) -> io::Result<OwnedFd> {
    // SAFETY: a new descriptor by the command, known to nobody else.
    result.map(|raw| unsafe { OwnedFd::from_raw_fd(raw as i32) })
}

fn bpf(command: i64, attr: &mut Attr) -> io::Result<i64> {
    // SAFETY: the attributes are as long as said, and the pointers that callers put there are valid for what the
    // command does with them.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<Attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
