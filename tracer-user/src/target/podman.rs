// SPDX-License-Identifier: MIT OR Apache-2.0
//! Containers of podman without its service, root's: from the files of containers/storage
//! (<https://github.com/containers/storage>): `containers.json` has their names, a `pidfile` their process.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::backend::{Backend, Kind, Known, Located};
use super::containerd::of_process;
use super::error::TargetError;
use crate::text::printable;

/// Longest file that is read, bytes.
const LARGEST: u64 = 64 << 20;

/// Two directories of containers/storage.
#[derive(Clone, Debug)]
pub struct Podman {
    /// What lasts: `/var/lib/containers/storage`.
    graph: PathBuf,
    /// What does not: `/run/containers/storage`.
    run: PathBuf,
}

#[derive(Deserialize)]
struct PodmanContainer {
    id: String,
    #[serde(default)]
    names: Vec<String>,
}

impl Podman {
    pub fn new(graph: impl Into<PathBuf>, run: impl Into<PathBuf>) -> Self {
        Self { graph: graph.into(), run: run.into() }
    }

    /// Root's, where there is one.
    pub fn usual() -> Option<Self> {
        let podman = Self::new("/var/lib/containers/storage", "/run/containers/storage");
        podman.graph.is_dir().then_some(podman)
    }

    /// The directories of the storage drivers: `overlay-containers`, `vfs-containers`.
    fn drivers(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.graph).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| name.ends_with("-containers")).collect()
    }

    /// The container's process, when it runs: one that is of this container by its cgroup, not one that was given
    /// the number later.
    fn pid(&self, id: &str) -> Option<u32> {
        self.drivers().iter().find_map(|driver| {
            let file = self.run.join(driver).join(id).join("userdata/pidfile");
            let pid: u32 = fs::read_to_string(file).ok()?.trim().parse().ok()?;
            let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
            cgroups.contains(id).then_some(pid)
        })
    }
}

impl Backend for Podman {
    fn describe(&self) -> String {
        format!("podman's storage in {}", printable(self.graph.as_os_str().as_encoded_bytes()))
    }

    fn kind(&self) -> Kind {
        Kind::Containers
    }

    fn list(&self) -> Result<Vec<Known>, TargetError> {
        let mut out = Vec::new();
        for driver in self.drivers() {
            let listed = read(&self.graph.join(&driver).join("containers.json")).unwrap_or_default();
            for PodmanContainer { id, names } in listed {
                // It becomes part of a path.
                if id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric()) {
                    continue;
                }
                let stopped = self.pid(&id).is_none();
                out.push(Known {
                    name: names.first().unwrap_or(&id).clone(),
                    id,
                    stopped,
                    ..Known::default()
                });
            }
        }
        Ok(out)
    }

    fn locate(&self, known: &Known) -> Result<Located, TargetError> {
        of_process(self.pid(&known.id).unwrap_or(0), known)
    }
}

/// What is not there or cannot be read has no containers.
fn read(file: &Path) -> Option<Vec<PodmanContainer>> {
    fs::metadata(file).ok().filter(|m| m.len() <= LARGEST)?;
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}
