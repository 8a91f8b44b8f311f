// SPDX-License-Identifier: MIT OR Apache-2.0
//! Recordings of faults with EgressGateway's objects beside them: causes are told in the words of the objects, and
//! the same from a file.

use std::io::{BufReader, Cursor};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tracer_user::explain::Told;
use tracer_user::record::{Reader, replay};

/// One recording of the catalogue; `None` where tar and xz are not.
fn recording(name: &str) -> Option<String> {
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/recordings.tar.xz");
    let done = Command::new("tar").arg("-xJOf").arg(archive).arg(format!("{name}.rec")).output().ok()?;
    if !done.status.success() {
        println!("SKIP tar or xz: {}", String::from_utf8_lossy(&done.stderr).trim());
        return None;
    }
    Some(String::from_utf8(done.stdout).expect("text"))
}

/// The objects of the recorded cluster, with a change to its policy (RFC 7396 at `spec`).
fn objects(spec: &Value) -> Value {
    let mut policy = json!({
        "metadata": {"name": "test", "namespace": "default"},
        "spec": {
            "egressGatewayName": "gw",
            "appliedTo": {"podSelector": {"matchLabels": {"app": "visitor"}}},
            "destSubnet": ["172.16.25.183/32"]
        },
        "status": {"eip": {"ipv4": "172.16.25.189"}, "node": "node2"}
    });
    for (key, value) in spec.as_object().expect("an object") {
        policy["spec"][key] = value.clone();
    }
    let tunnel = |node: &str, mark: &str| json!({"metadata": {"name": node}, "status": {"mark": mark, "phase": "Ready"}});
    json!({
        "policies": [policy],
        "gateways": [{"metadata": {"name": "gw"}, "spec": {}, "status": {"nodeList": [
            {"name": "node2", "status": "Ready", "eips": [
                {"ipv4": "172.16.25.189", "policies": [{"name": "test", "namespace": "default"}]}]}]}}],
        "tunnels": [tunnel("node1", "0x2698ee37"), tunnel("node2", "0x26b7b4e4"), tunnel("node3", "0x26000003")],
        "pods": [{"namespace": "default", "name": "visitor", "labels": {"app": "visitor"},
                  "addresses": ["10.200.0.22"], "node": "node1"}]
    })
}

fn causes(recording: &str, objects: &Value) -> Vec<Told> {
    let (begin, rest) = recording.split_once('\n').expect("lines");
    let text = format!("{begin}\n{}\n{rest}", json!({"policies": objects}));
    let mut reader = Reader::new(BufReader::new(Cursor::new(text))).expect("is a recording");
    replay(&mut reader, &mut |_| {}).expect("is whole").causes
}

fn title(told: &[Told]) -> String {
    let line = |t: &Told| format!("{}: {}{}", t.finding.id, t.finding.certainty.word(), t.finding.title);
    let text = told.iter().map(line).collect::<Vec<_>>().join("\n");
    // The lab's namespaces are called `LAB-node1`.
    text.split(' ')
        .map(|word| {
            word.rfind("-node").filter(|_| word.starts_with("egwt-")).map_or(word, |at| &word[at + 1..])
        })
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn causes_are_told_in_the_objects_words() {
    for (name, spec, expected) in [
        (
            "policy-dst-miss",
            json!({"destSubnet": ["172.16.25.0/30", "10.0.0.0/8"]}),
            "egress-destination-not-selected: possibly: spec.destSubnet of EgressPolicy default/test has no \
             172.16.25.183: the packet left as 172.16.25.11",
        ),
        (
            "policy-src-miss",
            json!({"appliedTo": {"podSelector": {"matchLabels": {"app": "other"}}}}),
            "egress-pod-not-selected: possibly: spec.appliedTo.podSelector of EgressPolicy default/test wants \
             app=other, the pod has app=visitor: the packet left as 172.16.25.11",
        ),
        // The objects are right, and the node does not have what they want.
        (
            "policy-src-miss",
            json!({}),
            "egress-not-handled: EgressPolicy default/test selects this pod, but node1 does not know that 10.200.0.22 \
             is of it: its agent is behind, and the packet left as 172.16.25.11",
        ),
        (
            "policy-dst-miss",
            json!({}),
            "egress-not-handled: EgressPolicy default/test selects this pod, but node1 does not know that \
             172.16.25.183 is one of its destinations: its agent is behind, and the packet left as 172.16.25.11",
        ),
        (
            "egw-agent-down",
            json!({}),
            "egress-not-handled: EgressPolicy default/test selects this pod, but node1 has no rule for it: its agent \
             is behind, and the packet left as 172.16.25.11",
        ),
        // What is wrong in the objects comes first.
        (
            "egw-agent-down",
            json!({"egressGatewayName": "gone"}),
            "egress-not-handled: EgressGateway gone, which spec.egressGatewayName of EgressPolicy default/test names, \
             does not exist; the packet left as 172.16.25.11",
        ),
        // It selects nobody, and nothing is wrong.
        (
            "egw-agent-down",
            json!({"destSubnet": [], "appliedTo": {"podSelector": {"matchLabels": {"app": "other"}}}}),
            "",
        ),
    ] {
        let Some(recording) = recording(name) else { return };
        assert_eq!(title(&causes(&recording, &objects(&spec))), expected, "{name} {spec}");
    }
}

#[test]
fn a_healthy_flow_is_healthy_by_its_objects() {
    for name in ["healthy-egw", "healthy-pod2", "healthy-svc"] {
        let Some(recording) = recording(name) else { return };
        assert_eq!(title(&causes(&recording, &objects(&json!({})))), "", "{name}");
    }
    // To where the pod's policy does not lead: that is said, and no more.
    let Some(recording) = recording("healthy-egw2") else { return };
    assert_eq!(
        title(&causes(&recording, &objects(&json!({})))),
        "egress-destination-not-selected: possibly: spec.destSubnet of EgressPolicy default/test has no \
         198.51.100.10: the packet left as 172.16.25.11"
    );
}

#[test]
fn a_mark_of_another_gateway_is_told() {
    let Some(recording) = recording("healthy-egw") else { return };
    let mut all = objects(&json!({}));
    all["gateways"][0]["status"]["nodeList"][0]["name"] = "node3".into();
    assert_eq!(
        title(&causes(&recording, &all)),
        "egress-wrong-gateway: node1 marks the packet 0x26b7b4e4 (node2), but EgressPolicy default/test leaves by \
         node3, whose mark is 0x26000003: its agent is behind"
    );
    // It selects the flow no more.
    let all = objects(&json!({"destSubnet": ["10.0.0.0/8"]}));
    assert_eq!(
        title(&causes(&recording, &all)),
        "egress-wrong-gateway: node1 marks the packet 0x26b7b4e4 (node2), but no policy selects it any more: its \
         agent is behind"
    );
}
