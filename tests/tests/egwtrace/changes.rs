// SPDX-License-Identifier: MIT OR Apache-2.0
//! The node changes while it is watched.

use anyhow::Result;
use tests::{
    Lab, Spec, client,
    probe::Probe,
    topology::{self as t, Family},
};

use crate::{
    journey::Journey,
    running::{skip_unless_able, trace},
};

#[test]
fn a_device_that_goes_and_comes_again_is_told_and_watched_again() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh())?;
    let mut trace = trace(&lab, "node1", "--pod @visitor --dst 172.16.25.183:7 --proto udp")?;
    let ask = || {
        let to = (t::ext(Family::V4), 7).into();
        client::udp(&lab.ns("visitor"), to, 0, b"x", std::time::Duration::from_millis(300))
    };
    ask()?;
    lab.sh("node1", "ip link del egress.vxlan")?;
    trace.until_says("\"appeared\":false")?;
    // As the agent makes it.
    for line in [
        "ip link add egress.vxlan address 66:c5:d6:cc:29:54 type vxlan id 100 dstport 7789 local 172.16.25.11 dev eth0 nolearning udpcsum",
        "ip link set egress.vxlan up",
        "ip addr add 192.200.142.89/16 dev egress.vxlan",
        "ip neigh add 192.200.201.40 lladdr 66:66:41:3e:23:6b dev egress.vxlan nud permanent",
        "bridge fdb append 66:66:41:3e:23:6b dev egress.vxlan dst 172.16.25.12 self permanent",
        "ip route add default via 192.200.201.40 dev egress.vxlan table 649573604",
    ] {
        lab.sh("node1", line)?;
    }
    lab.ns("node1").sysctl(&[("ipv4/conf/egress.vxlan/rp_filter", "2")])?;
    trace.until_says("\"appeared\":true")?;
    ask()?;
    let traced = trace.stop()?.clean()?;
    let requests: Vec<&Journey> = traced.all("UDP").filter(|journey| !journey.is_reply()).collect();
    for request in [requests[0], requests[requests.len() - 1]] {
        let hops = request.hops();
        assert!(hops.contains(&"node1 egress.vxlan out".to_owned()), "{hops:#?}");
        assert_eq!(request.ending(), "left node1 by eth0");
    }
    Ok(())
}

#[test]
fn a_pods_namespace_that_goes_is_told_and_the_run_goes_on() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh().without_servers())?;
    let mut trace = trace(&lab, "node1", "--pod @visitor")?;
    lab.ns("visitor").delete()?;
    // The tracer's own descriptor keeps the namespace: what tells is that the name, and everybody in it, are gone.
    trace.until_says("is gone")?;
    let traced = trace.stop()?.clean()?;
    assert!(
        traced.notices.iter().any(|notice| notice.to_string().contains("visitor")),
        "{:?}",
        traced.notices
    );
    Ok(())
}

#[test]
fn a_new_rule_is_known_to_the_next_drop() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh())?;
    let mut trace = trace(&lab, "node1", "--pod @visitor --dst 172.16.25.183:80 --positions all")?;
    Probe::Egw.run(&lab, Family::V4)?;
    lab.ns("node1").exec(
        &["nft", "-f", "-"],
        Some("table ip late {\n chain c {\n type filter hook forward priority 77;\n tcp dport 80 drop\n }\n}\n"),
    )?;
    let to = (t::ext(Family::V4), 80).into();
    // The request is sent again after one and three seconds: a busy machine reads the rules late.
    client::tcp(&lab.ns("visitor"), to, client::Request::Who, std::time::Duration::from_millis(3500))?;
    let known = "dropped NETFILTER_DROP at nft_do_chain in node1 (cni0) FORWARD ip late c";
    trace.until_journeys(|all| all.iter().any(|journey| journey.ending() == known))?;
    trace.stop()?.clean()?;
    Ok(())
}

#[test]
fn a_pods_veth_that_is_deleted_is_told_and_the_run_ends_cleanly() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh())?;
    let mut trace = trace(&lab, "node1", "--pod @visitor --dst 172.16.25.183:80")?;
    Probe::Egw.run(&lab, Family::V4)?;
    trace.until_closed()?;
    lab.sh("node1", "ip link del vethpod")?;
    for device in ["vethpod", "eth0"] {
        trace.until_says(&format!("\"device\":\"{device}\",\"appeared\":false"))?;
    }
    let traced = trace.stop()?.clean()?;
    let gone = |notice: &&serde_json::Value| notice["appeared"] == false;
    let devices: Vec<_> =
        traced.notices.iter().filter(gone).map(|notice| notice["device"].as_str()).collect();
    assert!(devices.contains(&Some("vethpod")) && devices.contains(&Some("eth0")), "{devices:?}");
    assert_eq!(traced.count("vanished") + traced.count("dropped"), 0, "{}", traced.list());
    Ok(())
}
