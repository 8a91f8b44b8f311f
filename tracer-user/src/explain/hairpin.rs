// SPDX-License-Identifier: MIT OR Apache-2.0
//! A pod that connects to itself through a service address.

use super::context::View;
use crate::cause::Certainty::Certain;
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::firewall::NatKind;
use crate::flow::{Addr, DropSite, Endpoint, Hop};
use crate::node::NetnsId;

/// It came back to the pod with the pod's own address as its source.
pub(super) fn not_masqueraded(view: &View<'_>, site: &DropSite) -> Option<Finding> {
    let (node, asked, pod) = to_itself(view)?;
    let name = view.netns(node);
    Some(
        Finding::new(
            &c::HAIRPIN_UNMASQUERADED,
            Certain,
            format!("{pod} asks for {asked} and was chosen to answer itself, but {name} did not masquerade the packet: a host takes nothing that claims to be from itself"),
        )
        .checked(
            format!("it came back with the pod's own address as its source: {}", view.reason(site)),
            view.command(node, format!("{} -t nat -S POSTROUTING", view.iptables())),
        )
        .fact(format!("{asked} was translated to the sender's own address"))
        .fix(format!("restart kube-proxy on {name} (its KUBE-SEP chain marks what an endpoint sends to itself, its KUBE-POSTROUTING masquerades what is marked), or masquerade it by a rule"))
        .at(view.place(node, 0)),
    )
}

/// Where a packet was translated to its own sender, what it asked for, and who that is.
fn to_itself(view: &View<'_>) -> Option<(NetnsId, Endpoint, Addr)> {
    let translated = |h: &&Hop| h.nat.is_some_and(|n| matches!(n.kind, NatKind::Dnat | NatKind::Both));
    let hop = view.journey.hops.iter().rev().find(translated)?;
    let pod = hop.ends.dst.addr;
    (hop.ends.src.addr == pod).then_some((hop.netns, hop.nat?.from.dst, pod))
}
