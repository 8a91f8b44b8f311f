// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets that are dropped when conntrack inserts their entry: no port was left for SNAT, or another entry that has
//! the same tuple came first.

use std::net::SocketAddr;

use super::attribution;
use super::context::View;
use super::packet::before_hop;
use super::tracking::sure;
use crate::cause::Certainty::{Certain, Likely};
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::firewall::{Backend, NatKind, PortRange, RuleRef, Table, Target, attribute_nat};
use crate::flow::{DropSite, Endpoint, Hop, Place as At};
use crate::node::Hook;
use crate::snapshot::TrackedConnection;

/// A rule that may use fewer source ports is short of them.
const FEW_PORTS: usize = 64;
const INSERT_FAILED: &str = "Conntrack.insert_failed";

/// A drop at POSTROUTING that no rule made.
pub(super) fn refused(view: &View<'_>, site: &DropSite) -> Option<Finding> {
    let hops = &view.journey.hops;
    let at_hook = |hop: &Hop| {
        hop.netns == site.netns
            && hop.encap.is_none()
            && matches!(hop.place, At::Hook { hook: Hook::Postrouting, .. })
    };
    let last = hops.iter().rposition(at_hook);
    let hop = last.and_then(|last| hops.get(last));
    let ends = hop.or(hops.last()).map_or(view.journey.packet.ends, |hop| hop.ends);
    let proto = view.journey.packet.proto;
    let end = |end: Endpoint| SocketAddr::new(end.addr.ip(), end.port);
    let (from, to) = (end(ends.src), end(ends.dst));
    let translated =
        hop.and_then(|hop| hop.nat).filter(|nat| matches!(nat.kind, NatKind::Snat | NatKind::Both));
    let before = translated.map_or(ends, |nat| nat.from);
    let evidence = view.of(site.netns);
    let alike = |entry: &&TrackedConnection| {
        entry.original.proto == proto && entry.reply.src == to && entry.reply.dst.ip() == from.ip()
    };
    let used: Vec<&TrackedConnection> = evidence.iter().flat_map(|e| &e.connections).filter(alike).collect();
    let rule = translated.and_then(|nat| {
        let packet = attribution::first_packet(&before_hop(view, last?)?);
        let found =
            attribute_nat(evidence?, &nat.interval?, &packet, nat.kind, Some((from.ip(), from.port())));
        found.rules.into_iter().next()
    });
    let ports = rule.as_ref().and_then(|rule| ports_of(view, site, rule)).unwrap_or(match from.port() {
        0..512 => PortRange { first: 1, last: 511 },
        512..1024 => PortRange { first: 600, last: 1023 },
        _ => PortRange { first: 1024, last: u16::MAX },
    });
    let all = usize::from(ports.last.saturating_sub(ports.first)) + 1;
    let taken = used.iter().filter(|entry| ports.contains(entry.reply.dst.port())).count();
    let name = view.netns(site.netns);
    let by = rule.as_ref().map_or_else(|| "NAT".to_owned(), ToString::to_string);
    let list = view.command(site.netns, format!("conntrack -L -r {} -q {}", to.ip(), from.ip()));
    let place = view.place(site.netns, site.ifindex);
    let count = |finding: Finding| match view.counted(site.netns, INSERT_FAILED) {
        0 => finding,
        times => finding.checked(
            format!("insert_failed of {name} rose by {times} while this was watched"),
            view.command(site.netns, "conntrack -S"),
        ),
    };
    // The table was read some time before: of few ports the rest may be taken since.
    let other = used.iter().find(|entry| entry.reply.dst == from && entry.original.src != end(before.src));
    let nearly = all < FEW_PORTS && (other.is_none() || 2 * taken >= all);
    if translated.is_some() && (taken >= all || nearly) {
        let are = if taken >= all { "and all are taken" } else { "and its entry could not be inserted" };
        let finding = Finding::new(
            &c::NO_SNAT_PORT,
            if taken >= all { Certain } else { Likely },
            format!("no free port is left on {name} to translate the source for {to}: {by} may use {all} of {}, {are}", from.ip()),
        )
        .checked(format!("{taken} entries have ports of {} to {} for that destination", ports.first, ports.last), list);
        return Some(
            count(finding)
                .fix("allow more source ports or addresses (EgressGateway: more EIPs), or open fewer connections to one destination")
                .at(place),
        );
    }
    let certain = other.is_some() || view.counted(site.netns, INSERT_FAILED) > 0;
    let title = match translated {
        Some(_) => format!(
            "{name} gave the source {from} to two connections to {to} at the same moment: the entry of this one could not be inserted, and its packet was dropped"
        ),
        None => format!(
            "{name} drops a packet of {} to {}: its entry could not be inserted, because another one with the same addresses and ports came a moment before",
            before.src, before.dst
        ),
    };
    let finding = Finding::new(&c::INSERT_CLASH, sure(certain), title).checked(
        "it had passed every rule: conntrack itself refused it when it inserted the entry",
        view.command(site.netns, "conntrack -S"),
    );
    let finding = match other {
        Some(entry) => finding.checked(format!("the entry that has it: {entry}"), list.clone()),
        None => finding,
    };
    let finding = match (translated, evidence.is_some_and(|e| e.unread_connections.is_none())) {
        (Some(_), true) => {
            finding.checked(format!("ports are not used up: {taken} of {all} are taken for {to}"), list)
        }
        _ => finding,
    };
    let finding =
        count(finding).fact("what is sent again passes: TCP waits a second for that, a DNS resolver five");
    // Among few ports none is free for long, however they are chosen.
    let fix = match translated {
        Some(_) if all < FEW_PORTS => {
            "allow more source ports or addresses, or open fewer connections to one destination".to_owned()
        }
        _ => spread(view, site, rule.as_ref(), to.port()),
    };
    Some(finding.fix(fix).at(place).about(by))
}

/// The rule's own range, where it names one.
fn ports_of(view: &View<'_>, site: &DropSite, rule: &RuleRef) -> Option<PortRange> {
    let evidence = view.of(site.netns)?;
    let is_its = |t: &&Table| (&t.name, t.backend, t.family) == (&rule.table, rule.backend, rule.family);
    let table = evidence.rulesets.iter().find(is_its)?;
    let rule = table.chain(&rule.chain)?.rules.iter().find(|r| r.number == rule.number)?;
    rule.actions.iter().find_map(|target| match target {
        Target::Snat(to) => to.ports,
        Target::Masquerade { ports, .. } => *ports,
        _ => None,
    })
}

/// What makes such a clash rare.
fn spread(view: &View<'_>, site: &DropSite, rule: Option<&RuleRef>, port: u16) -> String {
    let Some(rule) = rule else {
        return if port == 53 {
            "let the resolver send one query at a time (resolv.conf: options single-request-reopen), or use a DNS cache on the node".to_owned()
        } else {
            "let the program send the first packet once, and the others after its answer".to_owned()
        };
    };
    let iptables = match rule.backend {
        Backend::Nft => return format!("add \"fully-random\" to {rule}"),
        Backend::IptablesNft => view.iptables().to_owned(),
        Backend::IptablesLegacy => format!("{}-legacy", view.iptables()),
    };
    match rule.text.strip_prefix(&format!("-A {} ", rule.chain)) {
        Some(text) if !text.contains("--random-fully") => view.command(
            site.netns,
            format!("{iptables} -t {} -R {} {} {text} --random-fully", rule.table, rule.chain, rule.number),
        ),
        _ => "more source addresses make it rarer; the rule chooses its ports at random already".to_owned(),
    }
}
