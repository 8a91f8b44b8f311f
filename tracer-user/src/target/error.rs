// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a target is not found. One line each: the name, and what is accepted. Values are quoted or printable.

use super::backend::Kind;
use super::rpc::RpcError;
use crate::cluster::ApiError;
use crate::node::{NetlinkError, NetnsError};

#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    #[error(
        "no container runtime found, and no network namespace is called {pod}; accepted: --pod with the name of a namespace under /run/netns{suggestion}, --netns NAME|PATH, --pid PID of a process in the pod, or --runtime-endpoint PATH of containerd's or CRI-O's socket"
    )]
    NoRuntime { pod: String, suggestion: String },
    #[error("no {kind} {name} here{suggestion}; asked: {asked}; accepted: {accepted}")]
    NotFound { kind: Kind, name: String, suggestion: String, asked: String, accepted: &'static str },
    #[error("{what} fits {count} {kind}s: {fits}; {advice}")]
    Ambiguous { what: String, count: usize, kind: Kind, fits: String, advice: &'static str },
    #[error("{kind} {name} is not running: {why}")]
    Stopped { kind: Kind, name: String, why: &'static str },
    #[error(
        "nothing that runs containers was found for --container {name}: no socket of docker, podman, containerd or CRI-O at its usual place; accepted: --runtime-endpoint PATH of the socket, --pid PID of a process in the container"
    )]
    NoContainerRuntime { name: String },
    #[error("cannot ask {asked}: {source}{hint}")]
    Runtime { asked: String, source: RpcError, hint: &'static str },
    #[error("{asked} cannot say where it runs: {source}{hint}")]
    Cluster { asked: String, source: ApiError, hint: &'static str },
    #[error(
        "{asked} says nothing about the network namespace of {name} ({missing}); accepted instead: --pid PID of a process in it"
    )]
    NoNamespace { asked: String, name: String, missing: String },
    #[error(
        "--runtime-endpoint {value}: {problem}; accepted: the path of a Unix socket, such as /run/containerd/containerd.sock or unix:///run/crio/crio.sock"
    )]
    Endpoint { value: String, problem: String },
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

impl TargetError {
    /// What was asked runs no pods: its Container Runtime Interface is off or not there.
    pub fn is_unimplemented(&self) -> bool {
        matches!(self, Self::Runtime { source, .. } if source.is_unimplemented())
    }

    /// What answers there speaks something else.
    pub(super) fn is_another_tongue(&self) -> bool {
        self.is_unimplemented()
            || matches!(self, Self::Runtime { source: RpcError::NotGrpc(_) | RpcError::NotHttp(_), .. })
    }
}
