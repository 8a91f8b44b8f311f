// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a packet begins: at its sender, or at the device by which it comes.

use std::net::IpAddr;
use std::sync::Arc;

use super::egress_sets::{egress_tunnel, selected};
use super::run::{NOBODY, Question as Asked, Start};
use super::world::{Host, World};
use crate::cause::cluster_address::of_cluster;
use crate::cause::kube_proxy::is_service;
use crate::cause::no_route;
use crate::fib::Question;
use crate::firewall::{Criterion, PacketView};
use crate::node::Role;

/// Where it begins: at its sender, or at the device by which it comes to the node.
pub(crate) fn start(
    world: &mut dyn World,
    question: &Asked,
    packet: &mut PacketView,
    assumed: &mut Vec<String>,
) -> Result<Start, String> {
    let pod = question.pod.and_then(|id| world.host(id));
    let sender = match (&pod, question.source) {
        (Some(pod), None) => Some(pod.clone()),
        (Some(pod), Some(source)) if pod.owns(source) => Some(pod.clone()),
        (_, Some(source)) => local_sender(world, source),
        (None, None) => world.watched().into_iter().find(|h| h.role == Role::Node),
    };
    if let Some(host) = sender {
        packet.uid = Some(stranger(&host));
        if host.role == Role::Pod && names_users(&host) {
            assumed.push(format!("a program of {} sends it whose user no rule names", host.name()));
        }
        return Ok(Start::Sent(host));
    }
    packet.uid = Some(NOBODY);
    let node =
        world.watched().into_iter().find(|h| h.role == Role::Node).ok_or("no node's namespace is known")?;
    let source = question.source.ok_or("no source is known")?;
    // A pod of another node comes by the egress tunnel where a policy of this gateway selects it.
    if selected(&node.evidence, source, question.destination)
        && let Some(link) = egress_tunnel(&node)
    {
        let mut peers =
            node.evidence.neighbours.iter().filter(|n| n.ifindex == link.ifindex && n.mac.len() == 6);
        packet.mac = peers.next().and_then(|n| n.mac.first_chunk().copied());
        let which = if peers.next().is_some() { "from one of its peers" } else { "from its only peer" };
        assumed.push(format!(
            "it comes to {} by {} {which}: a policy selects {source}",
            node.name(),
            node.device(link.ifindex)
        ));
        return Ok(Start::Arrives(node.clone(), link.ifindex));
    }
    if let Some((of, _)) = of_cluster(&node.evidence, &[], source).filter(|(_, network)| !network.is_host())
        && is_service(&node.evidence, question.destination)
    {
        return Err(format!(
            "packets from {source}, {of}, to the service {} do not come to {} like that: the pod's own node translates them before; check there, or check here with an endpoint of the service",
            question.destination,
            node.name()
        ));
    }
    if let Some(link) = no_route::lost_tunnel(&node.evidence, source) {
        let device = node.device(link.ifindex);
        assumed.push(format!("it comes to {} by {device}, its tunnel to the other nodes' pods", node.name()));
        return Ok(Start::Arrives(node.clone(), link.ifindex));
    }
    match node.fib().lookup(&Question::to(source)).routed() {
        Some(routed) => {
            let device = routed.hops.first().map_or(0, |hop| hop.ifindex);
            assumed.push(format!(
                "it comes to {} by {}, by which {} sends to {source}",
                node.name(),
                node.device(device),
                node.name()
            ));
            Ok(Start::Arrives(node, device))
        }
        None => Err(format!(
            "by which device packets from {source} come to {}: there is no route to it",
            node.name()
        )),
    }
}

/// The namespace that has the address: a watched one, or a pod behind a veth of one.
fn local_sender(world: &mut dyn World, source: IpAddr) -> Option<Arc<Host>> {
    let watched = world.watched();
    if let Some(host) = watched.iter().find(|h| h.owns(source)) {
        return Some(host.clone());
    }
    for node in watched.iter().filter(|h| h.role == Role::Node) {
        let fib = node.fib();
        let answer = fib.lookup(&Question::to(source));
        let Some(hop) = answer.routed().and_then(|routed| routed.hops.first()).copied() else { continue };
        if hop.gateway.is_some() {
            continue;
        }
        let ends: Vec<_> = node
            .evidence
            .links
            .iter()
            .filter(|l| {
                (l.ifindex == hop.ifindex || l.master == Some(hop.ifindex))
                    && !node.uplinks.contains(&l.ifindex)
            })
            .cloned()
            .collect();
        for link in ends {
            if let Some((pod, _)) = world.peer(node, &link)
                && pod.owns(source)
                && pod.role == Role::Pod
            {
                return Some(pod);
            }
        }
    }
    None
}

fn owner_rules(host: &Host) -> impl Iterator<Item = (u32, u32)> {
    host.evidence
        .rulesets
        .iter()
        .flat_map(|t| &t.chains)
        .flat_map(|c| c.rules.iter())
        .flat_map(|r| &r.matches)
        .filter_map(|m| match m.what {
            Criterion::OwnerUid { first, last } => Some((first, last)),
            _ => None,
        })
}

fn names_users(host: &Host) -> bool {
    owner_rules(host).next().is_some()
}

/// A user that no rule of the host names.
pub(crate) fn stranger(host: &Host) -> u32 {
    let taken: Vec<(u32, u32)> = owner_rules(host).collect();
    let free = |uid: &u32| !taken.iter().any(|(first, last)| (*first..=*last).contains(uid));
    (1..=NOBODY).rev().find(free).unwrap_or(NOBODY)
}
