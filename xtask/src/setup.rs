// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask setup`: looks at what is there, says what is missing, installs that and nothing else.

use std::env;
use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::bpf::{self, BPF_LINKER, NIGHTLY, Wanted};
use crate::process;
use crate::workspace;

/// A program that the build, the lab or the tests run, and Debian's package that has it.
const TOOLS: [(&str, &str); 18] = [
    ("cc", "gcc"),
    ("iptables", "iptables"),
    ("ip6tables", "iptables"),
    ("iptables-legacy", "iptables"),
    ("nft", "nftables"),
    ("ipset", "ipset"),
    ("conntrack", "conntrack"),
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("ping", "iputils-ping"),
    ("curl", "curl"),
    ("tcpdump", "tcpdump"),
    ("sysctl", "procps"),
    ("modprobe", "kmod"),
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("busybox", "busybox-static"),
];
/// CNI's plugins, which are in no PATH: where they may be, and Debian's package.
const CNI: ([&str; 2], &str) =
    (["/usr/lib/cni/bridge", "/opt/cni/bin/bridge"], "containernetworking-plugins");
/// Debian's rustc for the BPF side, with a ready core; see `bpf.rs`.
const DEBIAN_COMPILER: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];

/// Some hundred megabytes have to come.
const NIGHTLY_LIMIT: Duration = Duration::from_secs(300);

#[derive(Debug, Default, PartialEq, Eq)]
struct Missing {
    packages: Vec<&'static str>,
    compiler: bool,
    linker: bool,
}

impl Missing {
    fn look() -> Result<Self> {
        let mut packages = packages_of(TOOLS.iter().filter(|(program, _)| process::find(program).is_none()));
        if !CNI.0.iter().any(|plugin| Path::new(plugin).is_file()) {
            packages.push(CNI.1);
        }
        Ok(Self { packages, compiler: bpf::compiler()?.is_none(), linker: bpf::linker().is_none() })
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// One line for each thing, for people.
    fn lines(&self, wanted: Wanted) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.packages.is_empty() {
            lines.push(format!("Debian packages: {}", self.packages.join(" ")));
            if self.packages.contains(&"containerd") {
                lines.push(
                    "  (the tests start a containerd of their own; the package's service is not used)".into(),
                );
            }
        }
        if self.compiler {
            let debian = format!("Debian's {}", DEBIAN_COMPILER.join(" and "));
            lines.push(match wanted {
                Wanted::Any => format!("a compiler for BPF: rustup's {NIGHTLY} with rust-src, or {debian}"),
                Wanted::Nightly => format!("a compiler for BPF: rustup's {NIGHTLY} with rust-src"),
                Wanted::Debian => format!("a compiler for BPF: {debian}"),
            });
        }
        if self.linker {
            lines.push(format!("bpf-linker {} (cargo install)", linker_version()));
        }
        lines
    }
}

fn packages_of<'a>(tools: impl Iterator<Item = &'a (&'static str, &'static str)>) -> Vec<&'static str> {
    let mut packages = Vec::new();
    for (_, package) in tools {
        if !packages.contains(package) {
            packages.push(*package);
        }
    }
    packages
}

fn linker_version() -> String {
    let (major, minor, patch) = BPF_LINKER;
    format!("{major}.{minor}.{patch}")
}

pub(crate) fn run() -> Result<()> {
    let wanted = Wanted::from_env()?;
    let missing = Missing::look()?;
    if missing.is_empty() {
        eprintln!("xtask: setup: everything is there");
        return Ok(());
    }
    eprintln!("xtask: setup: missing on this machine:");
    for line in missing.lines(wanted) {
        eprintln!("  - {line}");
    }
    if no_install() {
        bail!("EGWTRACE_NO_INSTALL is set: nothing was installed");
    }
    install(missing, wanted)?;
    let left = Missing::look()?;
    if !left.is_empty() {
        bail!("still missing after the installation: {}", left.lines(wanted).join("; "));
    }
    eprintln!("xtask: setup: done");
    Ok(())
}

fn no_install() -> bool {
    env::var_os("EGWTRACE_NO_INSTALL").is_some_and(|value| !value.is_empty() && value != "0")
}

fn install(missing: Missing, wanted: Wanted) -> Result<()> {
    let mut packages = missing.packages;
    if missing.compiler && !(wanted.allows_nightly() && install_nightly()) {
        if !wanted.allows_debian() {
            bail!(
                "rustup could not install nightly with rust-src, and EGWTRACE_BPF_COMPILER=nightly allows nothing else"
            );
        }
        packages.extend(DEBIAN_COMPILER);
    }
    if !packages.is_empty() {
        install_packages(&packages)?;
    }
    if missing.linker {
        install_linker()?;
    }
    Ok(())
}

/// Tries to get a nightly with rust-src; false, without noise, when that cannot be had here.
fn install_nightly() -> bool {
    if process::find("rustup").is_none() {
        eprintln!("xtask: setup: no rustup here");
        return false;
    }
    eprintln!("xtask: setup: installing rustup's {NIGHTLY} (minimal profile) with rust-src");
    let mut command = bpf::rustup();
    command.args(["toolchain", "install", NIGHTLY, "--no-self-update"]);
    command.args(["--profile", "minimal", "--component", "rust-src"]);
    let done = process::succeeds_within(command.env("RUSTUP_MAX_RETRIES", "1"), NIGHTLY_LIMIT);
    if !done {
        eprintln!("xtask: setup: rustup cannot get it here");
    }
    done
}

fn install_packages(packages: &[&str]) -> Result<()> {
    if process::find("apt-get").is_none() {
        bail!(
            "there is no apt-get on this machine; install by its own means what Debian has in: {}",
            packages.join(" ")
        );
    }
    if !process::is_root() && process::find("sudo").is_none() {
        bail!(
            "packages are installed by root and there is no sudo; run as root: apt-get update && apt-get install -y --no-install-recommends {}",
            packages.join(" ")
        );
    }
    eprintln!("xtask: setup: installing the packages {}", packages.join(" "));
    // First with the lists that are there; fetched when they do not know a package or have gone stale.
    if known(packages) && process::run(&mut apt_install(packages)).is_ok() {
        return Ok(());
    }
    process::run(apt_get().arg("update"))?;
    process::run(&mut apt_install(packages))
}

fn known(packages: &[&str]) -> bool {
    packages.iter().all(|package| {
        process::output(Command::new("apt-cache").args(["show", "--no-all-versions", package])).is_ok()
    })
}

fn apt_install(packages: &[&str]) -> Command {
    let mut command = apt_get();
    // --no-remove: better fail than take away something that conflicts (Debian's own rustup, for one).
    command.args(["install", "-y", "--no-install-recommends", "--no-remove"]).args(packages);
    command
}

/// apt-get as root, without questions and with its talk on our stderr.
fn apt_get() -> Command {
    let mut command = if process::is_root() {
        Command::new("env")
    } else {
        let mut sudo = Command::new("sudo");
        if !io::stdin().is_terminal() {
            sudo.arg("-n");
        }
        sudo.arg("env");
        sudo
    };
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-o", "Dpkg::Use-Pty=0"]);
    command.stdin(Stdio::null()).stdout(io::stderr());
    command
}

fn install_linker() -> Result<()> {
    eprintln!(
        "xtask: setup: installing bpf-linker {} with cargo, which takes a minute or two",
        linker_version()
    );
    let mut command = Command::new(workspace::cargo());
    command.args(["install", "bpf-linker", "--version", &linker_version(), "--locked"]);
    // Built in a directory of its own that cargo removes, and without flags meant for this workspace.
    command.env_remove("CARGO_TARGET_DIR").current_dir("/");
    process::run(command.stdin(Stdio::null())).context("installing bpf-linker")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_named_once_however_many_of_its_programs_are_missing() {
        let missing = TOOLS.iter().filter(|(_, package)| ["iptables", "iproute2"].contains(package));
        assert_eq!(packages_of(missing), ["iptables", "iproute2"]);
    }

    #[test]
    fn what_is_missing_is_said_in_full() {
        let missing = Missing { packages: vec!["nftables", "ipset"], compiler: true, linker: true };
        let lines = missing.lines(Wanted::Any);
        assert_eq!(lines[0], "Debian packages: nftables ipset");
        assert!(lines[1].contains("rust-src") && lines[1].contains("rustc-web"));
        assert!(lines[2].contains("bpf-linker 0.10.3"));
        assert!(Missing::default().is_empty() && Missing::default().lines(Wanted::Any).is_empty());
    }

    #[test]
    fn a_compiler_that_was_ruled_out_is_not_proposed() {
        let missing = Missing { compiler: true, ..Missing::default() };
        assert!(!missing.lines(Wanted::Nightly)[0].contains("rustc-web"));
        assert!(!missing.lines(Wanted::Debian)[0].contains("nightly"));
    }
}
