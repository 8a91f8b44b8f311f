// SPDX-License-Identifier: MIT OR Apache-2.0
//! The objects as the API server has them, as far as they are looked at. Fields that are missing or unknown are no
//! fault; one of another type makes an object unreadable, because what it would have said is not known.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::labels::LabelSelector;
use crate::cluster::{Meta, or_default};

/// All that is known at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Objects {
    /// EgressPolicy and EgressClusterPolicy; the latter have no namespace.
    pub policies: Vec<Policy>,
    /// `None`: not known.
    pub gateways: Option<Vec<Gateway>>,
    /// One for each node, of its name; `None`: not known.
    pub tunnels: Option<Vec<Tunnel>>,
    /// `None`: not known.
    pub cluster: Option<ClusterInfo>,
    /// EgressEndpointSlice and EgressClusterEndpointSlice; `None`: not known.
    pub slices: Option<Vec<EndpointSlice>>,
    /// The pods that this run is about.
    pub pods: Vec<Pod>,
}

/// A pod, as far as policies look at it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// Of its namespace; `None`: not known.
    pub namespace_labels: Option<BTreeMap<String, String>>,
    pub addresses: Vec<IpAddr>,
    /// `None`: not known.
    pub node: Option<String>,
    pub host_network: bool,
}

/// EgressPolicy, or without a namespace EgressClusterPolicy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    pub metadata: Meta,
    pub spec: PolicySpec,
    pub status: PolicyStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PolicySpec {
    #[serde(deserialize_with = "or_default")]
    pub egress_gateway_name: String,
    #[serde(rename = "egressIP", deserialize_with = "or_default")]
    pub egress_ip: EgressIp,
    #[serde(deserialize_with = "or_default")]
    pub applied_to: AppliedTo,
    /// Empty: everything but the cluster's own networks.
    #[serde(deserialize_with = "or_default")]
    pub dest_subnet: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EgressIp {
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub ipv4: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub ipv6: String,
    #[serde(rename = "useNodeIP", deserialize_with = "or_default")]
    pub use_node_ip: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AppliedTo {
    /// Absent, it selects nothing; empty, every pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
    /// In the API, and looked at by no controller.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub pod_subnet: Vec<String>,
    /// Of cluster policies; absent, every namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyStatus {
    #[serde(deserialize_with = "or_default")]
    pub eip: AddressPair,
    #[serde(deserialize_with = "or_default")]
    pub node: String,
}

/// An address of each family; empty: none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AddressPair {
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub ipv4: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub ipv6: String,
}

/// EgressGateway: nodes, and the addresses that policies may have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Gateway {
    pub metadata: Meta,
    pub spec: GatewaySpec,
    pub status: GatewayStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GatewaySpec {
    #[serde(deserialize_with = "or_default")]
    pub ippools: Pools,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pools {
    /// Addresses, ranges (`10.6.1.60-10.6.1.65`) and prefixes.
    #[serde(deserialize_with = "or_default")]
    pub ipv4: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub ipv6: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GatewayStatus {
    #[serde(deserialize_with = "or_default")]
    pub node_list: Vec<NodeEntry>,
}

/// A node that its selector matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeEntry {
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// The phase of the node's EgressTunnel.
    #[serde(deserialize_with = "or_default")]
    pub status: String,
    /// Called `epis` before 0.3.
    #[serde(deserialize_with = "or_default", alias = "epis")]
    pub eips: Vec<Eips>,
}

/// Policies that leave by the node with one address; none of either family: with the node's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Eips {
    #[serde(flatten)]
    pub address: AddressPair,
    #[serde(deserialize_with = "or_default")]
    pub policies: Vec<PolicyRef>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyRef {
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// Empty: a cluster policy.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub namespace: String,
}

/// EgressTunnel: a node's end of the tunnels, and the mark of what goes to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tunnel {
    pub metadata: Meta,
    pub status: TunnelStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TunnelStatus {
    #[serde(deserialize_with = "or_default")]
    pub tunnel: AddressPair,
    /// Pending, Init, Failed, HeartbeatTimeout, NodeNotReady or Ready.
    #[serde(deserialize_with = "or_default")]
    pub phase: String,
    /// `0x26b7b4e4`.
    #[serde(deserialize_with = "or_default")]
    pub mark: String,
}

/// EgressClusterInfo: the networks that policies without destinations leave alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterInfo {
    /// The field of the status that names them, and addresses and prefixes as written there.
    pub networks: Vec<(String, String)>,
}

/// EgressEndpointSlice or, without a namespace, EgressClusterEndpointSlice: the pods that a policy has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointSlice {
    pub metadata: Meta,
    #[serde(deserialize_with = "or_default")]
    pub endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Endpoint {
    #[serde(deserialize_with = "or_default", rename = "ns", alias = "namespace")]
    pub namespace: String,
    #[serde(deserialize_with = "or_default")]
    pub pod: String,
    #[serde(deserialize_with = "or_default")]
    pub ipv4: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub ipv6: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub node: String,
}

impl ClusterInfo {
    /// From the object's status, of whichever version.
    pub fn of(object: &Value) -> Self {
        let status = &object["status"];
        let mut networks = Vec::new();
        let fields = ["nodeIP", "podCIDR", "clusterIP"];
        for (at, path) in [(status, "status"), (&status["egressIgnoreCIDR"], "status.egressIgnoreCIDR")] {
            for field in fields {
                strings(&at[field], &format!("{path}.{field}"), &mut networks);
            }
        }
        strings(&status["extraCidr"], "status.extraCidr", &mut networks);
        Self { networks }
    }
}

/// All strings below a value: under a node's or pool's name, by family.
fn strings(value: &Value, path: &str, out: &mut Vec<(String, String)>) {
    match value {
        Value::String(text) => out.push((path.to_owned(), text.clone())),
        Value::Array(all) => all.iter().for_each(|v| strings(v, path, out)),
        Value::Object(all) => all.values().for_each(|v| strings(v, path, out)),
        _ => {}
    }
}

impl Policy {
    pub fn is_of_cluster(&self) -> bool {
        self.metadata.namespace.is_empty()
    }

    pub fn kind(&self) -> &'static str {
        if self.is_of_cluster() { "EgressClusterPolicy" } else { "EgressPolicy" }
    }

    /// `NS/NAME`, or the name of a cluster policy; safe to print.
    pub fn shown(&self) -> String {
        self.reference().shown()
    }

    /// With its kind; safe to print.
    pub fn named(&self) -> String {
        format!("{} {}", self.kind(), self.shown())
    }

    pub fn reference(&self) -> PolicyRef {
        PolicyRef { name: self.metadata.name.clone(), namespace: self.metadata.namespace.clone() }
    }
}

impl PolicyRef {
    /// `NS/NAME`, or the name of a cluster policy; safe to print.
    pub fn shown(&self) -> String {
        let name = crate::text::printable(&self.name);
        match self.namespace.as_str() {
            "" => name,
            namespace => format!("{}/{name}", crate::text::printable(namespace)),
        }
    }
}

impl AddressPair {
    /// The one of a family; `None` where there is none, or something else is written.
    pub fn of(&self, ipv6: bool) -> Option<IpAddr> {
        let text = if ipv6 { &self.ipv6 } else { &self.ipv4 };
        text.parse().ok().filter(|address: &IpAddr| address.is_ipv6() == ipv6)
    }
}
