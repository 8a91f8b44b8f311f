// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the user points at: a pod, a network namespace, a process.

mod backend;
mod namespaces;
mod suggest;
mod wanted;

pub use backend::{Backend, Target, TargetError};
pub use namespaces::NamedNamespaces;
pub use suggest::{closest, or_list};
pub use wanted::{PodName, Wanted, find, find_netns};
