// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can be wrong with a command line. One line each: the bad value, and what is accepted.

use tracer_common::MAX_ADDRS;

use crate::cluster::AccessError;
use crate::node::NetnsError;
use crate::target::TargetError;

/// Traced, however it ended: signal, count, duration, closed pipe.
pub const EXIT_TRACED: u8 = 0;
/// With --fail-on-drop: at least one packet of the flow was dropped. `check`: something is wrong.
pub const EXIT_DROP_SEEN: u8 = 1;
/// The command line or the environment does not allow tracing.
pub const EXIT_USAGE: u8 = 2;

/// Values are already quoted and printable.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error(
        "nothing to follow; accepted: --pod NAME, --selector LABELS, --container NAME, --netns NAME, --pid PID, --src ADDR or --dst ADDR, alone or together (egwtrace --help has examples)"
    )]
    Nothing,
    #[error("{flag} {value}: {problem}; accepted: {accepted}")]
    Value { flag: &'static str, value: String, problem: String, accepted: &'static str },
    #[error(
        "{flag} {value}: no address found ({reason}); accepted: a name that resolves here, an IP address, a CIDR"
    )]
    Unresolvable { flag: &'static str, value: String, reason: String },
    #[error("{flag} {value}: {problem}")]
    Object { flag: &'static str, value: String, problem: String },
    #[error("{first} and {second} cannot both match: {why}")]
    Contradiction { first: String, second: String, why: String },
    #[error(
        "{flag} {value} stands for {count} addresses, and at most {MAX_ADDRS} can be followed at once; give one of them, or a CIDR"
    )]
    TooMany { flag: &'static str, value: String, count: usize },
    #[error(
        "{target} has no {family} address, and {flag} {value} is {family}; give --src to follow another address"
    )]
    NoSuchFamily { target: String, family: &'static str, flag: &'static str, value: String },
    #[error("{target} has no address yet; give --src or --dst to follow something else through it")]
    NoAddress { target: String },
    #[error("check sends and waits for nothing: {flag} is a flag of tracing (see egwtrace check --help)")]
    NotOfCheck { flag: String },
    #[error("check looks at one packet, and {what}; accepted: {accepted}")]
    NotOnePacket { what: String, accepted: &'static str },
    #[error("--namespace says where --pod, --selector and svc/NAME look; give one of them with it")]
    LoneNamespace,
    #[error("--follow stays with a pod; give --pod or --selector with it")]
    NothingToStayWith,
    #[error(
        "{pod} is on the host's network: it has no network namespace of its own, so its packets are the node's; accepted: --dst ADDR, --dport or --sport PORT with it, to tell them apart"
    )]
    HostNetwork { pod: String },
    #[error("{0}")]
    Syntax(String),
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error(transparent)]
    Netns(#[from] NetnsError),
}
