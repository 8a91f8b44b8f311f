// SPDX-License-Identifier: MIT OR Apache-2.0
//! Containers of Docker, and of podman where its service runs: both answer Docker's HTTP interface
//! (<https://docs.docker.com/reference/api/engine/>) at a Unix socket.

use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::Request;
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::backend::{Backend, Kind, Known, Located};
use super::containerd::of_process;
use super::error::TargetError;
use super::rpc::{LIMIT, RpcError};
use crate::text::printable;

/// Docker's socket, and those of podman's service, root's.
const USUAL: [&str; 2] = ["/run/docker.sock", "/run/podman/podman.sock"];
/// Of one answer, bytes.
const LARGEST: usize = 16 << 20;

/// The usual sockets that are there.
pub fn usual() -> Vec<PathBuf> {
    let is_socket = |path: &PathBuf| path.metadata().is_ok_and(|m| m.file_type().is_socket());
    USUAL.iter().map(PathBuf::from).filter(is_socket).collect()
}

/// What answers Docker's interface behind a socket.
#[derive(Debug)]
pub struct Docker {
    socket: PathBuf,
    runtime: tokio::runtime::Runtime,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerContainer {
    id: String,
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    created: serde_json::Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    state: DockerState,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerState {
    pid: u32,
}

impl Docker {
    /// Nothing is asked yet.
    pub fn new(socket: &Path) -> Result<Self, TargetError> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
                TargetError::Runtime { asked: describe(socket), source: RpcError::Start(error), hint: "" }
            })?;
        Ok(Self { socket: socket.to_path_buf(), runtime })
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, TargetError> {
        let answer = self.runtime.block_on(async {
            timeout(LIMIT, get(&self.socket, path)).await.unwrap_or(Err(RpcError::Timeout(LIMIT)))
        });
        let failed = |source| {
            let hint = match &source {
                RpcError::Connect(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                    "; run as root, or as someone who may use the socket"
                }
                RpcError::Connect(_) => "; is the service running?",
                _ => "",
            };
            TargetError::Runtime { asked: self.describe(), source, hint }
        };
        let bytes = answer.map_err(failed)?;
        serde_json::from_slice(&bytes)
            .map_err(|error| failed(RpcError::NotHttp(printable(error.to_string()))))
    }
}

impl Backend for Docker {
    fn describe(&self) -> String {
        describe(&self.socket)
    }

    fn kind(&self) -> Kind {
        Kind::Containers
    }

    fn list(&self) -> Result<Vec<Known>, TargetError> {
        let all: Vec<DockerContainer> = self.get("/containers/json")?;
        Ok(all
            .into_iter()
            .map(|listed| Known {
                // Docker's begin with a slash, podman's do not; the shortest is its own, the others are links'.
                name: listed
                    .names
                    .iter()
                    .map(|name| name.trim_start_matches('/'))
                    .min_by_key(|name| name.len())
                    .unwrap_or(&listed.id)
                    .to_owned(),
                created_ns: listed.created.as_i64().unwrap_or(0).saturating_mul(1_000_000_000),
                id: listed.id,
                ..Known::default()
            })
            .collect())
    }

    fn locate(&self, known: &Known) -> Result<Located, TargetError> {
        let id: String = known.id.chars().filter(char::is_ascii_alphanumeric).collect();
        let inspected: Inspected = self.get(&format!("/containers/{id}/json"))?;
        of_process(inspected.state.pid, known)
    }
}

fn describe(socket: &Path) -> String {
    let name = if socket.to_string_lossy().contains("podman") { "podman" } else { "Docker" };
    format!("{name} at {}", printable(socket.as_os_str().as_encoded_bytes()))
}

/// The body of a GET that succeeded.
async fn get(socket: &Path, path: &str) -> Result<Bytes, RpcError> {
    let stream = UnixStream::connect(socket).await.map_err(RpcError::Connect)?;
    let not_http = |error: hyper::Error| RpcError::NotHttp(printable(error.to_string()));
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(not_http)?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    let request = Request::get(path)
        .header("host", "docker")
        .body(Empty::<Bytes>::new())
        .map_err(|error| RpcError::NotHttp(error.to_string()))?;
    let response = sender.send_request(request).await.map_err(not_http)?;
    let status = response.status();
    if !status.is_success() {
        return Err(RpcError::NotHttp(format!("HTTP status {status} for {}", printable(path))));
    }
    let body = Limited::new(response.into_body(), LARGEST).collect().await;
    Ok(body.map_err(|error| RpcError::NotHttp(printable(error.to_string())))?.to_bytes())
}
