// SPDX-License-Identifier: MIT OR Apache-2.0
//! The egwtrace binary, running on the lab with JSON output.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use super::Watch;
use crate::Lab;

/// The causes of a run.
#[derive(Debug, Default)]
pub struct Found {
    /// Id, certainty, title; the surest first.
    pub causes: Vec<(String, String, String)>,
    /// Each as it was printed, JSON.
    pub whole: Vec<Value>,
    /// When the first of them was on the screen, after the traffic began.
    pub after: Option<Duration>,
}

impl Found {
    /// Each once.
    pub fn ids(&self) -> Vec<&str> {
        let mut ids: Vec<&str> = Vec::new();
        for (id, ..) in &self.causes {
            if !ids.contains(&id.as_str()) {
                ids.push(id);
            }
        }
        ids
    }
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let each = self.causes.iter().map(|(id, certainty, title)| format!("{id} [{certainty}: {title}]"));
        f.write_str(&each.collect::<Vec<_>>().join("; "))?;
        self.after.map_or(Ok(()), |after| write!(f, " after {:.1} s", after.as_secs_f32()))
    }
}

/// A running egwtrace.
#[derive(Debug)]
pub struct Trace {
    child: Child,
    lines: thread::JoinHandle<Vec<(Instant, String)>>,
}

/// `EGWTRACE_BIN`, else what `cargo xtask build` made.
pub fn binary() -> Option<PathBuf> {
    if let Some(path) = env::var_os("EGWTRACE_BIN") {
        return Some(path.into());
    }
    let program = env::current_exe().ok()?;
    let mut above = program.ancestors().skip(1).take(3).map(|dir| dir.join("release/egwtrace"));
    above.find(|path| path.is_file())
}

impl Trace {
    /// Starts it and waits until everything is attached. `EGWT_RECORD=DIR` has it record to `DIR/name.rec`.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(lab: &Lab, name: &str, flow: &str, watch: Watch) -> Result<Self> {
        let words = format!("-o json {} {flow}", watch.nodes()).replace('@', &lab.spec().prefix());
        let mut command = Command::new(binary().context("no egwtrace")?);
        command.args(words.split_whitespace()).stdin(Stdio::null()).stdout(Stdio::piped());
        if let Some(dir) = env::var_os("EGWT_RECORD") {
            let dir = PathBuf::from(dir);
            fs::create_dir_all(&dir)?;
            command.arg("--record").arg(dir.join(format!("{name}.rec")));
        }
        let mut child = command.stderr(Stdio::piped()).spawn().context("starting egwtrace")?;
        let mut out = BufReader::new(child.stdout.take().context("no stdout")?);
        let mut header = String::new();
        if out.read_line(&mut header)? == 0 {
            let mut errors = String::new();
            child.stderr.take().context("no stderr")?.read_to_string(&mut errors)?;
            child.wait()?;
            bail!("egwtrace ended: {errors}");
        }
        let lines = thread::spawn(move || {
            out.lines().map_while(Result::ok).map(|line| (Instant::now(), line)).collect()
        });
        Ok(Self { child, lines })
    }

    /// Ends it; the traffic began at `began`. `EGWT_KEEP=DIR` keeps what it printed, as `name`.
    ///
    /// # Errors
    /// When what it printed cannot be kept.
    pub fn stop(mut self, name: &str, began: Instant) -> Result<Found> {
        // SAFETY: kill takes the pid of a child that was not waited for, and a signal.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGINT) };
        self.child.wait()?;
        let lines = self.lines.join().map_err(|_| anyhow!("the reader panicked"))?;
        let first = lines.iter().find(|(_, line)| line.contains("\"certainty\""));
        let after = first.map(|(at, _)| at.saturating_duration_since(began));
        let lines: Vec<String> = lines.into_iter().map(|(_, line)| line).collect();
        if let Some(dir) = env::var_os("EGWT_KEEP") {
            let dir = PathBuf::from(dir);
            fs::create_dir_all(&dir)?;
            fs::write(dir.join(format!("{name}.json")), lines.join("\n"))?;
        }
        Ok(Found { after, ..causes(&lines) })
    }
}

/// The causes of the summary.
fn causes(lines: &[String]) -> Found {
    let values = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut found = Found::default();
    for value in values.filter(|value| value["type"] == "summary") {
        let causes = value["causes"].as_array().into_iter().flatten();
        for cause in causes.filter(|cause| cause["note"] != true) {
            let text = |name: &str| cause[name].as_str().unwrap_or_default().to_owned();
            found.causes.push((text("id"), text("certainty"), text("title")));
            found.whole.push(cause.clone());
        }
    }
    found
}
