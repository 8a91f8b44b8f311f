// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reading one namespace's hooks.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::chain::{self, Chain};
use super::compose::{Seen, complete, guess};
use super::dump::{self, Registered};
use crate::node::bpf_query::OwnPrograms;
use crate::node::netlink::{Netlink, NetlinkError};
use crate::node::{Family, Hook, HookEntry};
use crate::text::printable;

/// The places where the hooks of one namespace can be read, opened once.
#[derive(Debug)]
pub struct HookSource {
    /// `None`: the kernel has no nfnetlink at all.
    netfilter: Option<Netlink>,
    /// Names of the legacy tables in use, IPv4 and IPv6; `None` without iptables-legacy.
    tables: [Option<File>; 2],
    /// Number of tracked connections; `None` without conntrack.
    tracked: Option<File>,
}

/// What is registered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    pub hooks: Vec<HookEntry>,
    /// False: partly by knowledge of what comes with what.
    pub exact: bool,
}

impl HookSource {
    /// Opens the sources in the namespace of the calling thread. `netns`: its name in messages.
    pub fn open(netns: &str) -> Result<Self, NetlinkError> {
        let netfilter = match Netlink::open(libc::NETLINK_NETFILTER, netns, &[]) {
            Ok(socket) => Some(socket),
            Err(NetlinkError::Open { source, .. })
                if source.raw_os_error() == Some(libc::EPROTONOSUPPORT) =>
            {
                None
            }
            Err(error) => return Err(error),
        };
        // These files belong to the namespace they are opened in, whoever reads them later.
        let tables = ["ip_tables_names", "ip6_tables_names"]
            .map(|name| File::open(format!("/proc/thread-self/net/{name}")).ok());
        let tracked = File::open("/proc/sys/net/netfilter/nf_conntrack_count").ok();
        Ok(Self { netfilter, tables, tracked })
    }

    /// Reads what is registered now, without egwtrace's own programs.
    pub fn read(&mut self) -> Result<Ruleset, NetlinkError> {
        let mut seen = Seen {
            chains: Vec::new(),
            tables: [self.legacy_tables(0), self.legacy_tables(1)],
            tracked: self.tracked.as_ref().map(read).and_then(|t| t.trim().parse().ok()).unwrap_or(0),
        };
        let Some(socket) = &mut self.netfilter else {
            return Ok(Ruleset { hooks: guess(&seen), exact: false });
        };
        seen.chains = match socket.dump(&chain::request(), Chain::parse) {
            Ok(chains) => chains,
            Err(error) if error.is_unsupported() => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(match registered(socket)? {
            Some(list) => {
                let own = OwnPrograms::read();
                Ruleset { hooks: complete(list, &seen, &|id| own.has(id)), exact: true }
            }
            None => Ruleset { hooks: guess(&seen), exact: false },
        })
    }

    /// The names of the legacy tables in use (0: IPv4, 1: IPv6).
    fn legacy_tables(&self, family: usize) -> Vec<String> {
        let names = self.tables[family].as_ref().map(read).unwrap_or_default();
        names.lines().map(printable).filter(|n| !n.is_empty()).collect()
    }

    /// Something that changes when a legacy table comes into use; they send no notice.
    pub(crate) fn legacy_fingerprint(&self) -> [Vec<String>; 2] {
        [self.legacy_tables(0), self.legacy_tables(1)]
    }
}

/// The kernel's list; `None` where it keeps none for us.
fn registered(socket: &mut Netlink) -> Result<Option<Vec<(Family, Registered)>>, NetlinkError> {
    let mut out = Vec::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        for hook in Hook::ALL {
            match socket.dump(&dump::request(family, hook), Registered::parse) {
                Ok(list) => out.extend(list.into_iter().map(|r| (family, r))),
                // A kernel without IPv6.
                Err(error) if error.is_unsupported() && family == Family::Ipv6 => return Ok(Some(out)),
                Err(error) if error.is_unsupported() => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(Some(out))
}

/// A proc file from its start, at most a page; empty when it cannot be read.
fn read(file: &File) -> String {
    let mut bytes = [0; 4096];
    let length = file.read_at(&mut bytes, 0).unwrap_or(0);
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}
