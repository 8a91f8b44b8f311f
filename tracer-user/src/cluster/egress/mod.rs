// SPDX-License-Identifier: MIT OR Apache-2.0
//! EgressGateway's objects (egressgateway.spidernet.io/v1beta1) and what they say of a flow: which policy selects it,
//! by which gateway it leaves and with which address, and what is wrong in the objects themselves. Pure.
//!
//! The semantics are those of its controller and agent: `pkg/controller/endpoint` decides which pods a policy has,
//! `pkg/egressgateway` gives it a node and an address (`EgressGateway.status`, of which the policy's own status is a
//! copy), `pkg/agent/police.go` makes the rules out of these.

mod assigned;
mod cidr;
pub(crate) mod datapath;
mod judge;
mod kinds;
mod labels;
mod objects;
mod subjects;
mod words;

pub use assigned::{Assigned, Eip, Trouble};
pub use judge::{Judged, Met, Near, Selecting, in_cluster, judge};
pub use kinds::{ClusterEndpointSlice, ClusterPolicy, Info, Namespace, Stores};
pub use labels::{Expression, LabelSelector};
pub use objects::{
    AddressPair, AppliedTo, ClusterInfo, EgressIp, Eips, Endpoint, EndpointSlice, Gateway, NodeEntry,
    Objects, Pod, Policy, PolicyRef, Pools, Tunnel,
};
pub use subjects::{Subject, Subjects};
pub use words::{PolicyLine, lines, owners, set_names};
