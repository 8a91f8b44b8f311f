// SPDX-License-Identifier: MIT OR Apache-2.0
//! Both ends on one node: the other pod and its device are found before there was any traffic, or as soon as a
//! translation shows where it leads.

use anyhow::Result;
use tests::{Lab, Spec, client, topology::Family};

use crate::{
    journey::{Journey, assert_hops},
    running::{skip_unless_able, trace},
};

#[test]
fn the_first_packet_to_a_pod_of_the_same_node_shows_its_device() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().with_ipv6())?;
    for (dst, place) in [("10.200.0.23", "vethpodb"), ("fd00:200:1::23", "vethpodb")] {
        // Nobody knows who is behind which port.
        lab.sh("node1", "ip neigh flush dev cni0")?;
        lab.sh("node1", "bridge link set dev vethpodb learning on")?;
        let mut trace = trace(&lab, "node1", &format!("--pod @visitor --dst {dst} --proto icmp"))?;
        client::ping(&lab.ns("visitor"), dst.parse()?, 1, 56, true)?;
        trace.until_journeys(|all| all.len() >= 2)?;
        let traced = trace.stop()?.clean()?;
        let request = traced.first("ICMP echo request seq 1");
        assert!(request.places().contains(&format!("node1 {place} out")), "{:#?}", request.hops());
        assert_eq!(request.ending(), "delivered in podb", "{:#?}", request.hops());
        let answer = traced.first("ICMP echo reply seq 1");
        assert!(answer.places().contains(&format!("node1 {place} in")), "{}", traced.list());
        assert_eq!(answer.ending(), "delivered in visitor");
    }
    Ok(())
}

#[test]
fn the_second_packet_to_an_endpoint_of_a_service_on_this_node_shows_its_device() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique())?;
    lab.iptables(
        "node1",
        Family::V4,
        "-t nat -I PREROUTING -d 10.96.55.55 -j DNAT --to-destination 10.200.0.23",
    )?;
    let mut trace = trace(&lab, "node1", "--pod @visitor --dst 10.96.55.55")?;
    let ping = || client::ping(&lab.ns("visitor"), [10, 96, 55, 55].into(), 1, 56, true);
    ping()?;
    trace.until_says("its side is watched too")?;
    ping()?;
    trace.until_journeys(|all| all.len() >= 4)?;
    let traced = trace.stop()?.clean()?;
    let requests: Vec<&Journey> = traced.journeys.iter().filter(|journey| !journey.is_reply()).collect();
    assert_hops(
        requests[1],
        "visitor OUTPUT
        visitor POSTROUTING
        visitor eth0 out
        node1 vethpod in
        node1 PREROUTING DNAT 10.96.55.55 → 10.200.0.23
        node1 route table main dev cni0
        node1 FORWARD
        node1 POSTROUTING
        node1 vethpodb out
        podb eth0 in
        podb PREROUTING
        podb route table main dev eth0
        podb INPUT",
    );
    assert_eq!(traced.count("vanished") + traced.count("dropped"), 0, "{}", traced.list());
    Ok(())
}

#[test]
fn a_macvlan_of_the_same_parent_is_the_other_end() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh())?;
    for (pod, address) in [("visitor", "10.99.0.1/24"), ("podb", "10.99.0.2/24")] {
        let netns = lab.ns(pod);
        let name = netns.name();
        lab.sh("node1", &format!("ip link add link eth0 name mac0 netns {name} type macvlan mode bridge"))?;
        lab.sh(pod, &format!("ip addr add {address} dev mac0"))?;
        lab.sh(pod, "ip link set mac0 up")?;
    }
    let mut trace = trace(&lab, "node1", "--pod @visitor --dst 10.99.0.2 --proto icmp")?;
    client::ping(&lab.ns("visitor"), [10, 99, 0, 2].into(), 1, 56, true)?;
    trace.until_journeys(|all| all.len() >= 2)?;
    let traced = trace.stop()?.clean()?;
    let request = traced.first("ICMP echo request seq 1");
    assert!(request.places().contains(&"node1 eth0 in".to_owned()), "{:#?}", request.hops());
    assert_eq!(request.ending(), "delivered in podb", "{:#?}", request.hops());
    assert_eq!(traced.summary["causes"].as_array().map_or(0, Vec::len), 0, "{}", traced.summary);
    Ok(())
}
