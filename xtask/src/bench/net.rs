// SPDX-License-Identifier: MIT OR Apache-2.0
//! Three namespaces in a row, a → router → b: the router forwards, tracks connections and has one rule in each
//! table, none of which matches.

use std::env;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use tests::ns::{self, Ns};

/// All names of ours begin with it; the id of the process follows.
const PREFIX: &str = "egwt-bench-";
/// The first words of the subcommand that the guard is.
const GUARD: [&str; 2] = ["bench", "--guard"];

pub(super) const A: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 2);
pub(super) const B: Ipv4Addr = Ipv4Addr::new(198, 18, 2, 2);
/// Neighbours of the two that do not exist: a filter for them watches the same devices and finds nothing.
pub(super) const NOT_A: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 77);
pub(super) const NOT_B: Ipv4Addr = Ipv4Addr::new(198, 18, 2, 77);

const RULES: [&str; 4] = [
    "iptables-nft -w -t raw -A PREROUTING -s 203.0.113.7 -j NOTRACK",
    "iptables-nft -w -t mangle -A FORWARD -s 203.0.113.7 -j MARK --set-mark 0x26",
    "iptables-nft -w -t nat -A POSTROUTING -s 203.0.113.7 -j MASQUERADE",
    "iptables-nft -w -t filter -A FORWARD -s 203.0.113.7 -j DROP",
];

pub(super) struct Net {
    pub(super) a: Ns,
    pub(super) router: Ns,
    pub(super) b: Ns,
    guard: Child,
}

impl Net {
    pub(super) fn up() -> Result<Self> {
        ns::prepare_dir()?;
        sweep()?;
        let named = |what: &str| Ns::named(format!("{PREFIX}{}-{what}", std::process::id()));
        // The guard first: what is made after it goes away however we end.
        let guard = guard()?;
        let net = Self { a: named("a"), router: named("router"), b: named("b"), guard };
        net.build()?;
        Ok(net)
    }

    /// What names of further namespaces begin with; they go away with the others.
    pub(super) fn prefix(&self, what: &str) -> String {
        format!("{PREFIX}{}-{what}", std::process::id())
    }

    /// A further namespace, not made yet.
    pub(super) fn another(&self, what: &str) -> Ns {
        Ns::named(self.prefix(what))
    }

    fn build(&self) -> Result<()> {
        for ns in [&self.a, &self.router, &self.b] {
            ns.create()?;
            ns.sh("ip link set lo up")?;
        }
        let router = &self.router;
        for (end, device, own, gateway) in
            [(&self.a, "to-a", A, "198.18.1.1"), (&self.b, "to-b", B, "198.18.2.1")]
        {
            router.sh(&format!("ip link add {device} type veth peer name eth0 netns {}", end.name()))?;
            router.sh(&format!("ip addr add {gateway}/24 dev {device}"))?;
            router.sh(&format!("ip link set {device} up"))?;
            end.sh(&format!("ip addr add {own}/24 dev eth0"))?;
            end.sh("ip link set eth0 up")?;
            end.sh(&format!("ip route add default via {gateway}"))?;
        }
        router.sysctl(&[("ipv4/ip_forward", "1")])?;
        for rule in RULES {
            router.sh(rule)?;
        }
        Ok(())
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        // It takes the namespaces away when its stdin closes; waiting for it may only fail if it is gone.
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

/// A process that outlives us, by a moment: in a session of its own, so that no Ctrl-C reaches it.
fn guard() -> Result<Child> {
    let mut command = Command::new(env::current_exe().context("finding the running program")?);
    command.args(GUARD).arg(std::process::id().to_string());
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    // SAFETY: between fork and exec only setsid is called, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            Ok(())
        })
    };
    command.spawn().context("starting the guard of the namespaces")
}

/// What the guard does: waits for the end of its parent, then takes the parent's namespaces away.
pub(super) fn watch_over(parent: u32) -> Result<()> {
    let mut nothing = Vec::new();
    // However the pipe ends, the parent is gone.
    let _ = std::io::Read::read_to_end(&mut std::io::stdin(), &mut nothing);
    delete(&format!("{PREFIX}{parent}-"))
}

fn delete(prefix: &str) -> Result<()> {
    ns::with_prefix(prefix)?.iter().try_for_each(Ns::delete)
}

/// Takes away what a bench left whose guard was killed too.
fn sweep() -> Result<()> {
    for ns in ns::with_prefix(PREFIX)? {
        let owner = ns.name()[PREFIX.len()..].split('-').next().unwrap_or_default();
        if fs::metadata(format!("/proc/{owner}")).is_err() {
            ns.delete()?;
        }
    }
    Ok(())
}
