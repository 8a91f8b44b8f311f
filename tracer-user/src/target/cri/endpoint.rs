// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the sockets of container runtimes are.

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use crate::target::TargetError;
use crate::text::quoted;

/// Where distributions put the CRI socket: containerd, CRI-O, K3s and RKE2, k0s, MicroK8s, cri-dockerd.
pub const USUAL: [&str; 6] = [
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/k3s/containerd/containerd.sock",
    "/run/k0s/containerd.sock",
    "/var/snap/microk8s/common/run/containerd.sock",
    "/run/cri-dockerd.sock",
];

/// The usual ones that are there.
pub fn usual() -> Vec<PathBuf> {
    let is_socket = |path: &Path| path.metadata().is_ok_and(|m| m.file_type().is_socket());
    USUAL.iter().map(PathBuf::from).filter(|path| is_socket(path)).collect()
}

/// `--runtime-endpoint` as kubelet and crictl take it: a path, or `unix://` and a path.
pub fn parse(value: &str) -> Result<PathBuf, TargetError> {
    let wrong = |problem: &str| TargetError::Endpoint { value: quoted(value), problem: problem.to_owned() };
    let path = match value.split_once("://") {
        Some(("unix", path)) => path,
        Some(_) => return Err(wrong("only Unix sockets are spoken to")),
        None => value,
    };
    let path = Path::new(path);
    if !path.is_absolute() {
        return Err(wrong("not an absolute path"));
    }
    // sun_path of unix(7), with the zero at its end.
    if path.as_os_str().as_bytes().len() > 107 {
        return Err(wrong("longer than the path of a socket can be (107 bytes)"));
    }
    match path.metadata() {
        Ok(meta) if meta.file_type().is_socket() => Ok(path.to_path_buf()),
        Ok(_) => Err(wrong("not a socket")),
        Err(error) => Err(wrong(&error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_as_kubelet_takes_them() {
        let dir = std::env::temp_dir().join(format!("egwt-endpoint-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let socket = dir.join("x.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let text = socket.to_str().unwrap();
        assert_eq!(parse(text).unwrap(), socket);
        assert_eq!(parse(&format!("unix://{text}")).unwrap(), socket);
        for (value, problem) in [
            ("", "not an absolute path"),
            ("containerd.sock", "not an absolute path"),
            ("tcp://127.0.0.1:80", "only Unix sockets"),
            ("/nowhere/x.sock", "No such file"),
            ("/etc/passwd", "not a socket"),
            ("unix:///\x1b[2J", "\"unix:///\\x1b[2J\""),
            (&format!("/{}", "x".repeat(200)), "107 bytes"),
        ] {
            let error = parse(value).unwrap_err().to_string();
            assert!(error.contains(problem) && error.contains("accepted: the path"), "{value}: {error}");
        }
        std::fs::remove_dir_all(dir).unwrap();
    }
}
