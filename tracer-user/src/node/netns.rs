// SPDX-License-Identifier: MIT OR Apache-2.0
//! A network namespace: a handle on it, its identity, its name.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::node::NetnsId;

use crate::text::{printable, quoted};

/// Where `ip netns` and container runtimes keep named namespaces. `/var/run` is a link to `/run` nearly
/// everywhere; where it is not, both are looked at.
pub const NAMED_DIRS: [&str; 2] = ["/run/netns", "/var/run/netns"];

/// An open network namespace. Cheap to clone.
///
/// An open handle keeps the namespace alive: drop every clone (and [`crate::node::Observer`]) when it is gone for
/// everyone else, see [`Netns::is_gone`].
#[derive(Clone, Debug)]
pub struct Netns {
    fd: Arc<OwnedFd>,
    id: NetnsId,
    name: String,
    path: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    #[error("cannot open network namespace {path}: {source}")]
    Open { path: String, source: io::Error },
    #[error(
        "{path} is not a network namespace; accepted: a file such as /run/netns/NAME or /proc/PID/ns/net"
    )]
    NotANamespace { path: String },
    #[error(
        "entering network namespace {name} is not permitted ({source}); run as root, or with CAP_SYS_ADMIN and CAP_NET_ADMIN"
    )]
    Enter { name: String, source: io::Error },
    #[error("cannot start a thread to enter network namespace {name}: {source}")]
    Thread { name: String, source: io::Error },
}

impl Netns {
    /// The namespace this thread is in; called by its name under /run/netns, else by the host's name.
    pub fn current() -> Result<Self, NetnsError> {
        let mut netns = Self::open(Path::new("/proc/thread-self/ns/net"), "")?;
        netns.name = netns.known_as().unwrap_or_else(host_name);
        Ok(netns)
    }

    /// The namespace behind a file. `name` is what it is called on screen.
    pub fn open(path: &Path, name: impl Into<String>) -> Result<Self, NetnsError> {
        let shown = || quoted(path.as_os_str().as_encoded_bytes());
        // O_NONBLOCK: a named pipe must not make us wait for a writer.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(|source| NetnsError::Open { path: shown(), source })?;
        if namespace_type(&file) != Some(libc::CLONE_NEWNET) {
            return Err(NetnsError::NotANamespace { path: shown() });
        }
        let inode = file.metadata().map_err(|source| NetnsError::Open { path: shown(), source })?.ino();
        Ok(Self {
            // Inode numbers of namespaces are 32 bits wide in the kernel (struct ns_common).
            id: inode as NetnsId,
            fd: Arc::new(OwnedFd::from(file)),
            name: printable(name.into()),
            path: path.to_path_buf(),
        })
    }

    /// Inode number of the namespace.
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// What it is called on screen; safe to print.
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = printable(name.into());
        self
    }

    /// Its name under /run/netns, when it has one.
    pub fn known_as(&self) -> Option<String> {
        named().into_iter().find(|(_, id, _)| *id == self.id).map(|(name, ..)| name)
    }

    /// What to put in front of a command so that it runs in there.
    pub fn entry(&self) -> String {
        match self.known_as() {
            Some(name) => format!("ip netns exec {name}"),
            None => format!("nsenter --net={}", printable(self.path.as_os_str().as_encoded_bytes())),
        }
    }

    /// Nobody else holds it any more: the file it was opened from leads elsewhere, it has no name and no
    /// process is in it. Costs one look at that file for as long as that leads to it.
    pub fn is_gone(&self) -> bool {
        let is_this = |path: &Path| std::fs::metadata(path).is_ok_and(|m| m.ino() as NetnsId == self.id);
        let processes = || std::fs::read_dir("/proc").into_iter().flatten().flatten();
        !(self.path.starts_with("/proc/thread-self")
            || is_this(&self.path)
            || self.known_as().is_some()
            || processes().any(|process| is_this(&process.path().join("ns/net"))))
    }

    /// Runs `f` inside the namespace: in a thread of its own, which ends with it, so that no other thread
    /// ever changes its namespace.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        let enter_and_run = || {
            enter(&self.fd, self.id)
                .map(|()| f())
                .map_err(|source| NetnsError::Enter { name: quoted(&self.name), source })
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new()
                .name("netns".into())
                .stack_size(512 * 1024)
                .spawn_scoped(scope, enter_and_run)
                .map_err(|source| NetnsError::Thread { name: quoted(&self.name), source })?;
            match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Identity, not name: two handles on one namespace are equal.
impl PartialEq for Netns {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}
impl Eq for Netns {}

/// The named namespaces of this machine: name, identity, file. Left-over files which are no namespace
/// any more are left out. Sorted by name.
pub fn named() -> Vec<(String, NetnsId, PathBuf)> {
    let Ok(own) = std::fs::metadata("/proc/self/ns/net") else { return Vec::new() };
    let mut out: Vec<(String, NetnsId, PathBuf)> = Vec::new();
    let mut read = Vec::new();
    for dir in NAMED_DIRS {
        let Ok(meta) = std::fs::metadata(dir) else { continue };
        // /var/run is /run nearly everywhere, and a node may have hundreds.
        if read.contains(&(meta.dev(), meta.ino())) {
            continue;
        }
        read.push((meta.dev(), meta.ino()));
        let Ok(entries) = std::fs::read_dir(dir) else { continue };
        for entry in entries.flatten() {
            let Ok(meta) = std::fs::metadata(entry.path()) else { continue };
            let name = printable(entry.file_name().as_encoded_bytes());
            // Every namespace file lives on the one nsfs.
            if meta.dev() == own.dev() && !out.iter().any(|(n, ..)| *n == name) {
                out.push((name, meta.ino() as NetnsId, entry.path()));
            }
        }
    }
    out.sort();
    out
}

/// Every network namespace of this machine that has a name or a process that we can see, once each: those with a name
/// first.
pub(super) fn every() -> impl Iterator<Item = (NetnsId, PathBuf)> {
    let mut seen = BTreeSet::new();
    let of_processes = || {
        std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|process| {
            let path = process.path().join("ns/net");
            Some((std::fs::metadata(&path).ok()?.ino() as NetnsId, path))
        })
    };
    named()
        .into_iter()
        .map(|(_, id, path)| (id, path))
        .chain(std::iter::once_with(of_processes).flatten())
        .filter(move |(id, _)| seen.insert(*id))
}

/// `setns`, unless the thread is there already: so that the own namespace needs no privilege.
fn enter(fd: &OwnedFd, id: NetnsId) -> io::Result<()> {
    if std::fs::metadata("/proc/thread-self/ns/net").is_ok_and(|m| m.ino() as NetnsId == id) {
        return Ok(());
    }
    // SAFETY: plain system call on a descriptor that is open for as long as it is borrowed.
    if unsafe { libc::setns(fd.as_raw_fd(), libc::CLONE_NEWNET) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// ioctl_ns(2); `None` when the file is no namespace at all.
fn namespace_type(file: &File) -> Option<libc::c_int> {
    // SAFETY: NS_GET_NSTYPE takes no argument and touches no memory of ours.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), libc::NS_GET_NSTYPE) };
    (kind >= 0).then_some(kind)
}

fn host_name() -> String {
    std::fs::read("/proc/sys/kernel/hostname")
        .map(|n| printable(n.trim_ascii()))
        .ok()
        .filter(|n| !n.is_empty())
        .unwrap_or_else(|| "node".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_current_namespace_needs_no_privilege() {
        let here = Netns::current().unwrap();
        assert_ne!(here.id(), 0);
        assert!(!here.name().is_empty());
        assert!(!here.is_gone());
        let inside = here.run(|| std::fs::metadata("/proc/thread-self/ns/net").unwrap().ino()).unwrap();
        assert_eq!(inside as NetnsId, here.id());
    }

    #[test]
    fn other_files_are_refused() {
        for path in ["/etc/passwd", "/proc/self/ns/mnt", "/", "/dev/null"] {
            let error = Netns::open(Path::new(path), "x").unwrap_err();
            assert!(matches!(error, NetnsError::NotANamespace { .. }), "{path}: {error}");
        }
        let error = Netns::open(Path::new("/nowhere/\x1b[1m"), "x").unwrap_err().to_string();
        assert!(error.contains("\\x1b[1m") && error.contains("No such file"), "{error}");
    }

    #[test]
    fn the_caller_stays_where_it_is() {
        let path = Path::new("/proc/thread-self/ns/net");
        let here = Netns::current().unwrap();
        // A thread of its own makes a namespace; the handle keeps it.
        let made = std::thread::spawn(move || {
            // SAFETY: moves this short-lived thread only.
            let made = unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0;
            made.then(|| Netns::open(path, "other").unwrap())
        });
        let Some(other) = made.join().unwrap() else {
            return println!("SKIP no network namespace can be made: {}", io::Error::last_os_error());
        };
        let inside = other.run(|| Netns::open(path, "inside").unwrap()).unwrap();
        assert_eq!(inside.id(), other.id());
        assert_ne!(inside.id(), here.id());
        assert_eq!(Netns::current().unwrap().id(), here.id());
    }
}
