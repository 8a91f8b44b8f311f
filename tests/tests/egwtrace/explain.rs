// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--record` and `egwtrace explain`: the same causes, when the lab is long gone.

use std::{
    env, fs,
    io::Write,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;
use tests::{Lab, Spec, faults, topology::Family};

use crate::running::{binary, skip_unless_able, trace};

/// A file that is removed at the end.
struct Recording(PathBuf);

impl Recording {
    fn new(name: &str) -> Self {
        Self(env::temp_dir().join(format!("egwtrace-{name}-{}.rec", std::process::id())))
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn explain(arguments: &[&str], input: &[u8]) -> Result<Output> {
    let mut child = Command::new(binary().context("no egwtrace")?)
        .arg("explain")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // Whoever refuses the first line reads no further.
    let _ = child.stdin.take().context("no stdin")?.write_all(input);
    Ok(child.wait_with_output()?)
}

fn causes(value: &Value) -> Vec<(String, String)> {
    let text = |cause: &Value, name: &str| cause[name].as_str().unwrap_or_default().to_owned();
    let all = value["causes"].as_array().into_iter().flatten();
    all.map(|cause| (text(cause, "id"), text(cause, "title"))).collect()
}

#[test]
fn a_recording_names_what_the_run_named() -> Result<()> {
    skip_unless_able!();
    for (fault, flow, id) in [
        ("fw-fwd", "--pod @visitor --dst 10.200.1.22", "dropped-by-rule"),
        ("rpf-gw", "--pod @visitor --dst 172.16.25.183", "reverse-path-filter"),
        ("policy-dst-miss", "--pod @visitor --dst 172.16.25.183", "egress-destination-not-selected"),
    ] {
        let file = Recording::new(fault);
        let path = file.0.to_str().context("a path")?.to_owned();
        let lab = Lab::up(Spec::unique().without_mesh())?;
        let fault = faults::find(fault)?;
        fault.apply(&lab, Family::V4)?;
        let line = format!("{flow} --node-netns @node1 --node-netns @node2 --record {path}");
        let run = trace(&lab, "node1", &line)?;
        fault.probe.run(&lab, Family::V4)?;
        std::thread::sleep(Duration::from_millis(600));
        let live = run.stop()?.clean()?;
        lab.down()?;
        let live = causes(&live.summary);
        assert!(live.iter().any(|(found, _)| found == id), "{}: {live:?}", fault.name);
        let told = explain(&["-o", "json", &path], b"")?;
        assert!(told.stderr.is_empty(), "{}", String::from_utf8_lossy(&told.stderr));
        let told: Value = serde_json::from_slice(&told.stdout)?;
        assert_eq!(causes(&told), live, "{}", fault.name);
        assert_eq!(told["complete"], true);
        let bytes = fs::read(&file.0)?;
        let text = explain(&["-"], &bytes)?;
        let text = String::from_utf8(text.stdout)?;
        assert!(text.contains(&live[0].1) && text.contains("fix "), "{text}");
        assert_eq!(fs::metadata(&file.0)?.permissions().mode() & 0o777, 0o600, "for its owner only");
    }
    Ok(())
}

#[test]
fn a_run_that_was_killed_leaves_a_recording_that_can_be_read() -> Result<()> {
    skip_unless_able!();
    let file = Recording::new("killed");
    let path = file.0.to_str().context("a path")?.to_owned();
    let lab = Lab::up(Spec::unique().without_mesh())?;
    let fault = lab.fault("fw-fwd")?;
    let line = format!("--pod @visitor --dst 10.200.1.22 --record {path}");
    let mut run = trace(&lab, "node1", &line)?;
    fault.probe.run(&lab, Family::V4)?;
    run.until_says("dropped-by-rule")?;
    std::thread::sleep(Duration::from_millis(300));
    run.kill()?;
    let told = explain(&["-o", "json", &path], b"")?;
    let errors = String::from_utf8_lossy(&told.stderr);
    assert!(errors.contains("ends before its run did"), "{errors}");
    let told: Value = serde_json::from_slice(&told.stdout)?;
    assert_eq!(told["complete"], false);
    assert!(causes(&told).iter().any(|(id, _)| id == "dropped-by-rule"), "{told}");
    Ok(())
}

#[test]
fn other_files_are_refused_in_one_line() -> Result<()> {
    skip_unless_able!();
    for (arguments, input, said) in [
        (&["/etc/passwd"][..], &b""[..], "line 1 is not the beginning of a recording"),
        (&["-"], b"", "the recording is empty"),
        (&["-"], b"{\"schema\":\"egwtrace/1\",\"type\":\"header\"}\n", "it is the output of -o json"),
        (&["/no/such/file"], b"", "cannot open \"/no/such/file\": No such file"),
        (&["/"], b"", "cannot read the recording: Is a directory"),
    ] {
        let told = explain(arguments, input)?;
        let errors = String::from_utf8_lossy(&told.stderr);
        assert_eq!(told.status.code(), Some(2), "{arguments:?} {errors}");
        assert!(errors.contains(said) && errors.lines().count() == 1, "{errors}");
        assert!(told.stdout.is_empty());
    }
    Ok(())
}
