// SPDX-License-Identifier: MIT OR Apache-2.0
//! The real binary with an API server to ask: one of our own, in the node's namespace, or with `EGWTRACE_KUBECONFIG` a
//! real one.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tests::{Lab, Spec, probe::Probe, topology::Family};

use crate::api::{Answer, ApiServer, node, pod, service, slice};
use crate::running::{self, Invocation, Running, skip_unless_able, trace};

const NODE1: (&str, &str) = ("node1", "172.16.25.11");
const NODE2: (&str, &str) = ("node2", "172.16.25.12");
/// A cluster IP of the lab's.
const SERVICE: &str = "10.96.100.100";

/// A server that is reached from node1, and knows what is in the lab.
fn api(lab: &Lab) -> Result<(ApiServer, PathBuf)> {
    let listener = lab.ns("node1").run(|| TcpListener::bind("127.0.0.1:0"))??;
    let server = ApiServer::on(listener, Arc::new(|stream| Box::new(stream)));
    server.put("nodes", node(NODE1.0, NODE1.1));
    server.put("nodes", node(NODE2.0, NODE2.1));
    server.put("services", service("default", "nginx", SERVICE, json!([{ "name": "http", "port": 80 }])));
    server.put("endpointslices", slice("default", "nginx", ("http", 80), &[("nginx-1", "10.200.1.22")]));
    server.put("pods", pod("default", "visitor", "10.200.0.22", NODE1));
    server.put("pods", pod("shop", "web-1", "10.200.1.22", NODE2));
    let kubeconfig = server.kubeconfig("token: not-to-be-seen");
    Ok((server, kubeconfig))
}

/// Until a pod was asked for by its address, and the answer is there.
fn until_asked(server: &ApiServer, address: &str) {
    let end = Instant::now() + running::SOON;
    while server.count(&format!("status.podIP%3D{address}")) == 0 && Instant::now() < end {
        thread::sleep(Duration::from_millis(10));
    }
    thread::sleep(Duration::from_millis(200));
}

fn notices(running: &mut Running, text: &str) -> Result<()> {
    running.until_says(text).map(drop)
}

fn header(running: &Running) -> Result<Value> {
    Ok(serde_json::from_str(&running.got.first().context("no header")?.1)?)
}

#[test]
#[ignore = "a lab with an API server to look at by hand: EGWT_HOLD=seconds"]
fn hold() -> Result<()> {
    let lab = Lab::up(Spec::unique())?;
    let (_server, kubeconfig) = api(&lab)?;
    println!("node {} kubeconfig {}", lab.ns("node1").name(), kubeconfig.display());
    let seconds = std::env::var("EGWT_HOLD").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    thread::sleep(Duration::from_secs(seconds));
    Ok(())
}

#[test]
fn both_ends_have_the_names_that_the_cluster_gives_them() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh())?;
    let (server, kubeconfig) = api(&lab)?;
    let line = format!("--kubeconfig {} --pod @visitor --dst svc/nginx:http", kubeconfig.display());
    let mut trace = trace(&lab, "node1", &line)?;
    let head = header(&trace)?;
    assert_eq!(head["missing"], json!([]), "{head}");
    assert!(head["attached"].to_string().contains(&format!("api: {}", server.url())), "{head}");
    assert!(head["target"].to_string().contains(&format!("10.200.0.22 → {SERVICE}:80 tcp")), "{head}");
    notices(&mut trace, "service default/nginx: 1 ready endpoint: default/nginx-1 10.200.1.22:80 on node2")?;
    until_asked(&server, "10.200.0.22");
    Probe::Svc.run(&lab, Family::V4)?;
    trace.until_journeys(|all| all.iter().any(|j| j.kind() == "SYN"))?;
    let traced = trace.stop()?.clean()?;
    let syn = traced.first("SYN");
    assert_eq!(
        (syn.text("/packet/src_name"), syn.text("/packet/dst_name")),
        ("pod default/visitor on node1", "service default/nginx")
    );
    assert!(traced.lines.iter().all(|line| !line.contains("not-to-be-seen")));
    assert_eq!(server.count("/pods?watch=1"), 0, "pods are asked for one by one");
    Ok(())
}

#[test]
fn a_pod_of_another_node_and_the_one_that_takes_its_place() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh())?;
    let (server, kubeconfig) = api(&lab)?;
    Probe::Pod2.run(&lab, Family::V4)?;
    let line = format!("--kubeconfig {} --pod shop/web- --follow --src 10.200.0.22", kubeconfig.display());
    let mut trace = trace(&lab, "node1", &line)?;
    notices(&mut trace, "shop/web-1 runs on node node2: followed here by its address")?;
    notices(&mut trace, "shop/web-1 is the only pod of the cluster whose name begins with")?;
    Probe::Pod2.run(&lab, Family::V4)?;
    trace.until_journeys(|all| all.iter().any(|j| j.kind() == "SYN-ACK"))?;
    // Nobody answers at the new address, which is seen all the same.
    server.delete("pods", "shop", "web-1");
    server.put("pods", pod("shop", "web-2", "10.200.1.77", ("node3", "172.16.25.13")));
    notices(&mut trace, "shop/web-2 took the place of shop/web-1: followed at 10.200.1.77")?;
    notices(&mut trace, "shop/web-2 runs on node node3")?;
    let _ = lab.ns("visitor").sh("ping -c 1 -W 1 10.200.1.77");
    let _ = lab.ns("visitor").sh("ping -c 1 -W 1 10.200.1.22");
    trace.until_journeys(|all| all.iter().any(|j| j.ends().contains("10.200.1.77")))?;
    let traced = trace.stop()?.clean()?;
    // The old address is nobody's now, and not followed any more.
    let pings = traced.journeys.iter().filter(|j| j.kind().contains("echo request"));
    let pinged: Vec<String> = pings.map(|j| j.ends()).collect();
    assert!(!pinged.is_empty() && pinged.iter().all(|ends| ends.contains("10.200.1.77")), "{pinged:?}");
    Ok(())
}

#[test]
fn what_the_server_refuses_is_on_the_status_line_and_nothing_else_is_lost() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh())?;
    let (server, kubeconfig) = api(&lab)?;
    server.answer("services", Answer::Status(403, "services is forbidden"));
    let line = format!("--kubeconfig {} --pod @visitor --dst {SERVICE}:80", kubeconfig.display());
    let mut running = trace(&lab, "node1", &line)?;
    let head = header(&running)?;
    assert_eq!(head["missing"][0]["what"], json!(format!("api {}", server.url())), "{head}");
    assert_eq!(head["missing"][0]["why"], json!("services (403: services is forbidden)"));
    assert_eq!(head["missing"][0]["hides"], json!("names of services"));
    // Granted during the run.
    server.answer_again("services");
    notices(&mut running, "answers again for services")?;
    Probe::Svc.run(&lab, Family::V4)?;
    running.until_journeys(|all| all.iter().any(|j| j.kind() == "SYN"))?;
    let traced = running.stop()?.clean()?;
    assert_eq!(traced.first("SYN").text("/packet/dst_name"), "service default/nginx");
    Ok(())
}

#[test]
fn a_server_that_is_slow_or_not_there_holds_nothing_up() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh())?;
    let (server, slow) = api(&lab)?;
    server.world.lock().expect("no panic").delay = Duration::from_secs(30);
    let nobody = server.dir().join("nobody");
    let text = std::fs::read_to_string(&slow)?.replace(&server.url(), "http://127.0.0.1:1");
    std::fs::write(&nobody, text)?;
    for (kubeconfig, why) in
        [(&slow, "no answer yet"), (&nobody, "cannot connect: Connection refused (os error 111)")]
    {
        let line = format!("--kubeconfig {} --pod @visitor --dst {SERVICE}:80", kubeconfig.display());
        let begun = Instant::now();
        let mut running = trace(&lab, "node1", &line)?;
        let took = begun.elapsed();
        let head = header(&running)?;
        assert_eq!(head["missing"][0]["why"], json!(why), "{head}");
        // A start takes some 0.3 s, more on a busy machine; the server is given half a second.
        assert!(took < Duration::from_secs(20), "{took:?}");
        Probe::Svc.run(&lab, Family::V4)?;
        running.until_journeys(|all| all.iter().any(|j| j.kind() == "SYN"))?;
        running.stop()?.clean()?;
    }
    Ok(())
}

#[test]
fn without_an_api_server_and_when_none_is_wanted() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh())?;
    let (server, kubeconfig) = api(&lab)?;
    for (flags, said) in [("", "api: none"), ("--no-api", "api: not asked")] {
        let running = trace(&lab, "node1", &format!("{flags} --pod @visitor --dst {SERVICE}:80"))?;
        let head = header(&running)?;
        assert!(head["attached"].to_string().contains(said), "{head}");
        assert_eq!(head["missing"], json!([]));
        running.stop()?.clean()?;
    }
    for (line, says) in [
        (
            format!("--no-api --kubeconfig {} --dst 192.0.2.1", kubeconfig.display()),
            "'--no-api' cannot be used with",
        ),
        (
            "--no-api --dst svc/nginx:80".into(),
            "only Kubernetes' API server knows, and there is none to ask: --no-api was given",
        ),
        ("--kubeconfig /nonexistent --dst 192.0.2.1".into(), "/nonexistent: No such file or directory"),
        (
            format!("--kubeconfig {} --dst svc/nowhere:80", kubeconfig.display()),
            "no service \"nowhere\" in the cluster",
        ),
        (format!("--kubeconfig {} --pod nobody", kubeconfig.display()), "no pod \"nobody\" here"),
    ] {
        let refused = Invocation::new(&lab, "node1", &line)?.output()?;
        assert_eq!(refused.status.code(), Some(2), "{line}");
        assert!(refused.errors.contains(says), "{line}: {}", refused.errors);
        assert_eq!(refused.errors.trim().lines().count(), 1, "{}", refused.errors);
    }
    // From the environment it is no flag of anybody's: said, and no reason to end.
    let mut broken = Invocation::new(&lab, "node1", "-o json --dst 192.0.2.1 --duration 100ms")?;
    broken.command.env("KUBECONFIG", "/nonexistent");
    let traced = broken.output()?.clean()?;
    assert!(traced.lines[0].contains("/nonexistent: No such file or directory"), "{}", traced.lines[0]);
    drop(server);
    Ok(())
}

#[test]
fn a_check_takes_services_too() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh())?;
    let (_server, kubeconfig) = api(&lab)?;
    let line =
        format!("check --kubeconfig {} --pod @visitor --dst svc/default/nginx:http", kubeconfig.display());
    let checked = Invocation::new(&lab, "node1", &line)?.output()?;
    let text = checked.lines.join("\n");
    assert!(text.contains(&format!("10.200.0.22 → {SERVICE}:80 tcp")), "{text}\n{}", checked.errors);
    Ok(())
}

/// `EGWTRACE_KUBECONFIG=FILE cargo xtask test -p tests real_cluster`: what can be asked of any cluster.
#[test]
fn a_real_cluster() -> Result<()> {
    let Some(kubeconfig) = std::env::var_os("EGWTRACE_KUBECONFIG") else {
        println!("SKIP no cluster: EGWTRACE_KUBECONFIG is not set");
        return Ok(());
    };
    skip_unless_able!();
    let kubeconfig = Path::new(&kubeconfig).canonicalize()?;
    let run = |line: &str| -> Result<(Option<i32>, String)> {
        let mut command = Command::new(running::binary().context("no egwtrace")?);
        command.arg("--kubeconfig").arg(&kubeconfig).args(line.split_whitespace());
        let output = command.output()?;
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        Ok((output.status.code(), text))
    };
    // Every cluster has this service.
    let (code, text) = run("-o json --dst svc/default/kubernetes:https --duration 2s")?;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("service default/kubernetes: ") && text.contains("\"missing\":[]"), "{text}");
    let (code, text) = run("--dst svc/default/no-such-service-here:80")?;
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("no service \"default/no-such-service-here\" in the cluster"), "{text}");
    let (code, text) = run("--pod kube-system/no-such-pod-here --dst 192.0.2.1")?;
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("no pod \"kube-system/no-such-pod-here\" here"), "{text}");
    Ok(())
}
