// SPDX-License-Identifier: MIT OR Apache-2.0
//! A rule that ends a packet for the source that another rule gave it on the way, and would let its own source pass.

use std::ops::Range;

use super::packet_state::Flight;
use super::source_change::SourceChange;
use super::steps::AtHook;
use super::walker::Walker;
use super::world::Host;
use crate::cause::Certainty::Certain;
use crate::cause::Finding;
use crate::cause::Place as At;
use crate::cause::catalogue as c;
use crate::cause::diversion::is_of_a_service;
use crate::firewall::{PacketView, Verdict, Walk, walk_hook_by_chance};

impl Walker<'_> {
    /// The walk ends the packet, and would not with the source that it had before.
    pub(crate) fn refused_for_source(
        &self,
        host: &Host,
        at: AtHook<'_>,
        flight: &Flight,
        walk: &Walk<'_>,
        range: Range<i32>,
    ) -> Option<Finding> {
        let ends = |walk: &Walk<'_>| matches!(walk.verdict, Some(Verdict::Drop | Verdict::Reject(_)));
        let change = self.sources.last().filter(|_| ends(walk) && flight.inside.is_none())?;
        if flight.packet.src != change.to || is_of_a_service(&change.rule) {
            return None;
        }
        let own = PacketView { src: change.from, ..flight.packet.clone() };
        let other = walk_hook_by_chance(host, at.hook, range, &own, &|_| Some(false));
        if ends(&other) || !other.possible.is_empty() {
            return None;
        }
        let by = walk.decided_by.as_ref()?.name();
        let SourceChange { host: changer, rule, from, to, .. } = change;
        let (there, name) = (changer.name(), host.name());
        let mut finding = Finding::new(
            &c::TRANSLATED_ASTRAY,
            Certain,
            format!("{rule} on {there} changes the source {from} to {to}, and so the packet does not get through: {by} on {name} ends it, and lets {from} pass"),
        )
        .checked(
            format!("the rule: {}", rule.text),
            changer.command(super::nat::list(rule, from.is_ipv6())),
        )
        .checked(
            format!("{by} ends packets from {to}: {}", by.text),
            host.command(super::nat::list(&by, from.is_ipv6())),
        );
        let mut advice = format!("let {rule} spare packets from {from} to {}", flight.packet.dst);
        if let Some((mark, setter)) = &change.marked {
            finding = finding.fact(format!(
                "the packet has mark {mark:#x}, for which that rule takes it, from {setter}: two programs use the same bits"
            ));
            advice.push_str(", or let the two programs use different bits of the mark");
        }
        let place = At {
            netns: there,
            hook: Some(change.hook.to_owned()),
            rule: Some(rule.place()),
            ..At::default()
        };
        let fix = change.spare(&flight.packet);
        finding.explains = Some((name, by.place()));
        Some(finding.fix(fix.unwrap_or(advice)).about(rule.place()).at(place))
    }
}
