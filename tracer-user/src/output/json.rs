// SPDX-License-Identifier: MIT OR Apache-2.0
//! For programs: one object per line, `schema/journey.schema.json`.

use std::io;

use serde::Serialize;

use super::format::{Explanation, Header, Output};
use super::json_model::{JsonJourney, SCHEMA};
use crate::explain::Told;
use crate::flow::{News, Notice, PlaceKey, Scene, Summary, Times};

/// JSON lines. Wants journeys whole: [`crate::flow::Options::whole`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Json;

#[derive(Serialize)]
struct Tagged<'a, T: Serialize> {
    schema: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(flatten)]
    value: &'a T,
}

fn object(out: &mut dyn io::Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value).map_err(io::Error::from)?;
    out.write_all(b"\n")
}

fn tagged(out: &mut dyn io::Write, kind: &'static str, value: &impl Serialize) -> io::Result<()> {
    object(out, &Tagged { schema: SCHEMA, kind, value })
}

/// One check (`schema/check.schema.json`).
pub fn write_check(out: &mut dyn io::Write, report: &crate::check::Report) -> io::Result<()> {
    object(out, &Tagged { schema: CHECK_SCHEMA, kind: "check", value: report })
}

/// What a recording says: the causes of the run, as in its summary.
pub fn write_causes(out: &mut dyn io::Write, replayed: &crate::record::Replayed) -> io::Result<()> {
    #[derive(Serialize)]
    struct Causes<'a> {
        causes: &'a [Told],
        packets: u64,
        /// The recording has its last line.
        complete: bool,
        events_lost: u64,
    }
    let causes = Causes {
        causes: &replayed.causes,
        packets: replayed.packets_of_run.unwrap_or(replayed.packets),
        complete: replayed.packets_of_run.is_some(),
        events_lost: replayed.events_lost,
    };
    tagged(out, "causes", &causes)
}

const CHECK_SCHEMA: &str = "egwtrace-check/1";

impl Output for Json {
    fn header(&mut self, out: &mut dyn io::Write, _: &Scene<'_>, header: &Header) -> io::Result<()> {
        tagged(out, "header", header)
    }

    fn journey(
        &mut self,
        out: &mut dyn io::Write,
        scene: &Scene<'_>,
        news: &News<'_>,
        explanation: Option<&Explanation>,
    ) -> io::Result<()> {
        object(out, &JsonJourney::new(scene, news.journey, explanation))
    }

    /// The same object again, with all that is known by now.
    fn continuation(
        &mut self,
        out: &mut dyn io::Write,
        scene: &Scene<'_>,
        news: &News<'_>,
        explanation: Option<&Explanation>,
    ) -> io::Result<()> {
        self.journey(out, scene, news, explanation)
    }

    fn notice(&mut self, out: &mut dyn io::Write, scene: &Scene<'_>, notice: &Notice) -> io::Result<()> {
        if let Notice::Stray { ts, netns, ends, what } = notice {
            #[derive(Serialize)]
            struct Stray<'a> {
                notice: &'static str,
                ts: u64,
                netns: std::borrow::Cow<'a, str>,
                src: String,
                dst: String,
                what: &'a crate::flow::NoteKind,
            }
            let (src, dst) = (ends.src.to_string(), ends.dst.to_string());
            let netns = scene.netns(*netns);
            return tagged(out, "notice", &Stray { notice: "stray", ts: *ts, netns, src, dst, what });
        }
        tagged(out, "notice", notice)
    }

    fn cause(&mut self, out: &mut dyn io::Write, _: &Scene<'_>, told: &Told) -> io::Result<()> {
        tagged(out, "cause", told)
    }

    fn summary(
        &mut self,
        out: &mut dyn io::Write,
        scene: &Scene<'_>,
        s: &Summary,
        causes: &[Told],
    ) -> io::Result<()> {
        let dropped = s.dropped.iter().map(|&(reason, count)| DropCount {
            reason: scene.drop_reason(reason).map(std::borrow::Cow::into_owned),
            count,
        });
        let edges = s.edges.iter().map(|edge| JsonEdge {
            from: place(scene, &edge.from),
            to: place(scene, &edge.to),
            times: &edge.times,
        });
        let summary = JsonSummary {
            causes,
            duration_ns: s.duration_ns,
            packets: s.packets,
            left: s.left,
            delivered: s.delivered,
            unwatched: s.unwatched,
            merged: s.merged,
            cut_up: s.cut_up,
            copies: s.copies,
            vanished: s.vanished,
            unclear: s.unclear,
            under_way: s.under_way,
            evicted: s.evicted,
            dropped: s.dropped_total(),
            dropped_by_reason: dropped.collect(),
            events: s.events,
            events_lost: s.events_lost,
            lost_by_cpu: s.lost_by_cpu.iter().map(|&(cpu, count)| CpuLoss { cpu, count }).collect(),
            healthy_frees: s.healthy_frees,
            flows_evicted: s.flows_evicted,
            conntracks_evicted: s.conntracks_evicted,
            hops_cut: s.hops_cut,
            edges: edges.collect(),
            round_trip: &s.round_trip,
            beyond: &s.beyond,
        };
        tagged(out, "summary", &summary)
    }
}

#[derive(Serialize)]
struct JsonSummary<'a> {
    causes: &'a [Told],
    duration_ns: u64,
    packets: u64,
    left: u64,
    delivered: u64,
    unwatched: u64,
    merged: u64,
    cut_up: u64,
    copies: u64,
    vanished: u64,
    unclear: u64,
    under_way: u64,
    evicted: u64,
    dropped: u64,
    dropped_by_reason: Vec<DropCount>,
    events: u64,
    events_lost: u64,
    lost_by_cpu: Vec<CpuLoss>,
    healthy_frees: u64,
    flows_evicted: u64,
    conntracks_evicted: u64,
    hops_cut: u64,
    edges: Vec<JsonEdge<'a>>,
    round_trip: &'a Times,
    beyond: &'a Times,
}

#[derive(Serialize)]
struct DropCount {
    reason: Option<String>,
    count: u64,
}

#[derive(Serialize)]
struct CpuLoss {
    cpu: u16,
    count: u64,
}

#[derive(Serialize)]
struct JsonEdge<'a> {
    from: Spot,
    to: Spot,
    #[serde(flatten)]
    times: &'a Times,
}

#[derive(Serialize)]
struct Spot {
    netns: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hook: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    direction: Option<&'static str>,
    encap: bool,
}

fn place(scene: &Scene<'_>, key: &PlaceKey) -> Spot {
    let device = key.hook.is_none();
    Spot {
        netns: scene.netns(key.netns).into_owned(),
        hook: key.hook.map(|hook| hook.name()),
        device: device.then(|| scene.device(key.netns, key.ifindex).into_owned()),
        direction: device.then_some(if key.egress { "out" } else { "in" }),
        encap: key.encap,
    }
}
