// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `iptables-save` prints, read. The text comes from outside: anything may be in it.

mod flags;
mod matches;
mod print;
mod save;
mod targets;
mod words;

pub(super) use matches::is_chance;
pub(super) use print::print;
pub(super) use save::made;
pub use save::{Saved, parse};
pub(super) use targets::is_passing;
