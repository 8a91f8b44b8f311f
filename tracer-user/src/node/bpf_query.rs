// SPDX-License-Identifier: MIT OR Apache-2.0
//! Programs of others on devices. Only read; where bpf(2) says no, nothing is known.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::AsFd as _;

use aya_obj::generated::{bpf_attach_type, bpf_cmd};

use super::bpf_syscall::{bpf, bpf_fd, prog_info, zeroed};

/// The most programs of one device and direction that are read.
const MAX: usize = 64;

/// What the names of egwtrace's programs start with, as they are loaded.
pub(crate) const OWN_PREFIX: &str = "egwt_";

/// The programs of egwtrace: those that this process holds, and those of another one by their names. They pass every
/// packet on, so nobody has to be told of them.
#[derive(Debug, Default)]
pub(crate) struct OwnPrograms {
    held: BTreeSet<u32>,
}

impl OwnPrograms {
    pub(crate) fn read() -> Self {
        let entries = fs::read_dir("/proc/self/fdinfo").into_iter().flatten().flatten();
        let id = |text: String| text.lines().find_map(|l| l.strip_prefix("prog_id:")?.trim().parse().ok());
        Self { held: entries.filter_map(|entry| id(fs::read_to_string(entry.path()).ok()?)).collect() }
    }

    /// Names can be read with CAP_SYS_ADMIN only; without, programs of another egwtrace count as foreign.
    pub(crate) fn has(&self, id: u32) -> bool {
        self.held.contains(&id) || program_name(id).starts_with(OWN_PREFIX)
    }
}

/// The programs that the TCX of a device runs, in the namespace of the calling thread. Our own are left out.
pub(crate) fn tcx(ifindex: u32, egress: bool, own: &OwnPrograms) -> Vec<u32> {
    let at = if egress { bpf_attach_type::BPF_TCX_EGRESS } else { bpf_attach_type::BPF_TCX_INGRESS };
    let mut ids = [0; MAX];
    let count = prog_query(ifindex, at, &mut ids).unwrap_or(0);
    ids[..count.min(MAX)].iter().copied().filter(|id| !own.has(*id)).collect()
}

/// What the program was called when it was loaded, safe to print; empty when it has no name or is gone.
pub(crate) fn program_name(id: u32) -> String {
    let name = prog_name(id).unwrap_or_default();
    let bytes = CStr::from_bytes_until_nul(&name).map(CStr::to_bytes).unwrap_or(&name);
    crate::text::printable(bytes)
}

/// Ids of the programs on a device of the calling thread's namespace, in the order in which they run; returns how many
/// there are, of which as many as fit are in `ids`.
fn prog_query(ifindex: u32, at: bpf_attach_type, ids: &mut [u32]) -> io::Result<usize> {
    let mut attr = zeroed();
    attr.query.__bindgen_anon_1.target_ifindex = ifindex;
    attr.query.attach_type = at as u32;
    attr.query.prog_ids = ids.as_mut_ptr() as u64;
    attr.query.__bindgen_anon_2.prog_cnt = ids.len() as u32;
    // SAFETY: `prog_ids` points to `prog_cnt` numbers that outlive the call.
    unsafe { bpf(bpf_cmd::BPF_PROG_QUERY, &mut attr) }?;
    // SAFETY: both members of the union are the number that the kernel wrote.
    Ok(unsafe { attr.query.__bindgen_anon_2.prog_cnt } as usize)
}

/// The name of the program with this id, with the zeros behind it.
fn prog_name(id: u32) -> io::Result<Vec<u8>> {
    let mut attr = zeroed();
    attr.__bindgen_anon_6.__bindgen_anon_1.prog_id = id;
    // SAFETY: the attributes hold no pointer.
    let program = unsafe { bpf_fd(bpf_cmd::BPF_PROG_GET_FD_BY_ID, &mut attr) }?;
    let info = prog_info(program.as_fd())?;
    Ok(info.name.iter().map(|c| *c as u8).collect())
}
