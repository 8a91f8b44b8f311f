// SPDX-License-Identifier: MIT OR Apache-2.0
//! Each capability that the manifests ask for, taken away: what stops working, and that it is said. As root in a lab,
//! the bounding set cut by setpriv.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result};
use serde_json::Value;
use tests::{Lab, Spec, probe::Probe, topology::Family};

use crate::running::{binary, skip_unless_able};

/// Those of `deploy/daemonset.yaml`, in its order.
fn asked_for() -> Result<Vec<String>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/daemonset.yaml");
    let raw: Value = serde_yaml_ng::from_str(&fs::read_to_string(file)?)?;
    let container = &raw["spec"]["template"]["spec"]["containers"][0];
    let add = container["securityContext"]["capabilities"]["add"].as_array().context("capabilities")?;
    add.iter().map(|one| Ok(one.as_str().context("a name")?.to_owned())).collect()
}

/// egwtrace with these capabilities and no others, on node1 of the lab. `root`: a directory that is all it sees.
fn run(lab: &Lab, capabilities: &[&str], root: Option<&Root>, line: &str) -> Result<Output> {
    let set: Vec<String> = capabilities.iter().map(|c| format!("+{}", c.to_lowercase())).collect();
    let set = [vec!["-all".to_owned()], set].concat().join(",");
    let line = line.replace('@', &lab.spec().prefix());
    let cut = format!("--bounding-set {set} --inh-caps=-all");
    let script = match root {
        None => format!("exec setpriv {cut} {} {line}", binary().context("no egwtrace")?.display()),
        // A mount namespace of its own: nothing of this is left when the command ends.
        Some(Root(dir)) => format!(
            "set -e; mount --make-rprivate /; cp $(command -v setpriv) {dir}/setpriv
             for d in proc sys run dev lib usr/lib; do mount --rbind /$d {dir}/$d; done
             [ ! -d /lib64 ] || mount --rbind /lib64 {dir}/lib64
             exec chroot {dir} /setpriv {cut} /egwtrace {line}",
            dir = dir.display()
        ),
    };
    let mut command = lab.ns("node1").command(Path::new("unshare"))?;
    command.args(["--mount", "--", "/bin/sh", "-c", &script]).env("HOME", "/");
    Ok(command.output()?)
}

/// A root directory with the binary and what every container has, and no tools; gone when dropped.
struct Root(PathBuf);

impl Root {
    fn new() -> Result<Self> {
        let dir = PathBuf::from(format!("/run/egwt-root-{}", std::process::id()));
        for inner in ["proc", "sys", "run", "dev", "lib", "lib64", "usr/lib", "tmp"] {
            fs::create_dir_all(dir.join(inner))?;
        }
        fs::copy(binary().context("no egwtrace")?, dir.join("egwtrace"))?;
        Ok(Self(dir))
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        // Nothing is mounted here, only in namespaces that ended.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// One trace of a flow that a rule drops, while it is sent again and again: exit code and screen.
fn trace(lab: &Lab, capabilities: &[&str], root: Option<&Root>) -> Result<(i32, String)> {
    let line = "--no-api --pod @visitor --dst 10.200.1.22:80 --count 1 --duration 12s";
    let done = std::thread::scope(|scope| {
        let run = scope.spawn(|| run(lab, capabilities, root, line));
        while !run.is_finished() {
            // Gives up after a second.
            let _ = Probe::Pod2.run(lab, Family::V4);
        }
        run.join().expect("no panic")
    })?;
    let text = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    Ok((done.status.code().unwrap_or(-1), text.replace(&lab.spec().prefix(), "")))
}

fn without<'a>(all: &'a [String], name: &str) -> Vec<&'a str> {
    all.iter().map(String::as_str).filter(|one| *one != name).collect()
}

fn missing_tool() -> Option<&'static str> {
    ["setpriv", "unshare", "chroot"].into_iter().find(|tool| {
        !Command::new("sh")
            .args(["-c", &format!("command -v {tool}")])
            .output()
            .is_ok_and(|o| o.status.success())
    })
}

#[test]
fn each_capability_is_needed_and_its_lack_is_said() -> Result<()> {
    skip_unless_able!();
    if let Some(tool) = missing_tool() {
        println!("SKIP no {tool}");
        return Ok(());
    }
    let all = asked_for()?;
    let lab = Lab::up(Spec::unique().without_mesh())?;
    lab.fault("fw-fwd")?;
    // (what is taken away, exit code, what the screen says of it)
    let expected: &[(&str, i32, &[&str])] = &[
        ("SYS_ADMIN", 2, &["CAP_SYS_ADMIN"]),
        ("NET_ADMIN", 2, &["missing CAP_NET_ADMIN"]),
        ("NET_RAW", 0, &["without CAP_NET_RAW: it is not granted"]),
        ("SYS_PTRACE", 0, &["without CAP_SYS_PTRACE: it is not granted"]),
        ("DAC_READ_SEARCH", 0, &["without CAP_DAC_READ_SEARCH: it is not granted"]),
        ("SYSLOG", 0, &["without names of kernel functions"]),
    ];
    let named: BTreeSet<&str> = expected.iter().map(|(name, ..)| *name).chain(["SYS_CHROOT"]).collect();
    assert_eq!(
        all.iter().map(String::as_str).collect::<BTreeSet<_>>(),
        named,
        "every one that the manifest asks for"
    );
    let (code, text) = trace(&lab, &without(&all, ""), None)?;
    assert!(code == 0 && text.contains("rule 1 on node1 drops the packet"), "with all of them: {text}");
    assert!(!text.contains("without "), "with all of them nothing is missing: {text}");
    for (name, exit, says) in expected {
        let (code, text) = trace(&lab, &without(&all, name), None)?;
        assert_eq!(code, *exit, "without {name}: {text}");
        for part in *says {
            assert!(text.contains(part), "without {name}, {part:?} is not said: {text}");
        }
        // Less may be known, and nothing else.
        let causes = text.lines().filter(|line| line.contains("  cause  ") || line.contains("✗ cause"));
        for cause in causes {
            assert!(cause.contains(" drops the packet"), "without {name}: {cause}");
        }
    }
    Ok(())
}

#[test]
fn where_there_are_no_tools_the_nodes_own_are_run() -> Result<()> {
    skip_unless_able!();
    if let Some(tool) = missing_tool() {
        println!("SKIP no {tool}");
        return Ok(());
    }
    if !Path::new("/proc/1/root/usr/sbin/iptables-save").exists() {
        println!("SKIP the root of process 1 may not be entered, or has no iptables");
        return Ok(());
    }
    let all = asked_for()?;
    let lab = Lab::up(Spec::unique().without_mesh())?;
    lab.fault("fw-fwd")?;
    let root = Root::new()?;
    let (code, text) = trace(&lab, &without(&all, ""), Some(&root))?;
    assert!(code == 0 && text.contains("rule 1 on node1 drops the packet"), "{text}");
    // These two are what that takes.
    for name in ["SYS_CHROOT", "SYS_PTRACE"] {
        let (code, text) = trace(&lab, &without(&all, name), Some(&root))?;
        assert!(
            code == 0 && text.contains("iptables rules of the nft back end not read"),
            "without {name}: {text}"
        );
    }
    Ok(())
}
