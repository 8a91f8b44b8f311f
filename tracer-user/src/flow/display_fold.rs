// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which hops get a line of their own on screen. The data keeps all of them.

use super::model::{Hop, Place};

/// Whether hop `at` is left out of the short view.
///
/// * of the positions of one hook, those that saw a change are shown; if none did, the last one;
/// * of the routing lookups of one decision, the one that decided: the first that found something (what the
///   kernel looks up after it is about something else, such as where to send an ICMP error), else the last;
/// * lookups of the way back (source validation) are left out, unless `keep_reverse`.
pub fn is_folded(hops: &[Hop], at: usize, keep_reverse: bool) -> bool {
    let Some(hop) = hops.get(at) else { return false };
    match hop.place {
        Place::Device { .. } => false,
        Place::Hook { .. } => {
            if hop.changed() {
                return false;
            }
            let same = |h: &&Hop| !matches!(h.place, Place::Route { .. });
            let next = hops[at + 1..].iter().find(same);
            if next.is_some_and(|n| n.same_run(hop)) {
                return true;
            }
            // The last of its run: folded when an earlier one already shows the hook.
            hops[..at].iter().rev().filter(same).take_while(|h| h.same_run(hop)).any(Hop::changed)
        }
        Place::Route { reverse: true, .. } => !keep_reverse,
        Place::Route { error, .. } => {
            let lookup = |h: &&Hop| matches!(h.place, Place::Route { .. });
            let on = |h: &Hop| matches!(h.place, Place::Route { reverse: false, .. });
            let found = |h: &Hop| matches!(h.place, Place::Route { reverse: false, error: 0, .. });
            let decided = hops[..at].iter().rev().take_while(lookup).any(found);
            decided || error < 0 && hops[at + 1..].iter().take_while(lookup).any(on)
        }
    }
}
