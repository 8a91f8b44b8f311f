// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kinds that names come from, and the fields of theirs that are read.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;

use super::object::{Kind, Meta, Object, or_default};

/// `v1 Service`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Service {
    pub metadata: Meta,
    pub spec: ServiceSpec,
    pub status: ServiceStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// "ClusterIP", "NodePort", "LoadBalancer", "ExternalName".
    #[serde(rename = "type")]
    pub kind: String,
    /// "None": headless.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: String,
    #[serde(rename = "clusterIPs", deserialize_with = "or_default")]
    pub cluster_ips: Vec<String>,
    #[serde(rename = "externalIPs", deserialize_with = "or_default")]
    pub external_ips: Vec<String>,
    pub external_name: String,
    #[serde(deserialize_with = "or_default")]
    pub ports: Vec<ServicePort>,
    #[serde(deserialize_with = "or_default")]
    pub selector: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    pub port: u16,
    /// "TCP", "UDP", "SCTP"; empty is TCP.
    #[serde(deserialize_with = "or_default")]
    pub protocol: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceStatus {
    pub load_balancer: LoadBalancer,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct LoadBalancer {
    #[serde(deserialize_with = "or_default")]
    pub ingress: Vec<Ingress>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Ingress {
    #[serde(deserialize_with = "or_default")]
    pub ip: String,
}

impl Object for Service {
    const KIND: Kind =
        Kind { group: "", version: "v1", plural: "services", gives: "names of services", optional: false };

    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl Service {
    /// Inside the cluster; none of a headless one.
    pub fn cluster_ips(&self) -> Vec<IpAddr> {
        let one = std::iter::once(&self.spec.cluster_ip).filter(|_| self.spec.cluster_ips.is_empty());
        addresses(one.chain(&self.spec.cluster_ips))
    }

    /// All under which it can be reached.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let balancers = self.status.load_balancer.ingress.iter().map(|ingress| &ingress.ip);
        let mut all = self.cluster_ips();
        all.extend(addresses(self.spec.external_ips.iter().chain(balancers)));
        all
    }
}

/// `v1 Node`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Node {
    pub metadata: Meta,
    pub status: NodeStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    #[serde(deserialize_with = "or_default")]
    pub addresses: Vec<NodeAddress>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeAddress {
    pub address: String,
}

impl Object for Node {
    const KIND: Kind =
        Kind { group: "", version: "v1", plural: "nodes", gives: "names of nodes", optional: false };

    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl Node {
    pub fn addresses(&self) -> Vec<IpAddr> {
        // Host names are among them.
        addresses(self.status.addresses.iter().map(|address| &address.address))
    }
}

/// `v1 Pod`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Pod {
    pub metadata: Meta,
    pub spec: PodSpec,
    pub status: PodStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    #[serde(deserialize_with = "or_default")]
    pub node_name: String,
    #[serde(deserialize_with = "or_default")]
    pub host_network: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodStatus {
    /// "Pending", "Running", "Succeeded", "Failed", "Unknown".
    pub phase: String,
    #[serde(rename = "podIP", deserialize_with = "or_default")]
    pub pod_ip: String,
    #[serde(rename = "podIPs", deserialize_with = "or_default")]
    pub pod_ips: Vec<PodIp>,
    #[serde(rename = "hostIP", deserialize_with = "or_default")]
    pub host_ip: String,
    #[serde(rename = "hostIPs", deserialize_with = "or_default")]
    pub host_ips: Vec<PodIp>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodIp {
    pub ip: String,
}

impl Object for Pod {
    const KIND: Kind = Kind {
        group: "",
        version: "v1",
        plural: "pods",
        gives: "names of pods on other nodes",
        optional: false,
    };

    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl Pod {
    pub fn addresses(&self) -> Vec<IpAddr> {
        let mut all = addresses(std::iter::once(&self.status.pod_ip));
        let more = addresses(self.status.pod_ips.iter().map(|ip| &ip.ip));
        all.extend(more.into_iter().filter(|ip| !all.contains(ip)).collect::<Vec<_>>());
        all
    }

    /// Of the node it runs on.
    pub fn host_addresses(&self) -> Vec<IpAddr> {
        let more = self.status.host_ips.iter().map(|ip| &ip.ip);
        addresses(std::iter::once(&self.status.host_ip).chain(more))
    }

    /// It has ended, or is ending: its addresses may be another's soon.
    pub fn is_over(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
            || self.metadata.deletion_timestamp.is_some()
    }
}

/// `discovery.k8s.io/v1 EndpointSlice`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct EndpointSlice {
    pub metadata: Meta,
    #[serde(deserialize_with = "or_default")]
    pub endpoints: Vec<Endpoint>,
    #[serde(deserialize_with = "or_default")]
    pub ports: Vec<EndpointPort>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    #[serde(deserialize_with = "or_default")]
    pub addresses: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub conditions: Conditions,
    #[serde(deserialize_with = "or_default")]
    pub node_name: String,
    #[serde(deserialize_with = "or_default")]
    pub target_ref: TargetRef,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Conditions {
    /// Not said: ready.
    pub ready: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct TargetRef {
    pub kind: String,
    pub name: String,
    pub namespace: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct EndpointPort {
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    pub port: Option<u16>,
}

impl Object for EndpointSlice {
    const KIND: Kind = Kind {
        group: "discovery.k8s.io",
        version: "v1",
        plural: "endpointslices",
        gives: "endpoints of services",
        optional: false,
    };

    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl Endpoint {
    pub fn is_ready(&self) -> bool {
        self.conditions.ready != Some(false)
    }

    pub fn addresses(&self) -> Vec<IpAddr> {
        addresses(self.addresses.iter())
    }
}

/// Those that are addresses: "None", "" and host names are not.
fn addresses<'a>(texts: impl Iterator<Item = &'a String>) -> Vec<IpAddr> {
    texts.filter_map(|text| text.parse().ok()).map(|ip: IpAddr| ip.to_canonical()).collect()
}
