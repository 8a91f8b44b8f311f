// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who listens: a listening socket keeps the user that made it, and the program may be another one since (a proxy that
//! gives up its privileges). What it sends is judged by the user it is now.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::node::NetnsId;

const LISTEN: &str = "0A";
/// An unconnected UDP socket.
const CLOSE: &str = "07";

/// The users (fsuid) of the programs of a namespace that listen on a port, each once.
pub(crate) fn listeners(netns: NetnsId, protocol: u8, port: u16) -> Vec<u32> {
    let mut out = Vec::new();
    let mut inodes: Option<Vec<u64>> = None;
    for process in fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path()) {
        let number = process.file_name().is_some_and(|n| n.as_encoded_bytes().iter().all(u8::is_ascii_digit));
        let inside = || fs::metadata(process.join("ns/net")).is_ok_and(|m| m.ino() as NetnsId == netns);
        if !number || !inside() {
            continue;
        }
        let sockets = inodes.get_or_insert_with(|| sockets(&process, protocol, port));
        if sockets.is_empty() {
            return out;
        }
        if holds(&process, sockets)
            && let Some(user) = fs::read_to_string(process.join("status")).ok().as_deref().and_then(fsuid)
            && !out.contains(&user)
        {
            out.push(user);
        }
    }
    out
}

/// Inodes of the sockets that listen on the port, seen from a process of their namespace.
fn sockets(process: &Path, protocol: u8, port: u16) -> Vec<u64> {
    let (files, state) = match i32::from(protocol) {
        libc::IPPROTO_TCP => (["net/tcp", "net/tcp6"], LISTEN),
        _ => (["net/udp", "net/udp6"], CLOSE),
    };
    let read = |file: &&str| fs::read_to_string(process.join(file)).unwrap_or_default();
    files.iter().flat_map(|file| listening(&read(file), state, port)).collect()
}

/// Of /proc/net/tcp: inodes of the lines with this state and local port.
fn listening(text: &str, state: &str, port: u16) -> Vec<u64> {
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (_, local) = words.get(1)?.rsplit_once(':')?;
        let here = u16::from_str_radix(local, 16).ok()? == port && *words.get(3)? == state;
        if here { words.get(9)?.parse().ok() } else { None }
    };
    text.lines().skip(1).filter_map(line).collect()
}

fn holds(process: &Path, sockets: &[u64]) -> bool {
    fs::read_dir(process.join("fd")).into_iter().flatten().flatten().any(|fd| {
        let Ok(target) = fs::read_link(fd.path()) else { return false };
        let target = target.to_string_lossy();
        let inode = target.strip_prefix("socket:[").and_then(|t| t.strip_suffix(']'));
        inode.and_then(|i| i.parse().ok()).is_some_and(|inode: u64| sockets.contains(&inode))
    })
}

/// The fourth of the users in /proc/PID/status.
fn fsuid(status: &str) -> Option<u32> {
    status.lines().find_map(|l| l.strip_prefix("Uid:"))?.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use proptest::prelude::*;

    use super::*;
    use crate::node::Netns;

    #[test]
    fn this_program_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let here = Netns::current().unwrap();
        // SAFETY: no arguments, no memory.
        let own = unsafe { libc::geteuid() };
        assert_eq!(listeners(here.id(), 6, port), [own]);
        drop(listener);
        assert_eq!(listeners(here.id(), 6, port), Vec::<u32>::new());
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "(.{0,60}\n?){0,4}") {
            let _ = (listening(&text, LISTEN, 80), fsuid(&text));
        }
    }
}
