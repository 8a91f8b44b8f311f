// SPDX-License-Identifier: MIT OR Apache-2.0
//! Causes found over a run: one per fault, with a count.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::Serialize;

use crate::cause::catalogue::Same;
use crate::cause::{Certainty, Finding, Place};
use crate::flow::Journey;

/// Causes that are remembered.
const CAUSES: usize = 256;
/// Flows that are remembered of one cause.
const FLOWS: usize = 64;

/// A cause, and how often it was met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Told {
    #[serde(flatten)]
    pub finding: Finding,
    /// Packets that it was found for so far.
    pub count: u64,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    entries: Vec<LedgerEntry>,
}

#[derive(Debug)]
struct LedgerEntry {
    key: LedgerKey,
    told: Told,
    /// Journeys come more than once.
    last: u64,
    /// Of a packet that is still under way: it may come to nothing.
    pending: bool,
    flows: BTreeSet<u32>,
    /// Who was asked.
    hosts: BTreeSet<IpAddr>,
}

/// The host that a request is for, or that a reply comes from.
fn asked(journey: &Journey) -> Option<IpAddr> {
    let ends = journey.packet.ends;
    let host = if journey.reply { ends.src } else { ends.dst }.addr.ip();
    (!host.is_unspecified()).then_some(host)
}

impl LedgerEntry {
    /// The other one is the same fault seen elsewhere, or the reason for what was only guessed here.
    fn is_told_by(&self, better: &Self) -> bool {
        let (own, other) = (&self.told.finding, &better.told.finding);
        let same = own.id == other.id && own.subject == other.subject;
        let reason = own.kind().guess
            && !other.kind().guess
            && other.breaks()
            && other.certainty != Certainty::Possible;
        let shares = !self.flows.is_disjoint(&better.flows);
        shares && (same || reason) || reason && !self.hosts.is_disjoint(&better.hosts)
    }

    fn is_only_of(&self, flow: u32) -> bool {
        self.flows.len() == 1 && self.flows.contains(&flow)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct LedgerKey {
    id: &'static str,
    place: Place,
    subject: String,
}

impl LedgerKey {
    fn of(finding: &Finding) -> Self {
        // Numbers in titles differ from packet to packet of one fault.
        let subject = if finding.subject.is_empty() {
            finding.title.chars().filter(|c| !c.is_ascii_digit()).collect()
        } else {
            finding.subject.clone()
        };
        Self { id: finding.id, place: finding.place.clone(), subject }
    }
}

fn covers(more: &Finding, less: &Finding) -> bool {
    more.kind().covers.iter().filter(|(_, id)| *id == less.id).any(|(same, _)| match same {
        Same::Device => more.place.netns == less.place.netns && more.place.device == less.place.device,
        Same::Subject => more.subject == less.subject && !more.subject.is_empty(),
    })
}

impl Ledger {
    /// Takes note of a finding; `None`: something told before covers it.
    pub(super) fn tell(&mut self, finding: Finding, journey: &Journey) -> Option<Told> {
        if let Some(entry) = self.entries.iter_mut().find(|e| covers(&e.told.finding, &finding)) {
            if entry.last != journey.id {
                entry.last = journey.id;
                entry.told.count += 1;
            }
            return None;
        }
        let better = finding.certainty != Certainty::Possible && finding.breaks();
        self.entries.retain_mut(|entry| {
            let own = entry.is_only_of(journey.flow);
            let known = &entry.told.finding;
            let guess = known.kind().guess && known.id != finding.id && known.certainty > finding.certainty;
            if better && guess && !own {
                entry.flows.remove(&journey.flow);
            }
            let known = &entry.told.finding;
            let guess = own && guess;
            // An answer may be over, and told of, before its request is.
            let followed = own && finding.kind().reroutes && known.kind().follows;
            !(covers(&finding, known) || followed || (better && guess))
        });
        let key = LedgerKey::of(&finding);
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.key == key) {
            if entry.flows.len() < FLOWS {
                entry.flows.insert(journey.flow);
            }
            // 0: no packet at all.
            let again = entry.last == journey.id && journey.id != 0;
            if !again {
                entry.last = journey.id;
                entry.told.count += 1;
            }
            if !again && !is_poorer(&finding, &entry.told.finding) || entry.pending {
                let finding = finding.or_repaired_as(&entry.told.finding);
                entry.told.finding = finding;
            }
            entry.pending = false;
            return Some(entry.told.clone());
        }
        if self.entries.len() >= CAUSES {
            self.entries.remove(0);
        }
        let told = Told { finding, count: 1 };
        let flows = BTreeSet::from([journey.flow]);
        let hosts = asked(journey).into_iter().collect();
        self.entries.push(LedgerEntry {
            key,
            told: told.clone(),
            last: journey.id,
            pending: false,
            flows,
            hosts,
        });
        Some(told)
    }

    /// Guesses about why nothing came are over.
    pub(super) fn something_came(&mut self) {
        self.entries.retain(|e| e.last != 0 || e.told.finding.certainty != Certainty::Possible);
    }

    pub(super) fn knows(&self, finding: &Finding) -> bool {
        let key = LedgerKey::of(finding);
        self.entries.iter().any(|entry| entry.key == key)
    }

    /// Something that breaks connections, and more than a guess.
    pub(super) fn knows_a_break(&self) -> bool {
        self.entries.iter().map(|e| &e.told.finding).any(|f| f.breaks() && f.certainty != Certainty::Possible)
    }

    /// The same of a packet that is still under way.
    pub(super) fn expect(&mut self, finding: Finding, journey: &Journey) -> Option<Told> {
        let key = LedgerKey::of(&finding);
        let known = self.knows(&finding);
        let told = self.tell(finding, journey);
        if !known && let Some(entry) = self.entries.iter_mut().find(|entry| entry.key == key) {
            entry.pending = true;
        }
        told
    }

    /// There is an answer after all: it was only late.
    pub(super) fn answered(&mut self, flow: u32) {
        self.entries.retain(|entry| {
            let finding = &entry.told.finding;
            let guess = entry.pending || (finding.certainty == Certainty::Possible && finding.kind().guess);
            !(guess && entry.is_only_of(flow))
        });
    }

    /// One for each fault, the surest and most frequent first. What only large packets meet comes after what all do.
    pub(super) fn causes(&self) -> Vec<Told> {
        let mut entries: Vec<&LedgerEntry> = self.entries.iter().collect();
        entries.sort_by_key(|entry| {
            let (finding, count) = (&entry.told.finding, entry.told.count);
            let possible = finding.certainty == Certainty::Possible;
            let large_only = finding.kind().large_only;
            (finding.is_note(), possible, large_only, finding.certainty, !finding.breaks(), Reverse(count))
        });
        let mut out: Vec<&LedgerEntry> = Vec::new();
        for entry in entries {
            if !out.iter().any(|better| entry.is_told_by(better)) {
                out.push(entry);
            }
        }
        out.into_iter().map(|entry| entry.told.clone()).collect()
    }
}

/// What was said before about the same is surer, or as sure and says more.
fn is_poorer(new: &Finding, known: &Finding) -> bool {
    let facts = |finding: &Finding| Reverse(finding.evidence.len());
    (known.certainty, facts(known)) < (new.certainty, facts(new))
}
