// SPDX-License-Identifier: MIT OR Apache-2.0
//! The cluster, as its API server tells it: where a pod runs, what a service stands for, whose an address is. Only
//! questions are asked; what is not answered is missing, and said to be. Everything happens in a thread of its own.

mod asked;
pub mod egress;
pub mod kinds;
mod known;
mod names;
mod object;
mod reach;
mod store;

#[cfg(feature = "kube")]
mod access;
#[cfg(feature = "kube")]
mod api;
#[cfg(feature = "kube")]
mod client;
#[cfg(feature = "kube")]
mod exec;
#[cfg(feature = "kube")]
mod kubeconfig;
#[cfg(feature = "kube")]
mod look_up;
#[cfg(feature = "kube")]
mod questions;
#[cfg(feature = "kube")]
mod thread;
#[cfg(feature = "kube")]
mod tls;
#[cfg(feature = "kube")]
mod watch;

#[cfg(not(feature = "kube"))]
mod off;

#[cfg(feature = "kube")]
pub use access::{Access, AccessError};
#[cfg(feature = "kube")]
pub use api::{Api, ApiError, Change, Changes, List, Query};
pub use asked::{ASKED, Verb, is_asked};
pub use known::Known;
pub use names::Names;
pub use object::{Key, Kind, Meta, Object, or_default};
#[cfg(not(feature = "kube"))]
pub use off::{Access, AccessError, ApiError, Cluster};
pub use reach::{Reach, Wish};
pub use store::{State, Store};
#[cfg(feature = "kube")]
pub use thread::Cluster;
