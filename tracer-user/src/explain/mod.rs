// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why: from journeys, the topology and what was read of the node to causes and fixes. Pure: no I/O, time is
//! an argument.
//!
//! Causes are told by kind of evidence. Where the evidence does not single one out, it is called likely or
//! possible, or nothing is said.

mod application;
mod askers;
mod authors;
mod beside;
mod beyond;
pub(crate) mod catalogue;
mod compare;
mod connections;
mod detour;
mod drops;
mod duplicate;
pub(crate) mod egress;
mod egress_reply;
mod explainer;
mod finding;
mod firewall;
mod fwmark;
mod hairpin;
mod ignored;
mod ledger;
mod lookups;
mod loops;
mod lost;
mod macs;
mod neighbour;
mod odds;
mod packet;
pub(crate) mod policies;
mod ports;
mod programs;
mod reasons;
mod routing;
mod selection;
mod service;
pub(crate) mod services;
mod silence;
mod silent_owner;
mod size;
mod slow;
pub(crate) mod sockets;
pub(crate) mod translated;
mod tunnel;
mod unmasqueraded;
mod unsent;
mod view;
mod waiting;

pub use authors::HopAuthors;
pub use catalogue::{CATALOGUE, CauseKind, markdown};
pub(crate) use drops::mac;
pub use explainer::{Answered, Asked, Explainer, Tick};
pub use finding::{Certainty, Fact, Finding, Place};
pub use ledger::Told;
