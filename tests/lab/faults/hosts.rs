// SPDX-License-Identifier: MIT OR Apache-2.0
//! The host: Calico's address pools, docker and nerdctl, sysctls, and the order of routing.

use anyhow::Result;

use super::{Expect, Fault, Seen, egress::forget_source};
use crate::{
    Lab, client, links,
    probe::Probe,
    topology::{self as t, Family},
};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "calico-overlap",
        about: "Calico's address pool contains the nodes: traffic to them is not translated",
        probe: Probe::Overlap,
        expect: Expect::TimesOut,
        expect6: None,
        apply: |lab, _| calico_pod(lab),
    },
    Fault {
        name: "ip-forward",
        about: "the pod's node does not forward",
        probe: Probe::Egw,
        expect: Expect::TimesOut,
        expect6: Some(Expect::TimesOut),
        apply: |lab, family| {
            let key = family.pick("ipv4/ip_forward", "ipv6/conf/all/forwarding");
            lab.ns("node1").sysctl(&[(key, "0")])
        },
    },
    Fault {
        name: "bridge-nf",
        about: "iptables does not see bridged frames, and the service's endpoint is on the same node",
        probe: Probe::SvcLocal,
        expect: Expect::TimesOut,
        expect6: None,
        apply: |lab, _| {
            lab.ns("node1").sysctl(&[("bridge/bridge-nf-call-iptables", "0")])?;
            lab.iptables(
                "node1",
                Family::V4,
                "-t nat -I KUBE-SERVICES -d 10.96.100.101 -p tcp --dport 80 -j DNAT --to-destination 10.200.0.23:80",
            )?;
            // The two pods know each other: replies go straight.
            client::ping(&lab.ns("visitor"), t::PODS[1].ip[0], 1, 56, true).map(drop)
        },
    },
    Fault {
        name: "docker-ok",
        about: "control: a port mapped to a container by nerdctl works",
        probe: Probe::Docker,
        expect: Expect::SeenAs(Seen::Ext),
        expect6: None,
        apply: |lab, _| container(lab),
    },
    Fault {
        name: "docker-fwd-drop",
        about: "docker sets FORWARD to policy DROP, nerdctl's bridge has no ACCEPT",
        probe: Probe::Docker,
        expect: Expect::TimesOut,
        expect6: None,
        apply: |lab, _| {
            container(lab)?;
            lab.iptables("node1", Family::V4, "-P FORWARD DROP").map(drop)
        },
    },
    Fault {
        name: "mark-late",
        about: "a mark set in POSTROUTING does not change the route",
        probe: Probe::Egw,
        expect: Expect::SeenAs(Seen::Node1),
        expect6: None,
        apply: |lab, family| {
            // The wish: packets of the pod use table 6, which is a dead end.
            lab.sh("node1", "ip route add unreachable default table 6")?;
            lab.sh("node1", "ip rule add fwmark 0x6 lookup 6 priority 90")?;
            lab.iptables("node1", family, "-t mangle -I POSTROUTING -s 10.200.0.22 -j MARK --set-mark 0x6")?;
            forget_source(lab, family)
        },
    },
    Fault {
        name: "rpf-multinic",
        about: "replies come in by a second NIC, which has rp_filter=1",
        probe: Probe::Egw2,
        expect: Expect::TimesOut,
        expect6: None,
        apply: |lab, _| second_nic(lab),
    },
];

/// A pod as Calico makes them, its pool 192.168.0.0/16 around the nodes' second network.
fn calico_pod(lab: &Lab) -> Result<()> {
    lab.sh("ul", "ip addr add 192.168.21.1/24 dev br0")?;
    lab.sh("node1", "ip addr add 192.168.21.12/24 dev eth0")?;
    lab.sh("ext", "ip addr add 192.168.21.11/24 dev eth0")?;
    let pod = lab.extra("cpod")?;
    lab.batch("node1", &format!(
        "link add calia9589d79281 mtu 1450 type veth peer name eth0 mtu 1450 netns {}\nlink set calia9589d79281 up\n",
        pod.name()
    ))?;
    lab.ns("node1").sysctl(&[("ipv4/conf/calia9589d79281/proxy_arp", "1")])?;
    lab.batch(
        "cpod",
        "link set eth0 up\naddr add 192.168.236.10/32 dev eth0\nroute add 169.254.1.1 dev eth0 scope link\n\
         route add default via 169.254.1.1 dev eth0\n",
    )?;
    lab.sh("node1", "ip route add 192.168.236.10 dev calia9589d79281")?;
    lab.ns("node1").exec(
        &["ipset", "restore"],
        Some(
            "create cali40masq-ipam-pools hash:net\ncreate cali40all-ipam-pools hash:net\n\
             add cali40masq-ipam-pools 192.168.0.0/16\nadd cali40all-ipam-pools 192.168.0.0/16\n",
        ),
    )?;
    lab.iptables_restore(
        "node1",
        Family::V4,
        "*nat\n:cali-nat-outgoing - [0:0]\n\
         -A cali-nat-outgoing -m comment --comment \"cali:flqWnvo8yq4ULQLa\" -m set --match-set cali40masq-ipam-pools src \
         -m set ! --match-set cali40all-ipam-pools dst -j MASQUERADE --random-fully\n\
         -I POSTROUTING -j cali-nat-outgoing\n\
         -I KUBE-SERVICES -d 10.96.0.1 -p tcp --dport 443 -j DNAT --to-destination 192.168.21.11:6443\nCOMMIT\n",
    )?;
    lab.serve("api", "ext", "http --listen 192.168.21.11:6443 --label apiserver")
}

/// A container of nerdctl on node1, whose port 443 is the node's.
fn container(lab: &Lab) -> Result<()> {
    lab.extra("ctr")?;
    let veth = links::host_veth(lab.spec(), "ctr", "vethctr", "nerdctl0", 1500);
    lab.batch("node1", &format!(
        "link add nerdctl0 type bridge forward_delay 0\nlink set nerdctl0 up\naddr add 10.4.0.1/24 dev nerdctl0\n{veth}"
    ))?;
    lab.batch("ctr", "link set eth0 up\naddr add 10.4.0.2/24 dev eth0\nroute add default via 10.4.0.1\n")?;
    lab.iptables_restore(
        "node1",
        Family::V4,
        "*nat\n:CNI-HOSTPORT-DNAT - [0:0]\n-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT\n\
         -A CNI-HOSTPORT-DNAT -p tcp --dport 443 -j DNAT --to-destination 10.4.0.2:443\n\
         -A POSTROUTING -s 10.4.0.0/24 ! -o nerdctl0 -j MASQUERADE\nCOMMIT\n",
    )?;
    lab.serve("ctr", "ctr", "http --listen 0.0.0.0:443 --label ctr")
}

/// node1 gets a second NIC, and the router sends what is for node1 through it.
fn second_nic(lab: &Lab) -> Result<()> {
    lab.sh("node1", &format!("ip link add eth1 type veth peer name p-node1b netns {}", lab.ns("ul").name()))?;
    lab.batch("ul", "link set p-node1b up\naddr add 172.16.26.1/24 dev p-node1b\n")?;
    lab.batch("node1", "link set eth1 up\naddr add 172.16.26.11/24 dev eth1\n")?;
    lab.ns("node1").sysctl(&[("ipv4/conf/eth1/rp_filter", "1")])?;
    lab.sh("ext", "ip route add 172.16.25.11 via 172.16.25.1")?;
    lab.sh("ul", "ip route add 172.16.25.11 via 172.16.26.11 dev p-node1b")?;
    lab.ns("ul").sysctl(&[("ipv4/conf/all/send_redirects", "0"), ("ipv4/conf/br0/send_redirects", "0")])
}
