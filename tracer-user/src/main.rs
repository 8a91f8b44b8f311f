// SPDX-License-Identifier: MIT OR Apache-2.0
//! `egwtrace`: parse, check, trace, and say with the exit code how it went.

use std::fs::File;
use std::io::{BufReader, BufWriter, IsTerminal as _, Read, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use tracer_user::check::Machine;
use tracer_user::cli::{
    self, ClusterResolver, EXIT_DROP_SEEN, EXIT_TRACED, EXIT_USAGE, ExplainArgs, Format, Invocation, Parsed,
    Plan, TraceArgs,
};
use tracer_user::cluster::Reach;
use tracer_user::flow::{News, Scene};
use tracer_user::node::Netns;
use tracer_user::output::{
    CheckText, Explanation, Json, Output, ReplayText, Text, write_causes, write_check,
};
use tracer_user::record::{Reader, replay};
use tracer_user::target::Backends;
use tracer_user::text::quoted;
use tracer_user::trace;

fn main() -> ExitCode {
    match run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "egwtrace: {}", one_line(&error));
            ExitCode::from(EXIT_USAGE)
        }
    }
}

fn run() -> Result<u8> {
    let invocation = match cli::parse(std::env::args_os())? {
        Parsed::Run(invocation) => invocation,
        Parsed::Print(text) => {
            let mut out = std::io::stdout();
            // A reader that has seen enough is no error.
            let _ = if out.is_terminal() { write!(out, "{}", text.ansi()) } else { write!(out, "{text}") };
            return Ok(EXIT_TRACED);
        }
    };
    match invocation {
        Invocation::Trace(args) => trace(&args),
        Invocation::Check(args) => check(&args),
        Invocation::Explain(args) => explain(&args),
        Invocation::Wait => wait(),
    }
}

fn trace(args: &TraceArgs) -> Result<u8> {
    // The command line first: whoever mistypes should not have to be root to be told.
    let plan = plan(args)?;
    trace::check_privileges()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let fail_on_drop = plan.fail_on_drop;
    let outcome = runtime.block_on(trace::trace(plan))?;
    Ok(if fail_on_drop && outcome.dropped > 0 { EXIT_DROP_SEEN } else { EXIT_TRACED })
}

/// Everybody is asked who may know what was named: the node's runtimes, and the cluster.
fn plan(args: &TraceArgs) -> Result<Plan> {
    let reach = Reach::find(&args.wish())?;
    if let Some(cluster) = reach.cluster() {
        cluster.watch();
    }
    let backends = Backends::of_this_node(args.runtime_endpoint.as_deref())?
        .with_cluster(reach.cluster(), &cli::nodes(args)?);
    let mut plan = Plan::new(args, &backends.all(), &ClusterResolver(&reach))?;
    plan.runtimes = backends.sockets().to_vec();
    plan.reach = reach;
    Ok(plan)
}

/// As the first process of a container it has to ask for the signals that end it.
fn wait() -> Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        Ok(EXIT_TRACED)
    })
}

/// Several packets are checked one after the other; one that is wrong decides.
fn check(args: &TraceArgs) -> Result<u8> {
    let plan = plan(args)?;
    let questions = cli::questions(&plan)?;
    let here = Netns::current()?;
    let others = !plan.pod_netns().is_empty() || plan.nodes.iter().any(|node| *node != here);
    trace::check_read_privileges(others)?;
    let mut machine = Machine::read(&plan)?;
    let nodes: Vec<&str> = plan.nodes.iter().map(Netns::name).collect();
    let text = CheckText::new(trace::text_options(plan.color, plan.time, plan.verbosity));
    let mut out = BufWriter::new(std::io::stdout());
    let mut wrong = false;
    for (at, question) in questions.iter().enumerate() {
        let report = tracer_user::check::check(&mut machine, question);
        wrong |= report.is_wrong();
        let written = match plan.format {
            Format::Json => write_check(&mut out, &report),
            Format::Text => (if at > 0 { writeln!(out) } else { Ok(()) })
                .and_then(|()| text.report(&mut out, &report, &nodes.join(" and "))),
        };
        quiet_pipe(written)?;
    }
    quiet_pipe(out.flush())?;
    Ok(if wrong { EXIT_DROP_SEEN } else { EXIT_TRACED })
}

/// Causes from a recording; `-` is standard input.
fn explain(args: &ExplainArgs) -> Result<u8> {
    let shown = quoted(args.file.as_os_str().as_encoded_bytes());
    let input: Box<dyn Read> = if args.file.as_os_str() == "-" {
        Box::new(std::io::stdin())
    } else {
        Box::new(File::open(&args.file).with_context(|| format!("cannot open {shown}"))?)
    };
    let mut reader = Reader::new(BufReader::new(input)).with_context(|| shown.clone())?;
    let begin = reader.begin().clone();
    let mut out = BufWriter::new(std::io::stdout());
    let options = trace::text_options(args.color, args.time, args.verbose);
    let (text, mut journeys) = (ReplayText::new(options), Text::new(options));
    let mut started = false;
    let mut written = Ok(());
    let replayed = replay(&mut reader, &mut |retold| {
        if !std::mem::replace(&mut started, true) && args.output == Format::Text && written.is_ok() {
            written = text.header(&mut out, &begin, retold.journey.start_ns);
        }
        if args.verbose > 0 && retold.last && written.is_ok() {
            let news = News { journey: retold.journey, first: true, last: true, from_hop: 0, from_note: 0 };
            let explanation =
                Explanation { authors: retold.authors.to_vec(), causes: retold.causes.to_vec() };
            let scene = Scene::new(retold.topology, retold.names);
            let output: &mut dyn Output = if args.output == Format::Json { &mut Json } else { &mut journeys };
            written = output.news(&mut out, &scene, &news, Some(&explanation));
        }
    })
    .with_context(|| shown.clone())?;
    let written = written.and_then(|()| match args.output {
        Format::Json => write_causes(&mut out, &replayed),
        Format::Text => {
            if !started {
                text.header(&mut out, &begin, 0)?;
            }
            text.causes(&mut out, &replayed)
        }
    });
    quiet_pipe(written.and_then(|()| out.flush()))?;
    if replayed.packets_of_run.is_none() {
        let at = reader.cut_at().map(|line| format!(": line {line} is cut off")).unwrap_or_default();
        let _ = writeln!(
            std::io::stderr(),
            "egwtrace: {shown} ends before its run did{at}; what comes before is explained"
        );
    }
    Ok(EXIT_TRACED)
}

/// A reader that has seen enough is no error.
fn quiet_pipe(written: std::io::Result<()>) -> Result<()> {
    match written {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write"),
    }
}

/// The error and its causes, each said once: some messages have their cause in them.
fn one_line(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |mut line, cause| {
        if !line.contains(&cause) {
            if !line.is_empty() {
                line.push_str(": ");
            }
            line.push_str(&cause);
        }
        line
    })
}
