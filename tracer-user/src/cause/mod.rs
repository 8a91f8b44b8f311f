// SPDX-License-Identifier: MIT OR Apache-2.0
//! Causes: their catalogue, the finding that names one, and what both the model and the comparison say of one.

pub(crate) mod catalogue;
pub(crate) mod diversion;
mod finding;
pub(crate) mod kube_proxy;
pub(crate) mod listening;
pub(crate) mod policies;

pub use catalogue::{CATALOGUE, CauseKind, markdown};
pub use finding::{Certainty, Fact, Finding, Place};
