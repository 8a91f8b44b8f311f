// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writing a recording while a trace runs.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::format::{Begin, End, JourneyLine, KnownNames, Line, TickLine};
use crate::cluster::egress::Objects;
use crate::explain::Tick;
use crate::flow::{Ending, Journey, Names, NoteKind};
use crate::node::Topology;
use crate::snapshot::Evidence;

/// A recording that is forgotten must not fill a node's disk.
const MAX_BYTES: u64 = 1 << 30;
/// Kernel addresses that are known by number at a time.
const NUMBERS: usize = 65_536;

/// Why nothing more is recorded.
#[derive(Debug, thiserror::Error)]
pub enum StoppedBecause {
    #[error("nothing more is recorded: {0}")]
    Io(#[from] io::Error),
    #[error("nothing more is recorded: the recording has reached {} MiB", MAX_BYTES >> 20)]
    Full,
}

/// Writes one recording.
pub struct Recorder {
    out: BufWriter<File>,
    written: u64,
    topology: Option<Arc<Topology>>,
    evidence: Option<Arc<Evidence>>,
    policies: Option<Arc<Objects>>,
    /// What was written of it, without what changes all the time.
    settled: Option<Evidence>,
    told: KnownNames,
    numbers: Numbers,
    /// Journeys that were told and are not over.
    open: HashSet<u64>,
}

/// Kernel addresses as numbers: they tell things apart, and nothing more.
#[derive(Default)]
struct Numbers {
    known: HashMap<u64, u64>,
    last: u64,
}

impl Recorder {
    /// Makes the file, for its owner only.
    ///
    /// # Errors
    /// When it exists already, or cannot be made.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Self {
            out: BufWriter::with_capacity(1 << 16, file),
            written: 0,
            topology: None,
            evidence: None,
            policies: None,
            settled: None,
            told: KnownNames::default(),
            numbers: Numbers::default(),
            open: HashSet::new(),
        })
    }

    pub fn begin(&mut self, begin: Begin) -> Result<(), StoppedBecause> {
        self.line(&Line::Begin(begin))
    }

    /// A journey as the explainer sees it, with the node that it sees it with.
    pub fn journey(
        &mut self,
        journey: &Journey,
        last: bool,
        topology: &Arc<Topology>,
        names: &dyn Names,
        evidence: Option<&Arc<Evidence>>,
    ) -> Result<(), StoppedBecause> {
        // The explainer looks at no others.
        if matches!(journey.ending, Ending::Open | Ending::Unclear { .. } | Ending::Evicted) {
            return Ok(());
        }
        self.node(topology, evidence)?;
        let first = self.open.insert(journey.id);
        if last || self.open.len() > NUMBERS {
            self.open.remove(&journey.id);
        }
        let mut journey = journey.clone();
        let mut more = KnownNames::default();
        self.rename(&mut journey, names, &mut more);
        if !more.is_empty() {
            self.told.extend(more.clone());
            self.line(&Line::Names(more))?;
        }
        self.line(&Line::Journey(JourneyLine { first, last, journey }))
    }

    pub fn tick(
        &mut self,
        tick: &Tick<'_>,
        topology: &Arc<Topology>,
        evidence: Option<&Arc<Evidence>>,
    ) -> Result<(), StoppedBecause> {
        self.node(topology, evidence)?;
        self.line(&Line::Tick(TickLine {
            now_ns: tick.now_ns,
            counters: tick.counters.to_vec(),
            destinations: tick.destinations.to_vec(),
            asked: tick.asked.to_vec(),
            answered: tick.answered.to_vec(),
            heard: tick.heard.to_vec(),
            lost: tick.lost,
        }))
    }

    pub fn end(&mut self, packets: u64, events_lost: u64) -> Result<(), StoppedBecause> {
        self.line(&Line::End(End { packets, events_lost }))?;
        Ok(self.out.flush()?)
    }

    pub fn flush(&mut self) -> Result<(), StoppedBecause> {
        Ok(self.out.flush()?)
    }

    /// The node, where it is not as it was told last.
    fn node(
        &mut self,
        topology: &Arc<Topology>,
        evidence: Option<&Arc<Evidence>>,
    ) -> Result<(), StoppedBecause> {
        let same = |known: &Arc<Topology>| Arc::ptr_eq(known, topology) || **known == **topology;
        if !self.topology.as_ref().is_some_and(same) {
            self.borrowed("topology", &**topology)?;
            self.topology = Some(topology.clone());
        }
        let Some(evidence) = evidence else { return Ok(()) };
        if let Some(policies) = evidence.policies.as_ref().filter(|now| self.policies.as_ref() != Some(now)) {
            self.borrowed("policies", &**policies)?;
            self.policies = Some(policies.clone());
        }
        if self.evidence.as_ref().is_some_and(|known| Arc::ptr_eq(known, evidence)) {
            return Ok(());
        }
        self.evidence = Some(evidence.clone());
        let settled = settled(evidence);
        if self.settled.as_ref() != Some(&settled) {
            self.borrowed("evidence", &**evidence)?;
            self.settled = Some(settled);
        }
        Ok(())
    }

    fn rename(&mut self, journey: &mut Journey, names: &dyn Names, more: &mut KnownNames) {
        let Self { numbers, told, .. } = self;
        let mut function = |address: &mut u64, more: &mut KnownNames| {
            if *address == 0 {
                return;
            }
            let number = numbers.of(*address);
            if !told.symbols.contains_key(&number)
                && let Some(name) = names.symbol(*address)
            {
                more.symbols.insert(number, name.into_owned());
            }
            *address = number;
        };
        let mut reasons: Vec<u32> = Vec::new();
        if let Ending::Dropped(site) = &mut journey.ending {
            function(&mut site.location, more);
            site.stack.iter_mut().for_each(|address| function(address, more));
            reasons.push(site.reason);
        }
        for note in &mut journey.notes {
            match &mut note.what {
                NoteKind::Freed { reason, location } => {
                    function(location, more);
                    reasons.push(*reason);
                }
                NoteKind::ResetSent { reason } if !told.resets.contains_key(reason) => {
                    if let Some(name) = names.reset_reason(*reason) {
                        more.resets.insert(*reason, name.into_owned());
                    }
                }
                _ => {}
            }
        }
        for reason in reasons {
            if !told.drops.contains_key(&reason)
                && let Some(name) = names.drop_reason(reason)
            {
                more.drops.insert(reason, name.into_owned());
            }
        }
        for entry in &mut journey.conntrack {
            entry.id = numbers.of(entry.id);
        }
    }

    fn line(&mut self, line: &Line) -> Result<(), StoppedBecause> {
        let bytes = serde_json::to_vec(line).map_err(io::Error::from)?;
        self.write(bytes)
    }

    /// A line that is written from what others hold.
    fn borrowed(&mut self, kind: &str, value: &impl Serialize) -> Result<(), StoppedBecause> {
        let mut bytes = format!("{{\"{kind}\":").into_bytes();
        serde_json::to_writer(&mut bytes, value).map_err(io::Error::from)?;
        bytes.push(b'}');
        self.write(bytes)
    }

    fn write(&mut self, mut bytes: Vec<u8>) -> Result<(), StoppedBecause> {
        bytes.push(b'\n');
        self.written += bytes.len() as u64;
        if self.written > MAX_BYTES {
            self.out.flush()?;
            return Err(StoppedBecause::Full);
        }
        Ok(self.out.write_all(&bytes)?)
    }
}

impl Numbers {
    fn of(&mut self, address: u64) -> u64 {
        if self.known.len() >= NUMBERS && !self.known.contains_key(&address) {
            self.known.clear();
        }
        *self.known.entry(address).or_insert_with(|| {
            self.last += 1;
            self.last
        })
    }
}

/// Without times and counts that change from reading to reading and that no cause rests on.
fn settled(evidence: &Evidence) -> Evidence {
    let mut out = evidence.clone();
    // These have lines of their own.
    out.policies = None;
    for netns in out.netns.values_mut() {
        let netns = Arc::make_mut(netns);
        netns.taken_ns = 0;
        netns.counters = Arc::default();
        Arc::make_mut(&mut netns.sysctls).remove("net/netfilter/nf_conntrack_count");
        if let (Some(count), Some(max)) = (netns.conntrack.count, netns.conntrack.max) {
            // Full or nearly so, or not.
            netns.conntrack.count = Some(u64::from(count >= max - max / 8));
        }
        for socket in &mut netns.sockets {
            socket.queued = u32::from(socket.backlog > 0 && socket.queued >= socket.backlog);
        }
        for rule in Arc::make_mut(&mut netns.rulesets)
            .iter_mut()
            .flat_map(|t| &mut t.chains)
            .flat_map(|c| Arc::make_mut(&mut c.rules))
        {
            rule.counters = None;
        }
        for neighbour in &mut netns.neighbours {
            // Reachable, stale, delay and probe follow each other while all is well.
            if !neighbour.mac.is_empty() {
                neighbour.state = 0;
            }
        }
        netns.fdb.iter_mut().for_each(|entry| entry.state = 0);
    }
    out
}
