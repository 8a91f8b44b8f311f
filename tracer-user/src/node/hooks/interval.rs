// SPDX-License-Identifier: MIT OR Apache-2.0
//! A part of a netfilter hook.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::node::{Family, Hook, NetnsId};

/// Priorities of one netfilter hook: `after <= p < until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interval {
    pub netns: NetnsId,
    pub family: Family,
    pub hook: Hook,
    pub after: i32,
    pub until: i32,
    /// Narrowed by what an equal, earlier packet showed, not by this one.
    pub learned: bool,
}

impl Interval {
    /// Priorities of the hook, the last one left out.
    pub fn priorities(&self) -> Range<i32> {
        self.after..self.until
    }
}
