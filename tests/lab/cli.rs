// SPDX-License-Identifier: MIT OR Apache-2.0
//! The lab from the command line: plain functions for `cargo xtask lab`, and the `egwt-lab`
//! program over them.

use std::{
    env,
    io::{self, Write as _},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, ExitCode},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};

use crate::{
    Backend, Lab, Spec,
    causes::{self, Attempt},
    containers, faults,
    helper::{self, Helper},
    mend::Mended,
    ns::Ns,
    probe::Probe,
    run_dir::{self, RunDir},
    server,
    spec::hand_id,
    topology::Family,
    verify::{self, Trial},
};

/// Prints a line; a reader that has gone (`| head`) is no error.
macro_rules! out {
    ($($what:tt)*) => {{
        let _ = writeln!(io::stdout(), $($what)*);
    }};
}

/// What may be chosen when the lab goes up.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct UpOptions {
    /// Also IPv6.
    #[arg(long)]
    pub ipv6: bool,
    /// iptables-legacy instead of iptables over nftables.
    #[arg(long)]
    pub legacy: bool,
    /// bridge-nf-call-iptables=0 on the nodes.
    #[arg(long)]
    pub no_bridge_nf: bool,
}

/// Puts the lab `lab` up, to stay until [`down`].
///
/// # Errors
/// As [`Lab::up`].
pub fn up(options: UpOptions, helper: Helper) -> Result<()> {
    let mut spec = Spec::hand();
    spec.ipv6 = options.ipv6;
    spec.bridge_nf = !options.no_bridge_nf;
    if options.legacy {
        spec.backend = Backend::Legacy;
    }
    let start = Instant::now();
    let lab = Lab::up_with(spec, helper)?;
    eprintln!(
        "lab up in {:.2} s; nodes: {} (pods), {} (gateway)",
        start.elapsed().as_secs_f64(),
        lab.spec().ns("node1").name(),
        lab.spec().ns("node2").name()
    );
    eprintln!("try: ip netns exec {} curl -s 172.16.25.183", lab.spec().ns("visitor").name());
    lab.keep()
}

/// Takes the lab `lab` down, whatever is left of it, and all labs whose owner is gone.
///
/// # Errors
/// When something could not be removed.
pub fn down() -> Result<()> {
    run_dir::sweep();
    let dir = RunDir::of(&hand_id());
    let was = dir.exists() || !dir.namespaces()?.is_empty();
    let held = holders(&dir.namespaces()?)?;
    dir.remove_lab()?;
    for (pid, name, place) in held {
        eprintln!(
            "process {pid} ({name}), not the lab's, still holds the namespace {place}; end it to free it"
        );
    }
    eprintln!("{}", if was { "lab down" } else { "no lab was up" });
    Ok(())
}

/// Shows what labs there are, and the servers and faults of the lab `lab`.
///
/// # Errors
/// When it cannot be read.
pub fn status() -> Result<()> {
    let dir = RunDir::of(&hand_id());
    if dir.exists() {
        let spec = dir.spec()?;
        out!(
            "lab: up, {}, iptables {:?}, bridge-nf {}",
            if spec.ipv6 { "IPv4 and IPv6" } else { "IPv4" },
            spec.backend,
            if spec.bridge_nf { "on" } else { "off" }
        );
        for ns in dir.namespaces()? {
            out!("  namespace {}", ns.name());
        }
        for (name, process) in dir.running() {
            out!(
                "  server {name}: {}",
                if process.alive() { format!("pid {}", process.pid) } else { "gone".into() }
            );
        }
        for fault in dir.faults() {
            out!("  fault {fault}");
        }
    } else {
        out!("lab: not up");
    }
    for id in run_dir::all_ids().iter().filter(|id| **id != hand_id()) {
        out!("also: {id}");
    }
    Ok(())
}

/// Becomes a shell in a place of the lab, as `ip netns exec` would.
///
/// # Errors
/// When there is no such place, or no shell.
pub fn shell(place: &str) -> Result<()> {
    let ns = RunDir::of(&hand_id()).spec()?.ns(place);
    if !ns.exists() {
        bail!("no place `{place}` in the lab; see `lab status`");
    }
    let shell = env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
    let mut command = Command::new("ip");
    command.args(["netns", "exec", ns.name()]).arg(shell).env("PS1", format!("{place}# "));
    Err(command.exec()).context("starting a shell through `ip netns exec`")
}

/// Runs a probe in the lab `lab` and prints what the client saw.
///
/// # Errors
/// When there is no such probe or no lab.
pub fn probe(name: &str, family: Family, helper: Helper) -> Result<()> {
    let probe = Probe::from_str(name, true).ok().with_context(|| {
        let all: Vec<String> = Probe::value_variants().iter().map(|probe| probe.name()).collect();
        format!("no probe `{name}`; there are: {}", all.join(" "))
    })?;
    out!("{}", probe.run(&Lab::attach(&hand_id(), helper)?, family)?);
    Ok(())
}

/// Applies a fault to the lab `lab`. Its undoing is [`down`] and [`up`].
///
/// # Errors
/// When there is no such fault, no lab, or the lab is not as it should be for it.
pub fn fault(name: &str, family: Family, helper: Helper) -> Result<()> {
    let fault = Lab::attach(&hand_id(), helper)?.fault_in(name, family)?;
    eprintln!("{}: {}", fault.name, fault.about);
    eprintln!("its traffic: `lab probe {}`; to undo it, take the lab down and up again", fault.probe.name());
    Ok(())
}

/// Lists the faults, with what each is and the traffic that meets it.
pub fn faults() {
    for (number, fault) in (1..).zip(faults::all()) {
        let six = if fault.expect6.is_some() { "4 6" } else { "4" };
        out!("{number:2}  {:21} {:10} {six:3}  {}", fault.name, fault.probe.name(), fault.about);
    }
}

/// Which faults [`verify`] tries.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct VerifyOptions {
    /// These only; all without.
    pub names: Vec<String>,
    /// Over IPv6, those which can be had there.
    #[arg(short = '6', long)]
    pub ipv6: bool,
    /// With iptables-legacy, those which can be had there.
    #[arg(long)]
    pub legacy: bool,
    /// With strict reverse path filters.
    #[arg(long)]
    pub strict: bool,
    /// So many at a time.
    #[arg(long, default_value_t = 2)]
    pub jobs: usize,
    /// Only what the client sees, not what egwtrace says.
    #[arg(long)]
    pub no_causes: bool,
    /// Also what the client saw and which causes were named, of each fault.
    #[arg(short, long)]
    pub verbose: bool,
}

/// Tries faults, each in a fresh lab of its own, and says of each whether its client saw what it should, which cause
/// egwtrace and its check named, and whether the fix they print mends it when typed.
///
/// # Errors
/// When there is no such fault, or one did not behave.
pub fn verify(options: &VerifyOptions, helper: &Helper) -> Result<()> {
    let family = if options.ipv6 { Family::V6 } else { Family::V4 };
    let backend = if options.legacy { Backend::Legacy } else { Backend::Nft };
    for name in &options.names {
        if !causes::all().any(|case| case.name == name) {
            faults::find(name)?;
        }
    }
    let causes = !options.no_causes && causes::binary().is_some();
    if !causes && !options.no_causes {
        eprintln!("no egwtrace (cargo xtask build makes it): causes are not checked");
    }
    let wanted = |case: &causes::Case| {
        let named = options.names.is_empty() || options.names.iter().any(|name| name == case.name);
        named && case.families.contains(&family) && case.backends.contains(&backend)
    };
    let attempt = |case| Attempt { case, family, backend, strict: options.strict };
    let trials: Vec<Trial> =
        causes::all().filter(wanted).map(|case| Trial { attempt: attempt(case), causes }).collect();
    let began = Instant::now();
    let (mut wrong, mut mended, mut tried) = (0, 0, 0);
    out!("{:6} {:29} {:7} why", "", "fault", "fix");
    verify::run(&trials, options.jobs, helper, |trial, result| {
        let name = trial.attempt.name();
        let verdict = match result {
            Ok(verdict) => verdict,
            Err(error) => {
                wrong += 1;
                return out!("{:6} {name:29} {:7} {error:#}", "ERROR", "");
            }
        };
        let gap = causes && causes::GAPS.iter().any(|(gap, _)| *gap == trial.attempt.case.name);
        let mark = match (verdict.wrong.is_empty(), gap) {
            (true, false) => "ok",
            (false, true) => "gap",
            (true, true) => "CLOSED",
            (false, false) => "WRONG",
        };
        wrong += usize::from(verdict.wrong.is_empty() == gap);
        for (by, fix) in &verdict.fixes {
            let (word, why) = match fix {
                Mended::Yes(commands) => ("mends", commands.join("; ")),
                Mended::No(why) => ("FAILS", why.clone()),
                Mended::NoCommands(why) => ("none", why.clone()),
            };
            mended += usize::from(word == "mends");
            tried += usize::from(word != "none");
            let by = if matches!(*by, "" | "both") { String::new() } else { format!("{by}: ") };
            out!("{mark:6} {name:29} {word:7} {by}{why}");
        }
        if verdict.fixes.is_empty() || options.verbose || mark != "ok" {
            out!("{mark:6} {name:29} client: {}", verdict.report);
            for (by, said) in ["trace", "check"].iter().zip(verdict.said.iter().flatten()) {
                out!("{:6} {:29} {by}: {}", "", "", if said.is_empty() { "no cause" } else { said });
            }
            for why in &verdict.wrong {
                out!("{:6} {:29} expected {why}", "", "");
            }
        }
    });
    for (name, why) in
        causes::GAPS.iter().filter(|(name, _)| trials.iter().any(|t| t.attempt.case.name == *name))
    {
        out!("known gap: {name}: {why}");
    }
    eprintln!(
        "{} faults in {} s: {wrong} not as expected; {mended} of {tried} fixes that were typed mend",
        trials.len(),
        began.elapsed().as_secs()
    );
    if wrong == 0 { Ok(()) } else { bail!("{wrong} of {} faults did not behave as expected", trials.len()) }
}

/// The processes a lab starts are run by this, from `egwt-lab` or from a program which passes on
/// the words after its own (see [`Helper::this`]).
pub fn helper(words: impl IntoIterator<Item = std::ffi::OsString>) -> ExitCode {
    let words = std::iter::once("egwt-lab".into()).chain(words);
    run(Program::parse_from(words).what, Helper::find)
}

/// The `egwt-lab` program.
pub fn main() -> ExitCode {
    run(Program::parse().what, || Helper::this(&[]))
}

/// The lab of egwtrace: a two-node cluster made of network namespaces.
#[derive(Debug, Parser)]
#[command(name = "egwt-lab", version)]
struct Program {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Put the lab up.
    Up(UpOptions),
    /// Take it down, also after a crash.
    Down,
    /// What is up.
    Status,
    /// A shell in a place: node1 node2 ul ext visitor podb pod2 mesh.
    Shell {
        /// The place.
        place: String,
    },
    /// Make traffic and say what the client saw.
    Probe {
        /// Which.
        name: String,
        /// Over IPv6.
        #[arg(short = '6')]
        six: bool,
    },
    /// Apply a fault.
    Fault {
        /// Which; see `faults`.
        name: String,
        /// Over IPv6.
        #[arg(short = '6')]
        six: bool,
    },
    /// List the faults.
    Faults,
    /// Try faults in labs of their own.
    Verify(VerifyOptions),
    #[command(hide = true)]
    Serve(server::Serve),
    /// Put a lab up under this id and hold it until killed: for the test of the guard.
    #[command(hide = true)]
    Hold { id: String },
    #[command(hide = true)]
    Guard { id: String },
    #[command(hide = true)]
    Contain { dir: PathBuf, network: String },
}

fn run(what: What, helper: impl FnOnce() -> Result<Helper>) -> ExitCode {
    let done = match what {
        What::Up(options) => helper().and_then(|helper| up(options, helper)),
        What::Down => down(),
        What::Status => status(),
        What::Shell { place } => shell(&place),
        What::Probe { name, six } => {
            let family = if six { Family::V6 } else { Family::V4 };
            helper().and_then(|helper| probe(&name, family, helper))
        }
        What::Fault { name, six } => {
            let family = if six { Family::V6 } else { Family::V4 };
            helper().and_then(|helper| fault(&name, family, helper))
        }
        What::Faults => {
            faults();
            Ok(())
        }
        What::Verify(options) => helper().and_then(|helper| verify(&options, &helper)),
        What::Serve(serve) => server::main(serve),
        What::Hold { id } => helper().and_then(|helper| {
            let _lab = Lab::up_with(Spec::new(id), helper)?;
            loop {
                std::thread::park();
            }
        }),
        What::Guard { id } => helper::guard_main(&id),
        What::Contain { dir, network } => containers::guardian_main(&dir, &network),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("egwt-lab: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Processes in these namespaces: (pid, name, namespace).
fn holders(places: &[Ns]) -> Result<Vec<(i32, String, String)>> {
    use std::os::unix::fs::MetadataExt;
    let ours: Vec<(u64, &Ns)> = places.iter().filter_map(|ns| Some((ns.inode().ok()?, ns))).collect();
    let servers: Vec<i32> =
        RunDir::of(&hand_id()).running().into_iter().map(|(_, process)| process.pid).collect();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").context("reading /proc")? {
        let Some(pid) = entry.ok().and_then(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) else {
            continue;
        };
        let Ok(net) = std::fs::metadata(format!("/proc/{pid}/ns/net")) else { continue };
        if let Some((_, ns)) = ours.iter().find(|(inode, _)| *inode == net.ino())
            && !servers.contains(&pid)
        {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            found.push((pid, name.trim().to_owned(), ns.name().to_owned()));
        }
    }
    Ok(found)
}
