// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets that fail because a NAT rule or an existing conntrack entry changed their destination or source.

use std::net::SocketAddr;

use super::attribution;
use super::context::View;
use super::packet::before_hop;
use crate::cause::Certainty::Likely;
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::cause::diversion::{Diversion, hides_another, is_ordinary, removal};
use crate::firewall::{Attribution, Hiding, NatKind, PacketView, RuleRef, attribute_nat};
use crate::flow::{Endpoint, Ends, Hop, Place as At};
use crate::node::{Interval, NetnsId};
use crate::snapshot::{ConnectionTuple, NetnsEvidence, TrackedConnection};

/// Where a flow's packets were translated, and how they looked before.
#[derive(Clone, Debug)]
pub(super) struct Translation {
    netns: NetnsId,
    kind: NatKind,
    from: Ends,
    to: Ends,
    interval: Interval,
    /// As the rules saw it.
    packet: PacketView,
}

impl Translation {
    /// The first one on the packet's way forward that rules may have made.
    pub(super) fn of(view: &View<'_>) -> Option<Self> {
        let journey = view.journey;
        if journey.reply || journey.packet.icmp_error.is_some() {
            return None;
        }
        let suspicious = |hop: &Hop| {
            let there = view.namespace(hop.netns);
            let own = there
                .is_some_and(|ns| ns.devices.values().any(|d| d.addresses.contains(&hop.ends.src.addr.ip())));
            match hop.nat.map(|n| n.kind) {
                Some(NatKind::Dnat | NatKind::Both) => true,
                Some(NatKind::Snat) => !own,
                _ => false,
            }
        };
        let at = journey
            .hops
            .iter()
            .position(|hop| hop.encap.is_none() && matches!(hop.place, At::Hook { .. }) && suspicious(hop))?;
        let hop = &journey.hops[at];
        let nat = hop.nat?;
        Some(Self {
            netns: hop.netns,
            kind: nat.kind,
            from: nat.from,
            to: hop.ends,
            interval: nat.interval?,
            packet: attribution::first_packet(&before_hop(view, at)?),
        })
    }

    fn ask(&self, evidence: &NetnsEvidence, to: bool) -> Attribution {
        let to = match self.kind {
            NatKind::Dnat if to => Some((self.to.dst.addr.ip(), self.to.dst.port)),
            NatKind::Snat if to => Some((self.to.src.addr.ip(), self.to.src.port)),
            _ => None,
        };
        attribute_nat(evidence, &self.interval, &self.packet, self.kind, to)
    }

    /// The translation as the cause of what was found after it.
    pub(super) fn explains(&self, view: &View<'_>, found: &Finding) -> Option<Finding> {
        if !found.kind().follows {
            return None;
        }
        let evidence = view.of(self.netns)?;
        let by = self.ask(evidence, true);
        match by.rules.first() {
            Some(rule) => {
                let hides = hides_another(evidence, self.interval.hook, &self.packet, rule);
                if is_ordinary(rule) && hides.is_none() {
                    return None;
                }
                Some(self.by_rule(view, rule, &by, hides, found))
            }
            None if by.undecided.is_empty() && evidence.unreadable.is_empty() => {
                // Where the kernel has the entry, a rule that would send a new connection elsewhere is no near miss.
                let elsewhere = || self.entry(view, evidence).is_some() && self.goes_elsewhere(evidence);
                if by.near.is_empty() || elsewhere() { self.stale(view, evidence, found) } else { None }
            }
            None => None,
        }
    }

    /// What changed: words of before and after.
    fn change(&self) -> (&'static str, String, String) {
        match self.kind {
            NatKind::Snat => ("source", self.from.src.addr.to_string(), self.to.src.addr.to_string()),
            _ => ("destination", self.from.dst.to_string(), self.to.dst.to_string()),
        }
    }

    fn by_rule(
        &self,
        view: &View<'_>,
        rule: &RuleRef,
        by: &Attribution,
        hides: Option<Hiding>,
        found: &Finding,
    ) -> Finding {
        let (what, from, to) = self.change();
        let forget = match self.kind {
            NatKind::Snat => format!("conntrack -D -s {}", self.from.src.addr),
            _ => format!("conntrack -D -d {}", self.from.dst.addr),
        };
        let diversion = Diversion {
            rule: rule.clone(),
            id: self.netns,
            netns: view.netns(self.netns),
            hook: self.interval.hook.name(),
            what,
            from,
            to,
            list: view.command(self.netns, super::firewall::list_of(view, rule)),
            forget: view.command(self.netns, forget),
            hides: hides.map(|hides| {
                (view.command(self.netns, removal(&hides.rule, view.journey.packet.ipv6)), hides)
            }),
        };
        let finding = diversion.led_to(found);
        if by.rules.len() == 1 {
            return finding;
        }
        let others: Vec<String> = by.rules[1..].iter().take(3).map(ToString::to_string).collect();
        finding.fact(format!("or it was {}", others.join(" or ")))
    }

    /// The kernel's entry for the packet as it was before, where that has the same translation.
    fn entry<'e>(&self, view: &View<'_>, evidence: &'e NetnsEvidence) -> Option<&'e TrackedConnection> {
        let end = |end: Endpoint| SocketAddr::new(end.addr.ip(), end.port);
        let Ends { src, dst } = self.from;
        let tuple = ConnectionTuple { proto: view.journey.packet.proto, src: end(src), dst: end(dst) };
        let (entry, _) = evidence.connection_of(tuple, 0)?;
        (entry.reply.src == end(self.to.dst) || entry.reply.dst == end(self.to.src)).then_some(entry)
    }

    /// A rule that is certain to match would translate a new connection, and to another address.
    fn goes_elsewhere(&self, evidence: &NetnsEvidence) -> bool {
        let now = self.ask(evidence, false);
        !now.rules.is_empty() && now.undecided.is_empty()
    }

    /// No rule does it any more.
    fn stale(&self, view: &View<'_>, evidence: &NetnsEvidence, found: &Finding) -> Option<Finding> {
        if !matches!(self.kind, NatKind::Dnat | NatKind::Snat) {
            return None;
        }
        let now = self.ask(evidence, false);
        let (what, from, to) = self.change();
        let name = view.netns(self.netns);
        let which = match self.kind {
            NatKind::Snat => format!("-s {}", self.from.src.addr),
            _ => format!("-d {}", self.from.dst.addr),
        };
        let ends = self.from;
        let entry = self.entry(view, evidence);
        let finding = Finding::new(
            &c::STALE_ENTRY,
            Likely,
            format!("an old conntrack entry on {name} still changes the {what} {from} to {to}, which no rule does any more: {}", found.title),
        )
        .checked(
            format!("the entry of {ends} translates, and no rule that was read would do so"),
            view.command(self.netns, format!("conntrack -L {which}")),
        );
        let finding = match entry {
            Some(entry) => finding.fact(format!("the entry: {entry}")),
            None => finding,
        };
        let finding = match now.rules.first() {
            Some(rule) => finding.checked(
                format!("{rule} would translate it to another address now"),
                view.command(self.netns, super::firewall::list_of(view, rule)),
            ),
            None => finding,
        };
        let mut finding = finding;
        finding.evidence.extend(found.evidence.iter().take(1).cloned());
        Some(
            finding
                .fix(view.command(
                    self.netns,
                    entry.map_or_else(|| format!("conntrack -D {which}"), |entry| entry.delete_command()),
                ))
                .about(from)
                .at(view.place(self.netns, 0)),
        )
    }
}
