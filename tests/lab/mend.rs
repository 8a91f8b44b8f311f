// SPDX-License-Identifier: MIT OR Apache-2.0
//! Types the commands of a reported cause on the machine, as a reader of the report would, and sees what came of it.

use std::{thread, time::Duration};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    Lab,
    causes::{Case, check},
    faults::{Expect, Fault},
    probe::Probe,
    topology::Family,
};

/// What came of a report's commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mended {
    /// The traffic passes, and what passed before still does.
    Yes,
    /// Nothing can be typed; why.
    NoCommands(&'static str),
    /// It was typed and does not mend, or breaks something else; what.
    No(String),
}

/// What passes in a healthy lab and must not be broken by a fix.
const OTHERS: [Probe; 4] = [Probe::Egw, Probe::Pod2, Probe::Podb, Probe::Svc];

/// Types the first cause's commands: `passes` says whether the traffic that was asked about does.
///
/// # Errors
/// When a probe cannot be run.
pub fn mend(lab: &Lab, causes: &[Value], passes: &dyn Fn() -> Result<bool>) -> Result<Mended> {
    let Some(cause) = causes.first() else {
        return Ok(Mended::NoCommands("no cause is named"));
    };
    let commands: Vec<&str> = match &cause["commands"] {
        Value::Array(commands) => commands.iter().filter_map(Value::as_str).collect(),
        _ => return Ok(Mended::NoCommands("the cause has no commands")),
    };
    if commands.is_empty() {
        return Ok(Mended::NoCommands("nothing can be typed for this cause"));
    }
    let before = others(lab)?;
    for command in &commands {
        if let Err(error) = typed(lab, cause, command) {
            return Ok(Mended::No(format!("{error:#}")));
        }
    }
    // Neighbours are asked for anew, addresses are no longer tentative.
    thread::sleep(Duration::from_millis(400));
    if !passes()? {
        return Ok(Mended::No(format!("the traffic does not pass after `{}`", commands.join("; "))));
    }
    let broken: Vec<String> = OTHERS
        .iter()
        .zip(before)
        .zip(others(lab)?)
        .filter(|((_, before), after)| *before && !after)
        .map(|((probe, _), _)| probe.name())
        .collect();
    Ok(if broken.is_empty() {
        Mended::Yes
    } else {
        Mended::No(format!("`{}` breaks {}", commands.join("; "), broken.join(", ")))
    })
}

/// Asks of a fault that is applied, over IPv4, types what is reported, and makes the fault's traffic anew.
///
/// # Errors
/// When egwtrace does not run or the traffic cannot be made.
pub fn mend_fault(lab: &Lab, fault: &Fault, case: &Case) -> Result<Mended> {
    let Some(asked) = case.asked.filter(|asked| !asked.causes.is_empty()) else {
        return Ok(Mended::NoCommands("no cause is right"));
    };
    if matches!(fault.expect, Expect::SlowAnswer(_) | Expect::Answer) {
        return Ok(Mended::NoCommands("the traffic passes all the same"));
    }
    let (causes, _) = check(lab, asked.packet)?;
    mend(lab, &causes, &|| {
        let report = fault.probe.run(lab, Family::V4)?;
        let as_broken = fault.expect.differs(&report, Family::V4).is_none();
        Ok(report.last().answer().is_some() && !as_broken)
    })
}

fn others(lab: &Lab) -> Result<Vec<bool>> {
    OTHERS.iter().map(|probe| Ok(probe.run(lab, Family::V4)?.last().answer().is_some())).collect()
}

/// Types one command in a shell: where the cause is, unless the command names its namespace itself.
fn typed(lab: &Lab, cause: &Value, command: &str) -> Result<()> {
    let here = lab.spec().prefix();
    let netns = cause["where"]["netns"].as_str().context("a cause without a place")?;
    let ns = if command.starts_with("ip netns exec ") {
        lab.ns("ul")
    } else {
        lab.ns(netns.strip_prefix(&here).with_context(|| format!("{netns} is not of the lab"))?)
    };
    ns.exec(&["sh", "-c", command], None).map(drop)
}
