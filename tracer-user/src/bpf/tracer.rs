// SPDX-License-Identifier: MIT OR Apache-2.0
//! The loaded programs: what is attached where, and the records they send.
//!
//! Everything attached is owned by a descriptor of this process: it is gone when the process is, however it ends.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};

use aya::Pod;
use aya::maps::{Array, HashMap as BpfHashMap, MapData, PerCpuArray, RingBuf};
use tracer_common::{
    Config, Counters, DeviceKey, Event, Fields, MAX_ADDRS, MAX_PORTS, RDONLY_CAST, Settings,
};

use super::btf::KernelBtf;
use super::link::{LinkError, TcDirection, TcOrder, link_netfilter, link_tcx};
use super::messages::Messages;
use super::programs::{LoadError, ProgramKind, Programs};
use super::sys::{self, ProgStats, prog_stats};
use crate::node::{IpPrefix, Netns, NetnsError, NetnsId, Position};

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

/// Those that stand in for TCX: what comes in at a device, what goes out.
const DEVICE_TRACEPOINTS: [&str; 2] = ["netif_receive_skb", "net_dev_start_xmit"];

/// The buffer of aya-log, and its size: emptied every few milliseconds; as small as can be where nothing is sent.
const MESSAGES: &str = "AYA_LOGS";
const MESSAGES_BYTES: u32 = 1 << 20;
const NO_MESSAGES_BYTES: u32 = 4096;

/// What the programs on devices and at hooks go on in with a packet that may be ours, and the map that it is put in.
const TC_MAIN: (&str, &str) = ("tc_main", "TC_MAIN");
const NF_MAIN: (&str, &str) = ("nf_main", "NF_MAIN");

/// Why tracing cannot start.
#[derive(Debug, thiserror::Error)]
pub enum TracerError {
    #[error("BPF map `{name}`: {source}")]
    Map { name: &'static str, source: aya::maps::MapError },
    #[error("this kernel has no tracepoint {0}")]
    NoTracepoint(&'static str),
    #[error("cannot attach to tracepoint {name}: {source}")]
    Tracepoint { name: &'static str, source: io::Error },
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("cannot read the messages of the BPF programs: {0}")]
    Messages(#[from] aya_log::Error),
    #[error("cannot ask the kernel for the number of a BPF program: {0}")]
    Info(io::Error),
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
// SAFETY: used with `Config`, `Fields`, `Settings`, `DeviceKey` and `Counters` only, which are `repr(C)` structures of integers without padding.
unsafe impl<T: Copy + 'static> Pod for Plain<T> {}

/// A program, and a tracepoint's link.
type Loaded = (OwnedFd, Option<OwnedFd>);

type TcKey = (NetnsId, u32, TcDirection);

/// The loaded programs.
pub struct Tracer {
    programs: Programs,
    events: RingBuf<MapData>,
    /// Their own messages, when they were asked for.
    messages: Option<Messages>,
    counters: PerCpuArray<MapData, Plain<Counters>>,
    watched: BpfHashMap<MapData, u32, u32>,
    path_devices: BpfHashMap<MapData, Plain<DeviceKey>, u32>,
    settings: Array<MapData, Plain<Settings>>,
    /// What `settings` holds.
    current: Settings,
    /// Loaded programs by function; those of the tracepoints with their links.
    loaded: HashMap<String, OwnedFd>,
    tracepoints: Vec<OwnedFd>,
    /// Links of the tracepoints that stand in for TCX; `Some` once devices are watched that way.
    device_tracepoints: Option<Vec<OwnedFd>>,
    btf_ids: [Option<u32>; 2],
    tc_links: HashMap<TcKey, OwnedFd>,
    nf_links: HashMap<Position, OwnedFd>,
    status: Vec<HookStatus>,
}

impl Tracer {
    /// Loads the programs with these constants and attaches the tracepoints. Nothing is watched yet.
    ///
    /// # Errors
    /// When the maps cannot be made. What merely could not be attached is in [`Self::status`].
    pub fn load(mut config: Config, fields: &Fields, btf: &KernelBtf) -> Result<Self, TracerError> {
        config.kfree_skb_args = btf.tracepoint_args("kfree_skb").unwrap_or(0);
        config.tcp_send_reset_args = btf.tracepoint_args("tcp_send_reset").unwrap_or(0);
        let cast = btf.function_id("bpf_rdonly_cast").zip(btf.struct_id("sk_buff"));
        config.skb_type = cast.map_or(0, |(_, skb)| skb);
        let globals = [("CONFIG", bytes_of(&Plain(config))), ("FIELDS", bytes_of(&Plain(*fields)))].map(own);
        let globals = globals.each_ref().map(|(name, bytes)| (*name, bytes.as_slice()));
        let size = if config.debug == 0 { NO_MESSAGES_BYTES } else { MESSAGES_BYTES };
        let mut programs = Programs::new(OBJECT, &globals, &[(MESSAGES, size)])?;
        if let Some((function, _)) = cast {
            programs.call_kernel(RDONLY_CAST, function);
        }

        let mut tracer = Self {
            events: programs.take_map("EVENTS")?,
            messages: None,
            counters: programs.take_map("COUNTERS")?,
            watched: programs.take_map("NETNS")?,
            path_devices: programs.take_map("PATH_DEVICES")?,
            device_tracepoints: None,
            btf_ids: DEVICE_TRACEPOINTS.map(|name| btf.tracepoint_id(name)),
            settings: programs.take_map("SETTINGS")?,
            current: Settings::default(),
            programs,
            loaded: HashMap::new(),
            tracepoints: Vec::new(),
            tc_links: HashMap::new(),
            nf_links: HashMap::new(),
            status: Vec::new(),
        };
        tracer.load_all(btf);
        if config.debug != 0 {
            let main = tracer.program(TC_MAIN.0, ProgramKind::Tc)?;
            let id = prog_stats(main).map_err(TracerError::Info)?.id;
            tracer.messages = Some(Messages::of_program(id)?);
        }
        Ok(tracer)
    }

    /// Loads what every trace needs, in parallel: the verifier takes its time with each.
    fn load_all(&mut self, btf: &KernelBtf) {
        let mut wanted: Vec<(&str, Option<&'static str>, Result<ProgramKind, String>)> = TRACEPOINTS
            .iter()
            .map(|(name, loses)| {
                let kind = btf.tracepoint_id(name).map(|btf_id| ProgramKind::Tracepoint { btf_id });
                (*name, Some(*loses), kind.ok_or_else(|| "this kernel has no such tracepoint".to_owned()))
            })
            .collect();
        // The longest first.
        wanted.insert(0, (TC_MAIN.0, None, Ok(ProgramKind::Tc)));
        wanted.insert(1, (NF_MAIN.0, None, Ok(ProgramKind::Netfilter)));
        for name in ["tc_ingress", "tc_egress"] {
            wanted.push((name, None, Ok(ProgramKind::Tc)));
        }
        wanted.push(("nf_pos0", None, Ok(ProgramKind::Netfilter)));

        let next = AtomicUsize::new(0);
        let programs = &self.programs;
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(8));
        let mut results: Vec<(usize, Result<Loaded, String>)> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|_| {
                    scope.spawn(|| {
                        let mut done = Vec::new();
                        loop {
                            let at = next.fetch_add(1, Ordering::Relaxed);
                            let Some((name, _, kind)) = wanted.get(at) else { return done };
                            done.push((at, kind.clone().and_then(|kind| load_one(programs, name, kind))));
                        }
                    })
                })
                .collect();
            workers.into_iter().flat_map(|w| w.join().unwrap_or_default()).collect()
        });
        results.sort_unstable_by_key(|(at, _)| *at);
        for (at, result) in results {
            let (name, loses, _) = &wanted[at];
            let why_not = match result {
                Ok((program, link)) => {
                    self.loaded.insert((*name).to_owned(), program);
                    self.tracepoints.extend(link);
                    None
                }
                // Those without a word of loss are asked for again where they are attached, and answer there.
                Err(why) => Some(why),
            };
            if let Some(loses) = loses {
                self.status.push(HookStatus { hook: format!("tracepoint {name}"), why_not, loses });
            }
        }
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
        self.current.vxlan_ports = Default::default();
        for (slot, port) in self.current.vxlan_ports.iter_mut().zip(ports) {
            *slot = *port;
        }
        self.apply_settings()?;
        Ok(ports.len().saturating_sub(MAX_PORTS))
    }

    /// The addresses of what is followed, where [`Config::follow`] says that they may change; those beyond the
    /// first eight are returned.
    pub fn set_followed(&mut self, addresses: &[IpAddr]) -> Result<usize, TracerError> {
        self.current.followed = Default::default();
        for (slot, address) in self.current.followed.iter_mut().zip(addresses) {
            *slot = IpPrefix::host(*address).to_common().addr;
        }
        self.apply_settings()?;
        Ok(addresses.len().saturating_sub(MAX_ADDRS))
    }

    fn apply_settings(&mut self) -> Result<(), TracerError> {
        let set = self.settings.set(0, Plain(self.current), 0);
        set.map_err(|source| TracerError::Map { name: "SETTINGS", source })
    }

    /// Watches devices by tracepoint from now on: for kernels without TCX. Every packet of the machine then
    /// costs a look, whatever its device.
    ///
    /// # Errors
    /// When a tracepoint cannot be attached.
    pub fn use_device_tracepoints(&mut self) -> Result<(), TracerError> {
        let mut links = Vec::new();
        for (name, btf_id) in DEVICE_TRACEPOINTS.into_iter().zip(self.btf_ids) {
            let btf_id = btf_id.ok_or(TracerError::NoTracepoint(name))?;
            let program = self.program(name, ProgramKind::Tracepoint { btf_id })?;
            links.push(
                sys::raw_tracepoint_open(program)
                    .map_err(|source| TracerError::Tracepoint { name, source })?,
            );
        }
        self.device_tracepoints = Some(links);
        Ok(())
    }

    /// Devices are watched by tracepoint.
    pub fn uses_device_tracepoints(&self) -> bool {
        self.device_tracepoints.is_some()
    }

    /// Attaches to both directions of a device.
    ///
    /// # Errors
    /// When one of them could not be attached; the other one stays.
    pub fn attach_tc(&mut self, netns: &Netns, ifindex: u32, layer3: bool) -> Result<(), TracerError> {
        let id = netns.id();
        if self.uses_device_tracepoints() {
            return self
                .path_devices
                .insert(Plain(DeviceKey { netns: id, ifindex }), 1, 0)
                .map_err(|source| TracerError::Map { name: "PATH_DEVICES", source });
        }
        for (direction, order, name) in [
            // First on the way in, last on the way out: what the wire sees, whatever other programs do.
            (TcDirection::Ingress, TcOrder::First, if layer3 { "tc_ingress_l3" } else { "tc_ingress" }),
            (TcDirection::Egress, TcOrder::Last, if layer3 { "tc_egress_l3" } else { "tc_egress" }),
        ] {
            if self.tc_links.contains_key(&(id, ifindex, direction)) {
                continue;
            }
            self.program(TC_MAIN.0, ProgramKind::Tc)?;
            let program = self.program(name, ProgramKind::Tc)?;
            let link = netns.run(|| link_tcx(program, ifindex, direction, order))??;
            self.tc_links.insert((id, ifindex, direction), link);
        }
        Ok(())
    }

    /// Forgets a device: it is not on the path any more, or gone.
    pub fn detach_tc(&mut self, id: NetnsId, ifindex: u32) {
        self.tc_links.retain(|(netns, index, _), _| (*netns, *index) != (id, ifindex));
        // It need not be there.
        let _ = self.path_devices.remove(&Plain(DeviceKey { netns: id, ifindex }));
    }

    /// Attaches one netfilter position.
    pub fn attach_position(&mut self, netns: &Netns, position: Position) -> Result<(), TracerError> {
        if self.nf_links.contains_key(&position) {
            return Ok(());
        }
        self.program(NF_MAIN.0, ProgramKind::Netfilter)?;
        let program = self.program(&format!("nf_pos{}", position.index), ProgramKind::Netfilter)?;
        let attach = || link_netfilter(program, position.family, position.hook, position.priority);
        let link = netns.run(attach)??;
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

    /// The ring buffer, to wait on: readable when a record came that user space was to be woken for.
    pub fn events_fd(&self) -> io::Result<OwnedFd> {
        use std::os::fd::AsRawFd as _;
        // SAFETY: the descriptor is open as long as `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.events.as_raw_fd()) }.try_clone_to_owned()
    }

    /// Takes every program of ours away from its hook. The records that they sent stay to be read.
    pub fn detach_all(&mut self) {
        self.tc_links.clear();
        self.nf_links.clear();
        self.tracepoints.clear();
        self.device_tracepoints = None;
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

    /// With [`Config::debug`]: prints the programs' messages since the last time on standard error.
    pub fn print_messages(&mut self) {
        if let Some(messages) = &mut self.messages {
            messages.print();
        }
    }

    /// Messages that were printed.
    pub fn messages_received(&self) -> u64 {
        self.messages.as_ref().map_or(0, Messages::received)
    }

    /// The counters of each CPU.
    pub fn counters(&self) -> Result<Vec<Counters>, TracerError> {
        let values =
            self.counters.get(&0, 0).map_err(|source| TracerError::Map { name: "COUNTERS", source })?;
        Ok(values.iter().map(|Plain(c)| *c).collect())
    }

    /// Run-time statistics of every loaded program, by name.
    pub fn prog_stats(&self) -> Vec<(String, ProgStats)> {
        let mut stats: Vec<_> = self
            .loaded
            .iter()
            .filter_map(|(name, program)| Some((name.clone(), prog_stats(program.as_fd()).ok()?)))
            .collect();
        stats.sort_by(|(a, _), (b, _)| a.cmp(b));
        stats
    }

    fn program(&mut self, name: &str, kind: ProgramKind) -> Result<BorrowedFd<'_>, TracerError> {
        if !self.loaded.contains_key(name) {
            let program = load(&self.programs, name, kind)?;
            self.loaded.insert(name.to_owned(), program);
        }
        self.loaded
            .get(name)
            .map(OwnedFd::as_fd)
            .ok_or_else(|| TracerError::Load(LoadError::NoFunction(name.to_owned())))
    }
}

/// Loads a program; one that others go on in is put where they look for it.
fn load(programs: &Programs, name: &str, kind: ProgramKind) -> Result<OwnedFd, LoadError> {
    let program = programs.load(name, kind)?;
    if let Some((_, map)) = [TC_MAIN, NF_MAIN].into_iter().find(|(main, _)| *main == name) {
        programs.put_program(map, program.as_fd())?;
    }
    Ok(program)
}

fn load_one(programs: &Programs, name: &str, kind: ProgramKind) -> Result<Loaded, String> {
    let program = load(programs, name, kind).map_err(|e| e.to_string())?;
    let link = match kind {
        ProgramKind::Tracepoint { .. } => Some(
            sys::raw_tracepoint_open(program.as_fd())
                .map_err(|e| format!("cannot attach to the tracepoint: {e}"))?,
        ),
        _ => None,
    };
    Ok((program, link))
}

fn own<'a>((name, bytes): (&'a str, &[u8])) -> (&'a str, Vec<u8>) {
    (name, bytes.to_vec())
}

fn bytes_of<T: Copy + 'static>(value: &Plain<T>) -> &[u8] {
    // SAFETY: `Plain` is only made of structures of integers without padding; the slice borrows `value`.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}
