// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine as it is: namespaces read once, route lookups asked of the kernel. Nothing is sent or changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::cli::Plan;
use crate::cluster::egress::Objects;
use crate::model::{Host, World};
use crate::node::processes::users_on_port;
use crate::node::rtnl::{Link, RouteAnswer, RouteQuestion, Rtnl};
use crate::node::{
    NetlinkError, Netns, NetnsError, NetnsId, Observation, ObserveError, Observer, PathRole, Role, named,
};
use crate::snapshot::Evidence;
use crate::target::egress_policies::Policies;
use crate::text::escape;

/// Namespaces that are looked through for the other end of a veth.
const MAX_NAMESPACES: usize = 8192;

#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error(transparent)]
    Observe(#[from] ObserveError),
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// How long the API server is waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// EgressGateway's objects, where the API server tells them in time.
fn policies(plan: &Plan) -> Option<Arc<Objects>> {
    let filter = &plan.filter;
    let mut policies = Policies::of(&plan.reach, &plan.targets, &filter.src, &filter.dst);
    policies.wait(PATIENCE);
    policies.look();
    policies.objects().cloned()
}

/// [`World`] over netlink and /proc.
pub struct Machine {
    hosts: BTreeMap<NetnsId, Arc<Host>>,
    watched: Vec<NetnsId>,
    open: HashMap<NetnsId, (Netns, Rtnl)>,
    /// Namespaces by the number that a host gives them, for each host.
    numbers: HashMap<NetnsId, HashMap<i32, Netns>>,
    addresses: HashMap<NetnsId, Vec<IpAddr>>,
    /// More than one node: commands need the namespace.
    nodes: usize,
    policies: Option<Arc<Objects>>,
}

impl Machine {
    /// Reads the nodes and pods of the plan.
    ///
    /// # Errors
    /// When a namespace cannot be entered or listed.
    pub fn read(plan: &Plan) -> Result<Self, CheckError> {
        let pods = plan.pod_netns();
        let mut observer = Observer::open(&plan.nodes, &pods)?;
        let Observation { topology, .. } = observer.observe(&plan.filter.ends())?;
        let namespaces: Vec<Netns> = observer.namespaces().cloned().collect();
        drop(observer);
        let mut evidence = Evidence::collect(&namespaces);
        let mut machine = Self {
            hosts: BTreeMap::new(),
            watched: Vec::new(),
            open: HashMap::new(),
            numbers: HashMap::new(),
            addresses: HashMap::new(),
            nodes: plan.nodes.len(),
            policies: policies(plan),
        };
        for netns in namespaces {
            let id = netns.id();
            let space = topology.namespaces.get(&id);
            let role = space.map_or(Role::Node, |ns| ns.role);
            let uplinks: BTreeSet<u32> = space
                .into_iter()
                .flat_map(|ns| ns.devices.values())
                .filter(|d| d.watched == Some(PathRole::Uplink))
                .map(|d| d.ifindex)
                .collect();
            let prefix = (role == Role::Pod || machine.nodes > 1).then(|| enter(&netns));
            let evidence = evidence.netns.remove(&id).unwrap_or_default();
            let host = Host::new(id, role, prefix, evidence, uplinks);
            machine.hosts.insert(id, Arc::new(host));
            machine.watched.push(id);
            let rtnl = netns.run(|| Rtnl::open(netns.name()))??;
            machine.open.insert(id, (netns, rtnl));
        }
        Ok(machine)
    }

    /// The namespace at the other end of a veth, or of the device below.
    fn behind(&mut self, host: &Host, link: &Link) -> Option<(Netns, u32)> {
        let ifindex = link.link?;
        let Some(nsid) = link.link_nsid else {
            return Some((self.open.get(&host.id)?.0.clone(), ifindex));
        };
        if !self.numbers.contains_key(&host.id) {
            let (_, rtnl) = self.open.get_mut(&host.id)?;
            let mut numbers = HashMap::new();
            for netns in namespaces() {
                if let Ok(Some(number)) = rtnl.nsid_of(&netns) {
                    numbers.insert(number, netns);
                }
            }
            self.numbers.insert(host.id, numbers);
        }
        self.numbers.get(&host.id)?.get(&nsid).map(|netns| (netns.clone(), ifindex))
    }

    fn load(&mut self, netns: &Netns) -> Option<Arc<Host>> {
        let id = netns.id();
        if let Some(host) = self.hosts.get(&id) {
            return Some(host.clone());
        }
        let rtnl = netns.run(|| Rtnl::open(netns.name())).ok()?.ok()?;
        let mut evidence = Evidence::collect(std::slice::from_ref(netns));
        let evidence = evidence.netns.remove(&id)?;
        let host = Host::new(id, Role::Pod, Some(enter(netns)), evidence, BTreeSet::new());
        self.open.insert(id, (netns.clone(), rtnl));
        let host = Arc::new(host);
        self.hosts.insert(id, host.clone());
        Some(host)
    }
}

impl World for Machine {
    fn policies(&self) -> Option<Arc<Objects>> {
        self.policies.clone()
    }

    fn watched(&self) -> Vec<Arc<Host>> {
        self.watched.iter().filter_map(|id| self.host(*id)).collect()
    }

    fn host(&self, id: NetnsId) -> Option<Arc<Host>> {
        self.hosts.get(&id).cloned()
    }

    fn peer(&mut self, host: &Host, link: &Link) -> Option<(Arc<Host>, u32)> {
        let (netns, ifindex) = self.behind(host, link).filter(|_| link.is_veth())?;
        self.load(&netns).map(|host| (host, ifindex))
    }

    fn lower(&mut self, host: &Host, link: &Link) -> Option<(Arc<Host>, u32)> {
        let (netns, ifindex) = self.behind(host, link).filter(|_| !link.is_veth())?;
        self.load(&netns).map(|host| (host, ifindex))
    }

    fn peer_addresses(&mut self, host: &Host, link: &Link) -> Option<Vec<IpAddr>> {
        let (netns, _) = self.behind(host, link).filter(|_| link.is_veth())?;
        let id = netns.id();
        if let Some(host) = self.hosts.get(&id) {
            return Some(host.evidence.addresses.iter().map(|a| a.address).collect());
        }
        if let Some(known) = self.addresses.get(&id) {
            return Some(known.clone());
        }
        let list = netns.run(|| Rtnl::open(netns.name()).and_then(|mut rtnl| rtnl.addresses())).ok()?.ok()?;
        let list: Vec<IpAddr> = list.into_iter().map(|a| a.address).collect();
        self.addresses.insert(id, list.clone());
        Some(list)
    }

    fn listeners(&mut self, host: &Host, protocol: u8, port: u16) -> Vec<u32> {
        self.open.get(&host.id).map(|(netns, _)| users_on_port(netns, protocol, port)).unwrap_or_default()
    }

    fn kernel_route(&mut self, host: &Host, question: &RouteQuestion) -> Option<RouteAnswer> {
        let (_, rtnl) = self.open.get_mut(&host.id)?;
        rtnl.route(question).ok()
    }
}

/// Every namespace that has a name or a process, each once.
fn namespaces() -> Vec<Netns> {
    let mut seen = BTreeSet::new();
    let mut out = Vec::new();
    for (name, id, path) in named() {
        if seen.insert(id)
            && let Ok(netns) = Netns::open(&path, name)
        {
            out.push(netns);
        }
    }
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes {
        let name = process.file_name();
        if !name.as_encoded_bytes().iter().all(u8::is_ascii_digit) || out.len() >= MAX_NAMESPACES {
            continue;
        }
        let path: PathBuf = process.path().join("ns/net");
        let Ok(netns) = Netns::open(&path, format!("netns of pid {}", name.to_string_lossy())) else {
            continue;
        };
        if seen.insert(netns.id()) {
            out.push(netns);
        }
    }
    out
}

/// How commands for a namespace begin.
fn enter(netns: &Netns) -> String {
    format!("ip netns exec {}", escape(netns.name()))
}
