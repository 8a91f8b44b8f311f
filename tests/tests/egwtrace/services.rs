// SPDX-License-Identifier: MIT OR Apache-2.0
//! Translations: a service's cluster IP, a node port, a sidecar; and the ways without one.

use std::{thread, time::Duration};

use anyhow::Result;
use tests::{Lab, Spec, client, probe::Probe, topology::Family};

use crate::{
    journey::{assert_hops, assert_lines},
    running::{skip_unless_able, trace},
};

const VXLAN_1_TO_2: &str = "in vxlan 172.16.25.11 → 172.16.25.12:8472 vni 1";
const VXLAN_2_TO_1: &str = "in vxlan 172.16.25.12 → 172.16.25.11:8472 vni 1";

#[test]
fn from_pod_to_pod_through_flannel() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh())?;
    // So that the bridges know their ports.
    Probe::Pod2.run(&lab, Family::V4)?;
    let line = "--pod @visitor --dst 10.200.1.22:80 --node-netns @node1 --node-netns @node2";
    let mut trace = trace(&lab, "node1", line)?;
    Probe::Pod2.run(&lab, Family::V4)?;
    trace.until_closed()?;
    let traced = trace.stop()?.clean()?;
    let syn = traced.first("SYN");
    // The tunnel remembers the way to its peer, for each processor: it may be looked up or not.
    let hops: Vec<String> =
        syn.hops().into_iter().filter(|hop| hop != "node1 route table main dev eth0").collect();
    assert_lines(
        syn,
        &hops,
        &format!(
            "visitor route table main via 10.200.0.1 dev eth0
            visitor OUTPUT
            visitor POSTROUTING
            visitor eth0 out
            node1 vethpod in
            node1 PREROUTING
            node1 cni0 in
            node1 route table main via 10.200.1.0 dev flannel.1
            node1 FORWARD ttl 63
            node1 POSTROUTING
            node1 flannel.1 out
            node1 OUTPUT {VXLAN_1_TO_2}
            node1 POSTROUTING {VXLAN_1_TO_2}
            node1 eth0 out {VXLAN_1_TO_2}
            node2 eth0 in {VXLAN_1_TO_2}
            node2 PREROUTING {VXLAN_1_TO_2}
            node2 INPUT {VXLAN_1_TO_2}
            node2 flannel.1 in
            node2 PREROUTING
            node2 route table main dev cni0
            node2 FORWARD ttl 62
            node2 POSTROUTING
            node2 cni0 out
            node2 vethpod2 out
            pod2 eth0 in
            pod2 PREROUTING
            pod2 route table main dev eth0
            pod2 INPUT"
        ),
    );
    // The other pod is watched too: it is the other end, on a node that is watched.
    assert_eq!(syn.ending(), "delivered in pod2");
    assert_eq!(traced.first("SYN-ACK").ending(), "delivered in visitor");
    assert_eq!(traced.count("vanished") + traced.count("under_way"), 0, "{}", traced.list());
    Ok(())
}

#[test]
fn the_first_packet_to_a_cluster_ip_is_followed_through_its_translation() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh())?;
    let trace = trace(&lab, "node1", "--pod @visitor --dst 10.96.100.100:80")?;
    Probe::Svc.run(&lab, Family::V4)?;
    let traced = trace.stop()?.clean()?;
    let syn = traced.first("SYN");
    assert_hops(
        syn,
        &format!(
            "visitor route table main via 10.200.0.1 dev eth0
            visitor OUTPUT
            visitor POSTROUTING
            visitor eth0 out
            node1 vethpod in
            node1 PREROUTING DNAT 10.96.100.100:80 → 10.200.1.22:80
            node1 route table main via 10.200.1.0 dev flannel.1
            node1 cni0 in
            node1 FORWARD ttl 63
            node1 POSTROUTING
            node1 flannel.1 out
            node1 route table main dev eth0
            node1 OUTPUT {VXLAN_1_TO_2}
            node1 POSTROUTING {VXLAN_1_TO_2}
            node1 eth0 out {VXLAN_1_TO_2}"
        ),
    );
    assert_eq!(syn.ending(), "left node1 by eth0");
    let answer = traced.first("SYN-ACK");
    assert_hops(
        answer,
        &format!(
            "node1 eth0 in {VXLAN_2_TO_1}
            node1 PREROUTING {VXLAN_2_TO_1}
            node1 INPUT {VXLAN_2_TO_1}
            node1 flannel.1 in
            node1 PREROUTING
            node1 route table main dev cni0
            node1 FORWARD ttl 62
            node1 POSTROUTING un-DNAT 10.200.1.22:80 → 10.96.100.100:80
            node1 cni0 out
            node1 vethpod out
            visitor eth0 in
            visitor PREROUTING
            visitor route table main dev eth0
            visitor INPUT"
        ),
    );
    assert_eq!(answer.ending(), "delivered in visitor");
    assert_eq!(answer.flow(), syn.flow());
    Ok(())
}

#[test]
fn a_node_port_shows_the_masquerading_mark_and_both_translations() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh())?;
    let trace = trace(&lab, "node1", "--src 172.16.25.183 --dst 172.16.25.11:30897 --positions all")?;
    Probe::Nodeport.run(&lab, Family::V4)?;
    let traced = trace.stop()?.clean()?;
    let syn = traced.first("SYN");
    assert_hops(
        syn,
        &format!(
            "node1 eth0 in
            node1 PREROUTING mark 0x0→0x4000 by nat DNAT 172.16.25.11:30897 → 10.200.1.22:80
            node1 route fwmark 0x4000 table main via 10.200.1.0 dev flannel.1
            node1 FORWARD ttl 63
            node1 POSTROUTING mark 0x4000→0x0 by nat SNAT 172.16.25.183:p → 10.200.0.0:p
            node1 flannel.1 out
            node1 route table main dev eth0
            node1 OUTPUT {VXLAN_1_TO_2}
            node1 POSTROUTING {VXLAN_1_TO_2}
            node1 eth0 out {VXLAN_1_TO_2}"
        ),
    );
    let answer = traced.first("SYN-ACK");
    assert_hops(
        answer,
        &format!(
            "node1 eth0 in {VXLAN_2_TO_1}
            node1 PREROUTING {VXLAN_2_TO_1}
            node1 INPUT {VXLAN_2_TO_1}
            node1 flannel.1 in
            node1 PREROUTING un-SNAT 10.200.0.0:p → 172.16.25.183:p
            node1 route table main dev eth0
            node1 FORWARD ttl 62
            node1 POSTROUTING un-DNAT 10.200.1.22:80 → 172.16.25.11:30897
            node1 eth0 out"
        ),
    );
    assert_eq!(answer.ending(), "left node1 by eth0");
    assert_eq!(answer.flow(), syn.flow());
    Ok(())
}

#[test]
fn a_sidecars_redirection_of_outbound_connections_is_a_translation_over_lo() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique())?;
    let trace = trace(&lab, "node1", "--pod @mesh --dst 10.200.1.22:80")?;
    Probe::MeshOut.run(&lab, Family::V4)?;
    let traced = trace.stop()?.clean()?;
    let mut syns = traced.all("SYN");
    let (of_app, of_proxy) = (syns.next().expect("the app's"), syns.next().expect("the proxy's"));
    assert_eq!(of_app.ends(), "10.200.0.33:p → 10.200.1.22:80");
    assert_hops(
        of_app,
        "mesh route table main via 10.200.0.1 dev eth0
        mesh OUTPUT DNAT 10.200.1.22:80 → 127.0.0.1:15001
        mesh POSTROUTING
        mesh lo out
        mesh lo in
        mesh PREROUTING
        mesh INPUT",
    );
    assert_eq!(of_app.ending(), "delivered in mesh");
    assert_eq!(of_proxy.ends(), "10.200.0.33:p → 10.200.1.22:80");
    assert_eq!(of_proxy.ending(), "left node1 by eth0");
    assert_ne!(of_app.flow(), of_proxy.flow());
    let answer = traced.all("SYN-ACK").find(|journey| journey.flow() == of_app.flow()).expect("an answer");
    assert_hops(
        answer,
        "mesh OUTPUT
        mesh POSTROUTING un-DNAT 127.0.0.1:15001 → 10.200.1.22:80
        mesh lo out
        mesh lo in
        mesh PREROUTING
        mesh INPUT",
    );
    Ok(())
}

#[test]
fn a_sidecars_redirection_of_inbound_connections_is_a_translation() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique())?;
    // So that the node knows behind which port of its bridge the visitor is.
    Probe::Egw.run(&lab, Family::V4)?;
    let mut trace = trace(&lab, "node1", "--pod @mesh --src 10.200.0.22 --dst 10.200.0.33:80")?;
    Probe::MeshIn.run(&lab, Family::V4)?;
    trace.until_closed()?;
    let traced = trace.stop()?.clean()?;
    assert_hops(
        traced.first("SYN"),
        "visitor route table main dev eth0
        visitor OUTPUT
        visitor POSTROUTING
        visitor eth0 out
        node1 vethpod in
        node1 PREROUTING
        node1 FORWARD
        node1 POSTROUTING
        node1 vethmesh out
        mesh eth0 in
        mesh PREROUTING DNAT 10.200.0.33:80 → 10.200.0.33:15003
        mesh route table main dev eth0
        mesh INPUT",
    );
    // The client is a pod of this node: its side is watched too.
    assert_eq!(traced.first("SYN-ACK").ending(), "delivered in visitor");
    assert_eq!(traced.count("vanished") + traced.count("under_way"), 0, "{}", traced.list());
    Ok(())
}

#[test]
fn udp_and_its_answer_are_one_flow() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh().with_ipv6())?;
    for (family, dst) in [(Family::V4, "172.16.25.183:7"), (Family::V6, "[fd00:172::183]:7")] {
        let trace = trace(&lab, "node1", &format!("--pod @visitor --dst {dst} --proto udp"))?;
        Probe::Udp.run(&lab, family)?;
        let traced = trace.stop()?.clean()?;
        let endings: Vec<String> = traced.all("UDP").map(crate::journey::Journey::ending).collect();
        assert_eq!(endings, ["left node1 by eth0", "delivered in visitor"], "{}", traced.list());
        assert_eq!(traced.journeys[0].flow(), traced.journeys[1].flow());
        assert_eq!(traced.journeys[1].value["round_trip"]["request"], 1);
    }
    Ok(())
}

#[test]
fn a_dns_query_to_the_service_is_followed() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh())?;
    Probe::DnsSvc.run(&lab, Family::V4)?;
    let line = "--pod @visitor --dst 10.96.0.10:53 --node-netns @node1 --node-netns @node2";
    let trace = trace(&lab, "node1", line)?;
    Probe::DnsSvc.run(&lab, Family::V4)?;
    let traced = trace.stop()?.clean()?;
    let (query, answer) = (&traced.journeys[0], &traced.journeys[1]);
    assert!(query.hops().contains(&"node1 PREROUTING DNAT 10.96.0.10:53 → 10.200.1.22:53".to_owned()));
    assert!(query.ending().starts_with("unwatched beyond "), "{}", query.ending());
    assert!(answer.hops().contains(&"node1 POSTROUTING un-DNAT 10.200.1.22:53 → 10.96.0.10:53".to_owned()));
    assert_eq!(answer.ending(), "delivered in visitor");
    Ok(())
}

#[test]
fn ping_and_its_answer_in_both_families() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh().with_ipv6())?;
    for dst in ["172.16.25.183", "fd00:172::183"] {
        let trace = trace(&lab, "node1", &format!("--pod @visitor --dst {dst} --proto icmp"))?;
        client::ping(&lab.ns("visitor"), dst.parse()?, 2, 56, true)?;
        let traced = trace.stop()?.clean()?;
        let told: Vec<_> = traced.journeys.iter().map(|j| (j.is_reply(), j.ending())).collect();
        let (out, back) =
            ((false, "left node1 by eth0".to_owned()), (true, "delivered in visitor".to_owned()));
        assert_eq!(told, [out.clone(), back.clone(), out, back], "{}", traced.list());
        assert!(traced.journeys[0].hops().iter().any(|hop| hop.contains("mark 0x0→0x26b7b4e4")));
    }
    Ok(())
}

/// Requests to services that are answered, one after the other, in both modes of kube-proxy and seen from either side:
/// no line may name a cause.
#[test]
fn answered_requests_to_services_have_no_cause_in_any_line() -> Result<()> {
    skip_unless_able!();
    for nft in [false, true] {
        let lab = Lab::up(Spec::unique().without_mesh())?;
        if nft {
            lab.use_nftables_kube_proxy(Family::V4)?;
        }
        for line in [
            "--pod @visitor --dst 10.96.100.100:80",
            "--dst 10.96.100.100 --node-netns @node1 --node-netns @node2",
            "--src 10.200.0.22 --dst 10.96.100.100 --node-netns @node1",
            "--src 172.16.25.183 --dst 172.16.25.11:30897 --node-netns @node1 --node-netns @node2",
            "--src 172.16.25.183 --dst 172.16.25.11:30897",
            "--dst 10.200.1.22 --node-netns @node2",
            "--pod @visitor --dst 10.96.0.10:53 --proto udp",
        ] {
            if nft && line.contains("30897") {
                continue;
            }
            let trace = trace(&lab, "node1", line)?;
            for _ in 0..5 {
                for probe in [Probe::Svc, Probe::DnsSvc, Probe::Nodeport] {
                    if !(nft && probe == Probe::Nodeport) {
                        probe.run(&lab, Family::V4)?;
                    }
                }
                thread::sleep(Duration::from_millis(500));
            }
            let traced = trace.stop()?.clean()?;
            let wrong: Vec<&String> =
                traced.lines.iter().filter(|line| line.contains("\"certainty\"")).collect();
            assert!(traced.journeys.len() >= 5, "{line}: {}", traced.list());
            assert!(wrong.is_empty(), "nft {nft}, {line}: {wrong:#?}");
        }
    }
    Ok(())
}
