// SPDX-License-Identifier: MIT OR Apache-2.0
//! A kubeconfig, as kubectl reads it
//! (<https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/>): files are merged, the first to say something is
//! right, paths are relative to the file. What is wrong is told without a word of the file: it has tokens and keys in it.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::object::or_default;
use crate::text::{printable, quoted};

/// Of a file; one with many clusters has some 100 KiB.
const LARGEST: u64 = 4 << 20;

/// A token, password or key. Never printed.
#[derive(Clone, Default, Deserialize, PartialEq, Eq)]
#[serde(transparent)]
pub(super) struct Secret(pub(super) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct Kubeconfig {
    #[serde(deserialize_with = "or_default")]
    current_context: String,
    #[serde(deserialize_with = "or_default")]
    clusters: Vec<NamedCluster>,
    #[serde(deserialize_with = "or_default")]
    contexts: Vec<NamedContext>,
    #[serde(deserialize_with = "or_default")]
    users: Vec<NamedUser>,
}

#[derive(Clone, Debug, Deserialize)]
struct NamedCluster {
    name: String,
    #[serde(default, deserialize_with = "or_default")]
    cluster: Cluster,
}

#[derive(Clone, Debug, Deserialize)]
struct NamedContext {
    name: String,
    #[serde(default, deserialize_with = "or_default")]
    context: KubeContext,
}

#[derive(Clone, Debug, Deserialize)]
struct NamedUser {
    name: String,
    #[serde(default, deserialize_with = "or_default")]
    user: User,
}

/// Where the server is and how it is known.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct Cluster {
    pub(super) server: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) certificate_authority: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) certificate_authority_data: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) insecure_skip_tls_verify: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tls_server_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) proxy_url: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct KubeContext {
    cluster: String,
    #[serde(deserialize_with = "or_default")]
    user: String,
    #[serde(deserialize_with = "or_default")]
    namespace: String,
}

/// Who asks.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct User {
    pub(super) token: Option<Secret>,
    #[serde(rename = "tokenFile")]
    pub(super) token_file: Option<PathBuf>,
    pub(super) username: Option<Secret>,
    pub(super) password: Option<Secret>,
    pub(super) client_certificate: Option<PathBuf>,
    pub(super) client_certificate_data: Option<Secret>,
    pub(super) client_key: Option<PathBuf>,
    pub(super) client_key_data: Option<Secret>,
    #[serde(rename = "as")]
    pub(super) impersonate: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) as_groups: Vec<String>,
    pub(super) exec: Option<Exec>,
    pub(super) auth_provider: Option<Provider>,
}

/// A program that gives credentials out.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Exec {
    pub(super) api_version: Option<String>,
    pub(super) command: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) args: Vec<Secret>,
    #[serde(deserialize_with = "or_default")]
    pub(super) env: Vec<Variable>,
    #[serde(deserialize_with = "or_default")]
    pub(super) interactive_mode: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) provide_cluster_info: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Variable {
    pub(super) name: String,
    pub(super) value: Secret,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Provider {
    name: String,
}

/// What a context says.
#[derive(Clone, Debug)]
pub(super) struct Chosen {
    pub(super) cluster: Cluster,
    pub(super) user: User,
    pub(super) namespace: String,
}

/// Why a context cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoContext {
    /// Asked for by name; ` (it has a, b)`.
    Unknown(String),
    Broken(String),
}

impl Kubeconfig {
    pub(super) fn read(file: &Path) -> Result<Self, String> {
        let cannot = |error: std::io::Error| printable(error.to_string());
        let about = std::fs::metadata(file).map_err(cannot)?;
        if !about.is_file() {
            return Err("not a file".into());
        }
        let mut bytes = Vec::new();
        File::open(file).and_then(|open| open.take(LARGEST + 1).read_to_end(&mut bytes)).map_err(cannot)?;
        if bytes.len() as u64 > LARGEST {
            return Err(format!("longer than {} MiB", LARGEST >> 20));
        }
        let mut config = Self::parse(&bytes)?;
        config.make_absolute(file.parent().unwrap_or(Path::new("/")));
        Ok(config)
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        if matches!(bytes, [0xff, 0xfe, ..] | [0xfe, 0xff, ..]) {
            return Err("it is UTF-16; write it as UTF-8".into());
        }
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err("it is empty".into());
        }
        serde_yaml_ng::from_slice(bytes).map_err(|error| match error.location() {
            Some(at) => {
                format!("not a kubeconfig (line {} is no YAML, or not what belongs there)", at.line())
            }
            None => "not a kubeconfig (no YAML, or something else in the place of a field)".into(),
        })
    }

    /// What `next` says besides.
    pub(super) fn merge(mut self, next: Self) -> Self {
        if self.current_context.is_empty() {
            self.current_context = next.current_context;
        }
        for one in next.clusters {
            if self.clusters.iter().all(|known| known.name != one.name) {
                self.clusters.push(one);
            }
        }
        for one in next.contexts {
            if self.contexts.iter().all(|known| known.name != one.name) {
                self.contexts.push(one);
            }
        }
        for one in next.users {
            if self.users.iter().all(|known| known.name != one.name) {
                self.users.push(one);
            }
        }
        self
    }

    /// The context of this name, or the current one.
    pub(super) fn context(self, name: Option<&str>) -> Result<Chosen, NoContext> {
        let broken = |problem: String| NoContext::Broken(problem);
        let wanted = name.unwrap_or(&self.current_context);
        if wanted.is_empty() {
            return Err(broken("no current-context; accepted: --context NAME".into()));
        }
        let Some(context) = self.contexts.iter().find(|known| known.name == wanted) else {
            if name.is_none() {
                return Err(broken(format!("its context {} is not in it", quoted(wanted))));
            }
            let names: Vec<&str> = self.contexts.iter().map(|known| known.name.as_str()).collect();
            return Err(NoContext::Unknown(match names.len() {
                0 => " (it has none)".to_owned(),
                1..=5 => format!(" (it has {})", printable(names.join(", "))),
                many => format!(" (it has {many})"),
            }));
        };
        let KubeContext { cluster, user, namespace } = context.context.clone();
        let known = self.clusters.into_iter().find(|known| known.name == cluster);
        let known = known.ok_or_else(|| broken(format!("its cluster {} is not in it", quoted(&cluster))))?;
        // kubectl asks as nobody when there is no such user.
        let user =
            self.users.into_iter().find(|known| known.name == user).map(|u| u.user).unwrap_or_default();
        if let Some(provider) = &user.auth_provider {
            return Err(broken(format!(
                "the user has an auth-provider ({}), which kubectl has given up too; use its exec plugin",
                printable(&provider.name)
            )));
        }
        Ok(Chosen { cluster: known.cluster, user, namespace })
    }

    fn make_absolute(&mut self, dir: &Path) {
        let clusters = self.clusters.iter_mut().map(|named| &mut named.cluster.certificate_authority);
        let users = self.users.iter_mut().flat_map(|named| {
            let User { token_file, client_certificate, client_key, .. } = &mut named.user;
            [token_file, client_certificate, client_key]
        });
        for path in clusters.chain(users).flatten() {
            *path = dir.join(&*path);
        }
        // One without a slash is looked for in PATH.
        for exec in self.users.iter_mut().filter_map(|named| named.user.exec.as_mut()) {
            if exec.command.contains('/') {
                exec.command = dir.join(&exec.command).to_string_lossy().into_owned();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONE: &str = "
current-context: a
clusters: [{name: c, cluster: {server: 'https://one', certificate-authority: ca.pem}}]
contexts: [{name: a, context: {cluster: c, user: u}}, {name: b, context: {cluster: d, user: v, namespace: shop}}]
users: [{name: u, user: {tokenFile: token, exec: {command: ./plugin, args: null}}}]
";
    const TWO: &str = "
current-context: b
clusters: [{name: c, cluster: {server: 'https://other'}}, {name: d, cluster: {server: 'https://two'}}]
users: [{name: v, user: {token: secret, client-key-data: secret, exec: null, as: someone}}, {name: u, user: {}}]
";

    #[test]
    fn the_first_file_is_right_and_paths_are_relative_to_it() {
        let mut one = Kubeconfig::parse(ONE.as_bytes()).unwrap();
        one.make_absolute(Path::new("/etc/kube"));
        let merged = one.merge(Kubeconfig::parse(TWO.as_bytes()).unwrap());
        let a = merged.clone().context(None).unwrap();
        assert_eq!(a.cluster.server, "https://one");
        assert_eq!(a.cluster.certificate_authority.as_deref(), Some(Path::new("/etc/kube/ca.pem")));
        assert_eq!(a.user.token_file.as_deref(), Some(Path::new("/etc/kube/token")));
        assert_eq!(a.user.exec.unwrap().command, "/etc/kube/./plugin");
        let b = merged.context(Some("b")).unwrap();
        assert_eq!((b.cluster.server.as_str(), b.namespace.as_str()), ("https://two", "shop"));
        assert_eq!((b.user.token.as_ref().unwrap().0.as_str(), b.user.exec.is_none()), ("secret", true));
        assert!(!format!("{b:?}").contains("\"secret\""), "{b:?}");
    }

    proptest! {
        #[test]
        fn anything_is_read_or_refused_without_a_word_of_it(text in "(users|clusters|current-context): .{0,30}|[ -~\n]{0,60}|\\PC{0,40}") {
            let secret = format!("{text}\ntoken: s3cr3t");
            if let Err(error) = Kubeconfig::parse(secret.as_bytes()) {
                prop_assert!(!error.contains("s3cr3t") && !error.chars().any(char::is_control), "{error}");
            }
        }
    }
}
