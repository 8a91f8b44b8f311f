// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask dist`: what is released, in one archive: the binary, manual pages, completions, the kubectl plugin,
//! manifests, licences.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::workspace::Workspace;
use crate::{bpf, process};

/// Files of the repository that are released as they are, and where they go.
const FILES: [(&str, &str); 17] = [
    ("README.md", ""),
    ("CHANGELOG.md", ""),
    ("LICENSE-MIT", ""),
    ("LICENSE-APACHE", ""),
    ("LICENSE-GPL-2.0", ""),
    ("deploy/kubectl-egwtrace", ""),
    ("deploy/role.yaml", "deploy"),
    ("deploy/daemonset.yaml", "deploy"),
    ("deploy/pod.yaml", "deploy"),
    ("docs/causes.md", "docs"),
    ("docs/cluster.md", "docs"),
    ("docs/glossary.md", "docs"),
    ("docs/json.md", "docs"),
    ("docs/kernels.md", "docs"),
    ("docs/limitations.md", "docs"),
    ("docs/overhead.md", "docs"),
    ("docs/usage.md", "docs"),
];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Build for this target of rustc's, such as x86_64-unknown-linux-musl (a binary that needs no library).
    #[arg(long, value_name = "TRIPLE")]
    target: Option<String>,
}

/// Returns the path of the archive.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<PathBuf> {
    if let Some(target) = args.target.as_deref().filter(|target| target.ends_with("-musl"))
        && process::find("musl-gcc").is_none()
        && std::env::var_os(format!("CC_{}", target.replace('-', "_"))).is_none()
    {
        bail!(
            "no musl-gcc in PATH, with which parts of the TLS library are built for {target}: apt-get install musl-tools"
        );
    }
    bpf::build(workspace)?;
    let mut build = workspace.cargo();
    build.args(["build", "--release", "--locked", "-p", "tracer-user"]);
    if let Some(target) = &args.target {
        build.args(["--target", target]);
        build.envs(c_compiler(target));
    }
    let binary = process::build_executable(&mut build)?;
    let of = args.target.clone().unwrap_or_else(|| format!("{}-linux", std::env::consts::ARCH));
    let name = format!("egwtrace-{}-{of}", env!("CARGO_PKG_VERSION"));
    let dist = workspace.target().join("dist");
    let dir = dist.join(&name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let mut pages = workspace.cargo();
    pages.args(["run", "--quiet", "--locked", "-p", "tracer-user", "--example", "pages", "--"]).arg(&dir);
    process::run(&mut pages)?;
    copy(&binary, &dir.join("egwtrace"))?;
    for (file, to) in FILES {
        let from = workspace.root().join(file);
        let name = from.file_name().context("a file has a name")?;
        let to = dir.join(to);
        fs::create_dir_all(&to).with_context(|| format!("making {}", to.display()))?;
        copy(&from, &to.join(name))?;
    }
    let archive = dist.join(format!("{name}.tar.gz"));
    // The same input gives the same archive.
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "-czf"]);
    tar.arg(&archive).arg("-C").arg(&dist).arg(&name).env("GZIP", "-n");
    process::run(&mut tar)?;
    let sum = process::output(Command::new("sha256sum").arg(&archive))?;
    let sum = sum.split_whitespace().next().context("sha256sum says nothing")?;
    let krew = workspace.root().join("deploy/krew.yaml");
    let krew = fs::read_to_string(&krew).with_context(|| format!("reading {}", krew.display()))?;
    let of_archive = dist.join(format!("{name}.krew.yaml"));
    fs::write(&of_archive, krew.replace("@SHA256@", sum))
        .with_context(|| format!("writing {}", of_archive.display()))?;
    Ok(archive)
}

/// Cryptography has some C in it that includes nothing of a C library: for a musl target, where its own compiler is
/// not installed, the machine's does.
fn c_compiler(target: &str) -> Option<(String, &'static str)> {
    let variable = format!("CC_{}", target.replace('-', "_"));
    let is_own = target.starts_with(std::env::consts::ARCH) && target.ends_with("-musl");
    let chosen = std::env::var_os(&variable).is_some() || std::env::var_os("CC").is_some();
    let installed = || Command::new("musl-gcc").arg("--version").output().is_ok();
    (is_own && !chosen && !installed()).then_some((variable, "cc"))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map(drop).with_context(|| format!("copying {} to {}", from.display(), to.display()))
}
