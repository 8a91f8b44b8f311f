// SPDX-License-Identifier: MIT OR Apache-2.0
//! Puts the BPF object into OUT_DIR as `egwtrace.bpf`, from where the binary includes it.
//!
//! The object is built by `cargo xtask build`, with a compiler of its own; a build script that called it would
//! hide that and hold cargo's lock meanwhile.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=EGWTRACE_BPF_OBJECT");
    match embed() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            println!("cargo::error={message}");
            ExitCode::FAILURE
        }
    }
}

fn embed() -> Result<(), String> {
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: not started by cargo")?);
    let object = match env::var_os("EGWTRACE_BPF_OBJECT") {
        Some(path) => PathBuf::from(path),
        None => built_by_xtask(&out_dir),
    };
    // A file that does not exist counts as changed: the script runs again when there may be one.
    println!("cargo::rerun-if-changed={}", object.display());
    let copy = out_dir.join("egwtrace.bpf");
    // Not written through: target directories may share their files by hard links.
    let _ = fs::remove_file(&copy);
    fs::copy(&object, copy)
        .map(|_| ())
        .map_err(|error| format!("no BPF object at {} ({error}): run `cargo xtask build`", object.display()))
}

/// `<target>/bpf/egwtrace`; OUT_DIR is `<target>/[<triple>/]<profile>/build/<package>/out`.
fn built_by_xtask(out_dir: &Path) -> PathBuf {
    let candidates: Vec<PathBuf> =
        out_dir.ancestors().skip(4).take(2).map(|target| target.join("bpf/egwtrace")).collect();
    let found = candidates.iter().find(|object| object.is_file()).or(candidates.first());
    found.cloned().unwrap_or_else(|| PathBuf::from("target/bpf/egwtrace"))
}
