// SPDX-License-Identifier: MIT OR Apache-2.0
//! Joins events into journeys.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use tracer_common::{Event, Kind};

use super::author::Deed;
use super::bounded_map::Generations;
use super::ending::Verdict;
use super::loss::Loss;
use super::model::{Encap, Ending};
use super::names::Names;
use super::nat::Conntracks;
use super::pairing::Outstanding;
use super::slots::{At, Slots};
use super::stats::Stats;
use super::topology_history::Former;
use super::topology_index::{Places, Positions};
use super::zoom::Zooming;
use crate::node::{Hook, Position, Topology};

const MS: u64 = 1_000_000;
/// Records of CPUs beyond this one share its place.
pub(crate) const MAX_CPUS: usize = 8192;

/// How the tracker waits, and how much it keeps. Times in ns.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// A journey is shown after this long even when it is not complete.
    pub hold_ns: u64,
    /// After an ending: how long to wait for what may still change it (a drop after delivery).
    pub grace_ns: u64,
    /// Without an ending: how long to wait for the next sighting.
    pub quiet_ns: u64,
    /// The same where the packet may wait for its next hop's address.
    pub neighbour_ns: u64,
    /// The same for a fragment whose packet is not complete: longer than the kernel waits, 30 s by a coarse timer.
    pub reassembly_ns: u64,
    /// How long a packet that left one node is waited for on another one.
    pub join_ns: u64,
    /// Show each journey once, when it is over (for one object per journey), in the order they end.
    pub whole: bool,
    /// Show only journeys that end in a drop or are not seen again. Implies `whole`.
    pub drops_only: bool,
    /// Ask for closer positions where a change could have several authors.
    pub zoom: bool,
    /// Packets under way at most; beyond that old ones are given up and counted.
    pub max_open: usize,
    /// Hops kept of one packet.
    pub max_hops: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            hold_ns: 30 * MS,
            grace_ns: 15 * MS,
            quiet_ns: 1000 * MS,
            neighbour_ns: 4000 * MS,
            reassembly_ns: 36_000 * MS,
            join_ns: 250 * MS,
            whole: false,
            drops_only: false,
            zoom: true,
            max_open: 8192,
            max_hops: 256,
        }
    }
}

/// Joins sightings of packets into journeys.
///
/// Synchronous and without I/O: the caller pushes records (sorted by time within what it read at once) and
/// calls [`Tracker::advance`] at least every 10 ms or so with the CLOCK_MONOTONIC time.
pub struct Tracker {
    pub(crate) options: Options,
    pub(crate) names: Arc<dyn Names>,
    pub(crate) topology: Arc<Topology>,
    pub(crate) places: Places,
    pub(crate) former: Former,
    pub(crate) positions: Positions,
    pub(crate) slots: Slots,
    pub(crate) flows: Generations<u32, Flow>,
    pub(crate) conntracks: Conntracks,
    pub(crate) zooming: Zooming,
    pub(crate) loss: Loss,
    pub(crate) stats: Stats,
    pub(crate) cpus: Vec<Cpu>,
    /// Routing lookups for packets that do not exist yet (sent from here).
    pub(crate) lookups: VecDeque<Event>,
    /// Not shown yet, in order of first sight.
    pub(crate) order: VecDeque<(At, u64)>,
    /// Over and forgotten, but a drop may still come.
    pub(crate) recent: VecDeque<Recent>,
    pub(crate) drops: FxHashMap<(u32, u64), Free>,
    /// On this kernel nftables frees what it drops itself.
    pub(crate) nft_frees: bool,
    pub(crate) callers: FxHashMap<u64, Option<Caller>>,
    pub(crate) leads: super::discovered_ends::Known,
    pub(crate) strays: Vec<super::reporting::Notice>,
    pub(crate) ids: u64,
    /// Up to here it is known what was lost.
    pub(crate) counted_to: u64,
    pub(crate) first_ts: Option<u64>,
    pub(crate) now: u64,
}

/// What is kept of a flow.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    pub(crate) outstanding: Outstanding,
    /// Journeys that others may turn out to be a part of.
    pub(crate) large: VecDeque<(At, u64)>,
    /// The newest journey.
    pub(crate) last: Option<(At, u64)>,
    /// The newest RST.
    pub(crate) reset: Option<(At, u64)>,
    /// Direction, sequence number and time of a retransmission whose packet has not been seen.
    pub(crate) resent: Option<(u8, u32, u64)>,
}

/// Records that belong to the next one of the same CPU.
#[derive(Debug, Default)]
pub(crate) struct Cpu {
    pub(crate) stack: Option<Event>,
    pub(crate) outer: Option<(u64, Encap)>,
}

/// What a return address says of the hook that a packet died in.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Caller {
    Hook(Hook),
    /// None of the five that we have positions at.
    OtherHook,
}

/// What a reason and a place say about a freed packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Free {
    pub(crate) verdict: Verdict,
    pub(crate) deed: Deed,
    /// A verdict of netfilter.
    pub(crate) netfilter: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Recent {
    pub(crate) skb: u64,
    pub(crate) hash: u64,
    pub(crate) id: u64,
    pub(crate) ending: Ending,
}

impl Tracker {
    pub fn new(options: Options, names: Arc<dyn Names>) -> Self {
        Self {
            options,
            names,
            topology: Arc::new(Topology::default()),
            places: Places::default(),
            former: Former::default(),
            positions: Positions::default(),
            slots: Slots::new(options.max_open),
            flows: Generations::new(1024),
            conntracks: Conntracks::new(2048),
            zooming: Zooming::new(options.zoom),
            loss: Loss::default(),
            stats: Stats::new(),
            cpus: Vec::new(),
            lookups: VecDeque::new(),
            order: VecDeque::new(),
            recent: VecDeque::new(),
            drops: FxHashMap::default(),
            nft_frees: false,
            callers: FxHashMap::default(),
            leads: super::discovered_ends::Known::default(),
            strays: Vec::new(),
            ids: 0,
            counted_to: u64::MAX,
            first_ts: None,
            now: 0,
        }
    }

    /// Call it when devices or registered hooks change.
    pub fn set_topology(&mut self, topology: Arc<Topology>) {
        self.change_topology(topology, self.now..self.now);
    }

    /// The same, with the time (CLOCK_MONOTONIC, ns) from before the first device was attached or detached until
    /// after the last: what was under way meanwhile is not missed where it need not have been seen.
    pub fn change_topology(&mut self, topology: Arc<Topology>, during: Range<u64>) {
        let before = std::mem::replace(&mut self.places, Places::new(&topology));
        self.former.keep(before, &self.places, during);
        self.topology = topology;
    }

    /// Call it when rules changed: who made a change may be somebody else from now on.
    pub fn rules_changed(&mut self) {
        self.zooming.forget();
    }

    /// All positions that stand now. Call it after each change, before records of the new ones.
    pub fn set_positions(&mut self, positions: &[Position]) {
        self.change_positions(positions, self.now..self.now);
    }

    /// The same, with the time (CLOCK_MONOTONIC, ns) from before the first was attached or detached until after
    /// the last: what a packet on its way meanwhile was not seen at, it may have passed.
    pub fn change_positions(&mut self, positions: &[Position], during: Range<u64>) {
        self.positions.set(positions, during);
    }

    /// Records lost elsewhere than in the ring buffer (unreadable ones, say).
    pub fn lost_outside(&mut self, count: u64) {
        self.loss.outside(count);
    }

    /// The kernel's own counts of records that found no room, one for each CPU, since the start. Gaps in the
    /// records' numbers show the same loss; it is counted once. `counted_ns`: when they were read, CLOCK_MONOTONIC;
    /// all records from before have been pushed. Once it was called, nothing is said to have vanished later than
    /// that: what was lost meanwhile is not known yet.
    pub fn lost_in_kernel(&mut self, by_cpu: &[u64], counted_ns: u64) {
        self.counted_to = counted_ns;
        self.loss.kernel(by_cpu);
    }

    /// Packets seen so far.
    pub fn packets(&self) -> u64 {
        self.stats.summary.packets
    }

    /// Records lost so far.
    pub fn lost(&self) -> u64 {
        self.loss.total()
    }

    /// Packets whose journey is over: what `--count` counts.
    pub fn finished(&self) -> u64 {
        self.packets().saturating_sub(self.under_way() as u64)
    }

    /// Packets that are not over yet.
    pub fn under_way(&self) -> usize {
        self.slots.used()
    }

    /// Takes one record.
    pub fn push(&mut self, event: &Event) {
        let Some(kind) = event.kind() else { return };
        self.loss.observe(event);
        self.stats.summary.events += 1;
        self.first_ts.get_or_insert(event.ts);
        self.now = self.now.max(event.ts);
        match kind {
            Kind::Tc | Kind::Nf => self.sighting(event, kind),
            Kind::Fib => self.lookup(event),
            Kind::Drop => self.freed(event),
            Kind::Conntrack => self.conntrack(event),
            Kind::Stack => self.cpu(event).stack = Some(*event),
            Kind::Outer => {
                let outer = (
                    event.skb,
                    Encap {
                        src: super::addr::Endpoint { addr: super::addr::Addr(event.src), port: event.sport },
                        dst: super::addr::Endpoint { addr: super::addr::Addr(event.dst), port: event.dport },
                        vni: event.outer_vni(),
                    },
                );
                self.cpu(event).outer = Some(outer);
            }
            Kind::IcmpSend | Kind::ResetSend | Kind::ResetReceive | Kind::Retransmit => {
                self.remark(event, kind);
            }
        }
    }

    pub(crate) fn cpu(&mut self, event: &Event) -> &mut Cpu {
        let at = usize::from(event.cpu).min(MAX_CPUS - 1);
        if at >= self.cpus.len() {
            self.cpus.resize_with(at + 1, Cpu::default);
        }
        &mut self.cpus[at]
    }

    pub(crate) fn flow(&mut self, id: u32) -> &mut Flow {
        self.flows.entry(id, Flow::default)
    }
}
