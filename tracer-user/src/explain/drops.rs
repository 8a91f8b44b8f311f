// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets that the kernel dropped: what the reason, the place and the packet itself say.

use super::context::View;
use super::unanswered;
use super::{
    drop_reasons, duplicate, egress_reply, firewall, hairpin, invalid, ipsec, listeners, loops, mtu,
    neighbour, neighbour_entries, no_reply, other_hooks, programs, routing, tunnel, wrong_route,
};
use crate::cause::Certainty::{Certain, Likely};
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::cause::nat_addresses;
use crate::firewall::NatKind;
use crate::flow::{DropSite, Endpoint, Hop, Place as At};
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
    if site.encap.is_none()
        && let Some(found) = loopback_left(view)
    {
        return Some(found);
    }
    let by_symbol = || match symbol.as_str() {
        "vxlan_xmit_one" | "vxlan6_xmit_one" => tunnel::no_way_out(view, site),
        "ip_error"
        | "ip6_pkt_drop"
        | "dst_discard"
        | "dst_discard_out"
        | "ip6_pkt_discard"
        | "ip6_pkt_discard_out"
        | "ip6_pkt_prohibit"
        | "ip6_pkt_prohibit_out" => routing::refused(view, site),
        "neigh_invalidate" | "arp_error_report" | "ndisc_error_report" => Some(neighbour::failed(view, site)),
        "ip6_forward" => routing::forwarding_off(view, site, Likely),
        "nf_queue" => other_hooks::queued(view, site),
        "br_handle_frame_finish" | "br_forward" | "__br_forward" => hairpin::off(view, site),
        name if name.ends_with("_enqueue") => Some(queue_full(view, site)),
        _ => None,
    };
    match &*reason {
        "IP_RPFILTER" => no_reply::not_masqueraded(view).or_else(|| Some(reverse_path(view, site))),
        "IP_LOCAL_SOURCE" => {
            hairpin::not_masqueraded(view, site).or_else(|| duplicate::own_source(view, site))
        }
        "NETFILTER_DROP" => firewall::dropped(view, site).or_else(|| firewall::elsewhere(view, site)),
        "IP_OUTNOROUTES" if view.is_vxlan(site.netns, site.ifindex) => tunnel::no_way_out(view, site),
        "IP_INNOROUTES" | "IP_OUTNOROUTES" => routing::refused(view, site),
        "IP_INADDRERRORS" if symbol == "ip_error" || symbol == "ip6_forward" => {
            routing::forwarding_off(view, site, Certain)
        }
        "NEIGH_FAILED" | "NEIGH_QUEUEFULL" | "NEIGH_DEAD" | "NEIGH_CREATEFAIL" => {
            Some(neighbour::failed(view, site))
        }
        // What else is in the queue when resolution fails, and a packet that came meanwhile began it anew.
        "QUEUE_PURGE" if matches!(symbol.as_str(), "neigh_invalidate" | "neigh_timer_handler") => {
            Some(neighbour::failed(view, site))
        }
        "NO_TX_TARGET" | "VXLAN_NO_REMOTE" => tunnel::no_peer(view, site),
        "VXLAN_VNI_NOT_FOUND" => Some(tunnel::vni(view, site)),
        "OTHERHOST" => {
            neighbour_entries::wrong_entries(view).or_else(|| other_host(view, site.netns, site.ifindex))
        }
        "NO_SOCKET" => no_socket(view, site),
        "XFRM_POLICY" => Some(ipsec::dropped(view, site)),
        "PKT_TOO_BIG" => Some(mtu::too_big(view, site)),
        "QDISC_DROP" | "QDISC_OVERLIMIT" | "QDISC_CONGESTED" | "FQ_BAND_LIMIT" | "FQ_FLOW_LIMIT" => {
            Some(queue_full(view, site))
        }
        "IP_INHDR" if matches!(view.icmp_sent(), Some((11 | 3, 0))) => loops::ttl_used_up(view, site),
        "NOT_SPECIFIED" => by_symbol(),
        other => drop_reasons::explain(view, site, other).or_else(by_symbol),
    }
}

fn sysctl_device(name: &str) -> String {
    // sysctl(8) swaps dots and slashes.
    name.replace('.', "/")
}

fn reverse_path(view: &View<'_>, site: &DropSite) -> Finding {
    let device = view.device_name(site.netns, site.ifindex);
    let source = view.journey.hops.last().map_or(view.journey.packet.ends, |h| h.ends).src.addr;
    let back = view.lookups().rev().find(|l| l.reverse && l.netns == site.netns && l.error == 0);
    if let Some(found) = egress_reply::reply_by_another_way(view, site) {
        return found;
    }
    if let Some(found) = wrong_route::of_way_back(view, site, source.ip()) {
        return found;
    }
    if let Some(found) = routing::way_back_refused(view, site, source.ip()) {
        return found;
    }
    let named = back.filter(|l| l.ifindex != 0 && l.ifindex != site.ifindex);
    let title = match named {
        Some(l) => format!(
            "{device} has a strict reverse path filter, and the way back to {source} is by {}",
            view.device_name(l.netns, l.ifindex)
        ),
        None => format!("{device} has a strict reverse path filter, and no way back to {source} is by it"),
    };
    let of_all = view.of(site.netns).and_then(|e| {
        let own = e.sysctl(&format!("net/ipv4/conf/{device}/rp_filter"))?;
        Some(own != 1 && e.sysctl("net/ipv4/conf/all/rp_filter") == Some(1))
    });
    let key = if of_all == Some(true) { "all".to_owned() } else { sysctl_device(&device) };
    let read = view.command(site.netns, format!("sysctl net.ipv4.conf.{key}.rp_filter"));
    let way = view.command(site.netns, format!("ip route get {source}"));
    Finding::new(&c::REVERSE_PATH_FILTER, Certain, title)
        .checked(format!("the kernel dropped it on arrival by {device}: IP_RPFILTER"), read)
        .checked(
            match named {
                Some(l) => format!(
                    "the lookup of the way back found {} in table {}",
                    view.device_name(l.netns, l.ifindex),
                    crate::text::table_name(l.table)
                ),
                None => format!("no route to {source} leads to {device}"),
            },
            way,
        )
        .fix(view.command(site.netns, format!("sysctl -w net.ipv4.conf.{key}.rp_filter=2")))
        .at(view.place(site.netns, site.ifindex))
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
    if let DeviceKind::Vxlan { .. } = known.kind {
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
    let bridge = owner.filter(|(ns, d)| ns.id == netns && d.kind == DeviceKind::Bridge);
    if lone_port && (bridge.is_some() || wanted.is_none()) {
        let name = bridge.map(|(ns, d)| view.device_name(ns.id, d.ifindex));
        let finding = match &name {
            Some(name) => Finding::new(
                &c::PORT_NOT_IN_BRIDGE,
                Certain,
                format!("{device} is not in {name}, to which the pod sends: frames for it end at {device}"),
            ),
            None => Finding::new(
                &c::PORT_NOT_IN_BRIDGE,
                Likely,
                format!("{device} is in no bridge: frames for the pod's gateway end at it"),
            ),
        };
        let bridge = name.unwrap_or_else(|| "BRIDGE".to_owned());
        return Some(
            finding
                .checked(fact, show)
                .checked(format!("{to_mac} is the MAC of {bridge}"), view.command(netns, "bridge link show"))
                .fix(view.command(netns, format!("ip link set {device} master {bridge}")))
                .at(place),
        );
    }
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
    if site.encap.is_some() {
        return tunnel::nobody_listens(view, site);
    }
    let packet = &view.journey.packet;
    let ends = view.journey.hops.last().map_or(packet.ends, |h| h.ends);
    if !packet.has_ports() {
        return None;
    }
    if let Some(found) = invalid::untranslated(view, site) {
        return Some(found);
    }
    let proto = if packet.is_tcp() { "TCP" } else { "UDP" };
    let place = view.place(site.netns, site.ifindex);
    let name = view.netns(site.netns);
    // A SYN-ACK (or an answer) that its own client does not know.
    if view.journey.reply && (!packet.is_tcp() || packet.tcp_flags & 0x12 == 0x12) {
        return duplicate::answered_elsewhere(view, site.netns)
            .or_else(|| Some(unasked(view, site, ends.src, &name).at(place)));
    }
    let to = ends.dst;
    if if packet.is_tcp() { !view.is_syn() } else { unanswered::is_probe(to.port) } {
        return None;
    }
    if let Some(found) = duplicate::taken(view, site.netns, to.addr.ip()) {
        return Some(found);
    }
    if let Some(found) = routing::into_itself(view, site, to.addr.ip()) {
        return Some(found);
    }
    let check = view.command(
        site.netns,
        format!("ss -{}lnp sport = :{}", if packet.is_tcp() { 't' } else { 'u' }, to.port),
    );
    let entry =
        view.journey.conntrack.iter().find(|e| e.translates() && e.original.dst != to && e.reply.src == to);
    let local = to.addr.ip().is_loopback()
        || view.journey.hops.iter().all(|h| h.netns == site.netns)
        || view
            .journey
            .hops
            .iter()
            .any(|h| h.netns == site.netns && h.nat.is_some_and(|n| n.kind == NatKind::Dnat));
    if let Some(entry) = entry.filter(|_| local) {
        let was = entry.original.dst;
        return Some(
            Finding::new(
                &c::REDIRECTED_TO_NOBODY,
                Certain,
                format!(
                    "connections to {was} are redirected to port {}, on which nothing listens in {name}",
                    to.port
                ),
            )
            .checked(
                "a rule of this namespace redirects it",
                view.command(site.netns, format!("{} -t nat -S", view.iptables())),
            )
            .checked(format!("nobody listens on {proto} {}: NO_SOCKET", to.port), check)
            .fix(format!(
                "start the proxy (is the sidecar ready?), or exclude port {} from the redirection",
                was.port
            ))
            .at(place),
        );
    }
    let finding = listeners::port_closed(view, site, to).at(place);
    Some(match entry {
        Some(entry) => finding.fact(format!("{} was translated to it", entry.original.dst)).fix(format!(
            "let the service's targetPort be the port that the container listens on, not {}",
            to.port
        )),
        None => finding,
    })
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

/// It left a host with a loopback address as source.
pub(super) fn loopback_left(view: &View<'_>) -> Option<Finding> {
    let leaves = |hop: &&Hop| {
        let At::Device { ifindex, egress: true } = hop.place else { return false };
        let out = view.device(hop.netns, ifindex);
        hop.ends.src.addr.ip().is_loopback()
            && out.is_some_and(|device| !device.addresses.iter().any(std::net::IpAddr::is_loopback))
    };
    let hop = view.journey.hops.iter().find(leaves)?;
    let At::Device { ifindex, .. } = hop.place else { return None };
    let (name, device) = (view.netns(hop.netns), view.device_name(hop.netns, ifindex));
    let asked = view.journey.packet.ends.dst;
    let asked = (asked != hop.ends.dst).then(|| asked.to_string());
    let ends = (hop.ends.src.addr.ip(), hop.ends.dst.addr.ip());
    let command = |text: String| view.command(hop.netns, text);
    let found = nat_addresses::loopback_source((&name, &device), ends, asked, &command);
    Some(found.at(view.place(hop.netns, ifindex)))
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
