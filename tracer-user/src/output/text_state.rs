// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the text format remembers from line to line, and its layout.

use rustc_hash::FxHashSet;

use super::line::Line;
use super::time::TimeFormat;
use crate::flow::{ConntrackEntry, Scene};

/// Fewest columns that are laid out for.
const NARROW: usize = 60;
const TOLD: usize = 1024;

#[derive(Clone, Copy, Debug)]
pub struct TextOptions {
    pub color: bool,
    /// Columns of the screen.
    pub width: usize,
    pub time: TimeFormat,
    /// 1: every position, lookup and healthy free; 2: TTL, length and mark of every hop too.
    pub verbose: u8,
}

impl Default for TextOptions {
    fn default() -> Self {
        Self { color: false, width: 110, time: TimeFormat::Wall, verbose: 0 }
    }
}

/// The text format.
#[derive(Debug)]
pub struct Text {
    pub(crate) options: TextOptions,
    /// Start of the first journey, ns.
    pub(super) first: Option<u64>,
    /// Conntrack entries that were shown: once is enough.
    pub(super) told: FxHashSet<(u64, ConntrackTuples)>,
    /// Something was written: a blank line comes next, except between notices.
    pub(super) before: Before,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    Nothing,
    Notice,
    Block,
}

type ConntrackTuples = (crate::flow::Ends, crate::flow::Ends);

/// Widths of the columns, wide enough for every name in the topology.
#[derive(Debug)]
pub(crate) struct Columns {
    pub(crate) netns: usize,
    pub(crate) place: usize,
    pub(crate) kind: usize,
    /// Column at which the details start.
    pub(crate) details: usize,
}

impl Columns {
    pub(super) fn of(scene: &Scene<'_>) -> Self {
        let mut netns = 4;
        let mut place = "POSTROUTING".len();
        for ns in scene.topology.namespaces.values() {
            netns = netns.max(ns.name.chars().count());
            for device in ns.devices.values().filter(|d| d.watched.is_some()) {
                place = place.max(device.name.chars().count());
            }
        }
        let (netns, place, kind) = (netns.min(24), place.min(18), 6);
        Self { netns, place, kind, details: 18 + netns + 2 + place + 2 + kind + 2 }
    }
}

impl Text {
    pub fn new(options: TextOptions) -> Self {
        let options = TextOptions { width: options.width.max(NARROW), ..options };
        Self { options, first: None, told: FxHashSet::default(), before: Before::Nothing }
    }

    pub(crate) fn line(&self, hang: usize) -> Line {
        Line::new(self.options.color, self.options.width, hang)
    }

    pub(crate) fn first_time(&mut self, entry: &ConntrackEntry) -> bool {
        if self.told.len() >= TOLD {
            self.told.clear();
        }
        self.told.insert((entry.id, (entry.original, entry.reply)))
    }
}
