// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the repository and its target directory are, whatever directory xtask was started in.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::process;

#[derive(Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
    /// Cargo's `build.build-dir`, when it is not the target directory.
    build_dir: Option<PathBuf>,
}

impl Workspace {
    /// Asks cargo, in the directory xtask was started in: that is what a relative `CARGO_TARGET_DIR` refers to.
    pub(crate) fn find() -> Result<Self> {
        let manifest_dir =
            env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&manifest_dir)
            .parent()
            .with_context(|| format!("{} has no parent", Path::new(&manifest_dir).display()))?
            .to_path_buf();
        let mut command = Command::new(cargo());
        command.args(["metadata", "--no-deps", "--format-version=1", "--manifest-path"]);
        command.arg(root.join("Cargo.toml"));
        let metadata: Value = serde_json::from_str(&process::output(&mut command)?)
            .context("reading cargo metadata's answer")?;
        let directory = |key: &str| metadata.get(key).and_then(Value::as_str).map(PathBuf::from);
        let target = directory("target_directory").context("cargo metadata names no target directory")?;
        let build_dir = directory("build_directory").filter(|dir| *dir != target);
        Ok(Self { root, target, build_dir })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Where `build` leaves the BPF object and tracer-user's build script looks for it.
    pub(crate) fn bpf_object(&self) -> PathBuf {
        self.target.join("bpf/egwtrace")
    }

    /// The crate of the BPF programs: not a member of the workspace.
    pub(crate) fn bpf_crate(&self) -> PathBuf {
        self.root.join("tracer-ebpf")
    }

    /// The cargo that runs us, in the workspace's root.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new(cargo());
        command.current_dir(&self.root).env("CARGO_TARGET_DIR", &self.target);
        // tracer-user's build script looks beside its own output, which is elsewhere in this case only.
        // Not set otherwise: a plain `cargo test` would find the variable changed and compile again.
        if self.build_dir.is_some() && env::var_os("EGWTRACE_BPF_OBJECT").is_none() {
            command.env("EGWTRACE_BPF_OBJECT", self.bpf_object());
        }
        command
    }
}

/// Cargo's path: of the one that started us, so that the toolchain stays the same.
pub(crate) fn cargo() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}
