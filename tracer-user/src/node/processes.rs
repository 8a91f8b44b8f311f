// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who listens: sockets that take packets from anyone, with the processes that hold them.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;

use super::netns::{Netns, NetnsError};
use super::sockets::{Socket, listening_sockets};
use super::topology::NetnsId;
use crate::text::printable;

/// Descriptors looked at in one reading: a node may have a million.
const DESCRIPTORS: usize = 200_000;

/// A process as seen from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// The kernel's short name of it; safe to print.
    pub name: String,
    pub pid: u32,
}

/// A socket, and the process that holds it; of several, the first one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub socket: Socket,
    pub process: Option<Process>,
}

/// Reads listeners again and again. Processes are looked for when there is a socket that was not there before.
#[derive(Debug, Default)]
pub struct ListenerReader {
    /// By inode of the socket; `None`: looked for and not found.
    known: HashMap<(NetnsId, u32), Option<Process>>,
}

impl ListenerReader {
    /// The listeners of a namespace.
    pub fn read(&mut self, netns: &Netns) -> Result<Vec<Listener>, NetnsError> {
        let id = netns.id();
        let sockets = netns.run(|| listening_sockets(netns.name(), &mut Vec::new()))?;
        let inodes: HashSet<u32> = sockets.iter().map(|(_, inode)| *inode).collect();
        self.known.retain(|(of, inode), held| {
            let still = held.as_ref().is_none_or(|process| is_in(process.pid, id));
            *of != id || (inodes.contains(inode) && still)
        });
        let new: HashSet<u32> = inodes
            .into_iter()
            .filter(|inode| *inode != 0 && !self.known.contains_key(&(id, *inode)))
            .collect();
        if !new.is_empty() {
            let mut found: HashMap<u32, Process> = HashMap::new();
            for (inode, pid) in holders(id, &new, false) {
                let name = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
                found.entry(inode).or_insert(Process { name: printable(name.trim_ascii_end()), pid });
            }
            self.known.extend(new.iter().map(|inode| ((id, *inode), found.remove(inode))));
        }
        Ok(sockets
            .into_iter()
            .map(|(socket, inode)| Listener {
                socket,
                process: self.known.get(&(id, inode)).cloned().flatten(),
            })
            .collect())
    }

    /// A namespace that is not looked at any more.
    pub fn forget_but(&mut self, kept: &[Netns]) {
        self.known.retain(|(id, _), _| kept.iter().any(|netns| netns.id() == *id));
    }
}

/// The process that takes packets of a protocol to this address and port: one that listens at the address before
/// one that listens at all.
pub fn taker(listeners: &[Listener], proto: u8, address: IpAddr, port: u16) -> Option<&Process> {
    let mut takers: Vec<&Listener> =
        listeners.iter().filter(|l| l.socket.takes(proto, address, port)).collect();
    takers.sort_by_key(|l| l.socket.local.ip().is_unspecified());
    takers.first()?.process.as_ref()
}

/// The users (fsuid) of the programs that listen on a port, each once. A socket keeps the user that made it, and the
/// program may be another one since (a proxy that gives up its privileges): what it sends is judged by the user it is now.
pub(crate) fn users_on_port(netns: &Netns, proto: u8, port: u16) -> Vec<u32> {
    let sockets = netns.run(|| listening_sockets(netns.name(), &mut Vec::new())).unwrap_or_default();
    let wanted = |(socket, inode): (Socket, u32)| {
        (socket.proto == proto && socket.local.port() == port && inode != 0).then_some(inode)
    };
    let inodes: HashSet<u32> = sockets.into_iter().filter_map(wanted).collect();
    let mut users = Vec::new();
    for (_, pid) in holders(netns.id(), &inodes, true) {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        users.extend(fsuid(&status).filter(|user| !users.contains(user)));
    }
    users
}

/// The fourth of the users in /proc/PID/status.
fn fsuid(status: &str) -> Option<u32> {
    status.lines().find_map(|l| l.strip_prefix("Uid:"))?.split_whitespace().nth(3)?.parse().ok()
}

fn is_in(pid: u32, netns: NetnsId) -> bool {
    std::fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|m| m.ino() as NetnsId == netns)
}

/// Which processes of the namespace hold these sockets, by inode: `all` of them, or one for each. Who ends meanwhile, or
/// may not be looked at, is not found.
fn holders(netns: NetnsId, wanted: &HashSet<u32>, all: bool) -> Vec<(u32, u32)> {
    let mut wanted = wanted.clone();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    let (mut out, mut left) = (Vec::new(), DESCRIPTORS);
    for pid in pids {
        if wanted.is_empty() || left == 0 {
            break;
        }
        if !is_in(pid, netns) {
            continue;
        }
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        for descriptor in descriptors.take(left) {
            left -= 1;
            let Ok(target) = std::fs::read_link(descriptor.path()) else { continue };
            let inode =
                target.to_str().and_then(|t| t.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
            let Some(inode) = inode.filter(|inode| wanted.contains(inode)) else { continue };
            if !all {
                wanted.remove(&inode);
            }
            out.push((inode, pid));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn this_process_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = listener.local_addr().unwrap();
        let here = Netns::current().unwrap();
        let mut reader = ListenerReader::default();
        for _ in 0..2 {
            let listeners = reader.read(&here).unwrap();
            let process = taker(&listeners, 6, local.ip(), local.port()).unwrap();
            assert_eq!(process.pid, std::process::id());
            assert!(!process.name.is_empty());
            assert_eq!(taker(&listeners, 17, local.ip(), local.port()), None);
        }
        // SAFETY: no arguments, no memory.
        let own = unsafe { libc::geteuid() };
        assert_eq!(users_on_port(&here, 6, local.port()), [own]);
        drop(listener);
        let listeners = reader.read(&here).unwrap();
        assert_eq!(taker(&listeners, 6, local.ip(), local.port()), None);
        assert_eq!(users_on_port(&here, 6, local.port()), Vec::<u32>::new());
    }
}
