// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reading a namespace. Nothing is changed; the sources are asked side by side.

mod connections;
mod counters;
mod device_programs;
mod firewall;
mod ipset;
mod nftables;
mod packet_sockets;
mod sysctl;
mod tool;
mod xfrm;

pub use counters::CounterFiles;
pub use ipset::parse as parse_ipset_dump;

use std::collections::{BTreeMap, HashSet};
use std::fmt::Display;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread;

use super::model::{Conntrack, Evidence, NetnsEvidence};
use crate::firewall::bytecode::Ruleset;
use crate::node::rtnl::Rtnl;
use crate::node::{Netns, listening_sockets};

impl Evidence {
    /// Reads these namespaces, each in threads of its own. Never fails: what could not be read is told in
    /// [`NetnsEvidence::unreadable`].
    pub fn collect(namespaces: &[Netns]) -> Self {
        Self::collect_again(namespaces, None)
    }

    /// The same; of what was read `before`, that which has not changed since is not read again.
    pub fn collect_again(namespaces: &[Netns], before: Option<&Self>) -> Self {
        let netns = thread::scope(|scope| {
            let each: Vec<_> = namespaces
                .iter()
                .map(|netns| {
                    let before = before.and_then(|before| before.of(netns.id()));
                    (netns, scope.spawn(move || NetnsEvidence::collect(netns, before)))
                })
                .collect();
            let join = |(netns, thread): (&Netns, thread::ScopedJoinHandle<'_, NetnsEvidence>)| {
                let evidence = thread.join().unwrap_or_else(|_| NetnsEvidence {
                    name: netns.name().to_owned(),
                    unreadable: vec!["reading the namespace failed; this is a bug in egwtrace".to_owned()],
                    ..NetnsEvidence::default()
                });
                (netns.id(), Arc::new(evidence))
            };
            each.into_iter().map(join).collect::<BTreeMap<_, _>>()
        });
        Self { netns, policies: None }
    }

    /// Reads the conntrack entries that share an address with `hosts`, for [`NetnsEvidence::connections`].
    pub fn read_connections(&mut self, namespaces: &[Netns], hosts: &[IpAddr]) {
        if hosts.is_empty() {
            return;
        }
        for netns in namespaces {
            let Some(evidence) = self.netns.get_mut(&netns.id()).map(Arc::make_mut) else { continue };
            // A dump walks the whole table.
            if evidence.conntrack.count.is_some_and(|count| count > MAX_TABLE) {
                let why = format!("conntrack entries: more than {MAX_TABLE}, they are not read");
                evidence.unread_connections = Some(why);
                continue;
            }
            match netns.run(|| connections::read(netns.name(), hosts)) {
                Ok(Ok((entries, more))) => {
                    evidence.connections = entries;
                    let why =
                        || format!("conntrack entries: only {} of the flow's are read", connections::MAX);
                    evidence.unread_connections = more.then(why);
                }
                Ok(Err(error)) => evidence.unread_connections = Some(error.to_string()),
                Err(error) => evidence.unread_connections = Some(error.to_string()),
            }
        }
    }
}

/// Entries of a table that is read.
const MAX_TABLE: u64 = 131_072;

/// The rules of a namespace that are in nf_tables, as the kernel keeps them: what [`Evidence::collect`] has of it before
/// a tool is asked about extensions of iptables that are known by name only.
pub fn read_nftables(netns: &Netns) -> Result<Ruleset, String> {
    let read = netns.run(|| nftables::read(netns.name())).map_err(|error| error.to_string())?;
    read.map(|read| read.ruleset).map_err(|error| error.to_string())
}

impl CounterFiles {
    /// Of a namespace; `None` when it cannot be entered any more.
    pub fn open(netns: &Netns) -> Option<Self> {
        netns.run(Self::open_here).ok()
    }
}

impl NetnsEvidence {
    /// Reads one namespace.
    fn collect(netns: &Netns, before: Option<&Self>) -> Self {
        let failed = |error: &dyn Display| Self {
            name: netns.name().to_owned(),
            unreadable: vec![error.to_string()],
            ..Self::default()
        };
        netns.run(|| Self::collect_here(netns.name(), before)).unwrap_or_else(|error| failed(&error))
    }

    /// In the namespace of the calling thread; the threads it starts are in it too.
    fn collect_here(name: &str, before: Option<&Self>) -> Self {
        let mut out = Self { name: name.to_owned(), taken_ns: monotonic_ns(), ..Self::default() };
        thread::scope(|scope| {
            let firewall = scope.spawn(|| firewall::read(name, before));
            let ipsets = scope.spawn(|| ipset::read(name));
            let mut sets = BTreeMap::new();
            out.read_routing(name);
            out.read_proc();
            let sockets = listening_sockets(name, &mut out.unreadable);
            out.sockets = sockets.into_iter().map(|(socket, _)| socket).collect();
            match xfrm::read(name) {
                Ok((policies, states)) => (out.xfrm_policies, out.xfrm_states) = (policies, states),
                Err(error) => out.unreadable.push(error.to_string()),
            }
            out.packet_sockets = packet_sockets::read();
            match ipsets.join() {
                Ok(Ok(read)) => sets = read,
                Ok(Err(error)) => out.unreadable.push(error.to_string()),
                Err(_) => out.unreadable.push("ipsets: reading failed; this is a bug in egwtrace".to_owned()),
            }
            match firewall.join() {
                Ok(read) => {
                    out.nft_generation = read.generation;
                    out.rulesets = read.tables;
                    sets.extend(read.sets);
                    out.unreadable.extend(read.unreadable);
                }
                Err(_) => out.unreadable.push("rules: reading failed; this is a bug in egwtrace".to_owned()),
            }
            out.sets = Arc::new(sets);
        });
        out
    }

    fn read_routing(&mut self, name: &str) {
        let mut rtnl = match Rtnl::open(name) {
            Ok(rtnl) => rtnl,
            Err(error) => return self.unreadable.push(error.to_string()),
        };
        let Self { links, addresses, routes, rules, neighbours, fdb, qdiscs, unreadable, .. } = self;
        let (nexthops, exceptions) = (&mut self.nexthops, &mut self.exceptions);
        keep(links, rtnl.links(), unreadable);
        keep(addresses, rtnl.addresses(), unreadable);
        let mut all = Vec::new();
        keep(&mut all, rtnl.routes(|_| true), unreadable);
        *exceptions = all.extract_if(.., |route| route.cached).collect();
        *routes = Arc::new(all);
        keep(nexthops, rtnl.nexthops(), unreadable);
        keep(rules, rtnl.rules(), unreadable);
        keep(neighbours, rtnl.neighbours(None), unreadable);
        keep(fdb, rtnl.fdb(None), unreadable);
        keep(qdiscs, rtnl.qdiscs(), unreadable);
        self.programs = device_programs::read(&mut rtnl, &self.links, &self.qdiscs);
    }

    fn read_proc(&mut self) {
        // A bridge's port has no say of its own: what comes in by it has come in by the bridge. A node has one for
        // each pod.
        let bridges: HashSet<u32> =
            self.links.iter().filter(|l| l.kind.as_deref() == Some("bridge")).map(|l| l.ifindex).collect();
        let own =
            self.links.iter().filter(|link| link.master.is_none_or(|master| !bridges.contains(&master)));
        self.sysctls = Arc::new(sysctl::read(own.map(|link| link.name.as_str())));
        self.counters = Arc::new(counters::read());
        let number = |path: &str| self.sysctls.get(path).and_then(|value| value.parse().ok());
        self.conntrack = Conntrack {
            count: number("net/netfilter/nf_conntrack_count"),
            max: number("net/netfilter/nf_conntrack_max"),
        };
    }
}

fn keep<T>(into: &mut Vec<T>, read: Result<Vec<T>, impl Display>, unreadable: &mut Vec<String>) {
    match read {
        Ok(list) => *into = list,
        Err(error) => unreadable.push(error.to_string()),
    }
}

fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of ours.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}
