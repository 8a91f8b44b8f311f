// SPDX-License-Identifier: MIT OR Apache-2.0
//! The manifests against Kubernetes' published JSON schemas (tests/schemas), the role against what the code asks for,
//! and krew's manifest against what krew takes (krew's pkg/index/validation).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize as _;
use serde_json::{Value, json};
use tracer_user::cluster::ASKED;

use super::deploy;
use super::schema::check;

/// The first version with all fields that the manifests use, and the newest that is published.
const VERSIONS: [&str; 2] = ["1.30", "1.37"];

/// The documents of a file.
fn documents(file: &str) -> Result<Vec<Value>> {
    let text = fs::read_to_string(deploy(file))?;
    serde_yaml_ng::Deserializer::from_str(&text).map(|one| Ok(Value::deserialize(one)?)).collect()
}

/// One document against the schema of its kind.
fn fits(document: &Value, version: &str) -> Result<(), String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("schemas/kubernetes-{version}.json"));
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let schemas: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let group = document["apiVersion"].as_str().unwrap_or_default();
    let group = match group.split_once('/') {
        Some((group, version)) => format!("{}-{version}", group.split('.').next().unwrap_or_default()),
        None => group.to_owned(),
    };
    let kind = format!(
        "{}-{}",
        document["kind"].as_str().unwrap_or_default().to_lowercase(),
        group.replace("authorization", "rbac")
    );
    let schema = schemas["kinds"].get(&kind).ok_or(format!("no schema for {kind}"))?;
    check(schema, &schemas, document, "")
}

#[test]
fn manifests_fit_the_published_schemas() -> Result<()> {
    for version in VERSIONS {
        for file in ["daemonset.yaml", "pod.yaml", "role.yaml"] {
            for document in documents(file)? {
                if let Err(wrong) = fits(&document, version) {
                    bail!("{file} against Kubernetes {version}: {wrong}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn what_the_schemas_do_not_know_is_noticed() -> Result<()> {
    let set = documents("daemonset.yaml")?.remove(0);
    type Change = (&'static str, fn(&mut Value));
    let changes: [Change; 6] = [
        ("/spec/template/spec/hostPid", |v| v["spec"]["template"]["spec"]["hostPid"] = json!(true)),
        ("/spec/template/spec/hostNetwork", |v| v["spec"]["template"]["spec"]["hostNetwork"] = json!("true")),
        ("selector is missing", |v| drop(v["spec"].as_object_mut().map(|spec| spec.remove("selector")))),
        ("name is missing", |v| {
            drop(v["spec"]["template"]["spec"]["containers"][0].as_object_mut().map(|c| c.remove("name")));
        }),
        ("/metadata/labels", |v| v["metadata"]["labels"] = json!({"a": 1})),
        ("no schema for", |v| v["kind"] = json!("Daemonset2")),
    ];
    for (expected, change) in changes {
        let mut document = set.clone();
        change(&mut document);
        let wrong = fits(&document, VERSIONS[1]).expect_err(expected);
        let known =
            wrong.contains(expected) || wrong.contains(expected.rsplit('/').next().unwrap_or_default());
        assert!(known, "{expected}: {wrong}");
    }
    Ok(())
}

#[test]
fn the_role_grants_what_the_code_asks_for_and_no_more() -> Result<()> {
    let documents = documents("role.yaml")?;
    let of = |kind: &str| documents.iter().find(|d| d["kind"] == kind).with_context(|| kind.to_owned());
    let mut granted: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    let strings = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    };
    for rule in of("ClusterRole")?["rules"].as_array().context("rules")? {
        for key in rule.as_object().context("a rule")?.keys() {
            assert!(["apiGroups", "resources", "verbs"].contains(&key.as_str()), "{key}");
        }
        for group in strings(&rule["apiGroups"]) {
            for resource in strings(&rule["resources"]) {
                let verbs = granted.entry((group.clone(), resource)).or_default();
                assert!(verbs.is_empty(), "said twice: {rule}");
                verbs.extend(strings(&rule["verbs"]));
            }
        }
    }
    let asked: BTreeMap<(String, String), BTreeSet<String>> = ASKED
        .iter()
        .map(|(kind, verbs)| {
            let verbs = verbs.iter().map(|verb| verb.name().to_owned()).collect();
            ((kind.group.to_owned(), kind.plural.to_owned()), verbs)
        })
        .collect();
    assert_eq!(granted, asked);

    // It is the account of the pods that may.
    let account = of("ServiceAccount")?;
    let binding = of("ClusterRoleBinding")?;
    assert_eq!(binding["roleRef"]["name"], of("ClusterRole")?["metadata"]["name"]);
    for field in ["name", "namespace"] {
        assert_eq!(binding["subjects"][0][field], account["metadata"][field]);
    }
    let set = super::manifests::documents("daemonset.yaml")?.remove(0);
    let pod = super::manifests::documents("pod.yaml")?.remove(0);
    for (document, spec) in [(&set, &set["spec"]["template"]["spec"]), (&pod, &pod["spec"])] {
        assert_eq!(spec["serviceAccountName"], account["metadata"]["name"]);
        assert_eq!(document["metadata"]["namespace"], account["metadata"]["namespace"]);
        assert!(spec.get("automountServiceAccountToken").is_none());
    }
    Ok(())
}

/// What krew's index takes; its checksum is put in when the archive is made.
fn krew_takes(file_name: &str, plugin: &Value) -> Result<(), String> {
    let text = |at: &str| plugin.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
    let ensure = |is: bool, what: &str| if is { Ok(()) } else { Err(what.to_owned()) };
    ensure(text("/apiVersion") == "krew.googlecontainertools.github.com/v1alpha2", "apiVersion")?;
    ensure(text("/kind") == "Plugin", "kind")?;
    let name = text("/metadata/name");
    let safe = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    ensure(!name.is_empty() && safe && name == file_name, "metadata.name")?;
    ensure(!text("/spec/shortDescription").is_empty(), "spec.shortDescription")?;
    let version = text("/spec/version");
    let numbers: Vec<&str> = version.strip_prefix('v').unwrap_or_default().split('.').collect();
    ensure(numbers.len() == 3 && numbers.iter().all(|n| n.parse::<u32>().is_ok()), "spec.version")?;
    let platforms = plugin["spec"]["platforms"].as_array().cloned().unwrap_or_default();
    ensure(!platforms.is_empty(), "spec.platforms")?;
    for platform in platforms {
        let set = |field: &str| platform[field].as_str().is_some_and(|text| !text.is_empty());
        ensure(set("uri"), "uri")?;
        ensure(set("bin"), "bin")?;
        let sum = platform["sha256"].as_str().unwrap_or_default();
        let hex = sum.len() == 64 && sum.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        ensure(hex, "sha256")?;
        ensure(platform["files"].as_array().is_some_and(|files| !files.is_empty()), "files")?;
        let selector = &platform["selector"];
        let labels = selector["matchLabels"].as_object().into_iter().flatten().map(|(key, _)| key.as_str());
        let expressions = selector["matchExpressions"].as_array().into_iter().flatten();
        let keys: Vec<&str> = labels.chain(expressions.filter_map(|e| e["key"].as_str())).collect();
        ensure(!keys.is_empty() && keys.iter().all(|key| ["os", "arch"].contains(key)), "selector")?;
    }
    Ok(())
}

#[test]
fn krew_takes_the_manifest() -> Result<()> {
    let mut plugin = documents("krew.yaml")?.remove(0);
    assert_eq!(krew_takes("egwtrace", &plugin), Err("sha256".to_owned()), "put in by dist");
    plugin["spec"]["platforms"][0]["sha256"] = json!("0123456789abcdef".repeat(4));
    assert_eq!(krew_takes("egwtrace", &plugin), Ok(()));
    let mut worse = plugin.clone();
    worse["spec"]["version"] = json!("0.1.0");
    assert_eq!(krew_takes("egwtrace", &worse), Err("spec.version".to_owned()));
    // What its files come from is in the archive, and the binary among what is taken.
    let dist = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../xtask/src/dist.rs"))?;
    for file in plugin["spec"]["platforms"][0]["files"].as_array().context("files")? {
        let from = file["from"].as_str().and_then(|from| from.strip_prefix("*/")).context("from")?;
        assert!(dist.contains(&format!("{from}\"")), "{from} is in no archive");
    }
    Ok(())
}
