// SPDX-License-Identifier: MIT OR Apache-2.0
//! What there is to ask on this node.

use std::net::IpAddr;
use std::path::PathBuf;

use super::backend::{Backend, Kind};
use super::cluster::ClusterPods;
use super::containerd::Containerd;
use super::cri::{self, Cri};
use super::docker::{self, Docker};
use super::error::TargetError;
use super::namespaces::NamedNamespaces;
use super::podman::Podman;
use super::wanted::addresses;
use crate::cluster::Cluster;
use crate::node::Netns;

/// Addresses of these namespaces; of one that cannot be read, none.
pub fn own_addresses(nodes: &[Netns]) -> Vec<IpAddr> {
    let of = |netns: &Netns| addresses(netns).unwrap_or_default();
    nodes.iter().flat_map(of).collect()
}

/// Everything that may know pods or containers here.
pub struct Backends {
    all: Vec<Box<dyn Backend>>,
    sockets: Vec<PathBuf>,
}

impl Backends {
    /// Finds sockets; asks nobody yet. `endpoint`: `--runtime-endpoint`, instead of the usual places.
    pub fn of_this_node(endpoint: Option<&str>) -> Result<Self, TargetError> {
        let sockets = match endpoint {
            Some(value) => vec![cri::parse_endpoint(value)?],
            None => cri::usual(),
        };
        let mut all: Vec<Box<dyn Backend>> = Vec::new();
        for kind in [Kind::Pods, Kind::Containers] {
            for socket in &sockets {
                all.push(Box::new(Cri::new(socket, kind)?));
            }
        }
        for socket in &sockets {
            all.push(Box::new(Containerd::new(socket)?));
        }
        let docker = if endpoint.is_some() { sockets.clone() } else { docker::usual() };
        for socket in docker {
            all.push(Box::new(Docker::new(&socket)?));
        }
        if endpoint.is_none() {
            all.extend(Podman::usual().map(|podman| Box::new(podman) as Box<dyn Backend>));
        }
        all.push(Box::new(NamedNamespaces));
        Ok(Self { all, sockets })
    }

    /// And the cluster, for what runs on other nodes. `nodes`: the namespaces of this one.
    #[must_use]
    pub fn with_cluster(mut self, cluster: Option<&Cluster>, nodes: &[Netns]) -> Self {
        if let Some(cluster) = cluster {
            self.all.push(Box::new(ClusterPods::new(cluster.clone(), own_addresses(nodes))));
        }
        self
    }

    pub fn all(&self) -> Vec<&dyn Backend> {
        self.all.iter().map(|b| &**b).collect()
    }

    /// The sockets of container runtimes that speak the Container Runtime Interface, or should.
    pub fn sockets(&self) -> &[PathBuf] {
        &self.sockets
    }
}
