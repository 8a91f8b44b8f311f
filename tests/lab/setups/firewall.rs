// SPDX-License-Identifier: MIT OR Apache-2.0
//! What drops a packet, and is not the rule one looks at.

use super::{Setup, iptables, run};
use crate::topology::Family;

/// Setups of this kind.
pub const FIREWALL: &[Setup] = &[
    Setup {
        name: "rpfilter-match-drops",
        about: "a chain drops what fails the rpfilter match: the egress tunnel is not the way back to the pod",
        ipv6: false,
        apply: |lab| {
            iptables(
                lab,
                "node2",
                &[
                    "-t mangle -N nixos-fw-rpfilter",
                    "-t mangle -A nixos-fw-rpfilter -m rpfilter --validmark -j RETURN",
                    "-t mangle -A nixos-fw-rpfilter -p udp -m udp --sport 67 --dport 68 -j RETURN",
                    "-t mangle -A nixos-fw-rpfilter -j DROP",
                    "-t mangle -I PREROUTING 1 -j nixos-fw-rpfilter",
                ],
            )
        },
        client: ("visitor", "172.16.25.183:80"),
        packet: "--pod @visitor --dst 172.16.25.183:80",
        says: &[&["nixos-fw-rpfilter"], &["rpfilter", "reverse path"], &["flannel.1", "--loose"]],
        never: &["net.ipv4.conf"],
    },
    Setup {
        name: "ipsec-policy-asks-for-esp",
        about: "an IPsec policy asks for ESP, the packet comes in clear",
        ipv6: false,
        apply: |lab| {
            run(
                lab,
                &[(
                    "node2",
                    "ip xfrm policy add src 10.200.0.0/24 dst 10.200.1.0/24 dir fwd priority 100 \
                     tmpl src 172.16.25.11 dst 172.16.25.12 proto esp reqid 11 mode tunnel",
                )],
            )
        },
        client: ("visitor", "10.200.1.22:80"),
        packet: "--pod @visitor --dst 10.200.1.22:80",
        says: &[&["IPsec", "xfrm"], &["10.200.1.0/24"]],
        never: &["no-answer"],
    },
    Setup {
        name: "isolation-drops-solicitations",
        about: "a network's isolation drops neighbour solicitations: their group is outside of its prefix",
        ipv6: true,
        apply: |lab| {
            for line in [
                "-N DOCKER-ISOLATION-STAGE-1",
                "-A DOCKER-ISOLATION-STAGE-1 -i cni0 ! -d fd00:200:1::/64 -j DROP",
                "-A DOCKER-ISOLATION-STAGE-1 -o cni0 ! -s fd00:200:1::/64 -j DROP",
                "-I FORWARD -j DOCKER-ISOLATION-STAGE-1",
            ] {
                lab.iptables("node1", Family::V6, line)?;
            }
            run(lab, &[("visitor", "ip -6 neigh flush dev eth0"), ("podb", "ip -6 neigh flush dev eth0")])
        },
        client: ("visitor", "[fd00:200:1::23]:80"),
        packet: "--pod @visitor --dst [fd00:200:1::23]:80",
        says: &[&["DOCKER-ISOLATION-STAGE-1"], &["solicitation", "ICMPv6"]],
        never: &["it is down"],
    },
    Setup {
        name: "multicast-not-flooded",
        about: "the bridge does not flood multicast to the pod's port and knows no listener there: solicitations do not reach it",
        ipv6: true,
        apply: |lab| {
            run(
                lab,
                &[
                    ("node1", "bridge link set dev vethpodb mcast_flood off"),
                    ("visitor", "ip -6 neigh flush dev eth0"),
                    ("podb", "ip -6 neigh flush dev eth0"),
                ],
            )
        },
        client: ("visitor", "[fd00:200:1::23]:80"),
        packet: "--pod @visitor --dst [fd00:200:1::23]:80",
        says: &[&["vethpodb"], &["multicast", "mcast_flood"]],
        never: &["it is down"],
    },
];
