// SPDX-License-Identifier: MIT OR Apache-2.0
//! Extensions of iptables within nf_tables rules: the kernel gives their structs as they lie in its memory
//! (include/uapi/linux/netfilter/xt_*.h). Lengths are checked; what is not understood is told by name.

mod matches;
mod structs;
mod targets;

pub(in crate::firewall) use matches::{Read, matches};
pub(in crate::firewall) use targets::target;

use super::iptables::{is_chance, is_passing};
use super::rule::{Criterion, Match, Target};
use crate::text::printable;

/// An extension without its options.
pub(in crate::firewall) fn unknown_match(name: &str) -> Match {
    let text = printable(format!("-m {name}"));
    let what = if is_chance(name) { Criterion::Statistic(text) } else { Criterion::Other(text) };
    Match { negated: false, what }
}

pub(in crate::firewall) fn unknown_target(name: &str) -> Target {
    match name {
        "NFQUEUE" | "QUEUE" => Target::Queue(printable(name)),
        "TPROXY" => Target::Tproxy(printable(name)),
        "CT" => Target::Ct(printable(name)),
        name if is_passing(name) => Target::Log(printable(name)),
        name => Target::Other(printable(name)),
    }
}
