// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the status line says of the API server, and what is said later when that changes.

use std::thread;
use std::time::{Duration, Instant};

use crate::cluster::{Kind, Known, Reach, State};
use crate::output::Missing;

/// How long the status line waits for first answers, which come while programs are loaded.
const WAIT: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(5);

/// What was said of each kind last.
#[derive(Debug, Default)]
pub(super) struct ApiWatch {
    said: Vec<(Kind, State)>,
    trouble: Option<String>,
}

impl ApiWatch {
    /// Waits for first answers, and not long.
    pub(super) fn first(reach: &Reach) -> Self {
        let Some(cluster) = reach.cluster() else { return Self::default() };
        let known = cluster.known();
        let end = Instant::now() + WAIT;
        while Instant::now() < end && known.trouble().is_none() && waits(known) {
            thread::sleep(PAUSE);
        }
        Self { said: known.states(), trouble: known.trouble() }
    }

    /// For the list of what is attached: "api: https://10.96.0.1:443".
    pub(super) fn attached(reach: &Reach) -> String {
        match reach {
            Reach::At(cluster) => format!("api: {}", cluster.known().server()),
            Reach::NotWanted => "api: not asked".into(),
            Reach::NotFound => "api: none".into(),
            Reach::Unusable(_) => "api: not usable".into(),
        }
    }

    /// What is lost because the server did not say.
    pub(super) fn missing(&self, reach: &Reach) -> Vec<Missing> {
        let all = "names of services, nodes and pods of other nodes, egress policies";
        let cluster = match reach {
            Reach::At(cluster) => cluster,
            Reach::Unusable(why) => {
                return vec![Missing { what: "api".into(), why: why.clone(), hides: all.into() }];
            }
            Reach::NotWanted | Reach::NotFound => return Vec::new(),
        };
        let what = format!("api {}", cluster.known().server());
        if let Some(why) = &self.trouble {
            return vec![Missing { what, why: why.clone(), hides: all.into() }];
        }
        grouped(&self.said)
            .into_iter()
            .map(|(why, kinds)| {
                // Ten names for one reason are not read.
                if kinds.len() >= self.said.len().saturating_sub(1) {
                    let why = why.unwrap_or("no answer yet").to_owned();
                    return Missing { what: what.clone(), why, hides: all.into() };
                }
                Missing {
                    what: what.clone(),
                    why: match why {
                        Some(why) => format!("{} ({why})", plurals(&kinds)),
                        None => format!("{}: no answer yet", plurals(&kinds)),
                    },
                    hides: kinds.iter().map(|kind| kind.gives).collect::<Vec<_>>().join(", "),
                }
            })
            .collect()
    }

    /// What changed since it was told last.
    pub(super) fn news(&mut self, reach: &Reach) -> Vec<String> {
        let Some(cluster) = reach.cluster() else { return Vec::new() };
        let known = cluster.known();
        let (states, trouble) = (known.states(), known.trouble());
        if (&states, &trouble) == (&self.said, &self.trouble) {
            return Vec::new();
        }
        let server = known.server();
        let mut news = Vec::new();
        if trouble != self.trouble
            && let Some(why) = &trouble
        {
            news.push(format!("api {server}: {why}"));
        }
        let was = |kind: &Kind| self.said.iter().find(|(k, _)| k == kind).map(|(_, state)| state);
        let failed: Vec<(Kind, State)> = states
            .iter()
            .filter(|(kind, state)| matches!(state, State::Failed(_)) && was(kind) != Some(state))
            .cloned()
            .collect();
        for (why, kinds) in grouped(&failed) {
            let known_before = kinds.iter().any(|kind| was(kind) == Some(&State::Known));
            let effect = if known_before { "may be outdated" } else { "are missing" };
            let gives: Vec<&str> = kinds.iter().map(|kind| kind.gives).collect();
            news.push(format!(
                "api {server}: {} ({}): {} {effect}",
                plurals(&kinds),
                why.unwrap_or_default(),
                gives.join(", ")
            ));
        }
        let back: Vec<Kind> = states
            .iter()
            .filter(|(kind, state)| *state == State::Known && matches!(was(kind), Some(State::Failed(_))))
            .map(|(kind, _)| *kind)
            .collect();
        if !back.is_empty() {
            news.push(format!("api {server}: answers again for {}", plurals(&back)));
        }
        (self.said, self.trouble) = (states, trouble);
        news
    }
}

/// A kind of which nothing has been heard. Pods are asked for when there is an address to ask for.
fn waits(known: &Known) -> bool {
    known.states().iter().any(|(kind, state)| *state == State::Asked && kind.plural != "pods")
}

/// Kinds that lack for one reason; `None`: no answer yet.
fn grouped(states: &[(Kind, State)]) -> Vec<(Option<&str>, Vec<Kind>)> {
    let mut out: Vec<(Option<&str>, Vec<Kind>)> = Vec::new();
    for (kind, state) in states {
        let why = match state {
            State::Failed(why) => Some(why.as_str()),
            State::Asked if kind.plural != "pods" => None,
            _ => continue,
        };
        match out.iter_mut().find(|(of, _)| *of == why) {
            Some((_, kinds)) => kinds.push(*kind),
            None => out.push((why, vec![*kind])),
        }
    }
    out
}

fn plurals(kinds: &[Kind]) -> String {
    kinds.iter().map(|kind| kind.plural).collect::<Vec<_>>().join(", ")
}
