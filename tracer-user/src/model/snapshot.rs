// SPDX-License-Identifier: MIT OR Apache-2.0
//! A world of what was read at one moment, and nothing else: the model can be asked about it long after.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::world::{Host, World};
use crate::cluster::egress::Objects;
use crate::node::rtnl::Link;
use crate::node::{DeviceKind, NetnsId, PathRole, Role, Topology};
use crate::snapshot::{Evidence, NetnsEvidence};

/// The namespaces of a trace as they were when they were last read.
#[derive(Clone)]
pub struct Snapshot {
    hosts: BTreeMap<NetnsId, Arc<Host>>,
    /// The other ends of veths, by namespace and ifindex of the one.
    peers: Arc<BTreeMap<(NetnsId, u32), (NetnsId, u32)>>,
    /// The devices below others, likewise.
    lower: Arc<BTreeMap<(NetnsId, u32), (NetnsId, u32)>>,
    policies: Option<Arc<Objects>>,
}

impl Snapshot {
    /// `elsewhere`: how commands for a namespace begin, where it is not the one of the caller.
    pub fn new(
        evidence: &Evidence,
        topology: &Topology,
        elsewhere: &dyn Fn(NetnsId) -> Option<String>,
    ) -> Self {
        let hosts = evidence.netns.iter().map(|(id, netns)| {
            let space = topology.namespaces.get(id);
            let uplinks: BTreeSet<u32> = space
                .into_iter()
                .flat_map(|ns| ns.devices.values())
                .filter(|device| device.watched == Some(PathRole::Uplink))
                .map(|device| device.ifindex)
                .collect();
            let role = space.map_or(Role::Pod, |ns| ns.role);
            let host = Host::new(*id, role, elsewhere(*id), netns.clone(), uplinks);
            (*id, Arc::new(host))
        });
        let devices = topology.namespaces.values().flat_map(|ns| ns.devices.values().map(|d| (ns.id, d)));
        let (mut peers, mut lower) = (BTreeMap::new(), BTreeMap::new());
        for (id, device) in devices {
            if let Some((Some(there), ifindex)) = device.link {
                let map = if matches!(device.kind, DeviceKind::Veth) { &mut peers } else { &mut lower };
                map.insert((id, device.ifindex), (there, ifindex));
            }
        }
        Self {
            hosts: hosts.collect(),
            peers: Arc::new(peers),
            lower: Arc::new(lower),
            policies: evidence.policies.clone(),
        }
    }
}

impl Snapshot {
    /// The same with something else in one namespace; what the change leaves alone is shared.
    #[must_use]
    pub fn with(&self, netns: NetnsId, change: impl FnOnce(&mut NetnsEvidence)) -> Self {
        let mut out = self.clone();
        if let Some(host) = out.hosts.get_mut(&netns) {
            let mut evidence = NetnsEvidence::clone(&host.evidence);
            change(&mut evidence);
            *host = Arc::new(host.with(evidence));
        }
        out
    }
}

impl World for Snapshot {
    fn watched(&self) -> Vec<Arc<Host>> {
        self.hosts.values().cloned().collect()
    }

    fn host(&self, id: NetnsId) -> Option<Arc<Host>> {
        self.hosts.get(&id).cloned()
    }

    fn peer(&mut self, host: &Host, link: &Link) -> Option<(Arc<Host>, u32)> {
        let (id, ifindex) = self.peers.get(&(host.id, link.ifindex))?;
        Some((self.hosts.get(id)?.clone(), *ifindex))
    }

    fn lower(&mut self, host: &Host, link: &Link) -> Option<(Arc<Host>, u32)> {
        let (id, ifindex) = self.lower.get(&(host.id, link.ifindex))?;
        Some((self.hosts.get(id)?.clone(), *ifindex))
    }

    fn peer_addresses(&mut self, host: &Host, link: &Link) -> Option<Vec<IpAddr>> {
        let (there, _) = self.peer(host, link)?;
        Some(there.evidence.addresses.iter().map(|a| a.address).collect())
    }

    fn listeners(&mut self, host: &Host, protocol: u8, port: u16) -> Vec<u32> {
        let sockets = host.evidence.sockets.iter();
        let mut users: Vec<u32> =
            sockets.filter(|s| s.proto == protocol && s.local.port() == port).map(|s| s.uid).collect();
        users.sort_unstable();
        users.dedup();
        users
    }

    fn policies(&self) -> Option<Arc<Objects>> {
        self.policies.clone()
    }
}
