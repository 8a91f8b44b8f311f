// SPDX-License-Identifier: MIT OR Apache-2.0
//! Devices, addresses, routes, neighbours and rules of the lab, as text for `ip -batch` and
//! `bridge -batch`: one process for a namespace instead of one for each line.

use std::fmt::Write as _;

use crate::{
    spec::Spec,
    topology::{
        self as t, EGRESS_VXLAN, FLANNEL_VXLAN,
        Family::{V4, V6},
        NODE1, NODE2, Node, PODS, Pod,
    },
};

/// The underlay: a router with a bridge, and a cable to each node and to `ext`.
pub(crate) fn underlay(spec: &Spec) -> String {
    let mut b = String::from(
        "link set lo up\n\
         link add br0 address 02:00:00:25:01:01 type bridge forward_delay 0 mcast_snooping 0\n\
         link set br0 up\n",
    );
    for (place, mac) in
        [("node1", "02:00:00:25:01:11"), ("node2", "02:00:00:25:01:12"), ("ext", "02:00:00:25:01:83")]
    {
        line!(b, "link add p-{place} type veth peer name eth0 address {mac} netns {}", spec.ns(place).name());
        line!(b, "link set p-{place} master br0 up");
    }
    for family in spec.families() {
        let (length, nodad) = family.pick((24, ""), (64, " nodad"));
        line!(b, "addr add {}/{length} dev br0{nodad}", t::router(family));
        line!(b, "route add {} via {}", t::ext2(family), t::ext(family));
    }
    b
}

/// The world outside, where the policy's destination is.
pub(crate) fn outside(spec: &Spec) -> String {
    let mut b = String::from("link set lo up\nlink set eth0 up\n");
    for family in spec.families() {
        let (length, host, nodad) = family.pick((24, 32, ""), (64, 128, " nodad"));
        line!(b, "addr add {}/{length} dev eth0{nodad}", t::ext(family));
        line!(b, "addr add {}/{host} dev eth0{nodad}", t::ext2(family));
        line!(b, "route add default via {}", t::router(family));
    }
    b
}

/// A node: NIC, bridge, both VXLAN devices, policy routing, and the veths of its pods.
pub(crate) fn node(spec: &Spec, node: &Node) -> String {
    let peer = node.peer();
    let mut b = String::from("link set lo up\nlink set eth0 up\n");
    line!(b, "link add cni0 address 02:00:00:c0:00:0{} type bridge forward_delay 0", node.index);
    line!(b, "link set cni0 mtu 1450 up");
    line!(
        b,
        "link add egress.vxlan address {} type vxlan id {} dstport {} local {} dev eth0 nolearning udpcsum",
        node.tunnel_mac,
        EGRESS_VXLAN.0,
        EGRESS_VXLAN.1,
        node.ip(V4)
    );
    line!(
        b,
        "link add flannel.1 address {} type vxlan id {} dstport {} local {} dev eth0 nolearning",
        node.flannel_mac,
        FLANNEL_VXLAN.0,
        FLANNEL_VXLAN.1,
        node.ip(V4)
    );
    b.push_str("link set egress.vxlan up\nlink set flannel.1 up\n");
    for family in spec.families() {
        let (length, tunnel, nodad) = family.pick((24, 16, ""), (64, 112, " nodad"));
        line!(b, "addr add {}/{length} dev eth0{nodad}", node.ip(family));
        line!(b, "addr add {}/{length} dev cni0{nodad}", t::of(&node.cni0, family));
        line!(b, "addr add {}/{tunnel} dev egress.vxlan{nodad}", t::of(&node.tunnel_ip, family));
        line!(b, "route add default via {}", t::router(family));
        line!(
            b,
            "neigh add {} lladdr {} dev egress.vxlan nud permanent",
            t::of(&peer.tunnel_ip, family),
            peer.tunnel_mac
        );
        line!(
            b,
            "route add default via {} dev egress.vxlan table {}",
            t::of(&peer.tunnel_ip, family),
            peer.mark
        );
    }
    line!(b, "addr add {}/32 dev flannel.1", node.flannel_ip);
    line!(b, "route add {} via {} dev flannel.1 onlink", peer.pod_cidr[0], peer.flannel_ip);
    line!(b, "neigh add {} lladdr {} dev flannel.1 nud permanent", peer.flannel_ip, peer.flannel_mac);
    if spec.ipv6 {
        // IPv6 pods go from node to node without a tunnel, as with flannel's host-gw.
        line!(b, "route add {} via {}", peer.pod_cidr[1], peer.ip(V6));
    }
    for pod in PODS.iter().filter(|pod| pod.node.index == node.index && spec.has(pod.name)) {
        b.push_str(&host_veth(spec, pod.name, pod.host_dev, "cni0", 1450));
    }
    b
}

/// A node's policy routing, the same in both families (`ip -4`, `ip -6`).
pub(crate) fn routing_rules(node: &Node) -> String {
    let mark = node.peer().mark;
    format!("rule add priority 99 fwmark {mark:#x} lookup {mark}\n")
}

/// The host side of a pod's veth, in a bridge of the node.
pub(crate) fn host_veth(spec: &Spec, place: &str, dev: &str, bridge: &str, mtu: u32) -> String {
    let pod = spec.ns(place);
    format!(
        "link add {dev} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}\n\
         link set {dev} master {bridge} up\n",
        pod.name()
    )
}

/// The forwarding entries of a node's VXLAN devices.
pub(crate) fn fdb(node: &Node) -> String {
    let peer = node.peer();
    let mut b = String::new();
    for (dev, mac) in [("egress.vxlan", peer.tunnel_mac), ("flannel.1", peer.flannel_mac)] {
        line!(b, "fdb append {mac} dev {dev} dst {} self permanent", peer.ip(V4));
    }
    b
}

/// A pod's own side.
pub(crate) fn pod(spec: &Spec, pod: &Pod) -> String {
    let mut b = String::from("link set lo up\nlink set eth0 up\n");
    for family in spec.families() {
        let (length, nodad) = family.pick((24, ""), (64, " nodad"));
        line!(b, "addr add {}/{length} dev eth0{nodad}", t::of(&pod.ip, family));
        line!(b, "route add default via {}", t::of(&pod.node.cni0, family));
    }
    b
}

/// The policy's sets on a node, for `ipset restore`. The gateway's sources are all pods of the
/// policy, the pod node's only its own: here the same one.
pub(crate) fn ipsets(spec: &Spec) -> String {
    let mut b = String::new();
    for family in spec.families() {
        let kind = family.set_family();
        let cluster = family.pick("egress-cluster-cidr-ipv4", "egress-cluster-cidr-ipv6");
        line!(b, "create {} hash:net family {kind}", t::src_set(family));
        line!(b, "create {} hash:net family {kind}", t::dst_set(family));
        line!(b, "create {cluster} hash:net family {kind}");
        line!(b, "add {} {}", t::src_set(family), t::visitor(family));
        line!(b, "add {} {}", t::dst_set(family), t::ext(family));
        for member in [
            NODE1.ip(family).to_string(),
            NODE2.ip(family).to_string(),
            t::cluster_cidr(family).to_owned(),
            t::service_cidr(family).to_owned(),
        ] {
            line!(b, "add {cluster} {member}");
        }
    }
    b
}

/// Sysctls which must stand before the devices are made, so that these inherit them.
pub(crate) fn sysctls(spec: &Spec, place: &str) -> Vec<(&'static str, &'static str)> {
    // No address detection: an IPv6 address is usable at once. No router of the lab advertises.
    let mut all = vec![
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/default/dad_transmits", "0"),
        ("ipv6/conf/default/accept_ra", "0"),
        ("ipv4/conf/all/rp_filter", if spec.strict && place != "ul" { "1" } else { "0" }),
        ("ipv4/conf/default/rp_filter", "0"),
        ("ipv4/ping_group_range", "0 2147483647"),
    ];
    let bridged = if spec.bridge_nf { "1" } else { "0" };
    match place {
        "node1" | "node2" => all.extend([
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv4/conf/default/rp_filter", "1"),
            ("bridge/bridge-nf-call-iptables", bridged),
            ("bridge/bridge-nf-call-ip6tables", bridged),
            ("netfilter/nf_conntrack_tcp_loose", "1"),
        ]),
        "ul" => all.extend([
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("bridge/bridge-nf-call-iptables", "0"),
            ("bridge/bridge-nf-call-ip6tables", "0"),
            ("bridge/bridge-nf-call-arptables", "0"),
        ]),
        _ => {}
    }
    all
}
