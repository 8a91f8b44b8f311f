// SPDX-License-Identifier: MIT OR Apache-2.0
//! One check: the model's prediction, put into a report.

use super::conclude::conclude;
use super::report::Report;
use crate::cause::Certainty::Possible;
use crate::cluster::egress::lines;
use crate::model::{Question, World, first_view, predict, search, shown};
use crate::node::IpPrefix;

/// Walks the path that the packet would take.
pub fn check(world: &mut dyn World, question: &Question) -> Report {
    let mut report = Report {
        packet: String::new(),
        assumed: question.assumed.clone(),
        policies: Vec::new(),
        paths: Vec::new(),
        stages: Vec::new(),
        causes: Vec::new(),
        unknown: Vec::new(),
    };
    let prediction = match predict(world, question) {
        Ok(prediction) => prediction,
        Err(why) => {
            report.packet = shown(&first_view(question));
            report.unknown.push(why);
            return report;
        }
    };
    let packet = &prediction.packet;
    report.assumed.extend(prediction.assumed.iter().cloned());
    if let Some(objects) = world.policies() {
        let pods: Vec<_> = objects
            .pods
            .iter()
            .filter(|pod| packet.src.is_unspecified() || pod.addresses.contains(&packet.src))
            .cloned()
            .collect();
        report.policies = lines(&objects, &pods, &[IpPrefix::host(packet.dst)]);
    }
    for host in world.watched() {
        for text in &host.evidence.unreadable {
            report.unknown.push(format!("{}: {}", host.name(), crate::text::escape(text)));
        }
    }
    if prediction.cut {
        report.unknown.push("there are more ways than were tried: rules choose one by chance".to_owned());
    }
    conclude(&mut report, &prediction.ways, packet);
    if let Some(first) = report.causes.first_mut().filter(|cause| cause.certainty != Possible) {
        search(world, &prediction).put_into(first);
    }
    report
}
