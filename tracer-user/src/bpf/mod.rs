// SPDX-License-Identifier: MIT OR Apache-2.0
//! Everything that talks to the kernel's BPF: its type information, loading, attaching.

pub mod btf;
mod netns;
mod symbols;

pub use netns::{in_netns, netns_inode};
pub use symbols::{Symbols, SymbolsError};
