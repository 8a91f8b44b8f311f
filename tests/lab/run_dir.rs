// SPDX-License-Identifier: MIT OR Apache-2.0
//! `/run/egwt-<id>`: what is needed to find a lab again, and to take it away after a crash.
//!
//! ```text
//! spec.json           the `Spec`
//! owner               pid and start time of the process whose end is the lab's end; empty: nobody's
//! faults              names of the faults applied so far, one a line
//! servers/<name>      pid and start time of each server process, written by itself
//! ```

use std::{
    fs, io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::{
    ns::{self, Ns},
    spec::{PREFIX, Spec},
};

const RUN: &str = "/run";

/// A process, told from a later one with the same pid by its start time (clock ticks since boot).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Field 22 of `/proc/<pid>/stat`.
    pub start: u64,
}

impl Process {
    /// The calling process.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn this() -> Result<Self> {
        let pid = i32::try_from(std::process::id()).context("a pid beyond i32")?;
        Self::of(pid).with_context(|| format!("reading /proc/{pid}/stat"))
    }

    /// The process which has this pid now; `None` when there is none, or only a zombie.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the name in parentheses, which may contain anything.
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        if matches!(fields.first(), Some(&"Z" | &"X")) {
            return None;
        }
        Some(Self { pid, start: fields.get(19)?.parse().ok()? })
    }

    /// Whether this very process still runs.
    pub fn alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Kills this very process, never another one that got its pid, and waits until it is gone.
    pub fn kill(self) {
        // SAFETY: pidfd_open takes a pid and flags and returns a descriptor or an error.
        let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, self.pid, 0) };
        let Ok(raw @ 0..) = i32::try_from(raw) else { return };
        // SAFETY: the kernel just gave us this descriptor, nobody else owns it.
        let pidfd = unsafe { OwnedFd::from_raw_fd(raw) };
        // The descriptor pins the process: if it is the right one now, the signal hits the right one.
        if !self.alive() {
            return;
        }
        // SAFETY: a valid pidfd, a signal number, no siginfo, no flags.
        unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                pidfd.as_raw_fd(),
                libc::SIGKILL,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        let mut poll = libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd, which lives across the call; a pidfd is readable when its process ended.
        unsafe { libc::poll(&mut poll, 1, 2000) };
    }

    fn parse(text: &str) -> Option<Self> {
        let (pid, start) = text.trim().split_once(' ')?;
        Some(Self { pid: pid.parse().ok()?, start: start.parse().ok()? })
    }

    fn text(self) -> String {
        format!("{} {}\n", self.pid, self.start)
    }
}

/// The run directory of one lab.
#[derive(Debug, Clone)]
pub struct RunDir {
    id: String,
    path: PathBuf,
}

impl RunDir {
    /// The directory of the lab with this id, which need not exist.
    pub fn of(id: &str) -> Self {
        Self { id: id.to_owned(), path: Path::new(RUN).join(format!("{PREFIX}{id}")) }
    }

    /// Makes it, with the caller as owner.
    ///
    /// # Errors
    /// When it is there already, or cannot be written.
    pub fn create(spec: &Spec) -> Result<Self> {
        let dir = Self::of(&spec.id);
        fs::create_dir(&dir.path).with_context(|| {
            format!("making {} (a lab `{}` is up already? take it down first)", dir.path.display(), spec.id)
        })?;
        fs::create_dir(dir.servers()).context("making the servers' directory")?;
        dir.write("owner", &Process::this()?.text())?;
        dir.write("spec.json", &serde_json::to_string_pretty(spec).context("writing the spec")?)?;
        Ok(dir)
    }

    /// The lab's spec as it was when it went up.
    ///
    /// # Errors
    /// When there is no such lab.
    pub fn spec(&self) -> Result<Spec> {
        let path = self.path.join("spec.json");
        let text = fs::read_to_string(&path)
            .with_context(|| format!("reading {} (is the lab up? `cargo xtask lab up`)", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))
    }

    /// Whether the lab has been put up.
    pub fn exists(&self) -> bool {
        self.path.exists()
    }

    /// From now on the lab outlives its owner.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn disown(&self) -> Result<()> {
        self.write("owner", "")
    }

    /// Notes a fault as applied.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn note_fault(&self, name: &str) -> Result<()> {
        let mut all = fs::read_to_string(self.path.join("faults")).unwrap_or_default();
        all.push_str(name);
        all.push('\n');
        self.write("faults", &all)
    }

    /// The faults applied so far.
    pub fn faults(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path.join("faults")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Where the server `name` writes who it is.
    pub fn server(&self, name: &str) -> PathBuf {
        self.servers().join(name)
    }

    /// The servers which were started and not stopped, by name.
    pub fn running(&self) -> Vec<(String, Process)> {
        let Ok(entries) = fs::read_dir(self.servers()) else { return Vec::new() };
        let mut found: Vec<_> = entries
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let process = Process::parse(&fs::read_to_string(entry.path()).ok()?)?;
                Some((entry.file_name().into_string().ok()?, process))
            })
            .collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found
    }

    /// Kills the server `name`, if it runs, and forgets it. Whether it ran.
    pub fn stop(&self, name: &str) -> bool {
        let file = self.server(name);
        let process = fs::read_to_string(&file).ok().and_then(|text| Process::parse(&text));
        let ran = process.is_some_and(Process::alive);
        if let Some(process) = process {
            process.kill();
        }
        let _ = fs::remove_file(file);
        ran
    }

    /// Takes the whole lab away: servers, namespaces, files. What is not there is no error, so it
    /// may run after a crash, twice, or at the same time as another.
    ///
    /// # Errors
    /// The first thing that could not be taken away, after all have been tried.
    pub fn remove_lab(&self) -> Result<()> {
        for (name, _) in self.running() {
            self.stop(&name);
        }
        let mut first = Ok(());
        for ns in self.namespaces()? {
            first = first.and(ns.delete());
        }
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                first.and(Err(error).with_context(|| format!("removing {}", self.path.display())))
            }
            _ => first,
        }
    }

    /// The namespaces which stand under this lab's prefix.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn namespaces(&self) -> Result<Vec<Ns>> {
        let prefix = format!("{PREFIX}{}-", self.id);
        let mut all = ns::with_prefix(&prefix)?;
        // No place has a dash in its name, ids may: `egwt-a-` is not the prefix of `egwt-a-b-node1`.
        all.retain(|ns| !ns.name()[prefix.len()..].contains('-'));
        Ok(all)
    }

    fn servers(&self) -> PathBuf {
        self.path.join("servers")
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.path.join(file);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }
}

/// Writes the calling process' identity into `path` by rename, so that no reader sees half of it.
///
/// # Errors
/// When it cannot be written.
pub fn write_identity(path: &Path) -> Result<()> {
    let partial = path.with_extension("new");
    let what = || format!("writing {}", path.display());
    fs::write(&partial, Process::this()?.text()).with_context(what)?;
    fs::rename(&partial, path).with_context(what)
}

/// The ids of all labs on this machine, alive or left over.
pub fn all_ids() -> Vec<String> {
    let mut ids: Vec<String> = fs::read_dir(RUN)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.strip_prefix(PREFIX)?.to_owned()))
        .collect();
    ids.sort();
    ids
}

/// Takes away labs whose owner ended without doing so and whose guard was killed too.
pub fn sweep() {
    for id in all_ids() {
        let dir = RunDir::of(&id);
        let left_over = match fs::read_to_string(dir.path.join("owner")) {
            // An empty file: nobody's, kept on purpose.
            Ok(owner) => Process::parse(&owner).is_some_and(|owner| !owner.alive()),
            // None yet: being made this instant, or its maker was killed in that instant.
            Err(_) => dir
                .path
                .metadata()
                .and_then(|dir| dir.modified())
                .is_ok_and(|made| made.elapsed().is_ok_and(|age| age > Duration::from_secs(10))),
        };
        if left_over {
            let _ = dir.remove_lab();
        }
    }
}

/// Waits until `ready` says so; false after `limit`.
pub fn wait_for(limit: Duration, mut ready: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if ready() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
