// SPDX-License-Identifier: MIT OR Apache-2.0
//! The node as it is when something needs explaining: plain data, read once, never per packet; and the walk
//! of one packet through its rules.
//!
//! [`Evidence::collect`] reads; everything else here is pure. What could not be read is a line in
//! [`NetnsEvidence::unreadable`], never a failure.

mod attribute;
mod bases;
mod beside;
pub mod bytecode;
mod collect;
mod connection;
mod effect;
mod ipset_save;
pub mod iptables;
mod matching;
mod membership;
mod model;
mod names;
mod near;
pub mod nft;
mod packet;
mod routing;
mod rule;
mod set;
mod walk;
mod wording;
mod xt;

pub use attribute::{
    Attribution, attribute_drop, attribute_mark, attribute_nat, attribute_queue, lowers_ttl,
};
pub use beside::{Beside, attribute_beside};
pub(crate) use collect::listening;
pub use collect::{CounterFiles, parse_ipset_dump, read_nftables};
pub use connection::{ConnectionDirection, ConnectionTuple, TrackedConnection};
pub use effect::{Done, Effect};
pub use ipset_save::parse_ipset_save;
pub use matching::{Matched, Truth};
pub use model::{AttachPoint, Attached, Conntrack, Evidence, NetnsEvidence, Socket};
pub use names::RuleRef;
pub use near::{Miss, NearMiss, near_misses};
pub use packet::{CtDirection, CtState, PacketView};
pub use routing::Routed;
pub use rule::{
    Backend, Base, Chain, ConnmarkOp, Counters, Criterion, IpRange, Match, NatTo, Policy, PortRange, Rule,
    Side, Table, TableFamily, Target,
};
pub use set::{IpSet, Member, MemberField};
pub use walk::{At, Chance, Step, Verdict, Walk, walk, walk_hook, walk_hook_by_chance};
