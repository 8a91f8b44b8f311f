// SPDX-License-Identifier: MIT OR Apache-2.0
//! A container runtime for tests: serves the interface over a Unix socket, or something else.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http_body_util::{BodyExt as _, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::io::AsyncWriteExt as _;

/// A pod of the fake.
#[derive(Clone, Debug)]
pub(crate) struct FakePod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) state: i32,
    pub(crate) host_network: bool,
    pub(crate) info: String,
    pub(crate) ips: Vec<String>,
}

/// A pod that lives in the network namespace of this test; `app` is its name up to the first dash.
pub(crate) fn pod(name: &str, number: u32) -> FakePod {
    let (namespace, name) = name.split_once('/').unwrap();
    FakePod {
        namespace: namespace.into(),
        name: name.into(),
        id: format!("{number:064x}"),
        state: 0,
        host_network: false,
        info: format!(
            r#"{{"pid": {}, "runtimeSpec": {{"linux": {{"namespaces": [{{"type": "network", "path": "/nowhere"}}]}}}}}}"#,
            std::process::id()
        ),
        ips: vec![format!("10.{}.{}.2", number / 250, number % 250), format!("fd00::{number:x}")],
    }
}

/// What is answered to everything.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    /// Nothing, ever.
    Hang,
    /// These bytes in place of HTTP.
    Garbage(&'static [u8]),
    /// The connection is closed.
    Close,
    /// This status, without gRPC.
    Http(u16),
    /// This gRPC status and message.
    Status(u32, &'static str),
    /// This body.
    Bytes(&'static [u8]),
    /// A body without end.
    Endless,
}

#[derive(Clone, Debug)]
enum Behaviour {
    Pods { pods: Vec<FakePod>, growing: bool },
    Answers(Answer),
}

/// Serves until it is dropped.
pub(crate) struct Fake {
    dir: PathBuf,
    socket: String,
    behaviour: Behaviour,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    server: Option<std::thread::JoinHandle<()>>,
}

impl Fake {
    pub(crate) fn with_pods(pods: Vec<FakePod>) -> Self {
        Self::serve(Behaviour::Pods { pods, growing: false })
    }

    pub(crate) fn answering(answer: Answer) -> Self {
        Self::serve(Behaviour::Answers(answer))
    }

    /// Every message has fields that nobody knows yet.
    pub(crate) fn growing(self) -> Self {
        match self.behaviour.clone() {
            Behaviour::Pods { pods, .. } => Self::serve(Behaviour::Pods { pods, growing: true }),
            other => Self::serve(other),
        }
    }

    pub(crate) fn socket(&self) -> &str {
        &self.socket
    }

    /// The path of a socket that was left behind.
    pub(crate) fn dead_socket(&self) -> String {
        let path = self.dir.join("dead.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        path.to_str().unwrap().to_owned()
    }

    fn serve(behaviour: Behaviour) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("egwt-fake-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let socket = dir.join("cri.sock");
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let shared = Arc::new(behaviour.clone());
        let server = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::UnixListener::from_std(listener).unwrap();
                tokio::select! { () = accept(listener, shared) => {}, _ = stopped => {} }
            });
        });
        let socket = socket.to_str().unwrap().to_owned();
        Self { dir, socket, behaviour, stop: Some(stop), server: Some(server) }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.server.take().map(std::thread::JoinHandle::join);
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

async fn accept(listener: tokio::net::UnixListener, behaviour: Arc<Behaviour>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let behaviour = behaviour.clone();
        tokio::spawn(async move {
            match &*behaviour {
                Behaviour::Answers(Answer::Close) => {}
                Behaviour::Answers(Answer::Hang) => tokio::time::sleep(Duration::from_secs(60)).await,
                Behaviour::Answers(Answer::Garbage(bytes)) => {
                    let _ = stream.write_all(bytes).await;
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                _ => {
                    let service = service_fn(move |request| answer(request, behaviour.clone()));
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                }
            }
        });
    }
}

type Body = BoxBody<Bytes, Infallible>;

async fn answer(request: Request<Incoming>, behaviour: Arc<Behaviour>) -> Result<Response<Body>, Infallible> {
    let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    let question = request.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    let response = Response::builder().header("content-type", "application/grpc");
    let frames = |bytes: Bytes, status: &str| {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", status.parse().unwrap());
        let frames = [Frame::data(bytes), Frame::trailers(trailers)].map(Ok::<_, Infallible>);
        BoxBody::new(StreamBody::new(Frames(frames.into_iter().collect())))
    };
    Ok(match &*behaviour {
        Behaviour::Answers(Answer::Http(status)) => {
            Response::builder().status(*status).body(frames(Bytes::new(), "0")).unwrap()
        }
        Behaviour::Answers(Answer::Status(code, message)) => response
            .header("grpc-status", code.to_string())
            .header("grpc-message", hyper::header::HeaderValue::from_bytes(&sanitised(message)).unwrap())
            .body(frames(Bytes::new(), "0"))
            .unwrap(),
        Behaviour::Answers(Answer::Bytes(bytes)) => {
            response.body(frames(Bytes::from_static(bytes), "0")).unwrap()
        }
        Behaviour::Answers(Answer::Endless) => {
            let many = (0..400).map(|_| Ok::<_, Infallible>(Frame::data(Bytes::from(vec![0; 1 << 16]))));
            response.body(BoxBody::new(StreamBody::new(Frames(many.collect())))).unwrap()
        }
        Behaviour::Answers(_) => response.body(frames(Bytes::new(), "2")).unwrap(),
        Behaviour::Pods { pods, growing } => match message(&method, &question, pods) {
            Some(mut message) => {
                if *growing {
                    // Field 1000, a string, and field 1001, a number.
                    message.extend_from_slice(b"\xc2\x3e\x05hello\xc8\x3e\x07");
                }
                let mut bytes = BytesMut::new();
                bytes.put_u8(0);
                bytes.put_u32(message.len() as u32);
                bytes.extend_from_slice(&message);
                response.body(frames(bytes.freeze(), "0")).unwrap()
            }
            None => response.header("grpc-status", "12").body(frames(Bytes::new(), "0")).unwrap(),
        },
    })
}

/// A header may hold no control characters: they come percent-encoded.
fn sanitised(message: &str) -> Vec<u8> {
    message.bytes().flat_map(|b| if b < 0x20 { format!("%{b:02x}").into_bytes() } else { vec![b] }).collect()
}

/// A body of ready frames.
struct Frames(std::collections::VecDeque<Result<Frame<Bytes>, Infallible>>);

impl futures_core::Stream for Frames {
    type Item = Result<Frame<Bytes>, Infallible>;
    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        std::task::Poll::Ready(self.0.pop_front())
    }
}

#[derive(Clone, PartialEq, Message)]
struct Text {
    #[prost(string, tag = "1")]
    text: String,
}

#[derive(Clone, PartialEq, Message)]
struct Version {
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct Sandbox {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "2")]
    metadata: Option<Metadata>,
    #[prost(int32, tag = "3")]
    state: i32,
    #[prost(int64, tag = "4")]
    created_at: i64,
    #[prost(map = "string, string", tag = "5")]
    labels: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

#[derive(Clone, PartialEq, Message)]
struct Sandboxes {
    #[prost(message, repeated, tag = "1")]
    items: Vec<Sandbox>,
}

#[derive(Clone, PartialEq, Message)]
struct StatusAnswer {
    #[prost(message, optional, tag = "1")]
    status: Option<Status>,
    #[prost(map = "string, string", tag = "2")]
    info: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "3")]
    state: i32,
    #[prost(message, optional, tag = "5")]
    network: Option<Network>,
    #[prost(message, optional, tag = "6")]
    linux: Option<Linux>,
}

#[derive(Clone, PartialEq, Message)]
struct Linux {
    #[prost(message, optional, tag = "1")]
    namespaces: Option<Options>,
}

#[derive(Clone, PartialEq, Message)]
struct Options {
    #[prost(message, optional, tag = "2")]
    options: Option<NetworkMode>,
}

#[derive(Clone, PartialEq, Message)]
struct NetworkMode {
    #[prost(int32, tag = "1")]
    network: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Network {
    #[prost(string, tag = "1")]
    ip: String,
    #[prost(message, repeated, tag = "2")]
    more: Vec<Text>,
}

fn message(method: &str, question: &[u8], pods: &[FakePod]) -> Option<Vec<u8>> {
    Some(match method {
        "Version" => Version { name: "fake".into(), version: "1.0".into() }.encode_to_vec(),
        "ListPodSandbox" => {
            let sandbox = |pod: &FakePod| Sandbox {
                id: pod.id.clone(),
                metadata: Some(Metadata { name: pod.name.clone(), namespace: pod.namespace.clone() }),
                state: pod.state,
                created_at: 1,
                labels: HashMap::from([(
                    "app".to_owned(),
                    pod.name.split('-').next().unwrap_or_default().to_owned(),
                )]),
            };
            Sandboxes { items: pods.iter().map(sandbox).collect() }.encode_to_vec()
        }
        "PodSandboxStatus" => {
            let id = Text::decode(question.get(5..)?).ok()?.text;
            let pod = pods.iter().find(|pod| pod.id == id)?;
            let mode = NetworkMode { network: if pod.host_network { 2 } else { 0 } };
            let ip = |text: &String| Text { text: text.clone() };
            StatusAnswer {
                status: Some(Status {
                    state: pod.state,
                    network: Some(Network {
                        ip: pod.ips.first().cloned().unwrap_or_default(),
                        more: pod.ips.iter().skip(1).map(ip).collect(),
                    }),
                    linux: Some(Linux { namespaces: Some(Options { options: Some(mode) }) }),
                }),
                info: HashMap::from([("info".to_owned(), pod.info.clone())]),
            }
            .encode_to_vec()
        }
        _ => return None,
    })
}
