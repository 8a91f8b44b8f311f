// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who has which address in the lab, and the marks, tables and sets which EgressGateway derives.
//!
//! ```text
//!  visitor 10.200.0.22 ─ vethpod  ┐
//!  podb    10.200.0.23 ─ vethpodb ┼ cni0 ─ node1 172.16.25.11 ┐
//!  mesh    10.200.0.33 ─ vethmesh ┘                           │
//!                                                             ├ ul (br0 172.16.25.1) ─ ext 172.16.25.183
//!  pod2    10.200.1.22 ─ vethpod2 ─ cni0 ─ node2 172.16.25.12 ┘                            198.51.100.10
//!                                          (gateway, egress IP 172.16.25.189)
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// Names of the namespaces without the lab's prefix, in the order in which they are made.
pub const PLACES: [&str; 8] = ["ul", "ext", "node1", "node2", "visitor", "podb", "pod2", "mesh"];

/// The mark which EgressGateway gives to packets it is done with.
pub const MARK_DONE: u32 = 0x2600_0000;
/// VNI and UDP port of `egress.vxlan`.
pub const EGRESS_VXLAN: (u32, u16) = (100, 7789);
/// VNI and UDP port of `flannel.1`.
pub const FLANNEL_VXLAN: (u32, u16) = (1, 8472);
/// Port of the node port service `default/nginx-expose`.
pub const NODE_PORT: u16 = 30897;
/// The cut sha1 of "default-test" with which the policy's sets end.
pub const POLICY_HASH: &str = "738bb014438bdbfe7";

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// `4` or `6`.
    pub fn digit(self) -> char {
        match self {
            Self::V4 => '4',
            Self::V6 => '6',
        }
    }

    /// What `ipset create … family` wants.
    pub fn set_family(self) -> &'static str {
        match self {
            Self::V4 => "inet",
            Self::V6 => "inet6",
        }
    }

    /// Picks the word of this family.
    pub fn pick<T>(self, v4: T, v6: T) -> T {
        match self {
            Self::V4 => v4,
            Self::V6 => v6,
        }
    }
}

/// One of the two Kubernetes nodes.
#[derive(Debug)]
pub struct Node {
    /// `node1` or `node2`.
    pub name: &'static str,
    /// 1 or 2: the third group of the node's IPv6 pod network and the end of its addresses.
    pub index: u8,
    /// Address on the underlay.
    pub ip: [IpAddr; 2],
    /// Address of `cni0`.
    pub cni0: [IpAddr; 2],
    /// The pods' network, as a prefix.
    pub pod_cidr: [&'static str; 2],
    /// Address of `flannel.1`, which is also what kube-proxy masquerades remote endpoints to.
    pub flannel_ip: Ipv4Addr,
    /// MAC of `flannel.1`.
    pub flannel_mac: &'static str,
    /// EgressTunnel: address of `egress.vxlan`.
    pub tunnel_ip: [IpAddr; 2],
    /// EgressTunnel: MAC of `egress.vxlan`, from the sha1 of the node's name.
    pub tunnel_mac: &'static str,
    /// EgressTunnel: the node's mark; its table has the same number.
    pub mark: u32,
}

/// The pods' node.
pub static NODE1: Node = Node {
    name: "node1",
    index: 1,
    ip: [v4(172, 16, 25, 11), v6([0xfd00, 0x172, 0, 0, 0, 0, 0, 0x11])],
    cni0: [v4(10, 200, 0, 1), v6([0xfd00, 0x200, 1, 0, 0, 0, 0, 1])],
    pod_cidr: ["10.200.0.0/24", "fd00:200:1::/64"],
    flannel_ip: Ipv4Addr::new(10, 200, 0, 0),
    flannel_mac: "3a:b8:8c:00:00:01",
    tunnel_ip: [v4(192, 200, 142, 89), v6([0xfd11, 0, 0, 0, 0, 0, 0, 1])],
    tunnel_mac: "66:c5:d6:cc:29:54",
    mark: 0x2698_ee37,
};

/// The gateway.
pub static NODE2: Node = Node {
    name: "node2",
    index: 2,
    ip: [v4(172, 16, 25, 12), v6([0xfd00, 0x172, 0, 0, 0, 0, 0, 0x12])],
    cni0: [v4(10, 200, 1, 1), v6([0xfd00, 0x200, 2, 0, 0, 0, 0, 1])],
    pod_cidr: ["10.200.1.0/24", "fd00:200:2::/64"],
    flannel_ip: Ipv4Addr::new(10, 200, 1, 0),
    flannel_mac: "3a:b8:8c:00:00:02",
    tunnel_ip: [v4(192, 200, 201, 40), v6([0xfd11, 0, 0, 0, 0, 0, 0, 2])],
    tunnel_mac: "66:66:41:3e:23:6b",
    mark: 0x26b7_b4e4,
};

impl Node {
    /// The other node.
    pub fn peer(&self) -> &'static Node {
        if self.index == 1 { &NODE2 } else { &NODE1 }
    }

    /// The address of this family out of a pair.
    pub fn ip(&self, family: Family) -> IpAddr {
        of(&self.ip, family)
    }
}

/// A pod of the lab.
#[derive(Debug)]
pub struct Pod {
    /// Name of its namespace, without prefix.
    pub name: &'static str,
    /// Where it runs.
    pub node: &'static Node,
    /// The host side of its veth; the pod's side is `eth0`.
    pub host_dev: &'static str,
    /// Its addresses.
    pub ip: [IpAddr; 2],
}

/// All pods.
pub static PODS: [Pod; 4] = [
    Pod { name: "visitor", node: &NODE1, host_dev: "vethpod", ip: [v4(10, 200, 0, 22), pod6(1, 0x22)] },
    Pod { name: "podb", node: &NODE1, host_dev: "vethpodb", ip: [v4(10, 200, 0, 23), pod6(1, 0x23)] },
    Pod { name: "pod2", node: &NODE2, host_dev: "vethpod2", ip: [v4(10, 200, 1, 22), pod6(2, 0x22)] },
    Pod { name: "mesh", node: &NODE1, host_dev: "vethmesh", ip: [v4(10, 200, 0, 33), pod6(1, 0x33)] },
];

/// The pod which the policy selects.
pub fn visitor(family: Family) -> IpAddr {
    of(&PODS[0].ip, family)
}

/// The pod behind the services.
pub fn pod2(family: Family) -> IpAddr {
    of(&PODS[2].ip, family)
}

/// The policy's destination.
pub fn ext(family: Family) -> IpAddr {
    family.pick(v4(172, 16, 25, 183), v6([0xfd00, 0x172, 0, 0, 0, 0, 0, 0x183]))
}

/// The second address of `ext`, behind the router, in no policy.
pub fn ext2(family: Family) -> IpAddr {
    family.pick(v4(198, 51, 100, 10), v6([0xfd00, 0x198, 0, 0, 0, 0, 0, 0x10]))
}

/// The router of the underlay.
pub fn router(family: Family) -> IpAddr {
    family.pick(v4(172, 16, 25, 1), v6([0xfd00, 0x172, 0, 0, 0, 0, 0, 1]))
}

/// The egress IP of policy default/test. It stands on no interface.
pub fn egress_ip(family: Family) -> IpAddr {
    family.pick(v4(172, 16, 25, 189), v6([0xfd00, 0x172, 0, 0, 0, 0, 0, 0x189]))
}

/// Service default/nginx-expose.
pub fn cluster_ip(family: Family) -> IpAddr {
    family.pick(v4(10, 96, 100, 100), v6([0xfd00, 0x96, 0, 0, 0, 0, 0, 0x100]))
}

/// Service default/empty, without endpoints.
pub fn empty_service(family: Family) -> IpAddr {
    family.pick(v4(10, 96, 100, 200), v6([0xfd00, 0x96, 0, 0, 0, 0, 0, 0x200]))
}

/// Service kube-system/kube-dns.
pub fn dns_service(family: Family) -> IpAddr {
    family.pick(v4(10, 96, 0, 10), v6([0xfd00, 0x96, 0, 0, 0, 0, 0, 0xa]))
}

/// The network of all pods.
pub fn cluster_cidr(family: Family) -> &'static str {
    family.pick("10.200.0.0/16", "fd00:200::/32")
}

/// The network of all services.
pub fn service_cidr(family: Family) -> &'static str {
    family.pick("10.96.0.0/16", "fd00:96::/112")
}

/// The policy's set of sources.
pub fn src_set(family: Family) -> String {
    format!("egress-src-v{}-{POLICY_HASH}", family.digit())
}

/// The policy's set of destinations.
pub fn dst_set(family: Family) -> String {
    format!("egress-dst-v{}-{POLICY_HASH}", family.digit())
}

/// The address of this family out of a pair.
pub fn of(pair: &[IpAddr; 2], family: Family) -> IpAddr {
    family.pick(pair[0], pair[1])
}

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6(g: [u16; 8]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(g[0], g[1], g[2], g[3], g[4], g[5], g[6], g[7]))
}

const fn pod6(node: u16, end: u16) -> IpAddr {
    v6([0xfd00, 0x200, node, 0, 0, 0, 0, end])
}
