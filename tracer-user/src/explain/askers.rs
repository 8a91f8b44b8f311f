// SPDX-License-Identifier: MIT OR Apache-2.0
//! Addresses that are asked for, and requests that wait for answers to them.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use super::catalogue as c;
use super::explainer::Asked;
use super::finding::Finding;
use crate::flow::Journey;
use crate::node::NetnsId;

/// Requests without answer that are remembered.
const SILENT: usize = 32;
const TARGETS: usize = 4096;

/// Who asks again asks within this time.
const AGAIN_NS: u64 = 3_500_000_000;

/// Somebody's asking for one address.
#[derive(Clone, Copy, Debug)]
struct Question {
    by: IpAddr,
    times: u32,
    /// The last time, CLOCK_MONOTONIC.
    last_ns: u64,
}

#[derive(Debug, Default)]
pub(super) struct Askers {
    /// Who asks for an address on a node's networks, and how often so far.
    asked: HashMap<(NetnsId, IpAddr), Question>,
    /// Packets whose silence has no better reason yet.
    silent: VecDeque<Journey>,
}

impl Askers {
    pub(super) fn hear(&mut self, asked: &[Asked], now_ns: u64) {
        for one in asked {
            if self.asked.len() >= TARGETS {
                self.asked.clear();
            }
            let first = Question { by: one.by, times: 0, last_ns: now_ns };
            let known = self.asked.entry((one.netns, one.target)).or_insert(first);
            if now_ns.saturating_sub(known.last_ns) > AGAIN_NS {
                known.times = 0;
            }
            *known = Question { by: one.by, times: known.times.saturating_add(one.times), last_ns: now_ns };
        }
    }

    /// Who asks for an address since this time, and how often.
    pub(super) fn of(&self, netns: NetnsId, address: IpAddr, since_ns: u64) -> Option<(IpAddr, u32)> {
        let known = self.asked.get(&(netns, address))?;
        (known.last_ns >= since_ns).then_some((known.by, known.times))
    }

    pub(super) fn silence(&mut self, finding: &Finding, journey: &Journey) {
        if finding.id != c::NO_ANSWER.id || self.silent.iter().any(|known| known.flow == journey.flow) {
            return;
        }
        if self.silent.len() == SILENT {
            self.silent.pop_front();
        }
        self.silent.push_back(journey.clone());
    }

    pub(super) fn silent(&self) -> Vec<Journey> {
        if self.asked.is_empty() { Vec::new() } else { self.silent.iter().cloned().collect() }
    }

    /// Its reason is known, or there was an answer after all.
    pub(super) fn over(&mut self, flow: u32) {
        self.silent.retain(|known| known.flow != flow);
    }
}
