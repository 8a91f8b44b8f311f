// SPDX-License-Identifier: MIT OR Apache-2.0
//! The BPF object: which compiler to build it with, and building it.
//!
//! Stable rustup toolchains have no `core` for bpfel-unknown-none. Two compilers can be used instead:
//! a nightly of rustup's, which builds `core` from rust-src, and Debian's rustc-web, for which a ready `core` is
//! packaged (libstd-rust-web-dev-bpf). In both cases bpf-linker links.
//!
//! bpf-linker brings no LLVM: it loads the first one that it finds beside the programs of PATH, of whatever
//! version. One that is older than the compiler's cannot read what the compiler wrote, so it is always given
//! the compiler's own.

use std::env;
use std::fmt;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::workspace::{self, Workspace};
use crate::{process, strip};

const TARGET: &str = "bpfel-unknown-none";
/// The nightly that `setup` installs, under its own name: whatever nightly is there already stays as it is.
/// Its LLVM is the one that bpf-linker is made for; that of later ones is not.
pub(crate) const NIGHTLY: &str = "nightly-2026-05-20";
/// Of aya-ebpf: the oldest rustc it compiles with.
const MINIMUM_RUSTC: (u32, u32) = (1, 87);
/// The oldest bpf-linker known to work with both compilers, and the one that `setup` installs.
pub(crate) const BPF_LINKER: (u32, u32, u32) = (0, 10, 3);
/// The major version of LLVM whose interface that bpf-linker is compiled for.
const BPF_LINKER_LLVM: u32 = 22;

/// Line information and BTF; the instructions of Linux 5.12 on (atomic fetch-and-add and exchange, which the
/// assembler refuses without); and zeroed records stay memset, which otherwise become a loop over their bytes.
const RUSTFLAGS: [&str; 8] = [
    "-C",
    "debuginfo=2",
    "-C",
    "target-cpu=v3",
    "-C",
    "link-arg=--btf",
    "-C",
    "link-arg=--disable-expand-memcpy-in-order",
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Compiler {
    /// A nightly toolchain of rustup's with rust-src: `-Z build-std=core`.
    Nightly { name: &'static str, bin: PathBuf },
    /// A rustc with a `core` for the target.
    Debian { rustc: PathBuf },
}

impl Compiler {
    fn rustc(&self) -> PathBuf {
        match self {
            Self::Nightly { bin, .. } => bin.join("rustc"),
            Self::Debian { rustc } => rustc.clone(),
        }
    }
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nightly { name, .. } => write!(f, "rustup's {name}, core built from rust-src"),
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

/// The compiler to use of those that are there; a nightly one first.
pub(crate) fn compiler() -> Result<Option<Compiler>> {
    let wanted = Wanted::from_env()?;
    if wanted.allows_nightly()
        && let Some(compiler) = [NIGHTLY, "nightly"].into_iter().find_map(nightly)
    {
        return Ok(Some(compiler));
    }
    if wanted.allows_debian() {
        return Ok(debian());
    }
    Ok(None)
}

/// rustup with its automatic installation off: we say what we install, and asking must not install.
pub(crate) fn rustup() -> Command {
    let mut command = Command::new("rustup");
    command.env("RUSTUP_AUTO_INSTALL", "0").env_remove("RUSTUP_TOOLCHAIN");
    command
}

fn nightly(name: &'static str) -> Option<Compiler> {
    let rustc = process::output(rustup().args(["which", "--toolchain", name, "rustc"])).ok()?;
    let bin = Path::new(rustc.trim()).parent()?.to_path_buf();
    let has_source = bin.parent()?.join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file();
    let version = Version::of(Path::new(rustc.trim()))?;
    (has_source && version.rustc >= MINIMUM_RUSTC && version.llvm == BPF_LINKER_LLVM)
        .then_some(Compiler::Nightly { name, bin })
}

/// Debian's rustc, not the first one of PATH: that is rustup's. Debian moves both on: a later LLVM is taken.
fn debian() -> Option<Compiler> {
    let rustc = PathBuf::from("/usr/bin/rustc");
    let version = Version::of(&rustc)?;
    let libraries =
        process::output(Command::new(&rustc).args(["--print", "target-libdir", "--target", TARGET])).ok()?;
    let usable = version.rustc >= MINIMUM_RUSTC
        && version.llvm >= BPF_LINKER_LLVM
        && has_core(Path::new(libraries.trim()));
    usable.then_some(Compiler::Debian { rustc })
}

fn has_core(libraries: &Path) -> bool {
    fs::read_dir(libraries).is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    rustc: (u32, u32),
    llvm: u32,
}

impl Version {
    fn of(rustc: &Path) -> Option<Self> {
        Self::parse(&process::output(Command::new(rustc).arg("-vV")).ok()?)
    }

    /// From what `rustc -vV` prints.
    fn parse(text: &str) -> Option<Self> {
        let value = |key| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
        let (major, minor, _) = three_numbers(value("release")?)?;
        Some(Self { rustc: (major, minor), llvm: value("LLVM version")?.split('.').next()?.parse().ok()? })
    }
}

/// `x.y.z`, whatever follows.
fn three_numbers(text: &str) -> Option<(u32, u32, u32)> {
    let mut numbers = text.trim().split(['.', '-', '+', ' ']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// The LLVM library that a rustc itself uses, as the dynamic loader resolves it.
fn llvm_of(rustc: &Path) -> Option<PathBuf> {
    let libraries = process::output(Command::new("ldd").arg(rustc).env_remove("LD_LIBRARY_PATH")).ok()?;
    libraries.lines().find_map(|line| {
        let (name, path) = line.trim().split_once(" => ")?;
        // The path is followed by the address it was loaded at.
        let path = path.rsplit_once(" (").map_or(path, |(path, _)| path);
        name.starts_with("libLLVM").then(|| PathBuf::from(path))
    })
}

/// bpf-linker, when there is one that is new enough: in PATH or where `cargo install` puts it.
pub(crate) fn linker() -> Option<PathBuf> {
    let file = process::find("bpf-linker").or_else(|| {
        let installed = cargo_bin()?.join("bpf-linker");
        process::is_executable(&installed).then_some(installed)
    })?;
    let text = process::output(Command::new(&file).arg("--version")).ok()?;
    (three_numbers(text.strip_prefix("bpf-linker ")?)? >= BPF_LINKER).then_some(file)
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
    let built = process::build_executable(&mut command(workspace, &compiler, &linker)?)?;
    let elf = fs::read(&built).with_context(|| format!("reading {}", built.display()))?;
    write_if_different(&strip::debug_sections(&elf)?, &workspace.bpf_object())
}

fn command(workspace: &Workspace, compiler: &Compiler, linker: &Path) -> Result<Command> {
    let mut command = match compiler {
        Compiler::Nightly { bin, .. } => {
            // Not by `rustup run`, which would put the toolchain's libraries before the one chosen below.
            let mut command = Command::new(bin.join("cargo"));
            command.args(["build", "-Z", "build-std=core"]).env_remove("RUSTUP_TOOLCHAIN");
            command
        }
        Compiler::Debian { .. } => {
            let mut command = Command::new(workspace::cargo());
            // aya-ebpf and the target itself need unstable features, which this rustc does have.
            command.arg("build").env("RUSTC_BOOTSTRAP", "1");
            command
        }
    };
    let directory = workspace.target().join("bpf");
    command.args(["--release", "--locked", "--target", TARGET, "--target-dir"]).arg(directory.join("build"));
    if let Some(llvm) = llvm_of(&compiler.rustc()) {
        command.env("LD_LIBRARY_PATH", directory_with(&llvm, &directory.join("llvm"))?);
    }
    command
        .current_dir(workspace.bpf_crate())
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("RUSTFLAGS")
        .env("RUSTC", compiler.rustc())
        .env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join("\u{1f}"))
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker);
    Ok(command)
}

/// A directory with a link to the library and nothing else, for bpf-linker to find.
fn directory_with(library: &Path, directory: &Path) -> Result<PathBuf> {
    fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    let link = directory.join("libLLVM.so");
    if fs::read_link(&link).is_ok_and(|present| present == library) {
        return Ok(directory.to_path_buf());
    }
    // Fails when there is none yet.
    let _ = fs::remove_file(&link);
    symlink(library, &link).with_context(|| format!("making {}", link.display()))?;
    Ok(directory.to_path_buf())
}

pub(crate) fn lint_format(workspace: &Workspace) -> Result<()> {
    process::run(workspace.cargo().current_dir(workspace.bpf_crate()).args(["fmt", "--check"]))
}

/// The workspace's clippy, on the machine's own target: neither BPF compiler brings one along. The crate is
/// `no_std` and compiles there too, though it would do nothing.
pub(crate) fn lint_clippy(workspace: &Workspace) -> Result<()> {
    let mut clippy = workspace.cargo();
    clippy.current_dir(workspace.bpf_crate()).env_remove("CARGO_TARGET_DIR").env("RUSTC_BOOTSTRAP", "1");
    clippy.env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", "-Cpanic=abort");
    clippy.args(["clippy", "--locked", "--target-dir"]).arg(workspace.target().join("bpf/build"));
    process::run(clippy.args(["--", "-D", "warnings"]))
}

/// Leaves an identical file alone, so that what depends on it is not compiled again.
fn write_if_different(bytes: &[u8], to: &Path) -> Result<()> {
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
        let nightly = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nbinary: rustc\nrelease: 1.97.0-nightly\nLLVM version: 22.1.4\n";
        assert_eq!(Version::parse(nightly), Some(Version { rustc: (1, 97), llvm: 22 }));
        assert_eq!(Version::parse("rustc 1.97.0"), None);
        assert_eq!(three_numbers("0.10.3\n"), Some((0, 10, 3)));
        assert_eq!(three_numbers("0.11"), None);
        assert_eq!(three_numbers("x.y.z"), None);
    }

    #[test]
    fn the_llvm_of_the_running_rustc_is_a_file() {
        let rustc = process::output(Command::new("rustc").args(["--print", "sysroot"])).unwrap();
        let llvm = llvm_of(&Path::new(rustc.trim()).join("bin/rustc"));
        // A rustc may have LLVM built in; then there is nothing to find.
        assert!(llvm.is_none_or(|file| file.is_file()));
    }

    #[test]
    fn the_link_to_llvm_follows_the_compiler() {
        let directory = env::temp_dir().join(format!("xtask-llvm-{}", std::process::id()));
        for library in ["/one/libLLVM.so.22.1", "/one/libLLVM.so.22.1", "/two/libLLVM.so.22.1"] {
            let found = directory_with(Path::new(library), &directory.join("llvm")).unwrap();
            assert_eq!(fs::read_link(found.join("libLLVM.so")).unwrap(), Path::new(library));
        }
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn an_identical_object_keeps_its_time() {
        let directory = env::temp_dir().join(format!("xtask-write-{}", std::process::id()));
        let to = directory.join("sub/b");
        write_if_different(b"object", &to).unwrap();
        let old = std::time::SystemTime::UNIX_EPOCH;
        fs::File::open(&to).unwrap().set_modified(old).unwrap();
        write_if_different(b"object", &to).unwrap();
        assert_eq!(to.metadata().unwrap().modified().unwrap(), old);
        write_if_different(b"another", &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"another");
        fs::remove_dir_all(&directory).unwrap();
    }
}
