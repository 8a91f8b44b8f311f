// SPDX-License-Identifier: MIT OR Apache-2.0
//! A recording through the explainer, as the run went.

use std::io::BufRead;
use std::sync::Arc;

use super::format::{End, KnownNames, Line};
use super::reader::{Reader, RecordError};
use crate::explain::{Explainer, HopAuthors, Tick, Told};
use crate::flow::{Journey, Names};
use crate::node::Topology;
use crate::snapshot::Evidence;

/// What a recording says.
#[derive(Clone, Debug, Default)]
pub struct Replayed {
    /// As at the end of the run.
    pub causes: Vec<Told>,
    /// Packets of which the recording tells.
    pub packets: u64,
    /// Packets of the run; `None`: it was cut short.
    pub packets_of_run: Option<u64>,
    pub events_lost: u64,
    /// Namespaces that were read, by name; safe to print.
    pub namespaces: Vec<String>,
}

/// A packet of the recording, whole, with what was found for it.
#[derive(Clone, Copy)]
pub struct Retold<'a> {
    pub journey: &'a Journey,
    pub topology: &'a Topology,
    pub names: &'a dyn Names,
    pub causes: &'a [Told],
    /// The rules behind marks and translations.
    pub authors: &'a [HopAuthors],
    pub evidence: Option<&'a Evidence>,
    /// It will not be told again.
    pub last: bool,
}

/// Finds the causes of a recording. `each` gets every line about a packet.
///
/// # Errors
/// With the line that is damaged.
pub fn replay<R: BufRead>(
    reader: &mut Reader<R>,
    each: &mut dyn FnMut(&Retold<'_>),
) -> Result<Replayed, RecordError> {
    let mut explainer = Explainer::default();
    let mut names = KnownNames {
        offset_ns: reader.begin().offset_ns,
        utc_offset_s: reader.begin().utc_offset_s,
        ..KnownNames::default()
    };
    let (mut topology, mut evidence) = (Topology::default(), None::<Evidence>);
    let mut policies = None;
    let mut out = Replayed::default();
    while let Some(line) = reader.next()? {
        match line {
            Line::Begin(_) => return Err(damaged(reader, "a recording begins in the middle of it")),
            Line::Names(more) => {
                if !names.extend(more) {
                    return Err(damaged(reader, "it has more names than a kernel"));
                }
            }
            Line::Topology(now) => topology = now,
            Line::Policies(now) => {
                let now = Arc::new(now);
                if let Some(evidence) = &mut evidence {
                    evidence.policies = Some(now.clone());
                }
                policies = Some(now);
            }
            Line::Evidence(mut now) => {
                now.policies.clone_from(&policies);
                for netns in now.netns.values() {
                    let name = crate::text::escape(&netns.name).into_owned();
                    if !out.namespaces.contains(&name) && out.namespaces.len() < MAX_NAMED {
                        out.namespaces.push(name);
                    }
                }
                evidence = Some(now);
            }
            Line::Journey(line) => {
                out.packets += u64::from(line.first);
                let causes = explainer.observe(&line.journey, &topology, &names, evidence.as_ref());
                let (journey, evidence) = (&line.journey, evidence.as_ref());
                let authors = explainer.authors(journey, 0, &topology, &names, evidence);
                each(&Retold {
                    journey,
                    topology: &topology,
                    names: &names,
                    causes: &causes,
                    authors: &authors,
                    evidence,
                    last: line.last,
                });
            }
            Line::Tick(tick) => {
                let now = Tick {
                    now_ns: tick.now_ns,
                    counters: &tick.counters,
                    destinations: &tick.destinations,
                    asked: &tick.asked,
                    answered: &tick.answered,
                    heard: &tick.heard,
                    lost: tick.lost,
                };
                explainer.tick(&now, &topology, &names, evidence.as_ref());
            }
            Line::End(End { packets, events_lost }) => {
                (out.packets_of_run, out.events_lost) = (Some(packets), events_lost);
                break;
            }
        }
    }
    out.causes = explainer.causes();
    Ok(out)
}

/// Namespaces that are named.
const MAX_NAMED: usize = 64;

fn damaged<R: BufRead>(reader: &Reader<R>, what: &str) -> RecordError {
    RecordError::Damaged { line: reader.line(), what: what.to_owned() }
}
