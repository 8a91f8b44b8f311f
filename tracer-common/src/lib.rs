// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the BPF programs and user space have in common: the records that cross the ring
//! buffer, the constants handed to the programs before they are loaded, and the table of kernel
//! fields that the programs read.
//!
//! Everything here is plain data with a fixed layout and no padding holes.
#![no_std]

mod config;
mod event;
mod fields;

pub use config::{Config, FOLLOW_DST, FOLLOW_SRC, MAX_ADDRS, MAX_PORTS, Prefix, RDONLY_CAST, Settings};
pub use event::{
    CT_TUPLE_REPLY, Counters, DIR_FORWARD, DIR_REPLY, DeviceKey, Event, FLAG_ENCAP, FLAG_FRAG, FLAG_IPV6,
    FLAG_NO_WINDOW, FLAG_QUOTED, FLAG_REVERSE, FLAG_TRUNCATED, Kind, OuterV4, SCOPE_NOWHERE, STACK_DEPTH,
    Tuple,
};
pub use fields::{ABSENT, FIELD_SPECS, FieldSpec, Fields};

/// Positions a netfilter program can stand at, per hook: one entry function each (`nf_pos0` ...),
/// because a netfilter program is told neither its priority nor a cookie.
pub const NF_POSITIONS: usize = 12;
/// Entries of the flow table (`FLOWS`); more tuples than this and the oldest are evicted.
pub const FLOW_TABLE_SIZE: u32 = 65_536;
/// Bytes of the sieve: one byte a slot, non-zero where some tuple of the flow table hashes to.
pub const SIEVE_SIZE: usize = 65_536;
