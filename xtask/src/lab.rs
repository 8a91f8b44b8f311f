// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask lab`: the arguments; the lab itself is the `tests` crate.

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::process;
use crate::workspace::Workspace;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Bring the lab up; it stays until `down`.
    Up,
    /// Take it away, and what a crashed one left.
    Down,
    /// Say what is up.
    Status,
    /// Break something: one of the names that `faults` lists.
    Fault {
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// List the faults: what each breaks and what is seen then.
    Faults,
    /// A shell in a node, a pod or another namespace of the lab.
    Shell {
        #[arg(value_name = "NODE")]
        node: String,
    },
    /// Send one kind of traffic and say what came back.
    Probe {
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Check that each fault, or this one, breaks what it says and nothing else.
    Verify {
        #[arg(value_name = "NAME")]
        name: Option<String>,
    },
}

pub(crate) fn run(_workspace: &Workspace, args: Args) -> Result<ExitCode> {
    if !matches!(args.command, Command::Faults) {
        process::require_root("the lab")?;
    }
    bail!("the lab is not there yet")
}
