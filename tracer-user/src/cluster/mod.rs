// SPDX-License-Identifier: MIT OR Apache-2.0
//! The cluster, as its API server tells it: where a pod runs, what a service stands for, whose an address is. Only
//! questions are asked; what is not answered is missing, and said to be. Everything happens in a thread of its own.

pub mod egress;
pub mod kinds;
mod known;
mod object;
mod store;

#[cfg(feature = "kube")]
mod access;
#[cfg(feature = "kube")]
mod api;
#[cfg(feature = "kube")]
mod exec;
#[cfg(feature = "kube")]
mod thread;
#[cfg(feature = "kube")]
mod watch;

#[cfg(feature = "kube")]
pub use access::{Access, AccessError, Wish};
#[cfg(feature = "kube")]
pub use api::{Api, ApiError, Change, Changes, List, Query};
pub use known::Known;
pub use object::{Key, Kind, Meta, Object, Owner, or_default};
pub use store::{State, Store};
#[cfg(feature = "kube")]
pub use thread::Cluster;
