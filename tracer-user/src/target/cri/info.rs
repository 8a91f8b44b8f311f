// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a sandbox' verbose status says beyond the interface, as JSON: containerd (internal/cri/server/sandbox_status.go,
//! `SandboxInfo`) and CRI-O (server/sandbox_status.go) agree on what is read here. Pure.

use std::path::PathBuf;

use serde::Deserialize;

/// The part of `info["info"]` that leads to the network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Info {
    /// The sandbox' own process ("pause"); 0: none.
    #[serde(deserialize_with = "lenient")]
    pub(super) pid: u32,
    #[serde(deserialize_with = "lenient")]
    runtime_spec: Spec,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Spec {
    #[serde(deserialize_with = "lenient")]
    linux: Linux,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Linux {
    #[serde(deserialize_with = "lenient")]
    namespaces: Vec<OciNamespace>,
}

/// OCI runtime specification, config-linux.md: without a path, a new namespace; no entry, the runtime's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct OciNamespace {
    r#type: String,
    path: PathBuf,
}

impl Info {
    /// What cannot be read counts as not said.
    pub(super) fn parse(json: &str) -> Self {
        serde_json::from_str(json).unwrap_or_default()
    }

    /// The file of the network namespace.
    pub(super) fn path(&self) -> Option<&PathBuf> {
        let mut all = self.runtime_spec.linux.namespaces.iter();
        all.find(|n| n.r#type == "network").map(|n| &n.path).filter(|p| p.is_absolute())
    }
}

/// A part with a surprising type does not spoil the others.
fn lenient<'de, D: serde::Deserializer<'de>, T: Default + serde::de::DeserializeOwned>(
    deserializer: D,
) -> Result<T, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn path_and_process() {
        let info = Info::parse(
            r#"{"pid":4242,"new":{"x":[]},"runtimeSpec":{"ociVersion":"1.0.2","linux":{"namespaces":
               [{"type":"pid"},{"type":"network","path":"/var/run/netns/cni-1"}]}}}"#,
        );
        assert_eq!((info.pid, info.path().unwrap().to_str()), (4242, Some("/var/run/netns/cni-1")));
        // One part is not what it should be: the other one still counts.
        let info = Info::parse(r#"{"pid":7,"runtimeSpec":{"linux":{"namespaces":"none"}}}"#);
        assert_eq!((info.pid, info.path()), (7, None));
        let info = Info::parse(
            r#"{"pid":-1,"runtimeSpec":{"linux":{"namespaces":[{"type":"network","path":"relative"}]}}}"#,
        );
        assert_eq!((info.pid, info.path()), (0, None));
        assert_eq!(Info::parse("no JSON"), Info::default());
    }

    /// createSandboxInfo of CRI-O's server/sandbox_status.go: a sandbox whose infra container was dropped, which is the
    /// default, has no process and no image, and the namespace by its path alone; one of the node's network has
    /// neither.
    #[test]
    fn what_crio_says() {
        let spec = r#""runtimeSpec":{"ociVersion":"1.1.0","hostname":"web","annotations":{"io.kubernetes.cri-o.Spoofed":"true",
            "io.kubernetes.cri-o.CNIResult":"{}"},"linux":{"resources":{},"namespaces":[{"type":"pid"},
            {"type":"network","path":"/var/run/netns/9a4d2c1e-6b2f-4c52-8a4e-1f8f0d3b7a55"},
            {"type":"ipc","path":"/var/run/ipcns/9a4d2c1e-6b2f-4c52-8a4e-1f8f0d3b7a55"},{"type":"mount"}]}}"#;
        let path = Some("/var/run/netns/9a4d2c1e-6b2f-4c52-8a4e-1f8f0d3b7a55");
        for (pid, start) in
            [(0, String::new()), (812, r#""image":"registry.k8s.io/pause:3.10","pid":812,"#.to_owned())]
        {
            let info = Info::parse(&format!("{{{start}{spec}}}"));
            assert_eq!((info.pid, info.path().and_then(|p| p.to_str())), (pid, path));
        }
        let host =
            Info::parse(r#"{"runtimeSpec":{"linux":{"namespaces":[{"type":"pid"},{"type":"mount"}]}}}"#);
        assert_eq!((host.pid, host.path()), (0, None));
    }

    proptest! {
        #[test]
        fn any_text_is_taken(text in ".{0,60}|\\{\"pid\":[^}]{0,9}\\}|\\{\"runtimeSpec\":.{0,30}\\}") {
            let _ = Info::parse(&text).path();
        }
    }
}
