// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask demo`: the real binary on real traffic, in labs that go away with us. On Ctrl-C too: a lab's
//! guard, a process of its own, sees us end.

use std::env;
use std::io::{self, BufRead as _, BufReader, IsTerminal as _, Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tests::probe::Probe;
use tests::topology::{self, Family};
use tests::{Lab, Spec};

use crate::workspace::Workspace;
use crate::{build, lab, process, setup};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show this scene only; may be given several times.
    #[arg(long, value_enum, value_name = "NAME")]
    scene: Vec<Name>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Name {
    Healthy,
    Drop,
    BlackHole,
}

struct Scene {
    name: Name,
    title: &'static str,
    /// What is broken, and what to look at.
    about: &'static str,
    /// Of the lab's catalogue.
    fault: Option<&'static str>,
    /// Of egwtrace, so that a scene fits a screen or two.
    flags: &'static [&'static str],
    traffic: Probe,
}

const SCENES: [Scene; 3] = [
    Scene {
        name: Name::Healthy,
        title: "A healthy egress path",
        about: "Nothing is broken. The pod `visitor` on node1 asks the server outside for a page, by way of node2, \
                the egress gateway.\n\
                Look at: the mark that node1's mangle table sets, the route it leads to, the tunnel, the source \
                address that node2 puts in; and the way back.",
        fault: None,
        flags: &["--count", "4"],
        traffic: Probe::Egw,
    },
    Scene {
        name: Name::Drop,
        title: "A drop",
        about: "The gateway has rp_filter=1 on egress.vxlan: it refuses packets whose sender it would not answer \
                through the same device.\n\
                Look at: the last line of each packet, with the kernel's reason, the device and the node.",
        fault: Some("rpf-gw"),
        flags: &["--drops", "--count", "2"],
        traffic: Probe::Egw,
    },
    Scene {
        name: Name::BlackHole,
        title: "An MTU black hole",
        about: "The pod sends packets of 1500 bytes, the tunnel takes 1450, and the ICMP message that would tell \
                the pod so is filtered: connections open, then stall.\n\
                Look at: small packets pass and are not shown; the first large one is where it ends, and what became of the ICMP \
                message.",
        fault: Some("pmtu-blackhole"),
        flags: &["--drops", "--count", "4"],
        traffic: Probe::Up,
    },
];

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    process::require_root("the demo")?;
    setup::run()?;
    let binary = build::run(workspace)?;
    for scene in SCENES.iter().filter(|scene| args.scene.is_empty() || args.scene.contains(&scene.name)) {
        show(scene, &binary).with_context(|| format!("showing \"{}\"", scene.title))?;
    }
    Ok(())
}

fn show(scene: &Scene, binary: &Path) -> Result<()> {
    let lab = Lab::up_with(Spec::unique().without_mesh(), lab::helper()?)?;
    say(&format!("\n━━ {} ━━\n{}\n", scene.title, scene.about))?;
    if let Some(fault) = scene.fault {
        lab.fault(fault)?;
    }
    let mut command = trace_command(&lab, binary);
    command.args(scene.flags);
    say(&format!("$ {}\n", process::shown(&command)))?;
    let trace = Trace::start(&mut command)?;
    trace.wait_until_ready();
    let report = scene.traffic.run(&lab, Family::V4);
    let status = trace.stop()?;
    say(&format!("\nWhat the client saw: {}", report?))?;
    lab.down()?;
    // Stopped by us is a success; and it has a way to tell scripts that a drop was seen.
    match status.code() {
        Some(2) | None => bail!("egwtrace: {status}"),
        Some(_) => Ok(()),
    }
}

fn trace_command(lab: &Lab, binary: &Path) -> Command {
    let mut command = Command::new(binary);
    command.args(["--pod", lab.ns("visitor").name()]);
    command.args(["--dst", &format!("{}:80", topology::ext(Family::V4))]);
    for node in ["node1", "node2"] {
        command.args(["--node-netns", lab.ns(node).name()]);
    }
    // Its stdout is our pipe, not the terminal it ends at.
    if io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none() {
        command.args(["--color", "always"]);
    }
    command
}

/// A running egwtrace, whose output goes to ours.
struct Trace {
    child: Child,
    ready: mpsc::Receiver<()>,
    pumps: [JoinHandle<()>; 2],
}

impl Trace {
    fn start(command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("starting {}", process::shown(command)))?;
        let stdout = child.stdout.take().context("egwtrace's stdout is not a pipe")?;
        let stderr = child.stderr.take().context("egwtrace's stderr is not a pipe")?;
        let (tell, ready) = mpsc::channel();
        let pumps = [pump(stdout, io::stdout(), tell.clone()), pump(stderr, io::stderr(), tell)];
        Ok(Self { child, ready, pumps })
    }

    /// The first thing it prints says what it has attached: the traffic may begin.
    fn wait_until_ready(&self) {
        // When nothing comes in time, the traffic will show why.
        let _ = self.ready.recv_timeout(Duration::from_secs(3));
    }

    /// Ends it as Ctrl-C would, once the last packets have been printed.
    fn stop(mut self) -> Result<ExitStatus> {
        thread::sleep(Duration::from_millis(300));
        if self.child.try_wait().context("looking after egwtrace")?.is_none() {
            let pid = i32::try_from(self.child.id()).context("a pid beyond i32")?;
            // SAFETY: kill has no memory effects; the child was not waited for, so the pid is still its.
            unsafe { libc::kill(pid, libc::SIGINT) };
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        let status = loop {
            if let Some(status) = self.child.try_wait().context("waiting for egwtrace")? {
                break status;
            }
            if Instant::now() >= deadline {
                self.child.kill().context("killing egwtrace")?;
                self.child.wait().context("waiting for egwtrace")?;
                bail!("egwtrace did not end within 5 s of an interrupt");
            }
            thread::sleep(Duration::from_millis(10));
        };
        for pump in self.pumps {
            // Ends with its pipe; a panic in it was printed already.
            let _ = pump.join();
        }
        Ok(status)
    }
}

/// Copies lines until the end, and tells of the first.
fn pump(
    from: impl Read + Send + 'static,
    mut to: impl Write + Send + 'static,
    tell: Sender<()>,
) -> JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            // Nobody listens any more once it is ready; a closed stdout is not the demo's to report.
            let _ = tell.send(());
            let _ = to.write_all(&line).and_then(|()| to.write_all(b"\n")).and_then(|()| to.flush());
        }
    })
}

fn say(text: &str) -> Result<()> {
    writeln!(io::stdout(), "{text}").context("writing to stdout")
}
