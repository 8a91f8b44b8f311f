// SPDX-License-Identifier: MIT OR Apache-2.0
//! The node as it is when something needs explaining: plain data, read once, never per packet.
//!
//! [`Evidence::collect`] reads; everything else here is pure. What could not be read is a line in
//! [`NetnsEvidence::unreadable`], never a failure.

mod change;
mod collect;
mod connection;
mod facts;
mod model;
mod routing;
mod rule_insert;
mod xfrm;

pub(crate) use change::ONLINK;
pub use change::{Change, route_words};
pub use collect::{CounterFiles, parse_ipset_dump, read_nftables};
pub use connection::{ConnectionDirection, ConnectionTuple, TrackedConnection};
pub use model::{AttachPoint, Attached, Conntrack, Evidence, NetnsEvidence};
pub use routing::Routed;
pub(crate) use rule_insert::{accepting, accepting_mark, jumping, replacing_mark};
pub use xfrm::{XfrmDirection, XfrmPolicy, XfrmState, XfrmTemplate};
