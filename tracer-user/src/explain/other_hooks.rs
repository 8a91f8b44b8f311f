// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets dropped by a rule outside the hooks of IP (at a device, in a bridge), by a queue, or by their TTL.

use super::context::View;
use super::packet;
use crate::cause::Certainty::{Certain, Likely};
use crate::cause::catalogue as c;
use crate::cause::{Finding, Place};
use crate::firewall::{attribute_beside, attribute_queue, lowers_ttl};
use crate::flow::{DropSite, Ends, Place as At};
use crate::node::{Family, Hook, Interval};

/// Dropped where IP has no hook: at a device, or in a bridge.
pub(super) fn dropped(view: &View<'_>, site: &DropSite) -> Option<Finding> {
    let evidence = view.of(site.netns)?;
    let device = view.device_name(site.netns, site.ifindex);
    let mut packet = packet::at_drop(view, site, &whole(view, site, Hook::Prerouting));
    // Bridges see their ports.
    let came_by = view.journey.hops.iter().rev().find_map(|h| match h.place {
        At::Device { ifindex, egress: false } if h.netns == site.netns => view.device(h.netns, ifindex),
        _ => None,
    });
    packet.input = came_by.filter(|d| d.master.is_some()).map(|d| d.name.clone()).or(packet.input);
    packet.output = Some(device.clone()).filter(|name| Some(name) != packet.input.as_ref());
    let found = attribute_beside(evidence, &device, &packet);
    let first = found.iter().find(|one| one.certain).or(found.first())?;
    let rule = &first.rule;
    let name = view.netns(site.netns);
    let whose = if site.encap.is_some() { "the tunnel's outer packet" } else { "the packet" };
    let list = format!("nft -a list chain {} {} {}", rule.family, rule.table, rule.chain);
    let kind = if rule.number == 0 { &c::POLICY } else { &c::RULE };
    let sure = if first.certain { Certain } else { Likely };
    let mut finding = Finding::new(kind, sure, format!("{rule} on {name} drops {whose} at {device}"))
        .checked(
            format!("NETFILTER_DROP at {device}, at none of IP's hooks"),
            view.command(site.netns, list),
        );
    if !rule.text.is_empty() {
        finding = finding.fact(format!("the rule: {}", rule.text));
    }
    let place = Place { rule: Some(rule.place()), ..view.place(site.netns, site.ifindex) };
    let fix = format!("remove or correct that rule, or accept {} before it", what(view, site));
    Some(finding.fix(fix).about(rule.place()).at(place))
}

/// A rule handed the packet to a program, and none listens to that queue.
pub(super) fn queued(view: &View<'_>, site: &DropSite) -> Option<Finding> {
    let evidence = view.of(site.netns)?;
    let found = Hook::ALL.into_iter().find_map(|hook| {
        let at = whole(view, site, hook);
        let found = attribute_queue(evidence, &at, &packet::at_drop(view, site, &at));
        (!found.rules.is_empty()).then_some((at, found))
    });
    let (at, found) = found?;
    let rule = found.rules.first()?;
    let name = view.netns(site.netns);
    let sure = if found.certain { Certain } else { Likely };
    let title = format!("{rule} on {name} hands the packet to a queue that no program reads: it is dropped");
    let place = Place {
        hook: Some(at.hook.name().to_owned()),
        rule: Some(rule.place()),
        ..view.place(site.netns, site.ifindex)
    };
    Some(
        Finding::new(&c::RULE, sure, title)
            .checked("dropped by nf_queue", view.command(site.netns, "cat /proc/net/netfilter/nfnetlink_queue"))
            .fact(format!("the rule: {}", rule.text))
            .fix("start the program that reads the queue, give the rule --queue-bypass (nft: flags bypass), or remove it")
            .about(rule.place())
            .at(place),
    )
}

/// A rule took the TTL away.
pub(super) fn ttl_lowered(view: &View<'_>, site: &DropSite) -> Option<Finding> {
    let at = whole(view, site, Hook::Prerouting);
    let packet = packet::at_drop(view, site, &at);
    let rule = lowers_ttl(view.of(site.netns)?, &[Hook::Prerouting], &packet)?;
    let name = view.netns(site.netns);
    Some(
        Finding::new(
            &c::RULE,
            Certain,
            format!("{rule} on {name} lowers the packet's TTL, which is then used up"),
        )
        .fact(format!("the rule: {}", rule.text))
        .fact("its TTL was used up here")
        .fix("remove or correct that rule")
        .about(rule.place())
        .at(Place { rule: Some(rule.place()), ..view.place(site.netns, site.ifindex) }),
    )
}

/// All of a hook.
fn whole(view: &View<'_>, site: &DropSite, hook: Hook) -> Interval {
    let family = if view.journey.packet.ipv6 { Family::Ipv6 } else { Family::Ipv4 };
    Interval { netns: site.netns, family, hook, after: i32::MIN, until: i32::MAX, learned: false }
}

/// What a rule would have to accept.
pub(super) fn what(view: &View<'_>, site: &DropSite) -> String {
    if let Some(outer) = site.encap.and_then(|i| view.journey.encaps.get(usize::from(i))) {
        return format!("UDP {} from {}", outer.dst.port, outer.src.addr);
    }
    let Ends { mut src, mut dst } = view.journey.hops.last().map_or(view.journey.packet.ends, |h| h.ends);
    // The client's port is another one each time.
    let client = if view.journey.reply { &mut dst } else { &mut src };
    client.port = 0;
    format!("{src} → {dst}")
}
