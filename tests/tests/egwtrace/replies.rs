// SPDX-License-Identifier: MIT OR Apache-2.0
//! What comes back, or arrives, though not by the address or port that the filter expects.

use std::time::Duration;

use anyhow::Result;
use tests::{
    Lab, Spec,
    client::{self, Request},
};

use crate::running::{skip_unless_able, trace};

const NODES: &str = "--node-netns @node1 --node-netns @node2";

/// ext answers what comes to port 7 from port 7777.
const OTHER_PORT: [&str; 3] = [
    "nft add table ip answers",
    "nft add chain ip answers o { type filter hook output priority 100 ; }",
    "nft add rule ip answers o udp sport 7 udp sport set 7777",
];

#[test]
fn an_answer_from_another_port_is_not_called_silence() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh())?;
    for line in OTHER_PORT {
        lab.sh("ext", line)?;
    }
    let line = format!("--pod @visitor --dst 172.16.25.183:7 --proto udp {NODES}");
    let mut run = trace(&lab, "node1", &line)?;
    for _ in 0..6 {
        client::udp(
            &lab.ns("visitor"),
            "172.16.25.183:7".parse()?,
            40_007,
            b"hello",
            Duration::from_millis(700),
        )?;
    }
    run.until_says("from port 7777, not from port 7")?;
    let causes = run.stop()?.clean()?.summary["causes"].clone();
    let ids: Vec<_> = causes.as_array().into_iter().flatten().map(|cause| cause["id"].clone()).collect();
    assert_eq!(ids, ["answer-elsewhere"], "{causes}");
    Ok(())
}

#[test]
fn a_tunnel_whose_other_end_has_another_port() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh())?;
    lab.sh("node2", "ip link del flannel.1")?;
    lab.sh(
        "node2",
        "ip link add flannel.1 type vxlan id 1 dstport 4789 local 172.16.25.12 dev eth0 nolearning",
    )?;
    lab.sh("node2", "ip link set flannel.1 up")?;
    for (place, line) in [
        // The port of the outer packets is nobody's there.
        ("node2", "--src 10.200.0.22 --dst 10.200.1.22:80"),
        // An ICMP error about the outer packet comes back.
        ("node1", "--pod @visitor --dst 10.200.1.22:80"),
    ] {
        let mut run = trace(&lab, place, line)?;
        client::tcp(
            &lab.ns("visitor"),
            "10.200.1.22:80".parse()?,
            Request::Who,
            Duration::from_millis(1700),
        )?;
        run.until_says("tunnel-not-listening")?;
        run.stop()?.clean()?;
    }
    Ok(())
}
