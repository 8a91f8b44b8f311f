// SPDX-License-Identifier: MIT OR Apache-2.0
//! The lab: a two-node Kubernetes cluster with EgressGateway, flannel and kube-proxy, made of
//! network namespaces, with servers, clients and a catalogue of faults.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use tests::{Lab, Spec, client, topology::{self, Family}};
//!
//! let lab = Lab::up(Spec::unique().with_ipv6())?;
//! let outcome = client::who(&lab.ns("visitor"), (topology::ext(Family::V4), 80).into())?;
//! assert_eq!(outcome.client(), Some(topology::egress_ip(Family::V4)));
//! # Ok(()) }                                       // and it is gone
//! ```
//!
//! Nothing of it is in the machine's own network namespace. Names begin with `egwt-<id>-`.

/// Adds a line to a `String`.
macro_rules! line {
    ($to:expr, $($what:tt)*) => {{
        // Writing to a String cannot fail.
        let _ = writeln!($to, $($what)*);
    }};
}

/// Ends a test which needs root, as passed, where there is none; says so.
#[macro_export]
macro_rules! skip_unless_root {
    () => {
        if !$crate::is_root() {
            println!("SKIP the lab needs root");
            return Ok(());
        }
    };
}

/// Ends a test which needs root and the binary, as passed, where they are not; says so.
#[macro_export]
macro_rules! skip_unless_able {
    () => {
        $crate::skip_unless_root!();
        if $crate::causes::binary().is_none() {
            println!("SKIP no egwtrace: EGWTRACE_BIN is not set (cargo xtask test sets it)");
            return Ok(());
        }
    };
}

pub mod announce;
pub mod causes;
pub mod cli;
pub mod client;
mod conntrack;
pub mod containers;
pub mod drops;
pub mod faults;
pub mod helper;
pub mod kube_nft;
mod lab;
mod links;
pub mod mend;
pub mod ns;
pub mod probe;
pub mod rules;
pub mod run_dir;
pub mod server;
pub mod setups;
pub mod sockets;
mod spec;
pub mod topology;
mod tun;
mod variants;
pub mod verify;

pub use lab::{Lab, is_root};
pub use spec::{Backend, PREFIX, Spec};
