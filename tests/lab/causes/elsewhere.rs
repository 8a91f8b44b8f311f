// SPDX-License-Identifier: MIT OR Apache-2.0
//! The catalogue's faults elsewhere: at the other node, on the way back, at the other tunnel, in other tables and chains,
//! and by the other back end. What is right was written before egwtrace was asked.

use super::variants::{EGW, POD2, PODB, lines};
use super::{Case, NODEPORT, SVC};
use crate::probe::Probe;

const RULE: &[&str] = &["dropped-by-rule"];
const POLICY: &[&str] = &["dropped-by-policy"];
const BLACKHOLE: &[&str] = &["route-blackhole"];
const NO_PEER: &[&str] = &["tunnel-peer-missing"];
const NO_NEIGHBOUR: &[&str] = &["tunnel-neighbour-missing"];

/// A line for the pod network's flow.
const fn pod2(
    name: &'static str,
    place_and_line: &'static [(&'static str, &'static str)],
    causes: &'static [&'static str],
) -> Case {
    lines(name, Probe::Pod2, POD2, place_and_line, causes).checked(causes).mends()
}

const fn egw(
    name: &'static str,
    place_and_line: &'static [(&'static str, &'static str)],
    causes: &'static [&'static str],
) -> Case {
    lines(name, Probe::Egw, EGW, place_and_line, causes).checked(causes).mends()
}

/// Tried by hand, and before a release.
pub const ELSEWHERE: &[Case] = &[
    // Rules and tables of routing.
    pod2(
        "blackhole-in-an-earlier-table",
        &[("node1", "ip rule add pref 50 lookup 77"), ("node1", "ip route add blackhole {pods2} table 77")],
        BLACKHOLE,
    ),
    pod2(
        "prohibited-by-source",
        &[("node1", "ip rule add pref 60 from {visitor} to {pods2} prohibit")],
        &["route-prohibit"],
    ),
    pod2(
        "unreachable-host-route",
        &[("node1", "ip route add unreachable {pod2}/32")],
        &["route-unreachable"],
    ),
    pod2("blackhole-at-the-other-node", &[("node2", "ip route add blackhole {pod2}/32")], BLACKHOLE),
    pod2(
        "route-missing-on-the-way-back",
        &[("node2", "ip route del 10.200.0.0/24")],
        &["pod-route-missing", "reverse-path-filter"],
    ),
    egw(
        "mark-led-to-main-before",
        &[("node1", "ip rule add pref 50 fwmark 0x26b7b4e4 lookup main")],
        &["fwmark-table-wrong", "route-preempted"],
    ),
    egw(
        "blackhole-in-the-marks-table",
        &[("node1", "ip route replace blackhole default table 649573604")],
        BLACKHOLE,
    ),
    // The other pod.
    pod2("no-route-in-the-other-pod", &[("pod2", "ip route del default")], &["no-route"]),
    pod2(
        "wrong-gateway-in-the-other-pod",
        &[("pod2", "ip route replace default via 10.200.1.254")],
        &["neighbour-silent"],
    )
    .waiting(3500),
    // Bridges.
    pod2(
        "port-out-of-the-other-bridge",
        &[("node2", "ip link set vethpod2 nomaster")],
        &["port-not-in-bridge"],
    )
    .waiting(3500),
    pod2(
        "port-blocked-at-the-other-node",
        &[("node2", "bridge link set dev vethpod2 state 0")],
        &["bridge-port-blocked"],
    )
    .waiting(3500),
    lines(
        "port-down-of-the-other-pod",
        Probe::Podb,
        PODB,
        &[("node1", "ip link set vethpodb down")],
        &["device-down", "neighbour-silent"],
    )
    .checked(&["device-down"])
    .waiting(3500),
    // The other tunnel, and the way back.
    pod2(
        "pod-tunnel-without-peer",
        &[("node1", "bridge fdb del 3a:b8:8c:00:00:02 dev flannel.1 dst {node2} self")],
        NO_PEER,
    ),
    pod2("pod-tunnel-without-neighbour", &[("node1", "ip neigh del 10.200.1.0 dev flannel.1")], NO_NEIGHBOUR),
    pod2(
        "pod-tunnel-without-peer-back",
        &[("node2", "bridge fdb del 3a:b8:8c:00:00:01 dev flannel.1 dst {node1} self")],
        NO_PEER,
    ),
    egw(
        "egress-tunnel-without-neighbour-back",
        &[("node2", "ip neigh del 192.200.142.89 dev egress.vxlan")],
        NO_NEIGHBOUR,
    ),
    egw(
        "egress-tunnel-without-peer-back",
        &[("node2", "bridge fdb del {mac1} dev egress.vxlan dst {node1} self")],
        NO_PEER,
    ),
    // Firewalls.
    pod2(
        "forward-policy-of-the-pods-node",
        &[("node1", "ipt -P FORWARD DROP"), ("node1", "ipt -F FLANNEL-FWD")],
        POLICY,
    ),
    egw(
        "input-policy-for-the-tunnel",
        &[
            ("node2", "ipt -P INPUT DROP"),
            ("node2", "ipt -A INPUT -p icmp -j ACCEPT"),
            ("node2", "ipt -A INPUT -p udp --dport 8472 -j ACCEPT"),
        ],
        POLICY,
    ),
    pod2("drop-by-the-other-back-end", &[("node1", "iptables-legacy -w -I FORWARD -d {pod2} -j DROP")], RULE),
    pod2(
        "raw-output-drops-the-tunnel",
        &[("node1", "ipt -t raw -I OUTPUT -p udp --dport 8472 -j DROP")],
        RULE,
    ),
    pod2(
        "nft-drop-by-device",
        &[
            ("node1", "nft add table inet fw"),
            ("node1", "nft add chain inet fw forward { type filter hook forward priority 20 ; }"),
            ("node1", "nft add rule inet fw forward oifname flannel.1 ip daddr {pod2} drop"),
        ],
        RULE,
    ),
    pod2("answers-dropped-by-the-pods-node", &[("node1", "ipt -I FORWARD -s {pod2} -j DROP")], RULE),
    pod2("answers-dropped-in-the-pod", &[("visitor", "ipt -I INPUT -s {pod2} -j DROP")], RULE),
    lines(
        "node-port-dropped-at-the-endpoint",
        Probe::Nodeport,
        NODEPORT,
        &[("node2", "ipt -I FORWARD -d {pod2} -p tcp --dport 80 -j DROP")],
        RULE,
    )
    .checked(RULE)
    .mends(),
    lines(
        "service-rejected-at-the-endpoint",
        Probe::Svc,
        SVC,
        &[("pod2", "ipt -I INPUT -p tcp --dport 80 -j REJECT")],
        &["rejected-by-rule"],
    )
    .checked(&["rejected-by-rule"])
    .mends(),
    // EgressGateway.
    egw(
        "masquerade-in-a-chain-before",
        &[
            ("node2", "ipt -t nat -N mine"),
            ("node2", "ipt -t nat -A mine -o eth0 -j MASQUERADE"),
            ("node2", "ipt -t nat -I POSTROUTING -j mine"),
        ],
        &["snat-to-another-address"],
    ),
    egw(
        "forwarding-of-the-tunnel",
        &[("node2", "sysctl -q -w net.ipv4.conf.egress/vxlan.forwarding=0")],
        &["forwarding-off"],
    ),
];
