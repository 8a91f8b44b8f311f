// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a check asks of the machine: namespaces as they are, and the kernel's own route lookups. Implemented over
//! netlink; by hand in tests.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::index::HostIndex;
use crate::cluster::egress::Objects;
use crate::fib::{Fib, ReversePath};
use crate::firewall::{Chain, IpSet, NodeFacts, PacketView, Table};
use crate::node::rtnl::{Link, RouteAnswer, RouteQuestion};
use crate::node::{NetnsId, Role};
use crate::snapshot::NetnsEvidence;
use crate::text::escape;

/// One network namespace at one moment.
#[derive(Clone, Debug)]
pub struct Host {
    pub id: NetnsId,
    pub role: Role,
    /// How commands for it begin ("ip netns exec pod"), where they cannot be typed as they are on the node.
    pub prefix: Option<String>,
    pub evidence: Arc<NetnsEvidence>,
    /// Devices behind which another machine is.
    pub uplinks: BTreeSet<u32>,
    index: HostIndex,
}

/// Who answers.
pub trait World {
    /// The namespaces that were asked for: nodes and pod.
    fn watched(&self) -> Vec<Arc<Host>>;

    /// One that is known by now.
    fn host(&self, id: NetnsId) -> Option<Arc<Host>>;

    /// The other end of a veth: its namespace, also when it was not asked for, and its ifindex there.
    fn peer(&mut self, host: &Host, link: &Link) -> Option<(Arc<Host>, u32)>;

    /// The device that a macvlan or VLAN device is on: its namespace, and its ifindex there.
    fn lower(&mut self, _: &Host, _: &Link) -> Option<(Arc<Host>, u32)> {
        None
    }

    /// The addresses of the namespace at the other end of a veth; cheaper than [`World::peer`].
    fn peer_addresses(&mut self, host: &Host, link: &Link) -> Option<Vec<IpAddr>>;

    /// The users (fsuid) of the programs that listen on a port; empty: not known.
    fn listeners(&mut self, host: &Host, protocol: u8, port: u16) -> Vec<u32>;

    /// EgressGateway's objects; `None`: not known.
    fn policies(&self) -> Option<Arc<Objects>> {
        None
    }

    /// The kernel's own answer, where it can be asked: a world that is only remembered has none.
    fn kernel_route(&mut self, _: &Host, _: &RouteQuestion) -> Option<RouteAnswer> {
        None
    }
}

impl Host {
    pub fn new(
        id: NetnsId,
        role: Role,
        prefix: Option<String>,
        evidence: Arc<NetnsEvidence>,
        uplinks: BTreeSet<u32>,
    ) -> Self {
        Self { id, role, prefix, evidence, uplinks, index: HostIndex::default() }
    }

    /// The same host with something else in it. What was indexed and is still the same is not indexed again.
    #[must_use]
    pub fn with(&self, evidence: NetnsEvidence) -> Self {
        let index = self.index.after(&self.evidence, &evidence);
        Self { evidence: Arc::new(evidence), index, ..self.clone() }
    }

    /// Routing of this host.
    pub fn fib(&self) -> Fib<'_> {
        self.index.fib(&self.evidence)
    }

    pub fn name(&self) -> String {
        escape(&self.evidence.name).into_owned()
    }

    pub fn link(&self, ifindex: u32) -> Option<&Link> {
        self.evidence.link_by_index(ifindex)
    }

    pub fn device(&self, ifindex: u32) -> String {
        match self.link(ifindex) {
            Some(link) => escape(&link.name).into_owned(),
            None => format!("if{ifindex}"),
        }
    }

    /// The device that has this address.
    pub fn owner(&self, address: IpAddr) -> Option<u32> {
        self.evidence.addresses.iter().find(|a| a.address == address).map(|a| a.ifindex)
    }

    pub fn owns(&self, address: IpAddr) -> bool {
        self.owner(address).is_some()
    }

    /// What this host would use as its own address on a device, towards `to` (inet_select_addr, roughly).
    pub fn address_on(&self, ifindex: u32, to: IpAddr) -> Option<IpAddr> {
        let mut own = self.evidence.addresses.iter().filter(|a| {
            a.ifindex == ifindex && a.address.is_ipv4() == to.is_ipv4() && i32::from(a.scope) != RT_SCOPE_LINK
        });
        let near = own.clone().find(|a| {
            crate::node::IpPrefix::new(a.address, a.prefix_len).is_some_and(|net| net.contains(to))
        });
        near.or_else(|| own.next()).map(|a| a.address)
    }

    pub fn sysctl(&self, path: &str) -> Option<i64> {
        self.evidence.sysctl(path)
    }

    /// A command as it has to be typed on the node.
    pub fn command(&self, command: impl AsRef<str>) -> String {
        let command = command.as_ref();
        match &self.prefix {
            Some(prefix) => format!("{prefix} {command}"),
            None => command.to_owned(),
        }
    }
}

impl NodeFacts for Host {
    fn rulesets(&self) -> &[Table] {
        self.evidence.rulesets()
    }

    fn chain<'e>(&self, table: &'e Table, name: &str) -> Option<&'e Chain> {
        self.index.chain(&self.evidence, table, name)
    }

    fn set(&self, name: &str) -> Option<&IpSet> {
        self.evidence.set(name)
    }

    fn ifindex(&self, device: &str) -> Option<u32> {
        self.evidence.ifindex(device)
    }

    fn address_type(&self, address: IpAddr, device: Option<u32>) -> Option<&'static str> {
        self.evidence.address_type_by(&self.fib(), address, device)
    }

    fn reverse_path(&self, packet: &PacketView, how: ReversePath) -> Option<bool> {
        self.evidence.reverse_path_by(&self.fib(), packet, how)
    }

    fn has_socket(&self, proto: u8, port: Option<u16>) -> bool {
        self.evidence.has_socket(proto, port)
    }
}

const RT_SCOPE_LINK: i32 = 253;
