// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the user points at: a pod, a container, a network namespace, a process.

mod backend;
mod backends;
mod cluster;
pub mod containerd;
pub mod cri;
pub mod docker;
pub(crate) mod egress_policies;
mod error;
mod namespaces;
pub mod podman;
pub mod rpc;
mod select;
mod suggest;
mod wanted;

pub use backend::{Backend, Kind, Known, Located, NodeOf, Target};
pub use backends::{Backends, own_addresses};
pub use cluster::ClusterPods;
pub use error::TargetError;
pub use namespaces::NamedNamespaces;
pub use select::{Requirement, Selector};
pub use suggest::{closest, or_list};
pub use wanted::{PodName, Wanted, at_home, find, find_netns, fitting};
