// SPDX-License-Identifier: MIT OR Apache-2.0
//! Listening processes in the watched namespaces, read in a thread beside the event path.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use super::names::{KernelNames, Listeners};
use crate::node::Netns;
use crate::node::processes::ListenerReader;

/// Between two readings.
const PAUSE: Duration = Duration::from_secs(1);

/// Reads until it is dropped.
pub(super) struct ListenerWatch {
    namespaces: Sender<Vec<Netns>>,
}

impl ListenerWatch {
    /// Without a thread for it, nobody is named.
    pub(super) fn start(names: Arc<KernelNames>) -> Self {
        let (namespaces, changes) = mpsc::channel::<Vec<Netns>>();
        let work = move || {
            let mut reader = ListenerReader::default();
            let mut watched: Vec<Netns> = Vec::new();
            loop {
                match changes.recv_timeout(PAUSE) {
                    Ok(new) => watched = new,
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                reader.forget_but(&watched);
                // One that has just gone has no listeners.
                let read = |netns: &Netns| (netns.id(), reader.read(netns).unwrap_or_default());
                names.set_listeners(watched.iter().map(read).collect::<Listeners>());
            }
        };
        let _ = thread::Builder::new().name("listeners".into()).spawn(work);
        Self { namespaces }
    }

    /// These from now on; read at once.
    pub(super) fn watch(&self, namespaces: Vec<Netns>) {
        // Fails only when there is no thread.
        let _ = self.namespaces.send(namespaces);
    }
}
