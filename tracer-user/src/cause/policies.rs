// SPDX-License-Identifier: MIT OR Apache-2.0
//! What EgressGateway's objects say of a packet against what happened to it. Shared with `check`.

use std::net::IpAddr;

use super::bare::Bare;
use super::catalogue as c;
use super::cluster_address::of_cluster;
use super::finding::Certainty::{Certain, Likely, Possible};
use super::finding::Finding;
use crate::cluster::egress::datapath::{REQUEST_CHAIN, SNAT_CHAIN};
use crate::cluster::egress::{
    Assigned, Eip, Judged, Met, Objects, Policy, Selecting, Trouble, in_cluster, judge, set_names,
};
use crate::node::IpPrefix;
use crate::snapshot::NetnsEvidence;
use crate::text::printable;

/// What the objects make of it.
pub(crate) enum Said {
    Cause(Box<Finding>),
    /// As they want it, or they want nothing.
    Fine,
    /// The node has what they want: its rules have to say why it did not act.
    Rules,
}

/// What the objects say of the pod that has this address.
pub(crate) fn judged(objects: &Objects, source: IpAddr, destination: IpAddr) -> Option<Judged<'_>> {
    let pod = objects.pods.iter().find(|pod| !pod.host_network && pod.addresses.contains(&source))?;
    Some(judge(objects, pod, Some(&IpPrefix::host(destination))))
}

/// `None`: the pod is none that they know, or what they say is not known in full.
///
/// `others`: the other nodes that were read, by name.
pub(crate) fn say(
    objects: &Objects,
    bare: &Bare<'_>,
    others: &[(String, &NetnsEvidence)],
    command: &dyn Fn(String) -> String,
) -> Option<Said> {
    let judged = judged(objects, bare.source, bare.destination)?;
    if let Some(selecting) = judged.selecting.first() {
        let fine = judged.selecting.iter().any(|s| s.assigned.local && leaves_right(&s.assigned, bare));
        return Some(if fine { Said::Fine } else { not_handled(selecting, bare, command) });
    }
    let Some(near) = &judged.nearest else { return Some(Said::Fine) };
    if near.is_unknown() {
        return None;
    }
    let to = bare.destination;
    if in_cluster(objects, &IpPrefix::host(to)) || of_cluster(bare.node, others, to).is_some() {
        return Some(Said::Fine);
    }
    let policy = near.policy;
    // No more than a hint: the policy may well not be meant for this flow.
    let named = |met: &Met| matches!(met, Met::No(_));
    let (kind, fix) = match (named(&near.namespace), named(&near.pod), named(&near.destination)) {
        (false, false, true) if !policy.spec.dest_subnet.is_empty() => (
            &c::EGRESS_DESTINATION_NOT_SELECTED,
            format!(
                "if it is to leave by the gateway: add {} to spec.destSubnet of {}",
                IpPrefix::host(to),
                policy.named()
            ),
        ),
        // Where it selects other pods, it may well be meant for these alone.
        (false, true, false) if !policy.spec.dest_subnet.is_empty() && has_no_pod(policy, bare) => (
            &c::EGRESS_POD_NOT_SELECTED,
            format!(
                "if the policy should select this pod: correct spec.appliedTo of {}, or the pod's labels",
                policy.named()
            ),
        ),
        _ => return Some(Said::Fine),
    };
    let miss = near.misses().next().unwrap_or_default();
    let finding = Finding::new(kind, Possible, format!("{miss}: {} as {}", bare.left, bare.left_as))
        .checked("no other policy comes nearer", get(policy))
        .fix(fix);
    Some(Said::Cause(Box::new(finding)))
}

/// As far as this node knows.
fn has_no_pod(policy: &Policy, bare: &Bare<'_>) -> bool {
    let [from, _] = set_names(&policy.reference(), bare.source.is_ipv6());
    bare.node.sets.get(&from).is_none_or(|set| set.members.is_empty())
}

/// The pod's own node is its gateway, and the source is as it should be.
fn leaves_right(assigned: &Assigned<'_>, bare: &Bare<'_>) -> bool {
    match assigned.eip {
        Eip::Address(address) => address == bare.left_as,
        Eip::NodeIp => bare.left_as != bare.source,
        Eip::None => false,
    }
}

fn not_handled(selecting: &Selecting<'_>, bare: &Bare<'_>, command: &dyn Fn(String) -> String) -> Said {
    let Selecting { policy, assigned } = selecting;
    let (named, name) = (policy.named(), bare.name);
    if let Some(Trouble { text, fix, .. }) = assigned.broken() {
        let finding = Finding::new(
            &c::EGRESS_NOT_HANDLED,
            Certain,
            format!("{text}; {} as {}", bare.left, bare.left_as),
        )
        .checked(format!("{named} selects {} and {}", bare.source, bare.destination), get(policy))
        .fix(fix.clone());
        return Said::Cause(Box::new(finding));
    }
    let ipv6 = bare.source.is_ipv6();
    let [from, to] = set_names(&policy.reference(), ipv6);
    let (table, chain) = if assigned.local { ("nat", SNAT_CHAIN) } else { ("mangle", REQUEST_CHAIN) };
    let tables = if ipv6 { "ip6tables" } else { "iptables" };
    let used = bare
        .node
        .tables(table)
        .filter_map(|t| t.chain(chain))
        .flat_map(|c| c.rules.iter())
        .any(|rule| rule.names_set(&from));
    let behind = |what: String, fact: String, show: String| {
        let finding = Finding::new(
            &c::EGRESS_NOT_HANDLED,
            if bare.node.unreadable.is_empty() { Certain } else { Likely },
            format!(
                "{named} selects this pod, but {name} {what}: its agent is behind, and {} as {}",
                bare.left, bare.left_as
            ),
        )
        .checked(fact, show)
        .checked(format!("the policy selects {} and {}", bare.source, bare.destination), get(policy))
        .fix(format!("restart the egressgateway agent on {name}, read its log"));
        Said::Cause(Box::new(finding))
    };
    let list = |set: &str| command(format!("ipset list {set}"));
    if !used {
        return behind(
            "has no rule for it".to_owned(),
            format!("no rule of {table} {chain} uses {from}"),
            command(format!("{tables} -t {table} -S {chain}")),
        );
    }
    if !bare.node.set_has(&from, bare.source) {
        return behind(
            format!("does not know that {} is of it", bare.source),
            format!("{from} does not contain {}", bare.source),
            list(&from),
        );
    }
    if !policy.spec.dest_subnet.is_empty() && !bare.node.set_has(&to, bare.destination) {
        return behind(
            format!("does not know that {} is one of its destinations", bare.destination),
            format!("{to} does not contain {}", bare.destination),
            list(&to),
        );
    }
    Said::Rules
}

/// Marked for another node than the one by which the policy's traffic is to leave.
pub(crate) fn wrong_gateway(
    objects: &Objects,
    source: IpAddr,
    destination: IpAddr,
    mark: u32,
    name: &str,
) -> Option<Finding> {
    let judged = judged(objects, source, destination)?;
    if judged.selecting.iter().any(|s| s.assigned.mark.is_none_or(|own| own == mark)) {
        return None;
    }
    let of = |mark: u32| {
        let hex = |text: &str| u32::from_str_radix(text.trim_start_matches("0x"), 16).ok();
        let tunnel = objects.tunnels.iter().flatten().find(|t| hex(&t.status.mark) == Some(mark));
        tunnel.map_or_else(|| "no EgressTunnel".to_owned(), |t| printable(&t.metadata.name))
    };
    let fix = format!("restart the egressgateway agent on {name}, read its log");
    let Some(Selecting { policy, assigned }) = judged.selecting.first() else {
        let near = judged.nearest.filter(|near| !near.is_unknown())?;
        return Some(
            Finding::new(
                &c::EGRESS_WRONG_GATEWAY,
                Certain,
                format!("{name} marks the packet {mark:#x} ({}), but no policy selects it any more: its agent is behind", of(mark)),
            )
            .checked(near.misses().next().unwrap_or_default().to_owned(), get(near.policy))
            .fix(fix),
        );
    };
    let (node, wanted) = (printable(assigned.node?), assigned.mark?);
    Some(
        Finding::new(
            &c::EGRESS_WRONG_GATEWAY,
            Certain,
            format!(
                "{name} marks the packet {mark:#x} ({}), but {} leaves by {node}, whose mark is {wanted:#x}: its agent is behind",
                of(mark),
                policy.named()
            ),
        )
        .checked(format!("status.mark of EgressTunnel {node} is {wanted:#x}"), format!("kubectl get egresstunnel {node} -o yaml"))
        .fix(fix),
    )
}

/// Why the gateway did not translate it, as far as the objects say: a fact, the command that shows it, and a fix.
pub(crate) fn no_address(
    objects: &Objects,
    source: IpAddr,
    destination: IpAddr,
    name: &str,
) -> Option<(String, String, String)> {
    let judged = judged(objects, source, destination)?;
    let Selecting { policy, assigned } = judged.selecting.first()?;
    let (fact, fix) = match (assigned.broken(), assigned.eip) {
        (Some(trouble), _) => (trouble.text.clone(), trouble.fix.clone()),
        (None, Eip::Address(address)) => (
            format!("{} gives it {address}: the agent on {name} is behind", policy.named()),
            format!("restart the egressgateway agent on {name}, read its log"),
        ),
        _ => return None,
    };
    Some((fact, get(policy), fix))
}

/// Which policy's set this is: "EgressPolicy default/test".
pub(crate) fn policy_of_set(objects: Option<&Objects>, set: &str) -> Option<String> {
    let ipv6 = set.contains("-v6-");
    let policies = &objects?.policies;
    policies.iter().find(|p| set_names(&p.reference(), ipv6).iter().any(|n| n == set)).map(Policy::named)
}

fn get(policy: &Policy) -> String {
    let name = printable(&policy.metadata.name);
    if policy.is_of_cluster() {
        format!("kubectl get egressclusterpolicy {name} -o yaml")
    } else {
        format!("kubectl get egresspolicy -n {} {name} -o yaml", printable(&policy.metadata.namespace))
    }
}
