// SPDX-License-Identifier: MIT OR Apache-2.0
//! Faults of encapsulating devices.

use super::context::View;
use crate::cause::Certainty::{Certain, Likely};
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::flow::DropSite;
use crate::node::DeviceKind;

/// The outer packet finds no route: by far the most often because it is routed into the tunnel again.
pub(super) fn no_way_out(view: &View<'_>, site: &DropSite) -> Option<Finding> {
    let device = view.device_name(site.netns, site.ifindex);
    let place = view.place(site.netns, site.ifindex);
    let again = view
        .lookups()
        .rev()
        .find(|l| l.netns == site.netns && l.ifindex == site.ifindex && l.error == 0 && !l.reverse);
    if site.mark != 0 && again.is_some_and(|l| l.mark == site.mark) {
        let mark = site.mark;
        return Some(
            Finding::new(
                &c::TUNNEL_INTO_ITSELF,
                Certain,
                format!("the encapsulated packet kept mark {mark:#x} and is routed into {device} again"),
            )
            .checked(
                format!("fwmark {mark:#x} leads to {device}"),
                view.command(site.netns, format!("{} rule show fwmark {mark:#x}", view.ip_command())),
            )
            .checked(
                "no rule in mangle FORWARD replaced the mark before the tunnel",
                view.command(site.netns, format!("{} -t mangle -S FORWARD", view.iptables())),
            )
            .fix(format!("restore the rule at the top of mangle FORWARD that resets the mark (EgressGateway: restart its agent), so that {mark:#x} does not reach {device}"))
            .at(place),
        );
    }
    if let Some(DeviceKind::Vxlan { local: Some(local), .. }) =
        view.device(site.netns, site.ifindex).map(|d| d.kind.clone())
        && view
            .namespace(site.netns)
            .is_some_and(|ns| ns.devices.values().all(|d| !d.addresses.contains(&local)))
    {
        let name = view.netns(site.netns);
        return Some(
            Finding::new(&c::NO_ROUTE, Certain, format!("{device} sends from {local}, an address that {name} does not have: the outer packet cannot be routed"))
                .checked(format!("local {local}"), view.command(site.netns, format!("ip -d link show {device}")))
                .checked(format!("no device of {name} has {local}"), view.command(site.netns, format!("ip addr show to {local}")))
                .fix(format!("recreate {device} with the node's own address (local ADDRESS): restart the agent that makes it"))
                .at(place),
        );
    }
    Some(
        Finding::new(&c::NO_ROUTE, Likely, format!("{device} has no route to its peer's node"))
            .checked(
                "the outer packet was dropped for lack of a route",
                view.command(site.netns, format!("ip -d link show {device}")),
            )
            .fix(format!("add a route to the peer's node address on {}", view.netns(site.netns)))
            .at(place),
    )
}

/// No FDB entry.
pub(super) fn no_peer(view: &View<'_>, site: &DropSite) -> Option<Finding> {
    if !view.is_vxlan(site.netns, site.ifindex) {
        return None;
    }
    let device = view.device_name(site.netns, site.ifindex);
    let gateway = view.last_lookup(site.netns, false).filter(|l| !l.gateway.is_none()).map(|l| l.gateway);
    let peer = gateway.map(|gw| format!(" {gw}")).unwrap_or_default();
    Some(
        Finding::new(
            &c::TUNNEL_PEER_MISSING,
            Certain,
            format!("{device} does not know behind which node its peer{peer} is: no FDB entry for its MAC"),
        )
        .checked(
            "dropped in the tunnel's transmit path: NO_TX_TARGET",
            view.command(site.netns, format!("bridge fdb show dev {device}")),
        )
        .fix(format!("the agent that owns {device} must add the peer (restart it, read its log)"))
        .at(view.place(site.netns, site.ifindex)),
    )
}

/// It goes in the tunnel to another node than the one that has the peer's address.
pub(super) fn wrong_peer(view: &View<'_>) -> Option<Finding> {
    let hop = view.journey.hops.iter().rev().find(|h| h.encap.is_some())?;
    let outer = view.journey.encaps.get(usize::from(hop.encap?))?;
    // Of a packet that is sent again the earlier one's lookup is known.
    let lookup = view.lookups().rev().chain(view.routes.iter().copied()).find(|l| {
        let into = l.netns == hop.netns && !l.reverse && l.error == 0 && view.is_vxlan(l.netns, l.ifindex);
        into && !l.gateway.is_none()
    })?;
    let peer = lookup.gateway.ip();
    let (ns, theirs) = view.owner(peer).filter(|(ns, _)| ns.id != hop.netns)?;
    let has = |address| ns.devices.values().any(|d| d.addresses.contains(&address));
    if has(outer.dst.addr.ip()) {
        return None;
    }
    let (device, name) = (view.device_name(hop.netns, lookup.ifindex), view.netns(hop.netns));
    let (there, node) = (view.netns(ns.id), outer.dst.addr);
    let same = |d: &&crate::node::Device| matches!(d.kind, DeviceKind::Vxlan { local: Some(_), .. });
    let right = ns.devices.get(&theirs.ifindex).filter(same).and_then(|d| match d.kind {
        DeviceKind::Vxlan { local, .. } => local,
        _ => None,
    });
    let right = right.map_or_else(|| format!("the address of {there}"), |local| local.to_string());
    let mac = crate::text::mac(&theirs.mac);
    Some(
        Finding::new(
            &c::TUNNEL_PEER_WRONG,
            Certain,
            format!(
                "{device} of {name} sends what is for its peer {peer} to {node}, but {peer} is on {there}"
            ),
        )
        .checked(
            format!("the outer packet goes to {node}; the FDB entry of {mac} says so"),
            view.command(hop.netns, format!("bridge fdb show dev {device} | grep {mac}")),
        )
        .checked(
            format!("{peer} is on {} of {there}", view.device_name(ns.id, theirs.ifindex)),
            view.command(ns.id, format!("ip addr show to {peer}")),
        )
        .fix(
            view.command(
                hop.netns,
                format!("bridge fdb replace {mac} dev {device} dst {right} self permanent"),
            ) + &format!("; the agent that owns {device} should do so (restart it)"),
        )
        .about(peer)
        .at(view.place(hop.netns, lookup.ifindex)),
    )
}

/// The answer goes into the tunnel to another node than the one that the request came from.
pub(super) fn not_back(view: &View<'_>) -> Option<Finding> {
    let entry = view.tunnel.filter(|_| view.journey.reply)?;
    let came_from = entry.node?;
    let hop = view.journey.hops.iter().rev().find(|h| h.encap.is_some() && h.netns == entry.netns)?;
    let outer = view.journey.encaps.get(usize::from(hop.encap?))?;
    let into = view.lookups().any(|l| l.netns == entry.netns && l.ifindex == entry.ifindex && !l.reverse);
    if !into || outer.dst.addr == came_from {
        return None;
    }
    let (device, name) = (view.device_name(entry.netns, entry.ifindex), view.netns(entry.netns));
    let node = outer.dst.addr;
    Some(
        Finding::new(
            &c::TUNNEL_PEER_WRONG,
            Likely,
            format!("the request came in the tunnel from {came_from}, but {device} of {name} sends the answer to {node}"),
        )
        .checked(
            format!("the outer packet of the answer goes to {node}: an FDB entry says so"),
            view.command(entry.netns, format!("bridge fdb show dev {device} | grep {node}")),
        )
        .fix(format!("correct that entry to {came_from}: the agent that owns {device} should do so (restart it)"))
        .about(node)
        .at(view.place(entry.netns, entry.ifindex)),
    )
}

pub(super) fn vni(view: &View<'_>, site: &DropSite) -> Finding {
    let outer = site.encap.and_then(|i| view.journey.encaps.get(usize::from(i)));
    let vni = outer.map(|o| format!(" {}", o.vni)).unwrap_or_default();
    Finding::new(
        &c::TUNNEL_VNI,
        Certain,
        format!("no tunnel device of {} has VNI{vni}", view.netns(site.netns)),
    )
    .checked(
        "dropped on arrival: VXLAN_VNI_NOT_FOUND",
        view.command(site.netns, "ip -d link show type vxlan"),
    )
    .fix("give both ends of the tunnel the same VNI")
    .at(view.place(site.netns, site.ifindex))
}

/// The outer packet arrived, and no tunnel device took it.
pub(super) fn nobody_listens(view: &View<'_>, site: &DropSite) -> Option<Finding> {
    let outer = view.journey.encaps.get(usize::from(site.encap?))?;
    let port = outer.dst.port;
    let ns = view.namespace(site.netns)?;
    let name = view.netns(site.netns);
    let of_vni = |d: &&crate::node::Device| match d.kind {
        DeviceKind::Vxlan { vni, port, .. } => (vni == outer.vni).then_some(port),
        _ => None,
    };
    let device = ns.devices.values().find(|d| of_vni(d) == Some(port));
    let elsewhere = ns.devices.values().find_map(|d| Some((d, of_vni(&d)?)));
    let (title, fix) = match device {
        Some(d) if !d.up => (
            format!("{} is down on {name}: nothing takes the tunnel's packets on UDP {port}", d.name),
            view.command(site.netns, format!("ip link set {} up", d.name)),
        ),
        Some(d) => (
            format!("{} on {name} does not take the tunnel's packets on UDP {port}", d.name),
            format!("recreate {}", d.name),
        ),
        None if let Some((d, own)) = elsewhere => (
            format!("the tunnel's packets come to {name} on UDP {port}, but {} listens on UDP {own}", d.name),
            format!(
                "give both ends of the tunnel the same UDP port: restart the agent that made {} or the other end",
                d.name
            ),
        ),
        None => (
            format!("{name} has no vxlan device with VNI {} and UDP port {port}", outer.vni),
            "restart the agent that makes the tunnel device on that node".to_owned(),
        ),
    };
    Some(
        Finding::new(&c::TUNNEL_NOT_LISTENING, Certain, title)
            .checked(
                format!("no socket takes UDP {port}: NO_SOCKET"),
                view.command(site.netns, format!("ss -uln sport = :{port}")),
            )
            .checked("the tunnel devices there", view.command(site.netns, "ip -d link show type vxlan"))
            .fix(fix)
            .at(view.place(site.netns, site.ifindex)),
    )
}
