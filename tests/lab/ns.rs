// SPDX-License-Identifier: MIT OR Apache-2.0
//! Named network namespaces: making them, entering them, taking them away.
//!
//! The names live where iproute2 keeps them (`/run/netns`), so that `ip netns exec` and
//! `egwtrace --netns` find them. A thread is moved by `setns` only when it is ours and ends
//! afterwards; a process is moved between `fork` and `exec`.

use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::OpenOptionsExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result, anyhow, bail};

/// Where iproute2 keeps the names of namespaces.
pub const NETNS_DIR: &str = "/run/netns";

/// A named network namespace. Holds no descriptor: it is opened at each use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ns {
    name: String,
}

impl Ns {
    /// The namespace of this full name (`egwt-lab-node1`), which need not exist yet.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    /// The full name, as `ip netns` lists it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file which stands for it.
    pub fn path(&self) -> PathBuf {
        Path::new(NETNS_DIR).join(&self.name)
    }

    /// Whether something stands at its path.
    pub fn exists(&self) -> bool {
        self.path().exists()
    }

    /// The inode which identifies the namespace in the kernel (`net->ns.inum`).
    ///
    /// # Errors
    /// When there is no such namespace.
    pub fn inode(&self) -> Result<u64> {
        use std::os::unix::fs::MetadataExt;
        Ok(fs::metadata(self.path()).with_context(|| format!("looking at namespace {}", self.name))?.ino())
    }

    /// Makes the namespace, with `lo` still down, and gives it its name.
    ///
    /// # Errors
    /// When the name is taken, or the caller may not make namespaces.
    pub fn create(&self) -> Result<()> {
        let path = self.path();
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o444)
            .open(&path)
            .with_context(|| format!("making the name of namespace {}", self.name))?;
        let made = thread::scope(|scope| {
            scope
                .spawn(|| -> io::Result<()> {
                    // SAFETY: unshare takes flags only, and moves this thread alone, which ends here.
                    check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
                    bind_mount(Path::new("/proc/thread-self/ns/net"), &path, libc::MS_BIND)
                })
                .join()
        });
        match made {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                let _ = fs::remove_file(self.path());
                Err(error).with_context(|| format!("making namespace {}", self.name))
            }
            Err(_) => bail!("the thread that makes namespace {} panicked", self.name),
        }
    }

    /// Takes the name away. The kernel frees the namespace when its last process ends.
    ///
    /// # Errors
    /// When it cannot be unmounted or removed; a name that is gone already is no error.
    pub fn delete(&self) -> Result<()> {
        let path = self.path();
        let target = c_path(&path)?;
        loop {
            // SAFETY: target is a NUL-terminated string that outlives the call.
            if unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) } == 0 {
                continue;
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                // Not a mount point (any more): an interrupted `create`, or all layers are off.
                Some(libc::EINVAL | libc::ENOENT) => break,
                _ => return Err(error).with_context(|| format!("unmounting namespace {}", self.name)),
            }
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing the name of namespace {}", self.name))
            }
            _ => Ok(()),
        }
    }

    /// A descriptor of the namespace.
    ///
    /// # Errors
    /// When there is no such namespace.
    pub fn open(&self) -> Result<OwnedFd> {
        let file = File::open(self.path()).with_context(|| {
            format!("opening namespace {} (is the lab up? `cargo xtask lab up`)", self.name)
        })?;
        Ok(file.into())
    }

    /// Runs `work` in a thread of its own inside the namespace and waits for it.
    ///
    /// Files opened under `/proc/sys/net` and sockets made by `work` belong to the namespace.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or `work` panics.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let fd = self.open()?;
        thread::scope(|scope| {
            let worker = scope.spawn(move || -> io::Result<T> {
                enter(&fd)?;
                Ok(work())
            });
            match worker.join() {
                Ok(done) => done.with_context(|| format!("entering namespace {}", self.name)),
                Err(panic) => Err(anyhow!("in namespace {}: {}", self.name, panic_text(panic.as_ref()))),
            }
        })
    }

    /// A command that will run inside the namespace. Its mount namespace stays the caller's, so
    /// `/sys/class/net` still shows the caller's devices; use netlink.
    ///
    /// # Errors
    /// When there is no such namespace.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let fd = self.open()?;
        let mut command = Command::new(program);
        // SAFETY: between fork and exec only setns is called, which is async-signal-safe; the
        // descriptor is owned by the closure, hence by the command.
        unsafe { command.pre_exec(move || enter(&fd)) };
        Ok(command)
    }

    /// Runs `line` (split at blanks; no quoting) inside, and returns its standard output.
    ///
    /// # Errors
    /// When it cannot be started or fails; the error has its standard error.
    pub fn sh(&self, line: &str) -> Result<String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        self.exec(&words, None)
    }

    /// Runs `argv` inside with `input` on its standard input, and returns its standard output.
    ///
    /// # Errors
    /// When it cannot be started or fails; the error has its standard error.
    pub fn exec(&self, argv: &[&str], input: Option<&str>) -> Result<String> {
        let (program, arguments) = argv.split_first().context("an empty command")?;
        let what = || format!("`{}` in namespace {}", argv.join(" "), self.name);
        let mut command = self.command(program)?;
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
        let mut child = command.spawn().with_context(|| format!("starting {}", what()))?;
        if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
            // A program that refuses its input closes it early; its own message says more.
            let _ = stdin.write_all(input.as_bytes());
        }
        let output = child.wait_with_output().with_context(|| format!("waiting for {}", what()))?;
        if !output.status.success() {
            bail!(
                "{} failed ({}): {}",
                what(),
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Sets sysctls, each given as (path under `/proc/sys/net`, value).
    ///
    /// # Errors
    /// When one does not exist or refuses the value.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            settings.iter().try_for_each(|(key, value)| {
                fs::write(Path::new("/proc/sys/net").join(key), value)
                    .with_context(|| format!("setting net/{key} to {value}"))
            })
        })?
        .with_context(|| format!("in namespace {}", self.name))
    }
}

/// Makes `/run/netns` what iproute2 expects: a shared mount of its own.
///
/// # Errors
/// When it cannot be made or mounted.
pub fn prepare_dir() -> Result<()> {
    let dir = Path::new(NETNS_DIR);
    fs::create_dir_all(dir).with_context(|| format!("making {NETNS_DIR}"))?;
    // iproute2 takes the same lock while it does the same.
    let lock = File::open(dir).with_context(|| format!("opening {NETNS_DIR}"))?;
    // SAFETY: flock on a descriptor that lives until the end of this function.
    check(unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX) }).context("locking /run/netns")?;
    let target = c_path(dir)?;
    let share = || {
        // SAFETY: all strings are NUL-terminated and outlive the call; no data is passed.
        check(unsafe {
            libc::mount(
                c"".as_ptr(),
                target.as_ptr(),
                c"none".as_ptr(),
                libc::MS_SHARED | libc::MS_REC,
                std::ptr::null(),
            )
        })
    };
    if share().is_err() {
        bind_mount(dir, dir, libc::MS_BIND | libc::MS_REC).context("mounting /run/netns on itself")?;
        share().context("making /run/netns a shared mount")?;
    }
    Ok(())
}

/// The full names of all namespaces that begin with `prefix`.
///
/// # Errors
/// When the directory exists but cannot be read.
pub fn with_prefix(prefix: &str) -> Result<Vec<Ns>> {
    let entries = match fs::read_dir(NETNS_DIR) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("reading {NETNS_DIR}")),
    };
    let mut found: Vec<Ns> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .map(Ns::named)
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// Moves the calling thread into the namespace of `fd`.
fn enter(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: setns takes a descriptor and a flag; it moves the calling thread only.
    check(unsafe { libc::setns(fd.as_raw_fd(), libc::CLONE_NEWNET) })
}

fn bind_mount(source: &Path, target: &Path, flags: libc::c_ulong) -> io::Result<()> {
    let (source, target) = (c_path(source)?, c_path(target)?);
    // SAFETY: all strings are NUL-terminated and outlive the call; no data is passed.
    check(unsafe { libc::mount(source.as_ptr(), target.as_ptr(), c"none".as_ptr(), flags, std::ptr::null()) })
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

/// Turns the C convention (negative is failure, see errno) into a `Result`.
pub(crate) fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without words")
}
