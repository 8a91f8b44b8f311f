// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask demo`: the real binary on real traffic, in a lab that goes away with us.

use anyhow::{Result, bail};

use crate::workspace::Workspace;
use crate::{build, process, setup};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(workspace: &Workspace, _args: &Args) -> Result<()> {
    process::require_root("the demo")?;
    setup::run(workspace)?;
    let _binary = build::run(workspace)?;
    bail!("the lab is not there yet")
}
