// SPDX-License-Identifier: MIT OR Apache-2.0
//! Temporary positions between the tables of one hook, and what they showed.

use serde::{Deserialize, Serialize};

use super::author::Deed;
use super::bounded_map::Generations;
use crate::node::{Family, Hook, Interval, NetnsId};

const SECOND: u64 = 1_000_000_000;
/// Without the wanted packet for this long, the positions are taken away again.
const GIVE_UP: u64 = 30 * SECOND;
/// And not asked for again for this long.
const PAUSE: u64 = 10 * SECOND;
/// And for this long when it was known whose doing a drop was.
const AFTER_DROP: u64 = SECOND / 4;
/// What was learned holds this long, or until the rulesets change.
const REMEMBER: u64 = 300 * SECOND;
const HOOKS: usize = 64;

/// One hook to look at closely.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Zoom {
    pub netns: NetnsId,
    pub family: Family,
    pub hook: Hook,
}

impl From<&Interval> for Zoom {
    fn from(at: &Interval) -> Self {
        Self { netns: at.netns, family: at.family, hook: at.hook }
    }
}

/// A change that looks the same whenever it happens: `from` and `to` of a mark; of a drop its place, reason and
/// flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ZoomChange {
    pub(crate) at: Zoom,
    pub(crate) deed: Deed,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

#[derive(Debug)]
pub(crate) struct Zooming {
    enabled: bool,
    learned: Generations<ZoomChange, (u64, i32, i32)>,
    hooks: Vec<ZoomWatch>,
    requests: Vec<(Zoom, bool)>,
}

#[derive(Debug)]
struct ZoomWatch {
    zoom: Zoom,
    state: ZoomState,
}

#[derive(Debug)]
enum ZoomState {
    /// Asked for at `since`; what it is to tell.
    Looking { since: u64, wanted: Vec<ZoomChange> },
    /// Taken away at `since` without result.
    Resting { since: u64 },
}

impl Zooming {
    pub(crate) fn new(enabled: bool) -> Self {
        Self { enabled, learned: Generations::new(256), hooks: Vec::new(), requests: Vec::new() }
    }

    /// The rulesets changed: what was learned may no longer hold.
    pub(crate) fn forget(&mut self) {
        self.learned.clear();
    }

    /// One author is known for this change: what an equal one showed within the last seconds.
    pub(crate) fn recall(&mut self, change: ZoomChange, at: &Interval, now: u64) -> Option<Interval> {
        let &mut (when, after, until) = self.learned.get_mut(change)?;
        let fits = after >= at.after && until <= at.until && now.saturating_sub(when) < REMEMBER;
        fits.then_some(Interval { after, until, learned: true, ..*at })
    }

    /// A change was seen in an interval with one author.
    pub(crate) fn learn(&mut self, change: ZoomChange, at: &Interval, now: u64) {
        self.learned.insert(change, (now, at.after, at.until));
        let Some(i) = self.hooks.iter().position(|w| w.zoom == change.at) else { return };
        if let ZoomState::Looking { wanted, .. } = &mut self.hooks[i].state {
            wanted.retain(|w| *w != change);
            if wanted.is_empty() {
                self.requests.push((change.at, false));
                if change.deed.is_drop() {
                    // Each flow that is dropped asks for itself; a flood of them must not ask all the time.
                    let since = now.saturating_sub(PAUSE - AFTER_DROP);
                    self.hooks[i].state = ZoomState::Resting { since };
                } else {
                    self.hooks.swap_remove(i);
                }
            }
        }
    }

    /// A change could have had several authors.
    pub(crate) fn want(&mut self, change: ZoomChange, now: u64) {
        if !self.enabled {
            return;
        }
        let room = self.hooks.len() < HOOKS;
        match self.hooks.iter_mut().find(|w| w.zoom == change.at) {
            Some(watch) => match &mut watch.state {
                ZoomState::Looking { wanted, .. } => {
                    if wanted.len() < 8 && !wanted.contains(&change) {
                        wanted.push(change);
                    }
                }
                ZoomState::Resting { since } if now.saturating_sub(*since) < PAUSE => {}
                ZoomState::Resting { .. } => {
                    watch.state = ZoomState::Looking { since: now, wanted: vec![change] };
                    self.requests.push((change.at, true));
                }
            },
            None if room => {
                let state = ZoomState::Looking { since: now, wanted: vec![change] };
                self.hooks.push(ZoomWatch { zoom: change.at, state });
                self.requests.push((change.at, true));
            }
            None => {}
        }
    }

    /// Hands out the requests: `true` zoom in, `false` go back.
    pub(crate) fn advance(&mut self, now: u64, mut request: impl FnMut(Zoom, bool)) {
        for (zoom, on) in self.requests.drain(..) {
            request(zoom, on);
        }
        self.hooks.retain_mut(|watch| match watch.state {
            ZoomState::Looking { since, .. } if now.saturating_sub(since) >= GIVE_UP => {
                request(watch.zoom, false);
                watch.state = ZoomState::Resting { since: now };
                true
            }
            ZoomState::Resting { since } => now.saturating_sub(since) < PAUSE,
            ZoomState::Looking { .. } => true,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Zoom = Zoom { netns: 1, family: Family::Ipv4, hook: Hook::Prerouting };
    const CHANGE: ZoomChange = ZoomChange { at: AT, deed: Deed::Mark, from: 0, to: 5 };

    fn interval(after: i32, until: i32) -> Interval {
        let Zoom { netns, family, hook } = AT;
        Interval { netns, family, hook, after, until, learned: false }
    }

    fn requests(zooming: &mut Zooming, now: u64) -> Vec<bool> {
        let mut out = Vec::new();
        zooming.advance(now, |_, on| out.push(on));
        out
    }

    #[test]
    fn zooms_once_and_goes_back_when_it_knows() {
        let mut z = Zooming::new(true);
        z.want(CHANGE, 0);
        z.want(CHANGE, 1);
        assert_eq!(requests(&mut z, 2), [true]);
        z.learn(CHANGE, &interval(-150, -149), 3);
        assert_eq!(requests(&mut z, 4), [false]);
        let known = z.recall(CHANGE, &interval(i32::MIN, i32::MAX), 5).expect("learned");
        assert_eq!((known.after, known.until, known.learned), (-150, -149, true));
        assert_eq!(z.recall(CHANGE, &interval(i32::MIN, i32::MAX), 10 + REMEMBER), None);
        z.forget();
        assert_eq!(z.recall(CHANGE, &interval(i32::MIN, i32::MAX), 6), None);
    }

    #[test]
    fn gives_up_and_rests() {
        let mut z = Zooming::new(true);
        z.want(CHANGE, 0);
        assert_eq!(requests(&mut z, 1), [true]);
        let given_up = GIVE_UP + SECOND;
        assert_eq!(requests(&mut z, given_up), [false]);
        z.want(CHANGE, given_up + SECOND);
        assert_eq!(requests(&mut z, given_up + SECOND), [false; 0]);
        assert_eq!(requests(&mut z, given_up + PAUSE + SECOND), [false; 0]);
        z.want(CHANGE, given_up + PAUSE + 2 * SECOND);
        assert_eq!(requests(&mut z, given_up + PAUSE + 3 * SECOND), [true]);
    }
}
