// SPDX-License-Identifier: MIT OR Apache-2.0
//! The place of a rule, or of a policy.

use super::names::RuleRef;
use super::rule::{Chain, Rule, Table};

/// A rule, or (`rule: None`) a chain's policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At<'e> {
    pub table: &'e Table,
    pub chain: &'e Chain,
    pub rule: Option<&'e Rule>,
}

impl<'e> At<'e> {
    /// They are one to whoever made it: what a map becomes is one rule.
    pub(super) fn is_same_rule(&self, other: &At<'_>) -> bool {
        std::ptr::eq(self.chain, other.chain) && self.rule.map(|r| r.number) == other.rule.map(|r| r.number)
    }

    pub(super) fn is(&self, other: &At<'_>) -> bool {
        let rule = |at: &At<'_>| at.rule.map(std::ptr::from_ref);
        std::ptr::eq(self.chain, other.chain) && rule(self) == rule(other)
    }

    pub fn name(&self) -> RuleRef {
        match self.rule {
            Some(rule) => self.table.rule_ref(self.chain, rule),
            None => self.table.policy_ref(self.chain),
        }
    }
}
