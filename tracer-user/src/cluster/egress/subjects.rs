// SPDX-License-Identifier: MIT OR Apache-2.0
//! The pods that policies are judged for: asked for one by one, and again, because labels change.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use super::objects::Pod;

/// Pods of one run that are looked at.
const MOST: usize = 64;

/// How a pod is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    Named {
        namespace: String,
        name: String,
    },
    /// Whoever has this address.
    At(IpAddr),
}

#[derive(Clone, Debug)]
struct TrackedSubject {
    subject: Subject,
    /// As the container runtime has it, until the server says more.
    pod: Option<Pod>,
    answered: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Subjects {
    entries: RwLock<Vec<TrackedSubject>>,
    changes: AtomicU64,
}

impl Subjects {
    /// One more, and what the container runtime says of it.
    pub fn want(&self, subject: Subject, pod: Option<Pod>) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if entries.len() < MOST && entries.iter().all(|entry| entry.subject != subject) {
            entries.push(TrackedSubject { subject, pod, answered: false });
            self.changes.fetch_add(1, Ordering::Release);
        }
    }

    /// Those that are known.
    pub fn pods(&self) -> Vec<Pod> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let mut out: Vec<Pod> = Vec::new();
        for pod in entries.iter().filter_map(|entry| entry.pod.as_ref()) {
            if !out.iter().any(|known| known.namespace == pod.namespace && known.name == pod.name) {
                out.push(pod.clone());
            }
        }
        out
    }

    /// All have been asked for once.
    pub fn are_answered(&self) -> bool {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).iter().all(|entry| entry.answered)
    }

    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    pub fn wanted(&self) -> Vec<Subject> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.iter().map(|entry| entry.subject.clone()).collect()
    }

    /// The server has answered; `None`: with no pod, and what was known before is kept.
    pub fn found(&self, subject: &Subject, pod: Option<Pod>) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = entries.iter_mut().find(|entry| entry.subject == *subject) else { return };
        entry.answered = true;
        if pod.is_some() && entry.pod != pod {
            entry.pod = pod;
            self.changes.fetch_add(1, Ordering::Release);
        }
    }
}
