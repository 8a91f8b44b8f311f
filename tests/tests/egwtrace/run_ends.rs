// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a run begins and ends: signals, limits, a closed pipe, errors; and what is left of it.

use std::{
    collections::BTreeSet,
    fs,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use aya::programs::{loaded_links, loaded_programs};
use tests::{
    Lab, Spec, client,
    drops::{By, DropAt, Hook, Traffic},
    probe::Probe,
    topology::{self as t, Family},
};

use crate::running::{Invocation, SOON, skip_unless_able, trace, trace_text};

const FLOW: &str = "--pod @visitor --dst 172.16.25.183";

fn lab() -> Result<Lab> {
    Lab::up(Spec::unique().without_mesh())
}

#[test]
fn a_signal_at_any_time_after_the_header_is_a_clean_end() -> Result<()> {
    skip_unless_able!();
    let lab = lab()?;
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // At once: nothing may come between the header and being ready for signals.
        let trace = trace(&lab, "node1", FLOW)?;
        trace.signal(signal)?;
        let traced = trace.finish()?.clean()?;
        assert_eq!(traced.count("packets"), 0);
    }
    Ok(())
}

#[test]
fn count_ends_after_so_many_packets() -> Result<()> {
    skip_unless_able!();
    let lab = lab()?;
    let trace = trace(&lab, "node1", &format!("{FLOW} --count 3"))?;
    Probe::Egw.run(&lab, Family::V4)?;
    let traced = trace.finish()?.clean()?;
    let kinds: Vec<&str> = traced.journeys.iter().map(crate::journey::Journey::kind).collect();
    assert_eq!(kinds, ["SYN", "SYN-ACK", "ACK"]);
    Ok(())
}

#[test]
fn duration_ends_when_it_is_over() -> Result<()> {
    skip_unless_able!();
    let lab = lab()?;
    let trace = trace(&lab, "node1", &format!("{FLOW} --duration 300ms"))?;
    let ready = Instant::now();
    let traced = trace.finish()?.clean()?;
    let took = ready.elapsed();
    assert!((Duration::from_millis(200)..Duration::from_secs(3)).contains(&took), "{took:?}");
    assert_eq!(traced.count("packets"), 0);
    Ok(())
}

#[test]
fn a_closed_pipe_is_a_clean_end() -> Result<()> {
    skip_unless_able!();
    let lab = lab()?;
    for output in ["text", "json"] {
        let mut command = Invocation::new(&lab, "node1", &format!("-o {output} {FLOW}"))?.command;
        let mut child =
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn()?;
        let mut line = String::new();
        // As `| head -1`: reads the header and goes away, while packets come.
        std::io::BufRead::read_line(
            &mut std::io::BufReader::new(child.stdout.take().context("no stdout")?),
            &mut line,
        )?;
        assert!(line.contains("egwtrace"), "{line}");
        Probe::Egw.run(&lab, Family::V4)?;
        let ended = tests::run_dir::wait_for(SOON, || child.try_wait().is_ok_and(|status| status.is_some()));
        if !ended {
            child.kill()?;
        }
        let done = child.wait_with_output()?;
        assert!(ended, "{output}: it goes on without a reader");
        assert_eq!(done.status.code(), Some(0), "{output}: {}", String::from_utf8_lossy(&done.stderr));
        assert!(done.stderr.is_empty(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    Ok(())
}

#[test]
fn a_drop_is_an_exit_code_when_asked_for() -> Result<()> {
    skip_unless_able!();
    let lab = lab()?;
    let healthy = trace(&lab, "node1", &format!("{FLOW} --fail-on-drop"))?;
    Probe::Egw.run(&lab, Family::V4)?;
    assert_eq!(healthy.stop()?.status.code(), Some(0));
    let by = By::Rule { table: "raw" };
    let traffic = Traffic::tcp_to_port(80);
    DropAt { place: "node1", hook: Hook::Prerouting, by, traffic, family: Family::V4 }.apply(&lab)?;
    for (flags, code) in [("--fail-on-drop", 1), ("", 0)] {
        let mut trace = trace(&lab, "node1", &format!("{FLOW} {flags}"))?;
        let to = (t::ext(Family::V4), 80).into();
        client::tcp(&lab.ns("visitor"), to, client::Request::Who, Duration::from_millis(100))?;
        trace.until_journeys(|all| all.iter().any(crate::journey::Journey::is_dropped))?;
        assert_eq!(trace.stop()?.status.code(), Some(code), "{flags}");
    }
    Ok(())
}

#[test]
fn what_cannot_be_is_one_line_and_exit_code_2() -> Result<()> {
    skip_unless_able!();
    let lab = lab()?;
    for (line, says) in [
        ("", "nothing to follow"),
        ("--pod @nobody --dst 172.16.25.183", "no container runtime found"),
        ("--netns @nobody --dst 172.16.25.183", "no network namespace"),
        ("--dst 172.16.25.183 --node-netns @nobody", "no network namespace"),
        ("--netns /nonexistent", "\"/nonexistent\": No such file or directory (os error 2)\n"),
        ("--pid 99999999", "no process 99999999"),
        ("--dst 172.16.25.183:70000", "70000"),
        ("--dst 172.16.25.183 --dport 70000", "70000"),
        ("--src 10.200.0.22 --dst fd00:172::183", "cannot both match"),
        ("--pod @visitor --dst fd00:172::183", "no IPv6 address"),
        ("--dst 172.16.25.183:80 --dport 81", "cannot both match"),
        ("--dst 172.16.25.183:80 --proto icmp", "cannot both match"),
        ("--dst no-such-host.invalid", "no address found"),
        ("--dst 172.16.25.183 --count 0", "would end before it begins"),
        ("--dst 172.16.25.183 --duration 10", "no unit"),
        ("--dst 172.16.25.183 --frobnicate", "--frobnicate"),
        ("--dst 172.16.25.183 -o xml", "xml"),
    ] {
        let traced = Invocation::new(&lab, "node1", line)?.output()?;
        assert_eq!(traced.status.code(), Some(2), "{line}: {}", traced.errors);
        assert!(traced.errors.contains(says), "{line}: {}", traced.errors);
        assert_eq!(traced.errors.trim_end().lines().count(), 1, "{line}: {}", traced.errors);
        assert!(traced.errors.starts_with("egwtrace: "), "{line}: {}", traced.errors);
        assert!(traced.lines.is_empty(), "{line}: {:?}", traced.lines);
    }
    Ok(())
}

#[test]
fn without_privileges_it_names_those_that_are_missing() -> Result<()> {
    skip_unless_able!();
    let lab = lab()?;
    let binary = crate::running::binary().context("no binary")?;
    let mut setpriv = Command::new("setpriv");
    setpriv.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(binary);
    if !Command::new(setpriv.get_program()).args(setpriv.get_args()).arg("-V").output()?.status.success() {
        println!("SKIP another user cannot run the binary where it is");
        return Ok(());
    }
    let done = lab
        .ns("node1")
        .command("setpriv")?
        .args(setpriv.get_args())
        .args(["--dst", "172.16.25.183"])
        .output()?;
    let errors = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(2), "{}", errors);
    for capability in ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"] {
        assert!(errors.contains(capability), "{}", errors);
    }
    assert_eq!(errors.trim_end().lines().count(), 1, "{}", errors);
    Ok(())
}

#[test]
fn a_line_is_there_soon_after_its_packet() -> Result<()> {
    skip_unless_able!();
    let lab = lab()?;
    let mut trace = trace_text(&lab, "node1", "--pod @visitor --dst 172.16.25.183:7")?;
    let mut delays = Vec::new();
    for port in 5001..5012 {
        let sent = Instant::now();
        client::udp(&lab.ns("visitor"), (t::ext(Family::V4), 7).into(), port, b"now", client::PATIENCE)?;
        let shown = trace.until_says(&format!("10.200.0.22:{port}"))?;
        delays.push(shown.duration_since(sent));
    }
    delays.sort_unstable();
    // Other tests keep the machine busy: the worst ones say nothing of the tracer.
    assert!(delays[delays.len() / 2] < Duration::from_millis(50), "{delays:?}");
    Ok(())
}

#[test]
fn text_for_a_pipe_has_no_escape_codes() -> Result<()> {
    skip_unless_able!();
    let lab = lab()?;
    for (flags, no_color, coloured) in [
        ("", false, false),
        ("", true, false),
        ("--color always", false, true),
        ("--color never", false, false),
    ] {
        let mut invocation = Invocation::new(&lab, "node1", &format!("{FLOW} --count 1 {flags}"))?;
        if no_color {
            invocation.command.env("NO_COLOR", "1");
        }
        let mut trace = invocation.start()?;
        trace.until(SOON, |got| !got.is_empty())?;
        Probe::Udp.run(&lab, Family::V4)?;
        let traced = trace.finish()?;
        assert_eq!(traced.status.code(), Some(0), "{}", traced.errors);
        let text = traced.text(&lab.ns("node1"));
        assert_eq!(text.contains('\u{1b}'), coloured, "{flags}: {text}");
        if !coloured {
            for part in [
                "node1",
                "vethpod",
                "egress.vxlan",
                "mark 0x0 → 0x26b7b4e4",
                "left node1 by eth0",
                "0 events lost",
            ] {
                assert!(text.contains(part), "no {part:?} in\n{text}");
            }
        }
    }
    Ok(())
}

/// Ids of all programs or links of the machine; one that ends while it is asked for is left out.
fn ids(what: &str) -> BTreeSet<u64> {
    if what == "prog" {
        loaded_programs().flatten().map(|program| program.id().into()).collect()
    } else {
        loaded_links().flatten().map(|link| link.id().into()).collect()
    }
}

#[test]
fn nothing_is_left_after_sigkill() -> Result<()> {
    skip_unless_able!();
    let lab = lab()?;
    let trace = trace(&lab, "node1", &format!("{FLOW} --positions all"))?;
    let held = held_by(trace.pid())?;
    assert!(held.len() > 20, "{held:?}");
    // The kernel frees them behind our back, but soon.
    let gone = || {
        let (programs, links) = (ids("prog"), ids("link"));
        held.iter().all(|(kind, id)| match kind.as_str() {
            "prog" => !programs.contains(id),
            _ => !links.contains(id),
        })
    };
    assert!(!gone());
    trace.kill()?;
    let end = Instant::now() + SOON;
    while !gone() {
        assert!(Instant::now() < end, "programs or links are left");
        std::thread::sleep(Duration::from_millis(20));
    }
    for place in ["node1", "visitor"] {
        assert!(!lab.sh(place, "tc qdisc show")?.contains("clsact"));
        assert!(!lab.sh(place, "tc filter show dev eth0 ingress").unwrap_or_default().contains("bpf"));
    }
    // And the flow goes on.
    let report = Probe::Egw.run(&lab, Family::V4)?;
    assert!(report.last().answer().is_some(), "{report}");
    Ok(())
}

/// Programs and links whose descriptors a process holds: (`prog` or `link`, id).
fn held_by(pid: i32) -> Result<BTreeSet<(String, u64)>> {
    let mut held = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        let number =
            |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse::<u64>().ok());
        match (number("link_id:"), number("prog_id:")) {
            (Some(link), program) => {
                held.insert(("link".to_owned(), link));
                held.extend(program.map(|id| ("prog".to_owned(), id)));
            }
            (None, Some(program)) => {
                held.insert(("prog".to_owned(), program));
            }
            (None, None) => {}
        }
    }
    Ok(held)
}
