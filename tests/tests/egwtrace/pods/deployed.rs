// SPDX-License-Identifier: MIT OR Apache-2.0
//! egwtrace in a container, with what `deploy/daemonset.yaml` gives it and nothing else.

use std::thread;

use anyhow::{Context, Result};
use serde_json::Value;
use tests::Spec;

use super::{
    Node,
    cri::{Kubelet, Mount, PodSpec},
};
use crate::{journey::Journey, running};

/// The capabilities and the mounts of the node's directories.
fn manifest() -> Result<(Vec<String>, Vec<Mount>)> {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/daemonset.yaml");
    let raw: Value = serde_yaml_ng::from_str(&std::fs::read_to_string(file)?)?;
    let spec = &raw["spec"]["template"]["spec"];
    let container = &spec["containers"][0];
    let text = |value: &Value| value.as_str().map(str::to_owned).context("text");
    let add = container["securityContext"]["capabilities"]["add"].as_array().context("capabilities")?;
    let capabilities = add.iter().map(text).collect::<Result<_>>()?;
    let mut mounts = Vec::new();
    for mount in container["volumeMounts"].as_array().context("mounts")? {
        let volumes = spec["volumes"].as_array().context("volumes")?;
        let volume = volumes.iter().find(|v| v["name"] == mount["name"]).context("a volume of that name")?;
        mounts.push(Mount {
            container_path: text(&mount["mountPath"])?,
            host_path: text(&volume["hostPath"]["path"])?,
            readonly: mount["readOnly"] == true,
            propagation: i32::from(mount["mountPropagation"] == "HostToContainer" && root_is_shared()),
        });
    }
    Ok((capabilities, mounts))
}

/// As systemd makes it on every node; without, nothing can be propagated.
fn root_is_shared() -> bool {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().any(|line| line.split(' ').nth(4) == Some("/") && line.contains(" shared:"))
}

#[test]
fn in_a_container_with_what_the_manifest_gives_it() -> Result<()> {
    let Some(node) = Node::up(Spec::unique())? else { return Ok(()) };
    let web = node.web("shop/web")?;
    let client = node.idle("shop/client")?;
    let (capabilities, mut mounts) = manifest()?;
    // In the place of an image of its own: the binary, and the libraries it was linked to here.
    let binary = running::binary().context("no egwtrace")?;
    let dir = binary.parent().context("a directory")?;
    let read_only = |from: &str, to: &str| Mount {
        container_path: to.into(),
        host_path: from.into(),
        readonly: true,
        propagation: 0,
    };
    mounts.push(read_only(&dir.to_string_lossy(), "/egwtrace"));
    for library in
        ["/lib", "/lib64", "/usr/lib"].into_iter().filter(|path| std::path::Path::new(path).is_dir())
    {
        mounts.push(read_only(library, library));
    }
    let spec = PodSpec {
        host_network: true,
        capabilities: Some(capabilities),
        mounts,
        runs: "exec /egwtrace/egwtrace wait",
        ..PodSpec::default()
    };
    let tool = node.kubelet.run("kube-system/egwtrace", &spec)?;

    let line = node
        .line(&format!("-o json --pod shop/client --dst {}:80 --count 2 --duration 15s", web.addresses[0]));
    let kubelet = Kubelet::new(&node.containers)?;
    let traced = thread::scope(|scope| {
        let traced = scope.spawn(move || kubelet.exec(&tool, &format!("/egwtrace/egwtrace {line}")));
        // As an application that asks again and again: the trace is ready at some time.
        while !traced.is_finished() {
            let _ = node.get(&client, &web, false);
            thread::sleep(std::time::Duration::from_millis(300));
        }
        traced.join().expect("no panic")
    })?;

    let lines: Vec<&str> = traced.lines().collect();
    let header: Value = serde_json::from_str(lines.first().context("no output")?)?;
    // Where the root of process 1 is closed the node's own tools are out of reach, and that is said.
    let closed = !std::path::Path::new("/proc/1/root/usr").exists();
    let missing = header["missing"].as_array().context("missing")?;
    let unsaid = |m: &&Value| !(closed && m["what"].as_str().is_some_and(|what| what.starts_with("all of ")));
    assert_eq!(missing.iter().filter(unsaid).count(), 0, "{header}");
    let prefix = node.lab.spec().prefix();
    let journeys: Vec<Journey> = lines.iter().filter_map(|line| Journey::parse(line, &prefix)).collect();
    let syn = journeys.iter().find(|j| j.kind() == "SYN").with_context(|| format!("no SYN in {traced}"))?;
    assert_eq!((syn.text("/packet/src_name"), syn.text("/packet/dst_name")), ("shop/client", "shop/web"));
    assert_eq!((syn.ending(), syn.text("/ending/process/name")), ("delivered in shop/web".into(), "httpd"));
    Ok(())
}
