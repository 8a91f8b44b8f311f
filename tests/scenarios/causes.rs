// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every fault of the catalogue under the real binary: which cause it names, and that it names none where
//! nothing is wrong. Prints fault → cause → right or wrong.
//!
//! `EGWT_ONLY=a,b` tries these faults only; `EGWT_KEEP=DIR` keeps what egwtrace printed; `EGWT_JOBS=4`.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tests::{
    Lab, Spec,
    faults::{self, Fault},
    probe::Probe,
    skip_unless_root,
    topology::Family,
};

/// A fault, the traffic that is followed, and the causes that are right; none: nothing may be named.
struct Case {
    fault: &'static str,
    flow: &'static str,
    causes: &'static [&'static str],
}

const EGW: &str = "--pod @visitor --dst 172.16.25.183";
const EGW2: &str = "--pod @visitor --dst 198.51.100.10";
const POD2: &str = "--pod @visitor --dst 10.200.1.22";

const fn case(fault: &'static str, flow: &'static str, causes: &'static [&'static str]) -> Case {
    Case { fault, flow, causes }
}

/// Followed on both nodes. Not there: `pod-no-route`, in which there is no packet to follow.
const CASES: &[Case] = &[
    case("egw-agent-down", EGW, &["egress-not-handled"]),
    case("policy-src-miss", EGW, &["egress-pod-not-selected"]),
    case("policy-dst-miss", EGW, &["egress-destination-not-selected"]),
    case("eip-none", EGW, &["left-without-snat"]),
    case("snat-order", EGW, &["snat-to-another-address"]),
    case("nat-accept-missing", EGW, &["masqueraded-before-tunnel"]),
    case("rule-missing", EGW, &["fwmark-without-rule"]),
    case("mark-not-cleared", EGW, &["tunnel-into-itself"]),
    case("fwd-drop", EGW, &["dropped-by-rule", "dropped-by-policy"]),
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
    case("eip-ports", EGW, &["no-snat-port"]),
    case("mtu-egress", EGW, &["packet-too-big"]),
    case("pmtu-blackhole", EGW, &["path-mtu-black-hole"]),
    case("pod-bad-gw", POD2, &["neighbour-silent"]),
    case("veth-detached", POD2, &["port-not-in-bridge"]),
    case("flannel-down", POD2, &["tunnel-not-listening"]),
    case("route-missing", POD2, &["pod-address-on-the-wire"]),
    case("route-blackhole", POD2, &["route-blackhole"]),
    case("nic-queue", POD2, &["queue-full"]),
    case("latency", EGW, &["waits-in-queue", "slow-between-nodes"]),
    case("mtu-flannel", POD2, &["path-mtu-black-hole"]),
    case("br-fwd-drop", "--pod @visitor --dst 10.200.0.23", &["dropped-by-policy"]),
    case("fw-in", EGW, &["no-answer"]),
    case("fw-out", EGW, &["dropped-by-rule"]),
    case("fw-fwd", POD2, &["dropped-by-rule"]),
    case("netpol", POD2, &["dropped-by-rule"]),
    case("kube-invalid", POD2, &["conntrack-invalid", "dropped-by-rule"]),
    case("ct-full", POD2, &["conntrack-full"]),
    case(
        "svc-no-kubeproxy",
        "--pod @visitor --dst 10.96.100.100",
        &["unreachable-beyond", "service-not-translated"],
    ),
    case("svc-no-endpoints", "--pod @visitor --dst 10.96.100.200", &["rejected-by-rule"]),
    case("svc-targetport", "--pod @visitor --dst 10.96.100.100", &["port-closed"]),
    case("port-closed", POD2, &["port-closed"]),
    case("listen-overflow", POD2, &["accept-queue-full"]),
    case("nodeport-nomasq", "--src 172.16.25.183 --dst 172.16.25.11", &["service-not-masqueraded"]),
    case("nodeport-local", "--src 172.16.25.183 --dst 172.16.25.11", &["dropped-by-rule"]),
    case("dns-down", POD2, &["port-closed"]),
    case("stale-udp", "--pod @visitor --dst 10.96.0.53", &["neighbour-silent"]),
    case("calico-overlap", "--pod @cpod --dst 10.96.0.1", &["pod-address-on-the-wire"]),
    case("ip-forward", EGW, &["forwarding-off"]),
    case("bridge-nf", "--pod @visitor --dst 10.96.100.101", &["reply-from-another-address"]),
    case("docker-ok", "--src 172.16.25.183 --dst 172.16.25.11", &[]),
    case("docker-fwd-drop", "--src 172.16.25.183 --dst 172.16.25.11", &["dropped-by-policy"]),
    case("mark-late", EGW, &["mark-after-routing"]),
    case("rpf-multinic", EGW2, &["reverse-path-filter"]),
    case("osm-ok", "--pod @mesh --dst 10.200.1.22", &[]),
    case("osm-envoy-down", "--pod @mesh --dst 10.200.1.22", &["redirected-to-nobody"]),
    case("osm-no-rules", "--pod @mesh --dst 10.200.1.22", &["sidecar-bypassed"]),
    case("osm-uid", "--pod @mesh --dst 10.200.1.22", &["redirect-loop"]),
    case("osm-port-excl", "--pod @mesh --dst 10.200.1.22", &["redirected-to-nobody"]),
];

/// Probes in a healthy lab, and the flow to follow.
const HEALTHY: &[(Probe, &str)] = &[
    (Probe::Egw, EGW),
    (Probe::Egw2, EGW2),
    (Probe::Udp, EGW),
    (Probe::Down, EGW),
    (Probe::Ping, EGW),
    (Probe::Pod2, POD2),
    (Probe::UpPod2, POD2),
    (Probe::PingPod2, POD2),
    (Probe::Podb, "--pod @visitor --dst 10.200.0.23"),
    (Probe::Svc, "--pod @visitor --dst 10.96.100.100"),
    (Probe::DnsSvc, "--pod @visitor --dst 10.96.0.10"),
    (Probe::Nodeport, "--src 172.16.25.183 --dst 172.16.25.11"),
    (Probe::MeshOut, "--pod @mesh --dst 10.200.1.22"),
];

/// egwtrace with JSON output on both nodes; killed when dropped.
struct Trace {
    child: Child,
    lines: thread::JoinHandle<Vec<String>>,
}

fn binary() -> Option<PathBuf> {
    if let Some(path) = env::var_os("EGWTRACE_BIN") {
        return Some(path.into());
    }
    let path = env::current_exe().ok()?.ancestors().nth(3)?.join("release/egwtrace");
    path.is_file().then_some(path)
}

impl Trace {
    fn start(lab: &Lab, flow: &str) -> Result<Self> {
        let prefix = lab.spec().prefix();
        let flow = format!("-o json --node-netns @node1 --node-netns @node2 {flow}").replace('@', &prefix);
        let mut command = Command::new(binary().context("no egwtrace")?);
        command.args(flow.split_whitespace()).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().context("starting egwtrace")?;
        let mut out = BufReader::new(child.stdout.take().context("no stdout")?);
        let mut header = String::new();
        if out.read_line(&mut header)? == 0 {
            let mut errors = String::new();
            child.stderr.take().context("no stderr")?.read_to_string(&mut errors)?;
            bail!("egwtrace ended: {errors}");
        }
        let lines = thread::spawn(move || out.lines().map_while(Result::ok).collect());
        Ok(Self { child, lines })
    }

    fn stop(mut self) -> Result<Vec<String>> {
        // SAFETY: kill takes the pid of a child that was not waited for, and a signal.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGINT) };
        self.child.wait()?;
        self.lines.join().map_err(|_| anyhow::anyhow!("the reader panicked"))
    }
}

/// The causes of the summary by id, each once, the surest first.
fn causes(lines: &[String]) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for line in lines {
        let Ok(value) = serde_json::from_str::<Value>(line) else { continue };
        if value["type"] != "summary" {
            continue;
        }
        for cause in value["causes"].as_array().into_iter().flatten() {
            let text = |name: &str| cause[name].as_str().unwrap_or_default().to_owned();
            if !found.iter().any(|(id, _)| *id == text("id")) {
                found.push((text("id"), format!("{}: {}", text("certainty"), text("title"))));
            }
        }
    }
    found
}

fn keep(name: &str, lines: &[String]) -> Result<()> {
    if let Some(dir) = env::var_os("EGWT_KEEP") {
        let dir = PathBuf::from(dir);
        fs::create_dir_all(&dir)?;
        fs::write(dir.join(format!("{name}.json")), lines.join("\n"))?;
    }
    Ok(())
}

fn run(case: &Case, fault: &Fault) -> Result<Vec<(String, String)>> {
    let lab = Lab::up(Spec::unique())?;
    fault.apply(&lab, Family::V4)?;
    let trace = Trace::start(&lab, case.flow)?;
    fault.probe.run(&lab, Family::V4)?;
    thread::sleep(Duration::from_millis(400));
    let lines = trace.stop()?;
    keep(case.fault, &lines)?;
    Ok(causes(&lines))
}

fn only() -> Option<Vec<String>> {
    let names = env::var("EGWT_ONLY").ok()?;
    Some(names.split(',').map(str::to_owned).collect())
}

#[test]
#[ignore = "sixty labs, one after the other: two minutes and a half; run with --ignored"]
fn each_fault_is_named() -> Result<()> {
    skip_unless_root!();
    if binary().is_none() {
        println!("SKIP no egwtrace: EGWTRACE_BIN is not set (cargo xtask test sets it)");
        return Ok(());
    }
    let only = only();
    let cases: Vec<&Case> = CASES
        .iter()
        .filter(|case| only.as_ref().is_none_or(|only| only.iter().any(|name| name == case.fault)))
        .collect();
    let jobs = env::var("EGWT_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(3);
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = faults::find(case.fault).and_then(|fault| run(case, fault));
                    let (right, text) = match &found {
                        Ok(found) => {
                            let ids: Vec<&str> = found.iter().map(|(id, _)| id.as_str()).collect();
                            let right = match case.causes {
                                [] => ids.is_empty(),
                                wanted => ids.first().is_some_and(|first| wanted.contains(first)),
                            };
                            (right, found.iter().map(|(id, title)| format!("{id} [{title}]")).collect())
                        }
                        Err(error) => (false, vec![format!("{error:#}")]),
                    };
                    let mark = if right { "right" } else { "WRONG" };
                    println!("{mark:6} {:21} → {}", case.fault, text.join("; "));
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
fn healthy_traffic_has_no_cause() -> Result<()> {
    skip_unless_root!();
    if binary().is_none() {
        println!("SKIP no egwtrace: EGWTRACE_BIN is not set (cargo xtask test sets it)");
        return Ok(());
    }
    let lab = Lab::up(Spec::unique())?;
    let mut wrong = Vec::new();
    for (probe, flow) in HEALTHY {
        let trace = Trace::start(&lab, flow)?;
        let report = probe.run(&lab, Family::V4)?;
        thread::sleep(Duration::from_millis(300));
        let lines = trace.stop()?;
        keep(&format!("healthy-{}", probe.name()), &lines)?;
        let found = causes(&lines);
        println!(
            "{} {:10} {report} → {found:?}",
            if found.is_empty() { "right" } else { "WRONG" },
            probe.name()
        );
        if !found.is_empty() {
            wrong.push(probe.name());
        }
    }
    assert!(wrong.is_empty(), "causes where nothing is wrong: {wrong:?}");
    Ok(())
}
