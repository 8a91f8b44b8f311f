// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets that the kernel dropped: what the reason, the place and the packet itself say.

use super::context::View;
use super::{
    drop_reasons, duplicate, egress_reply, firewall, hairpin, invalid, loops, mtu, neighbour,
    neighbour_entries, other_hooks, programs, unanswered,
};
use crate::cause::Certainty::{Certain, Likely};
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::flow::{DropSite, Endpoint};
use crate::model::taken_by;
use crate::node::{DeviceKind, NetnsId, PathRole};
use crate::text::mac;

/// The cause of a drop, if one is singled out.
pub(super) fn explain(view: &View<'_>) -> Option<Finding> {
    by_reason(view).or_else(|| programs::redirected(view, view.dropped()?))
}

fn by_reason(view: &View<'_>) -> Option<Finding> {
    let site = view.dropped()?;
    let reason = view.reason(site);
    let symbol = view.symbol(site);
    if let Some(point) = programs::point(&reason, &symbol) {
        return Some(programs::dropped(view, site, point));
    }
    let by_symbol = || match symbol.as_str() {
        "neigh_invalidate" | "arp_error_report" | "ndisc_error_report" => Some(neighbour::failed(view, site)),
        "nf_queue" => other_hooks::queued(view, site),
        "ip_error" | "ip6_forward" | "dst_discard" | "dst_discard_out" => {
            drop_reasons::explain(view, site, drop_reasons::ROUTING)
        }
        name if name.starts_with("ip6_pkt_") => drop_reasons::explain(view, site, drop_reasons::ROUTING),
        name if name.ends_with("_enqueue") => Some(queue_full(view, site)),
        _ => None,
    };
    let in_words = || programs::redirected(view, site).or_else(|| drop_reasons::explain(view, site, &reason));
    match &*reason {
        "IP_RPFILTER" => egress_reply::reply_by_another_way(view, site).or_else(in_words),
        "NEIGH_FAILED" | "NEIGH_QUEUEFULL" | "NEIGH_DEAD" | "NEIGH_CREATEFAIL" => {
            Some(neighbour::failed(view, site))
        }
        // What else is in the queue when resolution fails, and a packet that came meanwhile began it anew.
        "QUEUE_PURGE" if matches!(symbol.as_str(), "neigh_invalidate" | "neigh_timer_handler") => {
            Some(neighbour::failed(view, site))
        }
        "IP_LOCAL_SOURCE" => {
            hairpin::not_masqueraded(view, site).or_else(|| duplicate::own_source(view, site))
        }
        "NETFILTER_DROP" => firewall::dropped(view, site).or_else(|| firewall::elsewhere(view, site)),
        "OTHERHOST" => {
            neighbour_entries::wrong_entries(view).or_else(|| other_host(view, site.netns, site.ifindex))
        }
        "NO_SOCKET" => no_socket(view, site),
        "PKT_TOO_BIG" => Some(mtu::too_big(view, site)),
        "QDISC_DROP" | "QDISC_OVERLIMIT" | "QDISC_CONGESTED" | "FQ_BAND_LIMIT" | "FQ_FLOW_LIMIT" => {
            Some(queue_full(view, site))
        }
        "IP_INHDR" if matches!(view.icmp_sent(), Some((11 | 3, 0))) => loops::ttl_used_up(view, site),
        "NOT_SPECIFIED" => by_symbol(),
        _ => in_words().or_else(by_symbol),
    }
}

/// The frame is not for the device's MAC.
pub(super) fn other_host(view: &View<'_>, netns: NetnsId, ifindex: u32) -> Option<Finding> {
    let known = view.device(netns, ifindex)?;
    let device = view.device_name(netns, ifindex);
    let own = mac(&known.mac);
    let show = view.command(netns, format!("ip -d link show {device}"));
    let wanted = view.journey.hops.iter().rev().filter(|h| h.netns == netns).find_map(|h| h.macs);
    let wanted = wanted.map(|macs| macs.destination);
    let to_mac = wanted.map_or_else(|| "another MAC".to_owned(), mac);
    let fact = format!("it ends on arrival: the frame is for {to_mac}, {device} has {own}");
    let owner = wanted.and_then(|to| {
        let namespaces = view.topology.namespaces.values();
        namespaces.flat_map(|ns| ns.devices.values().map(move |d| (ns, d))).find(|(_, d)| d.mac == to)
    });
    let place = view.place(netns, ifindex);
    if view.is_vxlan(netns, ifindex) {
        return Some(
            Finding::new(
                &c::TUNNEL_WRONG_MAC,
                Certain,
                format!("the inner frame is for {to_mac}, but {device} has MAC {own}"),
            )
            .checked(fact, show)
            .fix(format!(
                "recreate {device} on this node, or correct its MAC in the peer's neighbour and FDB entries"
            ))
            .about("inner frame")
            .at(place),
        );
    }
    let lone_port =
        known.kind == DeviceKind::Veth && known.master.is_none() && known.watched != Some(PathRole::Uplink);
    // A switch floods what it does not know: a frame is a fault here only if this host is meant.
    let packet = &view.journey.packet;
    let outer =
        view.journey.hops.last().and_then(|h| h.encap).and_then(|i| view.journey.encaps.get(usize::from(i)));
    let (from, to) = outer.map_or((packet.ends.src.addr, packet.ends.dst.addr), |o| (o.src.addr, o.dst.addr));
    let answers = view.journey.reply
        && view.exit.is_some_and(|e| (e.netns, e.ifindex, e.ends.src.addr) == (netns, ifindex, to));
    let here = view.owner(to.ip()).is_some_and(|(ns, _)| ns.id == netns);
    if !answers && !here && !lone_port {
        return None;
    }
    let what = if answers { "answers to" } else { "packets for" };
    let whose = owner.map_or_else(
        || format!("no device that is watched has MAC {to_mac}"),
        |(ns, d)| {
            format!("{to_mac} is the MAC of {} in {}", view.device_name(ns.id, d.ifindex), view.netns(ns.id))
        },
    );
    let sender = if lone_port { format!("{from}") } else { format!("{from}, or the router before it,") };
    Some(
        Finding::new(
            &c::OTHER_HOST,
            Certain,
            format!("{what} {to} come to {device} addressed to {to_mac}, not to its own MAC {own}: {sender} has a stale or wrong neighbour entry, or another host claims the address"),
        )
        .checked(fact, show)
        .fact(whose)
        .checked(
            format!("who answers for {to}, and with which MAC"),
            format!("from the network of {device}: arping -c 3 {to} (IPv6: ndisc6)"),
        )
        .about(to)
        .fix(if lone_port {
            format!("on {from}: `ip neigh` shows {to_mac}; delete that entry")
        } else {
            format!("on {from} or its router: ip neigh flush to {to}; then announce {to} again, from one node only (EgressGateway: restart the agent that holds it)")
        })
        .at(place),
    )
}

fn no_socket(view: &View<'_>, site: &DropSite) -> Option<Finding> {
    let in_words =
        || programs::redirected(view, site).or_else(|| drop_reasons::explain(view, site, "NO_SOCKET"));
    if let Some(outer) = site.encap.and_then(|i| view.journey.encaps.get(usize::from(i))) {
        let host = view.host(site.netns);
        let wrong = host.and_then(|host| taken_by(&host, outer.vni, outer.dst.port, &[]).0);
        let told = wrong.map(|found| found.fact("no socket takes the outer packet: NO_SOCKET"));
        return told.or_else(in_words);
    }
    let packet = &view.journey.packet;
    let ends = view.journey.hops.last().map_or(packet.ends, |h| h.ends);
    if !packet.has_ports() {
        return None;
    }
    if let Some(found) = invalid::untranslated(view, site) {
        return Some(found);
    }
    let place = view.place(site.netns, site.ifindex);
    let name = view.netns(site.netns);
    // A SYN-ACK (or an answer) that its own client does not know.
    if view.journey.reply && (!packet.is_tcp() || packet.tcp_flags & 0x12 == 0x12) {
        return duplicate::answered_elsewhere(view, site.netns)
            .or_else(|| Some(unasked(view, site, ends.src, &name).at(place)));
    }
    let asks = if packet.is_tcp() { view.is_syn() } else { !unanswered::is_probe(ends.dst.port) };
    if asks { in_words() } else { None }
}

/// The answer comes from where nobody asked.
fn unasked(view: &View<'_>, site: &DropSite, from: Endpoint, name: &str) -> Finding {
    let key = if view.journey.packet.ipv6 { "bridge-nf-call-ip6tables" } else { "bridge-nf-call-iptables" };
    // The node whose bridge the answer crossed.
    let bridged = view.journey.hops.iter().rev().find(|h| h.netns != site.netns).map(|h| h.netns);
    let bridged = bridged.or_else(|| {
        let pod = view.namespace(site.netns)?.devices.get(&site.ifindex)?;
        pod.link.and_then(|(netns, _)| netns)
    });
    let node = bridged.unwrap_or(site.netns);
    let value = view.of(node).map(|e| e.sysctl(&format!("net/bridge/{key}")));
    let (sure, why) = match value {
        Some(Some(0)) => (Certain, format!(": it crossed the bridge at layer 2, and {key} is 0")),
        Some(None) => {
            (Likely, ": it crossed the bridge at layer 2, and br_netfilter is not loaded".to_owned())
        }
        _ => (Likely, ": its address was not translated back".to_owned()),
    };
    Finding::new(
        &c::REPLY_FROM_ANOTHER_ADDRESS,
        sure,
        format!("the answer comes from {from}, which {name} did not ask{why}"),
    )
    .fact(format!("{name} has no connection to {from} and refuses it: NO_SOCKET"))
    .checked(
        "replies that cross a bridge are translated back only where the bridge hands them to iptables",
        view.command(node, format!("sysctl net.bridge.{key}")),
    )
    .fix(match value {
        Some(None) => {
            format!("modprobe br_netfilter; {}", view.command(node, format!("sysctl -w net.bridge.{key}=1")))
        }
        Some(Some(0)) | None => view.command(node, format!("sysctl -w net.bridge.{key}=1")),
        _ => "let the answer take the way of the request back: the node that translated it has to see it"
            .to_owned(),
    })
}

fn queue_full(view: &View<'_>, site: &DropSite) -> Finding {
    let device = view.device_name(site.netns, site.ifindex);
    Finding::new(
        &c::QUEUE_FULL,
        Certain,
        format!("the queue of {device} is full: it sends slower than packets come"),
    )
    .checked(
        "its queueing discipline dropped the packet",
        view.command(site.netns, format!("tc -s qdisc show dev {device}")),
    )
    .fix(format!("give the qdisc of {device} a higher rate or limit, or send less"))
    .at(view.place(site.netns, site.ifindex))
}
