// SPDX-License-Identifier: MIT OR Apache-2.0
//! Flows of a host that a repair of another flow must not cut off.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::run::{Start, predict_from, unspecified};
use super::walker::End;
use super::world::{Host, World};
use crate::cause::Certainty::Possible;
use crate::firewall::{Criterion, PacketView};
use crate::node::NetnsId;
use crate::node::rtnl::FdbEntry;

/// Of each host, flows that work now and have to work still.
const STANDING: usize = 24;
/// Pods of a host whose flows are looked at, and how many to hosts and to services.
const PODS: usize = 3;
const OF_POD: usize = 5;
/// Somewhere on the Internet, for the default route. It is looked up and never sent to.
const ANYWHERE: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(9, 9, 9, 9)),
    IpAddr::V6(std::net::Ipv6Addr::new(0x2620, 0xfe, 0, 0, 0, 0, 0, 0xfe)),
];

/// Flows of a host that may work: pings to its neighbours and gateways, to the other hosts, and to somewhere far away;
/// and connections of its pods.
pub(super) fn standing(host: &Arc<Host>, others: &[IpAddr]) -> Vec<(Start, PacketView)> {
    let gateways = || host.evidence.routes.iter().flat_map(|r| &r.next_hops).filter_map(|hop| hop.gateway);
    let neighbours = host.evidence.neighbours.iter().filter(|n| !n.mac.is_empty()).map(|n| n.address);
    let far = || ANYWHERE.into_iter().chain(gateways()).chain(others.iter().copied());
    let other = |to: &IpAddr| !to.is_loopback() && !to.is_multicast() && !host.owns(*to);
    let mut seen = BTreeSet::new();
    let pings =
        far().chain(neighbours).filter(other).filter(|to| seen.insert(*to)).take(STANDING).map(|to| {
            let (proto, kind) = if to.is_ipv4() { (1, 8) } else { (58, 128) };
            let mut packet = PacketView::new(proto, unspecified(to), to).mark(0);
            packet.icmp = Some((kind, 0));
            (Start::Sent(host.clone()), packet)
        });
    let mut out: Vec<(Start, PacketView)> = pings.collect();
    for (port, pod) in pods(host).take(PODS) {
        let fits = |to: &IpAddr| to.is_ipv4() == pod.is_ipv4() && *to != pod && other(to);
        let tcp = |to, dport| {
            let mut packet = PacketView::new(6, pod, to).ports(40_000, dport).mark(0);
            packet.tcp_flags = Some(0x02);
            (Start::Arrives(host.clone(), port), packet)
        };
        out.extend(far().filter(fits).take(OF_POD).map(|to| tcp(to, 443)));
        out.extend(services(host).filter(|(to, _)| fits(to)).take(OF_POD).map(|(to, port)| tcp(to, port)));
    }
    out
}

/// Hosts behind a bridge or a veth of this one, and the port that they send by.
fn pods(host: &Host) -> impl Iterator<Item = (u32, IpAddr)> {
    let evidence = &host.evidence;
    let known =
        evidence.neighbours.iter().filter(|n| !n.mac.is_empty() && !host.uplinks.contains(&n.ifindex));
    known.filter_map(move |n| {
        let link = host.link(n.ifindex).filter(|link| link.vxlan.is_none())?;
        let at = |e: &&FdbEntry| e.mac == n.mac && e.master == Some(n.ifindex) && !e.own;
        let port = if link.is_kind("bridge") { evidence.fdb.iter().find(at)?.ifindex } else { n.ifindex };
        Some((port, n.address))
    })
}

/// Addresses and ports that rules translate.
fn services(host: &Host) -> impl Iterator<Item = (IpAddr, u16)> {
    let rules = host.evidence.tables("nat").flat_map(|t| &t.chains).flat_map(|chain| chain.rules.iter());
    rules.filter_map(|rule| {
        let to = rule.matches.iter().find_map(|m| match &m.what {
            Criterion::Destination(ranges) if !m.negated => match ranges.as_slice() {
                [one] if one.first == one.last => Some(one.first),
                _ => None,
            },
            _ => None,
        })?;
        let port = rule.matches.iter().find_map(|m| match &m.what {
            Criterion::DestinationPort(ports) if !m.negated => ports.first().map(|range| range.first),
            _ => None,
        })?;
        Some((to, port))
    })
}

/// Where a packet ends well: namespace, device, next hop, and source; `None`: it does not.
pub(super) fn ends(
    world: &mut dyn World,
    start: Start,
    packet: &PacketView,
) -> Option<(NetnsId, u32, Option<IpAddr>, IpAddr)> {
    let prediction = predict_from(world, start, packet.clone(), Vec::new());
    if !prediction.works()
        || prediction.ways.iter().flat_map(|way| &way.found).any(|f| f.finding.certainty != Possible)
    {
        return None;
    }
    let run = prediction.ways.first()?.main();
    let source = run.flight.packet.src;
    let theirs = world.watched().into_iter().any(|host| host.owns(packet.dst));
    match &run.end {
        // What is for one of these hosts has not arrived elsewhere.
        End::Left(host, device) if !theirs => Some((host.id, *device, run.flight.next_hop, source)),
        End::Delivered(host) => Some((host.id, 0, None, source)),
        _ => None,
    }
}
