// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of the library: one program, so that it is linked once.

#[cfg(feature = "kube")]
#[path = "../api/mod.rs"]
mod api;
#[path = "../listings/mod.rs"]
mod listings;
#[path = "../runtime/mod.rs"]
mod runtime;
#[path = "../schema/mod.rs"]
mod schema;
mod world;

mod arbitrary;
mod architecture;
mod bytecode;
mod causes;
mod changes;
mod check;
mod cluster;
mod containers;
mod copies;
mod cri;
mod egress;
mod evidence;
mod explain_text;
mod faults;
mod fib;
mod firewall;
mod fragments;
mod invalid;
mod json;
mod kube_proxy_nft;
mod leads;
mod native_nft;
mod no_harm;
mod no_reply;
mod node;
mod paths;
mod policies;
mod policy_causes;
mod programs;
mod record;
mod screen;
