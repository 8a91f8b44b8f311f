// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask bench`: what egwtrace costs. Numbers to read, never a test: the machine is noisy, so that each
//! figure is a ratio to what was measured right before and after it, and the median of several rounds.

mod cost;
mod kernel;
mod load;
mod net;
mod pods;
mod report;
mod sections;
mod snapshot;
mod stats;
mod subject;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use self::net::Net;
use self::subject::Mode;
use crate::workspace::Workspace;
use crate::{build, process, setup};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Times that each cost is measured.
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: u32,
    /// Length of one measurement.
    #[arg(long, value_name = "S", default_value_t = 0.2)]
    seconds: f64,
    /// Measure this only; may be given several times.
    #[arg(long, value_enum, value_name = "NAME")]
    only: Vec<Section>,
    /// Of the costs, measure this mode only; may be given several times.
    #[arg(long, value_enum, value_name = "NAME")]
    mode: Vec<Mode>,
    /// Of the costs, measure them on this traffic only; may be given several times.
    #[arg(long, value_enum, value_name = "NAME")]
    load: Vec<Load>,
    /// Write what was measured to this file too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure this egwtrace instead of building one.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Measure the costs of this egwtrace in the same rounds; may be given several times.
    #[arg(long, value_name = "FILE")]
    against: Vec<PathBuf>,
    /// Wait for the end of stdin, then take away the namespaces of this process.
    #[arg(long, hide = true, value_name = "PID")]
    guard: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Section {
    /// What the packets of a node pay: ratios to nothing running.
    Cost,
    /// Time of each BPF program.
    Programs,
    /// Records a second before the first is lost.
    Events,
    /// Time from the start to the first line, and memory.
    Start,
    /// A node of 10,000 rules: milliseconds that reading it takes, memory, and how long the model walks.
    Snapshot,
    /// Time to the first line on a node with 500 pods.
    Pods,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Load {
    /// UDP packets of 64 bytes, as many as go.
    Udp,
    /// One TCP connection.
    Tcp,
    /// A UDP packet there and one back, over and over.
    Rtt,
}

impl Load {
    const ALL: [Self; 3] = [Self::Udp, Self::Tcp, Self::Rtt];
}

pub(crate) fn run(find: impl FnOnce() -> Result<Workspace>, args: &Args) -> Result<()> {
    if let Some(parent) = args.guard {
        return net::watch_over(parent);
    }
    process::require_root("the bench")?;
    process::end_with_a_closed_pipe();
    if !(0.01..=60.0).contains(&args.seconds) || args.rounds == 0 {
        bail!("--seconds takes 0.01 to 60, --rounds at least 1");
    }
    let wanted = |section| args.only.is_empty() || args.only.contains(&section);
    let builds = args.binary.is_none() || wanted(Section::Snapshot);
    let workspace = if builds { Some(find()?) } else { None };
    let binary = match (&args.binary, &workspace) {
        (Some(file), _) => file.clone(),
        (None, Some(workspace)) => {
            setup::run()?;
            build::run(workspace)?
        }
        (None, None) => bail!("nothing to measure"),
    };
    let bench = Bench {
        net: Net::up().context("making the namespaces of the bench")?,
        binary,
        against: args.against.clone(),
        time: Duration::from_secs_f64(args.seconds),
        rounds: args.rounds,
        modes: chosen(&args.mode, &Mode::ALL),
        loads: chosen(&args.load, &Load::ALL),
    };
    let mut results = serde_json::Map::new();
    report::machine(&bench, &mut results)?;
    if wanted(Section::Cost) {
        results.insert("cost".into(), cost::run(&bench)?);
    }
    if wanted(Section::Programs) {
        results.insert("programs".into(), sections::programs(&bench)?);
    }
    if wanted(Section::Events) {
        results.insert("events".into(), sections::events(&bench)?);
    }
    if wanted(Section::Start) {
        results.insert("start".into(), sections::start(&bench)?);
    }
    if let (true, Some(workspace)) = (wanted(Section::Snapshot), &workspace) {
        results.insert("snapshot".into(), snapshot::run(&bench, &build::example(workspace, "snapshot")?)?);
    }
    if wanted(Section::Pods) {
        results.insert("pods".into(), pods::run(&bench, &Workspace::find()?)?);
    }
    if let Some(file) = &args.json {
        let mut text = serde_json::to_string_pretty(&results).context("writing JSON")?;
        text.push('\n');
        fs::write(file, text).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}

fn chosen<T: Copy>(some: &[T], all: &[T]) -> Vec<T> {
    if some.is_empty() { all.to_vec() } else { some.to_vec() }
}

/// What all sections need.
struct Bench {
    net: Net,
    binary: PathBuf,
    against: Vec<PathBuf>,
    time: Duration,
    rounds: u32,
    modes: Vec<Mode>,
    loads: Vec<Load>,
}
