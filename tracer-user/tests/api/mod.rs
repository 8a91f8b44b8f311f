// SPDX-License-Identifier: MIT OR Apache-2.0
//! An API server for tests: lists in pages, streams of changes, and everything a server can do wrong. Threads and
//! blocking reads; nothing of the client under test is in it.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]
#![allow(dead_code, clippy::allow_attributes, reason = "each test uses a part of it")]

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value, json};

/// What it has, and how it behaves.
#[derive(Default)]
pub(crate) struct World {
    /// By plural, namespace and name.
    objects: BTreeMap<(String, String, String), Value>,
    /// Version, plural, type, object.
    changes: Vec<(u64, String, &'static str, Value)>,
    version: u64,
    /// Changes up to this one are forgotten.
    forgotten: u64,
    /// Streams begun before this number are closed.
    epoch: u64,
    /// Answers to requests for a plural.
    pub(crate) answers: HashMap<String, Answer>,
    /// `None`: anybody may ask.
    pub(crate) token: Option<String>,
    /// Before each answer.
    pub(crate) delay: Duration,
    /// What was asked: "GET /api/v1/services?limit=500".
    pub(crate) asked: Vec<String>,
    /// Streams that are open now.
    pub(crate) streams: usize,
}

/// In the place of what was asked for.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// This status, with a message.
    Status(u16, &'static str),
    /// This body.
    Body(&'static str),
    /// This many bytes.
    Endless(usize),
    /// A list, but a stream of changes that says this.
    Stream(&'static str),
}

pub(crate) struct ApiServer {
    pub(crate) world: Arc<Mutex<World>>,
    address: SocketAddr,
    ends: Arc<AtomicBool>,
    dir: PathBuf,
    accepts: Option<JoinHandle<()>>,
}

/// How a connection becomes a stream of requests: as it is, or with TLS.
pub(crate) type Wrap = Arc<dyn Fn(TcpStream) -> Box<dyn Connection> + Send + Sync>;

pub(crate) trait Connection: Read + Write + Send {}
impl<T: Read + Write + Send> Connection for T {}

impl ApiServer {
    pub(crate) fn start() -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), Arc::new(|stream| Box::new(stream)))
    }

    pub(crate) fn on(listener: TcpListener, wrap: Wrap) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("egwt-api-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let world = Arc::new(Mutex::new(World { version: 10, ..World::default() }));
        let ends = Arc::new(AtomicBool::new(false));
        let (of_thread, until) = (world.clone(), ends.clone());
        let accepts = thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                let Ok((stream, _)) = listener.accept() else {
                    thread::sleep(Duration::from_millis(2));
                    continue;
                };
                stream.set_nonblocking(false).unwrap();
                let (world, until, wrap) = (of_thread.clone(), until.clone(), wrap.clone());
                thread::spawn(move || serve(&mut *wrap(stream), &world, &until));
            }
        });
        Self { world, address, ends, dir, accepts: Some(accepts) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(crate) fn dir(&self) -> &std::path::Path {
        &self.dir
    }

    /// A kubeconfig that leads here; `user` is YAML: "token: abc".
    pub(crate) fn kubeconfig(&self, user: &str) -> PathBuf {
        self.kubeconfig_to(&self.url(), "", user)
    }

    pub(crate) fn kubeconfig_to(&self, server: &str, cluster: &str, user: &str) -> PathBuf {
        let file = self.dir.join("kubeconfig");
        let cluster = if cluster.is_empty() { String::new() } else { format!(", {cluster}") };
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: lab\n\
             clusters: [{{ name: lab, cluster: {{ server: \"{server}\"{cluster} }} }}]\n\
             contexts: [{{ name: lab, context: {{ cluster: lab, user: me, namespace: shop }} }}]\n\
             users: [{{ name: me, user: {{ {user} }} }}]\n"
        );
        std::fs::write(&file, text).unwrap();
        file
    }

    /// Adds or changes an object; `plural`: "services".
    pub(crate) fn put(&self, plural: &str, mut object: Value) {
        let mut world = self.world.lock().unwrap();
        world.version += 1;
        let version = world.version;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let key = key(plural, &object);
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(format!("{}-{}", key.1, key.2));
        }
        let kind = if world.objects.contains_key(&key) { "MODIFIED" } else { "ADDED" };
        world.objects.insert(key, object.clone());
        world.changes.push((version, plural.to_owned(), kind, object));
    }

    pub(crate) fn delete(&self, plural: &str, namespace: &str, name: &str) {
        let mut world = self.world.lock().unwrap();
        world.version += 1;
        let version = world.version;
        let gone = world.objects.remove(&(plural.to_owned(), namespace.to_owned(), name.to_owned()));
        let mut gone = gone.unwrap();
        gone["metadata"]["resourceVersion"] = json!(version.to_string());
        world.changes.push((version, plural.to_owned(), "DELETED", gone));
    }

    /// Streams end, as when the server is restarted.
    pub(crate) fn close_streams(&self) {
        self.world.lock().unwrap().epoch += 1;
    }

    /// Streams end, and changes that were not told yet never will be.
    pub(crate) fn forget(&self) {
        let mut world = self.world.lock().unwrap();
        world.version += 1;
        world.forgotten = world.version;
        world.changes.clear();
        world.epoch += 1;
    }

    pub(crate) fn answer(&self, plural: &str, answer: Answer) {
        self.world.lock().unwrap().answers.insert(plural.to_owned(), answer);
    }

    pub(crate) fn answer_again(&self, plural: &str) {
        self.world.lock().unwrap().answers.remove(plural);
    }

    /// How often something was asked that has `part` in it.
    pub(crate) fn count(&self, part: &str) -> usize {
        self.world.lock().unwrap().asked.iter().filter(|line| line.contains(part)).count()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let _ = self.accepts.take().map(JoinHandle::join);
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn key(plural: &str, object: &Value) -> (String, String, String) {
    let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
    (plural.to_owned(), text("namespace"), text("name"))
}

struct Asked {
    plural: String,
    namespace: Option<String>,
    name: Option<String>,
    query: HashMap<String, String>,
}

impl Asked {
    fn parse(target: &str) -> Option<Self> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let query = query.split('&').filter_map(|part| {
            let (name, value) = part.split_once('=')?;
            Some((name.to_owned(), decoded(value)))
        });
        let parts: Vec<String> = path.trim_start_matches('/').split('/').map(decoded).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let rest = match parts.as_slice() {
            ["api", "v1", rest @ ..] => rest,
            ["apis", _, _, rest @ ..] => rest,
            _ => return None,
        };
        let (namespace, plural, name) = match rest {
            ["namespaces", namespace, plural] => (Some(*namespace), *plural, None),
            ["namespaces", namespace, plural, name] => (Some(*namespace), *plural, Some(*name)),
            [plural] => (None, *plural, None),
            [plural, name] => (None, *plural, Some(*name)),
            _ => return None,
        };
        Some(Self {
            plural: plural.to_owned(),
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
            query: query.collect(),
        })
    }

    fn query(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    fn selects(&self, object: &Value) -> bool {
        let fields = self.query("fieldSelector").split(',').filter(|part| !part.is_empty()).all(|part| {
            let (field, value) = part.split_once('=').unwrap();
            let (a, b) = field.split_once('.').unwrap();
            object[a][b].as_str() == Some(value)
        });
        let labels = self.query("labelSelector").split(',').filter(|part| !part.is_empty()).all(|part| {
            let label = |key: &str| object["metadata"]["labels"][key].as_str();
            match part.split_once("!=") {
                Some((key, value)) => label(key) != Some(value),
                None => part.split_once('=').is_none_or(|(key, value)| label(key) == Some(value)),
            }
        });
        fields && labels
    }
}

/// One request for each connection.
fn serve(stream: &mut dyn Connection, world: &Mutex<World>, ends: &AtomicBool) -> Option<()> {
    let mut lines = Vec::new();
    let mut token = None;
    let mut reader = BufReader::new(&mut *stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("authorization: bearer ") {
            token = Some(value.to_owned());
        }
        lines.push(line);
    }
    drop(reader);
    let target = lines.first()?.split(' ').nth(1)?.to_owned();
    let delay = {
        let mut world = world.lock().unwrap();
        world.asked.push(format!("GET {target}"));
        world.delay
    };
    thread::sleep(delay);
    let mine = world.lock().unwrap().token.clone();
    if mine.is_some() && mine != token {
        return status(stream, 401, "Unauthorized");
    }
    let Some(asked) = Asked::parse(&target) else { return status(stream, 404, "no such path") };
    let answer = world.lock().unwrap().answers.get(&asked.plural).cloned();
    let watches = asked.query("watch") == "1";
    match answer {
        Some(Answer::Status(code, message)) => status(stream, code, message),
        Some(Answer::Body(body)) => respond(stream, 200, body.as_bytes()),
        Some(Answer::Endless(bytes)) => endless(stream, bytes),
        Some(Answer::Stream(lines)) if watches => respond(stream, 200, lines.as_bytes()),
        _ if watches => stream_changes(stream, &asked, world, ends),
        _ => list(stream, &asked, world),
    }
}

fn list(stream: &mut dyn Connection, asked: &Asked, world: &Mutex<World>) -> Option<()> {
    let world = world.lock().unwrap();
    let of_kind = world.objects.iter().filter(|((plural, ..), _)| *plural == asked.plural);
    let mut found = of_kind
        .filter(|((_, namespace, _), _)| asked.namespace.as_ref().is_none_or(|wanted| wanted == namespace))
        .filter(|(_, object)| asked.selects(object));
    if let Some(name) = &asked.name {
        return match found.find(|((.., own), _)| own == name) {
            Some((_, object)) => respond(stream, 200, object.to_string().as_bytes()),
            None => status(stream, 404, "not found"),
        };
    }
    let found: Vec<Value> = found.map(|(_, object)| object.clone()).collect();
    let from: usize = asked.query("continue").parse().unwrap_or(0);
    let limit: usize = asked.query("limit").parse().unwrap_or(usize::MAX);
    let page: Vec<&Value> = found.iter().skip(from).take(limit).collect();
    let next = from + page.len();
    let next = if next < found.len() { next.to_string() } else { String::new() };
    let metadata = json!({ "resourceVersion": world.version.to_string(), "continue": next });
    let items = if page.is_empty() { Value::Null } else { json!(page) };
    respond(
        stream,
        200,
        json!({ "kind": "List", "metadata": metadata, "items": items }).to_string().as_bytes(),
    )
}

fn stream_changes(
    stream: &mut dyn Connection,
    asked: &Asked,
    world: &Mutex<World>,
    ends: &AtomicBool,
) -> Option<()> {
    let mut told: u64 = asked.query("resourceVersion").parse().unwrap_or(0);
    let epoch = {
        let mut world = world.lock().unwrap();
        if told < world.forgotten {
            let error = json!({ "type": "ERROR", "object": { "kind": "Status", "code": 410, "message": "too old resource version" } });
            return respond(stream, 200, format!("{error}\n").as_bytes());
        }
        world.streams += 1;
        world.epoch
    };
    let told_all = (|| {
        stream
            .write_all(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
            )
            .ok()?;
        loop {
            let (news, over) = {
                let world = world.lock().unwrap();
                let new = world
                    .changes
                    .iter()
                    .filter(|(version, plural, ..)| *version > told && *plural == asked.plural);
                let lines: Vec<String> = new
                    .map(|(_, _, kind, object)| format!("{}\n", json!({ "type": kind, "object": object })))
                    .collect();
                told = world.version.max(told);
                (lines, world.epoch != epoch || ends.load(Ordering::Relaxed))
            };
            for line in news {
                // In two chunks, as a proxy may cut them.
                let (a, b) = line.split_at(line.len() / 2);
                for part in [a, b] {
                    write!(stream, "{:x}\r\n{part}\r\n", part.len()).ok()?;
                    stream.flush().ok()?;
                }
            }
            if over {
                stream.write_all(b"0\r\n\r\n").ok()?;
                return stream.flush().ok();
            }
            thread::sleep(Duration::from_millis(5));
        }
    })();
    world.lock().unwrap().streams -= 1;
    told_all
}

fn status(stream: &mut dyn Connection, code: u16, message: &str) -> Option<()> {
    let body = json!({ "kind": "Status", "code": code, "message": message }).to_string();
    respond(stream, code, body.as_bytes())
}

fn respond(stream: &mut dyn Connection, code: u16, body: &[u8]) -> Option<()> {
    write!(
        stream,
        "HTTP/1.1 {code} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    )
    .ok()?;
    stream.write_all(body).ok()?;
    stream.flush().ok()
}

fn endless(stream: &mut dyn Connection, bytes: usize) -> Option<()> {
    write!(stream, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n").ok()?;
    let part = vec![b' '; 1 << 16];
    for _ in 0..bytes >> 16 {
        stream.write_all(&part).ok()?;
    }
    stream.flush().ok()
}

fn decoded(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            out.push(u8::from_str_radix(std::str::from_utf8(&tail[..2]).unwrap(), 16).unwrap());
            rest = &tail[2..];
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(out).unwrap()
}

pub(crate) fn service(namespace: &str, name: &str, address: &str, ports: Value) -> Value {
    json!({
        "metadata": { "namespace": namespace, "name": name },
        "spec": { "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "ports": ports, "selector": { "app": name } }
    })
}

pub(crate) fn node(name: &str, address: &str) -> Value {
    json!({
        "metadata": { "name": name },
        "status": { "addresses": [{ "type": "InternalIP", "address": address }, { "type": "Hostname", "address": name }] }
    })
}

/// `of`: name and address of the node.
pub(crate) fn pod(namespace: &str, name: &str, address: &str, of: (&str, &str)) -> Value {
    json!({
        "metadata": { "namespace": namespace, "name": name, "labels": { "app": name.split('-').next() } },
        "spec": { "nodeName": of.0 },
        "status": { "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }], "hostIP": of.1 }
    })
}

/// `to`: names and addresses of pods.
pub(crate) fn slice(namespace: &str, service: &str, port: (&str, u16), to: &[(&str, &str)]) -> Value {
    let endpoints: Vec<Value> = to
        .iter()
        .map(|(pod, address)| {
            json!({ "addresses": [address], "conditions": { "ready": true }, "nodeName": "node2",
                    "targetRef": { "kind": "Pod", "namespace": namespace, "name": pod } })
        })
        .collect();
    json!({
        "metadata": { "namespace": namespace, "name": format!("{service}-abc"), "labels": { "kubernetes.io/service-name": service } },
        "endpoints": endpoints, "ports": [{ "name": port.0, "port": port.1, "protocol": "TCP" }]
    })
}
