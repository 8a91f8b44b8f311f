// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tracker asks of the topology for every event, prepared for quick answers.

use rustc_hash::{FxHashMap, FxHashSet};

use super::addr::Addr;
use crate::node::{Device, DeviceKind, Family, Hook, NetnsId, PathRole, Position, Role, Topology};

#[derive(Debug, Default)]
pub(crate) struct Places {
    devices: FxHashMap<u64, Facts>,
    pod_addresses: FxHashSet<Addr>,
    nodes: usize,
}

/// What matters of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) role: Option<PathRole>,
    pub(crate) bridge: bool,
    pub(crate) vxlan: bool,
    pub(crate) loopback: bool,
    pub(crate) master: Option<u32>,
    /// Watched device at the other end of a veth pair.
    pub(crate) peer: Option<(NetnsId, u32)>,
    pub(crate) veth: bool,
    /// A bridge with an uplink among its ports.
    pub(crate) uplink_port: bool,
    /// Next to the pod: packets to other ports of its bridge are not seen again.
    pub(crate) pod_ns: bool,
}

fn key(netns: NetnsId, ifindex: u32) -> u64 {
    u64::from(netns) << 32 | u64::from(ifindex)
}

impl Places {
    pub(crate) fn new(topology: &Topology) -> Self {
        let mut places = Self::default();
        for ns in topology.namespaces.values() {
            places.nodes += usize::from(ns.role == Role::Node);
            let uplinks = ns.devices.values().filter(|d| d.watched == Some(PathRole::Uplink));
            let with_uplinks: FxHashSet<u32> = uplinks.filter_map(|d| d.master).collect();
            for device in ns.devices.values() {
                if ns.role == Role::Pod {
                    places.pod_addresses.extend(device.addresses.iter().map(|&ip| Addr::from(ip)));
                }
                let uplink_port = with_uplinks.contains(&device.ifindex);
                places.devices.insert(
                    key(ns.id, device.ifindex),
                    Facts {
                        role: device.watched,
                        bridge: device.kind == DeviceKind::Bridge,
                        vxlan: matches!(device.kind, DeviceKind::Vxlan { .. }),
                        loopback: device.kind == DeviceKind::Loopback,
                        master: device.master,
                        peer: watched_peer(topology, device),
                        veth: device.kind == DeviceKind::Veth,
                        uplink_port,
                        pod_ns: ns.role == Role::Pod,
                    },
                );
            }
        }
        places
    }

    pub(crate) fn device(&self, netns: NetnsId, ifindex: u32) -> Option<&Facts> {
        self.devices.get(&key(netns, ifindex))
    }

    pub(crate) fn role(&self, netns: NetnsId, ifindex: u32) -> Option<PathRole> {
        self.device(netns, ifindex)?.role
    }

    /// The address belongs to a watched pod.
    pub(crate) fn is_watched_pod(&self, addr: Addr) -> bool {
        self.pod_addresses.contains(&addr)
    }

    pub(crate) fn several_nodes(&self) -> bool {
        self.nodes > 1
    }
}

fn watched_peer(topology: &Topology, device: &Device) -> Option<(NetnsId, u32)> {
    let (Some(netns), ifindex) = device.link? else { return None };
    let peer = topology.namespaces.get(&netns)?.devices.get(&ifindex)?;
    (device.kind == DeviceKind::Veth && peer.watched.is_some()).then_some((netns, ifindex))
}

/// Where our netfilter positions stand.
#[derive(Debug, Default)]
pub(crate) struct Positions {
    now: FxHashMap<u64, i32>,
    /// The set before: records that were under way while it changed.
    before: FxHashMap<u64, i32>,
    last: FxHashMap<u64, i32>,
}

fn hook_key(netns: NetnsId, family: Family, hook: Hook) -> u64 {
    u64::from(netns) << 32 | u64::from(family == Family::Ipv6) << 16 | u64::from(hook as u8) << 8
}

impl Positions {
    pub(crate) fn set(&mut self, positions: &[Position]) {
        self.before = std::mem::take(&mut self.now);
        self.last.clear();
        for p in positions {
            let hook = hook_key(p.netns, p.family, p.hook);
            self.now.insert(hook | u64::from(p.index), p.priority);
            let last = self.last.entry(hook).or_insert(p.priority);
            *last = (*last).max(p.priority);
        }
    }

    pub(crate) fn priority(&self, netns: NetnsId, family: Family, hook: Hook, index: u8) -> Option<i32> {
        let key = hook_key(netns, family, hook) | u64::from(index);
        self.now.get(&key).or_else(|| self.before.get(&key)).copied()
    }

    /// The last position of a hook; `None`: the hook is not watched.
    pub(crate) fn last(&self, netns: NetnsId, family: Family, hook: Hook) -> Option<i32> {
        self.last.get(&hook_key(netns, family, hook)).copied()
    }

    /// The first position of a hook behind a priority.
    pub(crate) fn next_after(&self, netns: NetnsId, family: Family, hook: Hook, after: i32) -> Option<i32> {
        let hook = hook_key(netns, family, hook);
        let here = self.now.iter().filter(|(key, priority)| **key & !0xff == hook && **priority > after);
        here.map(|(_, priority)| *priority).min()
    }
}
