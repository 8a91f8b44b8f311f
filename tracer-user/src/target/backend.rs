// SPDX-License-Identifier: MIT OR Apache-2.0
//! What knows pods or containers by name, behind one trait.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use super::error::TargetError;
use super::wanted::{PodName, Wanted};
use crate::node::Netns;
use crate::text::printable;

/// Whose packets are followed.
#[derive(Clone, Debug)]
pub struct Target {
    /// As shown ("shop/checkout-7d9f"); safe to print.
    pub name: String,
    pub kind: Kind,
    /// `None`: it does not run here.
    pub netns: Option<Netns>,
    /// Its addresses, without loopback and link-local ones.
    pub addresses: Vec<IpAddr>,
    /// It shares the namespace of its node.
    pub host_network: bool,
    /// Which of the pods or containers that a backend knows; `None`: a namespace or a process.
    pub known: Option<Known>,
    /// What the user should know of how it was found; safe to print.
    pub remarks: Vec<String>,
}

impl Target {
    /// A namespace of the network's that stands for a pod is called as the user calls the pod.
    #[must_use]
    pub fn called(mut self, pod: &PodName) -> Self {
        if self.known.as_ref().is_some_and(|known| known.namespace.is_none()) {
            self.name = printable(pod.to_string());
            self.netns = self.netns.map(|netns| netns.with_name(pod.to_string()));
        }
        self
    }
}

/// What a backend's entries are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Pods,
    Containers,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pods => "pod",
            Self::Containers => "container",
        })
    }
}

/// A pod or container that a backend knows. The strings are the runtime's: anything may be in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Kubernetes' namespace; `None` where there is no such thing.
    pub namespace: Option<String>,
    pub name: String,
    /// What the backend calls it: a sandbox' or container's id, a file.
    pub id: String,
    pub labels: BTreeMap<String, String>,
    /// Made at, ns since 1970; tells an old sandbox of a pod from its present one.
    pub created_ns: i64,
    /// Stopped: it has no network any more.
    pub stopped: bool,
}

impl Known {
    /// `NS/NAME`, or the name; safe to print.
    pub fn shown(&self) -> String {
        let name = printable(&self.name);
        match &self.namespace {
            Some(namespace) => format!("{}/{name}", printable(namespace)),
            None => name,
        }
    }
}

/// Where a [`Known`] is.
#[derive(Clone, Debug)]
pub struct Located {
    /// `None`: not on this node.
    pub netns: Option<Netns>,
    pub host_network: bool,
    /// As the backend knows them; may be empty.
    pub addresses: Vec<IpAddr>,
    /// The node it runs on, where that is known and the namespace is not.
    pub node: Option<NodeOf>,
}

/// The node of a pod that was not found by who runs pods here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeOf {
    /// This one all the same.
    This(String),
    Other(String),
}

/// A place that knows pods, or containers, by name. It may ask a daemon: every answer has a time limit.
pub trait Backend {
    /// What it is, for messages: "containerd at /run/...". Safe to print.
    fn describe(&self) -> String;

    fn kind(&self) -> Kind {
        Kind::Pods
    }

    /// It knows pods of all nodes, and is asked when nobody here knows what is wanted.
    fn is_elsewhere(&self) -> bool {
        false
    }

    /// Everything it knows here.
    fn list(&self) -> Result<Vec<Known>, TargetError>;

    /// What of that may be wanted: at least what fits.
    fn list_for(&self, _: &Wanted) -> Result<Vec<Known>, TargetError> {
        self.list()
    }

    /// Where one of these is.
    fn locate(&self, known: &Known) -> Result<Located, TargetError>;
}
