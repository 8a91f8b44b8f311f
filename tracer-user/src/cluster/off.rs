// SPDX-License-Identifier: MIT OR Apache-2.0
//! In the place of what talks to the API server, in a build without it: there is never a cluster.

use std::convert::Infallible;
use std::sync::Arc;

use super::kinds::{EndpointSlice, Pod, Service};
use super::known::Known;
use super::reach::Wish;

/// What can be wrong with credentials.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    #[error(
        "this egwtrace was built without Kubernetes' API (cargo feature kube); accepted: no --kubeconfig and no --context"
    )]
    NoFile,
}

/// What becomes of a question.
pub type ApiError = AccessError;

/// There is none.
#[derive(Clone, Debug)]
pub struct Access(Infallible);

impl Access {
    pub(super) fn find(wish: &Wish) -> Result<Option<Self>, AccessError> {
        if wish.kubeconfig.is_some() { Err(AccessError::NoFile) } else { Ok(None) }
    }
}

/// There is none.
#[derive(Clone, Debug)]
pub struct Cluster(Infallible);

impl Cluster {
    pub(super) fn start(access: Access) -> Result<Self, AccessError> {
        match access.0 {}
    }

    pub fn watch(&self) {
        match self.0 {}
    }

    pub fn known(&self) -> &Arc<Known> {
        match self.0 {}
    }

    pub fn pods_called(&self, _: Option<&str>, _: &str) -> Result<Vec<Pod>, ApiError> {
        match self.0 {}
    }

    pub fn pods_labelled(&self, _: Option<&str>, _: &str) -> Result<Vec<Pod>, ApiError> {
        match self.0 {}
    }

    pub fn services_called(&self, _: Option<&str>, _: &str) -> Result<Vec<Service>, ApiError> {
        match self.0 {}
    }

    pub fn endpoints(&self, _: &str, _: &str) -> Result<Vec<EndpointSlice>, ApiError> {
        match self.0 {}
    }
}
