// SPDX-License-Identifier: MIT OR Apache-2.0
//! Snapshots of the node, read in a thread beside the event path.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crate::cluster::egress::Objects;
use crate::node::Netns;
use crate::snapshot::Evidence;

/// Between two readings that nothing but causes asked for.
const PAUSE: Duration = Duration::from_secs(2);
/// After a change, before it is read.
const SETTLE: Duration = Duration::from_millis(150);
/// Reading takes at most one part in so many of the time, however often something changes.
const SHARE: u32 = 16;
/// How long the header waits for the first reading.
const FIRST: Duration = Duration::from_millis(700);

/// Addresses whose conntrack entries are read.
const HOSTS: usize = 32;

/// Reads in a thread of its own, one reading at a time.
#[derive(Default)]
pub(super) struct EvidenceReader {
    namespaces: Vec<Netns>,
    /// Whose conntrack entries are read.
    hosts: Vec<IpAddr>,
    latest: Option<Arc<Evidence>>,
    policies: Option<Arc<Objects>>,
    reading: Option<Receiver<Evidence>>,
    /// Asked for while one was under way: what it reads may be old.
    again: bool,
    last: Option<Instant>,
    stale: bool,
    /// How long the last reading took.
    took: Duration,
}

impl EvidenceReader {
    /// These are the namespaces from now on, and something changed in them.
    pub(super) fn watch(&mut self, namespaces: Vec<Netns>) {
        self.namespaces = namespaces;
        self.start();
    }

    /// Addresses of the flow, also those that it was translated to: more of them, from the next reading on.
    pub(super) fn follow(&mut self, hosts: impl IntoIterator<Item = IpAddr>) {
        for host in hosts {
            if self.hosts.len() < HOSTS && !self.hosts.contains(&host) {
                self.hosts.push(host);
            }
        }
    }

    /// Something changed, rules for instance: it is read again soon. Call [`Self::tick`].
    pub(super) fn changed(&mut self) {
        self.stale = true;
    }

    /// Reads again what changed: not while more is changing, and a small part of the time.
    pub(super) fn tick(&mut self) {
        self.take(Duration::ZERO);
        let pause = SETTLE.max(self.took * SHARE);
        if self.stale && self.reading.is_none() && self.last.is_none_or(|last| last.elapsed() >= pause) {
            self.start();
        }
    }

    /// Something is wrong: counters and rules may say more by now.
    pub(super) fn refresh(&mut self) {
        if self.last.is_none_or(|last| last.elapsed() >= PAUSE) {
            self.start();
        }
    }

    /// What the API server says from now on.
    pub(super) fn set_policies(&mut self, policies: Option<Arc<Objects>>) {
        self.policies = policies;
        if let Some(latest) = &mut self.latest {
            Arc::make_mut(latest).policies.clone_from(&self.policies);
        }
    }

    /// What was read last, if anything was.
    pub(super) fn latest(&mut self) -> Option<Arc<Evidence>> {
        self.take(Duration::ZERO);
        self.latest.clone()
    }

    /// Waits for the first reading, but not long.
    pub(super) fn wait(&mut self) {
        self.take(FIRST);
    }

    fn start(&mut self) {
        self.take(Duration::ZERO);
        if self.reading.is_some() {
            self.again = true;
            return;
        }
        let (tell, told) = mpsc::channel();
        let namespaces = self.namespaces.clone();
        let before = self.latest.clone();
        let hosts = self.hosts.clone();
        let read = move || {
            let mut evidence = Evidence::collect_again(&namespaces, before.as_deref());
            evidence.read_connections(&namespaces, &hosts);
            drop(tell.send(evidence));
        };
        if thread::Builder::new().name("evidence".into()).spawn(read).is_ok() {
            self.reading = Some(told);
            self.last = Some(Instant::now());
            self.stale = false;
        }
    }

    fn take(&mut self, patience: Duration) {
        let Some(reading) = &self.reading else { return };
        match reading.recv_timeout(patience) {
            Ok(mut evidence) => {
                evidence.policies.clone_from(&self.policies);
                self.latest = Some(Arc::new(evidence));
                self.took = self.last.map_or(Duration::ZERO, |last| last.elapsed());
            }
            Err(RecvTimeoutError::Timeout) => return,
            Err(RecvTimeoutError::Disconnected) => {}
        }
        self.reading = None;
        if std::mem::take(&mut self.again) {
            self.start();
        }
    }
}
