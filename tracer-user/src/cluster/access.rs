// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the API server is and who asks: a kubeconfig, the service account of a pod, the kubelet's own. Reads files,
//! asks nobody.

use std::fmt;
use std::path::{Path, PathBuf};

use hyper::Uri;

use super::kubeconfig::{Chosen, Cluster, Kubeconfig, NoContext, User};
use super::reach::Wish;
use crate::text::{printable, quoted};

/// Credentials of kubelets, where the usual distributions have them.
const KUBELETS: [&str; 9] = [
    "/etc/kubernetes/kubelet.conf",
    "/var/lib/kubelet/kubeconfig",
    "/etc/kubernetes/kubelet-kubeconfig",
    "/etc/kubernetes/kubeconfig",
    "/var/lib/rancher/k3s/agent/kubelet.kubeconfig",
    "/var/lib/rancher/rke2/agent/kubelet.kubeconfig",
    "/var/lib/k0s/kubelet.conf",
    "/var/snap/microk8s/current/credentials/kubelet.config",
    "/var/lib/kubelet/kubelet.conf",
];
/// Where a pod has its service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What can be wrong with it. Safe to print; nothing of a credential is in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    #[error("{file}: {problem}; accepted: a kubeconfig file, as kubectl reads it")]
    File { file: String, problem: String },
    #[error("no context {context} in {file}{known}")]
    Context { context: String, file: String, known: String },
    #[error(
        "--context says which part of a kubeconfig to use, and none was found; give --kubeconfig FILE with it"
    )]
    NoFile,
    #[error("{from}: {problem}")]
    Unusable { from: String, problem: String },
}

/// Where credentials come from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum CredentialSource {
    /// Merged as kubectl does.
    Files(Vec<PathBuf>),
    ServiceAccount,
}

/// What a client shows in TLS; both are PEM.
pub(super) struct Identity {
    pub(super) certificate: Vec<u8>,
    pub(super) key: Vec<u8>,
}

/// A way to the API server, not tried yet.
#[derive(Clone, Debug)]
pub struct Access {
    source: CredentialSource,
    context: Option<String>,
    pub(super) url: Uri,
    pub(super) cluster: Cluster,
    pub(super) user: User,
    namespace: String,
}

impl Access {
    /// The first that is there.
    pub(super) fn find(wish: &Wish) -> Result<Option<Self>, AccessError> {
        source(wish).map(|source| Self::read(source, wish.context.clone())).transpose()
    }

    fn read(source: CredentialSource, context: Option<String>) -> Result<Self, AccessError> {
        let Chosen { cluster, user, namespace } = match &source {
            CredentialSource::ServiceAccount => service_account(),
            CredentialSource::Files(files) => from_files(files, context.as_deref(), &source)?,
        };
        let problem = |problem: &str| AccessError::File { file: source.to_string(), problem: problem.into() };
        if cluster.server.is_empty() {
            return Err(problem("its cluster has no server"));
        }
        // As kubectl: without a scheme it is plain HTTP.
        let text = match cluster.server.contains("://") {
            true => cluster.server.clone(),
            false => format!("http://{}", cluster.server),
        };
        let url: Uri = text.parse().map_err(|_| problem("its cluster's server is no URL"))?;
        if !matches!(url.scheme_str(), Some("http" | "https")) || url.host().is_none_or(str::is_empty) {
            return Err(problem("its cluster's server is no URL that begins with https:// or http://"));
        }
        if cluster.proxy_url.as_ref().is_some_and(|proxy| !proxy.is_empty()) {
            return Err(problem("its cluster is behind a proxy (proxy-url), which is not supported"));
        }
        let access = Self { source, context, url, cluster, user, namespace };
        match access.certificate_authority() {
            Ok(_) => Ok(access),
            Err(problem) => Err(AccessError::File { file: access.source.to_string(), problem }),
        }
    }

    /// The same with what the files say now: tokens and certificates are renewed.
    pub(super) fn again(&self) -> Result<Self, AccessError> {
        Self::read(self.source.clone(), self.context.clone())
    }

    /// PEM. `None`: the machine's own authorities.
    pub(super) fn certificate_authority(&self) -> Result<Option<Vec<u8>>, String> {
        let Cluster { certificate_authority: file, certificate_authority_data: data, .. } = &self.cluster;
        content("certificate-authority", file.as_deref(), data.as_deref())
    }

    pub(super) fn client_certificate(&self) -> Result<Option<Identity>, String> {
        let data = |secret: &'_ Option<super::kubeconfig::Secret>| secret.as_ref().map(|s| s.0.clone());
        let user = &self.user;
        let certificate = content(
            "client-certificate",
            user.client_certificate.as_deref(),
            data(&user.client_certificate_data).as_deref(),
        )?;
        let key = content("client-key", user.client_key.as_deref(), data(&user.client_key_data).as_deref())?;
        match (certificate, key) {
            (Some(certificate), Some(key)) => Ok(Some(Identity { certificate, key })),
            (None, None) => Ok(None),
            (Some(_), None) => Err("its client-key is missing".into()),
            (None, Some(_)) => Err("its client-certificate is missing".into()),
        }
    }

    /// "https://10.96.0.1:443"; safe to print.
    pub fn server(&self) -> String {
        // What may stand before the host is a password.
        let host = self.url.authority().map_or("", |a| a.as_str().rsplit('@').next().unwrap_or_default());
        printable(format!("{}://{host}", self.url.scheme_str().unwrap_or("https")))
    }

    /// The namespace of what is named without one; may be empty.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(super) fn unusable(&self, problem: impl Into<String>) -> AccessError {
        AccessError::Unusable { from: self.source.to_string(), problem: problem.into() }
    }
}

impl fmt::Display for CredentialSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServiceAccount => f.write_str("the pod's service account"),
            Self::Files(files) => {
                let names: Vec<String> = files.iter().map(|file| shown(file)).collect();
                f.write_str(&names.join(", "))
            }
        }
    }
}

/// As kubectl looks; on a node without either, as the kubelet.
fn source(wish: &Wish) -> Option<CredentialSource> {
    if let Some(file) = &wish.kubeconfig {
        return Some(CredentialSource::Files(vec![file.clone()]));
    }
    if let Some(value) = std::env::var_os("KUBECONFIG") {
        let files: Vec<PathBuf> =
            std::env::split_paths(&value).filter(|path| !path.as_os_str().is_empty()).collect();
        if !files.is_empty() {
            return Some(CredentialSource::Files(files));
        }
    }
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".kube/config"));
    if let Some(file) = home.filter(|file| file.is_file()) {
        return Some(CredentialSource::Files(vec![file]));
    }
    if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() && Path::new(ACCOUNT).join("token").is_file() {
        return Some(CredentialSource::ServiceAccount);
    }
    let kubelet = KUBELETS.into_iter().map(PathBuf::from).find(|file| file.is_file());
    kubelet.map(|file| CredentialSource::Files(vec![file]))
}

/// As the kubelet mounts it into a pod, and tells the pod of the server.
fn service_account() -> Chosen {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let (host, port) = (variable("KUBERNETES_SERVICE_HOST"), variable("KUBERNETES_SERVICE_PORT"));
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let port = if port.is_empty() { "443".to_owned() } else { port };
    let dir = Path::new(ACCOUNT);
    Chosen {
        cluster: Cluster {
            server: format!("https://{host}:{port}"),
            certificate_authority: Some(dir.join("ca.crt")),
            ..Cluster::default()
        },
        user: User { token_file: Some(dir.join("token")), ..User::default() },
        namespace: std::fs::read_to_string(dir.join("namespace")).unwrap_or_default().trim().to_owned(),
    }
}

fn from_files(
    files: &[PathBuf],
    context: Option<&str>,
    source: &CredentialSource,
) -> Result<Chosen, AccessError> {
    let mut merged = Kubeconfig::default();
    for file in files {
        let one =
            Kubeconfig::read(file).map_err(|problem| AccessError::File { file: shown(file), problem })?;
        merged = merged.merge(one);
    }
    merged.context(context).map_err(|error| match error {
        NoContext::Broken(problem) => AccessError::File { file: source.to_string(), problem },
        NoContext::Unknown(known) => AccessError::Context {
            context: quoted(context.unwrap_or_default()),
            file: source.to_string(),
            known,
        },
    })
}

/// What a kubeconfig has as base64 or names as a file.
fn content(what: &str, file: Option<&Path>, data: Option<&str>) -> Result<Option<Vec<u8>>, String> {
    use base64::Engine as _;
    match (data.filter(|data| !data.is_empty()), file) {
        (Some(data), _) => base64::engine::general_purpose::STANDARD
            .decode(data.trim())
            .map(Some)
            .map_err(|_| format!("its {what} is not base64")),
        (None, Some(file)) => std::fs::read(file)
            .map(Some)
            .map_err(|error| format!("its {what} {}: {}", shown(file), printable(error.to_string()))),
        (None, None) => Ok(None),
    }
}

fn shown(path: &Path) -> String {
    printable(path.as_os_str().as_encoded_bytes())
}
