// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is not asked for is not shown; two flows are not mixed.

use std::{collections::BTreeSet, net::SocketAddr, thread};

use anyhow::Result;
use tests::{
    Lab, Spec, client,
    probe::Probe,
    topology::{self as t, Family},
};

use crate::running::{skip_unless_able, trace};

#[test]
fn a_namespace_that_is_not_watched_never_shows() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh())?;
    // Of all namespaces on this kernel the flow goes through, node1 and the end of the flow behind it. Drops elsewhere
    // are not its affair.
    lab.iptables("ext", Family::V4, "-I INPUT -p tcp --dport 81 -j DROP")?;
    let trace = trace(&lab, "node1", "--src 10.200.0.22 --dst 172.16.25.183")?;
    Probe::Egw.run(&lab, Family::V4)?;
    Probe::Udp.run(&lab, Family::V4)?;
    let to = SocketAddr::new(t::ext(Family::V4), 81);
    client::tcp(&lab.ns("visitor"), to, client::Request::Who, std::time::Duration::from_millis(100))?;
    let traced = trace.stop()?.clean()?;
    let mut seen = BTreeSet::new();
    for journey in &traced.journeys {
        seen.extend(journey.raw().iter().map(|hop| hop["netns"].as_str().unwrap_or_default().to_owned()));
        for note in journey.value["notes"].as_array().into_iter().flatten() {
            seen.insert(note["netns"].as_str().unwrap_or_default().to_owned());
        }
    }
    assert_eq!(seen, BTreeSet::from(["node1".to_owned(), "visitor".to_owned()]));
    assert_eq!(traced.count("dropped"), 0, "{}", traced.list());
    assert!(traced.notices.iter().all(|notice| notice["notice"] != "stray"), "{:#?}", traced.notices);
    Ok(())
}

#[test]
fn other_pods_and_other_ports_are_not_shown() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().with_ipv6())?;
    let trace = trace(&lab, "node1", "--pod @visitor --dst 172.16.25.183:80 --proto tcp")?;
    for (probe, family) in [
        (Probe::Udp, Family::V4),
        (Probe::Ping, Family::V4),
        (Probe::Pod2, Family::V4),
        (Probe::Svc, Family::V4),
        (Probe::Nodeport, Family::V4),
        (Probe::Podb, Family::V4),
        (Probe::MeshOut, Family::V4),
        (Probe::Egw, Family::V6),
    ] {
        probe.run(&lab, family)?;
    }
    // The same destination and port from another pod.
    client::who(&lab.ns("podb"), (t::ext(Family::V4), 80).into())?;
    let traced = trace.stop()?.clean()?;
    assert!(traced.journeys.is_empty(), "{}", traced.list());
    assert_eq!(traced.count("packets"), 0);
    Ok(())
}

#[test]
fn two_flows_at_once_are_not_mixed() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh())?;
    let trace =
        trace(&lab, "node1", "--pod @visitor --dst 172.16.25.183 --node-netns @node1 --node-netns @node2")?;
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| Probe::Egw.run(&lab, Family::V4));
        }
    });
    let traced = trace.stop()?.clean()?;
    let flows: BTreeSet<u64> = traced.journeys.iter().map(crate::journey::Journey::flow).collect();
    assert_eq!(flows.len(), 4, "{}", traced.list());
    for flow in flows {
        let mut ports = BTreeSet::new();
        let (mut kinds, mut bad) = (Vec::new(), Vec::new());
        for journey in traced.journeys.iter().filter(|journey| journey.flow() == flow) {
            kinds.push(journey.kind());
            for hop in journey.raw() {
                ports.extend(
                    ["sport", "dport"].iter().filter_map(|end| hop[*end].as_u64()).filter(|p| *p != 80),
                );
            }
            let places = journey.places();
            let mut once: Vec<_> = places.clone();
            once.sort();
            once.dedup();
            // Each place once, but for PREROUTING of the outer and of the inner packet.
            if places.len() > once.len() + 6 || !(15..=30).contains(&places.len()) {
                bad.push(places);
            }
        }
        assert!(bad.is_empty(), "{bad:#?}");
        assert_eq!(ports.len(), 1, "flow {flow} has several ports: {ports:?}");
        assert_eq!(&kinds[..3], ["SYN", "SYN-ACK", "ACK"]);
        assert_eq!(kinds.iter().filter(|kind| **kind == "SYN").count(), 1);
    }
    Ok(())
}
