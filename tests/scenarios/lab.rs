// SPDX-License-Identifier: MIT OR Apache-2.0
//! The lab is what it says: healthy when healthy, gone when gone, and apart from all else.
//!
//! Needs root and the tools; says so and passes where there are none.

use std::{
    fs,
    net::SocketAddr,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use tests::{
    Backend, Lab, Spec,
    causes::{self, Attempt},
    client::{self, Outcome},
    drops::{By, DropAt, Hook, Traffic},
    faults::{self, Expect},
    helper::Helper,
    ns,
    probe::Probe,
    run_dir::{self, RunDir},
    skip_unless_root,
    topology::{self as t, Family, NODE2},
    verify::{self, Trial},
};

const BOTH: [Family; 2] = [Family::V4, Family::V6];

#[test]
fn the_egress_path_works_in_both_families_and_on_both_back_ends() -> Result<()> {
    skip_unless_root!();
    for backend in [Backend::Nft, Backend::Legacy] {
        let lab = Lab::up(Spec::unique().with_ipv6().with_backend(backend))?;
        for family in BOTH {
            let report = Probe::Egw.run(&lab, family)?;
            assert_eq!(report.last().client(), Some(t::egress_ip(family)), "{backend:?}: {report}");
        }
    }
    Ok(())
}

#[test]
fn a_healthy_lab_answers_every_ordinary_probe() -> Result<()> {
    skip_unless_root!();
    let lab = Lab::up(Spec::unique().with_ipv6())?;
    let ordinary = [
        Probe::Egw,
        Probe::Egw2,
        Probe::Udp,
        Probe::Up,
        Probe::Down,
        Probe::Ping,
        Probe::PingBig,
        Probe::Pod2,
        Probe::PingPod2,
        Probe::Podb,
        Probe::UpPod2,
        Probe::Svc,
        Probe::Nodeport,
        Probe::Dns,
        Probe::DnsSvc,
        Probe::ManyEgw,
    ];
    let both = ordinary.into_iter().flat_map(|probe| BOTH.map(|family| (probe, family)));
    let mesh = [Probe::MeshOut, Probe::MeshIn].map(|probe| (probe, Family::V4));
    for (probe, family) in both.chain(mesh) {
        let report = probe.run(&lab, family)?;
        assert!(probe.passes(&report, family), "{} over {family:?}: {report}", probe.name());
    }
    Ok(())
}

#[test]
fn nothing_is_left_after_drop_and_after_a_panic() -> Result<()> {
    skip_unless_root!();
    let spec = Spec::unique();
    let id = spec.id.clone();
    drop(Lab::up(spec.clone())?);
    assert_gone(&id);
    let panicked = std::thread::spawn(move || {
        let _lab = Lab::up(spec).expect("a lab");
        panic!("as a failed assertion would");
    })
    .join();
    assert!(panicked.is_err());
    assert_gone(&id);
    Ok(())
}

#[test]
fn the_guard_takes_the_lab_down_after_sigkill() -> Result<()> {
    skip_unless_root!();
    let id = format!("k{}", std::process::id());
    // Another process puts a lab up, holds it, and is killed.
    let mut holder = Command::new(env!("CARGO_BIN_EXE_egwt-lab"))
        .args(["hold", &id])
        .stdout(Stdio::piped())
        .spawn()
        .context("starting a holder")?;
    let dir = RunDir::of(&id);
    let up = run_dir::wait_for(Duration::from_secs(10), || dir.running().len() >= 10);
    let servers = dir.running();
    holder.kill()?;
    holder.wait()?;
    assert!(up, "the holder's lab has only {} servers", servers.len());
    let gone = run_dir::wait_for(Duration::from_secs(5), || !dir.exists());
    assert!(gone, "the lab outlived its killed owner");
    assert_gone(&id);
    for (name, process) in servers {
        assert!(!process.alive(), "server {name} outlived the lab");
    }
    Ok(())
}

#[test]
fn two_labs_stand_side_by_side() -> Result<()> {
    skip_unless_root!();
    let one = Lab::up(Spec::unique())?;
    let two = Lab::up(Spec::unique())?;
    one.fault("vxlan-no-fdb")?;
    let probe = |lab: &Lab| {
        let to = SocketAddr::new(t::ext(Family::V4), 80);
        client::tcp(&lab.ns("visitor"), to, client::Request::Who, Duration::from_millis(500))
    };
    assert_eq!(probe(&one)?, Outcome::TimedOut);
    assert_eq!(probe(&two)?.client(), Some(t::egress_ip(Family::V4)));
    Ok(())
}

#[test]
fn the_machines_own_namespace_is_left_alone() -> Result<()> {
    skip_unless_root!();
    let look = || -> Result<Vec<String>> {
        let mut seen = Vec::new();
        for argv in [
            &["ip", "-br", "link"][..],
            &["ip", "rule"],
            &["ip", "route", "show", "table", "all"],
            &["nft", "list", "ruleset"],
            &["ipset", "list", "-n"],
        ] {
            let output = Command::new(argv[0]).args(&argv[1..]).output()?;
            seen.push(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        for key in ["ipv4/ip_forward", "ipv4/conf/all/rp_filter", "bridge/bridge-nf-call-iptables"] {
            seen.push(fs::read_to_string(format!("/proc/sys/net/{key}"))?);
        }
        Ok(seen)
    };
    // Others may be at work on the machine: one undisturbed look is enough.
    let mut differing = None;
    for _ in 0..5 {
        let before = look()?;
        let lab = Lab::up(Spec::unique().with_ipv6())?;
        Probe::Egw.run(&lab, Family::V4)?;
        let during = look()?;
        if during == before {
            return Ok(());
        }
        differing = Some((before, during));
    }
    panic!("with a lab up the machine's own namespace looks otherwise: {differing:#?}");
}

#[test]
fn a_second_lab_of_the_same_id_is_refused() -> Result<()> {
    skip_unless_root!();
    let lab = Lab::up(Spec::unique().without_servers())?;
    let error = Lab::up(lab.spec().clone()).expect_err("the id is taken");
    assert!(format!("{error:#}").contains("take it down first"), "{error:#}");
    // And the first one is unharmed.
    assert_eq!(lab.run_dir().namespaces()?.len(), 8);
    Ok(())
}

#[test]
fn a_drop_at_each_hook_by_rule_and_by_policy_stops_the_flow_and_its_removal_frees_it() -> Result<()> {
    skip_unless_root!();
    for backend in [Backend::Nft, Backend::Legacy] {
        let lab = Lab::up(Spec::unique().with_ipv6().with_backend(backend).without_mesh())?;
        for family in BOTH {
            for (hook, place) in [
                (Hook::Prerouting, "node1"),
                (Hook::Input, "ext"),
                (Hook::Forward, "node2"),
                (Hook::Output, "visitor"),
                (Hook::Postrouting, "node1"),
            ] {
                let traffic = Traffic::tcp_to_port(80).to(t::ext(family));
                let tables = ["raw", "mangle", "filter", "security"].into_iter();
                let rules = tables.filter(|table| hook.has_table(table)).map(|table| By::Rule { table });
                // Where EgressGateway accepts before the end of the chain, its policy is not asked.
                let policy = ["mangle", "filter"]
                    .into_iter()
                    .filter(|_| matches!(hook, Hook::Input | Hook::Output))
                    .filter(|table| hook.has_table(table))
                    .map(|table| By::Policy { table });
                let nft = [-310, -151, 7, 200].map(|priority| By::NftRule { priority });
                for by in rules.chain(policy).chain(nft).chain([By::NftPolicy { priority: -401 }]) {
                    let one = DropAt { place, hook, by, traffic, family };
                    one.apply(&lab).with_context(|| format!("{backend:?}: {one}"))?;
                    let outcome = ask_quickly(&lab, family)?;
                    assert_eq!(outcome, Outcome::TimedOut, "{backend:?}: {one}");
                    one.remove(&lab)?;
                }
                let outcome = ask_quickly(&lab, family)?;
                assert_eq!(outcome.client(), Some(t::egress_ip(family)), "{backend:?} {hook:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_calico_pod_with_a_pool_of_its_own_is_masqueraded_everywhere() -> Result<()> {
    skip_unless_root!();
    let lab = Lab::up(Spec::unique().without_mesh())?;
    lab.add_calico_pod("192.168.236.0/24")?;
    let report = Probe::Overlap.run(&lab, Family::V4)?;
    assert_eq!(report.answered(), 3, "{report}");
    Ok(())
}

#[test]
fn faults_have_names_of_their_own_and_controls_are_healthy() {
    let names: Vec<&str> = faults::all().map(|fault| fault.name).collect();
    let mut unique = names.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!((names.len(), unique.len()), (66, 66));
    for fault in faults::all().filter(|fault| fault.is_control()) {
        assert!(matches!(fault.expect, Expect::SeenAs(_)), "{}", fault.name);
    }
}

#[test]
fn every_fault_shows_its_client_what_the_catalogue_says() -> Result<()> {
    skip_unless_root!();
    let mut wrong = Vec::new();
    let attempts = BOTH.into_iter().flat_map(|family| {
        let here = move |case: &causes::Case| case.families.contains(&family);
        causes::catalogue().filter(here).map(move |case| Attempt {
            case,
            family,
            backend: Backend::Nft,
            strict: false,
        })
    });
    let trials: Vec<Trial> = attempts.map(|attempt| Trial { attempt, causes: false }).collect();
    verify::run(&trials, 6, &Helper::find()?, |trial, result| {
        let name = trial.attempt.name();
        match result {
            Ok(verdict) => wrong.extend(verdict.wrong.into_iter().map(|why| format!("{name}: {why}"))),
            Err(error) => wrong.push(format!("{name}: {error:#}")),
        }
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

#[test]
fn the_gateway_answers_for_the_egress_ip_only_through_the_announcer() -> Result<()> {
    skip_unless_root!();
    let lab = Lab::up(Spec::unique().with_ipv6().without_mesh())?;
    for place in ["node1", "node2"] {
        let addresses = lab.sh(place, "ip addr")?;
        assert!(!addresses.contains("172.16.25.189") && !addresses.contains("fd00:172::189"), "{addresses}");
    }
    Probe::Egw.run(&lab, Family::V4)?;
    Probe::Egw.run(&lab, Family::V6)?;
    let link = lab.sh("node2", "ip -br link show eth0")?;
    let mac = link.split_whitespace().nth(2).context("node2's MAC")?.to_owned();
    for family in BOTH {
        let neighbour = lab.sh("ext", &format!("ip neigh show {}", t::egress_ip(family)))?;
        assert!(neighbour.contains(&mac), "{family:?}: {neighbour}");
    }
    assert_eq!(NODE2.peer().name, "node1");
    Ok(())
}

/// One request which gives up after 150 ms: a path that works answers in a few.
fn ask_quickly(lab: &Lab, family: Family) -> Result<Outcome> {
    let to = SocketAddr::new(t::ext(family), 80);
    client::tcp(&lab.ns("visitor"), to, client::Request::Who, Duration::from_millis(150))
}

fn assert_gone(id: &str) {
    let left = ns::with_prefix(&format!("egwt-{id}-")).expect("a list of namespaces");
    assert!(left.is_empty(), "namespaces are left: {left:?}");
    assert!(!RunDir::of(id).exists(), "files are left");
}
