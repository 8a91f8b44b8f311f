// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pods and containers from the runtime of the node: containerd, CRI-O, whatever speaks the Container Runtime
//! Interface. Only questions are asked.

mod endpoint;
mod info;
mod messages;

use std::cell::OnceCell;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

pub use endpoint::{USUAL, parse as parse_endpoint, usual};
use info::Info;
use messages::*;

use super::backend::{Backend, Kind, Known, Located};
use super::error::TargetError;
use super::rpc::{Client, RpcError};
use crate::node::Netns;
use crate::text::{printable, quoted};

/// The service in the two versions that are around; containerd before 1.6 has the second only.
const SERVICES: [&str; 2] = ["runtime.v1.RuntimeService", "runtime.v1alpha2.RuntimeService"];

/// Labels that kubelet puts on containers (pkg/kubelet/types/labels.go).
const POD_NAME: &str = "io.kubernetes.pod.name";
const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";

/// A runtime, asked for pods or for containers.
#[derive(Debug)]
pub struct Cri {
    client: Client,
    kind: Kind,
    /// Found with the first call: its name, and which of [`SERVICES`] it has.
    about: OnceCell<(String, &'static str)>,
}

impl Cri {
    /// The runtime behind a socket. Nothing is asked yet.
    pub fn new(path: &Path, kind: Kind) -> Result<Self, TargetError> {
        let client = Client::new(path).map_err(|source| TargetError::Runtime {
            asked: socket(path),
            source,
            hint: "",
        })?;
        Ok(Self { client, kind, about: OnceCell::new() })
    }

    /// The addresses that are each of these pods' own, in the same order. `None`: not told, or not there yet.
    pub fn addresses(&self, pods: &[&Known]) -> Vec<Option<Vec<IpAddr>>> {
        let Ok(service) = self.service() else { return vec![None; pods.len()] };
        let requests: Vec<_> = pods
            .iter()
            .map(|pod| PodSandboxStatusRequest { pod_sandbox_id: pod.id.clone(), verbose: false })
            .collect();
        let own = |status: PodSandboxStatus| {
            let (host_network, ips) = (is_host_network(&status), ips(&status));
            if host_network { Some(Vec::new()) } else { Some(ips).filter(|ips| !ips.is_empty()) }
        };
        let mut answers: Vec<Option<Vec<IpAddr>>> = self
            .client
            .call_all::<PodSandboxStatusResponse>(service, "PodSandboxStatus", &requests)
            .into_iter()
            .map(|answer| own(answer.ok()?.status?))
            .collect();
        answers.resize(pods.len(), None);
        answers
    }

    fn service(&self) -> Result<&'static str, TargetError> {
        if let Some((_, service)) = self.about.get() {
            return Ok(service);
        }
        let mut refusal = None;
        for service in SERVICES {
            let question = VersionRequest::default();
            match self.client.call::<VersionResponse>(service, "Version", &question) {
                Ok(version) => {
                    let name = printable(format!("{} {}", version.runtime_name, version.runtime_version));
                    let name = name.chars().take(60).collect::<String>().trim().to_owned();
                    return Ok(self.about.get_or_init(|| (name, service)).1);
                }
                Err(error) if error.is_unimplemented() => refusal = refusal.or(Some(error)),
                Err(error) => return Err(self.failed(error)),
            }
        }
        Err(self.failed(refusal.unwrap_or_else(|| RpcError::NotGrpc("no service".into()))))
    }

    fn call<A: prost::Message + Default + Send + 'static>(
        &self,
        method: &'static str,
        request: &impl prost::Message,
    ) -> Result<A, TargetError> {
        self.client.call(self.service()?, method, request).map_err(|error| self.failed(error))
    }

    fn failed(&self, source: RpcError) -> TargetError {
        let hint = match &source {
            RpcError::Connect(error) => match error.kind() {
                std::io::ErrorKind::PermissionDenied => "; run as root, or as someone who may use the socket",
                std::io::ErrorKind::ConnectionRefused => {
                    "; is the runtime running? accepted: --runtime-endpoint PATH of another socket"
                }
                std::io::ErrorKind::NotFound => {
                    "; accepted: --runtime-endpoint PATH of containerd's or CRI-O's socket"
                }
                _ => "",
            },
            error if error.is_unimplemented() => {
                "; its Container Runtime Interface is off (containerd: disabled_plugins), or it is no runtime of Kubernetes'"
            }
            RpcError::NotGrpc(_) | RpcError::Unreadable { .. } => {
                "; accepted: --runtime-endpoint PATH of containerd's or CRI-O's socket"
            }
            RpcError::Timeout(_) => "; the runtime hangs, or the socket is someone else's",
            _ => "",
        };
        TargetError::Runtime { asked: self.describe(), source, hint }
    }

    /// A sandbox by its id.
    fn sandbox(&self, id: &str, shown: &str) -> Result<Located, TargetError> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true };
        let answer: PodSandboxStatusResponse = self.call("PodSandboxStatus", &request)?;
        let status = answer.status.unwrap_or_default();
        if status.state != 0 {
            let why = "its sandbox is not ready; it may be starting, or have ended";
            return Err(TargetError::Stopped { kind: Kind::Pods, name: quoted(shown), why });
        }
        let host_network = is_host_network(&status);
        let info = answer.info.get("info").map_or_else(Info::default, |json| Info::parse(json));
        let netns = self.netns(&info, host_network, shown)?;
        Ok(Located { netns: Some(netns), host_network, addresses: ips(&status), node: None })
    }

    /// By the file that the runtime says, else by the sandbox' process: where /run/netns is not the runtime's
    /// (in a container), the file may lead nowhere, or be left over.
    fn netns(&self, info: &Info, host_network: bool, shown: &str) -> Result<Netns, TargetError> {
        let process = (info.pid != 0).then(|| PathBuf::from(format!("/proc/{}/ns/net", info.pid)));
        let file = info.path().filter(|_| !host_network);
        if host_network && process.is_none() {
            return Ok(Netns::current()?);
        }
        let mut why = Vec::new();
        for path in file.into_iter().chain(&process) {
            match Netns::open(path, shown) {
                Ok(netns) => return Ok(netns),
                Err(error) => why.push(error.to_string()),
            }
        }
        let missing = if why.is_empty() { "neither a path nor a process".to_owned() } else { why.join("; ") };
        Err(TargetError::NoNamespace { asked: self.describe(), name: quoted(shown), missing })
    }

    fn pods(&self) -> Result<Vec<Known>, TargetError> {
        let answer: ListPodSandboxResponse = self.call("ListPodSandbox", &ListRequest::default())?;
        Ok(answer.items.into_iter().map(pod).collect())
    }

    fn containers(&self) -> Result<Vec<Known>, TargetError> {
        let answer: ListContainersResponse = self.call("ListContainers", &ListRequest::default())?;
        Ok(answer.containers.into_iter().map(container).collect())
    }
}

impl Backend for Cri {
    fn describe(&self) -> String {
        match self.about.get() {
            Some((name, _)) => format!("{name} at {}", socket(self.client.path())),
            None => format!("the container runtime at {}", socket(self.client.path())),
        }
    }

    fn kind(&self) -> Kind {
        self.kind
    }

    fn list(&self) -> Result<Vec<Known>, TargetError> {
        match self.kind {
            Kind::Pods => self.pods(),
            Kind::Containers => self.containers(),
        }
    }

    fn locate(&self, known: &Known) -> Result<Located, TargetError> {
        let shown = known.shown();
        match self.kind {
            Kind::Pods => self.sandbox(&known.id, &shown),
            Kind::Containers => {
                let answer: ListContainersResponse = self.call("ListContainers", &ListRequest::default())?;
                let sandbox = answer.containers.into_iter().find(|c| c.id == known.id);
                let sandbox = sandbox.ok_or_else(|| TargetError::Stopped {
                    kind: Kind::Containers,
                    name: quoted(&shown),
                    why: "it has just ended",
                })?;
                self.sandbox(&sandbox.pod_sandbox_id, &shown)
            }
        }
    }
}

fn pod(sandbox: PodSandbox) -> Known {
    let metadata = sandbox.metadata.unwrap_or_default();
    Known {
        namespace: Some(metadata.namespace),
        name: metadata.name,
        id: sandbox.id,
        labels: sandbox.labels.into_iter().collect(),
        created_ns: sandbox.created_at,
        stopped: sandbox.state != 0,
    }
}

/// Named as `kubectl exec -c` does, within its pod: the pod's name stands in front.
fn container(container: Container) -> Known {
    let name = container.metadata.unwrap_or_default().name;
    let pod = container.labels.get(POD_NAME);
    Known {
        namespace: container.labels.get(POD_NAMESPACE).cloned(),
        name: pod.map_or(name.clone(), |pod| format!("{pod}/{name}")),
        id: container.id,
        labels: container.labels.into_iter().collect(),
        created_ns: container.created_at,
        stopped: container.state != RUNNING,
    }
}

fn is_host_network(status: &PodSandboxStatus) -> bool {
    let options = status.linux.as_ref().and_then(|l| l.namespaces.as_ref()?.options.as_ref());
    options.is_some_and(|o| o.network == NODE)
}

fn ips(status: &PodSandboxStatus) -> Vec<IpAddr> {
    let Some(network) = &status.network else { return Vec::new() };
    let all = std::iter::once(&network.ip).chain(network.additional_ips.iter().map(|a| &a.ip));
    all.filter_map(|text| text.parse().ok()).collect()
}

fn socket(path: &Path) -> String {
    printable(path.as_os_str().as_encoded_bytes())
}
