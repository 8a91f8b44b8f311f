// SPDX-License-Identifier: MIT OR Apache-2.0
//! An image out of nothing but busybox: a docker-archive of one layer.

use std::{
    fs,
    io::Read,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use super::IMAGE;

/// What of busybox has a name in the image.
const APPLETS: [&str; 8] = ["sh", "sleep", "nc", "cat", "echo", "httpd", "ip", "true"];

/// Whether a program needs no interpreter: it has no PT_INTERP among its program headers.
pub(super) fn is_static(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(4096).read_to_end(&mut head));
    read.is_ok()
        && head.starts_with(b"\x7fELF")
        && !head.windows(8).any(|at| at.starts_with(b"/lib") || at.starts_with(b"/ld-"))
}

/// Writes the archive into `dir`.
pub(super) fn archive(dir: &Path, busybox: &Path) -> Result<PathBuf> {
    let (root, parts) = (dir.join("image/root"), dir.join("image/parts"));
    for path in [root.join("bin"), root.join("tmp"), root.join("www"), parts.clone()] {
        fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
    }
    fs::copy(busybox, root.join("bin/busybox")).context("copying busybox")?;
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).context("naming an applet")?;
    }
    fs::write(root.join("www/index.html"), "hello\n")?;
    tar(&root, &parts.join("layer.tar"), &["bin", "tmp", "www"])?;
    let digest = sha256(&parts.join("layer.tar"))?;
    let config = format!(
        r#"{{"architecture": "{}", "os": "linux", "config": {{"Env": ["PATH=/bin"], "Cmd": ["/bin/sleep", "1000000"]}},
"rootfs": {{"type": "layers", "diff_ids": ["sha256:{digest}"]}}}}"#,
        match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
    );
    fs::write(parts.join("config.json"), config)?;
    let manifest =
        format!(r#"[{{"Config": "config.json", "RepoTags": ["{IMAGE}"], "Layers": ["layer.tar"]}}]"#);
    fs::write(parts.join("manifest.json"), manifest)?;
    let archive = dir.join("image.tar");
    tar(&parts, &archive, &["manifest.json", "config.json", "layer.tar"])?;
    Ok(archive)
}

fn tar(from: &Path, to: &Path, members: &[&str]) -> Result<()> {
    run(Command::new("tar").args(["--owner=0", "--group=0", "-cf"]).arg(to).arg("-C").arg(from).args(members))
        .map(drop)
}

fn sha256(file: &Path) -> Result<String> {
    let line = run(Command::new("sha256sum").arg(file))?;
    line.split_whitespace().next().map(str::to_owned).context("sha256sum says nothing")
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("starting {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
