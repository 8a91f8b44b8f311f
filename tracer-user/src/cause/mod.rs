// SPDX-License-Identifier: MIT OR Apache-2.0
//! Causes: their catalogue, the finding that names one, and what both the model and the comparison say of one.

pub(crate) mod bare;
pub(crate) mod catalogue;
pub(crate) mod cluster_address;
pub(crate) mod diversion;
pub(crate) mod early_mark;
mod finding;
pub(crate) mod ipsec;
pub(crate) mod kube_proxy;
pub(crate) mod listening;
pub(crate) mod nat_addresses;
pub(crate) mod no_route;
pub(crate) mod policies;
pub(crate) mod policy_sets;
pub(crate) mod service_translation;
pub(crate) mod spared;

pub use catalogue::{CATALOGUE, CauseKind, markdown};
pub use finding::{Certainty, Fact, Finding, Place};
