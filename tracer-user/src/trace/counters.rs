// SPDX-License-Identifier: MIT OR Apache-2.0
//! The counters of the watched namespaces, for what no packet shows.

use std::collections::BTreeMap;

use crate::node::{Netns, NetnsId};
use crate::snapshot::CounterFiles;

/// Reads them again and again.
#[derive(Debug, Default)]
pub(super) struct CounterReader {
    files: Vec<(NetnsId, CounterFiles)>,
}

impl CounterReader {
    /// These are the namespaces from now on.
    pub(super) fn watch(&mut self, namespaces: &[Netns]) {
        self.files.retain(|(id, _)| namespaces.iter().any(|netns| netns.id() == *id));
        for netns in namespaces {
            if !self.files.iter().any(|(id, _)| *id == netns.id()) {
                self.files.extend(CounterFiles::open(netns).map(|files| (netns.id(), files)));
            }
        }
    }

    /// What rose since the last time, by namespace.
    pub(super) fn risen(&mut self) -> Vec<(NetnsId, BTreeMap<String, u64>)> {
        let each = self.files.iter_mut().map(|(id, files)| (*id, files.risen()));
        each.filter(|(_, risen)| !risen.is_empty()).collect()
    }
}
