// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a policy's traffic leaves, with which address and mark, and what in the objects keeps it from doing so.

use std::net::IpAddr;

use super::cidr;
use super::objects::{Eips, Gateway, NodeEntry, Objects, Pod, Policy, Tunnel};
use crate::text::{printable, quoted};

const READY: &str = "Ready";
/// By this label agents list the slices of a policy.
const POLICY_LABEL: &str = "spidernet.io/policy-name";

/// What a policy was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assigned<'o> {
    /// The node by which its traffic leaves; `None`: none yet.
    pub node: Option<&'o str>,
    pub eip: Eip,
    /// What its traffic is marked with on other nodes; `None`: not known.
    pub mark: Option<u32>,
    /// The pod runs on that node: nothing is marked, and there is no tunnel on its way.
    pub local: bool,
    /// What is wrong, the first the first to be looked at.
    pub troubles: Vec<Trouble>,
}

/// The source that the policy's traffic gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Eip {
    #[default]
    None,
    Address(IpAddr),
    /// The gateway's own (`useNodeIP`).
    NodeIp,
}

/// Something wrong in the objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// One sentence with the field's path; safe to print.
    pub text: String,
    pub fix: String,
    /// With this, the policy's traffic does not leave as the policy says.
    pub breaks: bool,
}

impl Assigned<'_> {
    /// The first trouble that is reason enough for the traffic not to leave as the policy says.
    pub fn broken(&self) -> Option<&Trouble> {
        self.troubles.iter().find(|t| t.breaks)
    }

    fn trouble(&mut self, breaks: bool, text: impl Into<String>, fix: impl Into<String>) {
        self.troubles.push(Trouble { text: text.into(), fix: fix.into(), breaks });
    }
}

/// What the policy has for traffic of one family of this pod.
pub(super) fn assigned<'o>(objects: &'o Objects, policy: &'o Policy, pod: &Pod, ipv6: bool) -> Assigned<'o> {
    let mut out = Assigned::default();
    subnets(&mut out, policy);
    match &objects.gateways {
        Some(gateways) => by_gateway(&mut out, gateways, policy, ipv6),
        None => by_status(&mut out, policy, ipv6),
    }
    let named = policy.named();
    if let (Eip::None, Some(_)) = (out.eip, out.node) {
        let (family, field) = if ipv6 { ("IPv6", "ipv6") } else { ("IPv4", "ipv4") };
        out.trouble(
            true,
            format!("{named} has no egress {family} address: status.eip.{field} is empty"),
            format!("see spec.ippools.{field} and status.ipUsage of its EgressGateway, and the log of egressgateway's controller"),
        );
    }
    out.local = pod.node.is_some() && pod.node.as_deref() == out.node;
    tunnels(&mut out, objects, policy, pod);
    endpoints(&mut out, objects, policy, pod, ipv6);
    out
}

/// The agent stops at the first entry that is no prefix, and applies nothing of any policy.
fn subnets(out: &mut Assigned<'_>, policy: &Policy) {
    let bad = policy.spec.dest_subnet.iter().position(|text| cidr::prefix(text).is_none());
    if let Some(at) = bad {
        out.trouble(
            true,
            format!(
                "spec.destSubnet[{at}] of {} is {}, which is no ADDRESS/LENGTH: agents stop at it",
                policy.named(),
                quoted(&policy.spec.dest_subnet[at])
            ),
            format!("correct spec.destSubnet[{at}] of {}", policy.named()),
        );
    }
}

/// As the agents see it: `status.nodeList` of the gateway.
fn by_gateway<'o>(out: &mut Assigned<'o>, gateways: &'o [Gateway], policy: &'o Policy, ipv6: bool) {
    let (named, name) = (policy.named(), policy.spec.egress_gateway_name.as_str());
    if name.is_empty() {
        let text = format!("spec.egressGatewayName of {named} is empty: no gateway takes its traffic");
        return out.trouble(true, text, format!("make {named} again, with spec.egressGatewayName"));
    }
    let gateway =
        gateways.iter().find(|g| g.metadata.name == name && g.metadata.deletion_timestamp.is_none());
    let shown = printable(name);
    let Some(gateway) = gateway else {
        let text =
            format!("EgressGateway {shown}, which spec.egressGatewayName of {named} names, does not exist");
        return out.trouble(
            true,
            text,
            format!("create EgressGateway {shown}, or make {named} again for another"),
        );
    };
    let reference = policy.reference();
    let found: Option<(&NodeEntry, &Eips)> = gateway.status.node_list.iter().find_map(|node| {
        let eips = node.eips.iter().find(|eips| eips.policies.contains(&reference))?;
        Some((node, eips))
    });
    let Some((node, eips)) = found else { return not_listed(out, gateway, policy) };
    out.node = Some(&node.name);
    let neither = eips.address.ipv4.is_empty() && eips.address.ipv6.is_empty();
    out.eip = match eips.address.of(ipv6) {
        Some(address) => Eip::Address(address),
        None if neither && policy.spec.egress_ip.use_node_ip => Eip::NodeIp,
        None => Eip::None,
    };
    if node.status != READY {
        out.trouble(
            false,
            format!(
                "{}, the gateway of {named}, is {} in status.nodeList of EgressGateway {shown}, and no other took over",
                printable(&node.name),
                phase(&node.status)
            ),
            format!("see why: kubectl describe egresstunnel {}, and its agent's log", printable(&node.name)),
        );
    }
    if !policy.status.node.is_empty() && policy.status.node != node.name {
        out.trouble(
            false,
            format!(
                "status.node of {named} says {}, status.nodeList of EgressGateway {shown}, which agents follow, says {}",
                printable(&policy.status.node),
                printable(&node.name)
            ),
            "restart egressgateway's controller, read its log",
        );
    }
}

/// The gateway has not taken the policy: no agent makes rules for it.
fn not_listed(out: &mut Assigned<'_>, gateway: &Gateway, policy: &Policy) {
    let (named, shown) = (policy.named(), printable(&gateway.metadata.name));
    let nodes = &gateway.status.node_list;
    if nodes.is_empty() {
        return out.trouble(
            true,
            format!("EgressGateway {shown} of {named} has no node: status.nodeList is empty"),
            format!("label a node as spec.nodeSelector of EgressGateway {shown} wants"),
        );
    }
    if nodes.iter().all(|node| node.status != READY) {
        let states: Vec<String> = nodes
            .iter()
            .take(5)
            .map(|node| format!("{} is {}", printable(&node.name), phase(&node.status)))
            .collect();
        return out.trouble(
            true,
            format!("no node of EgressGateway {shown} of {named} is Ready: {}", states.join(", ")),
            "see why: kubectl describe egresstunnel, and the log of the nodes' agents",
        );
    }
    let wanted = &policy.spec.egress_ip;
    let pools = &gateway.spec.ippools;
    for (field, text, pool) in [("ipv4", &wanted.ipv4, &pools.ipv4), ("ipv6", &wanted.ipv6, &pools.ipv6)] {
        let Ok(address) = text.parse::<IpAddr>() else { continue };
        if !pool.iter().any(|entry| cidr::pool_has(entry, address)) {
            return out.trouble(
                true,
                format!("spec.egressIP.{field} of {named}, {address}, is not in spec.ippools.{field} of EgressGateway {shown}"),
                format!("add {address} to spec.ippools.{field} of EgressGateway {shown}"),
            );
        }
    }
    out.trouble(
        true,
        format!(
            "EgressGateway {shown} has given {named} no node and no address: status.nodeList does not list it"
        ),
        "read the log of egressgateway's controller; restart it",
    );
}

/// Gateways may not be read: the policy's own status is a copy of what they say.
fn by_status<'o>(out: &mut Assigned<'o>, policy: &'o Policy, ipv6: bool) {
    let status = &policy.status;
    if status.node.is_empty() {
        let named = policy.named();
        return out.trouble(
            true,
            format!("{named} has no gateway: status.node is empty"),
            format!("kubectl describe egressgateway {}", printable(&policy.spec.egress_gateway_name)),
        );
    }
    out.node = Some(&status.node);
    out.eip = match status.eip.of(ipv6) {
        Some(address) => Eip::Address(address),
        None if policy.spec.egress_ip.use_node_ip => Eip::NodeIp,
        None => Eip::None,
    };
}

/// The tunnel to the gateway, whose mark the traffic gets, and the pod's node's end of it.
fn tunnels(out: &mut Assigned<'_>, objects: &Objects, policy: &Policy, pod: &Pod) {
    let (Some(tunnels), Some(node)) = (&objects.tunnels, out.node) else { return };
    let of = |node: &str| tunnels.iter().find(|t| t.metadata.name == node);
    let shown = printable(node);
    match of(node) {
        None => out.trouble(
            true,
            format!(
                "there is no EgressTunnel {shown} for the gateway of {}: agents make no rule for it",
                policy.named()
            ),
            format!("see whether egressgateway's agent runs on {shown}, and its controller's log"),
        ),
        Some(tunnel) => {
            out.mark = mark(&tunnel.status.mark);
            if out.mark.is_none() {
                out.trouble(
                    true,
                    format!(
                        "status.mark of EgressTunnel {shown} is {}: agents make no rules",
                        empty_or(&tunnel.status.mark)
                    ),
                    "read the log of egressgateway's controller",
                );
            }
            not_ready(out, tunnel);
        }
    }
    if out.local {
        return;
    }
    let Some(own) = pod.node.as_deref() else { return };
    match of(own) {
        None => out.trouble(
            true,
            format!(
                "there is no EgressTunnel {} for the pod's node: it has no tunnel to the gateway",
                printable(own)
            ),
            format!("see whether egressgateway's agent runs on {}", printable(own)),
        ),
        Some(tunnel) => not_ready(out, tunnel),
    }
}

fn not_ready(out: &mut Assigned<'_>, tunnel: &Tunnel) {
    if tunnel.status.phase != READY {
        let name = printable(&tunnel.metadata.name);
        out.trouble(
            false,
            format!("status.phase of EgressTunnel {name} is {}, not Ready", phase(&tunnel.status.phase)),
            format!("kubectl describe egresstunnel {name}; see egressgateway's agent on that node"),
        );
    }
}

/// The controller's list of the policy's pods, which agents make the set of sources from.
fn endpoints(out: &mut Assigned<'_>, objects: &Objects, policy: &Policy, pod: &Pod, ipv6: bool) {
    let Some(slices) = &objects.slices else { return };
    let own: Vec<&str> = slices
        .iter()
        .filter(|slice| {
            slice.metadata.deletion_timestamp.is_none()
                && slice.metadata.namespace == policy.metadata.namespace
                && slice.metadata.labels.get(POLICY_LABEL) == Some(&policy.metadata.name)
        })
        .flat_map(|slice| &slice.endpoints)
        .filter(|end| end.namespace == pod.namespace && end.pod == pod.name)
        .flat_map(|end| if ipv6 { &end.ipv6 } else { &end.ipv4 })
        .map(String::as_str)
        .collect();
    let wanted = pod.addresses.iter().find(|a| a.is_ipv6() == ipv6);
    let Some(address) = wanted else { return };
    if own.iter().any(|text| text.parse() == Ok(*address)) {
        return;
    }
    let kind = if policy.is_of_cluster() { "EgressClusterEndpointSlice" } else { "EgressEndpointSlice" };
    let has = if own.is_empty() { String::new() } else { format!(" (it has {})", printable(own.join(", "))) };
    out.trouble(
        true,
        format!(
            "no {kind} of {} has the pod's address {address}{has}: agents do not know the pod",
            policy.named()
        ),
        "read the log of egressgateway's controller; restart it",
    );
}

/// As the agent reads it: hexadecimal, with or without 0x, 31 bits.
fn mark(text: &str) -> Option<u32> {
    u32::from_str_radix(&text.replace("0x", ""), 16).ok().filter(|mark| *mark <= i32::MAX as u32)
}

fn phase(text: &str) -> String {
    if text.is_empty() { "in no phase yet".to_owned() } else { printable(text) }
}

fn empty_or(text: &str) -> String {
    if text.is_empty() { "empty".to_owned() } else { quoted(text) }
}
