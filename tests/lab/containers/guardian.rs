// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whoever starts a container runtime starts shims and containers that leave their parents at once. The guardian is
//! the reaper of all of them: when its owner ends, however that is, it ends them and takes away what they mounted.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::ns::check;

/// Where libcni remembers what it did.
const CNI_RESULTS: &str = "/var/lib/cni/results";

/// Runs containerd in `dir` until standard input ends; says "ready" when it serves.
///
/// # Errors
/// When it cannot be started; what cannot be taken away.
pub fn main(dir: &Path, network: &str) -> Result<()> {
    // SAFETY: takes a number and changes this process only.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) }).context("becoming a reaper")?;
    let log = File::create(dir.join("log")).context("making the log")?;
    let mut containerd = Command::new("containerd")
        .arg("--config")
        .arg(dir.join("config.toml"))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("starting containerd")?;
    let served = serve(&super::socket(dir), &mut containerd);
    let gone = take_away(dir, network);
    served.and(gone)
}

fn serve(socket: &Path, containerd: &mut Child) -> Result<()> {
    let (tell, ended) = mpsc::channel();
    thread::spawn(move || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        let _ = tell.send(());
    });
    let mut ready = false;
    loop {
        if !ready && fs::metadata(socket).is_ok_and(|m| m.file_type().is_socket()) {
            ready = true;
            // Nobody may be there to hear it: then standard input has ended too.
            let _ = writeln!(io::stdout(), "ready").and_then(|()| io::stdout().flush());
        }
        match ended.recv_timeout(Duration::from_millis(if ready { 200 } else { 10 })) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => return Ok(()),
        }
        if let Some(status) = containerd.try_wait()? {
            bail!("containerd ended: {status}");
        }
    }
}

fn take_away(dir: &Path, network: &str) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(10);
    let (pods, sockets) = (cgroups(dir), shim_sockets());
    loop {
        let left = descendants();
        for pid in &left {
            // SAFETY: a pid of a descendant that was not waited for, so it is still that process; and a signal.
            unsafe { libc::kill(*pid, libc::SIGKILL) };
        }
        // SAFETY: waits for any child, without blocking; no status is wanted.
        while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } > 0 {}
        if left.is_empty() || Instant::now() > end {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    unmount_below(dir)?;
    for cgroup in pods {
        let _ = fs::remove_dir(cgroup);
    }
    for socket in sockets {
        let _ = fs::remove_file(socket);
    }
    let results = fs::read_dir(CNI_RESULTS).into_iter().flatten().flatten();
    for file in results.filter(|f| f.file_name().to_string_lossy().starts_with(&format!("{network}-"))) {
        let _ = fs::remove_file(file.path());
    }
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// What shims listen at, always in the machine's own directory. Only sockets of this network namespace are listed, and
/// whoever is in it is ours.
fn shim_sockets() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/net/unix").unwrap_or_default();
    let paths = table.lines().filter_map(|line| line.split_whitespace().nth(7));
    paths.filter(|path| path.starts_with("/run/containerd/s/")).map(PathBuf::from).collect()
}

/// The pods' cgroups, the innermost first; the outermost is called as the directory.
fn cgroups(dir: &Path) -> Vec<PathBuf> {
    let Some(name) = dir.file_name() else { return Vec::new() };
    let mut roots = vec![PathBuf::from("/sys/fs/cgroup")];
    roots.extend(fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|e| e.path()));
    let mut out = Vec::new();
    for root in roots {
        let top = root.join(name);
        let inner = fs::read_dir(&top).into_iter().flatten().flatten();
        out.extend(inner.map(|e| e.path()).filter(|path| path.is_dir()));
        if top.is_dir() {
            out.push(top);
        }
    }
    out
}

/// All processes below this one.
fn descendants() -> Vec<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // pid (name) state ppid: the name may hold anything, brackets too.
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        if let Some(parent) = rest.split_whitespace().nth(1).and_then(|word| word.parse().ok()) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let (mut out, mut next) = (Vec::new(), vec![std::process::id() as i32]);
    while let Some(pid) = next.pop() {
        let below = children.remove(&pid).unwrap_or_default();
        out.extend(&below);
        next.extend(below);
    }
    out
}

fn unmount_below(dir: &Path) -> Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("reading the mounts")?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut points: Vec<PathBuf> = points.filter(|point| point.starts_with(dir)).collect();
    points.reverse();
    for point in points {
        let path = std::ffi::CString::new(point.as_os_str().as_encoded_bytes())?;
        // SAFETY: a string that ends with a zero and outlives the call.
        let done = check(unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) });
        done.with_context(|| format!("unmounting {}", point.display()))?;
    }
    Ok(())
}
