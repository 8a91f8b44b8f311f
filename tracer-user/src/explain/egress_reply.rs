// SPDX-License-Identifier: MIT OR Apache-2.0
//! Replies to packets that came through the egress tunnel; they have to go back into it.

use super::context::{Entry, View, is_tunnel};
use crate::cause::Certainty::{Certain, Likely};
use crate::cause::catalogue as c;
use crate::cause::{Finding, Place};
use crate::cluster::egress::datapath::REPLY_CHAIN;
use crate::cluster::egress::datapath::is_node_mark;
use crate::flow::DropSite;

/// The answer to what came by the tunnel does not go back into it.
pub(super) fn reply_not_marked(view: &View<'_>) -> Option<Finding> {
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
    let chains: Vec<_> = evidence.tables("mangle").filter_map(|t| t.chain(REPLY_CHAIN)).collect();
    let (sure, why) = if chains.is_empty() {
        (Certain, format!("mangle has no chain {REPLY_CHAIN}"))
    } else if chains.iter().all(|chain| chain.rules.is_empty()) {
        (Certain, format!("{REPLY_CHAIN} is empty"))
    } else {
        (Likely, format!("no rule of {REPLY_CHAIN} restored the mark of the connection"))
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
            view.command(gateway, format!("{} -t mangle -vnL {REPLY_CHAIN}", view.iptables())),
        )
        .fix(format!("restart the egressgateway agent on {name}: it writes {REPLY_CHAIN} and the jump to it again"))
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
        .fix(format!("on {gateway}: the chain {REPLY_CHAIN} in mangle, the ip rule of this node's mark and its table have to be there; restart the egressgateway agent there (trace there to see which is missing)"))
        .about(site.netns)
        .at(view.place(site.netns, site.ifindex)),
    )
}
