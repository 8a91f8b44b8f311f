// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a pod is, behind one trait.

use std::net::IpAddr;

use crate::node::{NetlinkError, Netns, NetnsError};
use crate::target::PodName;

/// Whose packets are followed.
#[derive(Clone, Debug)]
pub struct Target {
    /// As shown ("default/visitor").
    pub name: String,
    pub netns: Netns,
    /// Its addresses, without loopback and link-local ones.
    pub addresses: Vec<IpAddr>,
}

/// A place that knows pods by name.
pub trait Backend {
    /// What it is, for messages: "containerd at /run/...".
    fn describe(&self) -> String;

    /// The pod's namespace; `None` when no such pod is known here. More than one fit is an error.
    fn resolve(&self, pod: &PodName) -> Result<Option<Netns>, TargetError>;

    /// The names it would have accepted, for suggestions.
    fn names(&self) -> Vec<String>;
}

#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    #[error(
        "no container runtime found, and no network namespace is called {pod}; accepted: --pod with the name of a namespace under /run/netns{suggestion}, --netns NAME|PATH, or --pid PID of a process in the pod"
    )]
    NoPod { pod: String, suggestion: String },
    #[error("--pod {pod} fits more than one namespace: {fits}; say which one with --netns")]
    Ambiguous { pod: String, fits: String },
    #[error(
        "no network namespace {name}; accepted: a name under /run/netns{suggestion}, or a path such as /proc/PID/ns/net"
    )]
    NoNetns { name: String, suggestion: String },
    #[error("no process {pid}; accepted: the PID of a running process, as seen from here")]
    NoProcess { pid: u32 },
    #[error(
        "{what} is a left-over file and no network namespace any more; remove it with: ip netns del {name}"
    )]
    LeftOver { what: String, name: String },
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}
