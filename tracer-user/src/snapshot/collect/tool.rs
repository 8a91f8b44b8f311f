// SPDX-License-Identifier: MIT OR Apache-2.0
//! Running a tool that prints what the kernel keeps: with a time limit and a bound on its output.

use std::env;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::text::printable;

const TIME: Duration = Duration::from_secs(5);
const MAX_OUTPUT: usize = 256 << 20;
const MAX_ERRORS: usize = 64 << 10;

#[derive(Debug, thiserror::Error)]
pub(super) enum ToolError {
    #[error("cannot run {tool}: {source}")]
    Run { tool: String, source: std::io::Error },
    #[error("{tool} did not end within {} s", TIME.as_secs())]
    Slow { tool: String },
    #[error("{tool} printed more than {} MiB", MAX_OUTPUT >> 20)]
    Long { tool: String },
    #[error("{tool} failed: {message}")]
    Failed { tool: String, message: String },
}

/// The root of the machine, as a container sees it that shares the machine's processes.
const MACHINE: &str = "/proc/1/root";
/// Places for administrators that are not in every PATH.
const KNOWN: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin"];

/// Where a tool is; in a container without it, the machine's own.
pub(super) fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let here = env::split_paths(&path)
        .chain(KNOWN.map(PathBuf::from))
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|file| file.is_file());
    // A link there may lead where only the machine's root makes sense of it: that it is there must do.
    let there = || KNOWN.iter().map(|dir| PathBuf::from(format!("{MACHINE}{dir}/{name}")));
    here.or_else(|| there().find(|file| file.symlink_metadata().is_ok()))
}

/// How to start it: one of the machine's has the machine's libraries too.
fn command(tool: &Path) -> Command {
    let Ok(inside) = tool.strip_prefix(MACHINE) else { return Command::new(tool) };
    let mut command = Command::new(Path::new("/").join(inside));
    let enter = || match std::os::unix::fs::chroot(MACHINE) {
        Ok(()) => env::set_current_dir("/"),
        Err(error) => Err(error),
    };
    // SAFETY: two system calls on constant paths; short C strings are made on the stack.
    unsafe { command.pre_exec(enter) };
    command
}

/// What the tool prints.
pub(super) fn output(tool: &Path, arguments: &[&str]) -> Result<String, ToolError> {
    let name = || printable(tool.file_name().unwrap_or_default().as_encoded_bytes());
    let failed = |source| ToolError::Run { tool: name(), source };
    let mut child = command(tool)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let read = read_both(&mut child);
    let (printed, errors) = match read {
        Ok(Ok(both)) => both,
        Ok(Err(slow)) => {
            let _ = child.kill();
            let _ = child.wait();
            return Err(if slow {
                ToolError::Slow { tool: name() }
            } else {
                ToolError::Long { tool: name() }
            });
        }
        Err(source) => {
            let _ = child.kill();
            let _ = child.wait();
            return Err(failed(source));
        }
    };
    if child.wait().map_err(failed)?.success() {
        return Ok(String::from_utf8(printed).unwrap_or_else(|e| printable(e.as_bytes())));
    }
    let errors = String::from_utf8_lossy(&errors).into_owned();
    let message = errors.lines().find(|line| !line.trim().is_empty()).unwrap_or("it does not say why");
    Err(ToolError::Failed { tool: name(), message: printable(message) })
}

type Both = (Vec<u8>, Vec<u8>);

/// Both streams to their ends. The inner error: too slow (true) or too long (false).
fn read_both(child: &mut Child) -> std::io::Result<Result<Both, bool>> {
    let (Some(mut stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Ok(Ok((Vec::new(), Vec::new())));
    };
    let deadline = Instant::now() + TIME;
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    let mut fds = [stdout.as_raw_fd(), stderr.as_raw_fd()].map(|fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    });
    let mut buffer = vec![0; 64 << 10];
    while fds.iter().any(|fd| fd.fd >= 0) {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Err(true));
        }
        let wait = libc::c_int::try_from(left.as_millis() + 1).unwrap_or(libc::c_int::MAX);
        // SAFETY: two pollfd of ours; negative descriptors are passed over (poll(2)).
        if unsafe { libc::poll(fds.as_mut_ptr(), 2, wait) } < 0 {
            let error = std::io::Error::last_os_error();
            if error.kind() == std::io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        if fds[0].revents != 0 {
            match stdout.read(&mut buffer)? {
                0 => fds[0].fd = -1,
                n if out.len() + n > MAX_OUTPUT => return Ok(Err(false)),
                n => out.extend_from_slice(&buffer[..n]),
            }
        }
        if fds[1].revents != 0 {
            match stderr.read(&mut buffer)? {
                0 => fds[1].fd = -1,
                n if errors.len() < MAX_ERRORS => errors.extend_from_slice(&buffer[..n]),
                _ => {}
            }
        }
    }
    Ok(Ok((out, errors)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_tool_prints_and_why_it_failed() {
        let sh = find("sh").unwrap();
        assert_eq!(output(&sh, &["-c", "echo a; echo b >&2"]).unwrap(), "a\n");
        let error = output(&sh, &["-c", "echo 'no such\tthing' >&2; exit 3"]).unwrap_err().to_string();
        assert_eq!(error, "sh failed: no such\\x09thing");
        assert!(find("no-such-tool-here").is_none());
    }

    #[test]
    fn the_machines_tools_run_at_the_machines_root() {
        let sh = find("sh").unwrap();
        let there = Path::new(MACHINE).join(sh.strip_prefix("/").unwrap());
        match output(&there, &["-c", "echo $PWD"]) {
            Ok(printed) => assert_eq!(printed, "/\n"),
            Err(error) => println!("SKIP may not change root: {error}"),
        }
    }
}
