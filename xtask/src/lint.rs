// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask lint`: formatting, clippy with warnings denied, and cargo-deny where it is installed.

use anyhow::Result;

use crate::workspace::Workspace;
use crate::{bpf, process};

pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    process::run(workspace.cargo().args(["fmt", "--all", "--check"]))?;
    bpf::build(workspace)?;
    process::run(workspace.cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ]))?;
    bpf::lint(workspace)?;
    deny(workspace)
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
