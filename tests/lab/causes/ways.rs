// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ways, neighbours, addresses and translations that are wrong: as many kinds of evidence as there are, at other
//! devices and tables than the catalogue's, and from one node only.

use super::variants::{BOTH, EACH, EGW, EGW2, FOUR, NFT, POD2, PODB, lines};
use super::{Case, Watch};
use crate::probe::Probe;

const ASTRAY: &[&str] = &["translated-astray"];
const WRONG_ROUTE: &[&str] = &["wrong-route"];
const DUPLICATE: &[&str] = &["duplicate-address"];
const OTHER_HOST: &[&str] = &["frame-for-another-host"];
const LOOP: &[&str] = &["routing-loop"];

/// Tried by hand, and before a release.
pub const WAYS: &[Case] = &[
    // Translations.
    lines(
        "dnat-to-another-port",
        Probe::Egw,
        EGW,
        &[("node1", "ipt -t nat -I PREROUTING -d {ext} -p tcp --dport 80 -j DNAT --to-destination :81")],
        ASTRAY,
    )
    .of(EACH, BOTH),
    lines(
        "dnat-to-a-pod",
        Probe::Egw,
        EGW,
        &[(
            "node1",
            "iptables -w -t nat -I PREROUTING -d {ext} -p tcp --dport 80 -j DNAT --to-destination 10.200.0.23:81",
        )],
        ASTRAY,
    ),
    lines(
        "dnat-to-nobody",
        Probe::Pod2,
        POD2,
        &[(
            "node1",
            "iptables -w -t nat -I PREROUTING -d {pod2} -p tcp -j DNAT --to-destination 10.200.1.99:80",
        )],
        ASTRAY,
    )
    .waiting(3500),
    lines(
        "dnat-at-the-gateway",
        Probe::Egw,
        EGW,
        &[(
            "node2",
            "iptables -w -t nat -I PREROUTING -i egress.vxlan -p tcp -j DNAT --to-destination 172.16.25.99",
        )],
        ASTRAY,
    )
    .waiting(3500),
    lines(
        "dnat-in-the-pod",
        Probe::Pod2,
        POD2,
        &[(
            "visitor",
            "iptables -w -t nat -I OUTPUT -d {pod2} -p tcp -j DNAT --to-destination 10.200.0.99:80",
        )],
        ASTRAY,
    )
    .waiting(3500),
    lines(
        "dnat-nft",
        Probe::Pod2,
        POD2,
        &[
            ("node1", "nft add table {nftip} detour"),
            ("node1", "nft add chain {nftip} detour pre { type nat hook prerouting priority -110 ; }"),
            (
                "node1",
                "nft add rule {nftip} detour pre {nftip} daddr {pod2} tcp dport 80 dnat to 10.200.1.99",
            ),
        ],
        ASTRAY,
    )
    .waiting(3500),
    lines(
        "snat-in-the-overlay",
        Probe::Pod2,
        POD2,
        &[("node1", "iptables -w -t nat -I POSTROUTING -o flannel.1 -j SNAT --to-source 203.0.113.9")],
        ASTRAY,
    ),
    lines(
        "snat-to-nobody",
        Probe::Egw,
        EGW,
        &[("node2", "iptables -w -t nat -I POSTROUTING -d {ext} -p tcp -j SNAT --to-source 203.0.113.9")],
        &["snat-to-another-address"],
    )
    .waiting(2500),
    // Rules and routes of the pod: nothing is ever sent.
    lines(
        "pod-uid-unreachable",
        Probe::Pod2,
        POD2,
        &[
            ("visitor", "{ip} rule add uidrange 0-0 lookup 77 pref 10"),
            ("visitor", "{ip} route add unreachable default table 77"),
        ],
        &["route-unreachable"],
    )
    .of(EACH, NFT)
    .waiting(2300),
    lines(
        "pod-prohibit",
        Probe::Pod2,
        POD2,
        &[("visitor", "{ip} rule add to {pods2} prohibit pref 10")],
        &["route-prohibit"],
    )
    .of(EACH, NFT)
    .waiting(1200),
    lines(
        "pod-blackhole",
        Probe::Pod2,
        POD2,
        &[("visitor", "{ip} route add blackhole {pods2}")],
        &["route-blackhole"],
    )
    .of(EACH, NFT)
    .waiting(1200),
    lines(
        "pod-into-itself",
        Probe::Pod2,
        POD2,
        &[("visitor", "ip route replace default dev lo")],
        WRONG_ROUTE,
    ),
    lines("pod-device-down", Probe::Pod2, POD2, &[("visitor", "ip link set eth0 down")], &["device-down"])
        .waiting(1200),
    lines("pod-on-link", Probe::Pod2, POD2, &[("visitor", "{ip} route add {pods2} dev eth0")], WRONG_ROUTE)
        .of(EACH, NFT)
        .waiting(3500),
    lines(
        "pod-other-source",
        Probe::Pod2,
        POD2,
        &[
            ("visitor", "ip addr add 10.66.0.1/32 dev lo"),
            ("visitor", "ip route add 10.200.1.0/24 via 10.200.0.1 src 10.66.0.1"),
        ],
        &["reverse-path-filter"],
    )
    .waiting(3500),
    // Routes of nodes.
    lines(
        "node-on-link",
        Probe::Pod2,
        POD2,
        &[("node1", "{ip} route del {pods2}"), ("node1", "{ip} route add {pods2} dev cni0")],
        WRONG_ROUTE,
    )
    .of(EACH, NFT)
    .waiting(3500),
    lines(
        "more-precise-route",
        Probe::Pod2,
        POD2,
        &[("node1", "ip route add {pod2} via 172.16.25.1")],
        WRONG_ROUTE,
    )
    .waiting(1500),
    lines(
        "lower-metric",
        Probe::Pod2,
        POD2,
        &[
            ("node1", "ip route del {pods2}"),
            ("node1", "ip route add {pods2} via 10.200.1.0 dev flannel.1 onlink metric 100"),
            ("node1", "ip route add {pods2} via 172.16.25.1 metric 10"),
        ],
        WRONG_ROUTE,
    )
    .waiting(1500),
    lines(
        "earlier-table",
        Probe::Pod2,
        POD2,
        &[
            ("node1", "ip rule add from {visitor} lookup 55 pref 10"),
            ("node1", "ip route add default via 172.16.25.1 table 55"),
        ],
        &["wrong-route", "route-preempted"],
    )
    .waiting(1500),
    lines(
        "way-back-elsewhere",
        Probe::Pod2,
        POD2,
        &[("node2", "ip route add {visitor} via 172.16.25.1")],
        WRONG_ROUTE,
    ),
    lines(
        "way-back-blackhole",
        Probe::Pod2,
        POD2,
        &[("node2", "ip route add blackhole {visitor}")],
        &["route-blackhole"],
    ),
    lines(
        "own-network-elsewhere",
        Probe::Pod2,
        POD2,
        &[("node2", "ip route replace {pods2} via 172.16.25.1")],
        WRONG_ROUTE,
    )
    .waiting(1500),
    lines(
        "rule-blackhole",
        Probe::Egw,
        EGW,
        &[("node1", "{ip} rule add pref 5 fwmark 0x26b7b4e4 blackhole")],
        &["route-blackhole"],
    )
    .of(EACH, NFT),
    lines(
        "nexthop-blackhole",
        Probe::Pod2,
        POD2,
        &[("node1", "ip nexthop add id 5 blackhole"), ("node1", "ip route replace {pods2} nhid 5")],
        &["route-blackhole"],
    ),
    lines(
        "throw",
        Probe::Pod2,
        POD2,
        &[
            ("node1", "ip rule add pref 10 lookup 55"),
            ("node1", "ip route add throw {pods2} table 55"),
            ("node1", "ip route del {pods2}"),
        ],
        &["pod-route-missing"],
    )
    .waiting(1500),
    lines(
        "flannel-down-here",
        Probe::Pod2,
        POD2,
        &[("node1", "ip link set flannel.1 down")],
        &["pod-route-missing"],
    )
    .waiting(1500),
    // Loops.
    lines(
        "loop-between-nodes",
        Probe::Egw2,
        EGW2,
        &[
            ("node1", "ip route replace 198.51.100.0/24 via 172.16.25.12"),
            ("node2", "ip route add 198.51.100.0/24 via 172.16.25.11"),
            ("node1", "ipset flush {src}"),
            ("node1", "sysctl -qw net.ipv4.conf.eth0.rp_filter=0"),
            ("node2", "sysctl -qw net.ipv4.conf.eth0.rp_filter=0"),
        ],
        LOOP,
    ),
    lines(
        "loop-in-the-overlay",
        Probe::Pod2,
        POD2,
        &[
            ("node2", "ip route del {pods2}"),
            ("node2", "ip route add {pods2} via 10.200.0.0 dev flannel.1 onlink"),
            ("node2", "sysctl -qw net.ipv4.conf.flannel/1.rp_filter=0"),
            ("node1", "sysctl -qw net.ipv4.conf.flannel/1.rp_filter=0"),
        ],
        LOOP,
    ),
    lines(
        "loop-in-the-overlay-one-node",
        Probe::Pod2,
        POD2,
        &[
            ("node2", "ip route del {pods2}"),
            ("node2", "ip route add {pods2} via 10.200.0.0 dev flannel.1 onlink"),
            ("node2", "sysctl -qw net.ipv4.conf.flannel/1.rp_filter=0"),
            ("node1", "sysctl -qw net.ipv4.conf.flannel/1.rp_filter=0"),
        ],
        LOOP,
    )
    .on(Watch::Node1),
    lines(
        "loop-beyond",
        Probe::Egw2,
        EGW2,
        &[("ul", "ip route replace 198.51.100.10 via 172.16.25.12"), ("node1", "ipset flush {src}")],
        LOOP,
    )
    .on(Watch::Node1)
    .waiting(1500),
    // Addresses that two have.
    lines(
        "pod-address-on-the-other-node",
        Probe::Pod2,
        POD2,
        &[("node2", "ip addr add {visitor}/32 dev lo")],
        DUPLICATE,
    ),
    lines(
        "pod-address-on-its-node",
        Probe::Pod2,
        POD2,
        &[("node1", "ip addr add {visitor}/32 dev lo")],
        DUPLICATE,
    )
    .waiting(3500),
    lines(
        "destination-on-the-node",
        Probe::Podb,
        PODB,
        &[("node1", "ip addr add {podb}/32 dev lo")],
        DUPLICATE,
    ),
    lines(
        "node-address-twice",
        Probe::Pod2,
        POD2,
        &[("ext", "ip addr add 172.16.25.12/24 dev eth0"), ("node1", "ip neigh flush dev eth0")],
        &["duplicate-address", "frame-for-another-host"],
    )
    .waiting(2500),
    // MACs.
    lines(
        "node-wrong-mac",
        Probe::Pod2,
        POD2,
        &[("node1", "ip neigh replace {node2} lladdr 02:00:00:00:00:99 dev eth0 nud permanent")],
        OTHER_HOST,
    ),
    lines(
        "pod-wrong-mac",
        Probe::Podb,
        PODB,
        &[("visitor", "ip neigh replace {podb} lladdr 02:00:00:00:00:99 dev eth0 nud permanent")],
        OTHER_HOST,
    )
    .of(EACH, NFT)
    .waiting(1500),
    lines(
        "written-mac",
        Probe::Egw,
        EGW,
        &[("node2", "ip neigh replace {ext} lladdr 02:00:00:00:00:99 dev eth0 nud permanent")],
        OTHER_HOST,
    )
    .of(EACH, NFT)
    .waiting(1500),
    lines("arp-off", Probe::Podb, PODB, &[("podb", "ip link set eth0 arp off")], &["neighbour-silent"])
        .waiting(3500),
    lines(
        "arp-ignored",
        Probe::Podb,
        PODB,
        &[("podb", "sysctl -qw net.ipv4.conf.eth0.arp_ignore=8")],
        &["neighbour-silent"],
    )
    .waiting(3500),
    lines(
        "isolated-ports",
        Probe::Podb,
        PODB,
        &[
            ("node1", "bridge link set dev vethpod isolated on"),
            ("node1", "bridge link set dev vethpodb isolated on"),
        ],
        &["bridge-port-blocked"],
    )
    .of(EACH, NFT)
    .waiting(3500),
    lines(
        "port-disabled",
        Probe::Podb,
        PODB,
        &[("node1", "bridge link set dev vethpodb state 0")],
        &["bridge-port-blocked"],
    )
    .waiting(3500),
    // Tunnels.
    lines(
        "answer-to-the-wrong-node",
        Probe::Egw,
        EGW,
        &[("node2", "bridge fdb replace {mac1} dev egress.vxlan dst 172.16.25.183 self permanent")],
        &["tunnel-peer-wrong"],
    )
    .of(EACH, NFT)
    .waiting(1500),
    // EgressGateway: the answer.
    lines(
        "answer-without-rule",
        Probe::Egw,
        EGW,
        &[("node2", "{ip} rule del pref 99")],
        &["fwmark-without-rule"],
    )
    .of(EACH, NFT)
    .waiting(1500),
    lines(
        "answer-table-empty",
        Probe::Egw,
        EGW,
        &[("node2", "ip route flush table 647556663")],
        &["fwmark-table-empty"],
    ),
    lines(
        "answer-unmarked",
        Probe::Egw,
        EGW,
        &[("node2", "ipt -t mangle -F EGRESSGATEWAY-REPLY-ROUTING")],
        &["egress-reply-not-marked"],
    )
    .of(FOUR, BOTH)
    .waiting(1500),
    lines(
        "answer-unmarked-gateway",
        Probe::Egw,
        EGW,
        &[("node2", "ipt -t mangle -F EGRESSGATEWAY-REPLY-ROUTING")],
        &["egress-reply-not-marked"],
    )
    .on(Watch::Node2)
    .waiting(1500),
    lines(
        "answer-unmarked-pods-node",
        Probe::Egw,
        EGW,
        &[("node2", "ipt -t mangle -F EGRESSGATEWAY-REPLY-ROUTING")],
        &["egress-reply-not-marked"],
    )
    .on(Watch::Node1)
    .waiting(1500),
    lines(
        "mark-to-another-table",
        Probe::Egw,
        EGW,
        &[
            ("node1", "ip rule del pref 99"),
            ("node1", "ip rule add pref 99 fwmark 0x26b7b4e4 lookup 100"),
            ("node1", "ip route add default via 172.16.25.1 table 100"),
        ],
        &["fwmark-table-wrong"],
    ),
    lines(
        "table-leads-out",
        Probe::Egw,
        EGW,
        &[("node1", "ip route replace default via 172.16.25.1 dev eth0 table 649573604")],
        &["fwmark-table-wrong"],
    ),
    // Other families of nft.
    lines(
        "bridge-family",
        Probe::Podb,
        PODB,
        &[
            ("node1", "nft add table bridge fw"),
            ("node1", "nft add chain bridge fw f { type filter hook forward priority 0 ; }"),
            ("node1", "nft add rule bridge fw f ip daddr {podb} drop"),
        ],
        &["dropped-by-rule"],
    ),
    lines(
        "netdev-family",
        Probe::Pod2,
        POD2,
        &[
            ("node2", "nft add table netdev fw"),
            ("node2", "nft add chain netdev fw i { type filter hook ingress device eth0 priority 0 ; }"),
            ("node2", "nft add rule netdev fw i udp dport 8472 drop"),
        ],
        &["dropped-by-rule"],
    ),
    // Healthy.
    lines(
        "healthy-dnat",
        Probe::Egw,
        EGW,
        &[(
            "node2",
            "iptables -w -t nat -I PREROUTING -i egress.vxlan -p tcp --dport 80 -j DNAT --to-destination {pod2}",
        )],
        &[],
    ),
    lines(
        "healthy-snat",
        Probe::Podb,
        PODB,
        &[("node1", "iptables -w -t nat -I POSTROUTING -o cni0 -j SNAT --to-source 203.0.113.9")],
        &[],
    ),
    lines(
        "healthy-uid-rule",
        Probe::Pod2,
        POD2,
        &[
            ("visitor", "{ip} rule add uidrange 4000-4000 lookup 77 pref 10"),
            ("visitor", "{ip} route add unreachable default table 77"),
        ],
        &[],
    )
    .of(EACH, NFT)
    .waiting(1200),
    lines(
        "healthy-other-route",
        Probe::Egw2,
        EGW2,
        &[("node1", "ip route add 198.51.100.0/25 via 172.16.25.1")],
        &[],
    )
    .waiting(1200),
];
