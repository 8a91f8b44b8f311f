// SPDX-License-Identifier: MIT OR Apache-2.0
//! The BPF object: which compiler to build it with, and building it.
//!
//! Stable rustup toolchains have no `core` for bpfel-unknown-none. Two compilers can be used instead:
//! rustup's nightly, which builds `core` from rust-src, and Debian's rustc-web, for which a ready `core` is
//! packaged (libstd-rust-web-dev-bpf). In both cases bpf-linker links.

use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::process;
use crate::workspace::{self, Workspace};

const TARGET: &str = "bpfel-unknown-none";
/// Of aya-ebpf: the oldest rustc it compiles with.
const MINIMUM_RUSTC: (u32, u32) = (1, 87);
/// The oldest bpf-linker known to work with both compilers, and the one that `setup` installs.
pub(crate) const BPF_LINKER: (u32, u32, u32) = (0, 10, 3);

/// Line information and BTF; and zeroed records stay memset, which otherwise become a loop over their bytes.
const RUSTFLAGS: [&str; 6] =
    ["-C", "debuginfo=2", "-C", "link-arg=--btf", "-C", "link-arg=--disable-expand-memcpy-in-order"];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Compiler {
    /// rustup's `nightly`, with rust-src: `-Z build-std=core`.
    Nightly,
    /// A rustc with a `core` for the target.
    Debian { rustc: PathBuf },
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nightly => write!(f, "rustup's nightly, core built from rust-src"),
            Self::Debian { rustc } => write!(f, "{} with its packaged core for {TARGET}", rustc.display()),
        }
    }
}

/// What `EGWTRACE_BPF_COMPILER` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Any,
    Nightly,
    Debian,
}

impl Wanted {
    pub(crate) fn from_env() -> Result<Self> {
        match env::var("EGWTRACE_BPF_COMPILER").unwrap_or_default().as_str() {
            "" | "auto" => Ok(Self::Any),
            "nightly" => Ok(Self::Nightly),
            "debian" => Ok(Self::Debian),
            other => bail!("EGWTRACE_BPF_COMPILER={other}: must be nightly, debian or auto"),
        }
    }

    pub(crate) fn allows_nightly(self) -> bool {
        self != Self::Debian
    }

    pub(crate) fn allows_debian(self) -> bool {
        self != Self::Nightly
    }
}

/// The compiler to use of those that are there; the nightly one first.
pub(crate) fn compiler() -> Result<Option<Compiler>> {
    let wanted = Wanted::from_env()?;
    if wanted.allows_nightly() && nightly_is_ready() {
        return Ok(Some(Compiler::Nightly));
    }
    if wanted.allows_debian() {
        return Ok(debian_rustc().map(|rustc| Compiler::Debian { rustc }));
    }
    Ok(None)
}

/// rustup with its automatic installation off: we say what we install, and asking must not install.
pub(crate) fn rustup() -> Command {
    let mut command = Command::new("rustup");
    command.env("RUSTUP_AUTO_INSTALL", "0").env_remove("RUSTUP_TOOLCHAIN");
    command
}

/// A toolchain named `nightly` exists, with or without rust-src.
pub(crate) fn nightly_exists() -> bool {
    process::output(rustup().args(["run", "nightly", "rustc", "--version"])).is_ok()
}

fn nightly_is_ready() -> bool {
    if process::find("rustup").is_none() {
        return false;
    }
    let rustc = |arg| process::output(rustup().args(["run", "nightly", "rustc"]).args(arg));
    let Ok(sysroot) = rustc(&["--print", "sysroot"][..]) else { return false };
    Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file()
        && rustc(&["--version"][..]).is_ok_and(|version| is_new_enough(&version))
}

/// Debian's rustc, not the first one of PATH: that is rustup's.
fn debian_rustc() -> Option<PathBuf> {
    let rustc = PathBuf::from("/usr/bin/rustc");
    let version = process::output(Command::new(&rustc).arg("--version")).ok()?;
    let libraries =
        process::output(Command::new(&rustc).args(["--print", "target-libdir", "--target", TARGET])).ok()?;
    (is_new_enough(&version) && has_core(Path::new(libraries.trim()))).then_some(rustc)
}

fn has_core(libraries: &Path) -> bool {
    fs::read_dir(libraries).is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
    })
}

fn is_new_enough(rustc_version: &str) -> bool {
    version(rustc_version).is_some_and(|(major, minor, _)| (major, minor) >= MINIMUM_RUSTC)
}

/// The first `x.y.z` of what a program says to `--version`.
fn version(text: &str) -> Option<(u32, u32, u32)> {
    let word = text.split_whitespace().nth(1)?;
    let mut numbers = word.split(['.', '-', '+']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// bpf-linker, when there is one that is new enough: in PATH or where `cargo install` puts it.
pub(crate) fn linker() -> Option<PathBuf> {
    let file = process::find("bpf-linker").or_else(|| {
        let installed = cargo_bin()?.join("bpf-linker");
        process::is_executable(&installed).then_some(installed)
    })?;
    let text = process::output(Command::new(&file).arg("--version")).ok()?;
    (version(&text)? >= BPF_LINKER).then_some(file)
}

fn cargo_bin() -> Option<PathBuf> {
    let home = env::var_os("CARGO_INSTALL_ROOT").or_else(|| env::var_os("CARGO_HOME")).map(PathBuf::from);
    Some(home.or_else(|| Some(env::home_dir()?.join(".cargo")))?.join("bin"))
}

/// Builds the object, if it is not up to date, and puts it where tracer-user's build script finds it.
pub(crate) fn build(workspace: &Workspace) -> Result<()> {
    if let Some(object) = env::var_os("EGWTRACE_BPF_OBJECT") {
        eprintln!("xtask: BPF object: {} (EGWTRACE_BPF_OBJECT), not built", Path::new(&object).display());
        return Ok(());
    }
    let compiler = compiler()?.context("no compiler for BPF: run `cargo xtask setup`")?;
    let linker = linker().with_context(|| {
        let (major, minor, patch) = BPF_LINKER;
        format!("no bpf-linker {major}.{minor}.{patch} or later: run `cargo xtask setup`")
    })?;
    eprintln!("xtask: BPF object: by {compiler}");
    let built = process::build_executable(&mut command(workspace, &compiler, &linker))?;
    let object = workspace.bpf_object();
    copy_if_different(&built, &object)
}

fn command(workspace: &Workspace, compiler: &Compiler, linker: &Path) -> Command {
    let mut command = match compiler {
        Compiler::Nightly => {
            let mut command = rustup();
            command.args(["run", "nightly", "cargo", "build", "-Z", "build-std=core"]);
            command.env_remove("RUSTC");
            command
        }
        Compiler::Debian { rustc } => {
            let mut command = Command::new(workspace::cargo());
            // aya-ebpf and the target itself need unstable features, which this rustc does have.
            command.arg("build").env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
            command
        }
    };
    command.args(["--release", "--target", TARGET, "--target-dir"]).arg(workspace.target().join("bpf/build"));
    if workspace.bpf_crate().join("Cargo.lock").is_file() {
        command.arg("--locked");
    }
    command
        .current_dir(workspace.bpf_crate())
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("RUSTFLAGS")
        .env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join("\u{1f}"))
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker);
    command
}

/// Format and clippy for the crate of the BPF programs.
///
/// Clippy is the workspace's, on the machine's own target: neither BPF compiler brings one along. The crate is
/// `no_std` and compiles there too, though it would do nothing.
pub(crate) fn lint(workspace: &Workspace) -> Result<()> {
    let krate = workspace.bpf_crate();
    process::run(workspace.cargo().current_dir(&krate).args(["fmt", "--check"]))?;
    let mut clippy = workspace.cargo();
    clippy.current_dir(&krate).env_remove("CARGO_TARGET_DIR").env("RUSTC_BOOTSTRAP", "1");
    clippy.env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", "-Cpanic=abort");
    clippy.args(["clippy", "--target-dir"]).arg(workspace.target().join("bpf/build"));
    process::run(clippy.args(["--", "-D", "warnings"]))
}

/// Leaves an identical file alone, so that what depends on it is not compiled again.
fn copy_if_different(from: &Path, to: &Path) -> Result<()> {
    let bytes = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
    if fs::read(to).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    if let Some(directory) = to.parent() {
        fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    }
    fs::write(to, bytes).with_context(|| format!("writing {}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_the_programs_print_them() {
        assert_eq!(version("rustc 1.97.0-nightly (e50aa6fba 2026-05-19)"), Some((1, 97, 0)));
        assert_eq!(
            version("rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)"),
            Some((1, 96, 0))
        );
        assert_eq!(version("bpf-linker 0.10.3"), Some((0, 10, 3)));
        assert_eq!(version("bpf-linker"), None);
        assert_eq!(version("bpf-linker x.y.z"), None);
    }

    #[test]
    fn a_rustc_older_than_aya_wants_is_not_taken() {
        assert!(is_new_enough("rustc 1.87.0 (x)"));
        assert!(!is_new_enough("rustc 1.63.0"));
        assert!(!is_new_enough(""));
    }

    #[test]
    fn an_identical_object_keeps_its_time() {
        let directory = env::temp_dir().join(format!("xtask-copy-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let (from, to) = (directory.join("a"), directory.join("sub/b"));
        fs::write(&from, b"object").unwrap();
        copy_if_different(&from, &to).unwrap();
        let old = std::time::SystemTime::UNIX_EPOCH;
        fs::File::open(&to).unwrap().set_modified(old).unwrap();
        copy_if_different(&from, &to).unwrap();
        assert_eq!(to.metadata().unwrap().modified().unwrap(), old);
        fs::write(&from, b"another").unwrap();
        copy_if_different(&from, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"another");
        fs::remove_dir_all(&directory).unwrap();
    }
}
