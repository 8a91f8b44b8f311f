// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checks the required capabilities before anything is attached, so that the error can name the missing ones.

use std::fs;

const CAP_DAC_READ_SEARCH: u32 = 2;
const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;
const CAP_SYS_PTRACE: u32 = 19;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// What tracing needs, and for what. `CAP_SYS_ADMIN` stands for `CAP_PERFMON` and `CAP_BPF` too, as in the kernel.
const NEEDED: &[(u32, &str, &str)] = &[
    (CAP_BPF, "CAP_BPF", "load BPF programs"),
    (CAP_PERFMON, "CAP_PERFMON", "read the kernel's structures"),
    (CAP_NET_ADMIN, "CAP_NET_ADMIN", "attach to devices and netfilter hooks"),
    (CAP_SYS_ADMIN, "CAP_SYS_ADMIN", "enter network namespaces"),
];

#[derive(Debug, thiserror::Error)]
#[error(
    "missing {}: run as root, or grant {}",
    .0.iter().map(|(name, why)| format!("{name} (to {why})")).collect::<Vec<_>>().join(", "),
    if .0.len() == 1 { "it" } else { "them" }
)]
pub struct MissingPrivileges(Vec<(&'static str, &'static str)>);

/// What reading takes: no BPF.
const TO_READ: &[(u32, &str, &str)] = &[
    (CAP_NET_ADMIN, "CAP_NET_ADMIN", "read firewall rules and sets"),
    // iptables opens a raw socket to ask for the name of a set.
    (CAP_NET_RAW, "CAP_NET_RAW", "read rules that match sets"),
    (CAP_SYS_ADMIN, "CAP_SYS_ADMIN", "enter network namespaces"),
];

/// What a trace does without, and what is not seen then. What shows by itself (rules that were not read, functions
/// without names) is not among it.
const USEFUL: &[(u32, &str, &str)] = &[
    (
        CAP_NET_RAW,
        "CAP_NET_RAW",
        "who asks for MACs on the nodes' networks; rules of iptables-legacy where they match sets",
    ),
    (CAP_SYS_PTRACE, "CAP_SYS_PTRACE", "names of processes that packets are delivered to"),
    (
        CAP_DAC_READ_SEARCH,
        "CAP_DAC_READ_SEARCH",
        "names of other users' processes that packets are delivered to",
    ),
];

/// Capabilities that are missing without harm: name, and what is not seen for lack of it.
pub(super) fn lacking() -> Vec<(&'static str, &'static str)> {
    let status = fs::read_to_string("/proc/self/status").ok();
    status.as_deref().and_then(effective).map_or_else(Vec::new, |effective| missing(effective, USEFUL))
}

/// Checks what reading the node takes. `enter`: other namespaces than the current one are to be read.
///
/// # Errors
/// As [`check_privileges`].
pub fn check_read_privileges(enter: bool) -> Result<(), MissingPrivileges> {
    let needed = if enter { TO_READ } else { &TO_READ[..2] };
    check(needed)
}

/// Checks the effective capabilities of this process.
///
/// # Errors
/// With every capability that is missing. Where they cannot be read, nothing is missing: the kernel will say.
pub fn check_privileges() -> Result<(), MissingPrivileges> {
    check(NEEDED)
}

fn check(needed: &[(u32, &'static str, &'static str)]) -> Result<(), MissingPrivileges> {
    let Some(effective) = fs::read_to_string("/proc/self/status").ok().as_deref().and_then(effective) else {
        return Ok(());
    };
    let missing = missing(effective, needed);
    if missing.is_empty() { Ok(()) } else { Err(MissingPrivileges(missing)) }
}

fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn missing(
    effective: u64,
    needed: &[(u32, &'static str, &'static str)],
) -> Vec<(&'static str, &'static str)> {
    let has = |cap: u32| effective & (1 << cap) != 0;
    needed
        .iter()
        .filter(|(cap, ..)| !(has(*cap) || matches!(*cap, CAP_BPF | CAP_PERFMON) && has(CAP_SYS_ADMIN)))
        .map(|(_, name, why)| (*name, *why))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_is_missing() {
        assert_eq!(effective("Name:\tx\nCapEff:\t000001fffeffffff\n"), Some(0x1ff_feff_ffff));
        assert_eq!(effective("CapEff:\tzz\n"), None);
        assert!(missing(u64::MAX, NEEDED).is_empty());
        assert!(missing(1 << CAP_SYS_ADMIN | 1 << CAP_NET_ADMIN, NEEDED).is_empty());
        assert_eq!(missing(0, NEEDED).len(), 4);
        assert!(
            missing(1 << CAP_NET_ADMIN | 1 << CAP_NET_RAW, &TO_READ[..2]).is_empty(),
            "no BPF is needed to read"
        );
        let text = MissingPrivileges(missing(1 << CAP_SYS_ADMIN, NEEDED)).to_string();
        assert_eq!(
            text,
            "missing CAP_NET_ADMIN (to attach to devices and netfilter hooks): run as root, or grant it"
        );
    }
}
