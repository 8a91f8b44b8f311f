// SPDX-License-Identifier: MIT OR Apache-2.0
//! Programs that give credentials out (`exec` in a kubeconfig), as client-go's credential plugins are run
//! (<https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins>), with a
//! limit of time. What they print is a secret and is never repeated.

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde::Deserialize;

use super::access::Access;
use super::kubeconfig::{Exec, Secret};
use crate::text::{printable, quoted};

const LIMIT: Duration = Duration::from_secs(10);
/// Of what it prints.
const LARGEST: u64 = 1 << 20;
const PAUSE: Duration = Duration::from_millis(10);

#[derive(Deserialize)]
struct ExecCredential {
    status: Option<ExecStatus>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ExecStatus {
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
}

/// Where the user has such a program, runs it, and takes what it gives. Blocks; the error says what went wrong and
/// nothing of what was printed.
pub(super) fn credentials(access: &mut Access) -> Result<(), String> {
    let Some(exec) = access.user.exec.take() else { return Ok(()) };
    if exec.command.is_empty() {
        return Err("the user's exec has no command".into());
    }
    let shown = quoted(&exec.command);
    if exec.interactive_mode == "Always" {
        return Err(format!("{shown} wants to ask questions, and there is nobody to answer"));
    }
    let printed = run(command(&exec, access)?, &shown, LIMIT)?;
    let credential: ExecCredential = serde_json::from_slice(&printed)
        .map_err(|_| format!("{shown} printed something that is no ExecCredential"))?;
    let status = credential.status.unwrap_or_default();
    let user = &mut access.user;
    let encoded = |text: String| Some(Secret(base64::engine::general_purpose::STANDARD.encode(text)));
    match (status.token, status.client_certificate_data, status.client_key_data) {
        (token, Some(certificate), Some(key)) => {
            user.client_certificate_data = encoded(certificate);
            user.client_key_data = encoded(key);
            user.token = token.map(Secret).or(user.token.take());
        }
        (Some(token), ..) => user.token = Some(Secret(token)),
        _ => return Err(format!("{shown} gave neither a token nor a certificate")),
    }
    Ok(())
}

fn command(exec: &Exec, access: &Access) -> Result<Command, String> {
    let mut info = serde_json::json!({
        "apiVersion": exec.api_version.as_deref().unwrap_or("client.authentication.k8s.io/v1"),
        "kind": "ExecCredential",
        "spec": { "interactive": false },
    });
    if exec.provide_cluster_info {
        // As data: the program does not know which files are meant.
        let mut cluster = access.cluster.clone();
        let authority = access.certificate_authority()?;
        cluster.certificate_authority_data =
            authority.map(|pem| base64::engine::general_purpose::STANDARD.encode(pem));
        cluster.certificate_authority = None;
        info["spec"]["cluster"] = serde_json::to_value(&cluster).map_err(|_| "the cluster cannot be told")?;
    }
    let mut command = Command::new(&exec.command);
    command.args(exec.args.iter().map(|argument| &argument.0));
    command.envs(exec.env.iter().map(|variable| (&variable.name, &variable.value.0)));
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
