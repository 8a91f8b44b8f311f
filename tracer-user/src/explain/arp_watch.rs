// SPDX-License-Identifier: MIT OR Apache-2.0
//! Addresses that are asked for by ARP or neighbour discovery, and the requests that are waiting for those answers.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use super::explainer::{Answered, Asked};
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::flow::Journey;
use crate::node::NetnsId;

/// Requests without answer that are remembered.
const SILENT: usize = 32;
const TARGETS: usize = 4096;

/// Who asks again asks within this time.
const AGAIN_NS: u64 = 3_500_000_000;

/// Somebody's asking for one address.
#[derive(Clone, Copy, Debug)]
struct ArpQuestion {
    by: IpAddr,
    times: u32,
    /// The last time, CLOCK_MONOTONIC.
    last_ns: u64,
}

/// Two answers within this time are to one question, or to one that was repeated.
const TOGETHER_NS: u64 = 3_000_000_000;
/// Hosts that are remembered of one address.
const CLAIMS: usize = 4;

#[derive(Clone, Debug, Default)]
struct Claims {
    macs: Vec<([u8; 6], u64)>,
    /// One that was heard before another one was heard again after it.
    again: bool,
}

#[derive(Debug, Default)]
pub(super) struct Askers {
    /// Who asks for an address on a node's networks, and how often so far.
    asked: HashMap<(NetnsId, IpAddr), ArpQuestion>,
    /// Who answers for an address: MACs, when each was heard last, and whether they took turns.
    answers: HashMap<(NetnsId, IpAddr), Claims>,
    /// Packets whose silence has no better reason yet.
    silent: VecDeque<Journey>,
}

impl Askers {
    pub(super) fn hear(&mut self, asked: &[Asked], now_ns: u64) {
        for one in asked {
            if self.asked.len() >= TARGETS {
                self.asked.clear();
            }
            let first = ArpQuestion { by: one.by, times: 0, last_ns: now_ns };
            let known = self.asked.entry((one.netns, one.target)).or_insert(first);
            if now_ns.saturating_sub(known.last_ns) > AGAIN_NS {
                known.times = 0;
            }
            *known =
                ArpQuestion { by: one.by, times: known.times.saturating_add(one.times), last_ns: now_ns };
        }
    }

    pub(super) fn hear_answers(&mut self, answered: &[Answered], now_ns: u64) {
        for one in answered {
            if self.answers.len() >= TARGETS {
                self.answers.clear();
            }
            let claims = self.answers.entry((one.netns, one.address)).or_default();
            let newest = claims.macs.iter().max_by_key(|(_, at)| *at).map(|(mac, _)| *mac);
            if let Some((mac, at)) = claims.macs.iter_mut().find(|(mac, _)| *mac == one.mac) {
                claims.again |= newest.is_some_and(|newest| newest != *mac);
                *at = now_ns;
            } else if claims.macs.len() < CLAIMS {
                claims.macs.push((one.mac, now_ns));
            }
        }
    }

    /// The hosts that answered for an address at about the same time, where there are several; and whether
    /// they did so again and again. One that takes over from another is heard after it and alone.
    pub(super) fn contested(&self, netns: NetnsId, address: IpAddr) -> Option<(Vec<[u8; 6]>, bool)> {
        let claims = self.answers.get(&(netns, address))?;
        let newest = claims.macs.iter().map(|(_, at)| *at).max()?;
        let near = claims.macs.iter().filter(|(_, at)| newest.saturating_sub(*at) < TOGETHER_NS);
        let macs: Vec<_> = near.map(|(mac, _)| *mac).collect();
        (macs.len() > 1).then_some((macs, claims.again))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(last: u8) -> Answered {
        Answered { netns: 1, address: "10.0.0.9".parse().unwrap(), mac: [2, 0, 0, 0, 0, last] }
    }

    fn heard(answers: &[(u8, u64)]) -> Option<(usize, bool)> {
        let mut askers = Askers::default();
        for (last, second) in answers {
            askers.hear_answers(&[answer(*last)], second * 1_000_000_000);
        }
        askers.contested(1, "10.0.0.9".parse().unwrap()).map(|(macs, again)| (macs.len(), again))
    }

    #[test]
    fn one_host_may_answer_often() {
        assert_eq!(heard(&[(1, 0), (1, 1), (1, 2)]), None);
    }

    #[test]
    fn two_hosts_at_once_are_two() {
        assert_eq!(heard(&[(1, 5), (2, 5)]), Some((2, false)));
        assert_eq!(heard(&[(1, 5), (2, 5), (1, 6)]), Some((2, true)));
    }

    #[test]
    fn one_that_takes_over_is_alone() {
        assert_eq!(heard(&[(1, 0), (1, 1), (2, 60), (2, 61)]), None);
    }
}
