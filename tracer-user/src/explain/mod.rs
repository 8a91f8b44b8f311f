// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why: from journeys, the topology and what was read of the node to causes and fixes. Pure: no I/O, time is
//! an argument.
//!
//! Causes are told by kind of evidence. Where the evidence does not single one out, it is called likely or
//! possible, or nothing is said.

mod application;
mod arp_watch;
mod attribution;
pub(crate) mod catalogue;
pub(crate) mod cluster_address;
mod compare;
mod context;
mod delivered_unanswered;
mod drop_rate;
mod drop_reasons;
mod drops;
mod duplicate;
pub(crate) mod egress;
mod egress_policy_match;
mod egress_reply;
mod explainer;
mod finding;
mod firewall;
mod flow_history;
mod fwmark;
mod hairpin;
pub(crate) mod kube_proxy;
mod ledger;
pub(crate) mod listeners;
mod loops;
mod lost;
mod mtu;
pub(crate) mod nat_detour;
mod neighbour;
mod neighbour_entries;
mod neighbour_owner;
mod never_sent;
mod no_reply;
mod other_hooks;
mod packet;
pub(crate) mod policies;
pub(crate) mod policy_sets;
mod programs;
mod remote_errors;
mod routing;
mod service_nat;
mod slow;
mod source_ports;
mod split_routing;
mod tunnel;
mod unanswered;
mod unmasqueraded;
mod wrong_route;

pub use attribution::HopAuthors;
pub use catalogue::{CATALOGUE, CauseKind, markdown};
pub use explainer::{Answered, Asked, Explainer, Tick};
pub use finding::{Certainty, Fact, Finding, Place};
pub use ledger::Told;
