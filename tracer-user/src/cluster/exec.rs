// SPDX-License-Identifier: MIT OR Apache-2.0
//! Programs that give credentials out (`exec` in a kubeconfig), as client-go's credential plugins are run
//! (<https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins>), with a
//! limit of time. What they print is a secret and is never repeated.

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kube_client::config::{AuthInfo, ExecConfig, ExecInteractiveMode};
use serde::Deserialize;

use crate::node::{printable, quoted};

const LIMIT: Duration = Duration::from_secs(10);
/// Of what it prints.
const LARGEST: u64 = 1 << 20;
const PAUSE: Duration = Duration::from_millis(10);

#[derive(Deserialize)]
struct ExecCredential {
    status: Option<Status>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
}

/// Runs it, and gives `user` what it gave. Blocks; the error says what went wrong and nothing of what was printed.
pub(super) fn credentials(exec: &ExecConfig, user: &mut AuthInfo) -> Result<(), String> {
    credentials_within(exec, user, LIMIT)
}

fn credentials_within(exec: &ExecConfig, user: &mut AuthInfo, limit: Duration) -> Result<(), String> {
    let name = exec.command.as_deref().ok_or("the user's exec has no command")?;
    let shown = quoted(name);
    if exec.interactive_mode == Some(ExecInteractiveMode::Always) {
        return Err(format!("{shown} wants to ask questions, and there is nobody to answer"));
    }
    let printed = run(command(exec, name)?, &shown, limit)?;
    let credential: ExecCredential = serde_json::from_slice(&printed)
        .map_err(|_| format!("{shown} printed something that is no ExecCredential"))?;
    let status = credential.status.unwrap_or_default();
    user.exec = None;
    match (status.token, status.client_certificate_data, status.client_key_data) {
        (_, Some(certificate), Some(key)) => {
            user.client_certificate_data = Some(base64(certificate.as_bytes()));
            user.client_key_data = Some(base64(key.as_bytes()).into());
        }
        (Some(token), ..) => user.token = Some(token.into()),
        _ => return Err(format!("{shown} gave neither a token nor a certificate")),
    }
    Ok(())
}

fn command(exec: &ExecConfig, name: &str) -> Result<Command, String> {
    let mut info = serde_json::json!({
        "apiVersion": exec.api_version.as_deref().unwrap_or("client.authentication.k8s.io/v1"),
        "kind": "ExecCredential",
        "spec": { "interactive": false },
    });
    if exec.provide_cluster_info
        && let Some(cluster) = &exec.cluster
    {
        info["spec"]["cluster"] = serde_json::to_value(cluster).map_err(|_| "the cluster cannot be told")?;
    }
    let mut command = Command::new(name);
    command.args(exec.args.iter().flatten());
    for variable in exec.env.iter().flatten() {
        if let (Some(name), Some(value)) = (variable.get("name"), variable.get("value")) {
            command.env(name, value);
        }
    }
    command.env("KUBERNETES_EXEC_INFO", info.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    Ok(command)
}

fn run(mut command: Command, shown: &str, limit: Duration) -> Result<Vec<u8>, String> {
    let mut child =
        command.spawn().map_err(|error| format!("cannot run {shown}: {}", printable(error.to_string())))?;
    // Read beside: it may print more than a pipe holds before it ends.
    let stdout = child.stdout.take();
    let reader = std::thread::spawn(move || {
        let mut printed = Vec::new();
        let read = stdout.map(|out| out.take(LARGEST).read_to_end(&mut printed));
        (printed, read)
    });
    let end = Instant::now() + limit;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < end => std::thread::sleep(PAUSE),
            Ok(None) | Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("{shown} did not end within {} s", limit.as_secs()));
            }
        }
    };
    if !status.success() {
        return Err(format!("{shown} failed ({status})"));
    }
    // A child of its own may hold the pipe open.
    while !reader.is_finished() {
        if Instant::now() >= end {
            return Err(format!("{shown} ended and left its output open"));
        }
        std::thread::sleep(PAUSE);
    }
    reader.join().map(|(printed, _)| printed).map_err(|_| format!("what {shown} printed cannot be read"))
}

/// RFC 4648, with padding: the form in which a kubeconfig has certificates.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let [a, b, c] = [chunk[0], chunk.get(1).copied().unwrap_or(0), chunk.get(2).copied().unwrap_or(0)];
        let all = u32::from(a) << 16 | u32::from(b) << 8 | u32::from(c);
        for digit in 0..4 {
            let at = (all >> (18 - 6 * digit)) & 63;
            out.push(if digit <= chunk.len() { char::from(DIGITS[at as usize]) } else { '=' });
        }
    }
    out
}
