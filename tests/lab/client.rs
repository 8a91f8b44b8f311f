// SPDX-License-Identifier: MIT OR Apache-2.0
//! The clients of the lab: what an application in a pod would see. All bounded in time and size.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde::Serialize;

use crate::ns::Ns;

/// How long a client waits before it gives up: three SYNs, and long enough to hear that a neighbour
/// does not answer (three requests, a second apart).
pub const PATIENCE: Duration = Duration::from_millis(3500);

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// It was answered.
    Answered(Answer),
    /// RST, or ICMP port unreachable.
    Refused,
    /// No route here, or an ICMP error from the way.
    Unreachable {
        /// The errno's text.
        error: String,
    },
    /// Nothing, or not enough, came back in time.
    TimedOut,
    /// The connection was closed or reset in the middle.
    Broken {
        /// How.
        error: String,
    },
}

/// An answer of one of the lab's servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// The address by which the server saw the client, where it says so.
    pub client: Option<IpAddr>,
    /// The server's label.
    pub label: String,
    /// Payload bytes that arrived, at the server for an upload, here for a download.
    pub bytes: usize,
    /// From the first packet to the end of the answer.
    #[serde(rename = "took_ns", serialize_with = "nanoseconds")]
    pub took: Duration,
}

impl Outcome {
    /// The answer, where there is one.
    pub fn answer(&self) -> Option<&Answer> {
        if let Self::Answered(answer) = self { Some(answer) } else { None }
    }

    /// The address by which the server saw the client, where it was answered.
    pub fn client(&self) -> Option<IpAddr> {
        self.answer()?.client
    }

    fn failed(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ECONNREFUSED) => Self::Refused,
            Some(
                libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EPERM | libc::EADDRNOTAVAIL,
            ) => Self::Unreachable { error: error.to_string() },
            Some(libc::ETIMEDOUT | libc::EAGAIN | libc::EINPROGRESS) => Self::TimedOut,
            _ if matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => {
                Self::TimedOut
            }
            _ => Self::Broken { error: error.to_string() },
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(answer) => {
                write!(f, "answered")?;
                if !answer.label.is_empty() {
                    write!(f, " by {}", answer.label)?;
                }
                if let Some(client) = answer.client {
                    write!(f, ", which saw {client}")?;
                }
                if answer.bytes > 0 {
                    write!(f, ", {} bytes", answer.bytes)?;
                }
                write!(f, " ({:.1} ms)", answer.took.as_secs_f64() * 1e3)
            }
            Self::Refused => write!(f, "refused"),
            Self::Unreachable { error } => write!(f, "unreachable: {error}"),
            Self::TimedOut => write!(f, "timed out"),
            Self::Broken { error } => write!(f, "broken off: {error}"),
        }
    }
}

/// A TCP request, ended after it.
#[derive(Debug, Clone, Copy)]
pub enum Request {
    /// Ask for the client's address.
    Who,
    /// Send so many bytes.
    Upload(usize),
    /// Ask for so many bytes.
    Download(usize),
}

/// Sends one TCP request from inside `ns`.
///
/// # Errors
/// Only when the namespace cannot be entered; what the network does is the outcome.
pub fn tcp(ns: &Ns, to: SocketAddr, request: Request, patience: Duration) -> Result<Outcome> {
    ns.run(|| {
        let start = Instant::now();
        Connection::open(to, patience)
            .and_then(|mut connection| connection.ask(request, start))
            .map_or_else(|error| Outcome::failed(&error), Outcome::Answered)
    })
}

/// Sends one TCP request from inside `ns`, by the usual patience.
///
/// # Errors
/// As [`tcp`].
pub fn who(ns: &Ns, to: SocketAddr) -> Result<Outcome> {
    tcp(ns, to, Request::Who, PATIENCE)
}

/// Two requests over one connection, with `between` run in the middle, by a thread which is
/// inside `ns`.
///
/// # Errors
/// When the namespace cannot be entered, or `between` fails.
pub fn keep_alive(
    ns: &Ns,
    to: SocketAddr,
    between: impl FnOnce() -> Result<()> + Send,
) -> Result<(Outcome, Outcome)> {
    ns.run(|| {
        let mut connection = match Connection::open(to, PATIENCE) {
            Ok(connection) => connection,
            Err(error) => return Ok((Outcome::failed(&error), Outcome::failed(&error))),
        };
        let mut ask = || {
            connection
                .ask(Request::Who, Instant::now())
                .map_or_else(|error| Outcome::failed(&error), Outcome::Answered)
        };
        let first = ask();
        between()?;
        Ok((first, ask()))
    })?
}

/// Opens `count` connections from inside `ns` one after the other, and keeps them while it lasts.
///
/// # Errors
/// As [`tcp`].
pub fn many(ns: &Ns, to: SocketAddr, count: usize, patience: Duration) -> Result<Vec<Outcome>> {
    ns.run(|| {
        let mut open = Vec::new();
        (0..count)
            .map(|_| {
                let start = Instant::now();
                match TcpStream::connect_timeout(&to, patience) {
                    Ok(stream) => {
                        open.push(stream);
                        Outcome::Answered(Answer {
                            client: None,
                            label: String::new(),
                            bytes: 0,
                            took: start.elapsed(),
                        })
                    }
                    Err(error) => Outcome::failed(&error),
                }
            })
            .collect()
    })
}

/// Sends one datagram from inside `ns`, from `source` port (0: any), and waits for its echo.
///
/// # Errors
/// As [`tcp`].
pub fn udp(ns: &Ns, to: SocketAddr, source: u16, payload: &[u8], patience: Duration) -> Result<Outcome> {
    ns.run(|| {
        let start = Instant::now();
        let exchange = || -> io::Result<Answer> {
            let socket = UdpSocket::bind((any(to), source))?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(patience))?;
            socket.send(payload)?;
            let mut buffer = [0; 65536];
            let length = socket.recv(&mut buffer)?;
            let mut answer = parse_answer(&String::from_utf8_lossy(&buffer[..length]), start);
            answer.bytes = length;
            Ok(answer)
        };
        exchange().map_or_else(|error| Outcome::failed(&error), Outcome::Answered)
    })
}

/// A DNS query for `nginx-expose.default.svc.cluster.local`.
pub fn dns_query() -> Vec<u8> {
    let mut query = vec![0x4e, 0x57, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["nginx-expose", "default", "svc", "cluster", "local"] {
        query.push(label.len() as u8);
        query.extend(label.bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    query
}

/// Sends `count` datagrams of `size` bytes from inside `ns` without waiting for anything: for
/// load. Returns how many the kernel took.
///
/// # Errors
/// As [`tcp`], or when no socket can be had.
pub fn flood(ns: &Ns, to: SocketAddr, count: usize, size: usize) -> Result<usize> {
    ns.run(|| -> Result<usize> {
        let socket = UdpSocket::bind((any(to), 0))?;
        socket.connect(to)?;
        let payload = vec![0x55; size];
        Ok((0..count).filter(|_| socket.send(&payload).is_ok()).count())
    })?
}

/// What healthy hosts send besides requests: to everybody, to a group, with a small TTL as traceroute does.
///
/// # Errors
/// As [`tcp`], or when no socket can be had.
pub fn noise(ns: &Ns, network: Ipv4Addr, to: IpAddr) -> Result<()> {
    ns.run(|| -> Result<()> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_broadcast(true)?;
        for _ in 0..3 {
            for everybody in [network, Ipv4Addr::BROADCAST, Ipv4Addr::new(239, 1, 2, 3)] {
                socket.send_to(b"here I am", (everybody, 9))?;
            }
            thread::sleep(Duration::from_millis(400));
        }
        for ttl in 1..6 {
            let probe = UdpSocket::bind((any((to, 0).into()), 0))?;
            probe.set_ttl(ttl)?;
            probe.send_to(&[0; 32], (to, 33_434 + ttl as u16))?;
        }
        Ok(())
    })?
}

/// Pings from inside `ns`: `count` echo requests of `size` payload bytes; `fragment` says whether
/// they may be cut. `Answered` when all came back.
///
/// # Errors
/// When `ping` cannot be started.
pub fn ping(ns: &Ns, to: IpAddr, count: u32, size: usize, fragment: bool) -> Result<Outcome> {
    let start = Instant::now();
    let mut command = ns.command("ping")?;
    command.args(["-n", "-i", "0.02", "-W", "2", "-c", &count.to_string(), "-s", &size.to_string()]);
    command.args(["-M", if fragment { "dont" } else { "do" }]).arg(to.to_string());
    let output = command.stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let back = text.lines().filter(|line| line.contains(" bytes from ")).count();
    Ok(if back >= count as usize {
        Outcome::Answered(Answer { client: None, label: String::new(), bytes: size, took: start.elapsed() })
    } else if text.contains("Unreachable") || text.contains("unreachable") {
        Outcome::Unreachable { error: text.lines().nth(1).unwrap_or_default().to_owned() }
    } else if text.contains("message too long") || text.contains("Frag needed") {
        Outcome::Broken { error: "message too long".to_owned() }
    } else {
        Outcome::TimedOut
    })
}

/// A connection with a deadline for all that happens on it.
struct Connection {
    stream: TcpStream,
    patience: Duration,
}

impl Connection {
    fn open(to: SocketAddr, patience: Duration) -> io::Result<Self> {
        Ok(Self { stream: TcpStream::connect_timeout(&to, patience)?, patience })
    }

    /// One request and its answer; `start` is when the clock began.
    fn ask(&mut self, request: Request, start: Instant) -> io::Result<Answer> {
        let end = Instant::now() + self.patience;
        let host = self.stream.peer_addr()?;
        match request {
            Request::Who => write!(self.stream, "GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")?,
            Request::Download(count) => {
                write!(self.stream, "GET /bytes/{count} HTTP/1.1\r\nHost: {host}\r\n\r\n")?;
            }
            Request::Upload(count) => {
                write!(self.stream, "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {count}\r\n\r\n")?;
                self.write_all(&vec![b'u'; count], end)?;
            }
        }
        let body = self.read_answer(end)?;
        if let Request::Download(_) = request {
            return Ok(Answer {
                client: None,
                label: String::new(),
                bytes: body.len(),
                took: start.elapsed(),
            });
        }
        Ok(parse_answer(&body, start))
    }

    fn write_all(&mut self, mut bytes: &[u8], end: Instant) -> io::Result<()> {
        while !bytes.is_empty() {
            self.stream.set_write_timeout(Some(remaining(end)?))?;
            let count = self.stream.write(bytes)?;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    /// Reads the header and as many bytes as it promises.
    fn read_answer(&mut self, end: Instant) -> io::Result<String> {
        let mut got = Vec::new();
        let mut buffer = [0; 64 * 1024];
        loop {
            if let Some(at) = got.windows(4).position(|four| four == b"\r\n\r\n") {
                let header = String::from_utf8_lossy(&got[..at]).to_ascii_lowercase();
                let length = header
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok())
                    .unwrap_or(0);
                if got.len() >= at + 4 + length {
                    return Ok(String::from_utf8_lossy(&got[at + 4..at + 4 + length]).into_owned());
                }
            }
            self.stream.set_read_timeout(Some(remaining(end)?))?;
            match self.stream.read(&mut buffer)? {
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                count => got.extend(&buffer[..count]),
            }
        }
    }
}

fn remaining(end: Instant) -> io::Result<Duration> {
    match end.checked_duration_since(Instant::now()) {
        Some(left) if !left.is_zero() => Ok(left),
        _ => Err(io::Error::from(io::ErrorKind::TimedOut)),
    }
}

/// `Remote IP: 10.0.0.1:4242 label` or `got 300000 from 10.0.0.1 label`.
fn parse_answer(body: &str, start: Instant) -> Answer {
    let mut answer = Answer { client: None, label: String::new(), bytes: 0, took: start.elapsed() };
    let mut words = body.split_whitespace();
    match words.next() {
        Some("Remote") => {
            words.next();
            let seen = words.next().and_then(|word| word.parse::<SocketAddr>().ok());
            answer.client = seen.map(|address| address.ip());
        }
        Some("got") => {
            answer.bytes = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
            words.next();
            answer.client = words.next().and_then(|word| word.parse().ok());
        }
        _ => return answer,
    }
    answer.label = words.next().unwrap_or_default().to_owned();
    answer
}

fn any(like: SocketAddr) -> IpAddr {
    if like.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

fn nanoseconds<S: serde::Serializer>(took: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u128(took.as_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_in_both_forms_and_families() {
        let start = Instant::now();
        let who = parse_answer("Remote IP: 172.16.25.189:4242 ext\n", start);
        assert_eq!(who.client, Some("172.16.25.189".parse().expect("an address")));
        assert_eq!(who.label, "ext");
        let six = parse_answer("Remote IP: [fd00:172::189]:4242 ext\n", start);
        assert_eq!(six.client, Some("fd00:172::189".parse().expect("an address")));
        let up = parse_answer("got 300000 from 10.200.0.22 pod2\n", start);
        assert_eq!((up.bytes, up.label.as_str()), (300_000, "pod2"));
    }
}
