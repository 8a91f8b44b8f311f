// SPDX-License-Identifier: MIT OR Apache-2.0
//! The counters of the watched namespaces, for what no packet shows, and of our own programs.

use std::collections::BTreeMap;

use tracer_common::{Counters, FLOW_TABLE_SIZE};

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

/// Inserts into the flow table between two looks after which a flow of that time may have been evicted.
const CHURN: u64 = FLOW_TABLE_SIZE as u64 / 8;

/// How many records and flows went unseen, from the programs' own counters.
#[derive(Debug, Default)]
pub(super) struct Unseen {
    inserted: u64,
    insert_failed: u64,
    lost: u64,
    told_inserted: u64,
    told: u64,
}

impl Unseen {
    pub(super) fn read(&mut self, counters: &[Counters]) {
        self.inserted = counters.iter().map(|cpu| cpu.inserted).sum();
        self.insert_failed = counters.iter().map(|cpu| cpu.insert_failed).sum();
    }

    /// `lost`: records, by all that is known.
    pub(super) fn lost(&mut self, lost: u64) {
        self.lost = self.lost.max(lost);
    }

    /// What went unseen since the last call.
    pub(super) fn risen(&mut self) -> u64 {
        let churn = self.inserted.saturating_sub(std::mem::replace(&mut self.told_inserted, self.inserted));
        let sum = self.lost.saturating_add(self.insert_failed);
        let risen = sum.saturating_sub(std::mem::replace(&mut self.told, sum));
        risen.saturating_add(if churn > CHURN { churn } else { 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_table_that_is_overrun_counts_as_unseen() {
        let mut unseen = Unseen::default();
        let mut cpu = Counters { inserted: CHURN, ..Counters::default() };
        unseen.read(&[cpu]);
        assert_eq!(unseen.risen(), 0);
        (cpu.inserted, cpu.insert_failed) = (3 * CHURN, 2);
        unseen.read(&[cpu]);
        unseen.lost(5);
        assert_eq!((unseen.risen(), unseen.risen()), (2 * CHURN + 7, 0));
    }
}
