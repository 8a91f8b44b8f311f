// SPDX-License-Identifier: MIT OR Apache-2.0
//! Addresses that are not answered for, or not used.

use super::{Setup, iptables, macvlan_pod, routed_pod, run};

/// Setups of this kind.
pub const ADDRESSES: &[Setup] = &[
    Setup {
        name: "macvlan-parent",
        about: "a macvlan pod asks the host of its parent device, which macvlan never delivers to",
        ipv6: false,
        apply: |lab| {
            macvlan_pod(lab)?;
            lab.serve("kubelet", "node1", "http --listen 0.0.0.0:10250 --label node1")
        },
        client: ("podw", "172.16.25.11:10250"),
        packet: "--pod @podw --dst 172.16.25.11:10250",
        says: &[&["macvlan"]],
        never: &["start 172.16.25.11", "it is down"],
    },
    Setup {
        name: "proxy-arp-without-route",
        about: "the pod's gateway is answered for by proxy ARP, but the node has no route to it: the kernel does not answer",
        ipv6: false,
        apply: |lab| {
            routed_pod(lab, "podc", "cali1234", "10.201.0.5")?;
            iptables(lab, "node1", &["-t nat -A POSTROUTING -s 10.201.0.0/24 -j MASQUERADE"])?;
            run(lab, &[("node1", "ip route del default"), ("podc", "ip neigh flush dev eth0")])
        },
        client: ("podc", "172.16.25.183:80"),
        packet: "--pod @podc --dst 172.16.25.183:80",
        says: &[&["169.254.1.1"], &["proxy ARP", "proxy_arp"], &["route"]],
        never: &["wrong gateway"],
    },
    Setup {
        name: "duplicate-address-detection-failed",
        about: "the pod's own solicitation came back by its hairpin port: its address is not used",
        ipv6: true,
        apply: |lab| {
            lab.ns("visitor").sysctl(&[
                ("ipv6/conf/all/enhanced_dad", "0"),
                ("ipv6/conf/eth0/enhanced_dad", "0"),
                ("ipv6/conf/eth0/accept_dad", "1"),
                ("ipv6/conf/eth0/dad_transmits", "1"),
            ])?;
            run(
                lab,
                &[
                    ("node1", "bridge link set dev vethpod hairpin on"),
                    ("visitor", "ip -6 addr del fd00:200:1::22/64 dev eth0"),
                    ("visitor", "ip -6 addr add fd00:200:1::22/64 dev eth0"),
                    ("visitor", "ip -6 route replace default via fd00:200:1::1"),
                ],
            )?;
            // One solicitation, a second of waiting for an answer, and up to a second before.
            std::thread::sleep(std::time::Duration::from_millis(2500));
            Ok(())
        },
        client: ("visitor", "[fd00:172::183]:80"),
        packet: "--pod @visitor --dst [fd00:172::183]:80",
        says: &[&["fd00:200:1::22"], &["duplicate", "dadfailed"]],
        never: &["forwarding"],
    },
];
