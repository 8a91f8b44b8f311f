// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is measured: egwtrace or tcpdump, running on the router.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::net::{A, B, NOT_A, NOT_B, Net};
use crate::process;

/// A process that took less than this share of a CPU for this long has nothing left to do.
const IDLE: f64 = 0.08;
const IDLE_FOR: Duration = Duration::from_millis(100);
const SETTLE_LIMIT: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(super) enum Mode {
    /// egwtrace with a filter that matches nothing of the traffic.
    Miss,
    /// The same with `--positions all`.
    MissAll,
    /// tcpdump -i any with a filter that matches nothing.
    TcpdumpMiss,
    /// egwtrace -o json of all the traffic.
    MatchJson,
    /// egwtrace's text of all the traffic.
    MatchText,
    /// -o json with `--positions all`.
    MatchAll,
    /// -o json with `--positions last`: as it is where nothing calls for a closer look.
    MatchLast,
    /// tcpdump -i any -w of all the traffic.
    TcpdumpMatch,
    /// The binary of `--against`, with a filter that matches nothing.
    OtherMiss,
    /// The binary of `--against`, -o json of all the traffic.
    OtherMatch,
}

impl Mode {
    pub(super) const ALL: [Self; 10] = [
        Self::Miss,
        Self::OtherMiss,
        Self::MissAll,
        Self::TcpdumpMiss,
        Self::MatchJson,
        Self::OtherMatch,
        Self::MatchText,
        Self::MatchAll,
        Self::MatchLast,
        Self::TcpdumpMatch,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Miss => "miss",
            Self::MissAll => "miss, all positions",
            Self::TcpdumpMiss => "tcpdump, miss",
            Self::MatchJson => "match, json",
            Self::MatchText => "match, text",
            Self::MatchAll => "match, all positions",
            Self::MatchLast => "match, last positions",
            Self::TcpdumpMatch => "tcpdump, match",
            Self::OtherMiss => "miss",
            Self::OtherMatch => "match, json",
        }
    }

    pub(super) fn is_tcpdump(self) -> bool {
        matches!(self, Self::TcpdumpMiss | Self::TcpdumpMatch)
    }

    pub(super) fn is_other(self) -> bool {
        matches!(self, Self::OtherMiss | Self::OtherMatch)
    }

    fn is_miss(self) -> bool {
        matches!(self, Self::Miss | Self::MissAll | Self::TcpdumpMiss | Self::OtherMiss)
    }

    fn command(self, net: &Net, binary: &Path) -> Result<Command> {
        let (src, dst) = if self.is_miss() { (NOT_A, NOT_B) } else { (A, B) };
        if self.is_tcpdump() {
            let mut command = net.router.command("tcpdump")?;
            command.args(["-Z", "root", "-n", "-i", "any"]);
            if !self.is_miss() {
                command.args(["-w", "/dev/null"]);
            }
            command.args(["host", &src.to_string(), "and", "host", &dst.to_string()]);
            return Ok(command);
        }
        let mut command = Command::new(binary);
        command.args(["--node-netns", net.router.name()]);
        command.args(["--src", &src.to_string(), "--dst", &dst.to_string()]);
        if !matches!(self, Self::MatchText) {
            command.args(["-o", "json"]);
        }
        if matches!(self, Self::MissAll | Self::MatchAll) {
            command.args(["--positions", "all"]);
        }
        if matches!(self, Self::MatchLast) {
            command.args(["--positions", "last"]);
        }
        Ok(command)
    }
}

/// Memory of a process, in KiB.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    pub(super) resident: u64,
    pub(super) peak: u64,
}

/// A running egwtrace or tcpdump, its output thrown away. Killed when dropped.
pub(super) struct Subject {
    child: Child,
    what: &'static str,
}

impl Subject {
    /// Starts it and waits until it is attached and idle.
    pub(super) fn start(mode: Mode, net: &Net, binary: &Path) -> Result<Self> {
        let mut command = mode.command(net, binary)?;
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(if mode.is_tcpdump() { Stdio::piped() } else { Stdio::inherit() });
        end_with_us(&mut command);
        let child = command.spawn().with_context(|| format!("starting {}", process::shown(&command)))?;
        let mut subject = Self { child, what: mode.name() };
        if mode.is_tcpdump() {
            subject.wait_until_it_listens()?;
        } else {
            subject.settle(&|pid| fdinfo(pid, "link_id").len() >= 5)?;
        }
        Ok(subject)
    }

    fn wait_until_it_listens(&mut self) -> Result<()> {
        let stderr = self.child.stderr.take().context("tcpdump's stderr is not a pipe")?;
        let mut lines = BufReader::new(stderr).lines();
        let ready = lines.by_ref().map_while(Result::ok).any(|line| line.contains("istening on"));
        // It writes its sums there when it ends, and would not like a closed pipe.
        thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        if ready { Ok(()) } else { bail!("tcpdump did not begin to listen") }
    }

    /// Waits until it is `attached` and then uses next to no time.
    fn settle(&mut self, attached: &dyn Fn(u32) -> bool) -> Result<()> {
        let start = Instant::now();
        let mut before = self.cpu_time();
        while start.elapsed() < SETTLE_LIMIT {
            thread::sleep(IDLE_FOR);
            if let Some(status) = self.child.try_wait().context("looking after it")? {
                bail!("{}: ended at once: {status}", self.what);
            }
            let now = self.cpu_time();
            if now.saturating_sub(before).as_secs_f64() < IDLE_FOR.as_secs_f64() * IDLE
                && attached(self.pid())
            {
                return Ok(());
            }
            before = now;
        }
        bail!("{}: not attached or not idle {SETTLE_LIMIT:?} after its start", self.what)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Time spent on a CPU by all of its threads, those that have ended too.
    pub(super) fn cpu_time(&self) -> Duration {
        let mut clock: libc::clockid_t = 0;
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: both calls write only to the variable they are given.
        let result = unsafe {
            match libc::clock_getcpuclockid(self.pid() as libc::pid_t, &raw mut clock) {
                0 => libc::clock_gettime(clock, &raw mut time),
                error => error,
            }
        };
        // A process that is not there any more is told of elsewhere.
        if result == 0 { Duration::new(time.tv_sec as u64, time.tv_nsec as u32) } else { Duration::ZERO }
    }

    pub(super) fn memory(&self) -> Result<Memory> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))
            .with_context(|| format!("{}: reading its status", self.what))?;
        let field = |name: &str| -> Option<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().strip_suffix(" kB")?.parse().ok()
        };
        let memory = || Some(Memory { resident: field("VmRSS:")?, peak: field("VmHWM:")? });
        memory().with_context(|| format!("{}: its status names no memory", self.what))
    }

    /// Ends it as Ctrl-C would.
    pub(super) fn stop(mut self) -> Result<()> {
        interrupt(&self.child);
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.child.try_wait().context("waiting for it")?.is_none() {
            if Instant::now() > deadline {
                bail!("{}: did not end within 10 s of an interrupt", self.what);
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// From the start of the process to its first line.
pub(super) fn time_to_ready(net: &Net, binary: &Path) -> Result<Duration> {
    first_line(Mode::MatchText.command(net, binary)?)
}

/// From the start of an egwtrace to its first line; it is then ended.
pub(super) fn first_line(mut command: Command) -> Result<Duration> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    end_with_us(&mut command);
    let start = Instant::now();
    let child = command.spawn().with_context(|| format!("starting {}", process::shown(&command)))?;
    let mut subject = Subject { child, what: "egwtrace" };
    let mut stdout = BufReader::new(subject.child.stdout.take().context("its stdout is not a pipe")?);
    let mut line = String::new();
    let read = stdout.read_line(&mut line).context("reading its first line")?;
    let took = start.elapsed();
    if read == 0 {
        bail!("egwtrace ended without a line");
    }
    interrupt(&subject.child);
    // To its end, so that it never writes to a closed pipe.
    stdout.lines().map_while(Result::ok).for_each(drop);
    Ok(took)
}

fn interrupt(child: &Child) {
    // SAFETY: kill has no memory effects; the child was not waited for, so the pid is still its.
    unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
}

/// The child gets a SIGTERM when we end, however we do.
fn end_with_us(command: &mut Command) {
    // SAFETY: between fork and exec only prctl is called, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            Ok(())
        })
    };
}

/// The numbers under `key` in what the kernel says of the process's descriptors.
pub(super) fn fdinfo(pid: u32, key: &str) -> Vec<u32> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten();
    let mut found: Vec<u32> = descriptors
        .filter_map(|entry| {
            let text = fs::read_to_string(entry.ok()?.path()).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
            line.trim().parse().ok()
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}
