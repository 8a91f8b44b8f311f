// SPDX-License-Identifier: MIT OR Apache-2.0
//! From the ways that were walked to the report.

use super::report::{Path, Report, StageResult, Verdict};
use crate::cause::Certainty::Possible;
use crate::firewall::PacketView;
use crate::model::{
    End, Ending, Flight, Found, Mode, Place, Run, Stage, Way, first_tuple, policys_address, shown,
};

/// Puts everything together.
pub(super) fn conclude(report: &mut Report, ways: &[Way], packet: &PacketView) {
    let mut causes: Vec<(Found, usize)> = Vec::new();
    for way in ways {
        for found in &way.found {
            match causes.iter_mut().find(|(known, _)| known.finding == found.finding) {
                Some((_, count)) => *count += 1,
                None => causes.push((found.clone(), 1)),
            }
        }
    }
    for (found, count) in &mut causes {
        if *count < ways.len() {
            let finding = found.finding.clone();
            found.finding =
                finding.fact(format!("so for {count} of {} ways that rules choose by chance", ways.len()));
        }
    }
    // What is only possible does not come first.
    causes.sort_by_key(|(found, _)| {
        let finding = &found.finding;
        (finding.is_note(), finding.certainty == Possible, finding.kind().large_only, found.stage)
    });
    let Some(shown_way) = ways.iter().find(|way| !way.found.is_empty()).or_else(|| ways.first()) else {
        return;
    };
    report.packet = shown(&Flight::new(packet.clone(), Mode::First).packet);
    if packet.src.is_unspecified() {
        let mut whole = packet.clone();
        (whole.src, _) = first_tuple(&shown_way.request, packet).src;
        report.packet = shown(&whole);
    }
    let mut alternatives: Vec<String> = Vec::new();
    if ways.len() > 1 {
        for way in ways {
            let to = way.main().flight.inner().tuple().ends().dst.to_string();
            if !alternatives.contains(&to) {
                alternatives.push(to);
            }
        }
    }
    report.paths.push(path("request", &shown_way.request, packet, alternatives));
    for (what, run) in [
        ("request by the proxy", &shown_way.proxied),
        ("later packets", &shown_way.later),
        ("reply", &shown_way.reply),
    ] {
        if let Some(run) = run {
            report.paths.push(path(what, run, packet, Vec::new()));
        }
    }
    for way in ways {
        let runs = [Some(&way.request), way.proxied.as_ref(), way.later.as_ref(), way.reply.as_ref()];
        for text in runs.into_iter().flatten().flat_map(|run| &run.unknown) {
            if !report.unknown.contains(text) {
                report.unknown.push(text.clone());
            }
        }
    }
    beyond(report, shown_way);
    report.stages = stages(shown_way, &causes);
    report.causes = causes.into_iter().map(|(found, _)| found.finding).collect();
}

/// What is out of sight by its nature.
fn beyond(report: &mut Report, way: &Way) {
    let main = way.main();
    match &main.end {
        End::Left(host, device) if main.flight.inside.is_some() => {
            let to = main.flight.packet.dst;
            report.unknown.push(format!(
                "what the node {to} does with it: run check there too, or give its namespace with --node-netns (it left {} by {})",
                host.name(), host.device(*device)
            ));
        }
        End::Left(host, device) => {
            let source = main.flight.packet.src;
            let to = main.flight.packet.dst;
            report.unknown.push(format!(
                "whether {to} answers, and what is between {} of {} and it",
                host.device(*device),
                host.name()
            ));
            if way.reply.is_some() {
                report.unknown.push(format!(
                    "by which device the reply comes to {}: {} is assumed, by which the request left",
                    host.name(),
                    host.device(*device)
                ));
            }
            let first = first_tuple(main, &main.flight.packet).src.0;
            if !host.owns(source) && policys_address(&host.evidence, first, to).is_some() {
                let device = host.device(*device);
                report.unknown.push(format!(
                    "whether {source} is answered for on the network of {device}: it is on no device of {}, a program must do so",
                    host.name()
                ));
            }
        }
        End::Unknown(why) => report.unknown.push(why.clone()),
        _ => {}
    }
    if let Some(End::Unknown(why)) = way.reply.as_ref().map(|run| &run.end) {
        report.unknown.push(format!("the way back: {why}"));
    }
}

fn stages(way: &Way, causes: &[(Found, usize)]) -> Vec<StageResult> {
    let main = way.main();
    let wrong = || causes.iter().filter(|(found, _)| found.finding.certainty != Possible);
    let first_wrong = wrong().map(|(found, _)| found.stage).min();
    let stops = matches!(main.end, End::Stopped(_) | End::Unknown(_));
    let from_pod = main.steps.first().is_some_and(|s| !matches!(s.place, Place::Device { .. }));
    Stage::ALL
        .into_iter()
        .map(|stage| {
            let failed = wrong().any(|(found, _)| found.stage == stage);
            let verdict = if failed {
                Verdict::Failed
            } else {
                let after = first_wrong.is_some_and(|first| stage > first);
                match stage {
                    Stage::Sending if !from_pod => Verdict::NotNeeded,
                    Stage::Tunnel if !(main.tunnelled || after && stops) => Verdict::NotNeeded,
                    Stage::OtherNode if main.flight.inside.is_some() && !stops => Verdict::NotKnown,
                    Stage::OtherNode if !main.other_node && !main.tunnelled => Verdict::NotNeeded,
                    Stage::Arriving if matches!(main.end, End::Left(..)) && !after => Verdict::NotKnown,
                    Stage::Returning if way.reply.is_none() => {
                        if after || stops {
                            Verdict::NotReached
                        } else {
                            Verdict::NotKnown
                        }
                    }
                    Stage::Returning => match way.reply.as_ref().map(|run| &run.end) {
                        Some(End::Unknown(_)) => Verdict::NotKnown,
                        _ => Verdict::Passed,
                    },
                    _ if after || (stops && first_wrong.is_none()) => Verdict::NotReached,
                    _ => Verdict::Passed,
                }
            };
            StageResult { stage, verdict }
        })
        .collect()
}

fn path(what: &str, run: &Run, packet: &PacketView, alternatives: Vec<String>) -> Path {
    let ends = first_tuple(run, packet).ends();
    let ending = match run.end.told() {
        Ending::Left { netns, device } => Ending::Left { netns, device },
        other => other,
    };
    Path {
        packet: what.to_owned(),
        src: ends.src.to_string(),
        dst: ends.dst.to_string(),
        steps: run.steps.clone(),
        ending,
        alternatives,
    }
}
