// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keeps what is attached in step with the topology: programs on the devices of the path, positions at the hooks.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use tracer_common::MAX_PORTS;

use crate::bpf::{Tracer, TracerError};
use crate::cli::{PositionChoice, TcChoice};
use crate::flow::Zoom;
use crate::node::{
    DeviceKind, Family, Hook, Netns, NetnsId, Placement, Position, Topology, standing, standing_at, zoomed,
};
use crate::output::Missing;

/// Priorities tried for one position before it is given up.
const ATTEMPTS: usize = 16;
/// IANA's and Linux's own.
const USUAL_VXLAN_PORTS: [u16; 2] = [4789, 8472];

/// What came or went when the topology changed.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Namespace, device, appeared?
    pub(super) devices: Vec<(String, String, bool)>,
    pub(super) missing: Vec<Missing>,
}

/// The attachments of a run.
pub(super) struct Attachments {
    tracer: Tracer,
    tc: TcChoice,
    choice: PositionChoice,
    /// Hooks that are looked at closely.
    zooms: HashSet<Zoom>,
    /// Devices attached to, with their names: needed to say what vanished.
    devices: BTreeMap<(NetnsId, u32), String>,
    /// Told once.
    refused: BTreeSet<String>,
    /// This kernel has no netfilter programs.
    without_positions: bool,
}

impl Attachments {
    pub(super) fn new(tracer: Tracer, tc: TcChoice, choice: PositionChoice) -> Self {
        Self {
            tracer,
            tc,
            choice,
            zooms: HashSet::new(),
            devices: BTreeMap::new(),
            refused: BTreeSet::new(),
            without_positions: false,
        }
    }

    pub(super) fn tracer(&mut self) -> &mut Tracer {
        &mut self.tracer
    }

    pub(super) fn device_count(&self) -> usize {
        self.devices.len()
    }

    /// Hooks with a standing position, IPv4 and IPv6 counted as one.
    pub(super) fn hook_count(&self) -> usize {
        let hooks: HashSet<_> = self.tracer.positions().map(|p| (p.netns, p.hook)).collect();
        hooks.len()
    }

    pub(super) fn positions(&self) -> Vec<Position> {
        self.tracer.positions().copied().collect()
    }

    /// Attaches what is missing and takes away what is no longer wanted.
    pub(super) fn reconcile(&mut self, topology: &Topology, netns: &[Netns]) -> Result<Changes, TracerError> {
        let mut changes = Changes::default();
        for id in topology.namespaces.keys() {
            self.tracer.watch(*id)?;
        }
        self.vxlan_ports(topology, &mut changes)?;
        self.reconcile_devices(topology, netns, &mut changes);
        self.reconcile_positions(topology, netns, &mut changes);
        Ok(changes)
    }

    /// Forgets a namespace that is gone; the kernel has taken its devices and hooks.
    pub(super) fn forget(&mut self, id: NetnsId) {
        self.tracer.unwatch(id);
        let devices: Vec<_> = self.devices.keys().copied().filter(|(netns, _)| *netns == id).collect();
        for (netns, ifindex) in devices {
            self.tracer.detach_tc(netns, ifindex);
            self.devices.remove(&(netns, ifindex));
        }
        for position in self.positions().iter().filter(|p| p.netns == id) {
            self.tracer.detach_position(position);
        }
        self.zooms.retain(|z| z.netns != id);
    }

    /// Puts positions between the tables of a hook, or takes them away. Returns whether anything changed.
    pub(super) fn zoom(&mut self, zoom: Zoom, on: bool, topology: &Topology, netns: &[Netns]) -> Changes {
        let mut changes = Changes::default();
        if on {
            self.zooms.insert(zoom);
        } else {
            self.zooms.remove(&zoom);
        }
        self.reconcile_positions(topology, netns, &mut changes);
        changes
    }

    fn vxlan_ports(&mut self, topology: &Topology, changes: &mut Changes) -> Result<(), TracerError> {
        let of_devices: BTreeSet<u16> = topology
            .namespaces
            .values()
            .flat_map(|ns| ns.devices.values())
            .filter_map(|d| match d.kind {
                DeviceKind::Vxlan { port, .. } if port != 0 => Some(port),
                _ => None,
            })
            .collect();
        let mut ports: Vec<u16> = of_devices.iter().copied().collect();
        // What the other end sends to a port that no device has here is still to be recognised when it is dropped.
        for port in USUAL_VXLAN_PORTS {
            if !of_devices.contains(&port) && ports.len() < MAX_PORTS {
                ports.push(port);
            }
        }
        let beyond = self.tracer.set_vxlan_ports(&ports)?;
        if beyond > 0 {
            self.tell(
                changes,
                format!("VXLAN on {beyond} of {} UDP ports", ports.len()),
                "only eight are looked into".to_owned(),
                "packets inside those tunnels",
            );
        }
        Ok(())
    }

    fn reconcile_devices(&mut self, topology: &Topology, netns: &[Netns], changes: &mut Changes) {
        let mut wanted = BTreeMap::new();
        if self.tc == TcChoice::Tracepoints {
            self.by_tracepoint(changes);
        }
        if self.tc != TcChoice::Off {
            for ns in topology.namespaces.values() {
                for device in ns.devices.values().filter(|d| d.watched.is_some()) {
                    wanted.insert((ns.id, device.ifindex), (ns, device));
                }
            }
        }
        let gone: Vec<_> = self.devices.keys().copied().filter(|key| !wanted.contains_key(key)).collect();
        for (id, ifindex) in gone {
            self.tracer.detach_tc(id, ifindex);
            if let Some(device) = self.devices.remove(&(id, ifindex)) {
                let ns = topology.namespaces.get(&id);
                // What is still there is only not on the path any more.
                if ns.is_none_or(|ns| !ns.devices.contains_key(&ifindex)) {
                    let ns = ns.map_or_else(String::new, |ns| ns.name.clone());
                    changes.devices.push((ns, device, false));
                }
            }
        }
        for ((id, ifindex), (ns, device)) in wanted {
            if self.devices.contains_key(&(id, ifindex)) {
                continue;
            }
            let Some(handle) = netns.iter().find(|n| n.id() == id) else { continue };
            let mut attached = self.tracer.attach_tc(handle, ifindex, device.layer3);
            if matches!(&attached, Err(TracerError::Link(error)) if error.is_unsupported())
                && self.tc == TcChoice::Auto
                && self.by_tracepoint(changes)
            {
                attached = self.tracer.attach_tc(handle, ifindex, device.layer3);
            }
            match attached {
                Ok(()) => {
                    self.devices.insert((id, ifindex), device.name.clone());
                    changes.devices.push((ns.name.clone(), device.name.clone(), true));
                }
                Err(error) => self.tell(
                    changes,
                    format!("tc on {} of {}", device.name, ns.name),
                    error.to_string(),
                    "packets at this device",
                ),
            }
        }
    }

    /// Watches devices by tracepoint; false where that cannot be done either.
    fn by_tracepoint(&mut self, changes: &mut Changes) -> bool {
        if self.tracer.uses_device_tracepoints() {
            return true;
        }
        let done = self.tracer.use_device_tracepoints();
        if let Err(error) = &done {
            let what = "devices by tracepoint".to_owned();
            self.tell(changes, what, error.to_string(), "packets at any device");
        }
        done.is_ok()
    }

    fn reconcile_positions(&mut self, topology: &Topology, netns: &[Netns], changes: &mut Changes) {
        for ns in topology.namespaces.values() {
            if self.without_positions {
                return;
            }
            let Some(handle) = netns.iter().find(|n| n.id() == ns.id) else { continue };
            let wanted: Vec<Placement> = match self.choice {
                PositionChoice::All => hooks().flat_map(|(family, hook)| zoomed(ns, family, hook)).collect(),
                PositionChoice::Last => standing(ns),
                PositionChoice::Auto => hooks()
                    .flat_map(|(family, hook)| {
                        if self.zooms.contains(&Zoom { netns: ns.id, family, hook }) {
                            zoomed(ns, family, hook)
                        } else {
                            vec![standing_at(ns, family, hook)]
                        }
                    })
                    .collect(),
            };
            // One that stands anywhere between the same two entries is where it should be.
            let held: Vec<Position> = self.tracer.positions().copied().filter(|p| p.netns == ns.id).collect();
            let fits = |p: &Position, w: &Placement| {
                let q = w.position;
                (p.family, p.hook, p.index) == (q.family, q.hook, q.index)
                    && (w.lowest..=w.highest).contains(&p.priority)
            };
            for position in held.iter().filter(|p| !wanted.iter().any(|w| fits(p, w))) {
                self.tracer.detach_position(position);
            }
            for placement in wanted.iter().filter(|w| !held.iter().any(|p| fits(p, w))) {
                self.place(placement, handle, changes, &ns.name);
                if self.without_positions {
                    return;
                }
            }
        }
    }

    fn place(&mut self, placement: &Placement, netns: &Netns, changes: &mut Changes, name: &str) {
        let mut last = None;
        for priority in placement.candidates(ATTEMPTS) {
            let position = Position { priority, ..placement.position };
            match self.tracer.attach_position(netns, position) {
                Ok(()) => return,
                Err(TracerError::Link(error)) if error.is_busy() => last = Some(error.to_string()),
                Err(TracerError::Load(error)) if error.is_unsupported() => {
                    self.without_positions = true;
                    let hides = "hooks passed without a drop, where a mark or translation came from, and routes of \
                                 forwarded packets";
                    self.tell(changes, "netfilter hooks".to_owned(), error.to_string(), hides);
                    return;
                }
                Err(error) => {
                    last = Some(error.to_string());
                    break;
                }
            }
        }
        let Position { family, hook, .. } = placement.position;
        let family = match family {
            Family::Ipv4 => "IPv4",
            Family::Ipv6 => "IPv6",
        };
        self.tell(
            changes,
            format!("netfilter {family} {} of {name}", hook.name()),
            last.unwrap_or_else(|| "no free priority".to_owned()),
            "marks, translations and drops in this hook",
        );
    }

    fn tell(&mut self, changes: &mut Changes, what: String, why: String, hides: &str) {
        if self.refused.insert(format!("{what}: {why}")) {
            changes.missing.push(Missing { what, why, hides: hides.to_owned() });
        }
    }
}

fn hooks() -> impl Iterator<Item = (Family, Hook)> {
    [Family::Ipv4, Family::Ipv6].into_iter().flat_map(|family| Hook::ALL.map(|hook| (family, hook)))
}
