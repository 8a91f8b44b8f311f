// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sizes, queues, sockets, programs on devices and what applications do; and noise that is healthy.

use super::variants::{BOTH, EACH, EGW, FOUR, POD2, SVC, lines};
use super::{Case, Watch};
use crate::probe::Probe;

const RULE: &[&str] = &["dropped-by-rule"];
const TOO_BIG: &[&str] = &["packet-too-big"];
const BLACK_HOLE: &[&str] = &["path-mtu-black-hole"];
const WAITS: &[&str] = &["waits-in-queue"];
const CLOSED: &[&str] = &["port-closed"];
const HAIRPIN: &str = "--pod @visitor --dst 10.96.100.101";

/// Tried by hand, and before a release.
pub const ENDS: &[Case] = &[
    // Sizes.
    lines(
        "mtu-of-route",
        Probe::UpPod2,
        POD2,
        &[("node1", "ip route change {pods2} via 10.200.1.0 dev flannel.1 onlink mtu lock 1100")],
        TOO_BIG,
    ),
    lines("mtu-of-far-bridge", Probe::UpPod2, POD2, &[("node2", "ip link set cni0 mtu 1200")], TOO_BIG),
    lines("mtu-of-gateway", Probe::Up, EGW, &[("node2", "ip link set eth0 mtu 1300")], TOO_BIG),
    lines("mtu-of-reply", Probe::Down, EGW, &[("node2", "ip link set egress.vxlan mtu 1200")], TOO_BIG),
    lines(
        "mtu-untold-in-pod",
        Probe::UpPod2,
        POD2,
        &[("node1", "ip link set flannel.1 mtu 1100"), ("visitor", "ipt -I INPUT -p icmp -j DROP")],
        BLACK_HOLE,
    )
    .of(FOUR, BOTH),
    lines(
        "mtu-untold-on-the-way",
        Probe::UpPod2,
        POD2,
        &[
            ("node2", "ip link set cni0 mtu 1100"),
            ("node1", "ipt -t raw -I PREROUTING -p icmp --icmp-type fragmentation-needed -j DROP"),
        ],
        BLACK_HOLE,
    )
    .of(FOUR, BOTH),
    lines(
        "mtu-untold-by-router",
        Probe::UpPod2,
        POD2,
        &[("node2", "ip link set cni0 mtu 1100"), ("node2", "ipt -I OUTPUT -p icmp -j DROP")],
        BLACK_HOLE,
    )
    .of(FOUR, BOTH),
    // Queues.
    lines(
        "queue-of-pod",
        Probe::UpPod2,
        POD2,
        &[("visitor", "tc qdisc add dev eth0 root tbf rate 2mbit burst 1600 limit 900000")],
        WAITS,
    )
    .waiting(900),
    lines(
        "queue-of-vxlan",
        Probe::UpPod2,
        POD2,
        &[
            // Whole segments: what a shaper cuts up itself cannot be followed through a tunnel.
            ("visitor", "ip link set dev eth0 gso_max_segs 1"),
            ("node1", "tc qdisc add dev flannel.1 root tbf rate 2mbit burst 1600 limit 900000"),
        ],
        WAITS,
    )
    .waiting(900),
    lines(
        "queue-of-far-pod",
        Probe::UpPod2,
        POD2,
        &[("node2", "tc qdisc add dev vethpod2 root tbf rate 2mbit burst 1600 limit 900000")],
        WAITS,
    )
    .waiting(900),
    lines(
        "queue-of-answers",
        Probe::Down,
        EGW,
        &[("node1", "tc qdisc add dev vethpod root tbf rate 2mbit burst 1600 limit 900000")],
        WAITS,
    )
    .waiting(900),
    lines(
        "queue-of-class",
        Probe::UpPod2,
        POD2,
        &[
            ("node1", "tc qdisc add dev eth0 root handle 1: htb default 10"),
            ("node1", "tc class add dev eth0 parent 1: classid 1:10 htb rate 2mbit ceil 2mbit"),
        ],
        WAITS,
    )
    .waiting(900),
    // Some packets.
    lines(
        "loss-by-chance",
        Probe::UpPod2,
        POD2,
        &[("node2", "ipt -I FORWARD -d {pod2} -m statistic --mode random --probability 0.2 -j DROP")],
        RULE,
    )
    .of(EACH, BOTH),
    lines(
        "loss-of-answers",
        Probe::UpPod2,
        POD2,
        &[("node2", "ipt -I FORWARD -s {pod2} -m statistic --mode nth --every 4 --packet 1 -j DROP")],
        RULE,
    )
    .of(FOUR, BOTH),
    lines(
        "loss-by-number",
        Probe::UpPod2,
        POD2,
        &[
            ("node1", "nft add table inet fw"),
            ("node1", "nft add chain inet fw forward { type filter hook forward priority 3 ; }"),
            ("node1", "nft add rule inet fw forward {nftip} daddr {pod2} numgen random mod 10 < 2 drop"),
        ],
        RULE,
    ),
    lines(
        "loss-and-size",
        Probe::UpPod2,
        POD2,
        &[
            ("node1", "ip link set flannel.1 mtu 1100"),
            ("node2", "ipt -I FORWARD -s {pod2} -m statistic --mode nth --every 4 --packet 1 -j DROP"),
        ],
        &["dropped-by-rule", "packet-too-big"],
    )
    .all(),
    lines(
        "loss-and-closed",
        Probe::Closed,
        POD2,
        &[("node2", "ipt -I FORWARD -d {pod2} -p tcp -m statistic --mode nth --every 2 --packet 0 -j DROP")],
        &["dropped-by-rule", "port-closed"],
    )
    .all(),
    // Sockets.
    lines(
        "listens-on-loopback",
        Probe::Closed,
        POD2,
        &[("pod2", "serve http --listen 127.0.0.1:81")],
        CLOSED,
    ),
    lines(
        "listens-on-other-address",
        Probe::Closed,
        POD2,
        &[("pod2", "ip addr add 10.99.0.7/32 dev lo"), ("pod2", "serve http --listen 10.99.0.7:81")],
        CLOSED,
    ),
    lines("listens-for-ipv6", Probe::Closed, POD2, &[("pod2", "serve http --listen [::1]:81")], CLOSED),
    lines(
        "source-ports",
        Probe::ManyEgw,
        EGW,
        &[("visitor", "sh -c echo${IFS}40000${IFS}40003>/proc/sys/net/ipv4/ip_local_port_range")],
        &["source-ports-used-up"],
    ),
    lines(
        "pings-ignored",
        Probe::PingPod2,
        POD2,
        &[("pod2", "sysctl -q -w net.ipv4.icmp_echo_ignore_all=1")],
        &["pings-ignored"],
    )
    .waiting(1500),
    // Applications.
    lines(
        "slow-server",
        Probe::Closed,
        POD2,
        &[("pod2", "serve slow --listen 0.0.0.0:81")],
        &["slow-application"],
    ),
    lines(
        "slow-server-one-node",
        Probe::ExtClosed,
        EGW,
        &[("ext", "serve slow --listen 0.0.0.0:81")],
        &["slow-application"],
    )
    .on(Watch::Node1),
    lines(
        "deaf-server",
        Probe::UpPod2,
        POD2,
        &[("pod2", "stop http-pod2"), ("pod2", "serve deaf --listen 0.0.0.0:80")],
        &["receiver-does-not-read"],
    ),
    // A pod that asks for itself.
    lines(
        "hairpin-off",
        Probe::SvcLocal,
        HAIRPIN,
        &[(
            "node1",
            "ipt -t nat -I KUBE-SERVICES -d 10.96.100.101 -p tcp -j DNAT --to-destination {visitor}:80",
        )],
        &["hairpin-off"],
    )
    .of(FOUR, BOTH),
    lines(
        "hairpin-off-masqueraded",
        Probe::SvcLocal,
        HAIRPIN,
        &[
            (
                "node1",
                "ipt -t nat -I KUBE-SERVICES -d 10.96.100.101 -p tcp -j DNAT --to-destination {visitor}:80",
            ),
            ("node1", "ipt -t nat -I POSTROUTING -s {visitor} -d {visitor} -j MASQUERADE"),
            ("visitor", "serve http --listen 0.0.0.0:80"),
        ],
        &["hairpin-off"],
    )
    .of(FOUR, BOTH),
    lines(
        "hairpin-unmasqueraded",
        Probe::SvcLocal,
        HAIRPIN,
        &[
            (
                "node1",
                "ipt -t nat -I KUBE-SERVICES -d 10.96.100.101 -p tcp -j DNAT --to-destination {visitor}:80",
            ),
            ("node1", "bridge link set dev vethpod hairpin on"),
        ],
        &["hairpin-not-masqueraded"],
    )
    .of(FOUR, BOTH),
    // What stands at devices.
    lines(
        "tc-redirects",
        Probe::Pod2,
        POD2,
        &[
            ("node2", "ip link add elsewhere type bridge"),
            ("node2", "ip link set elsewhere up"),
            ("node2", "tc qdisc add dev flannel.1 clsact"),
            (
                "node2",
                "tc filter add dev flannel.1 ingress protocol ip u32 match ip dport 80 0xffff action mirred egress redirect dev elsewhere",
            ),
        ],
        &["dropped-by-program"],
    ),
    lines(
        "loopback-not-routed",
        Probe::Pod2,
        POD2,
        &[(
            "node1",
            "ipt -t nat -I PREROUTING -s {visitor} -d {pod2} -p tcp -j DNAT --to-destination 127.0.0.1:80",
        )],
        &["dropped-in-kernel", "translated-astray"],
    ),
    // Healthy.
    lines("healthy-noise", Probe::Noise, "--pod @visitor", &[], &[]).waiting(2000),
    lines(
        "healthy-clamped",
        Probe::UpPod2,
        POD2,
        &[
            ("node1", "ip link set flannel.1 mtu 1100"),
            (
                "node1",
                "ipt -t mangle -A FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu",
            ),
        ],
        &[],
    )
    .of(FOUR, BOTH),
    lines("healthy-fragments", Probe::PingBig, EGW, &[], &[]).waiting(1500),
    lines(
        "healthy-shaped",
        Probe::Pod2,
        POD2,
        &[("node1", "tc qdisc add dev eth0 root tbf rate 1gbit burst 100000 limit 900000")],
        &[],
    ),
    lines(
        "healthy-service-many",
        Probe::Svc,
        SVC,
        &[
            ("node1", "ipt -I FORWARD -m conntrack --ctstate INVALID -j DROP"),
            ("node2", "ipt -I FORWARD -m conntrack --ctstate INVALID -j DROP"),
        ],
        &[],
    )
    .of(EACH, BOTH),
];
