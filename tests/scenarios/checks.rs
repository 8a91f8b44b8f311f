// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every fault of the catalogue before any traffic: what `egwtrace check` finds, and that it finds nothing where
//! nothing is wrong or nothing can be known. Prints fault → causes → right or wrong.
//!
//! `EGWT_ONLY=a,b` tries these faults only; `EGWT_JOBS=4`.

use std::{
    env,
    net::IpAddr,
    path::PathBuf,
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tests::{
    Lab, Spec, faults, skip_unless_root,
    topology::{self as t, Family, NODE1},
};

/// A fault, the packet that is asked about, and the first cause that is right; none: nothing may be named.
struct Case {
    fault: &'static str,
    packet: &'static str,
    causes: &'static [&'static str],
}

const EGW: &str = "--pod @visitor --dst 172.16.25.183:80";
const EGW2: &str = "--pod @visitor --dst 198.51.100.10:80";
const POD2: &str = "--pod @visitor --dst 10.200.1.22:80";
const SVC: &str = "--pod @visitor --dst 10.96.100.100:80";
const NODEPORT: &str = "--src 172.16.25.183 --dst 172.16.25.11:30897";
const MESH: &str = "--pod @mesh --dst 10.200.1.22:80";

const fn case(fault: &'static str, packet: &'static str, causes: &'static [&'static str]) -> Case {
    Case { fault, packet, causes }
}

/// Asked with both nodes. What only traffic shows is expected to be found by nobody: ports that are used up, queues
/// and delays, what a host beyond the nodes does, an accept queue that is still empty, a connection that is yet to be.
const CASES: &[Case] = &[
    case("egw-agent-down", EGW, &["egress-not-handled"]),
    case("policy-src-miss", EGW, &["egress-pod-not-selected"]),
    case("policy-dst-miss", EGW, &["egress-destination-not-selected"]),
    case("eip-none", EGW, &["left-without-snat"]),
    case("snat-order", EGW, &["snat-to-another-address"]),
    case("nat-accept-missing", EGW, &["masqueraded-before-tunnel"]),
    case("rule-missing", EGW, &["fwmark-without-rule"]),
    case("mark-not-cleared", EGW, &["tunnel-into-itself"]),
    case("fwd-drop", EGW, &["dropped-by-policy"]),
    case("calico-insert", EGW, &["masqueraded-before-tunnel"]),
    case("calico-insert-nonat", EGW, &["only-first-packet-marked"]),
    case("calico-append", EGW, &[]),
    case("vxlan-missing", EGW, &["fwmark-table-empty"]),
    case("vxlan-down-gw", EGW, &["tunnel-not-listening"]),
    case("vxlan-no-neigh", EGW, &["tunnel-neighbour-missing"]),
    case("vxlan-no-fdb", EGW, &["tunnel-peer-missing"]),
    case("vxlan-wrong-mac", EGW, &["tunnel-wrong-mac"]),
    case("underlay-block-vxlan", EGW, &["dropped-by-rule"]),
    case("ttl-loop", EGW, &["routing-loop"]),
    case("rpf-gw", EGW, &["reverse-path-filter"]),
    case("eip-no-arp", EGW, &["no-answer"]),
    case("gw-no-route", EGW2, &["no-route"]),
    case("eip-ports", EGW, &[]),
    case("mtu-egress", EGW, &["packet-too-big"]),
    case("pmtu-blackhole", EGW, &["path-mtu-black-hole"]),
    case("pod-bad-gw", POD2, &["neighbour-silent"]),
    case("pod-no-route", POD2, &["no-route"]),
    case("veth-detached", POD2, &["port-not-in-bridge"]),
    case("flannel-down", POD2, &["tunnel-not-listening"]),
    case("route-missing", POD2, &["pod-address-on-the-wire"]),
    case("route-blackhole", POD2, &["route-blackhole"]),
    case("nic-queue", POD2, &[]),
    case("latency", EGW, &[]),
    case("mtu-flannel", POD2, &["path-mtu-black-hole"]),
    case("br-fwd-drop", "--pod @visitor --dst 10.200.0.23:80", &["dropped-by-policy"]),
    case("fw-in", EGW, &[]),
    case("fw-out", EGW, &["dropped-by-rule"]),
    case("fw-fwd", POD2, &["dropped-by-rule"]),
    case("netpol", POD2, &["dropped-by-rule"]),
    case("kube-invalid", POD2, &[]),
    case("ct-full", POD2, &["conntrack-full"]),
    case("svc-no-kubeproxy", SVC, &["service-not-translated"]),
    case("svc-no-endpoints", "--pod @visitor --dst 10.96.100.200:80", &["rejected-by-rule"]),
    case("svc-targetport", SVC, &["port-closed"]),
    case("port-closed", "--pod @visitor --dst 10.200.1.22:81", &["port-closed"]),
    case("listen-overflow", "--pod @visitor --dst 10.200.1.22:90", &[]),
    case("nodeport-nomasq", NODEPORT, &["service-not-masqueraded"]),
    case("nodeport-local", NODEPORT, &["dropped-by-rule"]),
    case("dns-down", "--pod @visitor --dst 10.200.1.22:53 --proto udp", &["port-closed"]),
    case("stale-udp", "--pod @visitor --dst 10.96.0.53:53 --proto udp", &["neighbour-silent"]),
    case("calico-overlap", "--pod @cpod --dst 10.96.0.1:443", &["pod-address-on-the-wire"]),
    case("ip-forward", EGW, &["forwarding-off"]),
    case("bridge-nf", "--pod @visitor --dst 10.96.100.101:80", &["reply-from-another-address"]),
    case("docker-ok", "--src 172.16.25.183 --dst 172.16.25.11:443", &[]),
    case("docker-fwd-drop", "--src 172.16.25.183 --dst 172.16.25.11:443", &["dropped-by-policy"]),
    case("mark-late", EGW, &["mark-after-routing"]),
    case("rpf-multinic", EGW2, &[]),
    case("osm-ok", MESH, &[]),
    case("osm-envoy-down", MESH, &["redirected-to-nobody"]),
    case("osm-no-rules", MESH, &["sidecar-bypassed"]),
    case("osm-uid", MESH, &["redirect-loop"]),
    case("osm-port-excl", "--pod @mesh --dst 10.200.1.22:6379", &["redirected-to-nobody"]),
    case("nft-ok", SVC, &[]),
    case("nft-no-endpoints", "--pod @visitor --dst 10.96.100.200:80", &["rejected-by-rule"]),
    case("nft-no-port", SVC, &["rejected-by-rule"]),
    case("nft-source-ranges", SVC, &["dropped-by-rule"]),
];

/// In a healthy lab nothing is wrong with these, in both families where they exist.
const HEALTHY: &[(&str, &str)] = &[
    (EGW, "--pod @visitor --dst [fd00:172::183]:80"),
    (EGW2, ""),
    ("--pod @visitor --dst 172.16.25.183:7 --proto udp", ""),
    ("--pod @visitor --dst 172.16.25.183 --proto icmp", "--pod @visitor --dst fd00:172::183 --proto icmp"),
    (POD2, "--pod @visitor --dst [fd00:200:2::22]:80"),
    ("--pod @visitor --dst 10.200.0.23:80", "--pod @visitor --dst [fd00:200:1::23]:80"),
    (SVC, ""),
    ("--pod @visitor --dst 10.96.0.10:53 --proto udp", ""),
    (NODEPORT, ""),
    (MESH, ""),
    ("--pod @visitor --dst 10.200.0.33:80", ""),
];

fn binary() -> Option<PathBuf> {
    if let Some(path) = env::var_os("EGWTRACE_BIN") {
        return Some(path.into());
    }
    let path = env::current_exe().ok()?.ancestors().nth(3)?.join("release/egwtrace");
    path.is_file().then_some(path)
}

/// The causes by id with their titles, and the exit code.
fn check(lab: &Lab, packet: &str) -> Result<(Vec<(String, String)>, i32)> {
    let prefix = lab.spec().prefix();
    let line =
        format!("check -o json --node-netns @node1 --node-netns @node2 {packet}").replace('@', &prefix);
    let output = Command::new(binary().context("no egwtrace")?).args(line.split_whitespace()).output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    let code = output.status.code().context("egwtrace was killed")?;
    if code == 2 || !errors.is_empty() {
        bail!("egwtrace {line}: {code} {errors}");
    }
    let mut found = Vec::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let report: Value = serde_json::from_str(line)?;
        for cause in report["causes"].as_array().context("no causes")? {
            let text = |name: &str| cause[name].as_str().unwrap_or_default().to_owned();
            found.push((text("id"), format!("{}: {}", text("certainty"), text("title"))));
        }
    }
    Ok((found, code))
}

fn judge(causes: &[&str], found: &[(String, String)], code: i32) -> bool {
    let possible = found.iter().all(|(_, title)| title.starts_with("possible"));
    let right = match causes {
        [] => found.is_empty(),
        wanted => found.first().is_some_and(|(id, _)| wanted.contains(&id.as_str())),
    };
    right && code == i32::from(!possible)
}

#[test]
fn each_fault_is_found_before_traffic() -> Result<()> {
    found(Family::V4, tests::Backend::Nft, &|case| Some((case.packet.to_owned(), case.causes)))
}

#[test]
fn each_fault_of_ipv6_is_found_on_the_other_back_end() -> Result<()> {
    found(Family::V6, tests::Backend::Legacy, &|case| {
        let fault = faults::find(case.fault).ok()?;
        fault.expected(Family::V6)?;
        let causes =
            SIX.iter().find(|(name, _)| *name == case.fault).map_or(case.causes, |(_, causes)| causes);
        Some((in_ipv6(case.packet), causes))
    })
}

/// Faults that are another one over IPv6, or that cannot be known there.
const SIX: &[(&str, &[&str])] = &[
    // The agent answers neighbour solicitations by a raw socket, which many programs have.
    ("eip-no-arp", &[]),
];

/// The same packet between the same hosts.
fn in_ipv6(packet: &str) -> String {
    let mut out = packet.to_owned();
    for address in [t::ext, t::ext2, t::pod2, t::cluster_ip, t::empty_service, t::dns_service]
        .into_iter()
        .chain([(|family| t::of(&t::PODS[1].ip, family)) as fn(Family) -> IpAddr, |family| NODE1.ip(family)])
    {
        let (four, six) = (address(Family::V4).to_string(), format!("[{}]", address(Family::V6)));
        for end in [":", " ", ""] {
            let whole = format!("{four}{end}");
            let at_end = !end.is_empty() || out.ends_with(&four);
            if at_end && out.contains(&whole) {
                out = out.replace(&whole, &format!("{six}{end}"));
            }
        }
    }
    out
}

type Asked<'a> = (String, &'a [&'static str]);

fn found(
    family: Family,
    backend: tests::Backend,
    asked: &(dyn Fn(&'static Case) -> Option<Asked<'static>> + Sync),
) -> Result<()> {
    skip_unless_root!();
    if binary().is_none() {
        println!("SKIP no egwtrace: EGWTRACE_BIN is not set (cargo xtask test sets it)");
        return Ok(());
    }
    let only = env::var("EGWT_ONLY").ok();
    let wanted =
        |case: &&Case| only.as_ref().is_none_or(|only| only.split(',').any(|name| name == case.fault));
    let cases: Vec<(&Case, Asked<'_>)> =
        CASES.iter().filter(wanted).filter_map(|case| Some((case, asked(case)?))).collect();
    let jobs = env::var("EGWT_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(3);
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let run = |case: &Case, packet: &str| -> Result<(Vec<(String, String)>, i32)> {
        let mut spec = Spec::unique().with_backend(backend);
        spec.ipv6 = family == Family::V6;
        let lab = Lab::up(spec)?;
        faults::find(case.fault)?.apply(&lab, family)?;
        check(&lab, packet)
    };
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some((case, (packet, causes))) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (right, text) = match run(case, packet) {
                        Ok((found, code)) => (
                            judge(causes, &found, code),
                            found
                                .iter()
                                .map(|(id, title)| format!("{id} [{title}]"))
                                .collect::<Vec<_>>()
                                .join("; "),
                        ),
                        Err(error) => (false, format!("{error:#}")),
                    };
                    println!("{:6} {:21} → {text}", if right { "right" } else { "WRONG" }, case.fault);
                    if !right {
                        wrong.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(case.fault);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    assert!(wrong.is_empty(), "{} of {}: {wrong:?}", wrong.len(), cases.len());
    Ok(())
}

#[test]
fn the_table_has_every_fault() {
    for fault in faults::all() {
        assert!(CASES.iter().any(|case| case.fault == fault.name), "{} is not in the table", fault.name);
    }
}

#[test]
fn nothing_is_wrong_with_healthy_paths() -> Result<()> {
    skip_unless_root!();
    if binary().is_none() {
        println!("SKIP no egwtrace: EGWTRACE_BIN is not set (cargo xtask test sets it)");
        return Ok(());
    }
    let mut wrong = Vec::new();
    for backend in [tests::Backend::Nft, tests::Backend::Legacy] {
        let lab = Lab::up(Spec::unique().with_ipv6().with_backend(backend))?;
        for packet in HEALTHY.iter().flat_map(|(four, six)| [four, six]).filter(|packet| !packet.is_empty()) {
            let (found, code) = check(&lab, packet)?;
            if !found.is_empty() || code != 0 {
                wrong.push(format!("{backend:?} {packet}: {code} {found:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}
