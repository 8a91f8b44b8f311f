// SPDX-License-Identifier: MIT OR Apache-2.0
//! No route leads to an address, and why not where that shows.

use std::net::IpAddr;

use super::catalogue as c;
use super::finding::Certainty::{Certain, Likely};
use super::finding::Finding;
use super::ipsec::NodeState;
use crate::cluster::egress::datapath::is_egress_tunnel;
use crate::node::IpPrefix;
use crate::node::rtnl::{Link, NextHop, Route};
use crate::snapshot::NetnsEvidence;
use crate::text::escape;

fn ip(to: IpAddr) -> &'static str {
    if to.is_ipv6() { "ip -6" } else { "ip" }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

fn in_main(route: &&Route) -> bool {
    route.table == u32::from(libc::RT_TABLE_MAIN)
}

/// `seen`: what shows that there is none, and the command that does.
pub(crate) fn no_route(node: &NodeState<'_>, to: IpAddr, seen: (String, String)) -> Finding {
    let name = node.name;
    let Some(deaf) = deaf_to_routers(node, to) else {
        return Finding::new(&c::NO_ROUTE, Certain, format!("{name} has no route to {to}"))
            .checked(seen.0, seen.1)
            .fix(format!("add a route for {to}: none of the routes of {name} fits"));
    };
    let device = escape(&deaf.name);
    let key = format!("net.ipv6.conf.{}.accept_ra", deaf.name.replace('.', "/"));
    let mut finding = Finding::new(
        &c::NO_ROUTE,
        Certain,
        format!("{name} has no route to {to}: it has no IPv6 default route, and {device} learns none from router advertisements, because {name} forwards and accept_ra is 1"),
    )
    .checked(seen.0, seen.1)
    .checked(
        format!("accept_ra of {device} is 1, which counts only on hosts that do not forward; 2 always does"),
        (node.command)(format!("sysctl {key} net.ipv6.conf.all.forwarding")),
    )
    .fix(format!(
        "{} (where a router advertises itself; else add a default route)",
        (node.command)(format!("sysctl -w {key}=2"))
    ));
    finding.besides = format!(
        "lasting, where a router advertises itself: {}",
        (node.command)(format!("sysctl -w {key}=2"))
    );
    finding
}

/// addrconf's `ipv6_accept_ra()`: with forwarding, accept_ra has to be 2.
fn deaf_to_routers<'e>(node: &NodeState<'e>, to: IpAddr) -> Option<&'e Link> {
    let evidence = node.evidence;
    let default = |route: &Route| {
        route.destination.is_ipv6() && route.destination.is_empty() && route.kind == libc::RTN_UNICAST
    };
    if to.is_ipv4() || evidence.routes.iter().filter(in_main).any(default) {
        return None;
    }
    let on = |ifindex: u32| {
        evidence
            .addresses
            .iter()
            .any(|a| a.ifindex == ifindex && a.address.is_ipv6() && a.scope == 0 && !is_link_local(a.address))
    };
    evidence.links.iter().find(|link| {
        let says = |key: &str| evidence.sysctl(&format!("net/ipv6/conf/{}/{key}", link.name));
        link.is_up()
            && !link.is_loopback()
            && !link.is_kind("bridge")
            && link.vxlan.is_none()
            && on(link.ifindex)
            && says("accept_ra") == Some(1)
            && says("forwarding").is_some_and(|value| value != 0)
    })
}

/// The tunnel to the pods of other nodes, one of which has the address, where it is down or has lost its address, and
/// with it all routes that lead into it: only the default route fits.
pub(crate) fn lost_tunnel(evidence: &NetnsEvidence, to: IpAddr) -> Option<&Link> {
    let mut covering = evidence.routes.iter().filter(in_main).filter(|r| r.destination.contains(to));
    if !covering.all(|route| route.destination.is_empty()) || !is_near_pods(evidence, to) {
        return None;
    }
    let unused = |link: &&Link| {
        let own = |route: &Route| {
            let to = route.destination.address();
            let by = route.next_hops.iter().any(|hop| hop.ifindex == link.ifindex);
            by && !is_link_local(to) && !to.is_multicast()
        };
        let has_address =
            || evidence.addresses.iter().any(|a| a.ifindex == link.ifindex && !is_link_local(a.address));
        link.vxlan.is_some()
            && link.master.is_none()
            && !is_egress_tunnel(link)
            && !(link.is_up() && has_address())
            && !evidence.routes.iter().any(own)
    };
    // A device that is set down forgets its peers.
    evidence.links.iter().filter(unused).find(|link| !link.is_up() || peers(evidence, link) > 0)
}

/// The address is near those of the own pods. The address and mask of the network of all pods are not known here.
pub(crate) fn is_near_pods(evidence: &NetnsEvidence, to: IpAddr) -> bool {
    let near = |route: &Route| {
        let wide = IpPrefix::new(route.destination.address(), if to.is_ipv4() { 16 } else { 48 });
        let to_pods = |hop: &NextHop| {
            let link = evidence.link_by_index(hop.ifindex);
            let pods =
                |link: &Link| link.is_kind("bridge") || (link.is_veth() && route.destination.is_host());
            hop.gateway.is_none() && link.is_some_and(pods)
        };
        wide.is_some_and(|network| network.contains(to))
            && !route.destination.is_empty()
            && route.next_hops.iter().any(to_pods)
    };
    evidence.routes.iter().filter(in_main).any(near)
}

/// The nodes that a tunnel device knows.
fn peers(evidence: &NetnsEvidence, link: &Link) -> usize {
    evidence.fdb.iter().filter(|entry| entry.ifindex == link.ifindex && entry.remote.is_some()).count()
}

/// Packets for a pod of another node leave by the default route, out of the device `out`, because of that.
pub(crate) fn without_tunnel(node: &NodeState<'_>, to: IpAddr, out: &str) -> Option<Finding> {
    let evidence = node.evidence;
    let link = lost_tunnel(evidence, to)?;
    let (name, device) = (node.name, escape(&link.name));
    let state = if link.is_up() { "has no address" } else { "is down" };
    Some(
        Finding::new(
            &c::POD_ROUTE_MISSING,
            Likely,
            format!("{name} has no route to {to} but the default one by {out}: {device}, its tunnel to the other nodes, {state}, and its routes went with that"),
        )
        .checked(
            format!("{device} {state}"),
            (node.command)(format!("ip addr show dev {device}")),
        )
        .checked("only the default route fits", (node.command)(format!("{} route get {to}", ip(to))))
        .fix(format!("restart the network plugin's agent (flannel, Calico) on {name}: it brings {device} up and gives it its address and its routes"))
        .about(to),
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_node_that_forwards_takes_no_router_advertisements() {
        let on = |value: &str| {
            let all = [("accept_ra", value), ("forwarding", "1")];
            let path = |key| format!("net/ipv6/conf/eth0/{key}");
            all.map(|(key, value)| (path(key), value.to_owned())).into_iter().collect()
        };
        let link =
            Link { ifindex: 2, name: "eth0".to_owned(), flags: libc::IFF_UP as u32, ..Link::default() };
        let address = crate::node::rtnl::Address {
            ifindex: 2,
            address: "fd00::11".parse().unwrap(),
            prefix_len: 64,
            ..Default::default()
        };
        let mut evidence =
            NetnsEvidence { links: vec![link], addresses: vec![address], ..NetnsEvidence::default() };
        let says = |evidence: &NetnsEvidence| {
            let node = NodeState { evidence, name: "node1", command: &|command| command };
            no_route(&node, "2001:db8::1".parse().unwrap(), (String::new(), String::new())).fix
        };
        evidence.sysctls = Arc::new(on("1"));
        assert!(says(&evidence).starts_with("sysctl -w net.ipv6.conf.eth0.accept_ra=2 "));
        evidence.sysctls = Arc::new(on("2"));
        assert!(says(&evidence).starts_with("add a route"));
    }
}
