// SPDX-License-Identifier: MIT OR Apache-2.0
//! `egwtrace`: parse, check, trace, and say with the exit code how it went.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use tracer_user::cli::{
    self, EXIT_DROP_SEEN, EXIT_TRACED, EXIT_USAGE, Invocation, Parsed, Plan, SystemResolver,
};
use tracer_user::target::Backends;
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
    let Invocation::Trace(args) = match cli::parse(std::env::args_os())? {
        Parsed::Run(invocation) => invocation,
        Parsed::Print(text) => {
            let mut out = std::io::stdout();
            // A reader that has seen enough is no error.
            let _ = if out.is_terminal() { write!(out, "{}", text.ansi()) } else { write!(out, "{text}") };
            return Ok(EXIT_TRACED);
        }
    };
    // The command line first: whoever mistypes should not have to be root to be told.
    let backends = Backends::of_this_node(args.runtime_endpoint.as_deref())?;
    let plan = Plan::new(&args, &backends.all(), &SystemResolver)?;
    trace::check_privileges()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let outcome = runtime.block_on(trace::trace(&plan))?;
    Ok(if plan.fail_on_drop && outcome.dropped > 0 { EXIT_DROP_SEEN } else { EXIT_TRACED })
}
