// SPDX-License-Identifier: MIT OR Apache-2.0
//! What EgressGateway's policies do to traffic that they are not meant for, or do not get.

use anyhow::Result;

use super::{Setup, iptables};
use crate::{
    Lab,
    topology::{self as t, Family, NODE2},
};

/// The policy names no destinations: what is not in the set of the cluster's networks is marked.
fn for_all_but_the_cluster(lab: &Lab) -> Result<()> {
    let (from, mark) = (t::src_set(Family::V4), NODE2.mark);
    iptables(
        lab,
        "node1",
        &[&format!(
            "-t mangle -R EGRESSGATEWAY-MARK-REQUEST 1 -m set --match-set {from} src -m set ! --match-set \
             egress-cluster-cidr-ipv4 dst -m conntrack --ctdir ORIGINAL -j MARK --set-mark {mark:#x}/0xffffffff"
        )],
    )
}

/// Setups of this kind.
pub const EGRESS: &[Setup] = &[
    Setup {
        name: "service-range-not-in-cluster-set",
        about: "the agent's set of the cluster's networks lacks the services' range: service traffic goes to the gateway",
        ipv6: false,
        apply: |lab| {
            for_all_but_the_cluster(lab)?;
            let range = t::service_cidr(Family::V4);
            lab.sh("node1", &format!("ipset del egress-cluster-cidr-ipv4 {range}")).map(drop)
        },
        client: ("visitor", "10.96.100.100:80"),
        packet: "--pod @visitor --dst 10.96.100.100:80",
        says: &[&["egress-cluster-cidr-ipv4"], &["service"], &["ipset add"], &["extraCidr"]],
        never: &["kube-proxy has no rule"],
    },
    Setup {
        name: "destination-beside-those-of-the-policy",
        about: "the policy selects the pod, for other destinations: this one is reached by the node's own address",
        ipv6: false,
        apply: |lab| {
            let to = t::dst_set(Family::V4);
            lab.sh("node1", &format!("ipset del {to} {}", t::ext(Family::V4)))?;
            lab.sh("node2", &format!("ipset del {to} {}", t::ext(Family::V4)))?;
            for node in ["node1", "node2"] {
                lab.sh(node, &format!("ipset add {to} 203.0.113.0/24"))?;
            }
            Ok(())
        },
        client: ("visitor", "172.16.25.183:80"),
        packet: "--pod @visitor --dst 172.16.25.183:80",
        says: &[],
        never: &[],
    },
    Setup {
        name: "policy-without-rule-and-silent-host",
        about: "the node has no rule for the policy, and the host does not answer ARP to the node itself",
        ipv6: false,
        apply: |lab| {
            iptables(lab, "node1", &["-t mangle -F EGRESSGATEWAY-MARK-REQUEST"])?;
            let node1 = "172.16.25.11";
            lab.sh("ext", "sysctl -qw net.ipv4.conf.all.arp_ignore=8").map(drop)?;
            lab.sh("node1", &format!("ip neigh flush to {}", t::ext(Family::V4)))?;
            lab.sh("ext", &format!("ip neigh flush to {node1}")).map(drop)
        },
        client: ("visitor", "172.16.25.183:80"),
        packet: "--pod @visitor --dst 172.16.25.183:80",
        says: &[&["EgressGateway"], &["EGRESSGATEWAY-MARK-REQUEST"], &["restart"]],
        never: &["start 172.16.25.183"],
    },
];
