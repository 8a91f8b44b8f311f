// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the API server is and who asks: a kubeconfig, the service account of a pod, the kubelet's own. Reads files,
//! asks nobody. Texts are ours: those of the parsers quote the file, and tokens are in it.

use std::path::{Path, PathBuf};

use kube_client::Config;
use kube_client::config::{ExecConfig, KubeConfigOptions, Kubeconfig, KubeconfigError, LoadDataError};

use super::reach::Wish;
use crate::node::{printable, quoted};

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
/// Of a pod's service account.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
/// Of a kubeconfig; one with many clusters has some 100 KiB.
const LARGEST: u64 = 4 << 20;

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
enum Source {
    /// Merged as kubectl does.
    Files(Vec<PathBuf>),
    ServiceAccount,
}

/// A way to the API server, not tried yet.
#[derive(Clone, Debug)]
pub struct Access {
    source: Source,
    context: Option<String>,
    config: Config,
}

impl Access {
    /// The first that is there.
    pub(super) fn find(wish: &Wish) -> Result<Option<Self>, AccessError> {
        source(wish).map(|source| Self::read(source, wish.context.clone())).transpose()
    }

    fn read(source: Source, context: Option<String>) -> Result<Self, AccessError> {
        let mut config = match &source {
            Source::ServiceAccount => Config::incluster().map_err(|error| AccessError::Unusable {
                from: source.to_string(),
                problem: printable(error.to_string()),
            })?,
            Source::Files(files) => from_files(files, context.as_deref(), &source)?,
        };
        // Retries are ours, with pauses that are known.
        config.default_retry = false;
        config.connect_timeout = Some(std::time::Duration::from_secs(3));
        Ok(Self { source, context, config })
    }

    /// The same with what the files say now: tokens and certificates are renewed.
    pub(super) fn again(&self) -> Result<Self, AccessError> {
        Self::read(self.source.clone(), self.context.clone())
    }

    pub(super) fn config(&self) -> Config {
        self.config.clone()
    }

    /// The program that gives credentials out.
    pub(super) fn exec(&self) -> Option<&ExecConfig> {
        self.config.auth_info.exec.as_ref()
    }

    /// "https://10.96.0.1:443"; safe to print.
    pub fn server(&self) -> String {
        let url = &self.config.cluster_url;
        // What may stand before the host is a password.
        let host = url.authority().map_or("", |a| a.as_str().rsplit('@').next().unwrap_or_default());
        printable(format!("{}://{host}", url.scheme_str().unwrap_or("https")))
    }

    /// The namespace of what is named without one, where the context or the service account has one.
    pub fn namespace(&self) -> &str {
        &self.config.default_namespace
    }

    pub(super) fn unusable(&self, problem: impl Into<String>) -> AccessError {
        AccessError::Unusable { from: self.source.to_string(), problem: problem.into() }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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
fn source(wish: &Wish) -> Option<Source> {
    if let Some(file) = &wish.kubeconfig {
        return Some(Source::Files(vec![file.clone()]));
    }
    if let Some(value) = std::env::var_os("KUBECONFIG") {
        let files: Vec<PathBuf> =
            std::env::split_paths(&value).filter(|path| !path.as_os_str().is_empty()).collect();
        if !files.is_empty() {
            return Some(Source::Files(files));
        }
    }
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".kube/config"));
    if let Some(file) = home.filter(|file| file.is_file()) {
        return Some(Source::Files(vec![file]));
    }
    if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() && Path::new(TOKEN).is_file() {
        return Some(Source::ServiceAccount);
    }
    let kubelet = KUBELETS.into_iter().map(PathBuf::from).find(|file| file.is_file());
    kubelet.map(|file| Source::Files(vec![file]))
}

fn from_files(files: &[PathBuf], context: Option<&str>, source: &Source) -> Result<Config, AccessError> {
    let mut merged = Kubeconfig::default();
    for file in files {
        let problem = |problem: String| AccessError::File { file: shown(file), problem };
        readable(file).map_err(problem)?;
        let one = Kubeconfig::read_from(file).map_err(|error| problem(words(&error)))?;
        merged = merged.merge(one).map_err(|error| problem(words(&error)))?;
    }
    if let Some(context) = context
        && merged.contexts.iter().all(|known| known.name != context)
    {
        let names: Vec<&str> = merged.contexts.iter().map(|known| known.name.as_str()).collect();
        let known = match names.len() {
            0 => " (it has none)".to_owned(),
            1..=5 => format!(" (it has {})", printable(names.join(", "))),
            many => format!(" (it has {many})"),
        };
        return Err(AccessError::Context { context: quoted(context), file: source.to_string(), known });
    }
    let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    let problem = |problem: String| AccessError::File { file: source.to_string(), problem };
    // It waits for nothing: a future that is ready.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .map_err(|error| problem(format!("cannot be read now ({error})")))?;
    let config = runtime
        .block_on(Config::from_custom_kubeconfig(merged, &options))
        .map_err(|error| problem(words(&error)))?;
    if let Some(provider) = &config.auth_info.auth_provider {
        return Err(problem(format!(
            "the user has an auth-provider ({}), which kubectl has given up too; use its exec plugin",
            printable(&provider.name)
        )));
    }
    Ok(config)
}

/// A file that the parser may be given.
fn readable(file: &Path) -> Result<(), String> {
    use std::io::Read as _;
    let about = std::fs::metadata(file).map_err(|error| printable(error.to_string()))?;
    if !about.is_file() {
        return Err("not a file".into());
    }
    if about.len() > LARGEST {
        return Err(format!("longer than {} MiB", LARGEST >> 20));
    }
    let mut first = [0; 2];
    let mut open = std::fs::File::open(file).map_err(|error| printable(error.to_string()))?;
    // One that is shorter is empty, or no YAML that says anything.
    if open.read_exact(&mut first).is_err() {
        return Err("it is empty".into());
    }
    if matches!(first, [0xff, 0xfe] | [0xfe, 0xff]) {
        return Err("it is UTF-16; write it as UTF-8".into());
    }
    Ok(())
}

/// What is wrong, without a word of the file: it has tokens and keys in it.
fn words(error: &KubeconfigError) -> String {
    let part = |what: &str, error: &LoadDataError| match error {
        LoadDataError::ReadFile(error, path) => format!("{what} {}: {error}", shown(path)),
        LoadDataError::DecodeBase64(_) => format!("{what} is not base64"),
        LoadDataError::NoBase64DataOrFile => format!("{what} is missing"),
    };
    match error {
        KubeconfigError::CurrentContextNotSet => "no current-context; accepted: --context NAME".into(),
        KubeconfigError::LoadContext(name) => format!("its context {} is not in it", quoted(name)),
        KubeconfigError::LoadClusterOfContext(name) => format!("its cluster {} is not in it", quoted(name)),
        KubeconfigError::ReadConfig(error, _) => printable(error.to_string()),
        KubeconfigError::MissingClusterUrl => "its cluster has no server".into(),
        KubeconfigError::ParseClusterUrl(_) => "its cluster's server is no URL".into(),
        KubeconfigError::ParseProxyUrl(_) => "the proxy is no URL".into(),
        KubeconfigError::LoadCertificateAuthority(error) => part("its certificate-authority", error),
        KubeconfigError::LoadClientCertificate(error) => part("its client-certificate", error),
        KubeconfigError::LoadClientKey(error) => part("its client-key", error),
        KubeconfigError::ParseCertificates(_) => "its certificate-authority is no PEM".into(),
        KubeconfigError::KindMismatch | KubeconfigError::ApiVersionMismatch => {
            "it cannot be merged with the others: kind and apiVersion differ".into()
        }
        _ => "not a kubeconfig (it is no YAML, or has something else in the place of a field)".into(),
    }
}

fn shown(path: &Path) -> String {
    printable(path.as_os_str().as_encoded_bytes())
}
