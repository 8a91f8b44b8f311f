// SPDX-License-Identifier: MIT OR Apache-2.0
//! The objects in words: lines of the status header, names of addresses and of sets.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use sha1_smol::Sha1;

use super::assigned::{Assigned, Eip};
use super::datapath::{destination_set, source_sets};
use super::judge::{Judged, Selecting, judge};
use super::objects::{Objects, Pod, PolicyRef};
use crate::node::IpPrefix;
use crate::text::printable;

/// What the policies say of one pod, as in the status header.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyLine {
    /// `NS/NAME` of the pod.
    pub pod: String,
    /// The destination, as a prefix; absent: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// The policy that selects it: `NS/NAME`, a name alone of a cluster policy; absent: none does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// The node by which its traffic leaves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// An address, or "node IP".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eip: Option<String>,
    /// `0x26b7b4e4`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mark: Option<String>,
    /// What is wrong in the objects; where no policy selects, what the nearest failed on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub troubles: Vec<String>,
    /// All of it but the troubles, in words: `default/test: gateway node2, EIP 172.16.25.189, mark 0x26b7b4e4`.
    pub text: String,
}

/// What the status header says of the pods of a run. Nothing where there are no policies at all.
pub fn lines(objects: &Objects, pods: &[Pod], destinations: &[IpPrefix]) -> Vec<PolicyLine> {
    let mut out = Vec::new();
    if objects.policies.is_empty() {
        return out;
    }
    for pod in pods {
        let mut any = destinations.iter().map(Some).peekable();
        let nowhere = any.peek().is_none().then_some(None);
        for destination in any.chain(nowhere) {
            let about = PolicyLine {
                pod: format!("{}/{}", printable(&pod.namespace), printable(&pod.name)),
                destination: destination.map(ToString::to_string),
                ..PolicyLine::default()
            };
            out.extend(of(&judge(objects, pod, destination), about, objects.policies.len()));
        }
    }
    // Each is told apart where there is more than one.
    if pods.len() > 1 || destinations.len() > 1 {
        for line in &mut out {
            let to = line.destination.as_deref().filter(|_| destinations.len() > 1);
            let to = to.map(|to| format!(" → {to}")).unwrap_or_default();
            line.text = format!("{}{to}: {}", line.pod, line.text);
        }
    }
    out
}

fn of(judged: &Judged<'_>, about: PolicyLine, policies: usize) -> Vec<PolicyLine> {
    if judged.host_network {
        let text = "none: the pod has its node's network, and EgressGateway marks only what nodes forward";
        return vec![PolicyLine { text: text.to_owned(), ..about }];
    }
    if judged.selecting.is_empty() {
        let kept = judged.nearest.as_ref();
        let unknown = kept.is_some_and(super::judge::Near::is_unknown);
        let text = match (unknown, policies) {
            (true, _) => "not known whether one selects this flow".to_owned(),
            (false, 1) => "none: the only one does not select this flow".to_owned(),
            (false, n) => format!("none of {n} selects this flow"),
        };
        let troubles = kept.into_iter().flat_map(|near| near.misses().map(str::to_owned)).collect();
        return vec![PolicyLine { text, troubles, ..about }];
    }
    let several = judged.selecting.len() > 1 && differ(&judged.selecting);
    let mut out: Vec<PolicyLine> = judged.selecting.iter().map(|s| selected(s, about.clone())).collect();
    if several && let Some(last) = out.last_mut() {
        last.troubles.push(format!(
            "{} policies select this flow, and which of them acts is not defined: EgressGateway writes their rules in no fixed order (spec.priority is not read)",
            judged.selecting.len()
        ));
    }
    out
}

/// They would send it by different gateways or with different addresses.
fn differ(all: &[Selecting<'_>]) -> bool {
    let ends = |s: &Selecting<'_>| (s.assigned.node.map(str::to_owned), s.assigned.eip);
    all.windows(2).any(|two| ends(&two[0]) != ends(&two[1]))
}

fn selected(selecting: &Selecting<'_>, about: PolicyLine) -> PolicyLine {
    let Selecting { policy, assigned } = selecting;
    let mut text = if policy.is_of_cluster() { policy.named() } else { policy.shown() };
    text.push_str(": ");
    let gateway = assigned.node.map(printable);
    let eip = match assigned.eip {
        Eip::None => None,
        Eip::Address(address) => Some(address.to_string()),
        Eip::NodeIp => Some("node IP".to_owned()),
    };
    let mark = assigned.mark.map(|mark| format!("{mark:#x}"));
    text.push_str(&summary(assigned));
    let troubles = assigned.troubles.iter().map(|t| t.text.clone()).collect();
    PolicyLine { policy: Some(policy.shown()), gateway, eip, mark, troubles, text, ..about }
}

/// `gateway node2, EIP 172.16.25.189, mark 0x26b7b4e4`.
fn summary(assigned: &Assigned<'_>) -> String {
    let Some(node) = assigned.node else { return "no gateway".to_owned() };
    let mut text = format!("gateway {}", printable(node));
    if assigned.local {
        text.push_str(" (this pod's own node: no tunnel, no mark)");
    }
    // Writing to a String cannot fail.
    let _ = match assigned.eip {
        Eip::None => write!(text, ", no EIP"),
        Eip::Address(address) => write!(text, ", EIP {address}"),
        Eip::NodeIp => write!(text, ", EIP that node's own address"),
    };
    if let (Some(mark), false) = (assigned.mark, assigned.local) {
        let _ = write!(text, ", mark {mark:#x}");
    }
    text
}

/// Names of the gateways' and tunnels' addresses: `gateway EIP of default/test`, `egress tunnel of node2`.
pub fn owners(objects: &Objects) -> Vec<(IpAddr, String)> {
    let mut policies: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
    let entries = objects.gateways.iter().flatten().flat_map(|g| &g.status.node_list);
    for eips in entries.flat_map(|node| &node.eips) {
        for address in [false, true].into_iter().filter_map(|ipv6| eips.address.of(ipv6)) {
            policies.entry(address).or_default().extend(eips.policies.iter().map(PolicyRef::shown));
        }
    }
    if objects.gateways.is_none() {
        for policy in &objects.policies {
            for address in [false, true].into_iter().filter_map(|ipv6| policy.status.eip.of(ipv6)) {
                policies.entry(address).or_default().push(policy.shown());
            }
        }
    }
    let mut out: Vec<(IpAddr, String)> = policies
        .into_iter()
        .map(|(address, mut of)| {
            of.sort();
            of.dedup();
            let name = match of.as_slice() {
                [] => "gateway EIP".to_owned(),
                [one] => format!("gateway EIP of {one}"),
                [first, rest @ ..] => format!("gateway EIP of {first} and {} more", rest.len()),
            };
            (address, name)
        })
        .collect();
    for tunnel in objects.tunnels.iter().flatten() {
        let name = format!("egress tunnel of {}", printable(&tunnel.metadata.name));
        let addresses = [false, true].into_iter().filter_map(|ipv6| tunnel.status.tunnel.of(ipv6));
        out.extend(addresses.map(|address| (address, name.clone())));
    }
    out
}

/// A policy's set of sources and of destinations on each node.
pub fn set_names(policy: &PolicyRef, ipv6: bool) -> [String; 2] {
    /// ipset takes no longer name.
    const LENGTH: usize = 31;
    let name = match policy.namespace.as_str() {
        "" => policy.name.clone(),
        namespace => format!("{namespace}-{}", policy.name),
    };
    let hash = Sha1::from(name).digest().to_string();
    let mut sources = format!("{}{hash}", source_sets(ipv6));
    sources.truncate(LENGTH);
    let destinations = destination_set(&sources);
    [sources, destinations]
}
