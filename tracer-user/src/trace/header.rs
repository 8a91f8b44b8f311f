// SPDX-License-Identifier: MIT OR Apache-2.0
//! The status line: what is attached, what is not, what is followed.

use std::collections::BTreeSet;
use std::ffi::CStr;

use super::attach::Attachments;
use crate::cli::{Plan, PositionChoice, TcChoice};
use crate::node::{Netns, PathRole, Topology};
use crate::output::{Header, Missing};
use crate::target::Target;

/// Describes the run as it starts.
pub(super) fn header(
    plan: &Plan,
    targets: &[Target],
    attachments: &mut Attachments,
    topology: &Topology,
    missing: &[Missing],
    api: String,
) -> Header {
    let mut missing = missing.to_vec();
    let mut tracepoints = 0;
    for status in attachments.tracer().status() {
        match &status.why_not {
            None => tracepoints += 1,
            Some(why) => missing.push(Missing {
                what: status.hook.clone(),
                why: why.clone(),
                hides: status.loses.to_owned(),
            }),
        }
    }
    let zooming = match plan.positions {
        PositionChoice::Auto => "zooming",
        PositionChoice::All => "all positions",
        PositionChoice::Last => "last positions only",
    };
    let drops = if missing.iter().any(|m| m.what == "tracepoint kfree_skb") {
        "drops: not seen"
    } else {
        "drops: with reasons"
    };
    let tc = match plan.tc {
        TcChoice::Off => "tc: off".to_owned(),
        _ => {
            let how = if attachments.tracer().uses_device_tracepoints() { "tracepoints" } else { "tcx" };
            format!("tc: {how} on {}", counted(attachments.device_count(), "device"))
        }
    };
    Header {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: kernel_release(),
        attached: vec![
            tc,
            match attachments.hook_count() {
                0 => "nf: no hook".to_owned(),
                hooks => format!("nf: {}, {zooming}", counted(hooks, "hook")),
            },
            drops.to_owned(),
            counted(tracepoints, "tracepoint"),
            api,
        ],
        target: target(plan, targets, topology),
        policies: Vec::new(),
        missing,
    }
}

fn target(plan: &Plan, targets: &[Target], topology: &Topology) -> Vec<String> {
    let mut lines = vec![plan.filter.to_string()];
    let names: Vec<String> = targets
        .iter()
        .map(|target| {
            let addresses: Vec<String> = target.addresses.iter().map(ToString::to_string).collect();
            let own = target.netns.as_ref().map(Netns::id);
            // The host's ends of its veths.
            let devices: BTreeSet<&str> = topology
                .namespaces
                .values()
                .flat_map(|ns| ns.devices.values())
                .filter(|d| d.watched == Some(PathRole::PodHost))
                .filter(|d| d.link.is_some_and(|(netns, _)| netns.is_some() && netns == own))
                .map(|d| d.name.as_str())
                .collect();
            let devices: Vec<&str> = devices.into_iter().collect();
            let via = if devices.is_empty() { String::new() } else { format!(" ({})", devices.join(", ")) };
            format!("{} {}{via}", target.name, addresses.join(", "))
        })
        .collect();
    if let Some(first) = targets.first() {
        let s = if names.len() == 1 { "" } else { "s" };
        lines[0] = format!("{}{s} {} {}", first.kind, names.join("; "), lines[0]);
    }
    lines
}

fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn kernel_release() -> String {
    // SAFETY: all zero is a value of `utsname`: arrays of characters.
    let mut name: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: `name` has room for the answer.
    if unsafe { libc::uname(&raw mut name) } != 0 {
        return "?".to_owned();
    }
    // SAFETY: uname ends each field with a zero.
    unsafe { CStr::from_ptr(name.release.as_ptr()) }.to_string_lossy().into_owned()
}
