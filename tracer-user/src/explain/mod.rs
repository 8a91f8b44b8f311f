// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why: from journeys, the topology and what was read of the node to causes and fixes. Pure: no I/O, time is
//! an argument.
//!
//! Causes are told by kind of evidence. Where the evidence does not single one out, it is called likely or
//! possible, or nothing is said.

mod application;
mod arp_watch;
mod attribution;
mod came_back;
mod compare;
mod confirm;
mod context;
mod delivered_unanswered;
mod drop_rate;
mod drop_reasons;
mod drops;
mod duplicate;
mod egress;
mod egress_policy_match;
mod egress_reply;
mod explainer;
mod firewall;
mod flow_history;
mod hairpin;
mod invalid;
mod large_lost;
mod ledger;
mod loops;
mod lost;
mod mtu;
mod nat_detour;
mod neighbour;
mod neighbour_entries;
mod never_sent;
mod no_reply;
mod other_hooks;
mod packet;
mod programs;
mod remote_errors;
mod slow;
mod source_ports;
mod split_routing;
mod tracking;
mod unanswered;

pub use attribution::HopAuthors;
pub use came_back::{Heard, HeardAs, HeardError, OpenRequest};
pub use explainer::{Answered, Asked, Explainer, Tick};
pub use ledger::Told;
