// SPDX-License-Identifier: MIT OR Apache-2.0
//! The processes which a lab starts: they are subcommands of a helper program, `egwt-lab`, which
//! may also be hidden subcommands of another program (`cargo xtask lab`).

use std::{
    env,
    ffi::OsString,
    io::{BufRead, BufReader, Read, Write},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{ns::Ns, run_dir::RunDir};

/// Names another helper program; its words are split at blanks.
pub const HELPER_ENV: &str = "EGWT_LAB_HELPER";

/// How to start the helper: a program and the words before its subcommand.
#[derive(Debug, Clone)]
pub struct Helper {
    program: PathBuf,
    words: Vec<OsString>,
}

impl Helper {
    /// The running program itself, which passes what follows `words` to [`crate::cli::helper`].
    ///
    /// # Errors
    /// When the running program cannot be found.
    pub fn this(words: &[&str]) -> Result<Self> {
        let program = env::current_exe().context("finding the running program")?;
        Ok(Self { program, words: words.iter().map(OsString::from).collect() })
    }

    /// `EGWT_LAB_HELPER`, or `egwt-lab` next to the running program or one directory above (where
    /// cargo puts it for a test in `deps/`).
    ///
    /// # Errors
    /// When there is none.
    pub fn find() -> Result<Self> {
        if let Ok(line) = env::var(HELPER_ENV) {
            let mut words = line.split_whitespace().map(OsString::from);
            let program = words.next().with_context(|| format!("{HELPER_ENV} is empty"))?;
            return Ok(Self { program: program.into(), words: words.collect() });
        }
        let exe = env::current_exe().context("finding the running program")?;
        for dir in exe.ancestors().skip(1).take(2) {
            let program = dir.join("egwt-lab");
            if program.is_file() {
                return Ok(Self { program, words: Vec::new() });
            }
        }
        bail!(
            "no `egwt-lab` near {} (build it: `cargo build -p tests`, or name it in {HELPER_ENV})",
            exe.display()
        )
    }

    /// The program.
    pub fn program(&self) -> &std::path::Path {
        &self.program
    }

    /// The words before its subcommand.
    pub fn words(&self) -> &[OsString] {
        &self.words
    }

    /// Starts a server inside `ns`, in a session of its own, and waits until it serves. It writes
    /// its pid under `name` into the run directory.
    ///
    /// # Errors
    /// When it does not start, or cannot bind; the error has its own words.
    pub fn serve(&self, dir: &RunDir, ns: &Ns, name: &str, arguments: &[String]) -> Result<Child> {
        let mut command = ns.command(&self.program)?;
        command.args(&self.words).arg("serve").arg("--record").arg(dir.server(name)).args(arguments);
        let what = || format!("server `{name}` in namespace {}", ns.name());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        new_session(&mut command);
        let mut child = command.spawn().with_context(|| format!("starting {}", what()))?;
        let Some(stdout) = child.stdout.take() else { bail!("{} has no stdout", what()) };
        let (tell, told) = mpsc::channel();
        // Ends with the pipe: the server closes it when it is ready, or dies.
        thread::spawn(move || {
            let mut line = String::new();
            let _ = BufReader::new(stdout).read_line(&mut line);
            let _ = tell.send(line);
        });
        match told.recv_timeout(Duration::from_secs(5)) {
            Ok(line) if line.trim() == "ready" => Ok(child),
            _ => {
                let _ = child.kill();
                let mut words = String::new();
                if let Some(mut stderr) = child.stderr.take() {
                    let _ = stderr.read_to_string(&mut words);
                }
                let _ = child.wait();
                bail!("{} did not come up: {}", what(), words.trim())
            }
        }
    }

    /// Starts the process that takes the lab away should this one end without doing so.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn guard(&self, id: &str) -> Result<Guard> {
        let mut command = Command::new(&self.program);
        command.args(&self.words).arg("guard").arg(id);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        new_session(&mut command);
        let mut child = command.spawn().context("starting the lab's guard")?;
        let stdin = child.stdin.take();
        Ok(Guard { child, stdin })
    }
}

/// A process outside our session, which notices our end by the end of a pipe: after Ctrl-C, a
/// panic that aborts or SIGKILL it takes the lab away.
#[derive(Debug)]
pub struct Guard {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Guard {
    /// Sends it away without doing anything.
    pub fn dismiss(mut self) {
        if let Some(mut stdin) = self.stdin.take() {
            let _ = stdin.write_all(b"q");
        }
        let _ = self.child.wait();
    }
}

/// What the guard process does: waits for the end of its standard input.
///
/// # Errors
/// What could not be taken away.
pub fn guard_main(id: &str) -> Result<()> {
    let mut word = [0; 1];
    match std::io::stdin().read(&mut word) {
        Ok(1) => Ok(()),
        _ => RunDir::of(id).remove_lab(),
    }
}

/// Out of the terminal's reach: Ctrl-C and a closed terminal are the parent's affair.
fn new_session(command: &mut Command) {
    // SAFETY: setsid is async-signal-safe and takes nothing.
    unsafe {
        command.pre_exec(|| {
            // Fails only for a process group leader, which a fresh child is not.
            libc::setsid();
            Ok(())
        })
    };
}
