// SPDX-License-Identifier: MIT OR Apache-2.0
//! The real binary on real packets: each test puts up a lab of its own, traces a flow of it, and compares what was
//! printed with what happened.

#[path = "../../../tracer-user/tests/api/mod.rs"]
mod api;
mod capabilities;
mod changes;
mod check;
mod cluster;
mod drops;
mod egress;
mod explain;
mod fragments;
mod journey;
mod kinds;
mod loss;
mod others;
mod pods;
mod policies;
mod replies;
mod run_ends;
mod running;
mod same_node;
#[path = "../../../tracer-user/tests/schema/mod.rs"]
mod schema;
mod services;
mod tables;
