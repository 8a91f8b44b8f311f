// SPDX-License-Identifier: MIT OR Apache-2.0
//! How many packets of each direction passed a hook, and how many were dropped in it.

use std::collections::{BTreeSet, HashMap};

use crate::flow::{DropSite, Ending, Journey, Place};
use crate::node::{Hook, NetnsId};

/// A hook of a namespace, for one direction, and whether for the outer packet.
type DropKey = (NetnsId, Hook, bool, bool);

#[derive(Debug, Default)]
pub(super) struct Odds {
    /// Packets that passed, and that were dropped.
    seen: HashMap<DropKey, (u64, u64)>,
    /// Packets that were counted: journeys come more than once.
    counted: BTreeSet<u64>,
}

const COUNTED: usize = 4096;

impl Odds {
    pub(super) fn observe(&mut self, journey: &Journey) {
        let open = matches!(journey.ending, Ending::Open);
        if open || journey.packet.icmp_error.is_some() || !self.counted.insert(journey.id) {
            return;
        }
        if self.counted.len() > COUNTED {
            self.counted.pop_first();
        }
        let key = |netns, hook, outer| (netns, hook, journey.reply, outer);
        let dropped = match &journey.ending {
            Ending::Dropped(site) => site.interval.map(|at| key(site.netns, at.hook, site.encap.is_some())),
            _ => None,
        };
        let mut passed: Vec<DropKey> = Vec::new();
        for hop in &journey.hops {
            if let Place::Hook { hook, .. } = hop.place {
                let key = key(hop.netns, hook, hop.encap.is_some());
                if dropped != Some(key) && !passed.contains(&key) {
                    passed.push(key);
                }
            }
        }
        for key in passed {
            self.seen.entry(key).or_default().0 += 1;
        }
        if let Some(key) = dropped {
            self.seen.entry(key).or_default().1 += 1;
        }
    }

    /// How many of the packets of that direction were dropped there, of how many; `None` while none passed.
    pub(super) fn of(&self, journey: &Journey, site: &DropSite, hook: Hook) -> Option<(u64, u64)> {
        let key = (site.netns, hook, journey.reply, site.encap.is_some());
        let (passed, dropped) = *self.seen.get(&key)?;
        (passed > 0).then_some((dropped, passed + dropped))
    }
}
