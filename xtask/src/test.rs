// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask test`: sets up, builds, runs all tests, and says which of them were skipped.
//!
//! A test that cannot run here prints a line `SKIP <why>` and passes. libtest keeps what passing tests print to
//! itself, so it is told to show it, and the lines are picked out of that section, which stays hidden.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::path::Path;
use std::process::Stdio;
use std::thread;

use anyhow::{Context as _, Result, bail};

use crate::workspace::Workspace;
use crate::{build, process, setup};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Test this package only; may be given several times.
    #[arg(short, long, value_name = "NAME")]
    package: Vec<String>,
    /// For the test programs themselves: names to select, or options such as --exact.
    #[arg(value_name = "LIBTEST ARGUMENT", allow_hyphen_values = true, trailing_var_arg = true)]
    libtest: Vec<OsString>,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    setup::run()?;
    let binary = build::run(workspace)?;
    let may_skip = MaySkip::read(&workspace.root().join("tests/may-skip.txt"))?;

    let mut command = workspace.cargo();
    command.args(["test", "--locked", "--no-fail-fast"]);
    if args.package.is_empty() {
        command.arg("--workspace");
    }
    for package in &args.package {
        command.args(["--package", package]);
    }
    command.args(["--", "--show-output", &format!("--test-threads={}", threads())]).args(&args.libtest);
    command.env("EGWTRACE_BIN", &binary).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().context("starting cargo test")?;
    let stdout = child.stdout.take().context("cargo test's stdout is not a pipe")?;

    let mut report = Report::default();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.context("reading what cargo test prints")?;
        let line = String::from_utf8_lossy(&line);
        if report.see(&line) {
            print_line(&line)?;
        }
    }
    let status = child.wait().context("waiting for cargo test")?;
    report.print(&may_skip)?;
    process::check(&command, status)?;
    let surprising: Vec<_> = report.skips.iter().filter(|skip| !may_skip.allows(&skip.test)).collect();
    if is_ci() && !surprising.is_empty() {
        bail!(
            "skipped, and not listed in tests/may-skip.txt: {}",
            surprising.iter().map(|skip| skip.test.as_str()).collect::<Vec<_>>().join(", ")
        );
    }
    Ok(())
}

/// Each test of the lab starts dozens of processes: no more at a time than there are processors, and not
/// more than four, as they share the kernel's one table of namespaces.
fn threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(4)
}

fn is_ci() -> bool {
    env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}

/// Prints to stdout; a closed pipe is not an error of the tests.
fn print_line(line: &str) -> Result<()> {
    match writeln!(std::io::stdout(), "{line}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("writing to stdout"),
        _ => Ok(()),
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Skip {
    test: String,
    why: String,
}

/// What was read of cargo test's output so far.
#[derive(Debug, Default)]
struct Report {
    skips: Vec<Skip>,
    /// In the section of the passing tests' output; the test whose output it is.
    shown: Option<String>,
    passed: u64,
    failed: u64,
}

impl Report {
    /// Takes a line; true when it is for the screen.
    fn see(&mut self, line: &str) -> bool {
        if line == "successes:" {
            self.shown = Some(String::new());
            return false;
        }
        if line == "failures:" || line.starts_with("test result: ") {
            self.count(line);
            self.shown = None;
            return true;
        }
        let Some(test) = &mut self.shown else { return true };
        if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----")) {
            name.clone_into(test);
        } else if let Some(why) = line.strip_prefix("SKIP ") {
            self.skips.push(Skip { test: test.clone(), why: why.trim().to_owned() });
        }
        false
    }

    fn count(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        for pair in words.windows(2) {
            match pair {
                [number, "passed;"] => self.passed += number.parse().unwrap_or(0),
                [number, "failed;"] => self.failed += number.parse().unwrap_or(0),
                _ => {}
            }
        }
    }

    fn print(&self, may_skip: &MaySkip) -> Result<()> {
        for Skip { test, why } in &self.skips {
            let listed = if may_skip.allows(test) { "" } else { " (not in tests/may-skip.txt)" };
            print_line(&format!("skipped {test}: {why}{listed}"))?;
        }
        let (passed, failed, skipped) = (self.passed, self.failed, self.skips.len());
        if passed + failed == 0 {
            // Nothing ran: cargo has said why.
            return Ok(());
        }
        print_line(&format!(
            "all tests: {passed} passed, {failed} failed; {skipped} of the passed were skipped"
        ))
    }
}

/// `tests/may-skip.txt`: a test's name on each line, `*` at its end for any ending, `#` starts a comment.
#[derive(Debug, Default)]
struct MaySkip {
    names: Vec<String>,
}

impl MaySkip {
    fn read(file: &Path) -> Result<Self> {
        match fs::read_to_string(file) {
            Ok(text) => Ok(Self::parse(&text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("reading {}", file.display())),
        }
    }

    fn parse(text: &str) -> Self {
        let names = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
        Self { names: names.filter(|name| !name.is_empty()).map(str::to_owned).collect() }
    }

    fn allows(&self, test: &str) -> bool {
        self.names.iter().any(|name| match name.strip_suffix('*') {
            Some(start) => test.starts_with(start),
            None => test == name,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "
running 3 tests
test drops::by_policy ... ok
test paths::ipv6 ... ok
test paths::broken ... FAILED

successes:

---- drops::by_policy stdout ----
noise of a passing test
SKIP iptables-legacy: not usable on this kernel

---- paths::ipv6 stdout ----
SKIP no IPv6


successes:
    drops::by_policy
    paths::ipv6

failures:

---- paths::broken stdout ----
SKIP printed by a test that failed later
thread panicked

failures:
    paths::broken

test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s
";

    #[test]
    fn skips_are_found_and_passing_tests_noise_is_hidden() {
        let mut report = Report::default();
        let shown: Vec<&str> = OUTPUT.lines().filter(|line| report.see(line)).collect();
        let skip = |test: &str, why: &str| Skip { test: test.into(), why: why.into() };
        assert_eq!(
            report.skips,
            [
                skip("drops::by_policy", "iptables-legacy: not usable on this kernel"),
                skip("paths::ipv6", "no IPv6")
            ]
        );
        assert_eq!((report.passed, report.failed), (2, 1));
        assert!(!shown.contains(&"noise of a passing test"));
        assert!(!shown.contains(&"successes:"));
        assert!(shown.contains(&"thread panicked"));
        assert!(shown.iter().any(|line| line.starts_with("test result: FAILED. 2 passed; 1 failed;")));
    }

    #[test]
    fn results_of_several_test_programs_add_up() {
        let mut report = Report::default();
        for line in
            ["test result: ok. 12 passed; 0 failed; 1 ignored;", "test result: ok. 3 passed; 0 failed;"]
        {
            assert!(report.see(line));
        }
        assert_eq!((report.passed, report.failed), (15, 0));
    }

    #[test]
    fn the_list_of_permitted_skips_has_comments_and_wildcards() {
        let list = MaySkip::parse("# why\n\nvm::kernel_5_10  # needs an image\nipvs::*\n");
        assert!(list.allows("vm::kernel_5_10"));
        assert!(list.allows("ipvs::local_in"));
        assert!(!list.allows("vm::kernel_5_10_more"));
        assert!(!list.allows(""));
    }
}
