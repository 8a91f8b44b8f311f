// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who did something to a packet: what was registered between two sightings, and the rules that fit.

use serde::Serialize;

use crate::firewall::{Attribution, RuleRef};
use crate::flow::{Deed, Scene};
use crate::node::Interval;

/// What can have done it: one table when it is known.
#[derive(Serialize)]
pub(crate) struct JsonInterval<'a> {
    hook: &'static str,
    tables: Vec<String>,
    after_priority: i32,
    before_priority: i32,
    learned: bool,
    /// One of these did it; empty where no rule could be named.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    rules: &'a [RuleRef],
    /// The walk through all rules comes to the same end, and every condition on the way is understood.
    #[serde(skip_serializing_if = "Option::is_none")]
    rules_certain: Option<bool>,
    /// Conditions on the way that are not understood.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    undecided: Vec<JsonUndecided<'a>>,
}

#[derive(Serialize)]
struct JsonUndecided<'a> {
    rule: &'a RuleRef,
    condition: &'a str,
}

pub(crate) fn interval<'a>(
    scene: &Scene<'_>,
    at: &Interval,
    deed: Deed,
    found: Option<&'a Attribution>,
) -> JsonInterval<'a> {
    let undecided = found.filter(|found| !found.certain).map_or(&[][..], |found| &found.undecided);
    JsonInterval {
        hook: at.hook.name(),
        tables: scene.tables(at, deed),
        after_priority: at.after,
        before_priority: at.until,
        learned: at.learned,
        rules: found.map_or(&[], |found| &found.rules),
        rules_certain: found.map(|found| found.certain),
        undecided: undecided.iter().map(|(rule, condition)| JsonUndecided { rule, condition }).collect(),
    }
}
