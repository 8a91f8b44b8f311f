// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pods of a real containerd with CNI's bridge, found and followed by their names.

mod cri;
mod deployed;
mod found;
mod lives;

use std::sync::OnceLock;

use anyhow::Result;
use tests::{
    Lab, Spec,
    containers::{self, Containers},
};

use self::cri::{Kubelet, Pod, PodSpec};
use crate::running::{self, Invocation, Running, Traced};

/// Why runc cannot make a pod's cgroups here, when that is what keeps it from making pods; asked once. Whatever else
/// goes wrong, the test will say.
fn no_cgroups(kubelet: &Kubelet) -> Option<String> {
    static ASKED: OnceLock<Option<String>> = OnceLock::new();
    let ask = || {
        let made = kubelet.run("egwt/probe", &PodSpec::default()).and_then(|pod| kubelet.delete(&pod));
        let error = made.err()?;
        let text = format!("{error:#}");
        text.contains("cgroup").then(|| format!("runc cannot make cgroups here: {text}"))
    };
    ASKED.get_or_init(ask).clone()
}

/// A node whose pods are containerd's. Taken away from the inside out.
struct Node {
    kubelet: Kubelet,
    containers: Containers,
    lab: Lab,
}

impl Node {
    /// `None`, and why, where there can be none.
    fn up(spec: Spec) -> Result<Option<Self>> {
        let cannot = if !tests::is_root() {
            Some("needs root".to_owned())
        } else if running::binary().is_none() {
            Some("no egwtrace: EGWTRACE_BIN is not set (cargo xtask test sets it)".to_owned())
        } else {
            containers::missing()
        };
        if let Some(why) = cannot {
            println!("SKIP {why}");
            return Ok(None);
        }
        let lab = Lab::up(spec.without_mesh().without_servers())?;
        let containers = Containers::up(&lab)?;
        let kubelet = Kubelet::new(&containers)?;
        if let Some(why) = no_cgroups(&kubelet) {
            println!("SKIP {why}");
            return Ok(None);
        }
        Ok(Some(Self { kubelet, containers, lab }))
    }

    /// A pod that does nothing.
    fn idle(&self, name: &str) -> Result<Pod> {
        self.kubelet.run(name, &PodSpec::default())
    }

    /// A pod that serves a page at port 80.
    fn web(&self, name: &str) -> Result<Pod> {
        self.kubelet.run(name, &PodSpec { runs: "httpd -f -p 80 -h /www", ..PodSpec::default() })
    }

    /// One pod gets the page of another, at its IPv4 or IPv6 address; what it got.
    fn get(&self, from: &Pod, to: &Pod, ipv6: bool) -> Result<String> {
        let address = to.addresses.iter().find(|a| a.is_ipv6() == ipv6).expect("an address of the family");
        let line = format!("echo -e 'GET / HTTP/1.0\\r\\n\\r' | nc {address} 80 | cat");
        self.kubelet.exec(from, &line)
    }

    fn line(&self, line: &str) -> String {
        format!("--runtime-endpoint {} {line}", self.containers.socket().display())
    }

    fn trace(&self, line: &str) -> Result<Running> {
        running::trace(&self.lab, "node1", &self.line(line))
    }

    fn trace_text(&self, line: &str) -> Result<Running> {
        running::trace_text(&self.lab, "node1", &self.line(line))
    }

    /// Runs it to its end, which must come by itself.
    fn refused(&self, line: &str) -> Result<Traced> {
        Invocation::new(&self.lab, "node1", &self.line(line))?.output()
    }
}
