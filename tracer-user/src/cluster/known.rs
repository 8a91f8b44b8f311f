// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is known of the cluster by now. Written by the thread that asks, read by whoever prints.
#![cfg_attr(not(feature = "kube"), expect(dead_code, reason = "written by who asks the server"))]

use std::sync::{Arc, PoisonError, RwLock};

use super::egress::Stores;
use super::kinds::{Node, Pod, Service};
use super::names::Names;
use super::object::{Kind, Object};
use super::store::{State, Store};

/// See the module.
#[derive(Debug, Default)]
pub struct Known {
    server: String,
    namespace: String,
    /// Why nothing can be asked; safe to print.
    trouble: RwLock<Option<String>>,
    /// Of the pods that are asked for one by one.
    pods: RwLock<State>,
    pub names: Names,
    pub services: Arc<Store<Service>>,
    pub nodes: Arc<Store<Node>>,
    /// EgressGateway's.
    pub egress: Stores,
}

impl Known {
    /// `namespace`: of what is named without one.
    pub fn at(server: String, namespace: &str) -> Self {
        Self { server, namespace: namespace.to_owned(), ..Self::default() }
    }

    /// "https://10.96.0.1:443"; safe to print.
    pub fn server(&self) -> &str {
        &self.server
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// How far each kind can be relied on.
    pub fn states(&self) -> Vec<(Kind, State)> {
        let pods = self.pods.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut states = vec![state(&self.services), state(&self.nodes), (Pod::KIND, pods)];
        states.extend(self.egress.states());
        states
    }

    pub fn trouble(&self) -> Option<String> {
        self.trouble.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_pods(&self, state: State) {
        *self.pods.write().unwrap_or_else(PoisonError::into_inner) = state;
    }

    pub(super) fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.write().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

fn state<K: Object>(store: &Store<K>) -> (Kind, State) {
    (K::KIND, store.state())
}
