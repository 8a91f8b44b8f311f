// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rules that should perhaps have matched and did not, and why.

use std::ops::Range;

use rustc_hash::{FxHashMap, FxHashSet};
use serde::{Deserialize, Serialize};

use super::at::At;
use super::bases::bases;
use super::facts::NodeFacts;
use super::matching::Matched;
use super::names::RuleRef;
use super::packet::PacketView;
use super::rule::{Chain, ConnmarkOp, Criterion, Rule, Table, Target};
use super::walk::{Step, Walk, walk_hook};
use crate::node::Hook;

/// Told in one go.
const MAX: usize = 32;

/// A rule that was one step from acting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NearMiss {
    pub rule: RuleRef,
    /// What it would have done: "MARK 0x26b7b4e4".
    pub action: String,
    #[serde(flatten)]
    pub miss: Miss,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "miss", rename_all = "kebab-case")]
pub enum Miss {
    /// One condition does not hold. `why`, in words: what the packet has instead.
    Failed { condition: String, why: String },
    /// All conditions hold, but another rule ended the walk first.
    NotReached { by: RuleRef, verdict: String },
    /// All conditions hold, but the rule that leads to its chain failed on this.
    NotEntered { jump: RuleRef, condition: String, why: String },
}

/// Rules at `hook` in the tables called `table` that mark, translate, or accept by mark, and did not act on
/// the packet for one reason only.
pub fn near_misses(node: &dyn NodeFacts, hook: Hook, table: &str, packet: &PacketView) -> Vec<NearMiss> {
    let mut all = near_misses_at(node, hook, i32::MIN..i32::MAX, packet, &|_| false);
    all.retain(|miss| miss.rule.table == table);
    all
}

/// `also`: other actions that are of interest.
pub(super) fn near_misses_at(
    node: &dyn NodeFacts,
    hook: Hook,
    priorities: Range<i32>,
    packet: &PacketView,
    also: &dyn Fn(&Target) -> bool,
) -> Vec<NearMiss> {
    let walk = walk_hook(node, hook, priorities.clone(), packet);
    let seen: FxHashMap<*const Rule, &Step<'_>> =
        walk.trace.iter().filter_map(|step| Some((std::ptr::from_ref(step.at.rule?), step))).collect();
    let entries = Entries::of(&walk, node, packet);
    let mut out = Vec::new();
    for (table, chain) in reachable(node, hook, priorities, packet) {
        for rule in chain.rules.iter() {
            let Some(action) = rule.actions.iter().find(|t| is_telling(t, rule) || also(t)) else { continue };
            let at = At { table, chain, rule: Some(rule) };
            let miss = match seen.get(&std::ptr::from_ref(rule)).map(|step| step.matched) {
                Some(Matched::No(_)) => failed(rule, node, packet),
                Some(_) => None,
                None => not_reached(at, &walk, &entries, node, packet),
            };
            if let Some(miss) = miss {
                out.push(NearMiss { rule: at.name(), action: action.to_string(), miss });
                if out.len() == MAX {
                    return out;
                }
            }
        }
    }
    out
}

/// Rules before `ended` in its chain that would have let the packet go on, but for one condition that depends on the
/// node or on marks: its way back, its MAC, its mark, a set.
pub fn nearly_spared(node: &dyn NodeFacts, packet: &PacketView, ended: &RuleRef) -> Vec<NearMiss> {
    let is_its = |t: &&Table| (&t.name, t.backend, t.family) == (&ended.table, ended.backend, ended.family);
    let Some((table, chain)) =
        node.rulesets().iter().find(is_its).and_then(|table| Some((table, table.chain(&ended.chain)?)))
    else {
        return Vec::new();
    };
    let before = |rule: &&Rule| ended.number == 0 || rule.number < ended.number;
    let mut out = Vec::new();
    for rule in chain.rules.iter().filter(before) {
        let Some(action @ (Target::Accept | Target::Return)) = rule.target() else { continue };
        let mut failures = rule.failures(node, packet);
        if let (Some(failure), None) = (failures.next(), failures.next())
            && failure.depends_on_node()
        {
            let (condition, why) = (failure.to_string(), failure.why_not(node, packet));
            let rule = At { table, chain, rule: Some(rule) }.name();
            out.push(NearMiss { rule, action: action.to_string(), miss: Miss::Failed { condition, why } });
        }
    }
    out
}

/// An action an operator asks about.
fn is_telling(target: &Target, rule: &Rule) -> bool {
    match target {
        Target::Mark { .. }
        | Target::Connmark(ConnmarkOp::Restore { .. })
        | Target::Dnat(_)
        | Target::Snat(_)
        | Target::Masquerade { .. }
        | Target::Redirect { .. }
        | Target::Notrack => true,
        Target::Accept | Target::Return => {
            rule.matches.iter().any(|m| matches!(m.what, Criterion::Mark { .. }))
        }
        _ => false,
    }
}

/// It failed on one condition, and on no other.
fn failed(rule: &Rule, node: &dyn NodeFacts, packet: &PacketView) -> Option<Miss> {
    let mut failures = rule.failures(node, packet);
    let (first, second) = (failures.next()?, failures.next());
    second.is_none().then(|| Miss::Failed { condition: first.to_string(), why: first.why_not(node, packet) })
}

fn not_reached(
    at: At<'_>,
    walk: &Walk<'_>,
    entries: &Entries<'_>,
    node: &dyn NodeFacts,
    packet: &PacketView,
) -> Option<Miss> {
    let rule = at.rule?;
    if rule.failures(node, packet).next().is_some() {
        return None;
    }
    let table = std::ptr::from_ref(at.table);
    if let Some(jump) = entries.failed.get(&(table, at.chain.name.as_str())) {
        let failure = jump.rule?.failures(node, packet).next()?;
        return Some(Miss::NotEntered {
            jump: jump.name(),
            condition: failure.to_string(),
            why: failure.why_not(node, packet),
        });
    }
    // The rule that ended the walk stands before this one, in this table.
    let by = walk.decided_by.filter(|by| std::ptr::eq(by.table, at.table) && by.rule.is_some())?;
    let reached = entries.walked.contains(&(table, at.chain.name.as_str()));
    let leads = entries.unreached_jumps.contains(&(table, at.chain.name.as_str()));
    (reached || leads || at.chain.base.is_some()).then(|| Miss::NotReached {
        by: by.name(),
        verdict: by.rule.and_then(Rule::target).map(ToString::to_string).unwrap_or_default(),
    })
}

type ChainKey<'e> = (*const Table, &'e str);

/// How chains were, or were not, entered.
struct Entries<'e> {
    /// Chains of which rules were looked at.
    walked: FxHashSet<ChainKey<'e>>,
    /// Chains whose one jump that was looked at failed on one condition.
    failed: FxHashMap<ChainKey<'e>, At<'e>>,
    /// Chains led to by rules that would match but were not reached.
    unreached_jumps: FxHashSet<ChainKey<'e>>,
}

impl<'e> Entries<'e> {
    fn of(walk: &Walk<'e>, node: &dyn NodeFacts, packet: &PacketView) -> Self {
        let mut out = Self {
            walked: FxHashSet::default(),
            failed: FxHashMap::default(),
            unreached_jumps: FxHashSet::default(),
        };
        let mut last_of: FxHashMap<ChainKey<'e>, At<'e>> = FxHashMap::default();
        for step in &walk.trace {
            let table = std::ptr::from_ref(step.at.table);
            let key = (table, step.at.chain.name.as_str());
            out.walked.insert(key);
            last_of.insert(key, step.at);
            let Some(rule) = step.at.rule else { continue };
            if let (Matched::No(_), Some(Target::Jump(to) | Target::Goto(to))) = (step.matched, rule.target())
                && rule.failures(node, packet).nth(1).is_none()
            {
                out.failed.entry((table, to.as_str())).or_insert(step.at);
            }
        }
        // What stands behind the rule that ended it.
        for (_, at) in last_of {
            let behind = at.rule.map_or(0, |rule| rule.number as usize);
            for rule in at.chain.rules.get(behind..).unwrap_or_default() {
                if let Some(Target::Jump(to) | Target::Goto(to)) = rule.target()
                    && !matches!(rule.matched(node, packet), Matched::No(_))
                {
                    out.unreached_jumps.insert((std::ptr::from_ref(at.table), to.as_str()));
                }
            }
        }
        out.failed.retain(|key, _| !out.walked.contains(key));
        out
    }
}

/// The chains that can be reached from a hook, each once.
pub(super) fn reachable<'e>(
    node: &'e dyn NodeFacts,
    hook: Hook,
    priorities: Range<i32>,
    packet: &PacketView,
) -> Vec<(&'e Table, &'e Chain)> {
    let mut index: FxHashMap<*const Table, FxHashMap<&str, &'e Chain>> = FxHashMap::default();
    let mut seen: FxHashSet<*const Chain> = FxHashSet::default();
    let mut out = Vec::new();
    for (table, chain, base) in bases(node, hook, priorities, packet) {
        if base.kind == "nat" && !packet.asks_nat() {
            continue;
        }
        let mut todo = vec![chain];
        while let Some(chain) = todo.pop() {
            if !seen.insert(std::ptr::from_ref(chain)) {
                continue;
            }
            out.push((table, chain));
            let chains = index
                .entry(std::ptr::from_ref(table))
                .or_insert_with(|| table.chains.iter().map(|c| (c.name.as_str(), c)).collect());
            let targets = chain.rules.iter().rev().flat_map(|rule| rule.actions.iter());
            todo.extend(targets.filter_map(|target| match target {
                Target::Jump(to) | Target::Goto(to) => chains.get(to.as_str()).copied(),
                _ => None,
            }));
        }
    }
    out
}
