// SPDX-License-Identifier: MIT OR Apache-2.0
//! Translations that lead to the wrong place, or are missing.

use super::{Setup, iptables};
use crate::{
    client,
    topology::{self as t, Family},
};

/// The mapped port 8126, first to a pod that is gone and then to one that lives.
const STALE: &str = "*nat
:CNI-HOSTPORT-DNAT - [0:0]
:CNI-DN-old - [0:0]
:CNI-DN-new - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A CNI-HOSTPORT-DNAT -p tcp -m multiport --dports 8126 -j CNI-DN-old
-A CNI-HOSTPORT-DNAT -p tcp -m multiport --dports 8126 -j CNI-DN-new
-A CNI-DN-old -p tcp -m tcp --dport 8126 -j DNAT --to-destination 10.200.0.77:80
-A CNI-DN-new -p tcp -m tcp --dport 8126 -j DNAT --to-destination 10.200.0.23:80
COMMIT
";

/// As kube-proxy before 1.24 has it.
const MARKED_TO_DROP: &str = "*nat
:KUBE-MARK-DROP - [0:0]
:KUBE-XLB-WEB - [0:0]
-A KUBE-MARK-DROP -j MARK --or-mark 0x8000
-A KUBE-NODEPORTS -m comment --comment \"default/web\" -m tcp -p tcp --dport 30899 -j KUBE-XLB-WEB
-A KUBE-XLB-WEB -m comment --comment \"Redirect pods trying to reach external loadbalancer VIP to clusterIP\" -s 10.200.0.0/16 -j RETURN
-A KUBE-XLB-WEB -m comment --comment \"default/web has no local endpoints\" -j KUBE-MARK-DROP
COMMIT
*filter
:KUBE-FIREWALL - [0:0]
-A KUBE-FIREWALL -m comment --comment \"kubernetes firewall for dropping marked packets\" -m mark --mark 0x8000/0x8000 -j DROP
-A INPUT -j KUBE-FIREWALL
-A OUTPUT -j KUBE-FIREWALL
COMMIT
";

/// Setups of this kind.
pub const SERVICES: &[Setup] = &[
    Setup {
        name: "stale-hostport-first",
        about: "the rule of a mapped port for a pod that is gone stands before the new pod's",
        ipv6: false,
        apply: |lab| lab.iptables_restore("node1", Family::V4, STALE),
        client: ("ext", "172.16.25.11:8126"),
        packet: "--src 172.16.25.183 --dst 172.16.25.11:8126",
        says: &[&["CNI-DN-old", "CNI-HOSTPORT-DNAT"], &["10.200.0.77"]],
        never: &["start 10.200.0.77"],
    },
    Setup {
        name: "nodeport-local-marked-to-drop",
        about: "externalTrafficPolicy is Local, this node has no endpoint: kube-proxy marks the packet, KUBE-FIREWALL drops it",
        ipv6: false,
        apply: |lab| lab.iptables_restore("node1", Family::V4, MARKED_TO_DROP),
        client: ("ext", "172.16.25.11:30899"),
        packet: "--src 172.16.25.183 --dst 172.16.25.11:30899",
        says: &[&["KUBE-XLB-WEB"], &["Local"], &["no endpoint of it"]],
        never: &["remove", "accept 172.16.25.183"],
    },
    Setup {
        name: "localhost-nodeport-unmasqueraded",
        about: "a node port asked by way of localhost, not masqueraded: 127.0.0.1 leaves as source, the pod drops it",
        ipv6: false,
        apply: |lab| {
            lab.ns("node1").sysctl(&[("ipv4/conf/all/route_localnet", "1")])?;
            // The node knows the pod's MAC already, else its ARP request would have the source 127.0.0.1 too.
            client::ping(&lab.ns("node1"), t::PODS[1].ip[0], 1, 56, true)?;
            iptables(
                lab,
                "node1",
                &["-t nat -I KUBE-NODEPORTS -p tcp --dport 30898 -j DNAT --to-destination 10.200.0.23:80"],
            )
        },
        client: ("node1", "127.0.0.1:30898"),
        packet: "--dst 127.0.0.1:30898",
        says: &[&["127.0.0.1"], &["masquerade", "source"]],
        never: &["in that pod"],
    },
    Setup {
        name: "redirect-without-address",
        about: "REDIRECT for what comes in by a device of the pod that has no IPv4 address: the kernel drops it",
        ipv6: false,
        apply: |lab| {
            let (podm, ul) = (lab.extra("podm")?, lab.ns("ul"));
            lab.batch(
                "node1",
                &format!(
                    "link add vethm type veth peer name veth0 netns {}\nlink set vethm up\n",
                    podm.name()
                ),
            )?;
            lab.batch(
                "podm",
                &format!(
                    "link set veth0 up\nlink add eth0 type veth peer name p-podm netns {}\nlink set eth0 up\n\
                     addr add 172.16.25.60/24 dev eth0\nroute add default via 172.16.25.1\n\
                     route add 172.16.25.11/32 dev veth0 src 172.16.25.60\n",
                    ul.name()
                ),
            )?;
            lab.sh("ul", "ip link set p-podm master br0 up")?;
            lab.sh("node1", "ip route add 172.16.25.60/32 dev vethm")?;
            lab.serve("app", "podm", "http --listen 0.0.0.0:80 --listen 0.0.0.0:15006 --label app")?;
            iptables(lab, "podm", &["-t nat -A PREROUTING -p tcp -j REDIRECT --to-ports 15006"])
        },
        client: ("node1", "172.16.25.60:80"),
        packet: "--src 172.16.25.11 --dst 172.16.25.60:80",
        says: &[&["veth0"], &["address"], &["REDIRECT"]],
        never: &["remove or correct that rule"],
    },
    Setup {
        name: "mark-clash-masquerades",
        about: "one agent's mark bit is the other's order to masquerade: the peer's policy sees the node's address",
        ipv6: false,
        apply: |lab| {
            iptables(
                lab,
                "node2",
                &[
                    "-N KUBE-NWPLCY-X",
                    "-I FORWARD -d 10.200.1.22 -p tcp -m conntrack --ctstate NEW -j KUBE-NWPLCY-X",
                    "-A KUBE-NWPLCY-X -s 10.200.0.22 -j RETURN",
                    "-A KUBE-NWPLCY-X -j DROP",
                ],
            )?;
            iptables(
                lab,
                "node1",
                &[
                    "-N cali-FORWARD",
                    "-I FORWARD -j cali-FORWARD",
                    "-A cali-FORWARD -i cni0 -j MARK --set-xmark 0x40000/0x40000",
                    "-t nat -N ts-postrouting",
                    "-t nat -I POSTROUTING -j ts-postrouting",
                    "-t nat -A ts-postrouting -m mark --mark 0x40000/0xff0000 -j MASQUERADE",
                ],
            )
        },
        client: ("visitor", "10.200.1.22:80"),
        packet: "--pod @visitor --dst 10.200.1.22:80",
        says: &[&["ts-postrouting"], &["0x40000", "cali-FORWARD"]],
        never: &["accept 10.200.0.0"],
    },
];
