// SPDX-License-Identifier: MIT OR Apache-2.0
//! The servers of the lab. Each says in its answer by which address it saw the client, which is
//! what an egress policy is about.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::{announce, ns::check, run_dir, sockets, tun};

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// HTTP: `GET /` tells the client's address, `GET /bytes/N` sends N bytes, `POST` counts them.
    Http,
    /// UDP: tells the client's address; a DNS query gets a DNS answer.
    Udp,
    /// TCP, backlog 1, never accepts.
    Hold,
    /// HTTP, but each answer takes a second and a half.
    Slow,
    /// TCP: accepts and never reads.
    Deaf,
    /// A sidecar's outbound half: goes on to where a redirected connection was meant to go.
    ProxyOut,
    /// A sidecar's inbound half: goes on to the same port on 127.0.0.1.
    ProxyIn,
    /// Answers ARP and neighbour solicitations for addresses that stand on no interface.
    Announce,
    /// A tun device that swallows what it is given: a VPN whose far end never answers.
    Tun,
}

/// A server process.
#[derive(Debug, Args)]
pub struct Serve {
    /// What to serve.
    kind: Kind,
    /// Where to write pid and start time.
    #[arg(long)]
    record: PathBuf,
    /// Where to listen; may be repeated.
    #[arg(long)]
    listen: Vec<SocketAddr>,
    /// What the answers end with.
    #[arg(long, default_value = "")]
    label: String,
    /// Become this user (and group) before serving.
    #[arg(long)]
    uid: Option<u32>,
    /// The device on which to announce, or to make.
    #[arg(long, default_value = "eth0")]
    dev: String,
    /// What to announce; may be repeated.
    #[arg(long)]
    address: Vec<IpAddr>,
}

/// At most this many connections at a time; more wait in the backlog.
const CONNECTIONS: usize = 1500;
/// An idle connection ends after this.
const IDLE: Duration = Duration::from_secs(20);
/// What a slow server takes for an answer.
const SLOW: Duration = Duration::from_millis(1500);

/// Runs a server until it is killed.
///
/// # Errors
/// When it cannot bind or change its user.
pub fn main(serve: Serve) -> Result<()> {
    run_dir::write_identity(&serve.record)?;
    raise_descriptor_limit();
    let mut workers = Vec::new();
    let label: Arc<str> = serve.label.as_str().into();
    for &address in &serve.listen {
        let what = || format!("listening on {address}");
        match serve.kind {
            Kind::Udp => {
                let socket = UdpSocket::bind(address).with_context(what)?;
                let label = label.clone();
                workers.push(thread::spawn(move || udp(&socket, &label)));
            }
            Kind::Hold => {
                let listener = sockets::listen(address, 1).with_context(what)?;
                workers.push(thread::spawn(move || {
                    let _never_accepts = listener;
                    loop {
                        thread::park();
                    }
                }));
            }
            Kind::Http | Kind::Slow | Kind::Deaf | Kind::ProxyIn | Kind::ProxyOut => {
                let listener = sockets::listen(address, 1024).with_context(what)?;
                let (kind, label) = (serve.kind, label.clone());
                workers.push(thread::spawn(move || accept(&listener, kind, &label)));
            }
            Kind::Announce | Kind::Tun => bail!("it does not listen"),
        }
    }
    if serve.kind == Kind::Announce {
        let announcer = announce::Announcer::new(&serve.dev, &serve.address)
            .with_context(|| format!("announcing on {}", serve.dev))?;
        workers.push(thread::spawn(move || announcer.run()));
    }
    if serve.kind == Kind::Tun {
        let device = tun::open(&serve.dev).with_context(|| format!("making {}", serve.dev))?;
        workers.push(thread::spawn(move || tun::swallow(device)));
    }
    if let Some(uid) = serve.uid {
        become_user(uid).with_context(|| format!("becoming user {uid}"))?;
    }
    say_ready()?;
    for worker in workers {
        let _ = worker.join();
    }
    Ok(())
}

fn accept(listener: &TcpListener, kind: Kind, label: &Arc<str>) {
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        while open.load(Ordering::Relaxed) >= CONNECTIONS {
            thread::sleep(Duration::from_millis(5));
        }
        open.fetch_add(1, Ordering::Relaxed);
        let (open, label) = (open.clone(), label.clone());
        let served = thread::Builder::new().stack_size(128 * 1024).spawn({
            let open = open.clone();
            move || {
                // A client that leaves in the middle is no concern of the server.
                let _ = match kind {
                    Kind::ProxyOut => sockets::original_destination(&stream).and_then(|to| relay(stream, to)),
                    Kind::ProxyIn => sockets::original_destination(&stream)
                        .and_then(|to| relay(stream, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), to.port()))),
                    Kind::Deaf => {
                        thread::sleep(IDLE);
                        Ok(())
                    }
                    Kind::Slow => http(&stream, &label, SLOW),
                    _ => http(&stream, &label, Duration::ZERO),
                };
                open.fetch_sub(1, Ordering::Relaxed);
            }
        });
        if served.is_err() {
            open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Serves requests on one connection until the client closes it or is silent for too long.
fn http(stream: &TcpStream, label: &str, delay: Duration) -> io::Result<()> {
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(IDLE))?;
    let client = stream.peer_addr()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut request = String::new();
        if reader.by_ref().take(4096).read_line(&mut request)? == 0 {
            return Ok(());
        }
        let (mut length, mut close) = (0, request.contains("HTTP/1.0"));
        loop {
            let mut header = String::new();
            if reader.by_ref().take(4096).read_line(&mut header)? == 0 || header.trim().is_empty() {
                break;
            }
            let header = header.to_ascii_lowercase();
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            close |= header.starts_with("connection:") && header.contains("close");
        }
        thread::sleep(delay);
        let mut words = request.split_whitespace();
        let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or("/"));
        let body = if method == "POST" {
            let got = io::copy(&mut reader.by_ref().take(length), &mut io::sink())?;
            format!("got {got} from {} {label}\n", client.ip())
        } else if let Some(count) = path.strip_prefix("/bytes/") {
            "x".repeat(count.parse::<usize>().unwrap_or(0).min(64 << 20))
        } else {
            format!("Remote IP: {client} {label}\n")
        };
        let mut out = stream;
        write!(
            out,
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        if close {
            return Ok(());
        }
    }
}

/// Copies both ways between a client and where it should go.
fn relay(client: TcpStream, to: SocketAddr) -> io::Result<()> {
    let server = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
    let mut ends = [(client, true), (server, true)];
    let mut buffer = [0; 16 * 1024];
    while ends.iter().any(|(_, open)| *open) {
        let mut polls = [0, 1].map(|at: usize| libc::pollfd {
            fd: if ends[at].1 { ends[at].0.as_raw_fd() } else { -1 },
            events: libc::POLLIN,
            revents: 0,
        });
        // SAFETY: two pollfds, which live across the call.
        let ready = unsafe { libc::poll(polls.as_mut_ptr(), 2, IDLE.as_millis() as i32) };
        check(ready)?;
        if ready == 0 {
            return Ok(());
        }
        for at in 0..2 {
            if polls[at].revents == 0 {
                continue;
            }
            let count = (&ends[at].0).read(&mut buffer)?;
            if count == 0 {
                ends[at].1 = false;
                ends[1 - at].0.shutdown(std::net::Shutdown::Write)?;
            } else {
                (&ends[1 - at].0).write_all(&buffer[..count])?;
            }
        }
    }
    Ok(())
}

fn udp(socket: &UdpSocket, label: &str) {
    let mut buffer = [0; 65536];
    loop {
        // An error here is an ICMP error for an earlier answer: the client has gone.
        let Ok((length, client)) = socket.recv_from(&mut buffer) else { continue };
        let query = &buffer[..length];
        let answer =
            dns_answer(query).unwrap_or_else(|| format!("Remote IP: {client} {label}\n").into_bytes());
        let _ = socket.send_to(&answer, client);
    }
}

/// The answer to a DNS query with one question: an A record, 10.96.100.100.
fn dns_answer(query: &[u8]) -> Option<Vec<u8>> {
    let (header, question) = query.split_at_checked(12)?;
    // A query (QR and opcode 0) with one question and nothing else of note.
    if header[2] & 0xf8 != 0 || header[4..6] != [0, 1] || header[6..8] != [0, 0] {
        return None;
    }
    let name = question.iter().position(|&byte| byte == 0)?;
    let question = question.get(..name + 5)?;
    let mut answer = header[..2].to_vec();
    answer.extend([0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    answer.extend(question);
    answer.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 10, 96, 100, 100]);
    Some(answer)
}

/// Tells the parent, then lets go of its pipes.
fn say_ready() -> Result<()> {
    let mut out = io::stdout();
    out.write_all(b"ready\n").and_then(|()| out.flush()).context("telling the lab that we serve")?;
    let null = File::options().read(true).write(true).open("/dev/null").context("opening /dev/null")?;
    for fd in [1, 2] {
        // SAFETY: both are valid descriptors; nothing of ours is written to 1 and 2 afterwards.
        check(unsafe { libc::dup2(null.as_raw_fd(), fd) }).context("leaving the parent's pipes")?;
    }
    Ok(())
}

fn become_user(uid: u32) -> io::Result<()> {
    // SAFETY: the calls take numbers and an empty list; glibc applies them to all threads.
    unsafe {
        check(libc::setgroups(0, std::ptr::null()))?;
        check(libc::setresgid(uid, uid, uid))?;
        check(libc::setresuid(uid, uid, uid))
    }
}

/// Two descriptors for each proxied connection are more than the usual soft limit allows.
fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure lives across both calls. A refusal leaves the soft limit, which serves.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max.min(8192);
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dns_query_gets_an_address_and_anything_else_an_echo() {
        let query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x05nginx\x00\x00\x01\x00\x01";
        let answer = dns_answer(query).expect("a query");
        assert_eq!(answer[..2], query[..2]);
        assert_eq!(answer[answer.len() - 4..], [10, 96, 100, 100]);
        assert_eq!(dns_answer(b"hello"), None);
        assert_eq!(dns_answer(b"a longer text, yet no query"), None);
    }
}
