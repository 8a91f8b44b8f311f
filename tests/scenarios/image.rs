// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Containerfile, which no registry is needed for to be looked at: every file that it copies, every stage, target
//! and command of it is one that is there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Instructions with their arguments; continued lines are one.
fn instructions() -> Result<Vec<(String, String)>> {
    let text = fs::read_to_string(root().join("Containerfile"))?;
    let joined = text.lines().filter(|l| !l.trim_start().starts_with('#')).collect::<Vec<_>>().join("\n");
    let joined = joined.replace("\\\n", " ");
    joined
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| {
            let (word, rest) = line.trim().split_once(' ').with_context(|| line.to_owned())?;
            Ok((word.to_owned(), rest.split_whitespace().collect::<Vec<_>>().join(" ")))
        })
        .collect()
}

fn of<'a>(all: &'a [(String, String)], word: &str) -> Vec<&'a str> {
    all.iter().filter(|(w, _)| w == word).map(|(_, rest)| rest.as_str()).collect()
}

#[test]
fn every_stage_and_copy_is_there() -> Result<()> {
    let all = instructions()?;
    for (word, _) in &all {
        assert!(["FROM", "RUN", "WORKDIR", "COPY", "ENTRYPOINT"].contains(&word.as_str()), "{word}");
    }
    let stages = of(&all, "FROM");
    assert_eq!(stages.last(), Some(&"scratch"), "nothing but the binary");
    let named: Vec<&str> = stages.iter().filter_map(|s| s.split_once(" AS ").map(|(_, name)| name)).collect();
    let runs = of(&all, "RUN").join("\n");
    for copy in of(&all, "COPY") {
        let words: Vec<&str> = copy.split(' ').collect();
        match words.as_slice() {
            [from, source, target] => {
                let stage = from.strip_prefix("--from=").context("a stage")?;
                assert!(named.contains(&stage), "{stage}");
                // Made by that stage's last command.
                assert!(runs.contains(&format!(" {source}")), "{source} is made by no command");
                assert_eq!(of(&all, "ENTRYPOINT"), [format!("[\"{target}\"]")]);
            }
            [source, _] => assert!(root().join(source).exists(), "{source}"),
            other => panic!("{other:?}"),
        }
    }
    Ok(())
}

#[test]
fn it_builds_with_the_compiler_and_commands_that_the_workspace_builds_with() -> Result<()> {
    let all = instructions()?;
    let manifest = fs::read_to_string(root().join("Cargo.toml"))?;
    let version = manifest.lines().find_map(|l| l.strip_prefix("rust-version = ")).context("rust-version")?;
    let image = of(&all, "FROM")[0];
    assert!(image.contains(&format!("/rust:{}-", version.trim_matches('"'))), "{image} {version}");
    let runs = of(&all, "RUN").join("\n");
    let bpf = fs::read_to_string(root().join("xtask/src/bpf.rs"))?;
    // The linker that setup installs, in its version.
    let linker =
        runs.split("bpf-linker --version ").nth(1).and_then(|r| r.split(' ').next()).context("bpf-linker")?;
    let numbers = format!("BPF_LINKER: (u32, u32, u32) = ({})", linker.replace('.', ", "));
    assert!(bpf.contains(&numbers), "bpf-linker {linker} is not what xtask installs");
    // Its target is one that the image's machine has, and dist's own build command is the image's.
    // What dist asks for where it is missing.
    let dist = fs::read_to_string(root().join("xtask/src/dist.rs"))?;
    assert!(dist.contains("musl-tools") && runs.contains("musl-tools"));
    assert!(runs.contains("rustup target add \"$(uname -m)-unknown-linux-musl\""), "{runs}");
    assert!(runs.contains("cargo xtask dist --target \"$(uname -m)-unknown-linux-musl\""), "{runs}");
    assert!(runs.contains("target/\"$(uname -m)\"-unknown-linux-musl/release/egwtrace"), "{runs}");
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let known = Command::new("rustc").args(["--print", "target-list"]).output()?;
    assert!(String::from_utf8_lossy(&known.stdout).lines().any(|line| line == target), "{target}");
    // The very command of the image, as far as it goes without building: xtask knows it.
    let help = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--locked", "-p", "xtask", "--", "dist", "--target", &target, "--help"])
        .current_dir(root())
        .output()?;
    let said = String::from_utf8_lossy(&help.stdout);
    assert!(help.status.success() && said.contains("--target <TRIPLE>"), "{said}");
    Ok(())
}

#[test]
fn what_is_not_source_is_not_sent_to_the_builder() -> Result<()> {
    let ignored = fs::read_to_string(root().join(".containerignore"))?;
    for heavy in ["target", ".git"] {
        assert!(ignored.lines().any(|line| line.trim_matches('/') == heavy), "{heavy}");
    }
    Ok(())
}
