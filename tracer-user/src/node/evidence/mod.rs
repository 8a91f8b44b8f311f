// SPDX-License-Identifier: MIT OR Apache-2.0
//! The node as it is when something needs explaining: plain data, read once, never per packet; and the walk
//! of one packet through its rules.
//!
//! [`Evidence::collect`] reads; everything else here is pure. What could not be read is a line in
//! [`NetnsEvidence::unreadable`], never a failure.

pub mod iptables;
mod model;
mod packet;
mod rule;
mod set;

pub use model::{Conntrack, Evidence, NetnsEvidence, Socket};
pub use packet::{CtDirection, CtState, PacketView};
pub use rule::{
    Backend, Base, Chain, ConnmarkOp, Counters, Criterion, IpRange, Match, NatTo, Policy, PortRange, Rule,
    RuleRef, Side, Table, TableFamily, Target,
};
pub use set::{IpSet, Member, MemberField};
