// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `nft -j list ruleset` and `ipset save` print, read: what the kernel's dumps are compared with, and rules written as
//! text in tests.
#![allow(dead_code, unused_imports, clippy::allow_attributes, reason = "no test uses all of it")]

mod actions;
mod fields;
mod ipset;
pub(crate) mod nft;
mod values;
mod words;

pub(crate) use ipset::parse_ipset_save;
