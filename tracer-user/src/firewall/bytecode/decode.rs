// SPDX-License-Identifier: MIT OR Apache-2.0
//! A rule's expressions, one after the other. A lookup in a map makes one rule of each of its elements, as they exclude
//! each other; a condition after an action makes two: what was done before it is done in any case.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use super::comparison;
use super::expression::Expression;
use super::field::{Context, Field};
use super::register::{Registers, Source, Value};
use super::ruleset::Outside;
use super::sets::{Data, Element, Set};
use super::words;
use crate::firewall::rule::{Counters, Criterion, Match, Side, Target};
use crate::firewall::set::IpSet;
use crate::node::Family;
use crate::text::printable;

/// Rules that one becomes by its maps.
const MAX_VARIANTS: usize = 262_144;

/// What all rules of a table share.
pub(super) struct Table<'t> {
    /// `FAMILY TABLE `, with which names of sets begin.
    pub(super) prefix: &'t str,
    pub(super) family: Option<Family>,
    pub(super) sets: &'t FxHashMap<String, Set>,
    pub(super) outside: &'t Outside<'t>,
    /// Its rules were made by iptables.
    pub(super) iptables: bool,
}

/// A rule as far as it was read.
#[derive(Clone, Debug, Default)]
pub(super) struct Draft {
    pub(super) registers: Registers,
    pub(super) context: Context,
    pub(super) matches: Vec<Match>,
    pub(super) actions: Vec<Target>,
    pub(super) comments: Vec<String>,
    pub(super) counters: Option<Counters>,
    /// Named maps that were followed.
    pub(super) maps: Vec<String>,
    /// An extension of iptables whose data was not understood.
    pub(super) opaque: bool,
}

/// The rules that one rule of the kernel is, in order; and sets within it that others look into by name.
pub(super) fn rules(expressions: &[u8], table: &Table<'_>, sets: &mut BTreeMap<String, IpSet>) -> Vec<Draft> {
    let context = Context { family: table.family, transport: None };
    let draft = Draft { context, ..Draft::default() };
    let expressions: Vec<_> = Expression::all(expressions).collect();
    let mut reader = StatementReader { table, sets, out: Vec::new() };
    reader.run(&expressions, draft);
    reader.out
}

struct StatementReader<'r, 't> {
    table: &'r Table<'t>,
    sets: &'r mut BTreeMap<String, IpSet>,
    out: Vec<Draft>,
}

impl StatementReader<'_, '_> {
    fn run(&mut self, mut expressions: &[Expression<'_>], mut draft: Draft) {
        while let Some((expression, rest)) = expressions.split_first() {
            expressions = rest;
            let before = draft.matches.len();
            match expression {
                Expression::Lookup { set, registers, into: Some(into), negated: false } => {
                    return self.map(set, *registers, *into, rest, draft);
                }
                Expression::Lookup { set, registers, negated, .. } => {
                    let found = self.lookup(set, *registers, *negated, &draft);
                    draft.matches.push(found);
                }
                other => draft.take(other, self.table),
            }
            // What was done before this condition is done whether it holds or not.
            if draft.matches.len() > before && draft.actions.iter().any(changes) {
                let mut done = draft.clone();
                done.matches.truncate(before);
                draft.actions.clear();
                forget_changed(&mut draft.matches[..before], &done.actions);
                self.out.push(done);
            }
        }
        self.out.push(draft);
    }

    /// One rule for each element; the one for any key comes last.
    fn map(&mut self, set: &str, from: u32, into: u32, rest: &[Expression<'_>], draft: Draft) {
        let Some(map) = self.table.sets.get(set).filter(|map| map.is_map()) else {
            let mut draft = draft;
            draft.matches.push(unknown(format!("in map {}", printable(set))));
            draft.registers.store(Some(into), Value::new(Source::Other("what it gives".into()), 4));
            return self.run(rest, draft);
        };
        let length =
            map.elements.iter().find_map(|element| element.key.as_ref()).map(|(first, _)| first.len());
        let key: Vec<Value> = draft.registers.load(Some(from), length).into_iter().cloned().collect();
        let key: Vec<&Value> = key.iter().collect();
        let everything = takes_everything(&key, map);
        let (keyed, any) = map.elements.iter().partition::<Vec<_>, _>(|element| element.key.is_some());
        let count = keyed.len();
        for (at, element) in keyed.into_iter().chain(any).enumerate() {
            if self.out.len() >= MAX_VARIANTS {
                return;
            }
            let mut variant = draft.clone();
            if let Some(range) = &element.key {
                let last = everything && at + 1 == count;
                if !last {
                    let conditions = self.key_is(&key, range, variant.context);
                    variant.matches.extend(conditions);
                }
            }
            if let Some(words) = &element.by_chance {
                variant.matches.push(chance(words.clone()));
            }
            variant.comments.extend(element.comment.clone());
            if !map.is_anonymous() {
                variant.maps.push(map.name.clone());
            }
            variant.give(element, into);
            self.run(rest, variant);
        }
    }

    /// The conditions that a key's fields have these values.
    fn key_is(&self, key: &[&Value], (first, last): &(Vec<u8>, Vec<u8>), context: Context) -> Vec<Match> {
        let mut out = Vec::new();
        let mut at = 0;
        for value in key {
            let part = |bytes: &[u8]| bytes.get(at..at + value.length).map(<[u8]>::to_vec);
            let range = part(first).zip(part(last));
            at += value.length.next_multiple_of(4);
            let Some(range) = range else {
                return vec![unknown(format!("{} in a map", words::values(key)))];
            };
            // Any value at all, as nft writes `0.0.0.0/0` in a key.
            if range.0.iter().all(|b| *b == 0) && range.1.iter().all(|b| *b == 0xff) && !range.1.is_empty() {
                continue;
            }
            let says = || format!("{} {}", words::value(value), words::hex(&range.0));
            if let Source::Chance { words, .. } = &value.source {
                let which = comparison::number(&range.0, true)
                    .map_or_else(|| words::hex(&range.0), |n| n.to_string());
                out.push(chance(format!("{words} is {which}")));
                continue;
            }
            let what = match Field::of(value, context).as_slice() {
                [(field, _)] if value.mask().is_none() && !value.is_xored() => {
                    comparison::any_of(field, std::slice::from_ref(&range), value.swapped, self.table.outside)
                }
                [(Field::Mark, _)] if range.0 == range.1 => masked_mark(value, &range.0, false),
                [(Field::Connmark, _)] if range.0 == range.1 => masked_mark(value, &range.0, true),
                _ => None,
            };
            out.push(what.map_or_else(|| unknown(says()), |what| Match { negated: false, what }));
        }
        out
    }

    /// Is the key in a set? Small sets within a rule become lists of values.
    fn lookup(&mut self, name: &str, from: u32, negated: bool, draft: &Draft) -> Match {
        let is = |what| Match { negated: negated && !matches!(what, Criterion::Other(_)), what };
        let Some(set) = self.table.sets.get(name) else {
            return unknown(format!("in set {}", printable(name)));
        };
        let length =
            set.elements.iter().find_map(|element| element.key.as_ref()).map(|(first, _)| first.len());
        let key = draft.registers.load(Some(from), length);
        let says = || {
            unknown(format!(
                "{} {}in set {}",
                words::values(&key),
                if negated { "not " } else { "" },
                set.name
            ))
        };
        if key.iter().any(|value| value.mask().is_some() || value.is_xored()) {
            return says();
        }
        let fields: Vec<_> =
            key.iter().flat_map(|value| Field::of(value, draft.context)).map(|(f, _)| f).collect();
        if let (true, [field], [value]) = (set.is_anonymous(), fields.as_slice(), key.as_slice()) {
            let ranges: Vec<_> = set.elements.iter().filter_map(|element| element.key.clone()).collect();
            let plain = set.elements.iter().all(|e| e.by_chance.is_none() && e.key.is_some());
            if plain && let Some(what) = comparison::any_of(field, &ranges, value.swapped, self.table.outside)
            {
                return is(what);
            }
        }
        let Some(sides) = fields.iter().map(side).collect::<Option<Vec<_>>>().filter(|all| !all.is_empty())
        else {
            return says();
        };
        let name = format!("{}{}", self.table.prefix, set.name);
        if set.is_anonymous() {
            self.sets.insert(name.clone(), set.to_ipset(name.clone()));
        }
        is(Criterion::Set { name, fields: sides })
    }
}

impl Draft {
    /// What a map's element gives.
    fn give(&mut self, element: &Element, into: u32) {
        match &element.data {
            Some(Data::Verdict(code, chain)) => {
                let target = super::action::verdict(*code, chain.as_deref());
                self.actions.extend(target);
            }
            Some(Data::Value(bytes)) => self.registers.store(Some(into), Value::constant(bytes)),
            None => self.registers.store(Some(into), Value::new(Source::Other("of the map".into()), 4)),
        }
    }
}

/// The keys of the map are all that a choice by chance can give.
fn takes_everything(key: &[&Value], map: &Set) -> bool {
    let [Value { source: Source::Chance { modulus, offset, .. }, .. }] = key else { return false };
    let mut given: Vec<u32> = map
        .elements
        .iter()
        .filter_map(|element| element.key.as_ref())
        .filter(|(first, last)| first == last)
        .filter_map(|(first, _)| comparison::number(first, true))
        .filter(|n| (*offset..offset.saturating_add(*modulus)).contains(n))
        .collect();
    given.sort_unstable();
    given.dedup();
    *modulus > 0 && given.len() == *modulus as usize
}

/// Which side of the packet a member of a set is compared with.
fn side(field: &Field) -> Option<Side> {
    match field {
        Field::Address(side, _) | Field::Port(side) | Field::DeviceName(side) => Some(*side),
        Field::Protocol | Field::Mark | Field::SourceMac => Some(Side::Source),
        _ => None,
    }
}

fn masked_mark(value: &Value, bytes: &[u8], of_connection: bool) -> Option<Criterion> {
    let mask = comparison::number(value.mask()?, true)?;
    let value = comparison::number(bytes, true)?;
    Some(if of_connection { Criterion::Connmark { value, mask } } else { Criterion::Mark { value, mask } })
}

/// Later conditions may ask for what it changes, or the packet is different afterwards.
fn changes(target: &Target) -> bool {
    matches!(
        target,
        Target::Mark { .. } | Target::Connmark(_) | Target::Notrack | Target::TcpMss(_) | Target::Other(_)
    )
}

/// Conditions on a mark that held before it was changed are not to be asked again.
fn forget_changed(matches: &mut [Match], done: &[Target]) {
    let (mark, connmark) = (
        done.iter().any(|t| matches!(t, Target::Mark { .. } | Target::Connmark(_))),
        done.iter().any(|t| matches!(t, Target::Connmark(_))),
    );
    for m in matches {
        let asks = match m.what {
            Criterion::Mark { .. } => mark,
            Criterion::Connmark { .. } => connmark,
            _ => false,
        };
        if asks {
            *m = unknown(format!("{m} (before this rule changed it)"));
        }
    }
}

pub(super) fn unknown(words: String) -> Match {
    Match { negated: false, what: Criterion::Other(words) }
}

pub(super) fn chance(words: String) -> Match {
    Match { negated: false, what: Criterion::Statistic(words) }
}
