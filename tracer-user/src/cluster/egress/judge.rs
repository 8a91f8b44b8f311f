// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which policy selects a flow, and of those that do not, which came nearest and on what it failed.

use super::assigned::{Assigned, assigned};
use super::cidr::{self, Part};
use super::objects::{Objects, Pod, Policy};
use crate::node::IpPrefix;
use crate::text::printable;

/// Every namespace has it, with its own name (kubernetes.io/metadata.name, since 1.21).
const OWN_NAME: &str = "kubernetes.io/metadata.name";

/// What the policies say of one pod and one destination.
#[derive(Clone, Debug, Default)]
pub struct Judged<'o> {
    /// In the order of their names. More than one: EgressGateway writes their rules in no fixed order, and does not
    /// read `spec.priority`.
    pub selecting: Vec<Selecting<'o>>,
    /// Where none selects.
    pub nearest: Option<Near<'o>>,
    /// The pod shares its node's network, and only what nodes forward is marked.
    pub host_network: bool,
}

#[derive(Clone, Debug)]
pub struct Selecting<'o> {
    pub policy: &'o Policy,
    pub assigned: Assigned<'o>,
}

/// A policy that does not select the flow.
#[derive(Clone, Debug)]
pub struct Near<'o> {
    pub policy: &'o Policy,
    /// It is for pods of this namespace.
    pub namespace: Met,
    /// Its selectors.
    pub pod: Met,
    pub destination: Met,
}

/// Whether a field lets something through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Met {
    Yes,
    /// Why not: a clause with the field's path, safe to print.
    No(String),
    /// Why that is not known.
    Unknown(String),
}

/// What is said of traffic of a pod to a destination; `None`: to anywhere.
pub fn judge<'o>(objects: &'o Objects, pod: &Pod, destination: Option<&IpPrefix>) -> Judged<'o> {
    let mut out = Judged { host_network: pod.host_network, ..Judged::default() };
    if pod.host_network {
        return out;
    }
    let ipv6 = destination.is_some_and(IpPrefix::is_ipv6)
        || (destination.is_none() && pod.addresses.iter().all(|a| a.is_ipv6()));
    let mut policies: Vec<&Policy> =
        objects.policies.iter().filter(|p| p.metadata.deletion_timestamp.is_none()).collect();
    policies.sort_by_key(|policy| policy.metadata.key());
    let mut nearest: Option<(u32, Near<'o>)> = None;
    for policy in policies {
        let near = Near {
            policy,
            namespace: namespace(policy, pod),
            pod: selectors(policy, pod),
            destination: destination.map_or(Met::Yes, |to| goes_to(objects, policy, to)),
        };
        if near.misses().next().is_none() {
            let assigned = assigned(objects, policy, pod, ipv6);
            out.selecting.push(Selecting { policy, assigned });
        } else if nearest.as_ref().is_none_or(|(distance, _)| near.distance() < *distance) {
            nearest = Some((near.distance(), near));
        }
    }
    if out.selecting.is_empty() {
        out.nearest = nearest.map(|(_, near)| near);
    }
    out
}

impl Near<'_> {
    /// What it failed on, or what is not known; clauses with the field's path.
    pub fn misses(&self) -> impl Iterator<Item = &str> {
        [&self.namespace, &self.pod, &self.destination].into_iter().filter_map(|met| match met {
            Met::Yes => None,
            Met::No(why) | Met::Unknown(why) => Some(why.as_str()),
        })
    }

    /// Nothing keeps it from selecting the flow but what is not known.
    pub fn is_unknown(&self) -> bool {
        [&self.namespace, &self.pod, &self.destination].iter().all(|met| !matches!(met, Met::No(_)))
    }

    /// A destination that is missing is nearer than a label, a label nearer than another namespace.
    fn distance(&self) -> u32 {
        let weigh = |met: &Met, weight: u32| match met {
            Met::Yes => 0,
            Met::Unknown(_) => 1,
            Met::No(_) => weight,
        };
        weigh(&self.destination, 4) + weigh(&self.pod, 8) + weigh(&self.namespace, 16)
    }
}

fn namespace(policy: &Policy, pod: &Pod) -> Met {
    if policy.is_of_cluster() || policy.metadata.namespace == pod.namespace {
        return Met::Yes;
    }
    let own = printable(&policy.metadata.namespace);
    Met::No(format!("{} is for pods of namespace {own} only", policy.named()))
}

/// `appliedTo`: a podSelector that is absent selects nothing, a namespaceSelector that is absent every namespace
/// (listPodsByPolicy, listPodsByClusterPolicy).
fn selectors(policy: &Policy, pod: &Pod) -> Met {
    let (to, named) = (&policy.spec.applied_to, policy.named());
    let Some(selector) = &to.pod_selector else {
        let why = if to.pod_subnet.is_empty() {
            format!("spec.appliedTo.podSelector of {named} is absent, and so it selects no pod")
        } else {
            format!("{named} has only spec.appliedTo.podSubnet, which EgressGateway does not evaluate")
        };
        return Met::No(why);
    };
    if let Some(why) = selector.unmet(&pod.labels, "the pod") {
        return Met::No(format!("spec.appliedTo.podSelector of {named} {why}"));
    }
    let Some(selector) = to.namespace_selector.as_ref().filter(|_| policy.is_of_cluster()) else {
        return Met::Yes;
    };
    let who = format!("namespace {}", printable(&pod.namespace));
    let path = format!("spec.appliedTo.namespaceSelector of {named}");
    let own = [(OWN_NAME.to_owned(), pod.namespace.clone())].into_iter().collect();
    let labels = match &pod.namespace_labels {
        Some(labels) => labels,
        None if selector.asks_only_for(OWN_NAME) => &own,
        None => return Met::Unknown(format!("{path} asks for labels of {who}, which are not known")),
    };
    match selector.unmet(labels, &who) {
        Some(why) => Met::No(format!("{path} {why}")),
        None => Met::Yes,
    }
}

fn goes_to(objects: &Objects, policy: &Policy, to: &IpPrefix) -> Met {
    let named = policy.named();
    let shown = shown(to);
    let path = "spec.destSubnet";
    if policy.spec.dest_subnet.is_empty() {
        return outside(
            objects,
            &format!("{path} of {named} is empty (all but the cluster's own networks)"),
            to,
        );
    }
    let networks = || policy.spec.dest_subnet.iter().filter_map(|text| cidr::prefix(text));
    match networks().map(|network| cidr::part(to, &network)).max().unwrap_or(Part::None) {
        Part::All => Met::Yes,
        Part::Some => Met::Unknown(format!("{path} of {named} has only a part of {shown}")),
        Part::None if networks().all(|n| n.is_ipv6() != to.is_ipv6()) => {
            let family = if to.is_ipv6() { "IPv6" } else { "IPv4" };
            Met::No(format!("{path} of {named} has no {family} network, and so not {shown}"))
        }
        Part::None => Met::No(format!("{path} of {named} has no {shown}")),
    }
}

/// Not in the set `egress-cluster-cidr-*`, which the agent makes of EgressClusterInfo.
fn outside(objects: &Objects, empty: &str, to: &IpPrefix) -> Met {
    let Some(info) = &objects.cluster else {
        return Met::Unknown(format!("{empty}, and those are not known (EgressClusterInfo)"));
    };
    let parts = info.networks.iter().filter_map(|(path, text)| {
        // What is no prefix is an address of a node; the agent skips the rest.
        Some((cidr::part(to, &cidr::network(text)?), path, text))
    });
    match parts.max_by_key(|(part, ..)| *part) {
        Some((Part::All, path, text)) => Met::No(format!(
            "{empty}, and {} is of these: {} in {path} of the EgressClusterInfo",
            shown(to),
            printable(text)
        )),
        Some((Part::Some, path, text)) => Met::Unknown(format!(
            "{empty}, and a part of {} is of these: {} in {path} of the EgressClusterInfo",
            shown(to),
            printable(text)
        )),
        _ => Met::Yes,
    }
}

/// One of the networks that EgressClusterInfo lists.
pub fn in_cluster(objects: &Objects, to: &IpPrefix) -> bool {
    let networks = objects.cluster.iter().flat_map(|info| &info.networks);
    networks.filter_map(|(_, text)| cidr::network(text)).any(|network| cidr::part(to, &network) == Part::All)
}

fn shown(to: &IpPrefix) -> String {
    if to.is_host() { to.address().to_string() } else { to.to_string() }
}
