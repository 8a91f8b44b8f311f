// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which of a node's devices are on the path, and as what. Pure: decided from what was read, never from
//! names.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::rtnl::{Link, Route};
use super::topology::PathRole;

/// Kinds of devices that put packets into other packets.
const TUNNELS: &[&str] = &[
    "vxlan",
    "geneve",
    "ipip",
    "sit",
    "ip6tnl",
    "gre",
    "gretap",
    "ip6gre",
    "ip6gretap",
    "erspan",
    "ip6erspan",
    "vti",
    "vti6",
    "xfrm",
    "wireguard",
    "gtp",
    "bareudp",
    "ovpn",
];

/// Where packets to an address of interest leave this namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Exit {
    /// The address is the namespace's own.
    pub(super) local: bool,
    pub(super) ifindex: u32,
    /// When the device is a bridge: the port that leads there, if it is known.
    pub(super) port: Option<u32>,
}

/// What the roles are decided from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    pub(super) links: &'a [Link],
    /// At least every route with a gateway.
    pub(super) routes: &'a [Route],
    /// The namespace's own addresses, each with its device.
    pub(super) addresses: &'a BTreeMap<IpAddr, u32>,
    /// The pod's devices whose other end is here: ifindex here. `true`: a pair (veth); `false`: ours is
    /// the lower device (macvlan).
    pub(super) pod_ends: &'a [(u32, bool)],
    /// Where source and destination are.
    pub(super) exits: &'a [Exit],
    /// For gateways reached through a bridge: bridge, port.
    pub(super) gateway_ports: &'a [(u32, u32)],
}

/// The devices on the path.
pub(super) fn roles(facts: &Facts<'_>) -> BTreeMap<u32, PathRole> {
    let mut path = PathSearch {
        facts,
        by_index: facts.links.iter().map(|l| (l.ifindex, l)).collect(),
        roles: BTreeMap::new(),
    };
    path.pod_side();
    path.tunnels();
    path.uplinks();
    path.exits();
    path.roles
}

/// The outputs of routes through a gateway that is not this namespace itself, with the gateways.
pub(super) fn gateways<'a>(
    routes: &'a [Route],
    addresses: &'a BTreeMap<IpAddr, u32>,
) -> impl Iterator<Item = (u32, IpAddr)> + 'a {
    routes
        .iter()
        .flat_map(|route| &route.next_hops)
        .filter_map(|hop| Some((hop.ifindex, hop.gateway?)))
        .filter(|(_, gateway)| !addresses.contains_key(gateway))
}

struct PathSearch<'a> {
    facts: &'a Facts<'a>,
    by_index: BTreeMap<u32, &'a Link>,
    roles: BTreeMap<u32, PathRole>,
}

impl<'a> PathSearch<'a> {
    /// The first role of a device stays: they are given in order of what says most.
    fn set(&mut self, ifindex: u32, role: PathRole) {
        if self.by_index.contains_key(&ifindex) {
            self.roles.entry(ifindex).or_insert(role);
        }
    }

    fn pod_side(&mut self) {
        for &(ifindex, pair) in self.facts.pod_ends {
            if !pair {
                self.leave(ifindex);
                continue;
            }
            self.set(ifindex, PathRole::PodHost);
            if let Some(master) = self.by_index.get(&ifindex).and_then(|l| l.master) {
                self.set_switch(master);
            }
        }
    }

    /// A bridge (or VRF, or virtual switch) which packets pass, and the VLAN devices on top of it.
    fn set_switch(&mut self, ifindex: u32) {
        let Some(link) = self.by_index.get(&ifindex) else { return };
        self.set(ifindex, if link.is_kind("bridge") { PathRole::Bridge } else { PathRole::Transit });
        for upper in self.facts.links {
            if upper.is_kind("vlan") && upper.link == Some(ifindex) && upper.link_nsid.is_none() {
                self.set(upper.ifindex, PathRole::Transit);
            }
        }
    }

    fn tunnels(&mut self) {
        let is_tunnel = |l: &&Link| l.kind.as_deref().is_some_and(|k| TUNNELS.contains(&k));
        // The kernel's own fallback devices (tunl0, sit0 ...) are down until someone uses them.
        for link in self.facts.links.iter().filter(is_tunnel).filter(|l| l.is_up() || l.vxlan.is_some()) {
            self.set(link.ifindex, PathRole::Tunnel);
            let vxlan = link.vxlan.as_ref();
            let by_address = || self.facts.addresses.get(&vxlan?.local?).copied();
            let below = vxlan
                .and_then(|v| v.link)
                .or(link.link.filter(|_| link.link_nsid.is_none()))
                .or_else(by_address);
            if let Some(lower) = below.filter(|l| *l != link.ifindex) {
                self.leave(lower);
            }
        }
    }

    fn uplinks(&mut self) {
        for link in self.facts.links {
            if link.kind.is_none() && link.is_up() && !link.is_loopback() {
                self.set(link.ifindex, PathRole::Uplink);
            }
        }
        let outputs: BTreeSet<u32> =
            gateways(self.facts.routes, self.facts.addresses).map(|(i, _)| i).collect();
        for ifindex in outputs {
            self.leave(ifindex);
        }
    }

    /// Packets leave through `ifindex`: the lowest device that we can see is the uplink, what is on top of it
    /// is passed on the way.
    fn leave(&mut self, ifindex: u32) {
        let mut todo = vec![ifindex];
        let mut seen = BTreeSet::new();
        while let Some(at) = todo.pop() {
            let Some(link) = self.by_index.get(&at).copied() else { continue };
            if !seen.insert(at) || link.is_loopback() {
                continue;
            }
            let below = self.below(link);
            let role = match link.kind.as_deref() {
                Some("bridge") if !below.is_empty() => PathRole::Bridge,
                Some(kind) if TUNNELS.contains(&kind) => PathRole::Tunnel,
                _ if below.is_empty() => PathRole::Uplink,
                _ => PathRole::Transit,
            };
            self.set(at, role);
            todo.extend(below);
        }
    }

    /// The devices that carry what `link` sends, as far as they are in this namespace.
    fn below(&self, link: &Link) -> Vec<u32> {
        let ports = |wanted: &dyn Fn(&Link) -> bool| {
            self.facts
                .links
                .iter()
                .filter(|l| l.master == Some(link.ifindex) && wanted(l))
                .map(|l| l.ifindex)
                .collect()
        };
        match link.kind.as_deref() {
            Some("bond" | "team") => ports(&|_| true),
            Some("bridge") => {
                // Towards the outside only: the other ports are other pods.
                let gateway = self.facts.gateway_ports.iter().filter(|(bridge, _)| *bridge == link.ifindex);
                let mut out: Vec<u32> =
                    ports(&|l| l.kind.is_none() || matches!(l.kind.as_deref(), Some("bond" | "vlan")));
                out.extend(gateway.map(|(_, port)| *port));
                out
            }
            // A pair with both ends here, or a device on top of another one.
            Some(_) if link.link_nsid.is_none() => {
                link.link.filter(|l| *l != link.ifindex).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    /// The way to a source or destination that no role covers yet: another pod of this node.
    fn exits(&mut self) {
        for exit in self.facts.exits.iter().filter(|e| !e.local) {
            let Some(link) = self.by_index.get(&exit.ifindex).copied() else { continue };
            if link.is_loopback() {
                continue;
            }
            self.set(exit.ifindex, PathRole::Transit);
            if let Some(port) = exit.port {
                self.set(port, PathRole::Transit);
            }
            // A VLAN device's traffic passes the device below it.
            if link.is_kind("vlan")
                && link.link_nsid.is_none()
                && let Some(lower) = link.link
            {
                self.set(lower, PathRole::Transit);
            }
        }
        // Between two addresses of the node itself packets go over the loopback.
        if !self.facts.exits.is_empty() && self.facts.exits.iter().all(|e| e.local) {
            let loopback = self.facts.links.iter().find(|l| l.is_loopback()).map(|l| l.ifindex);
            if let Some(ifindex) = loopback {
                self.set(ifindex, PathRole::Transit);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::rtnl::NextHop;

    /// `kind` "": hardware; `master`, `lower` 0: none.
    fn link(ifindex: u32, kind: &str, master: u32, lower: u32, nsid: Option<i32>) -> Link {
        Link {
            ifindex,
            name: format!("d{ifindex}"),
            kind: (!kind.is_empty()).then(|| kind.into()),
            flags: libc::IFF_UP as u32 | if ifindex == 1 { libc::IFF_LOOPBACK as u32 } else { 0 },
            master: Some(master).filter(|m| *m != 0),
            link: Some(lower).filter(|l| *l != 0),
            link_nsid: nsid,
            vxlan: (kind == "vxlan").then(Default::default),
            ..Link::default()
        }
    }

    fn gateway_route(ifindex: u32, gateway: [u8; 4]) -> Route {
        Route {
            destination: crate::node::IpPrefix::new([0, 0, 0, 0].into(), 0).unwrap(),
            protocol: 4,
            next_hops: vec![NextHop { ifindex, gateway: Some(gateway.into()), ..NextHop::default() }],
            ..Route::default()
        }
    }

    fn decide(facts: &Facts<'_>) -> Vec<(u32, PathRole)> {
        roles(facts).into_iter().collect()
    }

    #[test]
    fn the_lab_node() {
        use PathRole::{Bridge, PodHost, Transit, Tunnel, Uplink};
        let links = [
            link(1, "", 0, 0, None),
            link(2, "veth", 0, 9, Some(0)), // eth0, into the underlay's namespace
            link(3, "bridge", 0, 0, None),  // cni0
            link(4, "veth", 3, 2, Some(1)), // the pod's
            link(5, "veth", 3, 2, Some(2)), // another pod's
            link(6, "vxlan", 0, 2, None),
            link(7, "veth", 0, 2, Some(3)), // a third pod's, routed
        ];
        let routes = [gateway_route(2, [172, 16, 0, 1]), gateway_route(6, [192, 200, 0, 1])];
        let facts = Facts { links: &links, routes: &routes, pod_ends: &[(4, true)], ..no_facts() };
        assert_eq!(decide(&facts), [(2, Uplink), (3, Bridge), (4, PodHost), (6, Tunnel)]);
        // The destination is the other pod.
        let exits = [Exit { local: false, ifindex: 3, port: Some(5) }];
        assert_eq!(
            decide(&Facts { exits: &exits, ..facts }),
            [(2, Uplink), (3, Bridge), (4, PodHost), (5, Transit), (6, Tunnel)]
        );
    }

    #[test]
    fn a_vlan_on_a_bond() {
        use PathRole::{Transit, Uplink};
        let links = [
            link(1, "", 0, 0, None),
            link(2, "", 4, 0, None),
            link(3, "", 4, 0, None),
            link(4, "bond", 0, 0, None),
            link(5, "vlan", 0, 4, None),
        ];
        let routes = [gateway_route(5, [10, 0, 0, 1])];
        let facts = Facts { links: &links, routes: &routes, ..no_facts() };
        assert_eq!(decide(&facts), [(2, Uplink), (3, Uplink), (4, Transit), (5, Transit)]);
    }

    #[test]
    fn a_bridge_as_uplink_leads_through_its_hardware_port() {
        use PathRole::{Bridge, Uplink};
        let links = [link(2, "", 3, 0, None), link(3, "bridge", 0, 0, None), link(4, "veth", 3, 2, Some(0))];
        let routes = [gateway_route(3, [10, 0, 0, 1])];
        let facts = Facts { links: &links, routes: &routes, ..no_facts() };
        assert_eq!(decide(&facts), [(2, Uplink), (3, Bridge)]);
        // No hardware: the port behind which the gateway is, when the bridge knows it.
        let links =
            [link(3, "bridge", 0, 0, None), link(4, "veth", 3, 2, Some(0)), link(5, "veth", 3, 2, Some(1))];
        let facts = Facts { links: &links, routes: &routes, ..no_facts() };
        assert_eq!(decide(&facts), [(3, Uplink)]);
        assert_eq!(decide(&Facts { gateway_ports: &[(3, 5)], ..facts }), [(3, Bridge), (5, Uplink)]);
    }

    #[test]
    fn a_gateway_that_is_the_node_itself_is_no_way_out() {
        let links = [link(1, "", 0, 0, None), link(2, "veth", 0, 3, None), link(3, "veth", 0, 2, None)];
        let routes = [gateway_route(2, [10, 0, 0, 1])];
        let own = BTreeMap::from([([10, 0, 0, 1].into(), 2)]);
        let facts = Facts { links: &links, routes: &routes, addresses: &own, ..no_facts() };
        assert_eq!(decide(&facts), []);
    }

    #[test]
    fn devices_on_top_of_each_other_in_a_circle_end() {
        let links = [link(2, "vlan", 0, 3, None), link(3, "vlan", 0, 2, None)];
        let routes = [gateway_route(2, [10, 0, 0, 1])];
        let facts = Facts { links: &links, routes: &routes, ..no_facts() };
        assert_eq!(decide(&facts).len(), 2);
    }

    fn no_facts() -> Facts<'static> {
        static NONE: BTreeMap<IpAddr, u32> = BTreeMap::new();
        Facts { links: &[], routes: &[], addresses: &NONE, pod_ends: &[], exits: &[], gateway_ports: &[] }
    }
}
