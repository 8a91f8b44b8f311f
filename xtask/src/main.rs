// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask`: everything one does with this repository besides `cargo` itself.

mod bench;
mod bpf;
mod build;
mod demo;
mod dist;
mod lab;
mod lint;
mod process;
mod setup;
mod strip;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use workspace::Workspace;

/// Build, try, test and measure egwtrace.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_version_flag = true, after_long_help = ENVIRONMENT)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install what building and testing need, saying what first; nothing that is there already.
    Setup,
    /// Build the BPF object, then the egwtrace binary that contains it.
    Build,
    /// Show egwtrace on real traffic in a two-node lab: a healthy egress path, a drop, an MTU black hole.
    Demo(demo::Args),
    /// The two-node lab of network namespaces: bring it up, break it, look into it.
    Lab(lab::Args),
    /// Set up, build and run all tests.
    Test(test::Args),
    /// What egwtrace costs the packets of a node: off, miss and match, next to tcpdump.
    Bench(bench::Args),
    /// Build the archive that is released: binary, manual pages, completions, kubectl plugin, manifests.
    Dist(dist::Args),
    /// Format check, clippy and, where installed, cargo-deny.
    Lint,
}

const ENVIRONMENT: &str = "\
Environment:
  EGWTRACE_NO_INSTALL=1
          Install nothing: setup only checks, prints what is missing and fails if anything is
  EGWTRACE_BPF_COMPILER=nightly|debian
          rustup's nightly with rust-src, or Debian's rustc-web with a ready core; without it,
          nightly where it is or can be had, else debian
  EGWTRACE_BPF_OBJECT=FILE
          Embed this BPF object instead of building one
  CARGO_TARGET_DIR=DIR
          As for cargo
  CI=true
          test: fail when a test was skipped that tests/may-skip.txt does not list";

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Setup => setup::run()?,
        Command::Build => {
            let binary = build::run(&Workspace::find()?)?;
            println!("{}", binary.display());
        }
        Command::Demo(args) => demo::run(&Workspace::find()?, &args)?,
        Command::Lab(args) => return lab::run(args),
        Command::Test(args) => test::run(&Workspace::find()?, &args)?,
        Command::Bench(args) => bench::run(Workspace::find, &args)?,
        Command::Dist(args) => println!("{}", dist::run(&Workspace::find()?, &args)?.display()),
        Command::Lint => lint::run(&Workspace::find()?)?,
    }
    Ok(ExitCode::SUCCESS)
}
