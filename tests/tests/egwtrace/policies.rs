// SPDX-License-Identifier: MIT OR Apache-2.0
//! The real binary beside an API server that has EgressGateway's objects.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tests::{Lab, Spec, probe::Probe, topology::Family};
use tracer_user::cluster::ASKED;

use crate::api::{Answer, ApiServer, pod};
use crate::running::{Invocation, Running, binary, skip_unless_able, trace};

const NODES: &str = "--node-netns @node1 --node-netns @node2";
const RIGHT: &str = "default/test: gateway node2, EIP 172.16.25.189, mark 0x26b7b4e4";

fn policy(destinations: &[&str]) -> Value {
    json!({
        "apiVersion": "egressgateway.spidernet.io/v1beta1", "kind": "EgressPolicy",
        "metadata": {"name": "test", "namespace": "default"},
        "spec": {"egressGatewayName": "gw", "egressIP": {"allocatorPolicy": "default", "useNodeIP": false},
            "appliedTo": {"podSelector": {"matchLabels": {"app": "visitor"}}}, "destSubnet": destinations},
        "status": {"eip": {"ipv4": "172.16.25.189"}, "node": "node2"}
    })
}

/// What the lab's EgressGateway would have made its rules of.
fn api(lab: &Lab) -> Result<(ApiServer, PathBuf)> {
    let listener = lab.ns("node1").run(|| TcpListener::bind("127.0.0.1:0"))??;
    let server = ApiServer::on(listener, Arc::new(|stream| Box::new(stream)));
    server.put("namespaces", json!({"metadata": {"name": "default", "labels": {"team": "a"}}}));
    server.put("pods", pod("default", "visitor", "10.200.0.22", ("node1", "172.16.25.11")));
    server.put("egresspolicies", policy(&["172.16.25.183/32"]));
    server.put(
        "egressgateways",
        json!({"metadata": {"name": "gw"}, "spec": {"ippools": {"ipv4": ["172.16.25.189"]}}, "status": {"nodeList": [
            {"name": "node2", "status": "Ready", "eips": [
                {"ipv4": "172.16.25.189", "policies": [{"name": "test", "namespace": "default"}]}]}]}}),
    );
    for (node, mark, address) in
        [("node1", "0x2698ee37", "192.200.142.89"), ("node2", "0x26b7b4e4", "192.200.201.40")]
    {
        let status = json!({"mark": mark, "phase": "Ready", "tunnel": {"ipv4": address}});
        server.put("egresstunnels", json!({"metadata": {"name": node}, "spec": {}, "status": status}));
    }
    server.put(
        "egressendpointslices",
        json!({"metadata": {"name": "test-x", "namespace": "default",
                   "labels": {"spidernet.io/policy-name": "test"}},
            "endpoints": [{"ns": "default", "pod": "visitor", "ipv4": ["10.200.0.22"], "node": "node1"}]}),
    );
    let kubeconfig = server.kubeconfig("token: not-to-be-seen");
    Ok((server, kubeconfig))
}

fn said(running: &Running) -> Result<Vec<String>> {
    let head: Value = serde_json::from_str(&running.got.first().context("no header")?.1)?;
    crate::schema::assert_fits(&head);
    let lines = head["policies"].as_array().context("no policies")?;
    Ok(lines
        .iter()
        .flat_map(|line| {
            let troubles = line["troubles"].as_array().into_iter().flatten();
            [&line["text"]].into_iter().chain(troubles).filter_map(Value::as_str).map(str::to_owned)
        })
        .collect())
}

#[test]
fn the_header_has_the_pods_policy_and_its_addresses_have_names() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh())?;
    let (server, kubeconfig) = api(&lab)?;
    let line = format!("--kubeconfig {} {NODES} --pod @visitor --dst 172.16.25.183:80", kubeconfig.display());
    let mut running = trace(&lab, "node1", &line)?;
    assert_eq!(said(&running)?, [RIGHT]);
    Probe::Egw.run(&lab, Family::V4)?;
    running.until_journeys(|all| all.iter().any(|j| j.kind() == "SYN-ACK"))?;
    // What changes is said, and holds from then on.
    server.put("egresspolicies", policy(&["10.0.0.0/8"]));
    running.until_says("spec.destSubnet of EgressPolicy default/test has no 172.16.25.183")?;
    server.put("egresspolicies", policy(&["172.16.25.0/24"]));
    running.until_says(&format!("policy {RIGHT}"))?;
    let traced = running.stop()?.clean()?;
    let answer = traced.first("SYN-ACK");
    assert_eq!(answer.text("/packet/dst_name"), "gateway EIP of default/test");
    let causes: Vec<&String> = traced.lines.iter().filter(|l| l.contains("\"type\":\"cause\"")).collect();
    assert!(causes.is_empty(), "{causes:?}");

    // Nothing else was asked than what deploy/role.yaml grants.
    for asked in &server.world.lock().expect("no panic").asked {
        let path = asked.split_whitespace().nth(1).context("a path")?;
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let granted = ASKED.iter().any(|(kind, verbs)| {
            let name = path.strip_prefix(&kind.path(None)).or_else(|| {
                let (before, after) = path.split_once("/namespaces/")?;
                let rest = after.split_once('/')?.1;
                let root = kind.path(None);
                (format!("{before}/{}", kind.plural) == root)
                    .then(|| rest.strip_prefix(kind.plural))
                    .flatten()
            });
            let verb = match name {
                None => return false,
                Some("") if query.contains("watch=1") => "watch",
                Some("") => "list",
                Some(_) => "get",
            };
            verbs.iter().any(|granted| granted.name() == verb)
        });
        assert!(granted, "{asked}");
    }
    Ok(())
}

#[test]
fn causes_are_told_in_the_objects_words_live_and_from_a_file() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh())?;
    let (server, kubeconfig) = api(&lab)?;
    lab.fault("policy-src-miss")?;
    let file = server.dir().join("run.rec");
    let line = format!(
        "--kubeconfig {} {NODES} --pod @visitor --dst 172.16.25.183:80 --record {}",
        kubeconfig.display(),
        file.display()
    );
    let mut running = trace(&lab, "node1", &line)?;
    assert_eq!(said(&running)?, [RIGHT]);
    Probe::Egw.run(&lab, Family::V4)?;
    let wanted = "node1 does not know that 10.200.0.22 is of it: its agent is behind, and the packet left as";
    running.until_says(wanted)?;
    running.stop()?.clean()?;
    let done = Command::new(binary().context("no egwtrace")?).arg("explain").arg(&file).output()?;
    let text = String::from_utf8_lossy(&done.stdout);
    for part in ["EgressPolicy default/test selects this pod", "its agent is behind", RIGHT] {
        assert!(text.contains(part), "{part}: {text}");
    }

    // The same without a packet.
    let line = format!(
        "check -o json --kubeconfig {} {NODES} --pod @visitor --dst 172.16.25.183:80",
        kubeconfig.display()
    );
    let checked = Invocation::new(&lab, "node1", &line)?.output()?;
    let report: Value = serde_json::from_str(checked.lines.first().context("no report")?)?;
    assert_eq!(report["policies"][0]["text"], RIGHT);
    assert_eq!(report["causes"][0]["id"], "egress-not-handled");
    assert!(report["causes"][0]["title"].to_string().contains("the packet would leave as"), "{report}");
    Ok(())
}

#[test]
fn a_cluster_without_egressgateway_or_that_does_not_tell_has_no_policies() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh())?;
    for answer in [
        Answer::Status(404, "the server could not find the requested resource"),
        Answer::Status(403, "forbidden"),
    ] {
        let (server, kubeconfig) = api(&lab)?;
        for plural in ["egresspolicies", "egressclusterpolicies", "egressgateways", "egresstunnels"] {
            server.answer(plural, answer.clone());
        }
        let line = format!("--kubeconfig {} --pod @visitor --dst 172.16.25.183:80", kubeconfig.display());
        let running = trace(&lab, "node1", &line)?;
        let head: Value = serde_json::from_str(&running.got.first().context("no header")?.1)?;
        assert!(head.get("policies").is_none(), "{head}");
        let missing = head["missing"].to_string();
        let refused = matches!(answer, Answer::Status(403, _));
        assert_eq!(missing.contains("egress policies"), refused, "{missing}");
        running.stop()?.clean()?;
    }
    Ok(())
}
