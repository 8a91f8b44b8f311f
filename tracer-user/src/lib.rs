// SPDX-License-Identifier: MIT OR Apache-2.0
//! egwtrace: follow one flow through a Kubernetes node, hop by hop.
//!
//! Data moves one way: [`bpf`] → [`flow`] → [`explain`] → [`output`]; [`target`] and [`node`] feed both ends.

pub mod bpf;
pub mod check;
pub mod cli;
pub mod cluster;
pub mod explain;
pub mod fib;
pub mod flow;
pub mod node;
pub mod output;
pub mod record;
pub mod target;
pub mod trace;
