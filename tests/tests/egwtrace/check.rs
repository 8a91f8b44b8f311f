// SPDX-License-Identifier: MIT OR Apache-2.0
//! `egwtrace check`: what it says of a lab before any traffic, and that it leaves the lab as it was.

use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;
use tests::{Lab, Spec, probe::Probe, topology::Family};

use crate::running::{Invocation, Traced, skip_unless_able};

const NODES: &str = "--node-netns @node1 --node-netns @node2";

fn check(lab: &Lab, line: &str) -> Result<Traced> {
    Invocation::new(lab, "node1", &format!("check {line}"))?.output()
}

fn report(lab: &Lab, line: &str) -> Result<Value> {
    let checked = check(lab, &format!("-o json {line}"))?;
    Ok(serde_json::from_str(checked.lines.first().context("no report")?)?)
}

/// What a check must not change: rules, neighbours, routes; and no packet to the destination.
fn state(lab: &Lab) -> Result<Vec<String>> {
    let mut out = Vec::new();
    for (place, line) in [
        ("visitor", "ip -4 neigh"),
        ("node1", "ip -4 neigh"),
        ("node1", "ip -4 route show table all"),
        ("node1", "ip -4 rule"),
        ("node1", "iptables-save"),
        ("node2", "iptables-save"),
        ("node1", "conntrack -L -d 172.16.25.183"),
        ("node2", "conntrack -L -d 172.16.25.183"),
    ] {
        let text = lab.sh(place, line)?;
        // The kernel's own multicast counts at the chains' policies.
        out.push(text.lines().filter(|l| !l.starts_with(['#', ':'])).collect::<Vec<_>>().join("\n"));
    }
    let counted = lab.sh("node1", "iptables-save -c -t mangle")?;
    out.extend(counted.lines().filter(|line| line.contains("match-set")).map(str::to_owned));
    Ok(out)
}

#[test]
fn a_healthy_path_is_told_hop_by_hop_and_nothing_is_sent() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh())?;
    let before = state(&lab)?;
    let checked = check(&lab, &format!("{NODES} --pod @visitor --dst 172.16.25.183:80"))?;
    assert_eq!(checked.status.code(), Some(0), "{}", checked.errors);
    let text = checked.text(&lab.ns("node1"));
    for said in [
        "mark 0x0 → 0x26b7b4e4",
        "Set mark for EgressPolicy default-test",
        "fwmark 0x26b7b4e4 → table 649573604 → via 192.200.201.40 dev egress.vxlan",
        "in vxlan 172.16.25.11 → 172.16.25.12 vni 100",
        "SNAT 10.200.0.22 → 172.16.25.189",
        "by nat EGRESSGATEWAY-SNAT-EIP rule 1",
        "leaves node2 by eth0",
        "fwmark 0x2698ee37 → table 647556663",
        "arrives in visitor",
        "nothing wrong found on node1 and node2",
    ] {
        assert!(text.contains(said), "{said:?} is missing in\n{text}");
    }
    assert_eq!(state(&lab)?, before, "it left traces");
    Ok(())
}

#[test]
fn the_path_that_is_told_is_the_path_that_is_taken() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh())?;
    for (flow, probe) in [
        ("--dst 172.16.25.183:80", Probe::Egw),
        ("--dst 10.200.1.22:80", Probe::Pod2),
        ("--dst 10.96.100.100:80", Probe::Svc),
    ] {
        let line = format!("{NODES} --pod @visitor {flow}");
        let told = report(&lab, &line)?;
        let trace = crate::running::trace(&lab, "node1", &line)?;
        probe.run(&lab, Family::V4)?;
        let traced = trace.stop()?.clean()?;
        let prefix = lab.spec().prefix();
        let device = |step: &Value| {
            (step["kind"] == "device").then(|| {
                format!("{} {} {}", step["netns"], step["device"], step["direction"]).replace(&prefix, "")
            })
        };
        let told: Vec<String> =
            told["paths"][0]["steps"].as_array().context("no steps")?.iter().filter_map(device).collect();
        let seen: Vec<String> = traced.first("SYN").raw().iter().filter_map(device).collect();
        // Behind the last node nobody watches.
        assert!(told.starts_with(&seen) && !seen.is_empty(), "{flow}\ntold {told:#?}\nseen {seen:#?}");
    }
    Ok(())
}

#[test]
fn the_first_thing_that_is_wrong_has_a_cause_and_a_fix() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh())?;
    lab.fault("rule-missing")?;
    let checked = check(&lab, &format!("-v {NODES} --pod @visitor --dst 172.16.25.183:80"))?;
    assert_eq!(checked.status.code(), Some(1));
    let text = checked.text(&lab.ns("node1"));
    for said in [
        "✗ routing",
        "first thing wrong: routing",
        "has no ip rule for it: table main sends it out of eth0",
        "ip rule show fwmark 0x26b7b4e4",
        "fix       ip netns exec node1 ip rule add priority 99 fwmark 0x26b7b4e4 lookup 649573604",
    ] {
        assert!(text.contains(said), "{said:?} is missing in\n{text}");
    }
    // The fix is right.
    lab.sh("node1", "ip rule add priority 99 fwmark 0x26b7b4e4 lookup 649573604")?;
    let checked = check(&lab, &format!("{NODES} --pod @visitor --dst 172.16.25.183:80"))?;
    assert_eq!(checked.status.code(), Some(0), "{}", checked.text(&lab.ns("node1")));
    Ok(())
}

#[test]
fn two_faults_at_once_are_both_told() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh())?;
    lab.fault("mtu-egress")?;
    lab.fault("eip-none")?;
    let told = report(&lab, &format!("{NODES} --pod @visitor --dst 172.16.25.183:80"))?;
    let ids: Vec<&str> =
        told["causes"].as_array().context("no causes")?.iter().filter_map(|c| c["id"].as_str()).collect();
    assert_eq!(ids, ["left-without-snat", "packet-too-big"]);
    Ok(())
}

#[test]
fn one_node_alone_says_what_it_cannot_see() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh())?;
    lab.fault("eip-none")?;
    let told = report(&lab, "--pod @visitor --dst 172.16.25.183:80")?;
    assert_eq!(told["causes"], serde_json::json!([]), "node1 does not know");
    let unknown = told["unknown"].to_string();
    assert!(unknown.contains("what the node 172.16.25.12 does with it"), "{unknown}");
    // The gateway knows.
    let gateway =
        Invocation::new(&lab, "node2", "check -o json --src 10.200.0.22 --dst 172.16.25.183:80")?.output()?;
    assert_eq!(gateway.status.code(), Some(1));
    assert!(
        gateway.lines[0].contains("left-without-snat") || gateway.lines[0].contains("pod-address"),
        "{}",
        gateway.lines[0]
    );
    Ok(())
}

#[test]
fn no_bpf_is_needed() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh())?;
    let Some(binary) = crate::running::binary() else { return Ok(()) };
    let line =
        format!("check {NODES} --pod @visitor --dst 172.16.25.183:80").replace('@', &lab.spec().prefix());
    let run = |set: &str| {
        Command::new("setpriv")
            .args(["--bounding-set", set])
            .arg(&binary)
            .args(line.split_whitespace())
            .output()
    };
    let Ok(output) = run("-all,+net_admin,+net_raw,+sys_admin") else {
        println!("SKIP setpriv is not installed");
        return Ok(());
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}\n{}", String::from_utf8_lossy(&output.stdout));
    let output = run("-all,+sys_admin")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        errors.starts_with("egwtrace: missing CAP_NET_ADMIN (to read firewall rules and sets)"),
        "{errors}"
    );
    Ok(())
}

#[test]
fn what_is_no_single_packet_is_refused() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh())?;
    for (line, said) in [
        ("--pod @visitor", "no destination was given; accepted: --dst"),
        ("--pod @visitor --dst 10.0.0.0/8", "10.0.0.0/8 is a network; accepted: --dst"),
        ("--dst 10.0.0.1 --count 3", "--count is a flag of tracing"),
    ] {
        let checked = check(&lab, line)?;
        assert_eq!(checked.status.code(), Some(2), "{line}");
        assert!(checked.errors.contains(said) && checked.lines.is_empty(), "{line}: {}", checked.errors);
    }
    Ok(())
}
