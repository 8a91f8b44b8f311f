// SPDX-License-Identifier: MIT OR Apache-2.0
//! The part of the topology that the tracker looks up for every event, indexed.

use std::collections::VecDeque;
use std::ops::Range;

use rustc_hash::{FxHashMap, FxHashSet};

use super::addr::Addr;
use super::model::{Expected, Hop, Place};
use crate::node::{
    Device, DeviceKind, Family, Hook, HookEntry, HookOwner, NetnsId, PathRole, Position, Role, Topology,
    shares_lower_device,
};

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Places {
    devices: FxHashMap<u64, Facts>,
    pod_addresses: FxHashSet<Addr>,
    /// Namespaces with conntrack at work.
    tracking: FxHashSet<NetnsId>,
    namespaces: FxHashSet<NetnsId>,
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
    /// Of a device on which macvlans or the like stand: its own MAC. What is for another one goes to one of those.
    pub(crate) lower: Option<[u8; 6]>,
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
            places.namespaces.insert(ns.id);
            places.nodes += usize::from(ns.role == Role::Node);
            let conntrack =
                |e: &HookEntry| matches!(&e.owner, HookOwner::Kernel { name } if name.contains("conntrack"));
            if ns.hooks.iter().any(conntrack) {
                places.tracking.insert(ns.id);
            }
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
                        lower: device
                            .mac
                            .first_chunk()
                            .copied()
                            .filter(|_| is_lower(topology, ns.id, device)),
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

    /// Packets of the namespace have conntrack entries, or are INVALID or UNTRACKED.
    pub(crate) fn tracks(&self, netns: NetnsId) -> bool {
        self.tracking.contains(&netns)
    }

    /// Where a packet was seen last, and where it was to be seen next, was watched before and is.
    pub(crate) fn still_watch(&self, before: &Self, last: Option<&Hop>, next: Expected) -> bool {
        [self, before].iter().all(|places| {
            let next = match next {
                Expected::Device { netns, ifindex, .. } => places.role(netns, ifindex).is_some(),
                Expected::Hook { netns, .. } | Expected::Routing { netns } => {
                    places.namespaces.contains(&netns)
                }
                Expected::Unknown => true,
            };
            let last = last.is_none_or(|hop| match hop.place {
                Place::Device { ifindex, .. } => places.role(hop.netns, ifindex).is_some(),
                _ => places.namespaces.contains(&hop.netns),
            });
            next && last
        })
    }

    pub(crate) fn several_nodes(&self) -> bool {
        self.nodes > 1
    }
}

fn is_lower(topology: &Topology, netns: NetnsId, device: &Device) -> bool {
    let mut all = topology.namespaces.values().flat_map(|ns| ns.devices.values());
    all.any(|upper| {
        upper.link == Some((Some(netns), device.ifindex))
            && matches!(&upper.kind, DeviceKind::Other(kind) if shares_lower_device(kind))
    })
}

fn watched_peer(topology: &Topology, device: &Device) -> Option<(NetnsId, u32)> {
    let (Some(netns), ifindex) = device.link? else { return None };
    let peer = topology.namespaces.get(&netns)?.devices.get(&ifindex)?;
    (device.kind == DeviceKind::Veth && peer.watched.is_some()).then_some((netns, ifindex))
}

/// Positions of the past that are remembered: records of theirs may still be under way.
const PAST: usize = 512;
/// From the beginning of a hook to the first position in it that saw a packet, at most, ns.
const WITHIN_HOOK: u64 = 1_000_000;

/// Where our netfilter positions stand, and stood.
#[derive(Debug, Default)]
pub(crate) struct Positions {
    /// By hook and index, the newest last.
    now: FxHashMap<u64, Stand>,
    past: VecDeque<(u64, Stand)>,
    last: FxHashMap<u64, i32>,
}

/// One position while it was attached. Times: CLOCK_MONOTONIC, ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stand {
    priority: i32,
    /// It can have seen packets from here on,
    from: u64,
    /// and has seen all packets from here on,
    sure: u64,
    /// and up to here.
    until: u64,
}

/// When a packet went through a hook, as far as it is known: it came to it after `from`, and was at its end
/// (or died) at `until`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct During {
    pub(crate) from: u64,
    pub(crate) until: u64,
}

impl During {
    /// The packet was first seen within the hook.
    pub(crate) fn seen_within(first: u64, until: u64) -> Self {
        Self { from: first.saturating_sub(WITHIN_HOOK), until }
    }
}

fn hook_key(netns: NetnsId, family: Family, hook: Hook) -> u64 {
    u64::from(netns) << 32 | u64::from(family == Family::Ipv6) << 16 | u64::from(hook as u8) << 8
}

impl Positions {
    /// `during`: when they were attached and detached, CLOCK_MONOTONIC ns.
    pub(crate) fn set(&mut self, positions: &[Position], during: Range<u64>) {
        let key = |p: &Position| hook_key(p.netns, p.family, p.hook) | u64::from(p.index);
        let mut before = std::mem::take(&mut self.now);
        self.last.clear();
        for p in positions {
            let new = Stand { priority: p.priority, from: during.start, sure: during.end, until: u64::MAX };
            let stand = before.remove(&key(p)).and_then(|old| {
                if old.priority == p.priority {
                    return Some(old);
                }
                self.past.push_back((key(p), Stand { until: during.start, ..old }));
                None
            });
            self.now.insert(key(p), stand.unwrap_or(new));
            let last = self.last.entry(hook_key(p.netns, p.family, p.hook)).or_insert(p.priority);
            *last = (*last).max(p.priority);
        }
        self.past.extend(before.into_iter().map(|(key, old)| (key, Stand { until: during.start, ..old })));
        let many = self.past.len().saturating_sub(PAST);
        self.past.drain(..many);
    }

    /// Where the position stood that made a record at `ts`.
    pub(crate) fn priority(
        &self,
        netns: NetnsId,
        family: Family,
        hook: Hook,
        index: u8,
        ts: u64,
    ) -> Option<i32> {
        let key = hook_key(netns, family, hook) | u64::from(index);
        let now = self.now.get(&key);
        if let Some(stand) = now.filter(|stand| stand.from <= ts) {
            return Some(stand.priority);
        }
        let past = self.past.iter().rev().find(|(k, stand)| *k == key && stand.from <= ts);
        past.map(|(_, stand)| stand).or(now).map(|stand| stand.priority)
    }

    /// The last position of a hook; `None`: the hook is not watched.
    pub(crate) fn last(&self, netns: NetnsId, family: Family, hook: Hook) -> Option<i32> {
        self.last.get(&hook_key(netns, family, hook)).copied()
    }

    /// The first position of a hook behind a priority that would have seen the packet, had it got there.
    pub(crate) fn next_after(
        &self,
        netns: NetnsId,
        family: Family,
        hook: Hook,
        after: i32,
        during: During,
    ) -> Option<i32> {
        let hook = hook_key(netns, family, hook);
        let here = self.now.iter().filter(|(key, stand)| {
            **key & !0xff == hook
                && stand.priority > after
                && stand.sure <= during.from
                && stand.until >= during.until
        });
        here.map(|(_, stand)| stand.priority).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(index: u8, priority: i32) -> Position {
        Position { netns: 1, family: Family::Ipv4, hook: Hook::Forward, index, priority }
    }

    fn next(positions: &Positions, after: i32, from: u64, until: u64) -> Option<i32> {
        positions.next_after(1, Family::Ipv4, Hook::Forward, after, During { from, until })
    }

    #[test]
    fn a_position_that_comes_or_goes_says_nothing_of_packets_under_way() {
        let mut positions = Positions::default();
        positions.set(&[position(0, 51)], 0..1);
        positions.set(&[position(0, 51), position(1, -151)], 100..200);
        // On their way before, while, and after it was attached.
        assert_eq!(next(&positions, i32::MIN, 50, 90), Some(51));
        assert_eq!(next(&positions, i32::MIN, 150, 250), Some(51));
        assert_eq!(next(&positions, i32::MIN, 200, 250), Some(-151));
        assert_eq!(next(&positions, -151, 200, 250), Some(51));
        positions.set(&[position(0, 51)], 300..400);
        assert_eq!(next(&positions, i32::MIN, 200, 350), Some(51));
        // Nothing is known of a hook that was not watched yet.
        let mut positions = Positions::default();
        positions.set(&[position(0, 51)], 100..200);
        assert_eq!(next(&positions, i32::MIN, 150, 160), None);
    }

    #[test]
    fn a_record_is_read_by_the_positions_of_its_time() {
        let mut positions = Positions::default();
        positions.set(&[position(0, 51), position(1, -151)], 0..10);
        positions.set(&[position(0, 51), position(1, -301), position(2, -151)], 100..110);
        let priority = |index, ts| positions.priority(1, Family::Ipv4, Hook::Forward, index, ts);
        assert_eq!(
            [priority(1, 50), priority(1, 120), priority(2, 120)],
            [Some(-151), Some(-301), Some(-151)]
        );
        assert_eq!(priority(0, 50), Some(51));
        // Of a position that is gone.
        positions.set(&[position(0, 51)], 200..210);
        assert_eq!(positions.priority(1, Family::Ipv4, Hook::Forward, 2, 205), Some(-151));
    }
}
