// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a watched owner of an address does not answer for it.

use super::context::View;
use super::duplicate::is_everybodys;
use super::neighbour::{Question, ip_command};
use crate::cause::Certainty::{Certain, Likely};
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::node::{Device, DeviceKind, Namespace, NetnsId};
use crate::snapshot::Routed;
use std::net::IpAddr;

/// The address is a watched host's.
pub(super) fn explain(view: &View<'_>, question: &Question) -> Option<Finding> {
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
pub(super) fn segment(view: &View<'_>, netns: NetnsId, ifindex: u32) -> Option<(NetnsId, u32)> {
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
