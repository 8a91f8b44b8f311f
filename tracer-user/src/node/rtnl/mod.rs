// SPDX-License-Identifier: MIT OR Apache-2.0
//! rtnetlink: what a namespace's devices, addresses, routes, rules and neighbours are.

mod address;
mod link;
mod neighbour;
mod nexthop;
mod query;
mod route;
mod rule;
mod traffic;

pub use address::Address;
pub use link::{Link, Port, Vxlan};
pub use neighbour::{FdbEntry, Neighbour};
pub use nexthop::Nexthop;
pub use query::{Found, RouteAnswer, RouteQuestion, Rtnl};
pub use route::{NextHop, Route};
pub use rule::{Conditions, Ports, Rule};
pub use traffic::{Filter, Qdisc};
