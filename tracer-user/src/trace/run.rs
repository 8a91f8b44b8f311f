// SPDX-License-Identifier: MIT OR Apache-2.0
//! The loop: drain, join, print; follow changes of the node; end cleanly.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracer_common::{Counters, Event};

mod follow;
mod listen;
mod sink;

use self::follow::{add_end, add_found_ends, followed_words};
use self::sink::Screen;
use super::api::ApiWatch;
use super::arp_listener::{Askers, HeardArp};
use super::attach::{Attachments, Changes};
use super::counters::{CounterReader, Unseen};
use super::evidence::EvidenceReader;
use super::header::header;
use super::listeners::ListenerWatch;
use super::names::{KernelNames, monotonic_ns};
use super::no_traffic::Nothing;
use super::pods::{News, PodWatch};
use super::privileges::lacking;
use super::recording::{Recording, RecordingError};
use super::reply_listener::ReplyListener;
use crate::bpf::btf::{BtfError, KernelBtf};
use crate::bpf::{Symbols, Tracer, TracerError};
use crate::cli::{Filter, Format, Plan, PositionChoice};
use crate::explain::Tick;
use crate::flow::{Notice, Options, Tracker, Update, Zoom};
use crate::node::{
    Change, IpPrefix, Namespace, Netns, NetnsId, Observation, ObserveError, Observer, Role, Topology,
    WatchError, Watcher,
};
use crate::output::Missing;
use crate::snapshot::Evidence;
use crate::target::Target;
use crate::target::egress_policies::Policies;
use crate::text::escape;

/// How often records are looked for. Nothing wakes us: a wake-up costs the traced packet more than its record.
const TICK: Duration = Duration::from_millis(10);
/// Records taken before what they say is printed: fewer than the journeys that may be under way, so that a
/// backlog evicts none.
const BATCH: usize = 4096;
/// Batches taken before signals and the clock are looked at: a flood of records must not keep us from ending.
const BATCHES: usize = 16;
/// After `--count` packets: how long their endings are waited for.
const COUNT_GRACE: Duration = Duration::from_millis(1500);
/// Namespaces that are gone and still named at the end.
const FORMER: usize = 64;
/// How often the counters of the programs are read.
const COUNTERS: Duration = Duration::from_millis(100);
/// How often is looked for what no packet shows: answers that do not come, counters of the kernel.
const SILENCE: Duration = Duration::from_millis(500);
/// How long a packet may wait for its next hop's link-layer address before the cause is looked for.
const HELD_NS: u64 = 1_000_000_000;
/// Such packets that are looked at.
const HELD: usize = 16;

#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error("{0}")]
    Btf(#[from] BtfError),
    #[error(transparent)]
    Tracer(#[from] TracerError),
    #[error(transparent)]
    Observe(#[from] ObserveError),
    #[error(transparent)]
    Watch(#[from] WatchError),
    #[error("cannot wait for signals: {0}")]
    Signals(io::Error),
    #[error("cannot wait for records: {0}")]
    Wait(io::Error),
    #[error("cannot write: {0}")]
    Write(io::Error),
    #[error(transparent)]
    Recording(#[from] RecordingError),
}

/// How a run went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Journeys that ended in a drop.
    pub dropped: u64,
    pub events_lost: u64,
}

/// Traces until a signal, `--count`, `--duration` or a closed pipe. Must run inside a tokio runtime with
/// time and I/O.
///
/// # Errors
/// When tracing cannot start, or standard output fails other than by being closed.
pub async fn trace(mut plan: Plan) -> Result<Outcome, TraceError> {
    // A handle keeps a namespace: those of the plan must not outlive the start.
    let targets = std::mem::take(&mut plan.targets);
    // Before anything is attached or printed: who sees the header may end the run.
    let mut signals = Signals::new().map_err(TraceError::Signals)?;
    let mut run = TraceRun::start(&plan, targets)?;
    let result = run.go(&mut signals).await;
    let outcome = run.finish();
    match result.and(outcome) {
        Err(TraceError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(run.outcome()),
        other => other,
    }
}

/// What ends a run from outside.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }
}

struct TraceRun<'a> {
    plan: &'a Plan,
    /// As in the plan, and with `--follow` as it is by now.
    filter: Filter,
    pods: PodWatch,
    listeners: ListenerWatch,
    /// Namespaces that are gone: the sums at the end still name them.
    former: BTreeMap<NetnsId, Namespace>,
    observer: Observer,
    topology: Arc<Topology>,
    netns: Vec<Netns>,
    attachments: Attachments,
    tracker: Tracker,
    screen: Screen,
    /// Asked for and not done yet: hooks to be looked at closely, or no longer.
    zooms: Vec<(Zoom, bool)>,
    outcome: Outcome,
    /// Records being looked at; kept for its room.
    batch: Vec<Event>,
    /// Everything is attached since then, CLOCK_MONOTONIC ns: records from before show packets in part.
    ready_ns: u64,
    counters_due: Instant,
    silence_due: Instant,
    kernel: CounterReader,
    unseen: Unseen,
    askers: Askers,
    replies: ReplyListener,
    api: ApiWatch,
    policies: Policies,
    nothing: Nothing,
}

impl<'a> TraceRun<'a> {
    fn start(plan: &'a Plan, targets: Vec<Target>) -> Result<Self, TraceError> {
        let btf = KernelBtf::load()?;
        let (fields, absent) = btf.resolve_fields();
        let cluster = plan.reach.cluster().map(|cluster| cluster.known().clone());
        if let Some(known) = &cluster {
            plan.filter.hosts().into_iter().for_each(|host| known.names.want(host));
        }
        let names = Arc::new(KernelNames::new(btf.reasons(), cluster));
        let mut policies = Policies::of(&plan.reach, &targets, &plan.filter.src, &plan.filter.dst);
        // Asks while programs are loaded, which takes longer.
        let mut pods = PodWatch::start(plan, &targets, names.clone());
        let mut tracer = Tracer::load(plan.config(), &fields, &btf)?;
        drop(btf);
        let filter = plan.filter.clone();
        let mut remarks: Vec<String> =
            followed_words(tracer.set_followed(&filter.followed())?).into_iter().collect();

        let mut observer = Observer::open(&plan.nodes, &plan.own_netns(&targets))?;
        while let Some(news) = pods.ready() {
            match news {
                News::End(target) => remarks.extend(add_end(&mut observer, &target)?),
                News::Said(text) => remarks.push(text),
                // Told once the run goes on, when it is still true.
                News::Changed { .. } => pods.put_back(news),
            }
        }
        let Observation { mut topology, mut notices } = observer.observe(&filter.ends())?;
        let found = add_found_ends(plan, &mut observer, &topology, &filter.hosts());
        if !found.is_empty() {
            remarks.extend(found);
            Observation { topology, notices } = observer.observe(&filter.ends())?;
        }
        let netns: Vec<Netns> = observer.namespaces().cloned().collect();
        names.set_entries(&netns);
        let listeners = ListenerWatch::start(names.clone());
        listeners.watch(netns.clone());
        // Read while programs are attached, so that the first packet can be explained.
        let mut reader = EvidenceReader::default();
        reader.follow(filter.hosts());
        reader.watch(netns.clone());
        let mut kernel = CounterReader::default();
        kernel.watch(&netns);
        let mut askers = Askers::default();
        askers.watch(&nodes(&topology, &netns));
        let mut attachments = Attachments::new(tracer, plan.tc, plan.positions);
        let Changes { mut missing, .. } = attachments.reconcile(&topology, &netns)?;
        missing.extend(absent.iter().map(|absent| Missing {
            what: format!("kernel field {}.{}", absent.spec.container, absent.spec.path),
            why: absent.why.to_string(),
            hides: "what is read from it".to_owned(),
        }));

        missing.extend(lacking().into_iter().map(|(name, hides)| Missing {
            what: name.to_owned(),
            why: "it is not granted".to_owned(),
            hides: hides.to_owned(),
        }));
        missing.extend(Symbols::are_told().err().map(|error| Missing {
            what: "names of kernel functions".to_owned(),
            why: error.to_string(),
            hides: "where in the kernel packets are dropped; fewer causes are found".to_owned(),
        }));

        let ready_ns = monotonic_ns();
        let mut nothing = Nothing::default();
        nothing.count_attaching(&kernel.risen());

        let topology = Arc::new(topology);
        let json = plan.format == Format::Json;
        let options = Options {
            whole: json,
            drops_only: plan.drops_only,
            zoom: plan.positions == PositionChoice::Auto,
            ..Options::default()
        };
        let mut tracker = Tracker::new(options, names.clone());
        tracker.set_topology(topology.clone());
        tracker.set_positions(&attachments.positions());

        let mut screen = Screen::new(plan, names.clone());
        screen.evidence = reader;
        screen.evidence.wait();
        missing.extend(screen.evidence.latest().iter().flat_map(|evidence| not_read(evidence)));
        let api = ApiWatch::first(&plan.reach);
        missing.extend(api.missing(&plan.reach));
        let attached = ApiWatch::attached(&plan.reach);
        let mut head = header(plan, &targets, &mut attachments, &topology, &missing, attached);
        head.policies = policies.first();
        names.set_gateways(policies.owners());
        if let Some(objects) = policies.objects() {
            screen.evidence.set_policies(Some(objects.clone()));
        }
        screen.recording = Recording::open(plan.record.as_deref(), &head, &*names)?;
        screen.header(&topology, &head);
        for text in plan.notices.iter().chain(&remarks).chain(&notices) {
            screen.notice(&topology, &Notice::Text { ts: monotonic_ns(), text: text.clone() });
        }
        screen.flush();

        // Off the way of the first drop.
        std::thread::Builder::new()
            .name("kallsyms".into())
            .spawn(move || {
                // A failure shows as addresses in place of names.
                let _ = names.load_symbols();
            })
            .map(drop)
            .unwrap_or_default();
        Ok(Self {
            plan,
            filter,
            pods,
            listeners,
            former: BTreeMap::new(),
            observer,
            topology,
            netns,
            attachments,
            tracker,
            screen,
            zooms: Vec::new(),
            outcome: Outcome::default(),
            batch: Vec::with_capacity(BATCH),
            ready_ns,
            counters_due: Instant::now(),
            silence_due: Instant::now(),
            kernel,
            unseen: Unseen::default(),
            askers,
            replies: ReplyListener::default(),
            api,
            policies,
            nothing,
        })
    }

    async fn go(&mut self, signals: &mut Signals) -> Result<Outcome, TraceError> {
        let mut watcher = self.watcher()?;
        let events = self.attachments.tracer().events_fd().map_err(TraceError::Wait)?;
        // SAFETY: an owned descriptor: it is the same one, and open, until `events` is dropped.
        let events = unsafe { AsyncFd::register_with_interest(events, Interest::READABLE) }
            .map_err(|error| TraceError::Wait(error.into()))?;
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let deadline = self.plan.duration.map(|d| Instant::now() + d);
        let mut counted = None;
        loop {
            tokio::select! {
                biased;
                _ = signals.interrupt.recv() => return Ok(self.outcome),
                _ = signals.terminate.recv() => return Ok(self.outcome),
                () = at(deadline) => return Ok(self.outcome),
                () = at(counted) => return Ok(self.outcome),
                change = watcher.changed() => {
                    let change = change?;
                    if self.node_changed(&change)? {
                        watcher = self.watcher()?;
                    }
                }
                news = self.pods.next() => {
                    if self.pods_changed(news)? {
                        watcher = self.watcher()?;
                    }
                }
                ready = events.readable() => {
                    // The first packet of a flow: what it shows may call for a closer look at the next one.
                    ready.map_err(TraceError::Wait)?.clear_ready();
                    self.drain()?;
                    self.follow_leads(&mut watcher)?;
                }
                _ = tick.tick() => {
                    self.drain()?;
                    self.follow_leads(&mut watcher)?;
                    self.silence();
                    if self.screen.is_done() {
                        return Ok(self.outcome);
                    }
                    let count = self.plan.count.filter(|_| !self.plan.drops_only);
                    if count.is_some_and(|count| self.tracker.packets() >= count) {
                        counted.get_or_insert(Instant::now() + COUNT_GRACE);
                    }
                    if self.screen.is_closed() {
                        return Ok(self.outcome);
                    }
                }
            }
        }
    }

    /// Takes records that are there, and prints what they say. True when there may be more.
    fn drain(&mut self) -> Result<bool, TraceError> {
        self.attachments.tracer().print_messages();
        self.listen();
        // Read before the records: what was lost by now lies between records that are read below. Told ahead of
        // them it would pass for older than they are, and a journey that it cut short for one that vanished.
        let mut lost = None;
        if Instant::now() >= self.counters_due {
            self.counters_due = Instant::now() + COUNTERS;
            let counted_ns = monotonic_ns();
            let counters = self.attachments.tracer().counters()?;
            self.unseen.read(&counters);
            lost = Some((lost_by_cpu(&counters), counted_ns));
        }
        for _ in 0..BATCHES {
            let (tracker, ready_ns) = (&mut self.tracker, self.ready_ns);
            let batch = &mut self.batch;
            batch.clear();
            let (taken, unreadable) = self.attachments.tracer().drain(BATCH, |event| batch.push(event));
            // Two CPUs may have noted the time and got their place in the buffer in different orders.
            batch.sort_by_key(|event| event.ts);
            for event in batch.iter().filter(|event| event.ts >= ready_ns) {
                tracker.push(event);
            }
            if unreadable > 0 {
                tracker.lost_outside(unreadable as u64);
            }
            let more = taken == BATCH;
            if !more && let Some((lost, counted_ns)) = &lost {
                self.tracker.lost_in_kernel(lost, *counted_ns);
            }
            // In a backlog, what would be overdue by the clock may be told by the next record.
            let last_ns = self.batch.last().map(|event| event.ts);
            self.advance(last_ns.filter(|_| more).unwrap_or_else(monotonic_ns));
            self.screen.take_error()?;
            if !more {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What no packet shows.
    fn silence(&mut self) {
        self.screen.evidence.tick();
        if Instant::now() < self.silence_due {
            return;
        }
        self.silence_due = Instant::now() + SILENCE;
        for text in self.api.news(&self.plan.reach) {
            self.say(text);
        }
        if self.policies.refresh() {
            self.screen.names.set_gateways(self.policies.owners());
            self.screen.evidence.set_policies(self.policies.objects().cloned());
            for text in self.policies.news() {
                self.say(text);
            }
        }
        let counters = self.kernel.risen();
        let hosts: Vec<_> = self.filter.dst.iter().map(IpPrefix::address).collect();
        let HeardArp { asked, answered } = self.askers.take();
        self.unseen.lost(self.tracker.lost());
        let tick = Tick {
            now_ns: monotonic_ns(),
            counters: &counters,
            destinations: &hosts,
            asked: &asked,
            answered: &answered,
            heard: &[],
            lost: self.unseen.risen(),
        };
        self.screen.tick(&self.topology, &tick);
        self.nothing.count(&counters);
        self.remark_on_silence(false);
        let waiting = self.screen.held(&self.topology, self.tracker.held(tick.now_ns, HELD_NS).take(HELD));
        self.tracker.still_waiting(&waiting, tick.now_ns);
        self.screen.flush();
    }

    /// No packet at all: what is known then.
    fn remark_on_silence(&mut self, ends: bool) {
        if self.tracker.packets() > 0 || self.screen.has_causes() {
            return;
        }
        let now_ns = monotonic_ns();
        // The pods that would send it.
        let sends = |ns: &&Namespace| {
            let mut own = ns.devices.values().flat_map(|d| &d.addresses);
            own.any(|address| self.filter.src.iter().any(|src| src.contains(*address)))
        };
        let pods: Vec<_> = self
            .topology
            .namespaces
            .values()
            .filter(|ns| ns.role == Role::Pod)
            .filter(sends)
            .map(|ns| ns.id)
            .collect();
        let since = now_ns.saturating_sub(self.ready_ns);
        for text in self.nothing.remark(since, ends, &self.topology, &pods, &self.plan.check) {
            self.screen.notice(&self.topology, &Notice::Text { ts: now_ns, text });
        }
    }

    /// `now_ns`: CLOCK_MONOTONIC, or where in a backlog of records we are.
    fn advance(&mut self, now_ns: u64) {
        let (screen, topology, zooms) = (&mut self.screen, &self.topology, &mut self.zooms);
        self.tracker.advance(now_ns, &mut |update| match update {
            Update::Zoom(zoom) => zooms.push((zoom, true)),
            Update::Unzoom(zoom) => zooms.push((zoom, false)),
            update => screen.update(topology, &update),
        });
        // What is known is shown first: to attach takes its time.
        self.screen.flush();
        if self.zooms.is_empty() {
            return;
        }
        for (zoom, on) in std::mem::take(&mut self.zooms) {
            let began = monotonic_ns();
            let changes = self.attachments.zoom(zoom, on, &self.topology, &self.netns);
            self.tracker.change_positions(&self.attachments.positions(), began..monotonic_ns());
            self.tell(&changes);
            self.screen.notice(&self.topology, &Notice::Zoomed { ts: monotonic_ns(), zoom, on });
        }
        self.screen.flush();
    }

    /// Something changed on the node; true when the set of namespaces did.
    fn node_changed(&mut self, change: &Change) -> Result<bool, TraceError> {
        self.screen.evidence.changed();
        if !change.rules.is_empty() || !change.hooks.is_empty() {
            self.tracker.rules_changed();
        }
        if *change == (Change { rules: change.rules.clone(), ..Change::default() }) {
            return Ok(false);
        }
        for id in &change.gone {
            let name = self.topology.namespaces.get(id).map_or_else(|| id.to_string(), |ns| ns.name.clone());
            self.forget(*id);
            self.say(format!("network namespace {name} is gone: it is no longer watched"));
        }
        self.look_again(!change.gone.is_empty())?;
        Ok(!change.gone.is_empty())
    }

    fn forget(&mut self, id: NetnsId) {
        if let Some(namespace) = self.topology.namespaces.get(&id).filter(|_| self.former.len() < FORMER) {
            self.former.insert(id, namespace.clone());
        }
        self.attachments.forget(id);
        self.observer.forget(id);
    }

    fn watcher(&self) -> Result<Watcher, WatchError> {
        let mut watcher = Watcher::new(&self.netns, &self.filter.hosts())?;
        watcher.follow(&self.observer.followed());
        Ok(watcher)
    }

    /// The flow leads to addresses and devices that the command line does not name: a service's endpoint, say.
    fn follow_leads(&mut self, watcher: &mut Watcher) -> Result<(), TraceError> {
        let leads = self.tracker.leads();
        if !leads.is_empty() {
            self.pods.look_for(&leads.ends);
            self.screen.evidence.follow(leads.ends.iter().copied());
            watcher.follow(&leads.ends);
            self.observer.follow(leads.ends.iter().copied(), &leads.devices);
            self.look_again(false)?;
            let found = add_found_ends(self.plan, &mut self.observer, &self.topology, &leads.ends);
            if !found.is_empty() {
                self.look_again(true)?;
                *watcher = self.watcher()?;
                found.into_iter().for_each(|text| self.say(text));
                self.screen.flush();
            }
        }
        Ok(())
    }

    /// Reads the node anew and brings everything in step with it. `always`: even when it looks the same.
    fn look_again(&mut self, always: bool) -> Result<(), TraceError> {
        self.netns = self.observer.namespaces().cloned().collect();
        let Observation { topology, notices } = self.observer.observe(&self.filter.ends())?;
        if topology == *self.topology && !always {
            return Ok(());
        }
        // What was under way is told in the words of the topology that it was seen in.
        self.advance(monotonic_ns());
        let before = std::mem::replace(&mut self.topology, Arc::new(topology));
        let began = monotonic_ns();
        let changes = self.attachments.reconcile(&self.topology, &self.netns)?;
        let during = began..monotonic_ns();
        self.tell(&changes);
        if before.namespaces.len() != self.topology.namespaces.len() {
            for text in notices {
                self.say(text);
            }
        }
        self.screen.names.set_entries(&self.netns);
        self.listeners.watch(self.netns.clone());
        self.screen.evidence.watch(self.netns.clone());
        self.kernel.watch(&self.netns);
        self.askers.watch(&nodes(&self.topology, &self.netns));
        self.tracker.change_topology(self.topology.clone(), during.clone());
        self.tracker.change_positions(&self.attachments.positions(), during);
        self.screen.flush();
        Ok(())
    }

    fn tell(&mut self, changes: &Changes) {
        let ts = monotonic_ns();
        for (netns, device, appeared) in &changes.devices {
            let notice =
                Notice::Device { ts, netns: netns.clone(), device: device.clone(), appeared: *appeared };
            self.screen.notice(&self.topology, &notice);
        }
        for missing in &changes.missing {
            self.say(format!(
                "not watched: {} ({}): {} are not seen",
                missing.what, missing.why, missing.hides
            ));
        }
    }

    fn say(&mut self, text: String) {
        self.screen.notice(&self.topology, &Notice::Text { ts: monotonic_ns(), text });
    }

    /// Takes what is still in the buffer and prints the sums.
    fn finish(&mut self) -> Result<Outcome, TraceError> {
        // Nothing more comes; what came is counted to the last record.
        self.attachments.tracer().detach_all();
        while self.drain()? {}
        let counters = self.attachments.tracer().counters()?;
        let sent: u64 = counters.iter().map(|cpu| cpu.debug_sent).sum();
        let lost = sent.saturating_sub(self.attachments.tracer().messages_received());
        if lost > 0 {
            self.say(format!("{lost} debug messages of the BPF programs were lost"));
        }
        self.tracker.lost_in_kernel(&lost_by_cpu(&counters), monotonic_ns());
        let missed: u64 =
            self.attachments.tracer().prog_stats().iter().map(|(_, stats)| stats.recursion_misses).sum();
        if missed > 0 {
            self.tracker.lost_outside(missed);
            self.say(format!(
                "{missed} events not seen: they came while the program for them was at work on that CPU"
            ));
        }
        self.remark_on_silence(true);
        let mut topology = Topology::clone(&self.topology);
        for (id, namespace) in std::mem::take(&mut self.former) {
            topology.namespaces.entry(id).or_insert(namespace);
        }
        let (screen, topology) = (&mut self.screen, &Arc::new(topology));
        let summary = self.tracker.finish(monotonic_ns(), &mut |update| screen.update(topology, &update));
        self.outcome = Outcome { dropped: summary.dropped_total(), events_lost: summary.events_lost };
        screen.summary(topology, &summary);
        screen.flush();
        self.screen.take_error()?;
        Ok(self.outcome)
    }

    fn outcome(&self) -> Outcome {
        Outcome { dropped: self.outcome.dropped.max(self.screen.drops), ..self.outcome }
    }
}

/// What of the namespaces could not be read when the run began; the same of several, once.
fn not_read(evidence: &Evidence) -> Vec<Missing> {
    let mut out: Vec<Missing> = Vec::new();
    for netns in evidence.netns.values() {
        for why in &netns.unreadable {
            let name = escape(&netns.name);
            match out.iter_mut().find(|missing| missing.why == *why) {
                Some(known) => known.what = format!("{}, {name}", known.what),
                None => out.push(Missing {
                    what: format!("all of {name}"),
                    why: why.clone(),
                    hides: "rules that act there; causes are then less certain".to_owned(),
                }),
            }
        }
    }
    out
}

/// Those of the namespaces that are nodes'.
fn nodes<'n>(topology: &Topology, netns: &'n [Netns]) -> Vec<&'n Netns> {
    let is_node =
        |netns: &&Netns| topology.namespaces.get(&netns.id()).is_some_and(|ns| ns.role == Role::Node);
    netns.iter().filter(is_node).collect()
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}

/// Records that found no room, for each CPU.
fn lost_by_cpu(counters: &[Counters]) -> Vec<u64> {
    counters.iter().map(|cpu| cpu.lost).collect()
}
