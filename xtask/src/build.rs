// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask build`: the BPF object, then the binary that contains it.

use std::path::PathBuf;

use anyhow::Result;

use crate::workspace::Workspace;
use crate::{bpf, process};

/// Returns the path of the egwtrace binary.
pub(crate) fn run(workspace: &Workspace) -> Result<PathBuf> {
    bpf::build(workspace)?;
    process::build_executable(workspace.cargo().args(["build", "--release", "--locked", "-p", "tracer-user"]))
}

/// Returns the path of an example of tracer-user's.
pub(crate) fn example(workspace: &Workspace, name: &str) -> Result<PathBuf> {
    let arguments = ["build", "--release", "--locked", "-p", "tracer-user", "--example", name];
    process::build_executable(workspace.cargo().args(arguments))
}
