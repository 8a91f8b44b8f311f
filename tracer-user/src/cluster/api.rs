// SPDX-License-Identifier: MIT OR Apache-2.0
//! Questions to the API server: one object, lists in pages, and what changes. Every answer has a limit of time and
//! of size. Nothing is ever written there.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::Response;
use hyper::body::Incoming;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::asked::{Verb, is_asked};
use super::client::{Client, Failure};
use super::object::{Kind, Meta, Object, encoded};
use crate::text::printable;

/// For an answer to begin, connecting included.
const LIMIT: Duration = Duration::from_secs(5);
/// Of one answer: a page of nodes with long lists of images has some 15 MiB.
const LARGEST: usize = 64 << 20;
/// Of one object in a stream of changes; etcd takes 1.5 MiB by default.
const LARGEST_OBJECT: usize = 8 << 20;
/// Objects of a page, as kubectl asks for them.
const PAGE: usize = 500;
/// Pages of a list.
const PAGES: usize = 200;
/// The server ends a stream of changes after this time, s; it says something every minute before.
const WATCH_S: u64 = 290;
/// A stream in which nothing came for this long is broken.
const SILENCE: Duration = Duration::from_secs(WATCH_S + 30);
/// Longest message of a server that is repeated.
const MESSAGE: usize = 300;
/// Asks for metadata alone, and takes whole objects from a server that does not know how.
const METADATA: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
const JSON: &str = "application/json";
/// Between two readings of the credentials.
const RENEWAL: Duration = Duration::from_secs(5);

/// What became of a question. Texts of the other side are safe to print; no credential is in them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    #[error("cannot connect: {0}")]
    Connect(String),
    #[error("no answer within {} s", .0.as_secs_f32())]
    Timeout(Duration),
    #[error("{code}{}{message}", if message.is_empty() { "" } else { ": " })]
    Status { code: u16, message: String },
    #[error("the answer cannot be read ({0})")]
    Unreadable(String),
    #[error("{0}")]
    Credentials(String),
}

impl ApiError {
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Status { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// The list from which changes were asked for is too old to know them all.
    pub fn is_gone(&self) -> bool {
        self.code() == Some(410)
    }
}

/// Which objects of a kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// `None`: of all namespaces.
    pub namespace: Option<String>,
    /// "metadata.name=web".
    pub fields: String,
    /// "app=web,tier!=cache".
    pub labels: String,
    /// What the server remembers will do: it need not ask its database.
    pub remembered: bool,
    /// Of each object only what every object has.
    pub only_metadata: bool,
}

impl Query {
    pub fn fields(fields: impl Into<String>) -> Self {
        Self { fields: fields.into(), remembered: true, ..Self::default() }
    }

    fn path(&self, kind: &Kind, more: &[(&str, &str)]) -> String {
        let own = [("fieldSelector", self.fields.as_str()), ("labelSelector", self.labels.as_str())];
        let all = own.iter().chain(more).filter(|(_, value)| !value.is_empty());
        let parts: Vec<String> = all.map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        format!("{}?{}", kind.path(self.namespace.as_deref()), parts.join("&"))
    }
}

/// A list as it was at a version, from which changes can be asked for.
#[derive(Clone, Debug)]
pub struct List<K> {
    pub objects: Vec<K>,
    pub version: String,
    /// There are more than are read.
    pub cut: bool,
}

#[derive(Deserialize)]
struct Page<K> {
    #[serde(default)]
    metadata: PageMeta,
    // An empty one may be null.
    items: Option<Vec<K>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PageMeta {
    resource_version: String,
    #[serde(rename = "continue", deserialize_with = "super::object::or_default")]
    next: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ApiStatus {
    code: u16,
    message: String,
}

/// One entry of a stream of changes.
#[derive(Clone, Debug)]
pub enum Change<K> {
    /// Added or modified.
    Applied(K),
    Deleted(K),
    /// Nothing: everything up to this version has been told.
    Bookmark(String),
}

/// A connection to the API server, made when it is needed. Clones share it.
#[derive(Clone)]
pub struct Api {
    client: Arc<RwLock<Arc<Client>>>,
    /// Makes a client of what files say now. Blocks.
    make: Arc<dyn Fn() -> Result<Client, ApiError> + Send + Sync>,
    renewed: Arc<Mutex<Instant>>,
    /// "https://10.96.0.1:443"; safe to print.
    shown: Arc<str>,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Api({})", self.shown)
    }
}

impl Api {
    /// Not connected yet.
    pub(super) async fn new(
        shown: &str,
        make: Arc<dyn Fn() -> Result<Client, ApiError> + Send + Sync>,
    ) -> Result<Self, ApiError> {
        let client = Arc::new(made(make.clone()).await?);
        let renewed = Arc::new(Mutex::new(Instant::now()));
        Ok(Self { client: Arc::new(RwLock::new(client)), make, renewed, shown: shown.into() })
    }

    /// Where it is, safe to print.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// One object; `None`: there is no such thing.
    pub async fn get<K: Object>(&self, namespace: &str, name: &str) -> Result<Option<K>, ApiError> {
        debug_assert!(is_asked(&K::KIND, Verb::Get), "get {}", K::KIND.plural);
        let space = (!namespace.is_empty()).then_some(namespace);
        let path = format!("{}/{}", K::KIND.path(space), encoded(name));
        match self.json::<K>(&path, JSON).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.code() == Some(404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All that fit, read page by page.
    pub async fn list<K: Object>(&self, query: &Query) -> Result<List<K>, ApiError> {
        debug_assert!(is_asked(&K::KIND, Verb::List), "list {}", K::KIND.plural);
        let mut list = List { objects: Vec::new(), version: String::new(), cut: false };
        let mut next = String::new();
        for _ in 0..PAGES {
            let limit = PAGE.to_string();
            let version = if query.remembered && next.is_empty() { "0" } else { "" };
            let path = query.path(
                &K::KIND,
                &[("limit", limit.as_str()), ("continue", next.as_str()), ("resourceVersion", version)],
            );
            let accept = if query.only_metadata { METADATA } else { JSON };
            let page: Page<K> = self.json(&path, accept).await?;
            for object in page.items.into_iter().flatten() {
                list.objects.push(with_name(object)?);
            }
            list.version = page.metadata.resource_version;
            next = page.metadata.next;
            if next.is_empty() {
                return Ok(list);
            }
        }
        list.cut = true;
        Ok(list)
    }

    /// What changed since a version.
    pub async fn watch<K: Object>(&self, query: &Query, version: &str) -> Result<Changes, ApiError> {
        debug_assert!(is_asked(&K::KIND, Verb::Watch), "watch {}", K::KIND.plural);
        let seconds = WATCH_S.to_string();
        let path = query.path(
            &K::KIND,
            &[
                ("watch", "1"),
                ("allowWatchBookmarks", "true"),
                ("resourceVersion", version),
                ("timeoutSeconds", seconds.as_str()),
            ],
        );
        let response =
            timeout(LIMIT, self.ask(&path, JSON)).await.unwrap_or(Err(ApiError::Timeout(LIMIT)))?;
        Ok(Changes { body: response.into_body(), line: BytesMut::new() })
    }

    async fn json<T: DeserializeOwned>(&self, path: &str, accept: &'static str) -> Result<T, ApiError> {
        let answer = async {
            let response = self.ask(path, accept).await?;
            collected(response.into_body()).await
        };
        let body = timeout(LIMIT, answer).await.unwrap_or(Err(ApiError::Timeout(LIMIT)))?;
        serde_json::from_slice(&body).map_err(|error| unreadable(&error))
    }

    /// Sends a question; an answer that is no success is an error. Credentials that are not taken any more (a token by
    /// its status, a certificate by a connection that fails) were renewed, perhaps: they are read again, and the question
    /// is asked again.
    async fn ask(&self, path: &str, accept: &'static str) -> Result<Response<Incoming>, ApiError> {
        match self.ask_once(path, accept).await {
            Err(error) if self.may_renew(&error) => {
                let client = Arc::new(made(self.make.clone()).await?);
                *self.client.write().unwrap_or_else(PoisonError::into_inner) = client;
                self.ask_once(path, accept).await
            }
            other => other,
        }
    }

    fn may_renew(&self, error: &ApiError) -> bool {
        let after = match error {
            ApiError::Status { code: 401, .. } => RENEWAL,
            ApiError::Connect(_) => RENEWAL * 12,
            _ => return false,
        };
        let mut renewed = self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        let may = renewed.elapsed() > after;
        if may {
            *renewed = Instant::now();
        }
        may
    }

    async fn ask_once(&self, path: &str, accept: &'static str) -> Result<Response<Incoming>, ApiError> {
        let client = self.client.read().unwrap_or_else(PoisonError::into_inner).clone();
        let response = client.get(path, accept).await.map_err(|failure| match failure {
            Failure::Request => ApiError::Unreadable("no question can be made of that".into()),
            Failure::Token => ApiError::Credentials("the token's file cannot be read".into()),
            Failure::Http(error) => ApiError::Connect(innermost(&error)),
        })?;
        let code = response.status().as_u16();
        if (200..300).contains(&code) {
            return Ok(response);
        }
        let body = collected(response.into_body()).await.unwrap_or_default();
        let status: ApiStatus = serde_json::from_slice(&body).unwrap_or_default();
        Err(ApiError::Status { code, message: shortened(&status.message) })
    }
}

/// A stream of changes.
pub struct Changes {
    body: Incoming,
    line: BytesMut,
}

#[derive(Deserialize)]
struct WatchEvent<'a> {
    #[serde(rename = "type")]
    kind: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    object: &'a serde_json::value::RawValue,
}

#[derive(Deserialize)]
struct OnlyMeta {
    #[serde(default)]
    metadata: Meta,
}

impl Changes {
    /// The next change; `None`: the server ended the stream.
    pub async fn next<K: Object>(&mut self) -> Result<Option<Change<K>>, ApiError> {
        loop {
            let Some(line) = self.next_line().await? else { return Ok(None) };
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let entry: WatchEvent<'_> = serde_json::from_slice(&line).map_err(|error| unreadable(&error))?;
            let json = entry.object.get();
            let object =
                || serde_json::from_str::<K>(json).map_err(|error| unreadable(&error)).and_then(with_name);
            return match &*entry.kind {
                "ADDED" | "MODIFIED" => Ok(Some(Change::Applied(object()?))),
                "DELETED" => Ok(Some(Change::Deleted(object()?))),
                "BOOKMARK" => {
                    let bookmark: OnlyMeta =
                        serde_json::from_str(json).map_err(|error| unreadable(&error))?;
                    Ok(Some(Change::Bookmark(bookmark.metadata.resource_version)))
                }
                "ERROR" => {
                    let status: ApiStatus = serde_json::from_str(json).unwrap_or_default();
                    Err(ApiError::Status { code: status.code, message: shortened(&status.message) })
                }
                // Of a version to come.
                _ => continue,
            };
        }
    }

    async fn next_line(&mut self) -> Result<Option<BytesMut>, ApiError> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.line[searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.line.split_to(searched + at + 1);
                return Ok(Some(line));
            }
            searched = self.line.len();
            if searched > LARGEST_OBJECT {
                return Err(ApiError::Unreadable(format!(
                    "an object longer than {} MiB",
                    LARGEST_OBJECT >> 20
                )));
            }
            let frame = timeout(SILENCE, self.body.frame()).await.map_err(|_| ApiError::Timeout(SILENCE))?;
            match frame {
                // What is left is half an object.
                None => return Ok(None),
                Some(Err(error)) => return Err(ApiError::Connect(innermost(&error))),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.line.extend_from_slice(data);
                    }
                }
            }
        }
    }
}

fn with_name<K: Object>(object: K) -> Result<K, ApiError> {
    if object.meta().name.is_empty() {
        return Err(ApiError::Unreadable("an object without a name".into()));
    }
    Ok(object)
}

async fn made(make: Arc<dyn Fn() -> Result<Client, ApiError> + Send + Sync>) -> Result<Client, ApiError> {
    // It may run a program.
    tokio::task::spawn_blocking(move || make())
        .await
        .unwrap_or_else(|_| Err(ApiError::Credentials("the credentials cannot be read".into())))
}

async fn collected(body: Incoming) -> Result<bytes::Bytes, ApiError> {
    match Limited::new(body, LARGEST).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(ApiError::Unreadable(format!("longer than {} MiB", LARGEST >> 20)))
        }
        Err(error) => Err(ApiError::Unreadable(innermost(&*error))),
    }
}

/// The last of the causes, which says the most.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(inner) = last.source() {
        last = inner;
    }
    shortened(&last.to_string())
}

/// Where in the answer, and what was expected there; not what is there.
fn unreadable(error: &serde_json::Error) -> ApiError {
    ApiError::Unreadable(shortened(&error.to_string()))
}

fn shortened(text: &str) -> String {
    let text = printable(text.trim());
    match text.char_indices().nth(MESSAGE) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}
