// SPDX-License-Identifier: MIT OR Apache-2.0
//! The other watched nodes as this one's tunnels and routes have to know them: what to write where it is missing.

use std::net::IpAddr;
use std::sync::Arc;

use super::world::Host;
use crate::cause::Certainty::Certain;
use crate::cause::{Finding, Place, catalogue as c};
use crate::cluster::egress::datapath::is_egress_tunnel;
use crate::node::rtnl::{Link, NextHop, Route};
use crate::node::{IpPrefix, NetnsId, Role};
use crate::snapshot::{Change, ONLINK};

/// The other ends of a vxlan device.
fn ends<'h>(
    nodes: &'h [Arc<Host>],
    host: &'h Host,
    link: &'h Link,
) -> impl Iterator<Item = (&'h Host, &'h Link)> {
    let same = move |other: &&Link| match (&other.vxlan, &link.vxlan) {
        (Some(there), Some(here)) => (there.vni, there.port) == (here.vni, here.port),
        _ => false,
    };
    let others = nodes.iter().filter(move |there| there.id != host.id && there.role == Role::Node);
    others.filter_map(move |there| Some((&**there, there.evidence.links.iter().find(same)?)))
}

fn address_of(there: &Host, link: &Link, like: IpAddr) -> Option<IpAddr> {
    let own = there.evidence.addresses.iter().filter(|a| a.ifindex == link.ifindex);
    let global = |address: &IpAddr| !matches!(address, IpAddr::V6(six) if six.is_unicast_link_local());
    own.map(|a| a.address).find(|address| address.is_ipv4() == like.is_ipv4() && global(address))
}

/// The entry of a peer on a tunnel.
pub(super) fn neighbour(nodes: &[Arc<Host>], host: &Host, link: &Link, hop: IpAddr) -> Option<Change> {
    let (_, other) = ends(nodes, host, link).find(|(there, other)| {
        there.evidence.addresses.iter().any(|a| a.ifindex == other.ifindex && a.address == hop)
    })?;
    Some(Change::SetNeighbour { ifindex: link.ifindex, address: hop, mac: other.mac.clone() })
}

/// Which node a MAC of a tunnel is behind.
pub(super) fn forwarding(nodes: &[Arc<Host>], host: &Host, link: &Link, mac: &[u8]) -> Option<Change> {
    let (_, other) = ends(nodes, host, link).find(|(_, other)| other.mac == mac)?;
    let remote = other.vxlan.as_ref()?.local?;
    Some(Change::SetForwarding { ifindex: link.ifindex, mac: mac.to_vec(), remote })
}

/// A default route by a tunnel, for each end that it may lead to.
pub(super) fn default_by_tunnel(
    nodes: &[Arc<Host>],
    host: &Host,
    link: &Link,
    table: u32,
    like: IpAddr,
) -> Vec<Change> {
    let peers = ends(nodes, host, link).filter_map(|(there, other)| address_of(there, other, like));
    let route = |gateway| {
        let next_hops = vec![NextHop { ifindex: link.ifindex, gateway: Some(gateway), ..NextHop::default() }];
        let destination = IpPrefix::new(super::run::unspecified(like), 0).unwrap_or_default();
        Change::AddRoute(Route { destination, table, next_hops, ..Route::default() })
    };
    peers.map(route).collect()
}

/// The route to a pod of another watched node, and what it needs: by the tunnel that both have, else by the network that
/// both are on.
pub(super) fn route_to_pod(nodes: &[Arc<Host>], host: &Host, to: IpAddr) -> Vec<(NetnsId, Change)> {
    let network_of = |there: &Host| {
        there.evidence.addresses.iter().find_map(|a| {
            let network = IpPrefix::new(a.address, a.prefix_len)?;
            let bridge = there.link(a.ifindex).is_some_and(|link| link.is_kind("bridge"));
            (bridge && !there.uplinks.contains(&a.ifindex) && !network.is_empty() && network.contains(to))
                .then_some(network)
        })
    };
    let others = nodes.iter().filter(|there| there.id != host.id && there.role == Role::Node);
    let Some((there, destination)) = others.filter_map(|there| Some((there, network_of(there)?))).next()
    else {
        return Vec::new();
    };
    let tunnel =
        host.evidence.links.iter().filter(|link| link.vxlan.is_some() && !is_egress_tunnel(link)).find_map(
            |link| {
                let (_, other) = ends(nodes, host, link).find(|(other, _)| other.id == there.id)?;
                Some((link, address_of(there, other, to)?))
            },
        );
    let mut out = Vec::new();
    let hop = if let Some((link, gateway)) = tunnel {
        if !link.is_up() {
            out.push((host.id, Change::DeviceUp(link.ifindex)));
        }
        NextHop { ifindex: link.ifindex, gateway: Some(gateway), flags: ONLINK, ..NextHop::default() }
    } else {
        let own = host.evidence.addresses.iter().filter(|a| host.uplinks.contains(&a.ifindex));
        let near = own.filter_map(|a| {
            let network = IpPrefix::new(a.address, a.prefix_len)?;
            let theirs = there.evidence.addresses.iter().map(|a| a.address);
            Some((
                a.ifindex,
                theirs.into_iter().find(|address| network.contains(*address) && *address != a.address)?,
            ))
        });
        let global = |(_, address): &(u32, IpAddr)| {
            address.is_ipv4() == to.is_ipv4()
                && !matches!(address, IpAddr::V6(six) if six.is_unicast_link_local())
        };
        let Some((ifindex, gateway)) = near.into_iter().find(global) else { return out };
        NextHop { ifindex, gateway: Some(gateway), ..NextHop::default() }
    };
    out.push((host.id, Change::AddRoute(Route { destination, next_hops: vec![hop], ..Route::default() })));
    out
}

/// What may be missing of the way back to a source: the route to a pod of another node, or to an address of a pod here.
pub(super) fn way_back(
    watched: &[Arc<Host>],
    host: &Host,
    input: u32,
    source: IpAddr,
) -> Vec<(NetnsId, Change)> {
    let mut out = route_to_pod(watched, host, source);
    let of_pod = watched.iter().any(|pod| pod.role == Role::Pod && pod.owns(source));
    if of_pod && !host.uplinks.contains(&input) {
        let next_hops = vec![NextHop { ifindex: input, ..NextHop::default() }];
        let route = Route { destination: IpPrefix::host(source), next_hops, ..Route::default() };
        out.push((host.id, Change::AddRoute(route)));
    }
    out
}

/// A tunnel has nobody to ask: its agent writes the entries.
pub(super) fn no_neighbour(nodes: &[Arc<Host>], host: &Host, link: &Link, hop: IpAddr) -> Finding {
    let device = host.device(link.ifindex);
    Finding::new(
        &c::TUNNEL_NEIGHBOUR_MISSING,
        Certain,
        format!(
            "{device} of {} has no neighbour entry for its peer {hop}: that node was not made known to it",
            host.name()
        ),
    )
    .checked("no entry, and nobody to ask", host.command(format!("ip neigh show {hop} dev {device}")))
    .fix(format!("the agent that owns {device} must add the peer (restart it, read its log)"))
    .may_repair(host.id, neighbour(nodes, host, link, hop))
    .at(Place { netns: host.name(), device: Some(device.clone()), ..Place::default() })
}
