// SPDX-License-Identifier: MIT OR Apache-2.0
//! EgressGateway's kinds at the API server, and all of them together.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::objects::{ClusterInfo, EndpointSlice, Gateway, Objects, Pod, Policy, Tunnel};
use super::subjects::Subjects;
use crate::cluster::{Kind, Meta, Object, State, Store};

const GROUP: &str = "egressgateway.spidernet.io";

const fn kind(plural: &'static str, gives: &'static str) -> Kind {
    // In HEAD as in 0.2: one version is served.
    Kind { group: GROUP, version: "v1beta1", plural, gives, optional: true }
}

macro_rules! kinds {
    ($($kind:ty: $plural:literal, $gives:literal;)*) => {
        $(impl Object for $kind {
            const KIND: Kind = kind($plural, $gives);

            fn meta(&self) -> &Meta {
                &self.metadata
            }
        })*
    };
}

kinds! {
    Policy: "egresspolicies", "egress policies";
    Gateway: "egressgateways", "gateways and addresses of egress policies";
    Tunnel: "egresstunnels", "marks of egress gateways";
    EndpointSlice: "egressendpointslices", "pods that egress policies know";
    Info: "egressclusterinfos", "what egress policies without destinations leave alone";
}

/// EgressClusterPolicy: a [`Policy`] without a namespace.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub struct ClusterPolicy(pub Policy);

impl Object for ClusterPolicy {
    const KIND: Kind = kind("egressclusterpolicies", "egress policies of the cluster");

    fn meta(&self) -> &Meta {
        &self.0.metadata
    }
}

/// EgressClusterEndpointSlice.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub struct ClusterEndpointSlice(pub EndpointSlice);

impl Object for ClusterEndpointSlice {
    const KIND: Kind = kind("egressclusterendpointslices", "pods that egress policies of the cluster know");

    fn meta(&self) -> &Meta {
        &self.0.metadata
    }
}

/// EgressClusterInfo, whose shape differs by version.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Info {
    pub metadata: Meta,
    pub status: Value,
}

/// Of a namespace, its labels: cluster policies select by them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Namespace {
    pub metadata: Meta,
}

/// A pod as policies look at it.
impl From<&crate::cluster::kinds::Pod> for Pod {
    fn from(pod: &crate::cluster::kinds::Pod) -> Self {
        let node = &pod.spec.node_name;
        Self {
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            labels: pod.metadata.labels.clone(),
            namespace_labels: None,
            addresses: pod.addresses(),
            node: (!node.is_empty()).then(|| node.clone()),
            host_network: pod.spec.host_network,
        }
    }
}

impl Object for Namespace {
    const KIND: Kind = Kind {
        group: "",
        version: "v1",
        plural: "namespaces",
        gives: "namespaces that egress policies select",
        optional: false,
    };

    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// What is kept up with of all this.
#[derive(Debug, Default)]
pub struct Stores {
    pub policies: Arc<Store<Policy>>,
    pub cluster_policies: Arc<Store<ClusterPolicy>>,
    pub gateways: Arc<Store<Gateway>>,
    pub tunnels: Arc<Store<Tunnel>>,
    pub infos: Arc<Store<Info>>,
    pub slices: Arc<Store<EndpointSlice>>,
    pub cluster_slices: Arc<Store<ClusterEndpointSlice>>,
    pub namespaces: Arc<Store<Namespace>>,
    pub subjects: Subjects,
}

impl Stores {
    pub fn states(&self) -> Vec<(Kind, State)> {
        fn state<K: Object>(store: &Store<K>) -> (Kind, State) {
            (K::KIND, store.state())
        }
        vec![
            state(&self.policies),
            state(&self.cluster_policies),
            state(&self.gateways),
            state(&self.tunnels),
            state(&self.infos),
            state(&self.slices),
            state(&self.cluster_slices),
            state(&self.namespaces),
        ]
    }

    /// Goes up with every change of one of them.
    pub fn changes(&self) -> u64 {
        self.policies.changes()
            + self.cluster_policies.changes()
            + self.gateways.changes()
            + self.tunnels.changes()
            + self.infos.changes()
            + self.slices.changes()
            + self.cluster_slices.changes()
            + self.namespaces.changes()
            + self.subjects.changes()
    }

    /// The cluster has policies, or may have.
    pub fn are_there(&self) -> bool {
        matches!(self.policies.state(), State::Asked | State::Known)
    }

    /// Every kind has been asked for, and answered or not.
    pub fn is_settled(&self) -> bool {
        self.states().iter().all(|(_, state)| *state != State::Asked)
    }

    /// What they say now of these pods; their namespaces' labels are filled in. `None` until the policies are
    /// known, and where the cluster has none.
    pub fn objects(&self, pods: &[Pod]) -> Option<Objects> {
        let policies = list(&self.policies);
        let of_cluster = list(&self.cluster_policies);
        // With only one of the two kinds known it is not known which policy selects.
        let absent = self.policies.state() == State::Absent;
        let (policies, of_cluster) = match (policies, of_cluster) {
            (Some(policies), Some(of_cluster)) if !absent => (policies, of_cluster),
            _ => return None,
        };
        let policies: Vec<Policy> = policies
            .iter()
            .map(|policy| Policy::clone(policy))
            .chain(of_cluster.iter().map(|policy| policy.0.clone()))
            .collect();
        let all =
            |slices: Vec<Arc<EndpointSlice>>, more: Vec<Arc<ClusterEndpointSlice>>| -> Vec<EndpointSlice> {
                let more = more.iter().map(|slice| slice.0.clone());
                slices
                    .iter()
                    .map(|slice| EndpointSlice::clone(slice))
                    .chain(more)
                    .map(|s| of_pods(s, pods))
                    .collect()
            };
        Some(Objects {
            policies,
            gateways: list(&self.gateways).map(|all| all.iter().map(|g| Gateway::clone(g)).collect()),
            tunnels: list(&self.tunnels).map(|all| all.iter().map(|t| Tunnel::clone(t)).collect()),
            cluster: known(&self.infos).map(|all| {
                let networks =
                    all.iter().flat_map(|info| ClusterInfo::of(&json!({"status": info.status})).networks);
                ClusterInfo { networks: networks.collect() }
            }),
            slices: known(&self.slices).zip(known(&self.cluster_slices)).map(|(one, two)| all(one, two)),
            pods: pods.iter().map(|pod| self.with_namespace(pod)).collect(),
        })
    }

    fn with_namespace(&self, pod: &Pod) -> Pod {
        let namespace = self.namespaces.get("", &pod.namespace);
        Pod { namespace_labels: namespace.map(|ns| ns.metadata.labels.clone()), ..pod.clone() }
    }
}

fn known<K: Object>(store: &Store<K>) -> Option<Vec<Arc<K>>> {
    (store.state() == State::Known).then(|| store.all())
}

/// A kind that the cluster does not have has no objects; what was known before the server fell silent still holds.
/// `None`: not known.
fn list<K: Object>(store: &Store<K>) -> Option<Vec<Arc<K>>> {
    match store.state() {
        State::Known | State::Absent => Some(store.all()),
        State::Asked | State::Failed(_) => Some(store.all()).filter(|all| !all.is_empty()),
    }
}

/// Of ten thousand endpoints, those that are looked at.
fn of_pods(mut slice: EndpointSlice, pods: &[Pod]) -> EndpointSlice {
    slice
        .endpoints
        .retain(|end| pods.iter().any(|pod| pod.namespace == end.namespace && pod.name == end.pod));
    slice
}
