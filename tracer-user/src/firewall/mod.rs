// SPDX-License-Identifier: MIT OR Apache-2.0
//! The firewall: rules of both iptables back ends and of nftables in one model, their readers, the walk of one packet
//! through them, and the rules that nearly matched. Pure; what rules ask of the node comes by [`NodeFacts`].

mod at;
mod attribute;
mod bases;
pub mod bytecode;
mod effect;
mod facts;
pub mod iptables;
mod matching;
mod membership;
mod names;
mod nat_kind;
mod near;
mod other_hooks;
mod packet;
mod rule;
mod set;
mod truth;
mod walk;
mod wording;
mod xt;

pub use at::At;
pub use attribute::{
    Attribution, Hiding, attribute_drop, attribute_mark, attribute_nat, attribute_queue, hides, lowers_ttl,
};
pub use bases::Aside;
pub use effect::{Done, Effect};
pub use facts::NodeFacts;
pub use matching::Matched;
pub use membership::in_set;
pub use names::RuleRef;
pub use nat_kind::NatKind;
pub use near::{Miss, NearMiss, near_misses, nearly_spared};
pub use other_hooks::{Beside, attribute_beside};
pub use packet::{CtDirection, CtState, PacketView};
pub use rule::{
    Backend, Base, Chain, ConnmarkOp, Counters, Criterion, IpRange, Match, NatTo, Policy, PortRange, Rule,
    Side, Table, TableFamily, Target,
};
pub use set::{IpSet, Member, MemberField};
pub use truth::Truth;
pub use walk::{Chance, Step, Verdict, Walk, walk, walk_aside, walk_hook, walk_hook_by_chance};
