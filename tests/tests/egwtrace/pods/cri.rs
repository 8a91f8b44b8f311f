// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pods made through the Container Runtime Interface, as kubelet makes them. Messages as in
//! <https://github.com/kubernetes/cri-api/blob/master/pkg/apis/runtime/v1/api.proto>.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use anyhow::{Context, Result, bail};
use prost::Message;
use tests::{
    containers::{Containers, IMAGE},
    run_dir::wait_for,
};
use tracer_user::target::rpc::Client;

const SERVICE: &str = "runtime.v1.RuntimeService";
const IMAGES: &str = "runtime.v1.ImageService";
/// Other tests keep the machine busy.
const LIMIT: Duration = Duration::from_secs(20);

#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
    #[prost(uint32, tag = "4")]
    attempt: u32,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct NamespaceOption {
    #[prost(int32, tag = "1")]
    network: i32,
    #[prost(int32, tag = "2")]
    pid: i32,
}

#[derive(Clone, PartialEq, Message)]
struct SecurityContext {
    #[prost(message, optional, tag = "1")]
    namespace_options: Option<NamespaceOption>,
}

#[derive(Clone, PartialEq, Message)]
struct Linux {
    #[prost(string, tag = "1")]
    cgroup_parent: String,
    #[prost(message, optional, tag = "2")]
    security_context: Option<SecurityContext>,
}

#[derive(Clone, PartialEq, Message)]
struct SandboxConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<Metadata>,
    #[prost(string, tag = "2")]
    hostname: String,
    #[prost(string, tag = "3")]
    log_directory: String,
    #[prost(map = "string, string", tag = "6")]
    labels: HashMap<String, String>,
    #[prost(message, optional, tag = "8")]
    linux: Option<Linux>,
}

#[derive(Clone, PartialEq, Message)]
struct RunRequest {
    #[prost(message, optional, tag = "1")]
    config: Option<SandboxConfig>,
}

/// Every request and answer of ours that is one id.
#[derive(Clone, PartialEq, Message)]
struct Id {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(string, tag = "1")]
    image: String,
}

#[derive(Clone, PartialEq, Message)]
struct ImageRequest {
    #[prost(message, optional, tag = "1")]
    image: Option<Image>,
}

#[derive(Clone, PartialEq, Message)]
struct ImageResponse {
    #[prost(message, optional, tag = "1")]
    image: Option<Id>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerMetadata {
    #[prost(string, tag = "1")]
    name: String,
}

/// A directory of the node's in a container.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Mount {
    #[prost(string, tag = "1")]
    pub(crate) container_path: String,
    #[prost(string, tag = "2")]
    pub(crate) host_path: String,
    #[prost(bool, tag = "3")]
    pub(crate) readonly: bool,
    /// 1: from host to container.
    #[prost(int32, tag = "5")]
    pub(crate) propagation: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Capabilities {
    #[prost(string, repeated, tag = "1")]
    add: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    drop: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerSecurity {
    #[prost(message, optional, tag = "1")]
    capabilities: Option<Capabilities>,
    #[prost(message, optional, tag = "3")]
    namespace_options: Option<NamespaceOption>,
    #[prost(bool, tag = "7")]
    readonly_rootfs: bool,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerLinux {
    #[prost(message, optional, tag = "2")]
    security_context: Option<ContainerSecurity>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ContainerMetadata>,
    #[prost(message, optional, tag = "2")]
    image: Option<Image>,
    #[prost(string, repeated, tag = "3")]
    command: Vec<String>,
    #[prost(message, repeated, tag = "7")]
    mounts: Vec<Mount>,
    #[prost(map = "string, string", tag = "9")]
    labels: HashMap<String, String>,
    #[prost(string, tag = "11")]
    log_path: String,
    #[prost(message, optional, tag = "15")]
    linux: Option<ContainerLinux>,
}

#[derive(Clone, PartialEq, Message)]
struct CreateRequest {
    #[prost(string, tag = "1")]
    sandbox: String,
    #[prost(message, optional, tag = "2")]
    config: Option<ContainerConfig>,
    #[prost(message, optional, tag = "3")]
    sandbox_config: Option<SandboxConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct ExecRequest {
    #[prost(string, tag = "1")]
    container: String,
    #[prost(string, repeated, tag = "2")]
    command: Vec<String>,
    #[prost(int64, tag = "3")]
    timeout: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ExecResponse {
    #[prost(bytes = "vec", tag = "1")]
    stdout: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    stderr: Vec<u8>,
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<Status>,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(message, optional, tag = "5")]
    network: Option<Network>,
}

#[derive(Clone, PartialEq, Message)]
struct Network {
    #[prost(string, tag = "1")]
    ip: String,
    #[prost(message, repeated, tag = "2")]
    more: Vec<Id>,
}

/// What a pod is to be like.
#[derive(Clone, Debug, Default)]
pub(crate) struct PodSpec {
    pub(crate) host_network: bool,
    pub(crate) labels: Vec<(&'static str, &'static str)>,
    /// A shell's command line for its one container, which is called `app`.
    pub(crate) runs: &'static str,
    /// With the node's processes in sight, these capabilities and no others, and a root that cannot be written.
    pub(crate) capabilities: Option<Vec<String>>,
    pub(crate) mounts: Vec<Mount>,
}

/// A pod that runs.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) sandbox: String,
    pub(crate) container: String,
    pub(crate) addresses: Vec<IpAddr>,
}

/// The node's kubelet.
pub(crate) struct Kubelet {
    client: Client,
    cgroup: String,
}

impl Kubelet {
    pub(crate) fn new(containers: &Containers) -> Result<Self> {
        let client = Client::new(&containers.socket())?.with_limit(LIMIT);
        let kubelet = Self { client, cgroup: containers.cgroup() };
        // containerd's interface hears of an imported image a little later.
        let known = || {
            let request = ImageRequest { image: Some(Image { image: IMAGE.into() }) };
            let answer = kubelet.client.call::<ImageResponse>(IMAGES, "ImageStatus", &request);
            answer.is_ok_and(|answer| answer.image.is_some())
        };
        if !wait_for(LIMIT, known) {
            bail!("containerd does not know the image: {}", containers.log());
        }
        Ok(kubelet)
    }

    /// Makes a pod and waits until its container runs. `name`: NAMESPACE/NAME.
    pub(crate) fn run(&self, name: &str, spec: &PodSpec) -> Result<Pod> {
        let (namespace, pod) = name.split_once('/').context("a pod has a namespace")?;
        let own = [("io.kubernetes.pod.name", pod), ("io.kubernetes.pod.namespace", namespace)];
        let labels: HashMap<String, String> =
            own.iter().chain(&spec.labels).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        // A uid for each: kubelet gives a pod that was made again another one.
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let uid = format!("uid-{}", NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        let namespaces = NamespaceOption {
            network: if spec.host_network { 2 } else { 0 },
            // The node's, or each container's own.
            pid: if spec.capabilities.is_some() { 2 } else { 1 },
        };
        let linux = spec.capabilities.as_ref().map(|add| ContainerLinux {
            security_context: Some(ContainerSecurity {
                capabilities: Some(Capabilities { add: add.clone(), drop: vec!["ALL".into()] }),
                namespace_options: Some(namespaces),
                readonly_rootfs: true,
            }),
        });
        let config = SandboxConfig {
            metadata: Some(Metadata { name: pod.into(), uid, namespace: namespace.into(), attempt: 0 }),
            // runc refuses one without a namespace for it.
            hostname: if spec.host_network { String::new() } else { "pod".into() },
            labels: labels.clone(),
            linux: Some(Linux {
                cgroup_parent: self.cgroup.clone(),
                security_context: Some(SecurityContext { namespace_options: Some(namespaces) }),
            }),
            ..SandboxConfig::default()
        };
        let Id { id: sandbox } = self.call("RunPodSandbox", &RunRequest { config: Some(config.clone()) })?;
        let runs = if spec.runs.is_empty() { "sleep 1000000" } else { spec.runs };
        let request = CreateRequest {
            sandbox: sandbox.clone(),
            config: Some(ContainerConfig {
                metadata: Some(ContainerMetadata { name: "app".into() }),
                image: Some(Image { image: IMAGE.into() }),
                command: ["/bin/sh", "-c", runs].map(str::to_owned).to_vec(),
                mounts: spec.mounts.clone(),
                labels,
                log_path: String::new(),
                linux,
            }),
            sandbox_config: Some(config),
        };
        let Id { id: container } = self.call("CreateContainer", &request)?;
        self.call::<Id>("StartContainer", &Id { id: container.clone() })?;
        let answer: StatusResponse = self.call("PodSandboxStatus", &Id { id: sandbox.clone() })?;
        let network = answer.status.and_then(|s| s.network).unwrap_or_default();
        let texts = std::iter::once(network.ip).chain(network.more.into_iter().map(|ip| ip.id));
        let addresses = texts.filter_map(|text| text.parse().ok()).collect();
        Ok(Pod { sandbox, container, addresses })
    }

    /// As when a pod is deleted: stopped, then removed.
    pub(crate) fn delete(&self, pod: &Pod) -> Result<()> {
        self.stop(pod)?;
        self.call::<Id>("RemovePodSandbox", &Id { id: pod.sandbox.clone() })?;
        Ok(())
    }

    /// Stopped and still known: not ready.
    pub(crate) fn stop(&self, pod: &Pod) -> Result<()> {
        self.call::<Id>("StopPodSandbox", &Id { id: pod.sandbox.clone() })?;
        Ok(())
    }

    /// Runs a shell's command line in the pod's container; its standard output.
    pub(crate) fn exec(&self, pod: &Pod, line: &str) -> Result<String> {
        let command = ["/bin/sh", "-c", line].map(str::to_owned).to_vec();
        let request = ExecRequest { container: pod.container.clone(), command, timeout: 10 };
        let done: ExecResponse = self.call("ExecSync", &request)?;
        if done.code != 0 {
            bail!("`{line}`: {} {}", done.code, String::from_utf8_lossy(&done.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }

    fn call<A: Message + Default + Send + 'static>(
        &self,
        method: &'static str,
        request: &impl Message,
    ) -> Result<A> {
        self.client.call(SERVICE, method, request).with_context(|| format!("asking containerd to {method}"))
    }
}
