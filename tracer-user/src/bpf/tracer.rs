// SPDX-License-Identifier: MIT OR Apache-2.0
//! The loaded programs: what is attached where, and the records they send.
//!
//! Everything attached is owned by a descriptor of this process: it is gone when the process is, however it ends.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use aya::maps::{Array, HashMap as BpfHashMap, MapData, PerCpuArray, RingBuf};
use aya::programs::{BtfTracePoint, Program, SchedClassifier};
use aya::{Btf, Ebpf, EbpfLoader, Pod};
use tracer_common::{Config, Counters, Event, Fields, MAX_PORTS, NF_POSITIONS, Settings};

use super::link::{LinkError, TcDirection, TcOrder, link_netfilter, link_tcx};
use super::netfilter::{LoadError, NetfilterLoader};
use super::netns::in_netns;
use super::sys::{ProgStats, prog_stats};
use crate::node::{NetnsId, Position};

/// The BPF object, built by `cargo xtask build`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/egwtrace.bpf"));

/// Tracepoints that are watched: name, and what is not seen without it.
const TRACEPOINTS: &[(&str, &str)] = &[
    ("kfree_skb", "drops and their reasons"),
    ("fib_table_lookup", "which IPv4 route was taken, from which table"),
    ("fib6_table_lookup", "which IPv6 route was taken, from which table"),
    ("icmp_send", "ICMP errors that this kernel sends, at the packet they are about"),
    ("tcp_send_reset", "why a TCP reset was sent"),
    ("tcp_receive_reset", "TCP resets as the socket saw them"),
    ("tcp_retransmit_skb", "TCP retransmissions"),
];

/// Why tracing cannot start.
#[derive(Debug, thiserror::Error)]
pub enum TracerError {
    #[error("cannot load the BPF programs: {0}")]
    Load(String),
    #[error("the BPF object has no map `{0}`: it and egwtrace must be of the same build")]
    NoMap(&'static str),
    #[error("BPF map `{name}`: {source}")]
    Map { name: &'static str, source: aya::maps::MapError },
    #[error("cannot enter the network namespace: {0}; needs CAP_SYS_ADMIN")]
    Netns(io::Error),
    #[error(transparent)]
    Netfilter(#[from] LoadError),
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// Whether a hook is in place, and what is lost where it is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookStatus {
    /// "tracepoint kfree_skb", "netfilter" ...
    pub hook: String,
    /// `None`: attached. Otherwise the reason.
    pub why_not: Option<String>,
    /// What is not seen without it.
    pub loses: &'static str,
}

/// Wraps what goes into frozen globals and comes out of maps: plain integers without padding.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Plain<T: Copy>(T);
// SAFETY: used with `Config`, `Fields` and `Counters` only, which are `repr(C)` structures of integers without padding.
unsafe impl<T: Copy + 'static> Pod for Plain<T> {}

type TcKey = (NetnsId, u32, TcDirection);

/// The loaded programs.
pub struct Tracer {
    ebpf: Ebpf,
    events: RingBuf<MapData>,
    counters: PerCpuArray<MapData, Plain<Counters>>,
    watched: BpfHashMap<MapData, u32, u32>,
    settings: Array<MapData, Plain<Settings>>,
    netfilter: NetfilterLoader,
    positions: [Option<OwnedFd>; NF_POSITIONS],
    tc_links: HashMap<TcKey, OwnedFd>,
    nf_links: HashMap<Position, OwnedFd>,
    status: Vec<HookStatus>,
}

impl Tracer {
    /// Loads the programs with these constants and attaches the tracepoints. Nothing is watched yet.
    ///
    /// # Errors
    /// When the object cannot be loaded at all. What merely could not be attached is in [`Self::status`].
    pub fn load(config: Config, fields: &Fields) -> Result<Self, TracerError> {
        let (config, fields) = (Plain(config), Plain(*fields));
        let btf = Btf::from_sys_fs().map_err(|e| TracerError::Load(explain(&e)))?;
        let mut ebpf = EbpfLoader::new()
            .btf(None)
            .override_global("CONFIG", &config, true)
            .override_global("FIELDS", &fields, true)
            .load(OBJECT)
            .map_err(|e| TracerError::Load(explain(&e)))?;
        let netfilter = NetfilterLoader::new(OBJECT, &ebpf)?;
        let status = attach_tracepoints(&mut ebpf, &btf);
        Ok(Self {
            events: take(&mut ebpf, "EVENTS")?,
            counters: take(&mut ebpf, "COUNTERS")?,
            watched: take(&mut ebpf, "NETNS")?,
            settings: take(&mut ebpf, "SETTINGS")?,
            ebpf,
            netfilter,
            positions: Default::default(),
            tc_links: HashMap::new(),
            nf_links: HashMap::new(),
            status,
        })
    }

    /// What could be attached and what not, besides devices and positions.
    pub fn status(&self) -> &[HookStatus] {
        &self.status
    }

    /// Namespaces whose drops and tracepoints are shown.
    pub fn watch(&mut self, netns: NetnsId) -> Result<(), TracerError> {
        self.watched.insert(netns, 1, 0).map_err(|source| TracerError::Map { name: "NETNS", source })
    }

    pub fn unwatch(&mut self, netns: NetnsId) {
        // It may have been removed before.
        let _ = self.watched.remove(&netns);
    }

    /// UDP ports in which VXLAN is looked for; those beyond the first eight are returned.
    pub fn set_vxlan_ports(&mut self, ports: &[u16]) -> Result<usize, TracerError> {
        let mut settings = Settings::default();
        for (slot, port) in settings.vxlan_ports.iter_mut().zip(ports) {
            *slot = *port;
        }
        self.settings
            .set(0, Plain(settings), 0)
            .map_err(|source| TracerError::Map { name: "SETTINGS", source })?;
        Ok(ports.len().saturating_sub(MAX_PORTS))
    }

    /// Attaches to both directions of a device.
    ///
    /// # Errors
    /// When one of them could not be attached; the other one stays.
    pub fn attach_tc(
        &mut self,
        netns: BorrowedFd<'_>,
        id: NetnsId,
        ifindex: u32,
        layer3: bool,
    ) -> Result<(), TracerError> {
        for (direction, order, name) in [
            // First on the way in, last on the way out: what the wire sees, whatever other programs do.
            (TcDirection::Ingress, TcOrder::First, if layer3 { "tc_ingress_l3" } else { "tc_ingress" }),
            (TcDirection::Egress, TcOrder::Last, if layer3 { "tc_egress_l3" } else { "tc_egress" }),
        ] {
            if self.tc_links.contains_key(&(id, ifindex, direction)) {
                continue;
            }
            let program = self.tc_program(name)?;
            let link = in_netns(netns, || link_tcx(program, ifindex, direction, order))
                .map_err(TracerError::Netns)??;
            self.tc_links.insert((id, ifindex, direction), link);
        }
        Ok(())
    }

    /// Forgets a device: it is not on the path any more, or gone.
    pub fn detach_tc(&mut self, id: NetnsId, ifindex: u32) {
        self.tc_links.retain(|(netns, index, _), _| (*netns, *index) != (id, ifindex));
    }

    /// Devices that have programs of ours.
    pub fn tc_devices(&self) -> impl Iterator<Item = (NetnsId, u32)> {
        self.tc_links
            .keys()
            .filter(|(_, _, direction)| *direction == TcDirection::Ingress)
            .map(|(netns, ifindex, _)| (*netns, *ifindex))
    }

    /// Attaches one netfilter position.
    pub fn attach_position(&mut self, netns: BorrowedFd<'_>, position: Position) -> Result<(), TracerError> {
        if self.nf_links.contains_key(&position) {
            return Ok(());
        }
        let index = usize::from(position.index);
        let slot = self.positions.get_mut(index).ok_or_else(|| LoadError::NoFunction(format!("nf_pos{index}")))?;
        let program = match slot {
            Some(program) => program,
            None => slot.insert(self.netfilter.load(&format!("nf_pos{index}"))?),
        };
        let program = program.as_fd();
        let link =
            in_netns(netns, || link_netfilter(program, position.family, position.hook, position.priority))
                .map_err(TracerError::Netns)??;
        self.nf_links.insert(position, link);
        Ok(())
    }

    pub fn detach_position(&mut self, position: &Position) {
        self.nf_links.remove(position);
    }

    /// Positions in place.
    pub fn positions(&self) -> impl Iterator<Item = &Position> {
        self.nf_links.keys()
    }

    /// Takes what has arrived, at most `max` records: `each` is called with every one that could be read.
    /// Returns the number taken, and of these the ones that were not readable.
    pub fn drain(&mut self, max: usize, mut each: impl FnMut(Event)) -> (usize, usize) {
        let (mut taken, mut unreadable) = (0, 0);
        while taken < max {
            let Some(item) = self.events.next() else { break };
            taken += 1;
            match Event::parse(&item) {
                Some(event) => each(event),
                None => unreadable += 1,
            }
        }
        (taken, unreadable)
    }

    /// Sums of the per-CPU counters.
    pub fn counters(&self) -> Result<Counters, TracerError> {
        let values = self
            .counters
            .get(&0, 0)
            .map_err(|source| TracerError::Map { name: "COUNTERS", source })?;
        Ok(values.iter().fold(Counters::default(), |sum, Plain(c)| Counters {
            seen: sum.seen + c.seen,
            lost: sum.lost + c.lost,
            inserted: sum.inserted + c.inserted,
            insert_failed: sum.insert_failed + c.insert_failed,
        }))
    }

    /// Run-time statistics of every loaded program, by name.
    pub fn prog_stats(&self) -> Vec<(String, ProgStats)> {
        let mut out = Vec::new();
        for (name, program) in self.ebpf.programs() {
            let fd = match program {
                Program::BtfTracePoint(p) => p.fd(),
                Program::SchedClassifier(p) => p.fd(),
                _ => continue,
            };
            if let Ok(fd) = fd
                && let Ok(stats) = prog_stats(fd.as_fd())
            {
                out.push((name.to_owned(), stats));
            }
        }
        for (index, program) in self.positions.iter().enumerate() {
            if let Some(program) = program
                && let Ok(stats) = prog_stats(program.as_fd())
            {
                out.push((format!("nf_pos{index}"), stats));
            }
        }
        out
    }

    pub fn verified(&self) -> Vec<(String,u32)> {
        let mut out = Vec::new();
        for (name, program) in self.ebpf.programs() {
            if let Ok(i) = program.info() { out.push((name.to_owned(), i.verified_instruction_count().unwrap_or(0))); }
        }
        out
    }
    fn tc_program(&mut self, name: &str) -> Result<BorrowedFd<'_>, TracerError> {
        let missing = || TracerError::Load(format!("the BPF object has no tc program `{name}`"));
        let program: &mut SchedClassifier = self
            .ebpf
            .program_mut(name)
            .ok_or_else(missing)?
            .try_into()
            .map_err(|_: aya::programs::ProgramError| missing())?;
        if program.fd().is_err() {
            program.load().map_err(|e| TracerError::Load(explain(&e)))?;
        }
        Ok(program.fd().map_err(|e| TracerError::Load(explain(&e)))?.as_fd())
    }
}

fn attach_tracepoints(ebpf: &mut Ebpf, btf: &Btf) -> Vec<HookStatus> {
    TRACEPOINTS
        .iter()
        .map(|(name, loses)| HookStatus {
            hook: format!("tracepoint {name}"),
            why_not: attach_tracepoint(ebpf, name, btf).err(),
            loses,
        })
        .collect()
}

fn attach_tracepoint(ebpf: &mut Ebpf, name: &str, btf: &Btf) -> Result<(), String> {
    let program: &mut BtfTracePoint =
        ebpf.program_mut(name).ok_or("not in the BPF object")?.try_into().map_err(|e| explain(&e))?;
    program.load(name, btf).map_err(|e| explain(&e))?;
    program.attach().map_err(|e| explain(&e))?;
    Ok(())
}

fn take<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, TracerError>
where
    T: TryFrom<aya::maps::Map, Error = aya::maps::MapError>,
{
    let map = ebpf.take_map(name).ok_or(TracerError::NoMap(name))?;
    T::try_from(map).map_err(|source| TracerError::Map { name, source })
}

/// An error with its causes, on one line; of a verifier's log only the complaint.
fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
