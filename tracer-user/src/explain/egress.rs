// SPDX-License-Identifier: MIT OR Apache-2.0
//! What EgressGateway does to a packet, and where it first did something else.

use super::context::{Entry, View, is_tunnel};
use super::{egress_policy_match, egress_reply, fwmark};
use crate::cause::Certainty::{Certain, Likely};
use crate::cause::bare::Bare;
use crate::cause::catalogue as c;
use crate::cause::cluster_address::sent_to_gateway;
use crate::cause::policies;
use crate::cause::{Finding, Place};
use crate::cluster::egress::datapath::{DEVICE, SNAT_CHAIN, expected_first, is_node_mark};
use crate::firewall::{Done, NatKind, PacketView, walk_hook};
use crate::flow::{Hop, Place as At};
use crate::node::{Hook, NetnsId};
use crate::snapshot::Routed;

/// NF_IP_PRI_CONNTRACK: rules that turn tracking off stand before it.
const CONNTRACK_PRIORITY: i32 = -200;

/// Where the packet came in by an egress tunnel.
pub(super) fn came_by_tunnel(view: &View<'_>) -> Option<Entry> {
    view.journey.hops.iter().find_map(|h| match h.place {
        At::Device { ifindex, egress: false } if h.encap.is_none() && is_tunnel(view, h.netns, ifindex) => {
            Some(Entry { netns: h.netns, ifindex })
        }
        _ => None,
    })
}

/// The first divergence from the egress path that the journey itself proves.
pub(super) fn explain(view: &View<'_>) -> Option<Finding> {
    if view.journey.packet.icmp_error.is_some() {
        return None;
    }
    if view.journey.reply {
        return fwmark::explain(view)
            .or_else(|| egress_reply::reply_not_marked(view).filter(|_| view.dropped().is_some()));
    }
    takes_cluster(view)
        .or_else(|| masqueraded(view))
        .or_else(|| fwmark::explain(view))
        .or_else(|| without_snat(view))
        .or_else(|| wrong_gateway(view))
}

/// Marked for a gateway, and its destination is an address of the cluster.
fn takes_cluster(view: &View<'_>) -> Option<Finding> {
    let marked = view.journey.hops.iter().find(|h| is_node_mark(h.mark) && h.encap.is_none())?;
    let first = view.journey.hops.iter().find(|h| h.netns == marked.netns)?;
    if tunnel_entry(view, marked.netns).is_some() {
        return None;
    }
    let name = view.netns(marked.netns);
    let (source, destination) = (first.ends.src.addr.ip(), first.ends.dst.addr.ip());
    let node = view.of(marked.netns)?;
    let bare = Bare { node, name: &name, source, destination, left_as: source, left: "" };
    let others = egress_policy_match::others(view, marked.netns);
    let found = sent_to_gateway(&bare, &others, &|command| view.command(marked.netns, command))?;
    Some(found.at(Place { hook: Some("PREROUTING".to_owned()), ..view.place(marked.netns, 0) }))
}

/// As the objects have it, it should leave by another node.
fn wrong_gateway(view: &View<'_>) -> Option<Finding> {
    let objects = view.evidence?.policies.as_deref()?;
    let first = view.journey.hops.iter().find(|h| !matches!(h.place, At::Route { .. }))?;
    let marked = view.journey.hops.iter().find(|h| is_node_mark(h.mark) && h.encap.is_none())?;
    let (source, destination) = (first.ends.src.addr.ip(), first.ends.dst.addr.ip());
    // On a gateway it has the mark of the pod's node for a moment.
    if marked.ends.src != first.ends.src || tunnel_entry(view, marked.netns).is_some() {
        return None;
    }
    let name = view.netns(marked.netns);
    let found = policies::wrong_gateway(objects, source, destination, marked.mark, &name)?;
    Some(found.at(Place { hook: Some("PREROUTING".to_owned()), ..view.place(marked.netns, 0) }))
}

fn masqueraded(view: &View<'_>) -> Option<Finding> {
    let hop = view.journey.hops.iter().find(|h| {
        let into = matches!(h.place, At::Hook { hook: Hook::Postrouting, out_ifindex, .. }
            if is_tunnel(view, h.netns, out_ifindex));
        into && h.encap.is_none() && h.nat.is_some_and(|n| matches!(n.kind, NatKind::Snat | NatKind::Both))
    })?;
    if is_node_mark(hop.mark) && view.dropped().is_some() {
        // The rule that resets the mark is missing, and only so the others come to translate it.
        return None;
    }
    let (from, to) = (hop.nat?.from.src.addr, hop.ends.src.addr);
    let place = Place { hook: Some("POSTROUTING".to_owned()), ..view.place(hop.netns, out_of(hop)) };
    Some(
        Finding::new(
            &c::MASQUERADED_BEFORE_TUNNEL,
            Certain,
            format!("the source {from} was masqueraded to {to} before the tunnel: the gateway does not know it as the pod's"),
        )
        .checked(
            format!("SNAT in POSTROUTING of {} on the way into {}", view.netns(hop.netns), view.device_name(hop.netns, out_of(hop))),
            view.command(hop.netns, format!("{} -t nat -S POSTROUTING", view.iptables())),
        )
        .fact(expected_first())
        .fix("put the CNI's rules after EgressGateway's (Calico: FelixConfiguration chainInsertMode: Append); restart the egressgateway agent if its ACCEPT is gone")
        .at(place),
    )
}

fn out_of(hop: &Hop) -> u32 {
    match hop.place {
        At::Hook { out_ifindex, .. } => out_ifindex,
        At::Device { ifindex, .. } | At::Route { ifindex, .. } => ifindex,
    }
}

/// Where it came out of EgressGateway's tunnel.
fn tunnel_entry<'a>(view: &View<'a>, netns: NetnsId) -> Option<&'a Hop> {
    view.journey.hops.iter().find(|h| {
        h.netns == netns
            && h.encap.is_none()
            && matches!(h.place, At::Device { ifindex, egress: false } if is_tunnel(view, h.netns, ifindex))
    })
}

/// Out of the tunnel, out of the gateway, with the source that it came with.
fn without_snat(view: &View<'_>) -> Option<Finding> {
    let exit = view.bare_exit()?;
    let entry = tunnel_entry(view, exit.netns)?;
    if entry.ends.src != exit.ends.src {
        return None;
    }
    let source = exit.ends.src.addr;
    let name = view.netns(exit.netns);
    let ifindex = out_of(exit);
    let place = Place { hook: Some("POSTROUTING".to_owned()), ..view.place(exit.netns, ifindex) };
    let back = view.lookups().find(|l| l.netns == exit.netns && l.reverse && l.error == 0);
    // Where that lookup was not seen: as the tables say.
    let routed = view.of(exit.netns).is_some_and(|e| match e.routed(None, source.ip(), 0) {
        Routed::By(route) => route.next_hops.iter().any(|hop| is_tunnel(view, exit.netns, hop.ifindex)),
        _ => false,
    });
    if routed || back.is_some_and(|l| is_tunnel(view, l.netns, l.ifindex)) {
        // Its source is on the tunnel's own network.
        return Some(
            Finding::new(
                &c::MASQUERADED_BEFORE_TUNNEL,
                Likely,
                format!("the pod's node masqueraded the source to its tunnel address {source}: {name} does not know it as a pod's"),
            )
            .checked(format!("{source} is on the network of {DEVICE}"), view.command(exit.netns, format!("ip route get {source}")))
            .fix("on the pod's node, put the CNI's POSTROUTING rules after EgressGateway's (Calico: chainInsertMode: Append)")
            .at(place),
        );
    }
    if let Some(finding) = untracked(view, exit, entry) {
        return Some(finding);
    }
    let finding = Finding::new(
        &c::LEFT_WITHOUT_SNAT,
        Certain,
        format!(
            "{name} sent the packet out with the pod's own address {source}: no rule gave it the egress IP"
        ),
    )
    .checked(
        "it came by the egress tunnel, and nat POSTROUTING left its source as it was",
        view.command(exit.netns, format!("{} -t nat -S {SNAT_CHAIN}", view.iptables())),
    );
    let objects = view.evidence.and_then(|e| e.policies.as_deref());
    let said = objects.and_then(|o| policies::no_address(o, source.ip(), exit.ends.dst.addr.ip(), &name));
    let finding = match said {
        Some((fact, show, fix)) => finding.checked(fact, show).fix(fix),
        None => finding.fix("see whether the EgressPolicy has an egress IP (status.eip); restart the egressgateway agent on the gateway"),
    };
    Some(finding.at(place))
}

/// A rule in raw turned tracking off, and without tracking there is no NAT.
fn untracked(view: &View<'_>, exit: &Hop, entry: &Hop) -> Option<Finding> {
    let followed = |h: &Hop| h.netns == exit.netns && h.encap.is_none() && h.conntrack.is_some();
    if view.journey.hops.iter().any(followed) {
        return None;
    }
    let evidence = view.of(exit.netns)?;
    let ends = entry.ends;
    let mut packet = PacketView::new(view.journey.packet.proto, ends.src.addr.ip(), ends.dst.addr.ip())
        .devices(&view.device_name(exit.netns, out_of(entry)), "")
        .mark(entry.mark);
    if view.journey.packet.has_ports() {
        packet = packet.ports(ends.src.port, ends.dst.port);
    }
    let walk = walk_hook(evidence, Hook::Prerouting, i32::MIN..CONNTRACK_PRIORITY, &packet);
    let effect = walk.effects.iter().find(|e| matches!(e.done, Done::Notrack))?;
    let name = view.netns(exit.netns);
    let source = exit.ends.src.addr;
    let rule = effect.at.name();
    Some(
        Finding::new(
            &c::UNTRACKED,
            if effect.certain { Certain } else { Likely },
            format!("{name} does not track the packet ({rule} says NOTRACK), so nothing can give it the egress IP: it left as {source}"),
        )
        .checked(format!("{rule} matches it"), view.command(exit.netns, format!("{} -t raw -S", view.iptables())))
        .fact("no conntrack entry was seen for it, and nat POSTROUTING left its source as it was")
        .fix(format!("remove {rule}, or let it spare what comes from {DEVICE}"))
        .at(Place { hook: Some("PREROUTING".to_owned()), ..view.place(exit.netns, out_of(entry)) }),
    )
}
