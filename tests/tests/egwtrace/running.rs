// SPDX-License-Identifier: MIT OR Apache-2.0
//! The real binary as a child process: started in a namespace, ready when its header is there, read line by line.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tests::{Lab, ns::Ns};
pub(crate) use tests::{causes::binary, skip_unless_able};

use crate::journey::Journey;

/// Until the header; other tests keep the machine busy.
const READY: Duration = Duration::from_secs(20);
/// Until a condition that the tracer should fulfil soon.
pub(crate) const SOON: Duration = Duration::from_secs(6);

/// A command line of egwtrace, in which `@place` is a namespace of the lab.
pub(crate) struct Invocation<'a> {
    lab: &'a Lab,
    pub(crate) command: Command,
}

impl<'a> Invocation<'a> {
    /// `line` is split at blanks. Runs inside `place`, as on a node.
    pub(crate) fn new(lab: &'a Lab, place: &str, line: &str) -> Result<Self> {
        let mut command = lab.ns(place).command(binary().context("no egwtrace")?)?;
        let prefix = lab.spec().prefix();
        command.args(line.split_whitespace().map(|word| word.replace('@', &prefix)));
        command.env_remove("NO_COLOR").env("TZ", "UTC").stdin(Stdio::null());
        // Whoever runs the tests may have a cluster; it is none of the lab's.
        command.env_remove("KUBECONFIG").env_remove("KUBERNETES_SERVICE_HOST").env("HOME", "/nonexistent");
        Ok(Self { lab, command })
    }

    pub(crate) fn start(mut self) -> Result<Running> {
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().context("starting egwtrace")?;
        let stdout = child.stdout.take().context("no stdout")?;
        let mut stderr = child.stderr.take().context("no stderr")?;
        let (tell, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let Ok(line) = line else { break };
                if tell.send((Instant::now(), line)).is_err() {
                    break;
                }
            }
        });
        let errors = thread::spawn(move || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            text
        });
        let prefix = self.lab.spec().prefix();
        Ok(Running { child, lines, errors: Some(errors), prefix, got: Vec::new() })
    }

    /// Runs it to its end, which must come by itself.
    pub(crate) fn output(self) -> Result<Traced> {
        self.start()?.finish()
    }
}

/// Starts a trace with JSON output inside `place` and waits until it is ready.
pub(crate) fn trace(lab: &Lab, place: &str, line: &str) -> Result<Running> {
    Invocation::new(lab, place, &format!("-o json {line}"))?.start()?.ready()
}

/// Starts a trace with text output.
pub(crate) fn trace_text(lab: &Lab, place: &str, line: &str) -> Result<Running> {
    Invocation::new(lab, place, line)?.start()?.ready()
}

/// A trace under way. Killed when dropped.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<(Instant, String)>,
    errors: Option<JoinHandle<String>>,
    prefix: String,
    /// What was printed so far, and when it was read.
    pub(crate) got: Vec<(Instant, String)>,
}

impl Running {
    /// Waits for the first line: everything is attached then.
    fn ready(mut self) -> Result<Self> {
        self.until(READY, |got| !got.is_empty()).context("waiting for the header")?;
        Ok(self)
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Reads until `enough` is true of all lines so far.
    pub(crate) fn until(
        &mut self,
        patience: Duration,
        mut enough: impl FnMut(&[(Instant, String)]) -> bool,
    ) -> Result<()> {
        let end = Instant::now() + patience;
        while !enough(&self.got) {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => self.got.push(line),
                Err(RecvTimeoutError::Timeout) => bail!("not within {patience:?}; so far:\n{}", self.text()),
                Err(RecvTimeoutError::Disconnected) => {
                    let errors = self.errors.take().and_then(|thread| thread.join().ok());
                    bail!("egwtrace ended: {}\n{}", errors.unwrap_or_default().trim(), self.text());
                }
            }
        }
        Ok(())
    }

    /// Reads until `enough` is true of the journeys so far.
    pub(crate) fn until_journeys(&mut self, mut enough: impl FnMut(&[Journey]) -> bool) -> Result<()> {
        let prefix = self.prefix.clone();
        let (mut seen, mut journeys) = (0, Vec::new());
        self.until(SOON, |got| {
            for (_, line) in &got[seen..] {
                journeys.extend(Journey::parse(line, &prefix));
            }
            seen = got.len();
            enough(&journeys)
        })
    }

    /// Reads until a TCP connection is closed from both sides: until then packets are under way.
    pub(crate) fn until_closed(&mut self) -> Result<()> {
        self.until_journeys(|all| {
            let last = all.iter().max_by_key(|journey| journey.id());
            all.iter().filter(|journey| journey.kind() == "FIN-ACK").count() == 2
                && last.is_some_and(|journey| journey.kind() == "ACK")
        })
    }

    /// Reads until a line contains `text`.
    pub(crate) fn until_says(&mut self, text: &str) -> Result<Instant> {
        let mut when = None;
        self.until(SOON, |got| {
            when = got.iter().find(|(_, line)| line.contains(text)).map(|(when, _)| *when);
            when.is_some()
        })
        .with_context(|| format!("waiting for {text:?}"))?;
        when.context("no such line")
    }

    pub(crate) fn signal(&self, signal: i32) -> Result<()> {
        // SAFETY: kill takes a pid, of a child that was not waited for, and a signal.
        check(unsafe { libc::kill(self.pid(), signal) })
    }

    /// Ctrl-C, and all it printed.
    pub(crate) fn stop(self) -> Result<Traced> {
        self.signal(libc::SIGINT)?;
        self.finish()
    }

    /// Waits for its end, and all it printed.
    pub(crate) fn finish(mut self) -> Result<Traced> {
        let end = Instant::now() + READY;
        let lost = loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => self.got.push(line),
                Err(RecvTimeoutError::Disconnected) => break false,
                Err(RecvTimeoutError::Timeout) => break true,
            }
        };
        if lost {
            bail!("egwtrace does not end; so far:\n{}", self.text());
        }
        let status = self.child.wait().context("waiting for egwtrace")?;
        let errors = self.errors.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        let lines: Vec<String> = self.got.drain(..).map(|(_, line)| line).collect();
        Ok(Traced::new(status, lines, errors, &self.prefix))
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    fn text(&self) -> String {
        let told = |line: &str| match Journey::parse(line, &self.prefix) {
            Some(journey) => format!("{}\n    {}\n", journey.title(), journey.hops().join("\n    ")),
            None => format!("{line}\n"),
        };
        self.got.iter().map(|(_, line)| told(line)).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn check(result: i32) -> Result<()> {
    if result < 0 { Err(std::io::Error::last_os_error().into()) } else { Ok(()) }
}

/// A trace that has ended.
#[derive(Debug)]
pub(crate) struct Traced {
    pub(crate) status: ExitStatus,
    pub(crate) lines: Vec<String>,
    pub(crate) errors: String,
    /// In order of first sight; the last word on each.
    pub(crate) journeys: Vec<Journey>,
    pub(crate) notices: Vec<Value>,
    pub(crate) summary: Value,
}

impl Traced {
    fn new(status: ExitStatus, lines: Vec<String>, errors: String, prefix: &str) -> Self {
        let mut journeys = BTreeMap::new();
        let (mut summary, mut notices) = (Value::Null, Vec::new());
        for line in &lines {
            if line.starts_with('{') {
                let value: Value = serde_json::from_str(line).expect("a line of JSON");
                // A check has a schema of its own.
                if value["type"] != "check" {
                    crate::schema::assert_fits(&value);
                }
            }
            if let Some(journey) = Journey::parse(line, prefix) {
                journeys.insert(journey.id(), journey);
                continue;
            }
            let Ok(value) = serde_json::from_str::<Value>(line) else { continue };
            match value["type"].as_str() {
                Some("summary") => summary = value,
                Some("notice") => notices.push(value),
                _ => {}
            }
        }
        let journeys = journeys.into_values().collect();
        Self { status, lines, errors, journeys, notices, summary }
    }

    /// Ended as it should, and nothing was lost.
    pub(crate) fn clean(self) -> Result<Self> {
        if self.status.code() != Some(0) {
            bail!("egwtrace ended with {}: {}", self.status, self.errors.trim());
        }
        if !self.errors.is_empty() {
            bail!("egwtrace says: {}", self.errors.trim());
        }
        if self.count("events_lost") != 0 {
            bail!("events were lost: {}", self.summary);
        }
        Ok(self)
    }

    /// A number of the summary.
    pub(crate) fn count(&self, what: &str) -> u64 {
        self.summary[what].as_u64().unwrap_or_else(|| panic!("no {what} in the summary: {}", self.summary))
    }

    /// The first journey of this kind (`SYN`, `UDP`, `echo request` …) and direction.
    pub(crate) fn first(&self, what: &str) -> &Journey {
        self.all(what).next().unwrap_or_else(|| panic!("no {what} among\n{}", self.list()))
    }

    pub(crate) fn all(&self, what: &str) -> impl Iterator<Item = &Journey> {
        self.journeys.iter().filter(move |journey| journey.kind() == what)
    }

    /// One line for each journey.
    pub(crate) fn list(&self) -> String {
        self.journeys.iter().map(|journey| format!("{}\n", journey.title())).collect()
    }

    /// Everything as text, with the lab's prefix taken off the names.
    pub(crate) fn text(&self, ns: &Ns) -> String {
        let prefix = ns.name().rsplit_once('-').map_or("", |(prefix, _)| prefix);
        self.lines.join("\n").replace(&format!("{prefix}-"), "")
    }
}
