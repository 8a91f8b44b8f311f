// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets that die: where, by which table, with which reason.

use std::time::Duration;

use anyhow::{Context, Result};
use tests::{
    Lab, Spec,
    client::{self, Outcome, Request},
    drops::{By, DropAt, Hook, Traffic},
    probe::Probe,
    topology::{self as t, Family},
};

use crate::{
    journey::Journey,
    running::{Traced, skip_unless_able, trace},
};

const QUICK: Duration = Duration::from_millis(150);

/// One request that is not patient.
fn ask(lab: &Lab, to: &str) -> Result<Outcome> {
    client::tcp(&lab.ns("visitor"), to.parse()?, Request::Who, QUICK)
}

fn has_dropped(all: &[Journey]) -> bool {
    all.iter().any(Journey::is_dropped)
}

/// The first packet dies in `hook`, and is told as `expected` says.
fn assert_dropped(lab: &Lab, one: DropAt, place: &str, line: &str, expected: &str) -> Result<()> {
    let what = format!("{:?}: {one}", lab.spec().backend);
    one.apply(lab).with_context(|| what.clone())?;
    let mut trace = trace(lab, place, line)?;
    let outcome = ask(lab, "172.16.25.183:80")?;
    assert!(outcome.answer().is_none(), "{what}");
    trace.until_journeys(has_dropped)?;
    let traced = trace.stop()?.clean()?;
    one.remove(lab)?;
    assert_eq!(traced.first("SYN").ending(), expected, "{what}: {:#?}", traced.first("SYN").hops());
    Ok(())
}

/// Where a packet of the visitor to `ext` dies: place of the rule, place of the tracer, its flags, and what it says.
struct Case {
    hook: Hook,
    place: &'static str,
    line: &'static str,
    place_of_tracer: &'static str,
    device: &'static str,
}

const CASES: [Case; 5] = [
    Case {
        hook: Hook::Prerouting,
        place: "node1",
        line: "--pod @visitor --dst 172.16.25.183:80",
        place_of_tracer: "node1",
        device: " (cni0)",
    },
    Case {
        hook: Hook::Forward,
        place: "node2",
        line: "--src 10.200.0.22 --dst 172.16.25.183:80",
        place_of_tracer: "node2",
        device: " (egress.vxlan)",
    },
    Case {
        hook: Hook::Postrouting,
        place: "node1",
        line: "--pod @visitor --dst 172.16.25.183:80",
        place_of_tracer: "node1",
        device: " (egress.vxlan)",
    },
    Case {
        hook: Hook::Output,
        place: "visitor",
        line: "--pod @visitor --dst 172.16.25.183:80",
        place_of_tracer: "node1",
        device: "",
    },
    // Behind SNAT the destination sees another source.
    Case {
        hook: Hook::Input,
        place: "ext",
        line: "--pod @ext --src 172.16.25.189 --dst 172.16.25.183:80",
        place_of_tracer: "ul",
        device: " (eth0)",
    },
];

#[test]
fn by_a_policy_in_a_table_of_its_own_at_each_hook() -> Result<()> {
    skip_unless_able!();
    let (by, table) = (By::NftPolicy { priority: 7 }, "ip egwt_drop HOOK");
    let lab = Lab::up(Spec::unique().without_mesh())?;
    for case in CASES {
        let table = table.replace("HOOK", case.hook.name());
        let traffic = Traffic::tcp_to_port(80).to(t::ext(Family::V4));
        let one = DropAt { place: case.place, hook: case.hook, by, traffic, family: Family::V4 };
        let expected = format!(
            "dropped NETFILTER_DROP at nft_do_chain in {}{} {} {table}",
            case.place,
            case.device,
            case.hook.name().to_uppercase()
        );
        assert_dropped(
            &lab,
            one,
            case.place_of_tracer,
            &format!("{} --positions all", case.line),
            &expected,
        )?;
    }
    Ok(())
}

#[test]
fn over_ipv6() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh().with_ipv6())?;
    let traffic = Traffic::tcp_to_port(80);
    let by = By::Rule { table: "filter" };
    DropAt { place: "node2", hook: Hook::Forward, by, traffic, family: Family::V6 }.apply(&lab)?;
    let mut trace = trace(&lab, "node2", "--src fd00:200:1::22 --dst fd00:172::183 --positions all")?;
    ask(&lab, "[fd00:172::183]:80")?;
    trace.until_journeys(has_dropped)?;
    let traced = trace.stop()?.clean()?;
    assert_eq!(
        traced.first("SYN").ending(),
        "dropped NETFILTER_DROP at nft_do_chain in node2 (egress.vxlan) FORWARD filter"
    );
    Ok(())
}

/// Applies a fault, makes its traffic while tracing, and waits for a drop.
fn fault(name: &str, place: &str, line: &str, to: &str) -> Result<Traced> {
    let lab = Lab::up(Spec::unique().without_mesh())?;
    lab.fault(name)?;
    let mut trace = trace(&lab, place, line)?;
    ask(&lab, to)?;
    trace.until_journeys(has_dropped)?;
    trace.stop()?.clean()
}

#[track_caller]
fn assert_first_drop(traced: &Traced, expected: &str) {
    let dropped = traced.journeys.iter().find(|journey| journey.is_dropped()).expect("a drop");
    assert_eq!(dropped.ending(), expected, "{:#?}", dropped.hops());
}

#[test]
fn nobody_listens_and_the_answer_is_a_reset() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh())?;
    let mut trace = trace(&lab, "node2", "--pod @pod2 --src 10.200.0.22 --dst 10.200.1.22:81")?;
    assert_eq!(ask(&lab, "10.200.1.22:81")?, Outcome::Refused);
    trace.until_journeys(|all| all.len() >= 2)?;
    let traced = trace.stop()?.clean()?;
    let syn = traced.first("SYN");
    assert_eq!(syn.ending(), "dropped NO_SOCKET at tcp_v4_rcv in pod2 (eth0) after delivery");
    assert!(syn.notes().iter().any(|note| note.starts_with("reset-sent")), "{:?}", syn.notes());
    assert_eq!(traced.first("RST-ACK").ending(), "left node2 by eth0");
    Ok(())
}

#[test]
fn by_source_validation() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh())?;
    lab.ns("node2").sysctl(&[("ipv4/conf/egress.vxlan/rp_filter", "1")])?;
    let mut trace = trace(&lab, "node2", "--src 10.200.0.22 --dst 172.16.25.183:80")?;
    ask(&lab, "172.16.25.183:80")?;
    trace.until_journeys(has_dropped)?;
    let traced = trace.stop()?.clean()?;
    assert_first_drop(&traced, "dropped IP_RPFILTER at ip_rcv_finish_core in node2 (egress.vxlan)");
    Ok(())
}

#[test]
fn without_a_route() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh())?;
    lab.sh("node1", "ip route del default")?;
    let mut trace = trace(&lab, "node1", "--pod @visitor --dst 203.0.113.7")?;
    ask(&lab, "203.0.113.7:80")?;
    trace.until_journeys(has_dropped)?;
    let traced = trace.stop()?.clean()?;
    assert_first_drop(&traced, "dropped IP_INNOROUTES at ip_error in node1 (cni0)");
    let syn = traced.first("SYN");
    assert!(syn.notes().iter().any(|note| note.starts_with("icmp-sent")), "{:?}", syn.notes());
    Ok(())
}

#[test]
fn by_a_blackhole_route() -> Result<()> {
    skip_unless_able!();
    let line = "--pod @visitor --dst 10.200.1.22:80";
    let traced = fault("route-blackhole", "node1", line, "10.200.1.22:80")?;
    assert_first_drop(&traced, "dropped NOT_SPECIFIED at ip_error in node1 (cni0)");
    let hops = traced.first("SYN").hops();
    assert!(hops.iter().any(|hop| hop == "node1 route table main error blackhole"), "{hops:#?}");
    Ok(())
}

#[test]
fn by_a_neighbour_that_does_not_answer() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh())?;
    // Nobody has 172.16.25.99; three requests, a second apart, then the packets that wait are dropped.
    lab.ns("node1")
        .sysctl(&[("ipv4/neigh/eth0/retrans_time_ms", "100"), ("ipv4/neigh/eth0/mcast_solicit", "1")])?;
    let mut trace = trace(&lab, "node1", "--pod @visitor --dst 172.16.25.99")?;
    ask(&lab, "172.16.25.99:80")?;
    trace.until_journeys(has_dropped)?;
    let traced = trace.stop()?.clean()?;
    let dropped = traced.journeys.iter().find(|journey| journey.is_dropped()).expect("a drop");
    let ending = dropped.ending();
    assert!(
        ending.starts_with("dropped NEIGH_FAILED at ") && ending.ends_with(" in node1 (eth0)"),
        "{ending}"
    );
    Ok(())
}

#[test]
fn too_big_for_the_tunnel_with_an_icmp_error() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh())?;
    lab.raise_pod_mtu()?;
    let mut trace = trace(&lab, "node1", "--pod @visitor --dst 172.16.25.183 --proto icmp")?;
    client::ping(&lab.ns("visitor"), t::ext(Family::V4), 1, 1460, false)?;
    trace.until_journeys(has_dropped)?;
    let traced = trace.stop()?.clean()?;
    assert_first_drop(&traced, "dropped PKT_TOO_BIG at ip_forward in node1 (cni0)");
    let request = &traced.journeys[0];
    assert!(request.notes().iter().any(|note| note.contains("frag")), "{:?}", request.notes());
    // The error itself goes back to the pod, and is shown as part of the flow.
    let error = traced.journeys.iter().find(|journey| journey.value["packet"].get("icmp_error").is_some());
    let error = error.unwrap_or_else(|| panic!("no ICMP error among\n{}", traced.list()));
    assert!(error.is_reply());
    assert_eq!(error.ending(), "delivered in visitor");
    let icmp = &error.value["packet"]["icmp_error"];
    assert_eq!((&icmp["type"], &icmp["code"], &icmp["mtu"]), (&3.into(), &4.into(), &1450.into()), "{icmp}");
    Ok(())
}

#[test]
fn what_vanishes_without_a_drop_is_called_vanished_and_nothing_lost() -> Result<()> {
    skip_unless_able!();
    // The frames are for nobody: the bridge sends them to its other ports, where nothing of ours looks.
    let lab = Lab::up(Spec::unique().without_mesh().without_bridge_nf())?;
    lab.sh("visitor", "ip neigh replace 10.200.0.1 lladdr 02:00:00:00:99:99 dev eth0 nud permanent")?;
    let mut trace = trace(&lab, "node1", "--pod @visitor --dst 172.16.25.183:80")?;
    ask(&lab, "172.16.25.183:80")?;
    trace.until_journeys(|all| !all.is_empty())?;
    let traced = trace.stop()?.clean()?;
    let syn = traced.first("SYN");
    assert_eq!(syn.ending(), "vanished, next node1 cni0 in, 0 events lost");
    assert_eq!(syn.value["ending"]["unless_bridged"], "cni0");
    assert_eq!(traced.count("vanished"), 1);
    Ok(())
}

#[test]
fn only_drops_are_shown_when_only_drops_are_asked_for() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh())?;
    let mut trace = trace(&lab, "node1", "--pod @visitor --dst 172.16.25.183 --drops")?;
    Probe::Egw.run(&lab, Family::V4)?;
    let by = By::Rule { table: "raw" };
    let traffic = Traffic::tcp_to_port(80);
    DropAt { place: "node1", hook: Hook::Prerouting, by, traffic, family: Family::V4 }.apply(&lab)?;
    ask(&lab, "172.16.25.183:80")?;
    trace.until_journeys(has_dropped)?;
    let traced = trace.stop()?.clean()?;
    assert!(traced.journeys.iter().all(Journey::is_dropped), "{}", traced.list());
    assert!(traced.count("packets") > 8, "{}", traced.summary);
    Ok(())
}
