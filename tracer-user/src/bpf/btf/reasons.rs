// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel calls its reasons for dropping a packet and for sending a reset. The numbers differ
//! from kernel to kernel; the names come from its BTF.

use std::borrow::Cow;

use super::kernel::KernelBtf;

/// What the programs report where the kernel gives no reason.
pub const REASON_UNKNOWN: u32 = u32::MAX;

const UNKNOWN_TEXT: &str = "reason unknown on this kernel";
/// Subsystems number their reasons apart: theirs is the upper half (`include/net/dropreason.h`).
const SUBSYSTEM_SHIFT: u32 = 16;
/// Enumerations with the reasons of one subsystem each, and what their names begin with.
const SUBSYSTEM_ENUMS: &[(&str, &[&str])] = &[
    ("ovs_drop_reason", &["OVS_DROP_"]),
    ("___mac80211_drop_reason", &["___RX_", "RX_"]),
    ("mac80211_drop_reason", &["___RX_", "RX_"]),
    ("qdisc_drop_reason", &["QDISC_DROP_"]),
];

/// Names by number, without the prefix that all share: `NETFILTER_DROP`, not
/// `SKB_DROP_REASON_NETFILTER_DROP`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reasons {
    drop: Vec<(u32, Box<str>)>,
    subsystems: Vec<(u32, Box<str>)>,
    reset: Vec<(u32, Box<str>)>,
}

impl Reasons {
    pub(super) fn new(btf: &KernelBtf) -> Self {
        let mut drop = names(btf, "skb_drop_reason", &["SKB_DROP_REASON_", "SKB_"]);
        let subsystems = names(btf, "skb_drop_reason_subsys", &["SKB_DROP_REASON_SUBSYS_"]);
        for (name, prefixes) in SUBSYSTEM_ENUMS {
            let of_subsystem = names(btf, name, prefixes);
            drop.extend(of_subsystem.into_iter().filter(|(value, _)| value >> SUBSYSTEM_SHIFT != 0));
        }
        Self {
            drop: sorted(drop),
            subsystems: sorted(subsystems),
            reset: sorted(names(btf, "sk_rst_reason", &["SK_RST_REASON_"])),
        }
    }

    /// Name of a drop reason (`enum skb_drop_reason`, or a subsystem's); the number where it has none.
    pub fn drop(&self, reason: u32) -> Cow<'_, str> {
        if let Some(name) = known(&self.drop, reason) {
            return name;
        }
        let (subsystem, number) = (reason >> SUBSYSTEM_SHIFT, reason & 0xffff);
        match find(&self.subsystems, subsystem) {
            Some(name) if subsystem != 0 => Cow::Owned(format!("{name} {number}")),
            _ => Cow::Owned(format!("reason {reason}")),
        }
    }

    /// Name of a reset reason (`enum sk_rst_reason`); the number where it has none.
    pub fn reset(&self, reason: u32) -> Cow<'_, str> {
        known(&self.reset, reason).unwrap_or_else(|| Cow::Owned(format!("reason {reason}")))
    }
}

fn known(names: &[(u32, Box<str>)], reason: u32) -> Option<Cow<'_, str>> {
    if reason == REASON_UNKNOWN {
        return Some(Cow::Borrowed(UNKNOWN_TEXT));
    }
    find(names, reason).map(Cow::Borrowed)
}

fn find(names: &[(u32, Box<str>)], value: u32) -> Option<&str> {
    names.binary_search_by_key(&value, |(value, _)| *value).ok().map(|at| &*names[at].1)
}

/// Values of enumeration `name`, each without the first of `prefixes` that it has.
fn names(btf: &KernelBtf, name: &str, prefixes: &[&str]) -> Vec<(u32, Box<str>)> {
    let strip = |name: String| -> Box<str> {
        prefixes.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(&name).into()
    };
    btf.enum_values(name).into_iter().map(|(name, value)| (value, strip(name))).collect()
}

/// By value; of several names for one value the first stays (`..._MAX` and masks come last).
fn sorted(mut names: Vec<(u32, Box<str>)>) -> Vec<(u32, Box<str>)> {
    names.sort_by_key(|(value, _)| *value);
    names.dedup_by_key(|(value, _)| *value);
    names
}
