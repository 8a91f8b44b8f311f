// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names of the running kernel (drop reasons, functions, time) and of what is on the node.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use crate::bpf::Symbols;
use crate::bpf::btf::Reasons;
use crate::cluster::Known;
use crate::flow::Names;
use crate::node::processes::{Listener, taker};
use crate::node::{Netns, NetnsId};

/// [`Names`] over BTF and kallsyms.
pub(super) struct KernelNames {
    reasons: Reasons,
    symbols: Symbols,
    /// CLOCK_REALTIME less CLOCK_MONOTONIC when the run began, ns.
    offset_ns: i128,
    utc_offset_s: i32,
    /// Written by threads that look around, read when something is printed.
    owners: RwLock<Arc<Owners>>,
    /// Of EgressGateway.
    gateways: RwLock<Arc<Owners>>,
    listeners: RwLock<Arc<Listeners>>,
    entries: RwLock<HashMap<NetnsId, String>>,
    /// Of what does not run here.
    cluster: Option<Arc<Known>>,
}

/// Names of what has an address.
pub(super) type Owners = HashMap<IpAddr, String>;
/// Who listens, by namespace.
pub(super) type Listeners = HashMap<NetnsId, Vec<Listener>>;

impl KernelNames {
    pub(super) fn new(reasons: Reasons, cluster: Option<Arc<Known>>) -> Self {
        let real = clock_ns(libc::CLOCK_REALTIME);
        let offset_ns = i128::from(real) - i128::from(clock_ns(libc::CLOCK_MONOTONIC));
        let utc_offset_s = utc_offset(i64::try_from(real / 1_000_000_000).unwrap_or(0));
        Self {
            reasons,
            symbols: Symbols::new(),
            offset_ns,
            utc_offset_s,
            owners: RwLock::default(),
            gateways: RwLock::default(),
            listeners: RwLock::default(),
            entries: RwLock::default(),
            cluster,
        }
    }

    pub(super) fn set_owners(&self, owners: Owners) {
        *self.owners.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(owners);
    }

    /// Addresses of EgressGateway's.
    pub(super) fn set_gateways(&self, owners: Owners) {
        *self.gateways.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(owners);
    }

    pub(super) fn set_listeners(&self, listeners: Listeners) {
        *self.listeners.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(listeners);
    }

    /// The namespaces that commands may have to run in.
    pub(super) fn set_entries(&self, namespaces: &[Netns]) {
        let entries = namespaces.iter().map(|netns| (netns.id(), netns.entry())).collect();
        *self.entries.write().unwrap_or_else(PoisonError::into_inner) = entries;
    }

    /// Reads the kernel's functions; takes some 100 ms, so not on the way of a packet.
    pub(super) fn load_symbols(&self) -> Result<(), String> {
        self.symbols.load().map_err(ToString::to_string)
    }
}

impl Names for KernelNames {
    fn drop_reason(&self, reason: u32) -> Option<Cow<'_, str>> {
        Some(self.reasons.drop(reason))
    }
    fn reset_reason(&self, reason: u32) -> Option<Cow<'_, str>> {
        Some(self.reasons.reset(reason))
    }
    fn symbol(&self, address: u64) -> Option<Cow<'_, str>> {
        self.symbols.lookup(address).map(|(name, _)| Cow::Borrowed(name))
    }
    fn unix_ns(&self, monotonic_ns: u64) -> u64 {
        u64::try_from(i128::from(monotonic_ns) + self.offset_ns).unwrap_or(0)
    }
    fn owner(&self, address: IpAddr) -> Option<Cow<'_, str>> {
        // Who runs pods here knows first.
        let own = self.owners.read().unwrap_or_else(PoisonError::into_inner).get(&address).cloned();
        let gateway = || self.gateways.read().unwrap_or_else(PoisonError::into_inner).get(&address).cloned();
        own.or_else(gateway).or_else(|| self.cluster.as_ref()?.names.owner(address)).map(Cow::Owned)
    }
    fn taker(&self, netns: NetnsId, protocol: u8, address: IpAddr, port: u16) -> Option<(Cow<'_, str>, u32)> {
        let listeners = self.listeners.read().unwrap_or_else(PoisonError::into_inner);
        let process = taker(listeners.get(&netns)?, protocol, address, port)?;
        Some((Cow::Owned(process.name.clone()), process.pid))
    }
    fn entry(&self, netns: NetnsId) -> Option<Cow<'_, str>> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.get(&netns).cloned().map(Cow::Owned)
    }
    fn utc_offset_s(&self) -> i32 {
        self.utc_offset_s
    }
}

/// CLOCK_MONOTONIC, ns: the clock of the records.
pub(super) fn monotonic_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` has room for the result. The clocks asked for always exist.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    let (seconds, nanos) =
        (u64::try_from(time.tv_sec).unwrap_or(0), u64::try_from(time.tv_nsec).unwrap_or(0));
    seconds * 1_000_000_000 + nanos
}

/// Seconds that local time is ahead of UTC now.
fn utc_offset(unix_s: i64) -> i32 {
    // SAFETY: all zero is a value of `tm`: integers and a pointer that is only read.
    let mut local: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both point to values of this function; `localtime_r` is the thread-safe one.
    let done = unsafe { libc::localtime_r(&raw const unix_s, &raw mut local) };
    if done.is_null() { 0 } else { i32::try_from(local.tm_gmtoff).unwrap_or(0) }
}
