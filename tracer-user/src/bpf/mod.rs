// SPDX-License-Identifier: MIT OR Apache-2.0
//! Everything that talks to the kernel's BPF: its type information, loading, attaching.

pub mod btf;
mod link;
mod messages;
mod programs;
mod symbols;
mod sys;
mod tracer;

pub use link::{LinkError, TcDirection, TcOrder, link_netfilter, link_tcx};

pub use programs::{LoadError, ProgramKind, Programs, Refusal};
pub use symbols::{Symbols, SymbolsError};
pub use sys::{ProgStats, enable_stats, prog_stats};
pub use tracer::{HookStatus, Tracer, TracerError};
