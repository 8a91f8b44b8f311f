// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is registered at the netfilter hooks of a namespace.
//!
//! The kernel's own list (nfnetlink_hook, 5.14 and later) is exact; where it is not to be had, the list is
//! composed from the nftables base chains, the legacy tables and what is known to come with them. Asking
//! makes a kernel load the modules nf_tables and nfnetlink_hook if it has them, as `nft list hooks` does.

mod chain;
mod compose;
mod dump;
mod interval;
mod source;

pub(crate) use chain::nat_priority;
pub use interval::Interval;
pub use source::{HookSource, Ruleset};
