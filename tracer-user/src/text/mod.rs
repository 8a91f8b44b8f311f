// SPDX-License-Identifier: MIT OR Apache-2.0
//! Text that every room may use: escaping what comes from outside, and names of numbers. Imports nothing of ours.

mod escape;
mod names;

pub(crate) use escape::is_unprintable;
pub use escape::{escape, printable, quoted};
pub(crate) use names::{icmp_error, icmp_name, mac, protocol_name, route_error, table_name};
