// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets that an IPsec policy refused.

use super::context::View;
use super::packet;
use crate::cause::Certainty::Likely;
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::cause::ipsec::{NodeState, no_state, refuses};
use crate::flow::DropSite;
use crate::node::{Family, Hook, Interval};
use crate::snapshot::XfrmDirection;

/// A drop with reason XFRM_POLICY.
pub(super) fn dropped(view: &View<'_>, site: &DropSite) -> Finding {
    let name = view.netns(site.netns);
    let place = view.place(site.netns, site.ifindex);
    let command = |command: String| view.command(site.netns, command);
    let whole = |hook| Interval {
        netns: site.netns,
        family: if view.journey.packet.ipv6 { Family::Ipv6 } else { Family::Ipv4 },
        hook,
        after: i32::MIN,
        until: i32::MAX,
        learned: false,
    };
    let (direction, hook) =
        if site.delivered { (XfrmDirection::In, Hook::Input) } else { (XfrmDirection::Fwd, Hook::Forward) };
    let found = view.of(site.netns).and_then(|evidence| {
        let node = NodeState { evidence, name: &name, command: &command };
        let packet = packet::at_drop(view, site, &whole(hook));
        let input = (site.ifindex != 0).then_some(site.ifindex);
        let leaves = || no_state(&node, &packet, None).ok().flatten();
        refuses(&node, direction, &packet, input).or_else(leaves)
    });
    let found = found.unwrap_or_else(|| {
        Finding::new(&c::IPSEC_POLICY, Likely, format!("an IPsec policy of {name} refuses the packet"))
            .checked("no policy that was read does so now", command("ip xfrm policy".to_owned()))
            .fix("compare the IPsec policies of both ends")
    });
    found
        .checked("the kernel's reason: XFRM_POLICY", command("grep -v -w 0 /proc/net/xfrm_stat".to_owned()))
        .at(place)
}
