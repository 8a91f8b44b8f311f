// SPDX-License-Identifier: MIT OR Apache-2.0
//! Neighbour entries with a wrong MAC.

use std::net::IpAddr;

use super::context::View;
use super::duplicate::is_everybodys;
use crate::cause::Certainty::{Certain, Possible};
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::flow::Place as At;
use crate::node::NetnsId;
use crate::node::rtnl::Neighbour;
use crate::text::mac;

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
