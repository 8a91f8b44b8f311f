// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rules of nf_tables as the kernel keeps and dumps them: expressions that load fields of the packet into registers,
//! compare them, look them up in sets, and act. They are read without running them: a register holds not a value but
//! where its value comes from.
//!
//! Everything here is pure: messages in, [`Ruleset`] out. What is not understood is kept by name.

mod action;
mod comparison;
mod decode;
mod expression;
mod field;
mod load;
mod masks;
mod register;
mod ruleset;
mod sets;
mod wire;
mod words;

pub(super) use comparison::address_type;
pub use ruleset::{Dump, Outside, Reader, Ruleset, SetKey, set_key};
