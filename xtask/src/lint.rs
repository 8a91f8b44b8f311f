// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask lint`: formatting, clippy with warnings denied, and cargo-deny where it is installed.

use anyhow::{Result, bail};

use crate::workspace::Workspace;
use crate::{bpf, process};

type Check = fn(&Workspace) -> Result<()>;

const CHECKS: [Check; 5] = [format, clippy, bpf::lint_format, bpf::lint_clippy, deny];

/// Makes all checks, so that one run tells all there is to do.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    // tracer-user does not compile without it.
    bpf::build(workspace)?;
    let mut failed = 0;
    for check in CHECKS {
        if let Err(error) = check(workspace) {
            eprintln!("xtask: lint: {error:#}");
            failed += 1;
        }
    }
    if failed > 0 {
        bail!("{failed} of {} checks failed", CHECKS.len());
    }
    Ok(())
}

fn format(workspace: &Workspace) -> Result<()> {
    process::run(workspace.cargo().args(["fmt", "--all", "--check"]))
}

fn clippy(workspace: &Workspace) -> Result<()> {
    let mut command = workspace.cargo();
    command.args(["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]);
    process::run(&mut command)
}

/// Licences, bans and sources; advisories need a database from the network.
fn deny(workspace: &Workspace) -> Result<()> {
    if process::find("cargo-deny").is_none() {
        eprintln!("xtask: lint: cargo-deny is not installed, licences and sources were not checked");
        return Ok(());
    }
    for directory in [workspace.root().to_path_buf(), workspace.bpf_crate()] {
        let mut command = workspace.cargo();
        command.args(["deny", "--locked", "--manifest-path"]).arg(directory.join("Cargo.toml"));
        command.arg("--config").arg(workspace.root().join("deny.toml")).arg("check");
        process::run(command.args(["licenses", "bans", "sources"]))?;
    }
    Ok(())
}
