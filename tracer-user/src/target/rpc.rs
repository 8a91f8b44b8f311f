// SPDX-License-Identifier: MIT OR Apache-2.0
//! Unary gRPC calls over a Unix socket, each within a time limit.
//!
//! gRPC over HTTP/2 as <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md> has it: a message has a
//! byte that says whether it is compressed and four of length in front; the status is in the trailers.

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::{HeaderMap, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::text::printable;

/// For a call, connecting included.
pub const LIMIT: Duration = Duration::from_secs(2);
/// Of one answer. gRPC servers send 4 MiB by default, containerd 16.
const LARGEST: usize = 16 << 20;
/// Calls under way at once in [`Client::call_all`].
const WIDTH: usize = 32;
/// Longest message of a server that is repeated.
const MESSAGE: usize = 300;

/// What became of a call. Texts of the other side are safe to print.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    #[error("{0}")]
    Connect(io::Error),
    #[error("no answer within {} s", .0.as_secs_f32())]
    Timeout(Duration),
    #[error("what answers there does not speak gRPC ({0})")]
    NotGrpc(String),
    #[error("what answers there does not speak HTTP as Docker does ({0})")]
    NotHttp(String),
    #[error("{method}: {message} (gRPC status {code})")]
    Status { method: &'static str, code: u32, message: String },
    #[error("{method}: the answer cannot be read ({why})")]
    Unreadable { method: &'static str, why: String },
    #[error("cannot start: {0}")]
    Start(io::Error),
}

impl RpcError {
    /// The server does not have this service or method.
    pub fn is_unimplemented(&self) -> bool {
        matches!(self, Self::Status { code: 12, .. })
    }
}

type Sender = SendRequest<Full<Bytes>>;

/// A connection, made when it is first needed and again when it broke. Calls block: not for use inside an
/// asynchronous runtime.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    limit: Duration,
    runtime: tokio::runtime::Runtime,
    sender: RefCell<Option<Sender>>,
}

impl Client {
    /// Does not connect yet.
    pub fn new(path: &Path) -> Result<Self, RpcError> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RpcError::Start)?;
        Ok(Self { path: path.to_path_buf(), limit: LIMIT, runtime, sender: RefCell::new(None) })
    }

    /// For calls that do something, which takes its time.
    #[must_use]
    pub fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Calls `method` of `service` ("runtime.v1.RuntimeService").
    pub fn call<A: Message + Default + Send + 'static>(
        &self,
        service: &str,
        method: &'static str,
        request: &impl Message,
    ) -> Result<A, RpcError> {
        self.call_with(None, service, method, request)
    }

    /// The same with a header, which gRPC calls metadata.
    pub fn call_with<A: Message + Default + Send + 'static>(
        &self,
        header: Option<(&'static str, &str)>,
        service: &str,
        method: &'static str,
        request: &impl Message,
    ) -> Result<A, RpcError> {
        let frame = frame(request);
        let once = || {
            self.runtime.block_on(async {
                timeout(self.limit, async {
                    let sender = self.connected().await?;
                    one(sender, header, service, method, frame.clone()).await
                })
                .await
                .unwrap_or(Err(RpcError::Timeout(self.limit)))
            })
        };
        let reused = self.sender.borrow().is_some();
        match once() {
            // The server may have closed a connection that lay idle.
            Err(RpcError::NotGrpc(_)) if reused => {
                self.sender.replace(None);
                once()
            }
            Err(error) => {
                self.sender.replace(None);
                Err(error)
            }
            done => done,
        }
    }

    /// Calls `method` for each request, many at a time; the answers are in the order of the requests.
    pub fn call_all<A: Message + Default + Send + 'static>(
        &self,
        service: &str,
        method: &'static str,
        requests: &[impl Message],
    ) -> Vec<Result<A, RpcError>> {
        let limit = self.limit;
        self.runtime.block_on(async {
            let sender = match timeout(limit, self.connected()).await {
                Ok(Ok(sender)) => sender,
                Ok(Err(error)) => return vec![Err(error)],
                Err(_) => return vec![Err(RpcError::Timeout(limit))],
            };
            let mut answers: Vec<Option<Result<A, RpcError>>> = requests.iter().map(|_| None).collect();
            let mut next = requests.iter().map(frame).enumerate();
            let mut under_way = JoinSet::new();
            loop {
                while under_way.len() < WIDTH
                    && let Some((at, frame)) = next.next()
                {
                    let (sender, service) = (sender.clone(), service.to_owned());
                    under_way.spawn(async move {
                        let answer = timeout(limit, one(sender, None, &service, method, frame)).await;
                        (at, answer.unwrap_or(Err(RpcError::Timeout(limit))))
                    });
                }
                match under_way.join_next().await {
                    Some(Ok((at, answer))) => answers[at] = Some(answer),
                    Some(Err(_)) => {}
                    None => break,
                }
            }
            answers
                .into_iter()
                .map(|a| a.unwrap_or_else(|| Err(RpcError::NotGrpc("the call was given up".into()))))
                .collect()
        })
    }

    async fn connected(&self) -> Result<Sender, RpcError> {
        if let Some(sender) = self.sender.borrow().as_ref().filter(|s| !s.is_closed()) {
            return Ok(sender.clone());
        }
        let stream = UnixStream::connect(&self.path).await.map_err(RpcError::Connect)?;
        let (sender, connection) =
            handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(|e| not_grpc(&e))?;
        // Ends with the connection; what went wrong is told by the call that met it.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        self.sender.replace(Some(sender.clone()));
        Ok(sender)
    }
}

/// One call on a connection.
async fn one<A: Message + Default>(
    mut sender: Sender,
    header: Option<(&str, &str)>,
    service: &str,
    method: &'static str,
    frame: Bytes,
) -> Result<A, RpcError> {
    let mut request = Request::post(format!("http://localhost/{service}/{method}"));
    if let Some((name, value)) = header {
        request = request.header(name, value);
    }
    let request = request
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", concat!("egwtrace/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(frame))
        .map_err(|e| RpcError::NotGrpc(e.to_string()))?;
    sender.ready().await.map_err(|e| not_grpc(&e))?;
    let (head, body) = sender.send_request(request).await.map_err(|e| not_grpc(&e))?.into_parts();
    let is_grpc = head
        .headers
        .get("content-type")
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    if !is_grpc {
        return Err(RpcError::NotGrpc(format!("HTTP status {}", head.status)));
    }
    // An answer that is only a status has it in front.
    status(&head.headers, method)?;
    let body = Limited::new(body, LARGEST).collect().await.map_err(|error| {
        let why = if error.is::<LengthLimitError>() {
            format!("longer than {} MiB", LARGEST >> 20)
        } else {
            printable(error.to_string())
        };
        RpcError::Unreadable { method, why }
    })?;
    if let Some(trailers) = body.trailers() {
        status(trailers, method)?;
    }
    let bytes = body.to_bytes();
    let unreadable = |why: String| RpcError::Unreadable { method, why };
    let (head, message) = bytes.split_at_checked(5).ok_or_else(|| unreadable("it is empty".into()))?;
    if head[0] != 0 {
        return Err(unreadable("it is compressed, which was not asked for".into()));
    }
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if length != message.len() {
        return Err(unreadable(format!("{} bytes where {length} were announced", message.len())));
    }
    A::decode(message).map_err(|error| unreadable(printable(error.to_string())))
}

fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(5 + length);
    out.put_u8(0);
    // Requests of ours are short.
    out.put_u32(length as u32);
    // There is room: `encoded_len` said so.
    let _ = message.encode(&mut out);
    out.freeze()
}

fn not_grpc(error: &hyper::Error) -> RpcError {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text = inner.to_string();
        source = inner.source();
    }
    RpcError::NotGrpc(printable(text))
}

/// The status in headers or trailers, when there is one and it is not "ok".
fn status(headers: &HeaderMap, method: &'static str) -> Result<(), RpcError> {
    let Some(code) = headers.get("grpc-status") else { return Ok(()) };
    let code = code.to_str().ok().and_then(|text| text.parse().ok());
    if code == Some(0) {
        return Ok(());
    }
    let message = headers.get("grpc-message").map_or(&b"no message"[..], |value| value.as_bytes());
    let mut message = printable(percent_decoded(message));
    if message.len() > MESSAGE {
        message = message.chars().take(MESSAGE).chain(['…']).collect();
    }
    // 2: unknown, as gRPC wants a status that cannot be read taken.
    Err(RpcError::Status { method, code: code.unwrap_or(2), message })
}

fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let digits = tail.first_chunk::<2>().filter(|_| *first == b'%');
        let byte = digits.and_then(|d| u8::from_str_radix(str::from_utf8(d).ok()?, 16).ok());
        out.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &tail[2..] } else { tail };
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_of_a_status_are_percent_encoded() {
        assert_eq!(percent_decoded(b"a%20b%e2%86%92%"), "a b→%".as_bytes());
        assert_eq!(percent_decoded(b"%zz%4"), b"%zz%4");
    }

    proptest! {
        #[test]
        fn any_message_is_read(text in proptest::collection::vec(any::<u8>(), 0..40)) {
            prop_assert!(percent_decoded(&text).len() <= text.len());
        }
    }
}
