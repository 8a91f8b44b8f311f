// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask lab`: the arguments; the lab itself is the `tests` crate.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use tests::cli::{self, UpOptions, VerifyOptions};
use tests::helper::Helper;
use tests::topology::Family;

use crate::process;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Bring the lab up; it stays until `down`.
    Up(UpOptions),
    /// Take it away, and what a crashed one left.
    Down,
    /// Say what is up.
    Status,
    /// Break something: one of the names that `faults` lists.
    Fault {
        name: String,
        /// Over IPv6.
        #[arg(short = '6', long)]
        ipv6: bool,
    },
    /// List the faults: what each breaks and the traffic that meets it.
    Faults,
    /// Become a shell in a node, a pod or another namespace of the lab, as `ip netns exec` would.
    Shell {
        /// node1, node2, ul, ext, visitor, podb, pod2 or mesh.
        node: String,
    },
    /// Send one kind of traffic and say what the client saw.
    Probe {
        name: String,
        /// Over IPv6.
        #[arg(short = '6', long)]
        ipv6: bool,
    },
    /// Try all faults and their variants, or these, each in a lab of its own, and print a table: does the client see what
    /// it should, do egwtrace and its check name the cause, does the fix mend it when it is typed as printed, and does
    /// all else still pass? Exits with 1 when not.
    Verify(VerifyOptions),
    /// What the lab's own processes are started as.
    #[command(hide = true)]
    Helper {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    if !matches!(args.command, Command::Helper { .. } | Command::Faults) {
        process::require_root("the lab")?;
    }
    let family = |ipv6| if ipv6 { Family::V6 } else { Family::V4 };
    match args.command {
        Command::Up(options) => cli::up(options, helper()?)?,
        Command::Down => cli::down()?,
        Command::Status => {
            process::end_with_a_closed_pipe();
            cli::status()?;
        }
        Command::Fault { name, ipv6 } => cli::fault(&name, family(ipv6), helper()?)?,
        Command::Faults => {
            process::end_with_a_closed_pipe();
            cli::faults();
        }
        Command::Shell { node } => cli::shell(&node)?,
        Command::Probe { name, ipv6 } => cli::probe(&name, family(ipv6), helper()?)?,
        Command::Verify(options) => cli::verify(&options, &helper()?)?,
        Command::Helper { words } => return Ok(cli::helper(words)),
    }
    Ok(ExitCode::SUCCESS)
}

/// The lab's processes are this program, as `lab helper`.
pub(crate) fn helper() -> Result<Helper> {
    Helper::this(&["lab", "helper"])
}
