// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets that get lost without a drop, and answers that take another way than the requests.

use super::catalogue as c;
use super::connections::FlowState;
use super::drops;
use super::finding::Certainty::{Certain, Possible};
use super::finding::Finding;
use super::view::View;
use crate::flow::{Ending, Expected, Hop, Place};

/// Not seen again, and nothing says why.
pub(super) fn vanished(view: &View<'_>, state: &mut FlowState) -> Option<Finding> {
    // IPv6 drops what is for another MAC without a word.
    let last = view.journey.hops.iter().rev().find(|h| !matches!(h.place, Place::Route { .. }));
    if let (Ending::Vanished { .. }, Some(hop)) = (view.journey.ending, last)
        && let (Place::Device { ifindex, egress: false }, Some(macs)) = (hop.place, hop.macs)
        && let Some(device) = view.device(hop.netns, ifindex)
        && device.master.is_none()
        && macs.destination[0] & 1 == 0
        && device.mac != macs.destination
    {
        return drops::other_host(view, hop.netns, ifindex);
    }
    let Ending::Vanished { next: Expected::Device { netns, ifindex, .. }, bridge: None } =
        view.journey.ending
    else {
        return None;
    };
    let hop = view.journey.hops.iter().rev().find(|h| !matches!(h.place, Place::Route { .. })).copied()?;
    let same = |known: &Hop| known.netns == hop.netns && known.place == hop.place;
    let count = state.vanished.as_ref().filter(|(known, _)| same(known)).map_or(1, |(_, count)| count + 1);
    state.vanished = Some((hop, count));
    if count < 2 || state.explained {
        return None;
    }
    let here = match hop.place {
        Place::Device { ifindex, .. } | Place::Route { ifindex, .. } => view.device_name(hop.netns, ifindex),
        Place::Hook { hook, .. } => hook.name().to_owned(),
    };
    let (next, name) = (view.device_name(netns, ifindex), view.netns(netns));
    let lost_at = match hop.place {
        Place::Device { ifindex, .. } => view.place(hop.netns, ifindex),
        _ => view.place(netns, ifindex),
    };
    Some(
        Finding::new(
            &c::LOST_BETWEEN,
            Possible,
            format!(
                "packets are lost between {here} of {} and {next} of {name}, and no drop is reported",
                view.netns(hop.netns)
            ),
        )
        .checked(
            format!("{count} packets were last seen at {here}; no event was lost"),
            view.command(netns, format!("ip -d -s link show {next}; bpftool net show dev {next}")),
        )
        .checked(
            "they may still wait in a queue",
            view.command(hop.netns, format!("tc -s qdisc show dev {here}")),
        )
        .fix(format!("look for an XDP program on {next}, and for drops in the counters of {here} and {next}"))
        .at(lost_at),
    )
}

/// The answer leaves another node than the one that translated the request, with the endpoint's own address.
pub(super) fn astray(view: &View<'_>, state: &FlowState) -> Option<Finding> {
    let (node, service, endpoint) = state.translated?;
    let exit = view.bare_exit()?;
    if exit.netns == node || exit.ends.src != endpoint {
        return None;
    }
    let (there, here, client) = (view.netns(node), view.netns(exit.netns), exit.ends.dst.addr);
    Some(
        Finding::new(
            &c::SERVICE_NOT_MASQUERADED,
            Certain,
            format!("{there} sent a request for {service} on to {endpoint} with the client's address: the answer leaves {here} as {endpoint}, and {client} never asked that"),
        )
        .fact(format!("the answer goes to {client} directly, not back through {there}, which would translate it"))
        .checked(
            "the request was translated but not masqueraded (kube-proxy's mark 0x4000 is missing)",
            view.command(node, format!("{} -t nat -S | grep -e KUBE-MARK-MASQ -e KUBE-EXT", view.iptables())),
        )
        .fix("let kube-proxy write its rules again (restart it); with externalTrafficPolicy: Local, ask a node that has an endpoint")
        .about(service)
        .at(view.place(node, 0)),
    )
}
