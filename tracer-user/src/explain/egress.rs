// SPDX-License-Identifier: MIT OR Apache-2.0
//! What EgressGateway does to a packet, and where it first did something else. The constants are facts of that
//! product (charts' defaults, agent/pkg/...): marks, names of its device, chains and sets.

use super::catalogue as c;
use super::finding::Certainty::{Certain, Likely};
use super::finding::{Finding, Place};
use super::view::{Entry, Lookup, View};
use crate::flow::{DropSite, Hop, NatKind, Place as At};
use crate::node::evidence::{Done, PacketView, Routed, walk_hook};
use crate::node::rtnl::Link;
use crate::node::{DeviceKind, Hook, NetnsId};

/// `feature.mark`: the prefix of every node's mark; alone, of packets that are done with.
pub(crate) const MARK_DONE: u32 = 0x2600_0000;
const MARK_MASK: u32 = 0xff00_0000;
pub(crate) const DEVICE: &str = "egress.vxlan";
const VNI: u32 = 100;
const PORT: u16 = 7789;
/// NF_IP_PRI_CONNTRACK: rules that turn tracking off stand before it.
const CONNTRACK_PRIORITY: i32 = -200;

/// The mark of a node: its routing table has the same number.
pub(crate) fn is_node_mark(mark: u32) -> bool {
    mark & MARK_MASK == MARK_DONE && mark != MARK_DONE
}

/// EgressGateway's tunnel device.
pub(crate) fn is_egress_tunnel(link: &Link) -> bool {
    link.vxlan.as_ref().is_some_and(|v| link.name == DEVICE || (v.vni == VNI && v.port == PORT))
}

fn is_tunnel(view: &View<'_>, netns: NetnsId, ifindex: u32) -> bool {
    view.device(netns, ifindex).is_some_and(|d| match d.kind {
        DeviceKind::Vxlan { vni, port, .. } => d.name == DEVICE || (vni == VNI && port == PORT),
        _ => false,
    })
}

/// With these a packet takes another way than its own; what comes of that follows from it.
pub(super) const LEADS_ASTRAY: &[&str] = &[
    c::FWMARK_WITHOUT_RULE.id,
    c::FWMARK_RULE_PREEMPTED.id,
    c::FWMARK_TABLE_EMPTY.id,
    c::FWMARK_TABLE_WRONG.id,
    c::REPLY_NOT_MARKED.id,
];

/// Where the packet came in by an egress tunnel.
pub(super) fn came_by_tunnel(view: &View<'_>) -> Option<Entry> {
    let hops = &view.journey.hops;
    let (at, netns, ifindex) = hops.iter().enumerate().find_map(|(at, h)| match h.place {
        At::Device { ifindex, egress: false } if h.encap.is_none() && is_tunnel(view, h.netns, ifindex) => {
            Some((at, h.netns, ifindex))
        }
        _ => None,
    })?;
    let outer = hops[..at].iter().rev().find_map(|h| h.encap);
    let node = outer.and_then(|i| view.journey.encaps.get(usize::from(i))).map(|outer| outer.src.addr);
    Some(Entry { netns, ifindex, node })
}

/// The first divergence from the egress path that the journey itself proves.
pub(super) fn explain(view: &View<'_>) -> Option<Finding> {
    if view.journey.packet.icmp_error.is_some() {
        return None;
    }
    if view.journey.reply {
        return fwmark(view).or_else(|| reply_not_marked(view).filter(|_| view.dropped().is_some()));
    }
    masqueraded(view).or_else(|| fwmark(view)).or_else(|| without_snat(view))
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
        .fact("EgressGateway expects EGRESSGATEWAY-SNAT-EIP and the ACCEPT of mark 0x26000000 before every other rule there")
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

/// Marked for a gateway, but not routed by the mark's table.
fn fwmark(view: &View<'_>) -> Option<Finding> {
    if let Some(finding) = table_leads_out(view) {
        return Some(finding);
    }
    let found = view.lookups().find(|l| {
        !l.reverse && !l.encap && l.error == 0 && is_node_mark(l.mark) && l.table != l.mark && l.table != 255
    })?;
    let mark = found.mark;
    if let Some(finding) = other_table(view, &found) {
        return Some(finding);
    }
    let asked = view.lookups().any(|l| l.netns == found.netns && l.table == mark && l.error != 0);
    let out = view.device_name(found.netns, found.ifindex);
    let name = view.netns(found.netns);
    let table = crate::output::table_name(found.table);
    let tunnel = view
        .namespace(found.netns)
        .and_then(|ns| ns.devices.values().find(|d| is_tunnel(view, ns.id, d.ifindex)));
    let place = view.place(found.netns, found.ifindex);
    let ip = view.ip_command();
    if asked {
        let why = match tunnel {
            None => format!("{DEVICE} does not exist on {name}"),
            Some(d) if !d.up => format!("{} is down", d.name),
            Some(_) => "its route is missing".to_owned(),
        };
        return Some(
            Finding::new(
                &c::FWMARK_TABLE_EMPTY,
                Certain,
                format!(
                    "the routing table of mark {mark:#x} is empty ({why}): the packet leaks out of {out}"
                ),
            )
            .checked(
                format!("the lookup in table {mark} failed, table {table} was used"),
                view.command(found.netns, format!("{ip} route show table {mark}")),
            )
            .checked(why, view.command(found.netns, format!("ip -d link show {DEVICE}")))
            .fix(format!("restart the egressgateway agent on {name}: it makes {DEVICE} and the route again"))
            .at(place),
        );
    }
    if let Some(finding) = preempted(view, &found) {
        return Some(finding);
    }
    Some(
        Finding::new(
            &c::FWMARK_WITHOUT_RULE,
            Certain,
            format!(
                "the packet has mark {mark:#x}, but no ip rule for it: table {table} sent it out of {out}"
            ),
        )
        .checked(
            format!("table {mark} was never asked"),
            view.command(found.netns, format!("{ip} rule show fwmark {mark:#x}")),
        )
        .fix(view.command(found.netns, format!("{ip} rule add priority 99 fwmark {mark:#x} lookup {mark}")))
        .at(place),
    )
}

/// The mark's own table, but its route is by another device than the tunnel.
fn table_leads_out(view: &View<'_>) -> Option<Finding> {
    let found = view.lookups().find(|l| {
        let other = l.ifindex != 0 && !is_tunnel(view, l.netns, l.ifindex);
        !l.reverse && !l.encap && l.error == 0 && is_node_mark(l.mark) && l.table == l.mark && other
    })?;
    let (mark, name) = (found.mark, view.netns(found.netns));
    let out = view.device_name(found.netns, found.ifindex);
    let via = if found.gateway.is_none() { String::new() } else { format!(" via {}", found.gateway) };
    let ip = view.ip_command();
    Some(
        Finding::new(
            &c::FWMARK_TABLE_WRONG,
            Certain,
            format!(
                "the routing table of mark {mark:#x} on {name} leads out of {out}{via}, not into {DEVICE}"
            ),
        )
        .checked(
            format!("the lookup in table {mark} found {out}{via}"),
            view.command(found.netns, format!("{ip} route show table {mark}")),
        )
        .fix(format!(
            "restart the egressgateway agent on {name}: it writes the default route by {DEVICE} again"
        ))
        .about(mark)
        .at(view.place(found.netns, found.ifindex)),
    )
}

/// The mark's rule names another table than EgressGateway's.
fn other_table(view: &View<'_>, found: &Lookup) -> Option<Finding> {
    let ipv6 = view.journey.packet.ipv6;
    let mark = found.mark;
    let rule = view.of(found.netns)?.rules.iter().find(|r| {
        r.ipv6 == ipv6 && r.mask == u32::MAX && r.mark == mark && !r.inverted && r.table == found.table
    })?;
    let (name, ip) = (view.netns(found.netns), view.ip_command());
    let out = view.device_name(found.netns, found.ifindex);
    let priority = rule.priority;
    Some(
        Finding::new(
            &c::FWMARK_TABLE_WRONG,
            Certain,
            format!("ip rule {priority} of {name} leads mark {mark:#x} to table {}, not to table {mark}: the packet goes out of {out}", rule.table),
        )
        .checked(
            format!("table {} answered for mark {mark:#x}", found.table),
            view.command(found.netns, format!("{ip} rule show fwmark {mark:#x}")),
        )
        .fix(format!(
            "{}; {}",
            view.command(found.netns, format!("{ip} rule del priority {priority} fwmark {mark:#x}")),
            view.command(found.netns, format!("{ip} rule add priority 99 fwmark {mark:#x} lookup {mark}"))
        ))
        .about(mark)
        .at(view.place(found.netns, found.ifindex)),
    )
}

/// The answer to what came by the tunnel does not go back into it.
pub(super) fn reply_not_marked(view: &View<'_>) -> Option<Finding> {
    const CHAIN: &str = "EGRESSGATEWAY-REPLY-ROUTING";
    let Entry { netns: gateway, ifindex: tunnel, .. } = view.tunnel.filter(|_| view.journey.reply)?;
    // Of the answer itself: what is looked up without an input device is a tunnel's outer packet.
    let found = view.lookups().find(|l| {
        l.netns == gateway
            && !l.reverse
            && !l.encap
            && l.in_ifindex > 1
            && l.in_ifindex != tunnel
            && l.error == 0
    })?;
    if found.error != 0 || found.ifindex == 0 || found.ifindex == tunnel || is_node_mark(found.mark) {
        return None;
    }
    let name = view.netns(gateway);
    let out = view.device_name(gateway, found.ifindex);
    let evidence = view.of(gateway)?;
    let chains: Vec<_> = evidence.tables("mangle").filter_map(|t| t.chain(CHAIN)).collect();
    let (sure, why) = if chains.is_empty() {
        (Certain, format!("mangle has no chain {CHAIN}"))
    } else if chains.iter().all(|chain| chain.rules.is_empty()) {
        (Certain, format!("{CHAIN} is empty"))
    } else {
        (Likely, format!("no rule of {CHAIN} restored the mark of the connection"))
    };
    let device = view.device_name(gateway, tunnel);
    Some(
        Finding::new(
            &c::REPLY_NOT_MARKED,
            sure,
            format!("{name} does not mark answers for the tunnel ({why}): they leave by {out}, not by {device}, and get lost or are refused"),
        )
        .checked(
            format!("the request came by {device}, the answer was routed without a mark to {out}"),
            view.command(gateway, format!("{} -t mangle -vnL {CHAIN}", view.iptables())),
        )
        .fix(format!("restart the egressgateway agent on {name}: it writes {CHAIN} and the jump to it again"))
        .about(gateway)
        .at(Place { hook: Some("PREROUTING".to_owned()), ..view.place(gateway, found.ifindex) }),
    )
}

/// The answer comes back by another way than the tunnel into which the request went: the gateway's doing.
pub(super) fn reply_by_another_way(view: &View<'_>, site: &DropSite) -> Option<Finding> {
    let sent = view.routes.iter().find(|l| l.netns == site.netns && is_tunnel(view, l.netns, l.ifindex))?;
    if !view.journey.reply || site.encap.is_some() || sent.ifindex == site.ifindex || site.ifindex == 0 {
        return None;
    }
    let (name, device) = (view.netns(site.netns), view.device_name(site.netns, site.ifindex));
    let tunnel = view.device_name(sent.netns, sent.ifindex);
    let gateway = if sent.gateway.is_none() {
        "the gateway".to_owned()
    } else {
        format!("the gateway {}", sent.gateway)
    };
    Some(
        Finding::new(
            &c::REPLY_NOT_MARKED,
            Likely,
            format!("the request went into {tunnel}, but the answer comes to {name} by {device}: {gateway} does not send it back into the tunnel, and {device} refuses it"),
        )
        .checked(
            format!("dropped on arrival by {device}: {}", view.reason(site)),
            view.command(site.netns, format!("{} route get {}", view.ip_command(), view.journey.packet.ends.src.addr)),
        )
        .checked(
            format!("the request was routed to {tunnel} by mark {:#x}", sent.mark),
            view.command(site.netns, format!("{} rule show fwmark {:#x}", view.ip_command(), sent.mark)),
        )
        .fix(format!("on {gateway}: the chain EGRESSGATEWAY-REPLY-ROUTING in mangle, the ip rule of this node's mark and its table have to be there; restart the egressgateway agent there (trace there to see which is missing)"))
        .about(site.netns)
        .at(view.place(site.netns, site.ifindex)),
    )
}

/// The mark's rule is there, but the lookup never came to it.
fn preempted(view: &View<'_>, found: &Lookup) -> Option<Finding> {
    let evidence = view.of(found.netns)?;
    let ipv6 = view.journey.packet.ipv6;
    let own = evidence.rules.iter().find(|r| {
        r.ipv6 == ipv6 && r.mask != 0 && !r.inverted && found.mark & r.mask == r.mark && r.table == found.mark
    })?;
    let ends = view.journey.packet.ends;
    let (source, destination) = (ends.src.addr.ip(), ends.dst.addr.ip());
    let first = evidence.rules.iter().find(|r| {
        r.priority <= own.priority
            && r.table == found.table
            && *r != own
            && r.matches(source, destination, found.mark)
    });
    let out = view.device_name(found.netns, found.ifindex);
    let table = crate::output::table_name(found.table);
    let show = view.command(found.netns, format!("{} rule show", view.ip_command()));
    let (certainty, title) = match first {
        Some(first) => (
            Certain,
            format!(
                "ip rule {} ({}) comes before rule {} of mark {:#x}: table {table} sent the packet out of {out}",
                first.priority,
                first.selector(),
                own.priority,
                found.mark
            ),
        ),
        None => (
            Likely,
            format!(
                "ip rule {} of mark {:#x} did not apply to the packet ({}): table {table} sent it out of {out}",
                own.priority,
                found.mark,
                own.selector()
            ),
        ),
    };
    let fix = match first {
        Some(first) => {
            format!("delete ip rule {}, or give it a priority number above {}", first.priority, own.priority)
        }
        None => format!("see what ip rule {} asks for besides the mark", own.priority),
    };
    Some(
        Finding::new(&c::FWMARK_RULE_PREEMPTED, certainty, title)
            .checked(format!("table {} was never asked", own.table), show)
            .fix(fix)
            .at(view.place(found.netns, found.ifindex)),
    )
}

/// Out of the tunnel, out of the gateway, with the source that it came with.
fn without_snat(view: &View<'_>) -> Option<Finding> {
    let exit = view.bare_exit()?;
    let entry = view.journey.hops.iter().find(|h| {
        h.netns == exit.netns
            && h.encap.is_none()
            && matches!(h.place, At::Device { ifindex, egress: false } if is_tunnel(view, h.netns, ifindex))
    })?;
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
    Some(
        Finding::new(
            &c::LEFT_WITHOUT_SNAT,
            Certain,
            format!("{name} sent the packet out with the pod's own address {source}: no rule gave it the egress IP"),
        )
        .checked(
            "it came by the egress tunnel, and nat POSTROUTING left its source as it was",
            view.command(exit.netns, format!("{} -t nat -S EGRESSGATEWAY-SNAT-EIP", view.iptables())),
        )
        .fix("see whether the EgressPolicy has an egress IP (status.eip); restart the egressgateway agent on the gateway")
        .at(place),
    )
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
