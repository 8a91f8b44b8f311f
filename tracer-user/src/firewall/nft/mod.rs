// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `nft -j` prints, read (libnftables-json(5)). The text comes from outside, and its schema grows: what
//! is not understood is kept as text and named.

mod actions;
mod fields;
mod listing;
mod values;

pub use listing::{Listed, parse};
