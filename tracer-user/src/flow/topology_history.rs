// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was watched earlier: a packet counts as missing only at places watched for as long as it was under way.

use std::collections::VecDeque;
use std::ops::Range;

use super::topology_index::Places;

/// Changes that are remembered: more than this while one packet is under way is no node's life.
const KEPT: usize = 8;

/// Places of the past, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Former {
    /// With the time (CLOCK_MONOTONIC, ns) from which those that came next have seen all packets.
    kept: VecDeque<(u64, Places)>,
}

impl Former {
    /// `before` gave way to `now` in the course of `during`.
    pub(crate) fn keep(&mut self, before: Places, now: &Places, during: Range<u64>) {
        // The first topology of a run takes the place of none.
        if before == *now || before == Places::default() {
            return;
        }
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back((during.end, before));
    }

    /// What was watched, oldest first and without what is watched now, while a packet was under way that was first
    /// seen at `start`.
    pub(crate) fn since(&self, start: u64) -> impl Iterator<Item = &Places> {
        let over = self.kept.partition_point(|&(until, _)| until <= start);
        self.kept.range(over..).map(|(_, places)| places)
    }
}
