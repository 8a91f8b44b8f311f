// SPDX-License-Identifier: MIT OR Apache-2.0
//! From what was seen to the rule that did it.

use std::net::IpAddr;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::at::At;
use super::effect::{Done, Effect};
use super::facts::NodeFacts;
use super::matching::Matched;
use super::names::RuleRef;
use super::nat_kind::NatKind;
use super::near::{NearMiss, near_misses_at, reachable};
use super::packet::PacketView;
use super::rule::{NatTo, Target};
use super::truth::Truth;
use super::walk::{Verdict, Walk, walk_hook, walk_hook_without};
use crate::node::{Hook, Interval};

/// Rules that fit what was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attribution {
    /// One: it was that rule. Several: one of these.
    pub rules: Vec<RuleRef>,
    /// The walk of the packet through the rules comes to the same end, and every condition on the way is
    /// understood. False: the rule would have done it, had it been reached.
    pub certain: bool,
    /// Whatever the conditions that are not known say, nothing else in the interval ends the packet's way.
    #[serde(default)]
    pub alone: bool,
    /// Conditions on the way that could not be decided, with the rule.
    pub undecided: Vec<(RuleRef, String)>,
    /// When no rule fits: which ones nearly did.
    pub near: Vec<NearMiss>,
    /// When a rule is in a chain that others lead to: by which rule the packet came there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub led_by: Option<RuleRef>,
    /// Chains of type nat were not asked: the connection is not new, and its entry translates.
    pub by_conntrack: bool,
}

/// Who changed the mark of `packet` (as it was before) in the interval. Several rules may have changed it one
/// after the other: the last one is named.
pub fn attribute_mark(
    node: &dyn NodeFacts,
    at: &Interval,
    packet: &PacketView,
    from: u32,
    to: u32,
) -> Attribution {
    let packet = PacketView { mark: Some(from), ..packet.clone() };
    let walk = walk_hook(node, at.hook, at.priorities(), &packet);
    let fitting: Vec<_> = walk.effects.iter().filter(|effect| effect.may_mark(to)).collect();
    // The last certain one, and what may have come after it.
    let last = fitting.iter().rposition(|effect| effect.certain).unwrap_or(0);
    let rules: Vec<_> = fitting.iter().skip(last).map(|effect| effect.at).collect();
    let certain = walk.mark == Some(to) && fitting.iter().any(|effect| effect.certain);
    let lone = |target: &Target| match target {
        Target::Mark { value, mask } => (from & !mask) ^ value == to,
        Target::Connmark(super::rule::ConnmarkOp::Restore { ct_mask, mask }) => {
            packet.ct_mark.is_none_or(|ct| (from & !mask) ^ (ct & ct_mask) == to)
        }
        _ => false,
    };
    conclude(node, at.hook, at.priorities(), &packet, &walk, rules, certain, &lone)
}

/// Who translated `packet` (as it was before). `to`: the address and port that were new, when known.
pub fn attribute_nat(
    node: &dyn NodeFacts,
    at: &Interval,
    packet: &PacketView,
    kind: NatKind,
    to: Option<(IpAddr, u16)>,
) -> Attribution {
    if matches!(kind, NatKind::UnSnat | NatKind::UnDnat | NatKind::UnBoth) {
        return Attribution { certain: true, by_conntrack: true, ..Attribution::default() };
    }
    // The NAT core calls all its chains at one place, wherever they say they are.
    let priorities = i32::MIN..i32::MAX;
    let walk = walk_hook(node, at.hook, priorities.clone(), packet);
    let fits = |target: &Target| {
        let destination = matches!(kind, NatKind::Dnat | NatKind::Both);
        let source = matches!(kind, NatKind::Snat | NatKind::Both);
        match target {
            Target::Dnat(range) => destination && range.fits(to),
            Target::Snat(range) => source && range.fits(to),
            Target::Redirect { ports, .. } => {
                destination && ports.is_none_or(|p| to.is_none_or(|(_, port)| p.contains(port)))
            }
            Target::Masquerade { .. } => source,
            _ => false,
        }
    };
    let done = walk.effects.iter().filter(|e| matches!(e.done, Done::Nat(target) if fits(target)));
    let rules: Vec<_> = done.clone().map(|effect| effect.at).collect();
    let certain = done.clone().count() == 1 && done.clone().all(|effect| effect.certain);
    let mut out = conclude(node, at.hook, priorities, packet, &walk, rules, certain, &fits);
    out.by_conntrack = walk.nat_skipped;
    out
}

/// A rule that hides another one, which would give the same packet another destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hiding {
    /// The rule that would have to go: the one that translates, or the one that leads only there.
    pub rule: RuleRef,
    /// What comes after it, and where that sends the packet.
    pub hidden: RuleRef,
    pub to: String,
}

/// Whether `rule`, which translates the first `packet` of a connection at `hook`, stands before another one for it. None
/// where rules choose by chance.
pub fn hides(node: &dyn NodeFacts, hook: Hook, packet: &PacketView, rule: &RuleRef) -> Option<Hiding> {
    let walk = walk_hook(node, hook, i32::MIN..i32::MAX, packet);
    let does = |effect: &&Effect<'_>| effect.certain && matches!(effect.done, Done::Nat(Target::Dnat(_)));
    let first = walk.effects.iter().find(does).filter(|effect| effect.at.name().place() == rule.place())?;
    let rest = walk_hook_without(node, hook, packet, first.at.rule?);
    let second = rest.effects.iter().find(does)?;
    let (Done::Nat(Target::Dnat(one)), Done::Nat(Target::Dnat(other))) = (first.done, second.done) else {
        return None;
    };
    let by_jump = walk.led_to(&first.at).filter(|led| led.chain.base.is_none());
    (one != other).then(|| Hiding {
        rule: by_jump.unwrap_or(first.at).name(),
        hidden: second.at.name(),
        to: other.to_string(),
    })
}

/// Who dropped or rejected `packet`.
pub fn attribute_drop(node: &dyn NodeFacts, at: &Interval, packet: &PacketView) -> Attribution {
    let is_end = |verdict: &Verdict| matches!(verdict, Verdict::Drop | Verdict::Reject(_));
    let lone = |target: &Target| matches!(target, Target::Drop | Target::Reject { .. });
    attribute_end(node, at, packet, &is_end, &lone)
}

/// Who handed `packet` to a program.
pub fn attribute_queue(node: &dyn NodeFacts, at: &Interval, packet: &PacketView) -> Attribution {
    let is_end = |verdict: &Verdict| *verdict == Verdict::Queue;
    attribute_end(node, at, packet, &is_end, &|target| matches!(target, Target::Queue(_)))
}

/// A rule that sets or lowers the TTL of `packet` at one of these hooks.
pub fn lowers_ttl(node: &dyn NodeFacts, hooks: &[Hook], packet: &PacketView) -> Option<RuleRef> {
    let lowers = |target: &Target| {
        let words = [
            "TTL --ttl-set",
            "TTL --ttl-dec",
            "HL --hl-set",
            "HL --hl-dec",
            "ip ttl set",
            "ip6 hoplimit set",
        ];
        matches!(target, Target::Log(text) if words.iter().any(|start| text.starts_with(start)))
    };
    hooks.iter().find_map(|hook| {
        let walk = walk_hook(node, *hook, i32::MIN..i32::MAX, packet);
        let does = |at: &At<'_>| at.rule.is_some_and(|rule| rule.actions.iter().any(lowers));
        let steps = walk.trace.iter().filter(|step| step.matched == Matched::Yes && step.certain);
        steps.map(|step| step.at).find(does).map(|at| at.name())
    })
}

fn attribute_end(
    node: &dyn NodeFacts,
    at: &Interval,
    packet: &PacketView,
    is_end: &dyn Fn(&Verdict) -> bool,
    lone: &dyn Fn(&Target) -> bool,
) -> Attribution {
    let walk = walk_hook(node, at.hook, at.priorities(), packet);
    let mut rules = Vec::new();
    let ended = walk.verdict.as_ref().is_some_and(is_end);
    rules.extend(walk.possible.iter().filter(|(verdict, _)| is_end(verdict)).map(|(_, at)| *at));
    if ended {
        rules.extend(walk.decided_by);
    }
    let certain = ended && rules.iter().all(|at| rules.first().is_some_and(|first| first.is_same_rule(at)));
    let alone = rules.first().is_some_and(|first| rules.iter().all(|at| first.is_same_rule(at)));
    let led_by = rules.first().and_then(|at| walk.led_to(at)).map(|at| at.name());
    let found = conclude(node, at.hook, at.priorities(), packet, &walk, rules, certain, lone);
    Attribution { led_by, alone, ..found }
}

impl NatTo {
    fn fits(&self, to: Option<(IpAddr, u16)>) -> bool {
        let Some((address, port)) = to else { return true };
        self.addresses.is_none_or(|range| range.contains(address))
            && (port == 0 || self.ports.is_none_or(|range| range.contains(port)))
    }
}

#[expect(clippy::too_many_arguments, reason = "one place for what all three have in common")]
fn conclude<'e>(
    node: &'e dyn NodeFacts,
    hook: Hook,
    priorities: Range<i32>,
    packet: &PacketView,
    walk: &Walk<'_>,
    mut rules: Vec<At<'e>>,
    certain: bool,
    would: &dyn Fn(&Target) -> bool,
) -> Attribution {
    let found = !rules.is_empty();
    if !found {
        rules = on_their_own(node, hook, priorities.clone(), packet, would);
    }
    let near =
        if rules.is_empty() { near_misses_at(node, hook, priorities, packet, would) } else { Vec::new() };
    let mut names: Vec<RuleRef> = Vec::new();
    for at in rules {
        let name = at.name();
        // What a map becomes has one name.
        if !names.iter().any(|known| known.place() == name.place()) {
            names.push(name);
        }
    }
    Attribution {
        rules: names,
        certain: certain && found,
        alone: false,
        undecided: undecided(walk),
        near,
        led_by: None,
        by_conntrack: false,
    }
}

/// Rules whose own conditions hold, wherever they stand: for when the walk does not get to any.
fn on_their_own<'e>(
    node: &'e dyn NodeFacts,
    hook: Hook,
    priorities: Range<i32>,
    packet: &PacketView,
    would: &dyn Fn(&Target) -> bool,
) -> Vec<At<'e>> {
    const MAX: usize = 8;
    let mut out = Vec::new();
    for (table, chain) in reachable(node, hook, priorities, packet) {
        for rule in chain.rules.iter() {
            let does = rule.actions.iter().any(would);
            // A rule without conditions of its own says nothing by itself.
            let telling = rule.matches.iter().any(|m| m.holds(node, packet) == Truth::Yes);
            if does && telling && !matches!(rule.matched(node, packet), Matched::No(_)) {
                out.push(At { table, chain, rule: Some(rule) });
                if out.len() == MAX {
                    return out;
                }
            }
        }
    }
    out
}

fn undecided(walk: &Walk<'_>) -> Vec<(RuleRef, String)> {
    const MAX: usize = 16;
    let steps = walk.trace.iter().filter_map(|step| match step.matched {
        Matched::Unknown(m) => Some((step.at.name(), m.to_string())),
        _ => None,
    });
    steps.take(MAX).collect()
}
