// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requests with credentials, over connections that are kept.

use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use bytes::Bytes;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Request, Response, Uri};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{self, Error};
use hyper_util::rt::TokioExecutor;

use super::access::Access;
use super::{exec, tls};

/// For a connection to be made.
const CONNECT: Duration = Duration::from_secs(3);
/// A token's file is read again after this time; the kubelet renews it at four fifths of its life.
const TOKEN: Duration = Duration::from_secs(30);

/// One set of credentials.
#[derive(Debug)]
pub(super) struct Client {
    http: legacy::Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    /// Scheme, host and what stands before each path.
    base: String,
    headers: HeaderMap,
    token_file: Option<TokenFile>,
}

/// A file in which the token is renewed.
#[derive(Debug)]
struct TokenFile {
    path: PathBuf,
    /// When it was read, and the header that it makes.
    last: Mutex<Option<(Instant, HeaderValue)>>,
}

impl Client {
    /// Blocks while a program gives credentials out. The error has nothing of a credential in it.
    pub(super) fn new(mut access: Access) -> Result<Self, String> {
        exec::credentials(&mut access)?;
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(CONNECT));
        http.set_nodelay(true);
        let mut builder = HttpsConnectorBuilder::new().with_tls_config(tls::config(&access)?).https_or_http();
        if let Some(name) = &access.cluster.tls_server_name {
            let name = name.clone().try_into().map_err(|_| "its tls-server-name is no host name")?;
            builder = builder.with_server_name_resolver(FixedServerNameResolver::new(name));
        }
        let http =
            legacy::Client::builder(TokioExecutor::new()).build(builder.enable_http1().wrap_connector(http));
        let user = &access.user;
        let token_file = match (&user.token, &user.token_file) {
            (None, Some(path)) => Some(TokenFile { path: path.clone(), last: Mutex::default() }),
            _ => None,
        };
        Ok(Self { http, base: base(&access.url), headers: headers(&access)?, token_file })
    }

    /// `path`: with its query.
    pub(super) async fn get(&self, path: &str, accept: &'static str) -> Result<Response<Incoming>, Failure> {
        let uri: Uri = format!("{}{path}", self.base).parse().map_err(|_| Failure::Request)?;
        let mut request = Request::get(uri).body(Empty::new()).map_err(|_| Failure::Request)?;
        let headers = request.headers_mut();
        headers.extend(self.headers.clone());
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("egwtrace/", env!("CARGO_PKG_VERSION"))));
        if let Some(token) = self.token()? {
            headers.insert(AUTHORIZATION, token);
        }
        self.http.request(request).await.map_err(Failure::Http)
    }

    /// Of the file, as it is now or was a moment ago.
    fn token(&self) -> Result<Option<HeaderValue>, Failure> {
        let Some(TokenFile { path, last }) = &self.token_file else { return Ok(None) };
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((read, token)) = &*last
            && read.elapsed() < TOKEN
        {
            return Ok(Some(token.clone()));
        }
        match fs::read_to_string(path).map(|token| bearer(&token)) {
            Ok(Ok(token)) => {
                *last = Some((Instant::now(), token.clone()));
                Ok(Some(token))
            }
            // One that is being replaced: the old one is good for a while.
            _ => match &*last {
                Some((_, token)) => Ok(Some(token.clone())),
                None => Err(Failure::Token),
            },
        }
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failure {
    Request,
    /// The file of the token cannot be read, or has something else in it.
    Token,
    Http(Error),
}

/// Without what may stand before the host, and without a slash at the end.
fn base(url: &Uri) -> String {
    let host = url.authority().map_or("", |a| a.as_str().rsplit('@').next().unwrap_or_default());
    format!("{}://{host}{}", url.scheme_str().unwrap_or("https"), url.path().trim_end_matches('/'))
}

fn headers(access: &Access) -> Result<HeaderMap, String> {
    let user = &access.user;
    let mut out = HeaderMap::new();
    if let Some(token) = &user.token {
        out.insert(AUTHORIZATION, bearer(&token.0)?);
    } else if let (Some(name), Some(password)) = (&user.username, &user.password) {
        let both = base64::engine::general_purpose::STANDARD.encode(format!("{}:{}", name.0, password.0));
        out.insert(AUTHORIZATION, secret(&format!("Basic {both}"))?);
    }
    // Who may be somebody else asks as that one, or not at all.
    let named = |text: &String| HeaderValue::from_str(text).map_err(|_| "the user's \"as\" is no name");
    if let Some(name) = &user.impersonate {
        out.insert(HeaderName::from_static("impersonate-user"), named(name)?);
    }
    for group in &user.as_groups {
        out.append(HeaderName::from_static("impersonate-group"), named(group)?);
    }
    Ok(out)
}

fn bearer(token: &str) -> Result<HeaderValue, String> {
    secret(&format!("Bearer {}", token.trim()))
}

fn secret(text: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::from_str(text).map_err(|_| "its token cannot be used")?;
    value.set_sensitive(true);
    Ok(value)
}
