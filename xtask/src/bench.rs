// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask bench`: what egwtrace costs.

use anyhow::{Result, bail};

use crate::workspace::Workspace;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_workspace: &Workspace, _args: &Args) -> Result<()> {
    bail!("the bench is not written yet")
}
