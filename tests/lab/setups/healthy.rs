// SPDX-License-Identifier: MIT OR Apache-2.0
//! Unusual nodes in which nothing is wrong: no cause may be named.

use super::{Setup, iptables, macvlan_pod, routed_pod, run, second_network, vpn};
use crate::{Lab, topology::Family};

const fn healthy(
    name: &'static str,
    about: &'static str,
    apply: fn(&Lab) -> anyhow::Result<()>,
    client: (&'static str, &'static str),
    packet: &'static str,
) -> Setup {
    Setup { name, about, ipv6: false, apply, client, packet, says: &[], never: &[] }
}

const PODB: &str = "--pod @podb --dst 172.16.25.183:80";

/// A ruleset like firewalld's: zones by `goto`, sets, and a reject at the end of each hook.
const ZONES: &str = "table inet firewalld {
 set trusted { type ipv4_addr; flags interval; elements = { 10.200.0.0/16, 172.16.25.0/24 }; }
 chain filter_FORWARD {
  type filter hook forward priority 10; policy accept;
  ct state { established, related } accept
  ct status dnat accept
  iifname \"lo\" accept
  ct state invalid drop
  jump filter_FORWARD_ZONES
  reject with icmpx admin-prohibited
 }
 chain filter_FORWARD_ZONES {
  iifname { \"cni0\", \"flannel.1\", \"egress.vxlan\" } goto fwd_trusted
  goto fwd_public
 }
 chain fwd_trusted {
  ip saddr @trusted counter accept
  ip6 saddr ::/0 accept
 }
 chain fwd_public {
  meta l4proto { icmp, ipv6-icmp } accept
  ip saddr @trusted ip daddr 10.200.0.0/16 accept
 }
 chain filter_INPUT {
  type filter hook input priority 10; policy accept;
  ct state { established, related } accept
  iifname \"lo\" accept
  udp dport { 7789, 8472 } accept
  ip saddr @trusted accept
  reject with icmpx admin-prohibited
 }
 chain nat_POSTROUTING {
  type nat hook postrouting priority 110; policy accept;
  oifname \"eth0\" ip saddr 10.200.0.0/16 meta l4proto tcp masquerade random
 }
}
";

/// Masquerading in nested chains, with comments that look like other things.
const COMMENTS: &str = "*nat
:OUR--MASQ--1 - [0:0]
:x_y.z - [0:0]
-A OUR--MASQ--1 -m comment --comment \"DROP everything; REJECT -- \\\"quoted\\\" \u{fc}n\u{ef}c\u{f6}d\u{e9}\" -m statistic --mode random --probability 0.00001 -j RETURN
-A OUR--MASQ--1 -m comment --comment \"-j DROP\" -g x_y.z
-A x_y.z -m addrtype --dst-type LOCAL -m comment --comment \"KUBE-MARK-DROP no endpoints\" -j RETURN
-A x_y.z -s 10.200.0.0/24 ! -d 10.0.0.0/8 -m comment --comment \"egw:fake  cali:fake  AWS, SNAT\" -j MASQUERADE --random
-I POSTROUTING 1 -m comment --comment \"$$$\" -j OUR--MASQ--1
COMMIT
";

/// Healthy setups.
pub const HEALTHY: &[Setup] = &[
    healthy(
        "second-interface-bridged",
        "a pod's second interface is bridged to the node's second NIC, behind which the peer is",
        |lab| {
            second_network(lab)?;
            lab.extra("far")?;
            let (far, podb) = (lab.ns("far"), lab.ns("podb"));
            lab.batch(
                "ul",
                &format!(
                    "link add p-far type veth peer name eth0 netns {}\nlink set p-far master br1 up\n",
                    far.name()
                ),
            )?;
            lab.batch("far", "link set eth0 up\naddr add 10.9.0.50/24 dev eth0\n")?;
            lab.batch(
                "node1",
                &format!(
                    "link add br9 type bridge forward_delay 0\nlink set br9 up\naddr flush dev eth1\n\
                     link set eth1 master br9\nlink add vethnet1 type veth peer name net1 netns {}\n\
                     link set vethnet1 master br9 up\n",
                    podb.name()
                ),
            )?;
            lab.batch(
                "podb",
                "link set net1 up\naddr add 10.9.0.23/24 dev net1\nrule add from 10.9.0.23 lookup 100\n\
                 route add 10.9.0.0/24 dev net1 table 100\nroute add default via 10.9.0.1 dev net1 table 100\n",
            )?;
            lab.serve("far", "far", "http --listen 0.0.0.0:80 --label far")
        },
        ("podb", "10.9.0.50:80"),
        "--pod @podb --src 10.9.0.23 --dst 10.9.0.50:80",
    ),
    healthy(
        "asymmetric-loose",
        "the request comes by one NIC, the answer leaves by the other, reverse path filters are loose",
        |lab| {
            second_network(lab)?;
            run(
                lab,
                &[
                    ("node1", "ip route add 172.16.25.183 via 10.9.0.1 dev eth1"),
                    ("ext", "ip route add 172.16.25.11 via 172.16.25.1"),
                ],
            )?;
            lab.ns("ul")
                .sysctl(&[("ipv4/conf/all/send_redirects", "0"), ("ipv4/conf/br0/send_redirects", "0")])
        },
        ("ext", "172.16.25.11:30897"),
        "--src 172.16.25.183 --dst 172.16.25.11:30897",
    ),
    healthy(
        "misleading-comments",
        "nested chains that masquerade, with comments that look like rules, marks and agents",
        |lab| lab.iptables_restore("node1", Family::V4, COMMENTS),
        ("podb", "172.16.25.183:80"),
        PODB,
    ),
    healthy(
        "macvlan-pod",
        "a macvlan pod asks a host of the network",
        macvlan_pod,
        ("podw", "172.16.25.183:80"),
        "--pod @podw --dst 172.16.25.183:80",
    ),
    healthy(
        "service-to-itself",
        "a pod asks itself by its service: the bridge port is hairpin, the source is masqueraded",
        |lab| {
            lab.sh("node1", "bridge link set dev vethpodb hairpin on")?;
            let service = "-t nat -A KUBE-SERVICES -d 10.96.100.101 -p tcp --dport 80";
            iptables(
                lab,
                "node1",
                &[
                    &format!("{service} -j KUBE-MARK-MASQ"),
                    &format!("{service} -j DNAT --to-destination 10.200.0.23:80"),
                ],
            )
        },
        ("podb", "10.96.100.101:80"),
        "--pod @podb --dst 10.96.100.101:80",
    ),
    healthy(
        "direct-server-return",
        "the service's address is on lo of both nodes, where ARP is not answered for it",
        |lab| {
            for node in ["node1", "node2"] {
                lab.ns(node)
                    .sysctl(&[("ipv4/conf/all/arp_ignore", "1"), ("ipv4/conf/all/arp_announce", "2")])?;
                lab.sh(node, "ip addr add 172.16.25.200/32 dev lo")?;
            }
            lab.sh("ext", "ip route add 172.16.25.200 via 172.16.25.12")?;
            lab.serve("vip", "node2", "http --listen 172.16.25.200:80 --label vip")
        },
        ("ext", "172.16.25.200:80"),
        // The client's router chose node2; node1 has the address as well, and no server.
        "--src 172.16.25.183 --dst 172.16.25.200:80 --node-netns @node2",
    ),
    healthy(
        "own-nic-by-source",
        "the pod's address is known in the network; a rule by source sends it by its own NIC, untranslated",
        |lab| {
            second_network(lab)?;
            run(
                lab,
                &[
                    ("node1", "ip route add default via 10.9.0.1 dev eth1 table 2"),
                    ("node1", "ip rule add pref 1536 from 10.200.0.23 lookup 2"),
                    ("node1", "ip rule add pref 1024 fwmark 0x80/0x80 lookup main"),
                    ("ul", "ip route add 10.200.0.23/32 via 10.9.0.11"),
                ],
            )?;
            iptables(
                lab,
                "node1",
                &["-t nat -I FLANNEL-POSTRTG -s 10.200.0.0/16 -d 172.16.25.0/24 -j RETURN"],
            )
        },
        ("podb", "172.16.25.183:80"),
        PODB,
    ),
    healthy(
        "routed-pod-service",
        "a routed pod with an MTU larger than the tunnel's asks a service on the other node",
        |lab| routed_pod(lab, "podc", "cali1234", "10.200.0.99"),
        ("podc", "10.96.100.100:80"),
        "--pod @podc --dst 10.96.100.100:80",
    ),
    healthy(
        "vpn-default-known-network",
        "the default route is a VPN's by a rule, but the destination is in a network that main knows",
        |lab| {
            vpn(lab, "wg0", "10.77.0.2/32", 1420)?;
            run(lab, super::routing::DEFAULT_BY_VPN)
        },
        ("podb", "172.16.25.183:80"),
        PODB,
    ),
    healthy(
        "zone-firewall",
        "zones by goto, sets, INVALID dropped, a reject at the end; all that is needed is accepted",
        |lab| lab.ns("node1").exec(&["nft", "-f", "-"], Some(ZONES)).map(drop),
        ("podb", "172.16.25.183:80"),
        PODB,
    ),
    healthy(
        "two-nics-one-network",
        "two NICs in one network, filters loose: answers may come by either",
        |lab| {
            let ul = lab.ns("ul");
            lab.sh("node1", &format!("ip link add eth1 type veth peer name p-node1b netns {}", ul.name()))?;
            lab.sh("ul", "ip link set p-node1b master br0 up")?;
            lab.batch("node1", "link set eth1 up\naddr add 172.16.25.21/24 dev eth1\n")?;
            lab.ns("node1").sysctl(&[("ipv4/conf/eth0/rp_filter", "2"), ("ipv4/conf/eth1/rp_filter", "2")])
        },
        ("podb", "172.16.25.183:80"),
        PODB,
    ),
];
