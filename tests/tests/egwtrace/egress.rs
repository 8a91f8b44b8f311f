// SPDX-License-Identifier: MIT OR Apache-2.0
//! The egress path hop by hop: the pod's node, the gateway, both as one; in both families, on both back ends.

use std::time::Instant;

use anyhow::Result;
use tests::{
    Backend, Lab, Spec, client,
    probe::Probe,
    topology::{self as t, Family},
};

use crate::{
    journey::assert_hops,
    running::{SOON, Traced, skip_unless_able, trace},
};

const BACKENDS: [Backend; 2] = [Backend::Nft, Backend::Legacy];

/// One request of the visitor over the egress path, traced as `line` says (`SRC`, `DST` for its ends).
fn request(lab: &Lab, family: Family, place: &str, line: &str) -> Result<Traced> {
    let line =
        line.replace("SRC", &t::visitor(family).to_string()).replace("DST", &t::ext(family).to_string());
    let mut trace = trace(lab, place, &line)?;
    let report = Probe::Egw.run(lab, family)?;
    assert_eq!(report.last().client(), Some(t::egress_ip(family)), "{report}");
    trace.until_closed()?;
    trace.stop()?.clean()
}

/// Hops of the pod's node as for IPv4; for IPv6 the addresses of the inner packet are others.
fn of_family(family: Family, text: &str) -> String {
    match family {
        Family::V4 => text.to_owned(),
        Family::V6 => text
            .replace("10.200.0.22", "[fd00:200:1::22]")
            .replace("172.16.25.183", "[fd00:172::183]")
            .replace("172.16.25.189", "[fd00:172::189]")
            .replace("via 10.200.0.1 ", "via fd00:200:1::1 ")
            .replace("visitor route table main dev eth0", "visitor route table local dev eth0")
            .replace("via 192.200.201.40", "via fd11::2")
            .replace("via 192.200.142.89", "via fd11::1"),
    }
}

const REQUEST_ON_NODE1: &str = "
    visitor route table main via 10.200.0.1 dev eth0
    visitor OUTPUT
    visitor POSTROUTING
    visitor eth0 out
    node1 vethpod in
    node1 PREROUTING mark 0x0→0x26b7b4e4 by mangle
    node1 cni0 in
    node1 route fwmark 0x26b7b4e4 table 649573604 via 192.200.201.40 dev egress.vxlan
    node1 FORWARD mark 0x26b7b4e4→0x26000000 by mangle ttl 63
    node1 POSTROUTING
    node1 egress.vxlan out
    node1 route fwmark 0x26000000 table main dev eth0
    node1 OUTPUT in vxlan 172.16.25.11 → 172.16.25.12:7789 vni 100
    node1 POSTROUTING in vxlan 172.16.25.11 → 172.16.25.12:7789 vni 100
    node1 eth0 out in vxlan 172.16.25.11 → 172.16.25.12:7789 vni 100";

const REQUEST_ON_NODE2: &str = "
    node2 PREROUTING in vxlan 172.16.25.11 → 172.16.25.12:7789 vni 100
    node2 INPUT in vxlan 172.16.25.11 → 172.16.25.12:7789 vni 100
    node2 egress.vxlan in
    node2 PREROUTING mark 0x0→0x26000000 by mangle ctmark 0x0→0x2698ee37
    node2 route fwmark 0x26000000 table main dev eth0
    node2 FORWARD ttl 62
    node2 POSTROUTING SNAT 10.200.0.22:p → 172.16.25.189:p
    node2 eth0 out";

const REPLY_ON_NODE2: &str = "
    node2 eth0 in
    node2 PREROUTING mark 0x0→0x2698ee37 by mangle
    node2 PREROUTING un-SNAT 172.16.25.189:p → 10.200.0.22:p
    node2 route fwmark 0x2698ee37 table 647556663 via 192.200.142.89 dev egress.vxlan
    node2 FORWARD mark 0x2698ee37→0x26000000 by mangle ttl 63
    node2 POSTROUTING
    node2 egress.vxlan out
    node2 route fwmark 0x26000000 table main dev eth0
    node2 OUTPUT in vxlan 172.16.25.12 → 172.16.25.11:7789 vni 100
    node2 POSTROUTING in vxlan 172.16.25.12 → 172.16.25.11:7789 vni 100
    node2 eth0 out in vxlan 172.16.25.12 → 172.16.25.11:7789 vni 100";

const REPLY_ON_NODE1: &str = "
    node1 PREROUTING in vxlan 172.16.25.12 → 172.16.25.11:7789 vni 100
    node1 INPUT in vxlan 172.16.25.12 → 172.16.25.11:7789 vni 100
    node1 egress.vxlan in
    node1 PREROUTING
    node1 route table main dev cni0
    node1 FORWARD ttl 62
    node1 POSTROUTING
    node1 cni0 out
    node1 vethpod out
    visitor eth0 in
    visitor PREROUTING
    visitor route table main dev eth0
    visitor INPUT";

fn the_pods_node(family: Family, backend: Backend) -> Result<()> {
    let lab = Lab::up(spec(family).with_backend(backend))?;
    let traced = request(&lab, family, "node1", "--pod @visitor --dst DST --dport 80 --positions all")?;
    let syn = traced.first("SYN");
    assert_hops(syn, &of_family(family, REQUEST_ON_NODE1));
    assert_eq!(syn.ending(), "left node1 by eth0");
    assert!(!syn.is_reply());
    let answer = traced.first("SYN-ACK");
    let first = "node1 eth0 in in vxlan 172.16.25.12 → 172.16.25.11:7789 vni 100";
    assert_hops(answer, &of_family(family, &format!("{first}{REPLY_ON_NODE1}")));
    assert_eq!(answer.ending(), "delivered in visitor");
    assert!(answer.is_reply() && answer.flow() == syn.flow());
    assert_all_arrived(&traced);
    Ok(())
}

fn the_gateway(family: Family, backend: Backend) -> Result<()> {
    let lab = Lab::up(spec(family).with_backend(backend))?;
    let traced = request(&lab, family, "node2", "--src SRC --dst DST --dport 80 --positions all")?;
    let syn = traced.first("SYN");
    let first = "node2 eth0 in in vxlan 172.16.25.11 → 172.16.25.12:7789 vni 100";
    assert_hops(syn, &of_family(family, &format!("{first}{REQUEST_ON_NODE2}")));
    assert_eq!(syn.ending(), "left node2 by eth0");
    let answer = traced.first("SYN-ACK");
    assert_hops(answer, &of_family(family, REPLY_ON_NODE2));
    assert_eq!(answer.ending(), "left node2 by eth0");
    assert!(answer.is_reply() && answer.flow() == syn.flow());
    assert_all_arrived(&traced);
    Ok(())
}

fn two_nodes(family: Family) -> Result<()> {
    let lab = Lab::up(spec(family))?;
    let line = "--pod @visitor --dst DST --dport 80 --positions all --node-netns @node1 --node-netns @node2";
    let traced = request(&lab, family, "node1", line)?;
    let syn = traced.first("SYN");
    // Marks do not cross nodes.
    let between = "node2 eth0 in mark now 0x0 in vxlan 172.16.25.11 → 172.16.25.12:7789 vni 100";
    assert_hops(syn, &of_family(family, &format!("{REQUEST_ON_NODE1}\n{between}{REQUEST_ON_NODE2}")));
    assert_eq!(syn.ending(), "left node2 by eth0");
    let answer = traced.first("SYN-ACK");
    let between = "node1 eth0 in mark now 0x0 in vxlan 172.16.25.12 → 172.16.25.11:7789 vni 100";
    assert_hops(answer, &of_family(family, &format!("{REPLY_ON_NODE2}\n{between}{REPLY_ON_NODE1}")));
    assert_eq!(answer.ending(), "delivered in visitor");
    assert_all_arrived(&traced);
    // A round trip is told in parts: there is a time beyond the gateway.
    let trip = &answer.value["round_trip"];
    assert_eq!(trip["request"], syn.id());
    assert!(trip["beyond_ns"].as_u64() < trip["total_ns"].as_u64(), "{trip}");
    Ok(())
}

fn spec(family: Family) -> Spec {
    let spec = Spec::unique().without_mesh();
    if family == Family::V6 { spec.with_ipv6() } else { spec }
}

#[track_caller]
fn assert_all_arrived(traced: &Traced) {
    let lost: u64 =
        ["vanished", "dropped", "unclear", "under_way"].iter().map(|what| traced.count(what)).sum();
    assert_eq!(lost, 0, "{}", traced.list());
}

macro_rules! hop_by_hop {
    ($($name:ident: $what:expr;)+) => {$(
        #[test]
        fn $name() -> Result<()> {
            skip_unless_able!();
            $what
        }
    )+};
}

hop_by_hop! {
    the_pods_node_hop_by_hop_over_ipv4_with_nft: the_pods_node(Family::V4, Backend::Nft);
    the_pods_node_hop_by_hop_over_ipv4_with_legacy: the_pods_node(Family::V4, Backend::Legacy);
    the_pods_node_hop_by_hop_over_ipv6_with_nft: the_pods_node(Family::V6, Backend::Nft);
    the_pods_node_hop_by_hop_over_ipv6_with_legacy: the_pods_node(Family::V6, Backend::Legacy);
    the_gateway_hop_by_hop_over_ipv4_with_nft: the_gateway(Family::V4, Backend::Nft);
    the_gateway_hop_by_hop_over_ipv4_with_legacy: the_gateway(Family::V4, Backend::Legacy);
    the_gateway_hop_by_hop_over_ipv6_with_nft: the_gateway(Family::V6, Backend::Nft);
    the_gateway_hop_by_hop_over_ipv6_with_legacy: the_gateway(Family::V6, Backend::Legacy);
    two_nodes_show_one_journey_over_ipv4: two_nodes(Family::V4);
    two_nodes_show_one_journey_over_ipv6: two_nodes(Family::V6);
}

#[test]
fn zooming_attributes_a_mark_to_one_table_within_a_few_packets() -> Result<()> {
    skip_unless_able!();
    for backend in BACKENDS {
        let lab = Lab::up(Spec::unique().without_mesh().with_backend(backend))?;
        let mut trace = trace(&lab, "node1", "--pod @visitor --dst 172.16.25.183:7 --proto udp")?;
        let to = (t::ext(Family::V4), 7).into();
        let by_mangle = |journey: &crate::journey::Journey| {
            let hops = journey.hops();
            [
                "PREROUTING mark 0x0→0x26b7b4e4 by mangle",
                "FORWARD mark 0x26b7b4e4→0x26000000 by mangle ttl 63",
            ]
            .iter()
            .all(|end| hops.iter().any(|hop| hop.ends_with(end)))
        };
        // Each packet when the one before has been told: positions come between.
        let end = Instant::now() + SOON;
        let mut sent = 0;
        let mut attributed = false;
        while !attributed && Instant::now() < end {
            client::udp(&lab.ns("visitor"), to, 4242, b"zoom", client::PATIENCE)?;
            sent += 1;
            trace.until_journeys(|all| {
                attributed = all.iter().filter(|journey| by_mangle(journey)).count() >= 2;
                all.iter().filter(|journey| journey.kind() == "UDP").count() >= 2 * sent
            })?;
        }
        let traced = trace.stop()?.clean()?;
        let requests: Vec<_> = traced.all("UDP").filter(|journey| !journey.is_reply()).collect();
        assert!(attributed, "{backend:?}: not after {sent} packets: {:#?}", requests[sent - 1].hops());
        // Once known, it stays known.
        let first = requests.iter().position(|journey| by_mangle(journey)).unwrap_or(sent);
        let doubtful = requests[first..].iter().find(|journey| !by_mangle(journey));
        assert!(doubtful.is_none(), "{:#?}", doubtful.map(|journey| journey.hops()));
    }
    Ok(())
}
