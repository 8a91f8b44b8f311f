// SPDX-License-Identifier: MIT OR Apache-2.0
//! Programs of others on devices. Only read; where bpf(2) says no, nothing is known.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::fs;

use aya_obj::generated::bpf_attach_type;

use super::sys;

/// The most programs of one device and direction that are read.
const MAX: usize = 64;

/// The programs that the TCX of a device runs, in the namespace of the calling thread. Our own are left out.
pub(crate) fn tcx(ifindex: u32, egress: bool, own: &BTreeSet<u32>) -> Vec<u32> {
    let at = if egress { bpf_attach_type::BPF_TCX_EGRESS } else { bpf_attach_type::BPF_TCX_INGRESS };
    let mut ids = [0; MAX];
    let count = sys::prog_query(ifindex, at, &mut ids).unwrap_or(0);
    ids[..count.min(MAX)].iter().copied().filter(|id| !own.contains(id)).collect()
}

/// What the program was called when it was loaded, safe to print; empty when it has no name or is gone.
pub(crate) fn program_name(id: u32) -> String {
    let name = sys::prog_name(id).unwrap_or_default();
    let bytes = CStr::from_bytes_until_nul(&name).map(CStr::to_bytes).unwrap_or(&name);
    crate::node::printable(bytes)
}

/// The ids of the programs that this process holds.
pub(crate) fn own() -> BTreeSet<u32> {
    let entries = fs::read_dir("/proc/self/fdinfo").into_iter().flatten().flatten();
    let id = |text: String| text.lines().find_map(|l| l.strip_prefix("prog_id:")?.trim().parse().ok());
    entries.filter_map(|entry| id(fs::read_to_string(entry.path()).ok()?)).collect()
}
