// SPDX-License-Identifier: MIT OR Apache-2.0
//! From open namespaces to a [`Topology`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::IpPrefix;
use super::hooks::{HookSource, Ruleset};
use super::netlink::NetlinkError;
use super::netns::{Netns, NetnsError, every, named};
use super::path::{Exit, Facts, gateways, roles};
use super::rtnl::{Link, Rtnl};
use super::topology::{
    Device, DeviceKind, Namespace, NetnsId, PathRole, Role, Topology, shares_lower_device,
};

#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// Open namespaces whose topology is read again and again. The sockets are opened once; reading needs no
/// thread and no privilege after that.
#[derive(Debug)]
pub struct Observer {
    nodes: Vec<Open>,
    pods: Vec<Open>,
    /// What the flow turned out to lead to, besides what was asked for.
    ends: Vec<IpPrefix>,
    devices: Vec<(NetnsId, u32)>,
}

#[derive(Debug)]
struct Open {
    netns: Netns,
    rtnl: Rtnl,
    /// Answers for other namespaces, where the kernel does that.
    beyond: Option<Rtnl>,
    rules: HookSource,
}

/// A topology, and what a user should know of it.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    pub topology: Topology,
    /// One line each, safe to print.
    pub notices: Vec<String>,
}

impl Observer {
    /// Opens the namespaces: the nodes', and those of pods that have one of their own (a pod in the namespace of
    /// its node is no pod here).
    pub fn open<'a>(
        nodes: &[Netns],
        pods: impl IntoIterator<Item = &'a Netns>,
    ) -> Result<Self, ObserveError> {
        let mut observer =
            Self { nodes: Vec::new(), pods: Vec::new(), ends: Vec::new(), devices: Vec::new() };
        for node in nodes {
            if observer.namespaces().all(|n| n != node) {
                observer.nodes.push(Open::new(node)?);
            }
        }
        for pod in pods {
            observer.add_pod(pod)?;
        }
        Ok(observer)
    }

    /// One more pod; false when its namespace is known already.
    pub fn add_pod(&mut self, pod: &Netns) -> Result<bool, ObserveError> {
        let new = self.namespaces().all(|n| n != pod);
        if new {
            self.pods.push(Open::new(pod)?);
        }
        Ok(new)
    }

    /// The namespaces, not watched so far, of the pods on these nodes that have one of the addresses: what a node
    /// has a device for, or a port of a bridge, that leads straight there, and is no way out of the node.
    ///
    /// `topology` is what [`Self::observe`] has said last.
    pub fn find_ends(&mut self, topology: &Topology, addresses: &[IpAddr]) -> Vec<Netns> {
        let watched: Vec<NetnsId> = self.namespaces().map(Netns::id).collect();
        let mut found: Vec<Netns> = Vec::new();
        for node in &mut self.nodes {
            let Some(space) = topology.namespaces.get(&node.netns.id()) else { continue };
            let known = |address: &IpAddr| {
                let mut devices = topology.namespaces.values().flat_map(|ns| ns.devices.values());
                devices.any(|device| device.addresses.contains(address))
            };
            for address in addresses.iter().filter(|address| !known(address)) {
                // What cannot be read here is no end here; reading for good says what is wrong.
                let nsid = node.nsid_with(space, *address).ok().flatten();
                let end = every().filter(|(id, _)| !watched.contains(id)).find_map(|(_, path)| {
                    let netns = Netns::open(&path, address.to_string()).ok()?;
                    let is_it = match nsid {
                        Some(_) => node.rtnl.nsid_of(&netns).ok()? == nsid,
                        None => stands_on_device_of(&netns, &node.netns, *address),
                    };
                    is_it.then_some(netns)
                });
                if let Some(netns) = end.filter(|end| !found.contains(end)) {
                    found.push(match netns.known_as() {
                        Some(name) => netns.with_name(name),
                        None => netns,
                    });
                }
            }
        }
        found
    }

    /// Whether a namespace of a pod is among them.
    pub fn has_pods(&self) -> bool {
        !self.pods.is_empty()
    }

    /// From now on also looks for the way to these addresses, and at these devices.
    pub fn follow(&mut self, ends: impl IntoIterator<Item = IpAddr>, devices: &[(NetnsId, u32)]) {
        self.ends.extend(ends.into_iter().map(IpPrefix::host));
        self.devices.extend_from_slice(devices);
    }

    /// The addresses that were given to [`Observer::follow`].
    pub fn followed(&self) -> Vec<IpAddr> {
        self.ends.iter().map(IpPrefix::address).collect()
    }

    /// The namespaces, the pods' last.
    pub fn namespaces(&self) -> impl Iterator<Item = &Netns> {
        self.nodes.iter().chain(&self.pods).map(|o| &o.netns)
    }

    /// Closes a namespace that has ended for everyone else.
    pub fn forget(&mut self, id: NetnsId) {
        self.nodes.retain(|o| o.netns.id() != id);
        self.pods.retain(|o| o.netns.id() != id);
    }

    /// Reads everything. `ends`: source and destination of the flow as far as they are known, so that the
    /// devices of another pod on this node are found.
    pub fn observe(&mut self, ends: &[IpPrefix]) -> Result<Observation, ObserveError> {
        let mut out = Observation::default();
        let all: Vec<Netns> = self.namespaces().cloned().collect();
        let mut pods: Vec<SeenNamespace> = Vec::new();
        for pod in &mut self.pods {
            let seen = pod.look(&all)?;
            let watched =
                seen.links.iter().filter(|l| l.is_up()).map(|l| (l.ifindex, PathRole::Pod)).collect();
            let space = pod.namespace(Role::Pod, &seen, watched)?;
            out.topology.namespaces.insert(space.id, space);
            pods.push(seen);
        }
        let ends: Vec<IpPrefix> = ends.iter().chain(&self.ends).copied().collect();
        let mut connected = vec![false; pods.len()];
        for node in &mut self.nodes {
            let seen = node.look(&all)?;
            let mut own_ends = Vec::new();
            for (pod, connected) in pods.iter().zip(&mut connected) {
                let ends = pod_ends(&seen, pod);
                *connected |= !ends.is_empty();
                own_ends.extend(ends);
            }
            let here = |(netns, ifindex): &(NetnsId, u32)| (*netns == seen.id).then_some(*ifindex);
            let devices: Vec<u32> = self.devices.iter().filter_map(here).collect();
            let watched = node.path(&seen, &own_ends, &ends, &devices)?;
            if !watched.values().any(|r| *r == PathRole::Uplink) {
                out.notices.push(format!(
                    "{} has no device that leads out of it: no hardware, and no route through a gateway",
                    node.netns.name()
                ));
            }
            let space = node.namespace(Role::Node, &seen, watched)?;
            out.topology.namespaces.insert(space.id, space);
        }
        for ((pod, seen), _) in self.pods.iter_mut().zip(&pods).zip(&connected).filter(|(_, done)| !**done) {
            out.notices.push(not_connected(pod, &self.nodes, &seen.links));
        }
        Ok(out)
    }
}

/// What one namespace says of itself.
#[derive(Debug)]
struct SeenNamespace {
    id: NetnsId,
    links: Vec<Link>,
    addresses: Vec<(u32, IpAddr)>,
    /// The watched namespaces by the number they have here.
    peers: BTreeMap<i32, NetnsId>,
}

impl SeenNamespace {
    fn nsid_of(&self, id: NetnsId) -> Option<i32> {
        self.peers.iter().find(|(_, peer)| **peer == id).map(|(nsid, _)| *nsid)
    }
}

impl Open {
    fn new(netns: &Netns) -> Result<Self, ObserveError> {
        let name = netns.name();
        let open = || (Rtnl::open(name), Rtnl::open_strict(name).ok(), HookSource::open(name));
        let (rtnl, beyond, rules) = netns.run(open)?;
        Ok(Self { netns: netns.clone(), rtnl: rtnl?, beyond, rules: rules? })
    }

    fn look(&mut self, all: &[Netns]) -> Result<SeenNamespace, NetlinkError> {
        // Listing the devices makes the kernel number the namespaces they lead to: so this comes first.
        let links = self.rtnl.links()?;
        let addresses = self.rtnl.addresses()?.into_iter().map(|a| (a.ifindex, a.address)).collect();
        let mut peers = BTreeMap::new();
        for other in all.iter().filter(|n| **n != self.netns) {
            if let Some(nsid) = self.rtnl.nsid_of(other)? {
                peers.insert(nsid, other.id());
            }
        }
        Ok(SeenNamespace { id: self.netns.id(), links, addresses, peers })
    }

    /// The roles of a node's devices.
    fn path(
        &mut self,
        seen: &SeenNamespace,
        pod_ends: &[(u32, bool)],
        ends: &[IpPrefix],
        devices: &[u32],
    ) -> Result<BTreeMap<u32, PathRole>, NetlinkError> {
        let links = &seen.links;
        let routes = self.rtnl.routes(|r| r.next_hops.iter().any(|h| h.gateway.is_some()))?;
        let addresses: BTreeMap<IpAddr, u32> = seen.addresses.iter().map(|(i, a)| (*a, *i)).collect();
        let mut exits = self.exits(links, ends)?;
        exits.extend(devices.iter().map(|&ifindex| Exit { local: false, ifindex, port: None }));
        let bridged: BTreeSet<(u32, IpAddr)> =
            gateways(&routes, &addresses).filter(|(i, _)| is_switched(links, *i)).collect();
        let mut gateway_ports = Vec::new();
        for (bridge, gateway) in bridged {
            gateway_ports.extend(self.port(links, bridge, gateway)?.map(|port| (bridge, port)));
        }
        Ok(roles(&Facts {
            links,
            routes: &routes,
            addresses: &addresses,
            pod_ends,
            exits: &exits,
            gateway_ports: &gateway_ports,
        }))
    }

    /// The number of the namespace at the other end of the pair by which `address` is reached from here, when it
    /// has that address.
    fn nsid_with(&mut self, space: &Namespace, address: IpAddr) -> Result<Option<i32>, NetlinkError> {
        let Some(found) = self.rtnl.lookup(address)?.filter(|f| !f.local && f.gateway.is_none()) else {
            return Ok(None);
        };
        let links = self.rtnl.links()?;
        let device = if is_switched(&links, found.ifindex) {
            self.port(&links, found.ifindex, address)?
        } else {
            Some(found.ifindex)
        };
        let Some(beyond) = &mut self.beyond else { return Ok(None) };
        let way_out =
            |ifindex| space.devices.get(&ifindex).is_none_or(|d| d.watched == Some(PathRole::Uplink));
        let pair = links.iter().find(|l| {
            Some(l.ifindex) == device
                && matches!(l.kind.as_deref(), Some("veth" | "netkit"))
                && !way_out(l.ifindex)
        });
        Ok(pair.and_then(|l| l.link_nsid).filter(|nsid| beyond.has_address(*nsid, address)))
    }

    /// Where packets to the ends of the flow go from here.
    fn exits(&mut self, links: &[Link], ends: &[IpPrefix]) -> Result<Vec<Exit>, NetlinkError> {
        let mut out: Vec<Exit> = Vec::new();
        for end in ends.iter().filter(|e| !e.is_empty()) {
            let Some(found) = self.rtnl.lookup(end.address())? else { continue };
            let next = found.gateway.unwrap_or(end.address());
            let port =
                if is_switched(links, found.ifindex) { self.port(links, found.ifindex, next)? } else { None };
            out.push(Exit { local: found.local, ifindex: found.ifindex, port });
        }
        Ok(out)
    }

    /// The port of a bridge behind which `address` is: its link-layer address from the neighbours, the port
    /// from the forwarding entries; before there was any traffic, the port whose other end is in a namespace
    /// that has the address. `None` while it is unknown.
    fn port(&mut self, links: &[Link], device: u32, address: IpAddr) -> Result<Option<u32>, NetlinkError> {
        let bridge = links
            .iter()
            .find(|l| l.ifindex == device && l.is_kind("vlan"))
            .and_then(|l| l.link)
            .unwrap_or(device);
        if let Some(port) = self.learned_port(device, bridge, address)? {
            return Ok(Some(port));
        }
        let Some(beyond) = &mut self.beyond else { return Ok(None) };
        let ports = links.iter().filter(|l| l.master == Some(bridge) && l.is_up());
        let mut others = ports.filter_map(|l| Some((l.ifindex, l.link_nsid?)));
        Ok(others.find(|(_, nsid)| beyond.has_address(*nsid, address)).map(|(ifindex, _)| ifindex))
    }

    fn learned_port(
        &mut self,
        device: u32,
        bridge: u32,
        address: IpAddr,
    ) -> Result<Option<u32>, NetlinkError> {
        let neighbours = self.rtnl.neighbours(Some(device))?;
        let Some(mac) =
            neighbours.into_iter().find(|n| n.address == address && !n.mac.is_empty()).map(|n| n.mac)
        else {
            return Ok(None);
        };
        let entries = self.rtnl.fdb(Some(bridge))?;
        Ok(entries
            .into_iter()
            .find(|e| e.mac == mac && e.master == Some(bridge) && e.ifindex != bridge && !e.own)
            .map(|e| e.ifindex))
    }

    fn namespace(
        &mut self,
        role: Role,
        seen: &SeenNamespace,
        watched: BTreeMap<u32, PathRole>,
    ) -> Result<Namespace, NetlinkError> {
        let Ruleset { hooks, exact } = self.rules.read()?;
        let mut devices: BTreeMap<u32, Device> = seen
            .links
            .iter()
            .map(|l| (l.ifindex, device(l, seen, watched.get(&l.ifindex).copied())))
            .collect();
        for (ifindex, address) in &seen.addresses {
            if let Some(device) = devices.get_mut(ifindex) {
                device.addresses.push(*address);
            }
        }
        let name = self.netns.name().to_owned();
        Ok(Namespace { id: seen.id, name, role, devices, hooks, hooks_exact: exact })
    }
}

/// The node-side devices that the pod's devices are connected to, and whether as a pair.
///
/// The two ends of a pair name each other: index and namespace number, in both directions.
fn pod_ends(node: &SeenNamespace, pod: &SeenNamespace) -> Vec<(u32, bool)> {
    let (Some(pod_here), Some(node_there)) = (node.nsid_of(pod.id), pod.nsid_of(node.id)) else {
        return Vec::new();
    };
    let mut out = Vec::new();
    for inner in &pod.links {
        let is_pair = matches!(inner.kind.as_deref(), Some("veth" | "netkit"));
        let outer = node.links.iter().find(|outer| {
            let down = inner.link == Some(outer.ifindex) && inner.link_nsid == Some(node_there);
            let up = outer.link == Some(inner.ifindex) && outer.link_nsid == Some(pod_here);
            down && (up || !is_pair)
        });
        out.extend(outer.map(|outer| (outer.ifindex, is_pair)));
    }
    out
}

fn device(link: &Link, seen: &SeenNamespace, watched: Option<PathRole>) -> Device {
    let other = match link.link_nsid {
        Some(nsid) => seen.peers.get(&nsid).copied(),
        None => Some(seen.id),
    };
    Device {
        ifindex: link.ifindex,
        name: link.name.clone(),
        kind: device_kind(link),
        mtu: link.mtu,
        up: link.is_up(),
        layer3: link.is_layer3(),
        master: link.master,
        link: link.link.map(|l| (other, l)),
        watched,
        addresses: Vec::new(),
        mac: link.mac.clone(),
    }
}

/// The device of this namespace that has the address is a macvlan, or of such a kind, on a device of the node: only
/// its own namespace tells.
fn stands_on_device_of(netns: &Netns, node: &Netns, address: IpAddr) -> bool {
    let look = || -> Option<bool> {
        let mut rtnl = netns.run(|| Rtnl::open(netns.name())).ok()?.ok()?;
        let own = rtnl.addresses().ok()?.into_iter().find(|own| own.address == address)?;
        let link = rtnl.links().ok()?.into_iter().find(|link| link.ifindex == own.ifindex)?;
        let nsid = link.link_nsid.filter(|_| link.kind.as_deref().is_some_and(shares_lower_device))?;
        Some(rtnl.nsid_of(node).ok()? == Some(nsid))
    };
    look().unwrap_or(false)
}

/// Packets sent through the device are switched: it is a bridge, or a VLAN device (perhaps) on one.
fn is_switched(links: &[Link], ifindex: u32) -> bool {
    links.iter().any(|l| l.ifindex == ifindex && (l.is_kind("bridge") || l.is_kind("vlan")))
}

fn device_kind(link: &Link) -> DeviceKind {
    match (link.kind.as_deref(), &link.vxlan) {
        (_, Some(vxlan)) => DeviceKind::Vxlan { vni: vxlan.vni, port: vxlan.port, local: vxlan.local },
        (None, _) if link.is_loopback() => DeviceKind::Loopback,
        (None, _) => DeviceKind::Physical,
        (Some("veth"), _) => DeviceKind::Veth,
        (Some("bridge"), _) => DeviceKind::Bridge,
        (Some(other), _) => DeviceKind::Other(other.to_owned()),
    }
}

/// Why nothing of the pod is seen on the node, with the namespace its devices do lead to, if it has a name.
fn not_connected(pod: &mut Open, nodes: &[Open], links: &[Link]) -> String {
    let names: Vec<&str> = nodes.iter().map(|n| n.netns.name()).collect();
    let mut text = format!(
        "no device of {} is connected to {}: only its own side is watched",
        pod.netns.name(),
        names.join(" or ")
    );
    let wanted: BTreeSet<i32> =
        links.iter().filter(|l| !l.is_loopback()).filter_map(|l| l.link_nsid).collect();
    let lead = named().into_iter().find(|(_, id, path)| {
        *id != pod.netns.id()
            && Netns::open(path, "")
                .ok()
                .and_then(|n| pod.rtnl.nsid_of(&n).ok().flatten())
                .is_some_and(|nsid| wanted.contains(&nsid))
    });
    if let Some((name, ..)) = lead {
        text.push_str(&format!("; its node is {name}: run there, or with --node-netns {name}"));
    }
    text
}
