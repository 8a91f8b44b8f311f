// SPDX-License-Identifier: MIT OR Apache-2.0
//! Containers that containerd runs for others than Kubernetes: nerdctl's, ctr's. Services and messages as in
//! <https://github.com/containerd/containerd/tree/main/api/services>.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use prost::Message;

use super::backend::{Backend, Kind, Known, Located};
use super::error::TargetError;
use super::rpc::Client;
use crate::node::Netns;
use crate::text::{printable, quoted};

/// Says which of containerd's namespaces is meant.
const NAMESPACE: &str = "containerd-namespace";
/// Those whose containers are asked for elsewhere: Kubernetes', Docker's.
const OTHERS: [&str; 2] = ["k8s.io", "moby"];
/// nerdctl's label for the name.
const NAME: &str = "nerdctl/name";
/// Of a task (api/types/task/task.proto).
const RUNNING: i32 = 2;

#[derive(Clone, PartialEq, Message)]
struct Everything {}

#[derive(Clone, PartialEq, Message)]
struct Namespaces {
    #[prost(message, repeated, tag = "1")]
    namespaces: Vec<NamespaceName>,
}

#[derive(Clone, PartialEq, Message)]
struct NamespaceName {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct Containers {
    #[prost(message, repeated, tag = "1")]
    containers: Vec<ContainerdContainer>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerdContainer {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(map = "string, string", tag = "2")]
    labels: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct Tasks {
    #[prost(message, repeated, tag = "1")]
    tasks: Vec<Task>,
}

#[derive(Clone, PartialEq, Message)]
struct Task {
    #[prost(string, tag = "2")]
    id: String,
    #[prost(uint32, tag = "3")]
    pid: u32,
    #[prost(int32, tag = "4")]
    status: i32,
}

/// containerd behind a socket.
#[derive(Debug)]
pub struct Containerd {
    client: Client,
}

impl Containerd {
    pub fn new(socket: &Path) -> Result<Self, TargetError> {
        let asked = || describe(socket);
        let client = Client::new(socket);
        Ok(Self {
            client: client.map_err(|source| TargetError::Runtime { asked: asked(), source, hint: "" })?,
        })
    }

    fn ask<A: Message + Default + Send + 'static>(
        &self,
        namespace: Option<&str>,
        service: &str,
    ) -> Result<A, TargetError> {
        let header = namespace.map(|name| (NAMESPACE, name));
        let answer = self.client.call_with(header, service, "List", &Everything::default());
        answer.map_err(|source| TargetError::Runtime { asked: self.describe(), source, hint: "" })
    }

    fn tasks(&self, namespace: &str) -> Result<Vec<Task>, TargetError> {
        let Tasks { tasks } = self.ask(Some(namespace), "containerd.services.tasks.v1.Tasks")?;
        Ok(tasks.into_iter().filter(|task| task.status == RUNNING && task.pid != 0).collect())
    }
}

impl Backend for Containerd {
    fn describe(&self) -> String {
        describe(self.client.path())
    }

    fn kind(&self) -> Kind {
        Kind::Containers
    }

    fn list(&self) -> Result<Vec<Known>, TargetError> {
        let Namespaces { namespaces } = self.ask(None, "containerd.services.namespaces.v1.Namespaces")?;
        let mut out = Vec::new();
        for NamespaceName { name: namespace } in
            namespaces.into_iter().filter(|n| !OTHERS.contains(&n.name.as_str()))
        {
            let Containers { containers } =
                self.ask(Some(&namespace), "containerd.services.containers.v1.Containers")?;
            let running = self.tasks(&namespace)?;
            out.extend(containers.into_iter().map(|container| Known {
                namespace: Some(namespace.clone()),
                name: container.labels.get(NAME).unwrap_or(&container.id).clone(),
                stopped: !running.iter().any(|task| task.id == container.id),
                id: container.id,
                labels: container.labels.into_iter().collect(),
                created_ns: 0,
            }));
        }
        Ok(out)
    }

    fn locate(&self, known: &Known) -> Result<Located, TargetError> {
        let namespace = known.namespace.as_deref().unwrap_or("default");
        let task = self.tasks(namespace)?.into_iter().find(|task| task.id == known.id);
        of_process(task.map_or(0, |task| task.pid), known)
    }
}

fn describe(socket: &Path) -> String {
    format!("containerd at {}", printable(socket.as_os_str().as_encoded_bytes()))
}

/// The namespace of a container's process; 0: it has none.
pub(super) fn of_process(pid: u32, known: &Known) -> Result<Located, TargetError> {
    let shown = known.shown();
    if pid == 0 {
        return Err(TargetError::Stopped {
            kind: Kind::Containers,
            name: quoted(&shown),
            why: "it has just ended",
        });
    }
    let netns = Netns::open(&PathBuf::from(format!("/proc/{pid}/ns/net")), shown)?;
    let host_network = is_of_init(&netns);
    Ok(Located { netns: Some(netns), host_network, addresses: Vec::new(), node: None })
}

/// In the namespace of the machine's first process a container has no network of its own.
fn is_of_init(netns: &Netns) -> bool {
    Netns::open(Path::new("/proc/1/ns/net"), "").is_ok_and(|init| init == *netns)
}
