// SPDX-License-Identifier: MIT OR Apache-2.0
//! `egwtrace check` on the lab.

use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Watch, binary};
use crate::Lab;

/// The causes of a check, as JSON, and its exit code. Both nodes are given.
///
/// # Errors
/// As [`check_on`].
pub fn check(lab: &Lab, packet: &str) -> Result<(Vec<Value>, i32)> {
    check_on(lab, packet, Watch::Both)
}

/// The same with these nodes, unless the packet names some.
///
/// # Errors
/// When it does not run, or says that it was asked wrongly.
pub fn check_on(lab: &Lab, packet: &str, watch: Watch) -> Result<(Vec<Value>, i32)> {
    let nodes = if packet.contains("--node-netns") { "" } else { watch.nodes() };
    let line = format!("check -o json {nodes} {packet}").replace('@', &lab.spec().prefix());
    let output = Command::new(binary().context("no egwtrace")?).args(line.split_whitespace()).output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    let code = output.status.code().context("egwtrace was killed")?;
    if code == 2 || !errors.is_empty() {
        bail!("egwtrace {line}: {code} {errors}");
    }
    let mut found = Vec::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let report: Value = serde_json::from_str(line)?;
        let causes = report["causes"].as_array().context("no causes")?;
        found.extend(causes.iter().filter(|cause| cause["note"] != true).cloned());
    }
    Ok((found, code))
}
