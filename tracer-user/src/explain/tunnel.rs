// SPDX-License-Identifier: MIT OR Apache-2.0
//! What goes wrong in encapsulating devices.

use super::catalogue as c;
use super::finding::Certainty::{Certain, Likely};
use super::finding::Finding;
use super::view::View;
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
        .fix(format!(
            "the agent that owns {device} must add the peer (restart it); by hand: {}",
            view.command(
                site.netns,
                format!("bridge fdb append MAC dev {device} dst NODE_IP self permanent")
            )
        ))
        .at(view.place(site.netns, site.ifindex)),
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
    let device = ns
        .devices
        .values()
        .find(|d| matches!(d.kind, DeviceKind::Vxlan { vni, port: p, .. } if vni == outer.vni && p == port));
    let (title, fix) = match device {
        Some(d) if !d.up => (
            format!("{} is down on {name}: nothing takes the tunnel's packets on UDP {port}", d.name),
            view.command(site.netns, format!("ip link set {} up", d.name)),
        ),
        Some(d) => (
            format!("{} on {name} does not take the tunnel's packets on UDP {port}", d.name),
            format!("recreate {}", d.name),
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
