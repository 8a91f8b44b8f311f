// SPDX-License-Identifier: MIT OR Apache-2.0
//! One packet through the chains of a hook, as the kernel goes: jumps, returns, gotos, policies. Where a
//! condition cannot be known both ways are taken, and what follows is told as possible, not as certain.

use std::ops::Range;

use super::at::At;
use super::bases::{Aside, bases, bases_aside, has_proxy};
use super::effect::{Done, Effect};
use super::facts::NodeFacts;
use super::matching::Matched;
use super::packet::PacketView;
use super::rule::{Backend, Base, Chain, Policy, Rule, Table, Target};
use super::truth::Truth;
use crate::node::Hook;

/// Chains within chains; nftables allows 16.
const MAX_DEPTH: usize = 64;
/// Rules that are looked at in one walk.
const MAX_STEPS: usize = 500_000;

/// A rule that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step<'e> {
    pub at: At<'e>,
    pub matched: Matched<'e>,
    /// It is certain that the packet got here.
    pub certain: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Passed on to what is registered next.
    Accept,
    Drop,
    /// As `--reject-with` says; empty: the default.
    Reject(String),
    /// To a program in user space.
    Queue,
}

/// What a walk found.
#[derive(Clone, Debug, Default)]
pub struct Walk<'e> {
    /// `None`: not known; see `possible`.
    pub verdict: Option<Verdict>,
    /// Who said so.
    pub decided_by: Option<At<'e>>,
    /// Every rule that was looked at, in order.
    pub trace: Vec<Step<'e>>,
    /// What was done to the packet or its connection, in order.
    pub effects: Vec<Effect<'e>>,
    /// Verdicts of rules that may have matched.
    pub possible: Vec<(Verdict, At<'e>)>,
    /// Chains of type nat that the kernel does not ask for this packet: its connection is not new.
    pub nat_skipped: bool,
    /// A limit was reached.
    pub cut: bool,
    /// The packet afterwards, as far as it is known.
    pub mark: Option<u32>,
    /// Its connection's mark afterwards.
    pub ct_mark: Option<u32>,
}

/// Answers for a rule that matches by chance: it does, it does not, or (`None`) nobody knows.
pub type Chance<'c> = &'c dyn Fn(&Rule) -> Option<bool>;

/// Walks the chains of all tables called `table` at `hook`.
pub fn walk<'e>(node: &'e dyn NodeFacts, table: &str, hook: Hook, packet: &PacketView) -> Walk<'e> {
    let chains = bases(node, hook, i32::MIN..i32::MAX, packet);
    walk_chains(node, chains.into_iter().filter(|(t, ..)| t.name == table), packet, &|_| None)
}

/// Walks everything registered at `hook` with a priority in the range, in the kernel's order.
pub fn walk_hook<'e>(
    node: &'e dyn NodeFacts,
    hook: Hook,
    priorities: Range<i32>,
    packet: &PacketView,
) -> Walk<'e> {
    walk_chains(node, bases(node, hook, priorities, packet), packet, &|_| None)
}

/// [`walk_hook`] with what is to be assumed of rules that match by chance (`-m statistic`).
pub fn walk_hook_by_chance<'e>(
    node: &'e dyn NodeFacts,
    hook: Hook,
    priorities: Range<i32>,
    packet: &PacketView,
    chance: Chance<'_>,
) -> Walk<'e> {
    walk_chains(node, bases(node, hook, priorities, packet), packet, chance)
}

/// [`walk_hook`] as if one rule were not there.
pub(super) fn walk_hook_without<'e>(
    node: &'e dyn NodeFacts,
    hook: Hook,
    packet: &PacketView,
    rule: &Rule,
) -> Walk<'e> {
    walk_chains_without(node, bases(node, hook, i32::MIN..i32::MAX, packet), packet, &|_| None, Some(rule))
}

/// The chains that are not IP's. What conntrack says is not known there.
pub fn walk_aside<'e>(
    node: &'e dyn NodeFacts,
    which: Aside<'_>,
    hook: Hook,
    packet: &PacketView,
    chance: Chance<'_>,
) -> Walk<'e> {
    let packet = PacketView { ct_state: None, ct_direction: None, ..packet.clone() };
    walk_chains(node, bases_aside(node, which, hook), &packet, chance)
}

pub(super) fn walk_chains<'e>(
    node: &'e dyn NodeFacts,
    chains: impl IntoIterator<Item = (&'e Table, &'e Chain, &'e Base)>,
    packet: &PacketView,
    chance: Chance<'_>,
) -> Walk<'e> {
    walk_chains_without(node, chains, packet, chance, None)
}

fn walk_chains_without<'e>(
    node: &'e dyn NodeFacts,
    chains: impl IntoIterator<Item = (&'e Table, &'e Chain, &'e Base)>,
    packet: &PacketView,
    chance: Chance<'_>,
    without: Option<&Rule>,
) -> Walk<'e> {
    let mut walker = RuleWalker {
        without: without.map(std::ptr::from_ref),
        node,
        chance,
        packet: packet.clone(),
        gone: false,
        out: Walk { verdict: Some(Verdict::Accept), ..Walk::default() },
    };
    for (table, chain, base) in chains {
        if base.kind == "nat" && !packet.asks_nat() {
            walker.out.nat_skipped = true;
            continue;
        }
        // The first chain that translates is the last one that is asked.
        if base.kind == "nat" && walker.out.effects.iter().any(|e| e.certain && e.is_nat()) {
            continue;
        }
        if !walker.base(table, chain, base) {
            break;
        }
    }
    let mut out = walker.out;
    if out.cut {
        out.verdict = None;
    }
    out.mark = walker.packet.mark;
    out.ct_mark = walker.packet.ct_mark;
    out
}

/// How a chain ended.
enum ChainEnd<'e> {
    /// At its end, or by RETURN.
    Back,
    Verdict(Verdict, At<'e>),
}

struct RuleWalker<'e, 'c> {
    node: &'e dyn NodeFacts,
    chance: Chance<'c>,
    /// This one is not there.
    without: Option<*const Rule>,
    packet: PacketView,
    /// A rule that may have matched has, if so, ended the walk.
    gone: bool,
    out: Walk<'e>,
}

impl<'e> RuleWalker<'e, '_> {
    /// One base chain; false when the packet goes no further.
    fn base(&mut self, table: &'e Table, chain: &'e Chain, base: &Base) -> bool {
        let earlier = self.out.possible.len();
        let (verdict, by) = match self.chain(table, chain, 0, false) {
            ChainEnd::Verdict(verdict, at) => (verdict, at),
            ChainEnd::Back => {
                let verdict = match base.policy {
                    Policy::Accept => Verdict::Accept,
                    Policy::Drop => Verdict::Drop,
                };
                (verdict, At { table, chain, rule: None })
            }
        };
        let over = verdict != Verdict::Accept;
        if self.gone {
            self.out.possible.push((verdict, by));
        } else {
            self.out.decided_by = Some(by);
            self.out.verdict = Some(verdict);
            return !over;
        }
        // Whoever accepted it: what is registered next sees it.
        let said = self.out.possible.get(earlier..).unwrap_or_default();
        let last = said.last().map(|(verdict, _)| verdict.clone());
        if said.iter().all(|(verdict, _)| *verdict == Verdict::Accept) {
            self.gone = false;
            self.out.decided_by = Some(by);
        } else if said.iter().all(|(verdict, _)| Some(verdict) == last.as_ref()) {
            // Whichever it was: that is its end.
            self.out.decided_by = Some(by);
            self.out.verdict = last;
        } else {
            self.out.decided_by = None;
            self.out.verdict = None;
        }
        !over
    }

    /// `unsure`: it is not certain that the packet is sent here.
    fn chain(&mut self, table: &'e Table, chain: &'e Chain, depth: usize, unsure: bool) -> ChainEnd<'e> {
        // It may have returned from this chain before its end.
        let mut returned = false;
        for rule in chain.rules.iter() {
            if depth > MAX_DEPTH || self.out.trace.len() >= MAX_STEPS {
                self.out.cut = true;
                return ChainEnd::Back;
            }
            if self.without == Some(std::ptr::from_ref(rule)) {
                continue;
            }
            let at = At { table, chain, rule: Some(rule) };
            let matched = self.matched(rule);
            let unsure = unsure || returned;
            self.out.trace.push(Step { at, matched, certain: !unsure && !self.gone });
            let doubtful = match matched {
                Matched::No(_) => continue,
                Matched::Yes => false,
                Matched::Unknown(_) => true,
            };
            match self.act(at, rule, depth, unsure || doubtful) {
                None => {}
                Some(ChainEnd::Back) if doubtful => returned = true,
                Some(ChainEnd::Verdict(verdict, by)) if doubtful || returned => {
                    self.out.possible.push((verdict, by));
                    self.gone = true;
                    if !doubtful {
                        return ChainEnd::Back;
                    }
                }
                Some(flow) => return flow,
            }
        }
        ChainEnd::Back
    }

    fn matched(&self, rule: &'e Rule) -> Matched<'e> {
        let matched = rule.matched(self.node, &self.packet);
        match matched {
            Matched::Unknown(m) if m.is_chance() => match (self.chance)(rule) {
                // What else is unknown of it stays so.
                Some(true) => rule
                    .matches
                    .iter()
                    .find(|m| !m.is_chance() && m.holds(self.node, &self.packet) == Truth::Unknown)
                    .map_or(Matched::Yes, Matched::Unknown),
                Some(false) => Matched::No(m),
                None => matched,
            },
            _ => matched,
        }
    }

    /// `None`: on to the next rule.
    fn act(&mut self, at: At<'e>, rule: &'e Rule, depth: usize, unsure: bool) -> Option<ChainEnd<'e>> {
        let over = |verdict| Some(ChainEnd::Verdict(verdict, at));
        for target in &rule.actions {
            match target {
                Target::Accept => return over(Verdict::Accept),
                Target::Drop => return over(Verdict::Drop),
                Target::Reject { with } => return over(Verdict::Reject(with.clone())),
                Target::Queue(_) => return over(Verdict::Queue),
                Target::Return => return Some(ChainEnd::Back),
                Target::Jump(name) => match self.jump(at, name, depth, unsure) {
                    ChainEnd::Back => {}
                    flow => return Some(flow),
                },
                // Back from there is back from here.
                Target::Goto(name) => return Some(self.jump(at, name, depth, unsure)),
                Target::Dnat(_) | Target::Snat(_) | Target::Masquerade { .. } | Target::Redirect { .. } => {
                    self.effect(at, target, unsure);
                    return over(Verdict::Accept);
                }
                // Of iptables: without a socket that takes it, it drops (net/netfilter/xt_TPROXY.c).
                Target::Tproxy(text) if at.table.backend != Backend::Nft => {
                    self.effect(at, target, unsure);
                    if !has_proxy(self.node, text, &self.packet) {
                        self.out.possible.push((Verdict::Drop, at));
                        self.gone = true;
                    }
                    return over(Verdict::Accept);
                }
                Target::Tproxy(_) => self.effect(at, target, unsure),
                // It may end the walk or not.
                Target::Other(_) => {
                    self.effect(at, target, unsure);
                    self.out.possible.push((Verdict::Accept, at));
                    self.gone = true;
                }
                Target::Mark { .. } | Target::Connmark(_) | Target::Notrack | Target::TcpMss(_) => {
                    self.effect(at, target, unsure);
                }
                Target::Ct(_) | Target::Log(_) => {}
            }
        }
        None
    }

    fn jump(&mut self, at: At<'e>, name: &str, depth: usize, unsure: bool) -> ChainEnd<'e> {
        match self.node.chain(at.table, name) {
            Some(chain) => self.chain(at.table, chain, depth + 1, unsure),
            None => ChainEnd::Back,
        }
    }

    fn effect(&mut self, at: At<'e>, target: &'e Target, unsure: bool) {
        let certain = !unsure && !self.gone;
        if let Some(done) = Done::of(target, &mut self.packet, certain) {
            self.out.effects.push(Effect { at, done, certain });
        }
    }
}

impl<'e> Walk<'e> {
    /// The rule by which the packet came to the chain of this one; `None` in a base chain.
    pub fn led_to(&self, at: &At<'_>) -> Option<At<'e>> {
        if at.chain.base.is_some() {
            return None;
        }
        let until = self.trace.iter().rposition(|step| step.at.is(at)).unwrap_or(self.trace.len());
        let leads = |step: &&Step<'e>| {
            let to = step.at.rule.and_then(Rule::target);
            !matches!(step.matched, Matched::No(_))
                && std::ptr::eq(step.at.table, at.table)
                && matches!(to, Some(Target::Jump(name) | Target::Goto(name)) if *name == at.chain.name)
        };
        self.trace.get(..until)?.iter().rev().find(leads).map(|step| step.at)
    }
}
