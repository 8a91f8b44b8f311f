// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is installed on a cluster: the manifests against Kubernetes' published types, the kubectl plugin against a
//! kubectl that notes what it is asked.

mod image;
mod manifests;
#[path = "../../tracer-user/tests/schema/mod.rs"]
mod schema;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result};
use k8s_openapi::api::{apps::v1::DaemonSet, core::v1::Pod};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file)
}

/// Reads YAML as a type of Kubernetes' API, strictly: what the type does not have would be lost, and is missed.
fn strictly<T: Serialize + DeserializeOwned>(yaml: &str) -> Result<(T, Value)> {
    let raw: Value = serde_yaml_ng::from_str(yaml).context("not YAML")?;
    let typed: T = serde_json::from_value(raw.clone()).context("not of this type")?;
    let mut back = serde_json::to_value(&typed)?;
    let mut raw_object = raw.clone();
    // The types know these by themselves.
    for key in ["apiVersion", "kind"] {
        for value in [&mut back, &mut raw_object] {
            value.as_object_mut().context("an object")?.remove(key);
        }
    }
    assert_eq!(back, raw_object, "fields that Kubernetes does not know");
    Ok((typed, raw))
}

#[test]
fn the_manifests_are_what_kubernetes_takes() -> Result<()> {
    let (set, raw) = strictly::<DaemonSet>(&fs::read_to_string(deploy("daemonset.yaml"))?)?;
    assert_eq!((raw["apiVersion"].as_str(), raw["kind"].as_str()), (Some("apps/v1"), Some("DaemonSet")));
    let (pod, raw) = strictly::<Pod>(&fs::read_to_string(deploy("pod.yaml"))?)?;
    assert_eq!((raw["apiVersion"].as_str(), raw["kind"].as_str()), (Some("v1"), Some("Pod")));
    // Both may do the same.
    let set = set.spec.context("a spec")?.template.spec.context("a pod's spec")?;
    let pod = pod.spec.context("a spec")?;
    assert_eq!(set.containers[0].security_context, pod.containers[0].security_context);
    assert_eq!(set.containers[0].volume_mounts, pod.containers[0].volume_mounts);
    assert_eq!((set.volumes, set.host_network, set.host_pid), (pod.volumes, pod.host_network, pod.host_pid));
    Ok(())
}

#[test]
fn a_field_that_kubernetes_does_not_know_is_noticed() -> Result<()> {
    let text = fs::read_to_string(deploy("pod.yaml"))?.replace("hostPID:", "hostPid:");
    let noticed = std::panic::catch_unwind(|| strictly::<Pod>(&text).map(drop));
    assert!(!matches!(noticed, Ok(Ok(()))));
    Ok(())
}

/// A kubectl of our own, in a directory of its own: answers from files, notes what it is asked.
struct Kubectl(PathBuf);

impl Kubectl {
    fn new(name: &str, pods: &str) -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("egwt-kubectl-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("pods"), pods)?;
        let script = r#"#!/bin/sh
dir=$(dirname "$0")
printf '%s\n' "$*" >>"$dir/asked"
case "$*" in
    *"config view"*) printf shop ;;
    *"get pods "*) cat "$dir/pods" ;;
    *"get serviceaccount "*) cat "$dir/account" 2>/dev/null || : ;;
    *"create "*) cat >"$dir/created" ;;
    *"logs "*) echo "what egwtrace prints" ;;
    *"get pod "*) printf 1 ;;
esac
"#;
        let path = dir.join("kubectl");
        fs::write(&path, script)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(Self(dir))
    }

    fn run(&self, arguments: &[&str]) -> Result<Output> {
        let path = format!("{}:{}", self.0.display(), std::env::var("PATH")?);
        let mut command = Command::new(deploy("kubectl-egwtrace"));
        command.args(arguments).env("PATH", path).stdin(Stdio::null());
        command.env_remove("EGWTRACE_IMAGE").env_remove("EGWTRACE_NAMESPACE");
        command.output().context("starting the plugin")
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.0.join(file)).unwrap_or_default()
    }
}

impl Drop for Kubectl {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_plugin_runs_on_the_pods_node_and_cleans_up() -> Result<()> {
    let kubectl = Kubectl::new("runs", "web-1 node-a\nweb-10 node-b\nother node-c\n")?;
    fs::write(kubectl.0.join("account"), "serviceaccount/egwtrace\n")?;
    let hostile = r#"a"b\c $(touch x) 'd'"#;
    let done = kubectl.run(&[
        "--context",
        "lab",
        "--pod",
        "web-1",
        "--dst",
        "172.16.25.183:80",
        "--src",
        hostile,
    ])?;
    assert_eq!(String::from_utf8_lossy(&done.stderr), "");
    assert_eq!(String::from_utf8_lossy(&done.stdout), "what egwtrace prints\n");
    // egwtrace's own exit code.
    assert_eq!(done.status.code(), Some(1));

    let (made, _) = strictly::<Pod>(&kubectl.read("created"))?;
    let (ours, _) = strictly::<Pod>(&fs::read_to_string(deploy("pod.yaml"))?)?;
    let (mut made, mut ours) = (made.spec.context("a spec")?, ours.spec.context("a spec")?);
    assert_eq!(made.node_name.take().as_deref(), Some("node-a"));
    ours.node_name = None;
    let given = made.containers[0].args.take().context("arguments")?;
    assert_eq!(given, ["--dst", "172.16.25.183:80", "--src", hostile, "--pod", "shop/web-1"]);
    ours.containers[0].args = None;
    assert_eq!(made, ours, "the plugin's pod is deploy/pod.yaml's");

    let asked = kubectl.read("asked");
    assert!(asked.lines().all(|line| line.starts_with("--context lab ")), "{asked}");
    let last = asked.lines().last().unwrap_or_default();
    assert!(last.contains("delete pod egwtrace-") && last.contains("--wait=false"), "{asked}");
    Ok(())
}

#[test]
fn without_a_service_account_the_plugin_runs_and_says_what_is_missing() -> Result<()> {
    let kubectl = Kubectl::new("account", "web-1 node-a\n")?;
    let done = kubectl.run(&["--pod", "web-1", "--dst", "1.2.3.4"])?;
    assert_eq!(
        String::from_utf8_lossy(&done.stderr),
        "kubectl egwtrace: no service account egwtrace in kube-system (deploy/role.yaml): the API server is not asked \
         for names and policies\n"
    );
    let (made, _) = strictly::<Pod>(&kubectl.read("created"))?;
    let made = made.spec.context("a spec")?;
    assert_eq!((made.service_account_name, made.automount_service_account_token), (None, Some(false)));
    Ok(())
}

#[test]
fn the_plugin_says_what_it_cannot_do() -> Result<()> {
    let kubectl = Kubectl::new("refuses", "web-1 node-a\nweb-2 node-b\npending \n")?;
    for (arguments, expected) in [
        (&["--pod", "web"][..], "fits more than one pod of shop: web-1 web-2"),
        (&["--pod", "none"], "no pod none in namespace shop"),
        (&["--pod", "pending"], "runs on no node yet"),
        (&["--pod", "blog/web-1", "-n", "shop"], "is not in namespace shop"),
        (&["--pod", "web-1", "--node", "node-b"], "runs on node-a, not on node-b"),
        (&["--dst", "1.2.3.4"], "where? accepted: --pod NAME of a pod, or --node NODE"),
        (&["--pod"], "--pod needs a value"),
        (&["--node", "a", "--dst", "\u{1b}[2J"], "control characters"),
    ] {
        let done = kubectl.run(arguments)?;
        let errors = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(2), "{arguments:?}: {errors}");
        assert!(errors.contains(expected) && errors.lines().count() == 1, "{arguments:?}: {errors}");
        assert_eq!(kubectl.read("created"), "", "{arguments:?}");
    }
    let done = kubectl.run(&["--help"])?;
    assert!(done.status.success() && String::from_utf8_lossy(&done.stdout).contains("--node NODE"));
    Ok(())
}

#[test]
fn the_krew_manifest_names_what_dist_makes() -> Result<()> {
    let raw: Value = serde_yaml_ng::from_str(&fs::read_to_string(deploy("krew.yaml"))?)?;
    assert_eq!(raw["apiVersion"], "krew.googlecontainertools.github.com/v1alpha2");
    assert_eq!(raw["metadata"]["name"], "egwtrace");
    assert_eq!(raw["spec"]["version"], concat!("v", env!("CARGO_PKG_VERSION")));
    for platform in raw["spec"]["platforms"].as_array().context("platforms")? {
        assert_eq!(platform["bin"], "kubectl-egwtrace");
        let uri = platform["uri"].as_str().context("a uri")?;
        assert!(uri.contains(concat!("egwtrace-", env!("CARGO_PKG_VERSION"), "-")), "{uri}");
    }
    let short = raw["spec"]["shortDescription"].as_str().context("a description")?;
    assert!(short.len() <= 50, "krew shows no more");
    Ok(())
}
