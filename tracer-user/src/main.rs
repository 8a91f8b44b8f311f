// SPDX-License-Identifier: MIT OR Apache-2.0
//! `egwtrace`: parse, check, trace, and say with the exit code how it went.

use std::io::{BufWriter, IsTerminal as _, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use tracer_user::check::Machine;
use tracer_user::cli::{
    self, EXIT_DROP_SEEN, EXIT_TRACED, EXIT_USAGE, ExplainArgs, Format, Invocation, Parsed, Plan,
    SystemResolver, TraceArgs,
};
use tracer_user::node::Netns;
use tracer_user::output::{CheckText, write_check};
use tracer_user::target::NamedNamespaces;
use tracer_user::trace;

fn main() -> ExitCode {
    match run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "egwtrace: {error:#}");
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
    }
}

fn trace(args: &TraceArgs) -> Result<u8> {
    // The command line first: whoever mistypes should not have to be root to be told.
    let plan = Plan::new(args, &[&NamedNamespaces], &SystemResolver)?;
    trace::check_privileges()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let outcome = runtime.block_on(trace::trace(&plan))?;
    Ok(if plan.fail_on_drop && outcome.dropped > 0 { EXIT_DROP_SEEN } else { EXIT_TRACED })
}

/// Several packets are checked one after the other; one that is wrong decides.
fn check(args: &TraceArgs) -> Result<u8> {
    let plan = Plan::new(args, &[&NamedNamespaces], &SystemResolver)?;
    let questions = cli::questions(&plan)?;
    let here = Netns::current()?;
    let others = plan.pod_netns().is_some() || plan.nodes.iter().any(|node| *node != here);
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

fn explain(_args: &ExplainArgs) -> Result<u8> {
    anyhow::bail!("not yet")
}

/// A reader that has seen enough is no error.
fn quiet_pipe(written: std::io::Result<()>) -> Result<()> {
    match written {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write"),
    }
}
