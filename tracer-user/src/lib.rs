// SPDX-License-Identifier: MIT OR Apache-2.0
//! egwtrace: follow one flow through a Kubernetes node, hop by hop.
//!
//! Data moves one way: [`bpf`] → [`flow`] → [`explain`] → [`output`]; [`target`], [`node`] and
//! [`snapshot`] feed both ends. [`firewall`] is below all but [`node`].

pub mod bpf;
pub mod cause;
pub mod check;
pub mod cli;
pub mod cluster;
pub mod explain;
pub mod fib;
pub mod firewall;
pub mod flow;
pub mod model;
pub mod node;
pub mod output;
pub mod record;
pub mod snapshot;
pub mod target;
pub mod text;
pub mod trace;
