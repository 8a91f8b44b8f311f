// SPDX-License-Identifier: MIT OR Apache-2.0
//! A node with many pods: each has a network namespace and a veth at one bridge, and a container runtime that knows
//! them all is asked for one by its name. How long until the first line.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tests::ns::Ns;

use super::stats::Series;
use super::subject::first_line;
use super::{Bench, report};
use crate::process;
use crate::workspace::Workspace;

/// More than kubelet takes by default (110), as many as large nodes have.
const PODS: u32 = 500;
const STARTS: u32 = 10;

/// The runtime; it ends with its standard input.
struct Runtime {
    child: Child,
    socket: String,
}

impl Runtime {
    fn start(program: &PathBuf, prefix: &str) -> Result<Self> {
        let mut command = Command::new(program);
        command.args([&PODS.to_string(), prefix]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("starting {}", process::shown(&command)))?;
        let mut socket = String::new();
        let stdout = child.stdout.take().context("its stdout is not a pipe")?;
        BufReader::new(stdout).read_line(&mut socket).context("reading its socket")?;
        Ok(Self { child, socket: socket.trim().to_owned() })
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

pub(super) fn run(bench: &Bench, workspace: &Workspace) -> Result<Value> {
    report::progress("pods: building the runtime");
    let mut build = workspace.cargo();
    build.args(["build", "--locked", "--release", "-p", "tracer-user", "--example", "runtime"]);
    let program = process::build_executable(&mut build)?;
    report::progress("pods: making them");
    let prefix = bench.net.prefix("pod");
    let node = make(bench, &prefix)?;
    let runtime = Runtime::start(&program, &prefix)?;
    report::progress("pods: starting");
    let (mut named, mut bare) = (Series::default(), Series::default());
    for number in 0..STARTS {
        let pod = format!("bench/pod-{}", (number * 41 + 7) % PODS);
        for (series, target) in [
            (&mut named, ["--runtime-endpoint", runtime.socket.as_str(), "--pod", pod.as_str()].as_slice()),
            (&mut bare, &["--src", "198.18.9.2"]),
        ] {
            let mut command = node.command(&bench.binary)?;
            command.args(["--no-api", "--dst", "198.18.9.1"]).args(target);
            series.push(first_line(command)?.as_secs_f64());
            thread::sleep(Duration::from_millis(20));
        }
    }
    drop(runtime);
    report::progress("");
    report::pods(PODS, &named, &bare);
    Ok(json!({ "pods": PODS, "ready_by_name_s": named.json(), "ready_by_address_s": bare.json() }))
}

/// The node and its pods; they go away with the other namespaces of the bench.
fn make(bench: &Bench, prefix: &str) -> Result<Ns> {
    let node = bench.net.another("node");
    node.create()?;
    node.sh("ip link set lo up")?;
    node.sh("ip link add cni0 type bridge")?;
    node.sh("ip addr add 10.210.0.1/16 dev cni0")?;
    node.sh("ip link set cni0 up")?;
    // A NIC: the other end is its own.
    node.sh("ip link add eth0 type veth peer name wire")?;
    node.sh("ip addr add 198.18.9.2/24 dev eth0")?;
    node.sh("ip link set eth0 up")?;
    node.sh("ip link set wire up")?;
    node.sysctl(&[("ipv4/ip_forward", "1")])?;
    let each = |line: &dyn Fn(u32) -> String| (0..PODS).map(line).collect::<Vec<_>>().join("\n");
    batch(Command::new("ip"), &each(&|n| format!("netns add {prefix}{n}")))?;
    let (own, links) = (node.name().to_owned(), |n: u32| (1 + n / 250, 2 + n % 250));
    batch(
        Command::new("ip"),
        &each(&|n| format!("link add veth{n} netns {own} type veth peer name eth0 netns {prefix}{n}")),
    )?;
    batch(node.command("ip")?, &each(&|n| format!("link set veth{n} master cni0 up")))?;
    for n in 0..PODS {
        let pod = Ns::named(format!("{prefix}{n}"));
        let (high, low) = links(n);
        let lines = format!(
            "link set lo up\nlink set eth0 up\naddr add 10.210.{high}.{low}/16 dev eth0\nroute add default via 10.210.0.1"
        );
        batch(pod.command("ip")?, &lines)?;
    }
    Ok(node)
}

/// Many lines for one `ip`.
fn batch(mut command: Command, lines: &str) -> Result<()> {
    command.args(["-batch", "-"]).stdin(Stdio::piped());
    let mut child = command.spawn().context("starting ip")?;
    child.stdin.take().context("no stdin")?.write_all(lines.as_bytes())?;
    let status = child.wait()?;
    if !status.success() {
        bail!("ip -batch failed: {status}");
    }
    Ok(())
}
