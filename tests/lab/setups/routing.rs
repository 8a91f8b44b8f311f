// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rules, routes and addresses of another agent that take a path over.

use super::{Setup, iptables, run, second_network, vpn};
use crate::Lab;

/// What wg-quick does for `AllowedIPs = 0.0.0.0/0`.
pub(super) const DEFAULT_BY_VPN: &[(&str, &str)] = &[
    ("node1", "ip route add default dev wg0 table 51820"),
    ("node1", "ip rule add pref 32765 not fwmark 51820 table 51820"),
    ("node1", "ip rule add pref 32764 table main suppress_prefixlength 0"),
];

/// An address of `ext` beyond the router, which no table knows but by the default route.
fn far_address(lab: &Lab) -> anyhow::Result<()> {
    run(
        lab,
        &[
            ("ext", "ip addr add 198.51.100.77/32 dev lo"),
            ("ul", "ip route add 198.51.100.77 via 172.16.25.183"),
        ],
    )
}

/// Setups of this kind.
pub const ROUTING: &[Setup] = &[
    Setup {
        name: "rule-takes-own-network",
        about: "a VPN's table, asked before main, has the network of the node's own NIC: the tunnel's packets go by the VPN",
        ipv6: false,
        apply: |lab| {
            vpn(lab, "tailscale0", "100.64.0.11/32", 1280)?;
            run(
                lab,
                &[
                    ("node1", "ip rule add pref 5210 fwmark 0x80000/0xff0000 lookup main"),
                    ("node1", "ip rule add pref 5270 lookup 52"),
                    ("node1", "ip route add 172.16.25.0/24 dev tailscale0 table 52"),
                ],
            )
        },
        client: ("visitor", "172.16.25.183:80"),
        packet: "--pod @visitor --dst 172.16.25.183:80",
        says: &[&["tailscale0"], &["table 52", "5270"]],
        never: &["MTU", "does not answer"],
    },
    Setup {
        name: "default-by-vpn",
        about: "a rule sends all that main knows by its default route only into a VPN",
        ipv6: false,
        apply: |lab| {
            vpn(lab, "wg0", "10.77.0.2/32", 1420)?;
            far_address(lab)?;
            run(lab, DEFAULT_BY_VPN)
        },
        client: ("visitor", "198.51.100.77:80"),
        packet: "--pod @visitor --dst 198.51.100.77:80",
        says: &[&["wg0"], &["51820", "32765"]],
        never: &["MTU", "in that pod"],
    },
    Setup {
        name: "bridge-without-ports-takes-network",
        about: "a bridge without ports has the network in which the destination is, beyond the router",
        ipv6: false,
        apply: |lab| {
            run(
                lab,
                &[
                    ("ext", "ip addr add 172.17.15.220/32 dev lo"),
                    ("ul", "ip route add 172.17.0.0/16 via 172.16.25.183"),
                    ("node1", "ip link add docker0 type bridge"),
                    ("node1", "ip addr add 172.17.0.1/16 dev docker0"),
                    ("node1", "ip link set docker0 up"),
                ],
            )
        },
        client: ("visitor", "172.17.15.220:80"),
        packet: "--pod @visitor --dst 172.17.15.220:80",
        says: &[&["docker0"], &["172.17.0.0/16", "no port", "overlap"]],
        never: &["start 172.17.15.220", "translated to"],
    },
    Setup {
        name: "tunnel-lost-address",
        about: "flannel.1 lost its address, and with it its routes: service traffic for the other node goes to the router",
        ipv6: false,
        apply: |lab| run(lab, &[("node1", "ip addr flush dev flannel.1")]),
        client: ("ext", "172.16.25.11:30897"),
        packet: "--src 172.16.25.183 --dst 172.16.25.11:30897",
        says: &[&["10.200.1.0/24", "10.200.1.22"], &["flannel.1"]],
        never: &["look on 172.16.25.1 "],
    },
    Setup {
        name: "connmark-before-dnat",
        about: "a connection mark for what leaves the cluster is put on service traffic too, before DNAT: the wrong table, the wrong NIC",
        ipv6: false,
        apply: |lab| {
            second_network(lab)?;
            lab.ns("ul").sysctl(&[("ipv4/conf/br0/rp_filter", "1"), ("ipv4/conf/br1/rp_filter", "1")])?;
            run(
                lab,
                &[
                    ("node1", "ip route add default via 10.9.0.1 dev eth1 table 2"),
                    ("node1", "ip rule add pref 1536 from 10.200.0.23 lookup 2"),
                    ("node1", "ip rule add pref 1024 fwmark 0x80/0x80 lookup main"),
                    ("ul", "ip route add 10.200.0.23/32 via 10.9.0.11"),
                    // The network lets the pod's address in by its own NIC only.
                    ("ul", "nft add table bridge sg"),
                    ("ul", "nft add chain bridge sg f { type filter hook forward priority 0 ; }"),
                    ("ul", "nft add chain bridge sg i { type filter hook input priority 0 ; }"),
                    ("ul", "nft add rule bridge sg f iifname p-node1 ip saddr 10.200.0.23 drop"),
                    ("ul", "nft add rule bridge sg i iifname p-node1 ip saddr 10.200.0.23 drop"),
                ],
            )?;
            iptables(
                lab,
                "node1",
                &[
                    "-t nat -I FLANNEL-POSTRTG -s 10.200.0.0/16 -d 172.16.25.0/24 -j RETURN",
                    "-t nat -A KUBE-SERVICES -d 10.96.100.150 -p tcp --dport 80 -j DNAT --to-destination 172.16.25.183:80",
                    "-t nat -N AWS-CONNMARK-CHAIN-0",
                    "-t nat -A AWS-CONNMARK-CHAIN-0 -d 172.16.25.0/24 -j RETURN",
                    "-t nat -A AWS-CONNMARK-CHAIN-0 -j CONNMARK --set-xmark 0x80/0x80",
                    "-t nat -I PREROUTING -i cni0 -j CONNMARK --restore-mark --mask 0x80",
                    "-t mangle -A PREROUTING -i cni0 -j CONNMARK --restore-mark --mask 0x80",
                    "-t nat -I PREROUTING -i cni0 -m state --state NEW -j AWS-CONNMARK-CHAIN-0",
                ],
            )
        },
        client: ("podb", "10.96.100.150:80"),
        packet: "--pod @podb --dst 10.96.100.150:80",
        says: &[&["AWS-CONNMARK-CHAIN-0", "0x80"], &["eth1", "1536", "table 2"]],
        never: &["masquerade it"],
    },
    Setup {
        name: "redirect-outlives-router",
        about: "a next hop learned by an ICMP redirect, which is in no table, no longer forwards",
        ipv6: false,
        apply: |lab| {
            let (old, ul) = (lab.extra("oldgw")?, lab.ns("ul"));
            lab.batch(
                "ul",
                &format!(
                    "link add p-old type veth peer name eth0 netns {}\nlink set p-old master br0 up\n",
                    old.name()
                ),
            )?;
            lab.batch(
                "oldgw",
                "link set eth0 up\naddr add 172.16.25.99/24 dev eth0\nroute add default via 172.16.25.183\n",
            )?;
            old.sysctl(&[
                ("ipv4/ip_forward", "1"),
                ("ipv4/conf/all/send_redirects", "0"),
                ("ipv4/conf/eth0/send_redirects", "0"),
                ("ipv4/conf/all/rp_filter", "0"),
                ("ipv4/conf/eth0/rp_filter", "0"),
            ])?;
            lab.ns("node1").sysctl(&[
                ("ipv4/conf/all/accept_redirects", "1"),
                ("ipv4/conf/eth0/accept_redirects", "1"),
                ("ipv4/conf/all/secure_redirects", "0"),
                ("ipv4/conf/eth0/secure_redirects", "0"),
            ])?;
            far_address(lab)?;
            ul.sh("ip route replace 198.51.100.77 via 172.16.25.99")?;
            // The first goes by the router, which tells of the shorter way.
            lab.sh("node1", "ping -c 3 -i 0.3 -W 1 198.51.100.77")?;
            let route = lab.sh("node1", "ip route get 198.51.100.77")?;
            anyhow::ensure!(route.contains("172.16.25.99"), "no redirect was taken: {route}");
            ul.sh("ip route replace 198.51.100.77 via 172.16.25.183")?;
            old.sysctl(&[("ipv4/ip_forward", "0")])
        },
        client: ("visitor", "198.51.100.77:80"),
        packet: "--pod @visitor --dst 198.51.100.77:80",
        says: &[&["172.16.25.99"], &["redirect"]],
        never: &["does not answer"],
    },
];
