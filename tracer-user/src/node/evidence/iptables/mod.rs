// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `iptables-save` prints, read. The text comes from outside: anything may be in it.

mod matches;
mod save;
mod targets;
pub(super) mod words;

pub use save::{Saved, parse};
