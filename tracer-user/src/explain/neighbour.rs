// SPDX-License-Identifier: MIT OR Apache-2.0
//! The next hop's MAC is not to be had: who was asked, and, where the one who should answer is watched too, why it
//! does not.

use std::net::IpAddr;

use super::catalogue as c;
use super::drops::mac;
use super::duplicate::is_everybodys;
use super::finding::Certainty::{Certain, Likely, Possible};
use super::finding::Finding;
use super::tunnel;
use super::view::View;
use crate::flow::{DropSite, Hop, NatKind, Place as At};
use crate::node::evidence::Routed;
use crate::node::rtnl::Neighbour;
use crate::node::{Device, DeviceKind, Hook, Namespace, NetnsId, Role};

/// A question for a MAC.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    /// Who asks, and by which device.
    pub(super) netns: NetnsId,
    pub(super) ifindex: u32,
    pub(super) next: IpAddr,
    /// `next` is a gateway, not the destination itself.
    pub(super) is_gateway: bool,
    /// The source of the packet that waits: an ARP request has it.
    pub(super) source: IpAddr,
}

/// NEIGH_FAILED and its like.
pub(super) fn failed(view: &View<'_>, site: &DropSite) -> Finding {
    let encap = site.encap.is_some();
    let ends = view.journey.hops.last().map_or(view.journey.packet.ends, |h| h.ends);
    let lookup = view.last_lookup(site.netns, encap).filter(|l| l.error == 0);
    // A translation in OUTPUT has the way looked up again, unseen.
    let lookup = lookup.filter(|_| encap || !rerouted(view, site.netns));
    let gateway = match lookup {
        Some(lookup) => (!lookup.gateway.is_none()).then_some(lookup.gateway.ip()),
        // So do IPv6 sockets: as the tables say.
        None if !encap => view.of(site.netns).and_then(|e| {
            match e.routed(Some(ends.src.addr.ip()), ends.dst.addr.ip(), site.mark) {
                Routed::By(route) => route.next_hops.first().and_then(|hop| hop.gateway),
                _ => None,
            }
        }),
        None => None,
    };
    let outer = site.encap.and_then(|i| view.journey.encaps.get(usize::from(i)));
    let next = gateway.unwrap_or(outer.map_or(ends.dst.addr, |o| o.dst.addr).ip());
    let question = Question {
        netns: site.netns,
        ifindex: site.ifindex,
        next,
        is_gateway: gateway.is_some(),
        source: outer.map_or(ends.src.addr, |o| o.src.addr).ip(),
    };
    explain(view, &question, "address resolution failed: NEIGH_FAILED".to_owned())
}

/// The destination was changed after the way was looked up.
fn rerouted(view: &View<'_>, netns: NetnsId) -> bool {
    let hops = &view.journey.hops;
    let looked = hops.iter().rposition(|h| {
        h.netns == netns && h.encap.is_none() && matches!(h.place, At::Route { reverse: false, .. })
    });
    let translated = |h: &Hop| {
        h.netns == netns
            && h.encap.is_none()
            && matches!(h.place, At::Hook { hook: Hook::Output, .. })
            && h.nat.is_some_and(|n| matches!(n.kind, NatKind::Dnat | NatKind::Both))
    };
    hops.iter().rposition(translated) > looked
}

/// Why nobody answers. `seen`: what shows it.
pub(super) fn explain(view: &View<'_>, question: &Question, seen: String) -> Finding {
    let Question { netns, ifindex, next, is_gateway, .. } = *question;
    let device = view.device_name(netns, ifindex);
    let check = view.command(netns, format!("ip neigh show {next} dev {device}"));
    if view.is_vxlan(netns, ifindex) {
        return of_tunnel(view, question, seen);
    }
    if let Some(finding) = tunnel::wrong_peer(view).filter(|_| !is_gateway) {
        return finding.checked(seen, check);
    }
    if let Some(finding) = of_owner(view, question) {
        return finding.checked(seen, check);
    }
    let pod = view.namespace(netns).is_some_and(|ns| ns.role == Role::Pod);
    let bridge = segment(view, netns, ifindex).filter(|at| is_gateway && *at != (netns, ifindex));
    let bridge = bridge.and_then(|(ns, bridge)| view.device(ns, bridge).map(|d| (ns, d)));
    let bridge = bridge.filter(|(_, d)| d.kind == DeviceKind::Bridge);
    let what = match (bridge, is_gateway, pod) {
        (Some((ns, d)), ..) => {
            let same = |a: &&IpAddr| a.is_ipv6() == next.is_ipv6() && !is_everybodys(**a);
            let own: Vec<String> = d.addresses.iter().filter(same).map(ToString::to_string).collect();
            let own = if own.is_empty() { "no address".to_owned() } else { own.join(", ") };
            let (at, name) = (view.device_name(ns, d.ifindex), view.netns(ns));
            format!(
                "the gateway {next} does not answer on {device}: nobody watched has that address, and {at} of {name}, the bridge there, has {own}"
            )
        }
        (None, true, true) => format!(
            "the pod's gateway {next} does not answer on {device}: wrong gateway, or its host is not there"
        ),
        (None, true, false) => format!("the gateway {next} does not answer on {device}"),
        (None, false, _) => format!(
            "{next} does not answer on {device}: no such host or pod, it is down, or it is not on that network"
        ),
    };
    let entry = view.journey.conntrack.iter().find(|e| e.reply.src.addr.ip() == next && e.translates());
    let fix = match entry.filter(|_| !is_gateway) {
        Some(entry) => format!(
            "{next} is where {} is translated to: if that endpoint is gone, remove its rule and `{}`",
            entry.original.dst,
            view.command(netns, format!("conntrack -D -d {}", entry.original.dst.addr))
        ),
        None if is_gateway => format!(
            "set a gateway that exists: {}",
            view.command(netns, format!("{} route", ip_command(next)))
        ),
        None => format!("start {next}, or correct the address that was asked for"),
    };
    Finding::new(&c::NEIGHBOUR_SILENT, Certain, what)
        .checked(seen, check)
        .fix(fix)
        .about(next)
        .at(view.place(netns, ifindex))
}

fn ip_command(address: IpAddr) -> &'static str {
    if address.is_ipv6() { "ip -6" } else { "ip" }
}

/// A tunnel has nobody to ask: its agent writes the entries.
fn of_tunnel(view: &View<'_>, question: &Question, seen: String) -> Finding {
    let Question { netns, ifindex, next, .. } = *question;
    let device = view.device_name(netns, ifindex);
    let known: Vec<String> = view.of(netns).map_or_else(Vec::new, |e| {
        let here = e.neighbours.iter().filter(|n| n.ifindex == ifindex && !n.mac.is_empty());
        here.filter(|n| n.address.is_ipv6() == next.is_ipv6())
            .map(|n| n.address.to_string())
            .take(4)
            .collect()
    });
    let finding = Finding::new(
        &c::TUNNEL_NEIGHBOUR_MISSING,
        Certain,
        format!("{device} has no neighbour entry for its peer {next}: that node was not made known to it"),
    )
    .checked(seen, view.command(netns, format!("ip neigh show dev {device}")));
    let finding = if known.is_empty() {
        finding
    } else {
        finding.checked(
            format!("the peers that {device} knows: {}; is {next} the right one?", known.join(", ")),
            view.command(netns, format!("{} route show table all dev {device}", ip_command(next))),
        )
    };
    finding
        .fix(format!("the agent that owns {device} must add the peer (restart it, read its log), or correct the route that names {next}"))
        .about(next)
        .at(view.place(netns, ifindex))
}

/// The address is a watched host's.
fn of_owner(view: &View<'_>, question: &Question) -> Option<Finding> {
    let Question { netns, ifindex, next, .. } = *question;
    let (ns, owner) = view.owner(next).filter(|(ns, _)| ns.id != netns && !is_everybodys(next))?;
    let (device, name) = (view.device_name(ns.id, owner.ifindex), view.netns(ns.id));
    let show = view.command(ns.id, format!("ip -d addr show {device}"));
    if !owner.up {
        return Some(
            Finding::new(
                &c::NEIGHBOUR_SILENT,
                Certain,
                format!("{next} is on {device} of {name}, which is down: it does not answer"),
            )
            .checked(format!("{device} is down"), show)
            .fix(view.command(ns.id, format!("ip link set {device} up")))
            .about(next)
            .at(view.place(ns.id, owner.ifindex)),
        );
    }
    let (here, there) = (segment(view, netns, ifindex), segment(view, ns.id, owner.ifindex));
    if let (Some(here), Some(there)) = (here, there)
        && here != there
    {
        return Some(on_another_network(view, question, ns, owner));
    }
    if let Some(finding) = blocked(view, question, ns, owner) {
        return Some(finding);
    }
    if let Some((text, fix)) = mute(view, ns, owner, next) {
        return Some(
            Finding::new(
                &c::NEIGHBOUR_SILENT,
                Certain,
                format!("{next} is on {device} of {name}, but does not answer: {text}"),
            )
            .checked(text, show)
            .fix(fix)
            .about(next)
            .at(view.place(ns.id, owner.ifindex)),
        );
    }
    refuses_source(view, question, ns, owner)
}

/// What tells networks apart: the bridge, else the pair. `None`: it is not known where the device leads.
fn segment(view: &View<'_>, netns: NetnsId, ifindex: u32) -> Option<(NetnsId, u32)> {
    let device = view.device(netns, ifindex)?;
    match device.kind {
        DeviceKind::Bridge => Some((netns, ifindex)),
        DeviceKind::Veth => {
            if let Some(master) = device.master {
                return Some((netns, master));
            }
            let (peer_ns, peer) = device.link?;
            let peer_ns = peer_ns?;
            let master = view.device(peer_ns, peer)?.master;
            Some(master.map_or((netns, ifindex).min((peer_ns, peer)), |master| (peer_ns, master)))
        }
        _ => None,
    }
}

/// The port of a bridge by which a device is reached: namespace, ifindex.
fn port_of(view: &View<'_>, netns: NetnsId, ifindex: u32) -> Option<(NetnsId, u32)> {
    let device = view.device(netns, ifindex)?;
    if device.master.is_some() {
        return Some((netns, ifindex));
    }
    let (peer_ns, peer) = device.link?;
    view.device(peer_ns?, peer)?.master?;
    Some((peer_ns?, peer))
}

/// The bridge between the two does not forward.
fn blocked(view: &View<'_>, question: &Question, ns: &Namespace, owner: &Device) -> Option<Finding> {
    /// BR_STATE_FORWARDING, include/uapi/linux/if_bridge.h.
    const FORWARDING: u8 = 3;
    let ports = [(question.netns, question.ifindex), (ns.id, owner.ifindex)]
        .map(|(netns, ifindex)| port_of(view, netns, ifindex));
    let flags = |(netns, ifindex): (NetnsId, u32)| view.of(netns)?.link_by_index(ifindex)?.port;
    let next = question.next;
    for port in ports.into_iter().flatten() {
        let Some(known) = flags(port).filter(|known| known.state != FORWARDING) else { continue };
        let (device, name) = (view.device_name(port.0, port.1), view.netns(port.0));
        let state = ["disabled", "listening", "learning", "forwarding", "blocking"];
        let state = state.get(usize::from(known.state)).copied().unwrap_or("not forwarding");
        return Some(
            Finding::new(
                &c::PORT_BLOCKED,
                Certain,
                format!(
                    "the bridge port {device} of {name} is {state}: nothing passes between it and {next}"
                ),
            )
            .checked(
                format!("state {state}"),
                view.command(port.0, format!("bridge -d link show dev {device}")),
            )
            .fix(
                view.command(port.0, format!("bridge link set dev {device} state 3"))
                    + " (or wait for the spanning tree; or find what blocks it)",
            )
            .at(view.place(port.0, port.1)),
        );
    }
    let [Some(here), Some(there)] = ports else { return None };
    if here == there || !flags(here)?.isolated || !flags(there)?.isolated {
        return None;
    }
    let (one, two) = (view.device_name(here.0, here.1), view.device_name(there.0, there.1));
    Some(
        Finding::new(
            &c::PORT_BLOCKED,
            Certain,
            format!("{one} and {two} are isolated ports of the same bridge: nothing passes between them, and nobody hears who asks for {next}"),
        )
        .checked("both ports are isolated", view.command(here.0, "bridge -d link show"))
        .fix(view.command(there.0, format!("bridge link set dev {two} isolated off")))
        .at(view.place(there.0, there.1)),
    )
}

fn on_another_network(view: &View<'_>, question: &Question, ns: &Namespace, owner: &Device) -> Finding {
    let Question { netns, ifindex, next, .. } = *question;
    let (out, there) = (view.device_name(netns, ifindex), view.device_name(ns.id, owner.ifindex));
    let (name, place) = (view.netns(netns), view.netns(ns.id));
    let ip = ip_command(next);
    let bridge = segment(view, netns, ifindex);
    let port = view.device(netns, ifindex).filter(|d| d.kind == DeviceKind::Veth && d.master.is_none());
    // The host's end of the asker's own veth is in no bridge.
    if let (Some(port), Some((at, _))) = (port, bridge)
        && let Some((Some(host), peer)) = port.link
        && view.device(host, peer).is_some_and(|d| d.master.is_none())
        && view.device(ns.id, owner.ifindex).is_some_and(|d| d.kind == DeviceKind::Bridge)
        && (at == host || at == netns)
        && host == ns.id
    {
        let peer = view.device_name(host, peer);
        return Finding::new(
            &c::PORT_NOT_IN_BRIDGE,
            Certain,
            format!("{peer} of {place} is not in {there}, which has {next}: nobody hears who asks for it"),
        )
        .checked(format!("{peer} has no master"), view.command(host, "bridge link show"))
        .fix(view.command(host, format!("ip link set {peer} master {there}")))
        .at(view.place(host, port.link.map_or(0, |(_, peer)| peer)));
    }
    Finding::new(
        &c::WRONG_ROUTE,
        Certain,
        format!(
            "{name} looks for {next} on the network of {out}, but it is {there} of {place}, on another one"
        ),
    )
    .checked(
        format!("the route by which {name} finds {next} leads to {out} directly"),
        view.command(netns, format!("{ip} route get {next}")),
    )
    .fix(format!(
        "correct that route of {name}: {next} is reached by a gateway or tunnel, not on {out} itself"
    ))
    .about(next)
    .at(view.place(netns, ifindex))
}

/// include/uapi/linux/neighbour.h
const NUD_PERMANENT: u16 = 0x80;

/// The host sends what is for `next` to a MAC that the watched device which has that address does not have.
pub(super) fn wrong_entry(view: &View<'_>, netns: NetnsId, ifindex: u32, next: IpAddr) -> Option<Finding> {
    let (ns, owner) = view.owner(next).filter(|(ns, _)| ns.id != netns && !is_everybodys(next))?;
    let entry = entry(view, netns, ifindex, next)?;
    if entry.mac == owner.mac || owner.mac.len() != 6 || view.is_vxlan(netns, ifindex) {
        return None;
    }
    let (name, device) = (view.netns(netns), view.device_name(netns, ifindex));
    let (there, theirs) = (view.netns(ns.id), view.device_name(ns.id, owner.ifindex));
    let (wrong, own) = (mac(&entry.mac), mac(&owner.mac));
    let permanent = entry.state & NUD_PERMANENT != 0;
    Some(
        Finding::new(
            &c::OTHER_HOST,
            Certain,
            format!("{name} sends to MAC {wrong} what is for {next}, but {theirs} of {there}, which has that address, has MAC {own}"),
        )
        .checked(
            format!("the neighbour entry of {next} on {name}: {wrong}{}", if permanent { ", permanent: somebody wrote it" } else { ", learned: another host answers for the address, or did so before" }),
            view.command(netns, format!("ip neigh show {next} dev {device}")),
        )
        .checked(format!("{theirs} of {there} has MAC {own}"), view.command(ns.id, format!("ip link show {theirs}")))
        .fix(view.command(netns, format!("ip neigh del {next} dev {device}")) + &(if permanent { String::new() } else { format!("; if it comes again, another host has {next} too: find {wrong}") }))
        .about(next)
        .at(view.place(netns, ifindex)),
    )
}

/// The same for each network that the packet was sent on.
pub(super) fn wrong_entries(view: &View<'_>) -> Option<Finding> {
    let ends = view.journey.hops.last().map_or(view.journey.packet.ends, |h| h.ends);
    let inner = view.lookups().chain(view.routes.iter().copied()).filter(|l| !l.reverse && l.error == 0);
    let mut questions: Vec<(NetnsId, u32, IpAddr)> = inner
        .filter(|l| l.ifindex != 0)
        .map(|l| (l.netns, l.ifindex, if l.gateway.is_none() { ends.dst.addr.ip() } else { l.gateway.ip() }))
        .collect();
    for hop in view.journey.hops.iter() {
        let outer = hop.encap.and_then(|i| view.journey.encaps.get(usize::from(i)));
        if let (Some(outer), At::Device { ifindex, egress: true }) = (outer, hop.place) {
            questions.push((hop.netns, ifindex, outer.dst.addr.ip()));
        }
    }
    questions.into_iter().find_map(|(netns, ifindex, next)| wrong_entry(view, netns, ifindex, next))
}

fn entry<'a>(view: &View<'a>, netns: NetnsId, ifindex: u32, next: IpAddr) -> Option<&'a Neighbour> {
    let known = &view.of(netns)?.neighbours;
    known.iter().find(|n| n.ifindex == ifindex && n.address == next && n.mac.len() == 6)
}

/// A MAC that somebody wrote down for a host which does not answer.
pub(super) fn written(view: &View<'_>, netns: NetnsId, ifindex: u32, next: IpAddr) -> Option<Finding> {
    let entry = entry(view, netns, ifindex, next)?;
    if entry.state & NUD_PERMANENT == 0 || view.is_vxlan(netns, ifindex) {
        return None;
    }
    let (name, device) = (view.netns(netns), view.device_name(netns, ifindex));
    let written = mac(&entry.mac);
    Some(
        Finding::new(
            &c::OTHER_HOST,
            Possible,
            format!("packets for {next} leave {device} of {name} to MAC {written}, which a permanent neighbour entry says, and nothing came back: is that its MAC?"),
        )
        .checked(
            format!("the entry of {next} is permanent: nobody is asked"),
            view.command(netns, format!("ip neigh show {next} dev {device}")),
        )
        .checked("who answers for it", view.command(netns, format!("arping -c 3 -I {device} {next}")))
        .fix(view.command(netns, format!("ip neigh del {next} dev {device}")))
        .about(next)
        .at(view.place(netns, ifindex)),
    )
}

/// The device does not answer ARP, by its flags or sysctls.
fn mute(view: &View<'_>, ns: &Namespace, owner: &Device, next: IpAddr) -> Option<(String, String)> {
    let evidence = view.of(ns.id)?;
    let device = view.device_name(ns.id, owner.ifindex);
    let link = evidence.link_by_index(owner.ifindex)?;
    if link.flags & libc::IFF_NOARP as u32 != 0 {
        return Some((
            format!("{device} has ARP switched off (NOARP)"),
            view.command(ns.id, format!("ip link set {device} arp on")),
        ));
    }
    if next.is_ipv6() {
        return None;
    }
    let (key, value) = ["all", &device]
        .map(|name| {
            (name.to_owned(), evidence.sysctl(&format!("net/ipv4/conf/{name}/arp_ignore")).unwrap_or(0))
        })
        .into_iter()
        .max_by_key(|(_, value)| *value)?;
    (value == 8 || (value == 3 && link.is_loopback())).then(|| {
        let key = format!("net.ipv4.conf.{}.arp_ignore", key.replace('.', "/"));
        (format!("{key} is {value}"), view.command(ns.id, format!("sysctl -w {key}=0")))
    })
}

/// ARP requests carry the packet's source, and a host answers only sources that it would take packets from.
fn refuses_source(view: &View<'_>, question: &Question, ns: &Namespace, owner: &Device) -> Option<Finding> {
    let Question { next, source, .. } = *question;
    let evidence = view.of(ns.id)?;
    let (device, name) = (view.device_name(ns.id, owner.ifindex), view.netns(ns.id));
    if source.is_ipv6() {
        return None;
    }
    let asker = view.netns(question.netns);
    if let Some(own) = ns.devices.values().find(|d| d.addresses.contains(&source)) {
        let own = view.device_name(ns.id, own.ifindex);
        return Some(
            Finding::new(
                &c::DUPLICATE_ADDRESS,
                Certain,
                format!("two hosts have {source}: {asker}, and {name} on {own}; so {name} ignores who asks from it, and {next} seems silent"),
            )
            .checked(format!("{source} is on {own} of {name}"), view.command(ns.id, format!("ip addr show to {source}")))
            .checked(
                format!("{source} is the source of what {asker} sends"),
                view.command(question.netns, format!("ip addr show to {source}")),
            )
            .fix(view.command(ns.id, format!("ip addr del {source} dev {own}")) + ", if that one is wrong")
            .about(source)
            .at(view.place(ns.id, owner.ifindex)),
        );
    }
    let strict = |name: &str| evidence.sysctl(&format!("net/ipv4/conf/{name}/rp_filter"));
    if strict("all").max(strict(&device)) != Some(1) {
        return None;
    }
    let back = match evidence.routed(None, source, 0) {
        Routed::By(route) if route.next_hops.iter().all(|hop| hop.ifindex != owner.ifindex) => {
            route.next_hops.first().map(|hop| view.device_name(ns.id, hop.ifindex))
        }
        Routed::NoRoute => None,
        _ => return None,
    };
    let back =
        back.map_or_else(|| format!("has no route to {source}"), |by| format!("reaches {source} by {by}"));
    Some(
        Finding::new(
            &c::REVERSE_PATH_FILTER,
            Likely,
            format!("{asker} sends from {source}, but {name} {back}: the strict reverse path filter of {device} does not even let it answer who asks for {next}"),
        )
        .checked(
            format!("{asker} uses {source} as its source"),
            view.command(question.netns, format!("ip route get {}", view.journey.packet.ends.dst.addr)),
        )
        .checked(
            format!("{name} {back}, and rp_filter of {device} is 1"),
            view.command(ns.id, format!("ip route get {source}; sysctl net.ipv4.conf.{}.rp_filter", device.replace('.', "/"))),
        )
        .fix(format!(
            "let {asker} send from an address of {device}'s network (src of its route, or the address that its program binds to), or give {name} a route: {}",
            view.command(ns.id, format!("ip route add {source} dev {device}"))
        ))
        .about(source)
        .at(view.place(ns.id, owner.ifindex)),
    )
}
