// SPDX-License-Identifier: MIT OR Apache-2.0
//! The traffic. Senders run on the first CPU and receivers on the last, so that the sender's softirq, which does
//! all of the forwarding, runs alike in every round.

use std::io::{self, Read as _, Write as _};
use std::mem;
use std::net::{SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::net::{A, B, Net};
use super::stats::Series;

const UDP_PORT: u16 = 5001;
const TCP_PORT: u16 = 5002;
/// IP and UDP headers and 36 bytes: a packet of 64.
const UDP_PAYLOAD: usize = 64 - 28;
const BATCH: usize = 32;
const TCP_WRITE: usize = 128 << 10;
/// How often arrived packets are fetched: some hundreds then, and the socket holds many thousands.
const LOOK: Duration = Duration::from_millis(1);
/// Rates are the median of windows of this length: an interruption spoils one of them, not the measurement.
const WINDOW: Duration = Duration::from_millis(5);

/// What one workload showed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Udp {
    /// Packets a second that arrived at b: what was sent in the median window, less what got lost on the way.
    pub(super) rate: f64,
    pub(super) sent: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Rtt {
    /// Nanoseconds.
    pub(super) median: f64,
    pub(super) p99: f64,
}

/// UDP packets of 64 bytes from a to b, as fast as they go, or `pace` a second.
pub(super) fn udp(net: &Net, time: Duration, pace: Option<f64>) -> Result<Udp> {
    let (sender, receiver) = udp_pair(net)?;
    set(&receiver, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 64 << 20)?;

    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let receiving = scope.spawn(|| {
            pin(last_cpu());
            receive(&receiver, &done)
        });
        let sending = scope.spawn(|| {
            pin(0);
            let sent = send(&sender, time, pace);
            done.store(true, Ordering::Release);
            sent
        });
        let (sent, rate) = sending.join().expect("the sender does not panic")?;
        let arrived = receiving.join().expect("the receiver does not panic")?;
        Ok(Udp { rate: rate * (arrived as f64 / sent.max(1) as f64), sent })
    })
}

/// Sends for `time`; with a pace, a batch at each of its moments. Returns the packets, and packets a second.
fn send(socket: &UdpSocket, time: Duration, pace: Option<f64>) -> Result<(u64, f64)> {
    let mut payload = [0u8; UDP_PAYLOAD];
    let mut part = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
    let part = &raw mut part;
    let mut headers: [libc::mmsghdr; BATCH] = messages(|_| part);
    let start = Instant::now();
    let mut windows = Windows::new(start);
    let mut sent = 0u64;
    loop {
        let now = Instant::now();
        windows.at(now, sent);
        let elapsed = now - start;
        if elapsed >= time {
            return Ok((sent, windows.rate()));
        }
        let due = match pace {
            None => BATCH,
            Some(pace) => {
                ((elapsed.as_secs_f64() * pace) as u64).saturating_sub(sent).min(BATCH as u64) as usize
            }
        };
        if due == 0 {
            // Not spinning: a real-time thread has to leave the CPU now and then.
            thread::sleep(Duration::from_micros(100));
            continue;
        }
        // SAFETY: `due` headers, each with one part, all alive; the kernel writes only their lengths.
        let n = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), due as u32, 0) };
        match n {
            0.. => sent += n as u64,
            _ => {
                let error = io::Error::last_os_error();
                // Nobody listens for a moment, or no buffers: the next one may pass.
                if !matches!(error.raw_os_error(), Some(libc::ECONNREFUSED | libc::ENOBUFS)) {
                    return Err(error).context("sending UDP");
                }
            }
        }
    }
}

/// Counts what arrives until the sender is done and nothing more comes. Looks every now and then and never waits
/// in the kernel: whether the sender has somebody to wake would decide about its rate more than anything else.
fn receive(socket: &UdpSocket, done: &AtomicBool) -> Result<u64> {
    let mut payloads = [[0u8; 128]; BATCH];
    let mut parts = payloads
        .each_mut()
        .map(|payload| libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() });
    let parts = parts.as_mut_ptr();
    // SAFETY: below BATCH, so within the array.
    let mut headers: [libc::mmsghdr; BATCH] = messages(|i| unsafe { parts.add(i) });
    let mut arrived = 0;
    loop {
        let finished = done.load(Ordering::Acquire);
        // SAFETY: BATCH headers with a part each, which all outlive the call.
        let n = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH as u32,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        match n {
            0.. => arrived += n as u64,
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::WouldBlock {
                    return Err(error).context("receiving UDP");
                }
                if finished {
                    return Ok(arrived);
                }
                thread::sleep(LOOK);
            }
        }
    }
}

fn messages(part: impl Fn(usize) -> *mut libc::iovec) -> [libc::mmsghdr; BATCH] {
    std::array::from_fn(|i| {
        // SAFETY: a structure of numbers and pointers; all zero is a value of it.
        let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
        header.msg_hdr.msg_iov = part(i);
        header.msg_hdr.msg_iovlen = 1;
        header
    })
}

/// One TCP connection from a to b that is always full: bytes a second.
pub(super) fn tcp(net: &Net, time: Duration) -> Result<f64> {
    let listener = net.b.run(|| TcpListener::bind((B, TCP_PORT)))?.context("listening in b")?;
    let to = SocketAddrV4::new(B, TCP_PORT).into();
    let mut sender = net
        .a
        .run(|| TcpStream::connect_timeout(&to, Duration::from_secs(2)))?
        .context("connecting from a to b")?;
    let (mut receiver, _) = listener.accept().context("accepting in b")?;
    sender.set_write_timeout(Some(Duration::from_secs(2)))?;
    thread::scope(|scope| {
        let receiving = scope.spawn(move || -> io::Result<f64> {
            pin(last_cpu());
            let mut buffer = vec![0u8; TCP_WRITE];
            let mut windows = Windows::new(Instant::now());
            let mut bytes = 0;
            loop {
                match receiver.read(&mut buffer)? {
                    0 => return Ok(windows.rate()),
                    n => bytes += n as u64,
                }
                windows.at(Instant::now(), bytes);
            }
        });
        let sending = scope.spawn(move || -> io::Result<()> {
            pin(0);
            let buffer = vec![0u8; TCP_WRITE];
            let start = Instant::now();
            while start.elapsed() < time {
                sender.write_all(&buffer)?;
            }
            Ok(())
        });
        sending.join().expect("the sender does not panic").context("sending TCP")?;
        receiving.join().expect("the receiver does not panic").context("receiving TCP")
    })
}

/// Rates in the windows of one measurement.
struct Windows {
    begun: Instant,
    before: u64,
    rates: Series,
}

impl Windows {
    fn new(begun: Instant) -> Self {
        Self { begun, before: 0, rates: Series::default() }
    }

    /// To be told now and then how much it has been so far.
    fn at(&mut self, now: Instant, total: u64) {
        let length = now - self.begun;
        if length >= WINDOW {
            self.rates.push((total - self.before) as f64 / length.as_secs_f64());
            (self.begun, self.before) = (now, total);
        }
    }

    /// A second, in the median window.
    fn rate(&self) -> f64 {
        self.rates.median()
    }
}

/// A UDP packet from a to b and one back, over and over. One thread does both ends: there is nobody to wake, and
/// a packet's way through the kernel is done when the call that sends it returns.
pub(super) fn rtt(net: &Net, time: Duration) -> Result<Rtt> {
    let (a, b) = udp_pair(net)?;
    thread::scope(|scope| {
        let echoing = scope.spawn(|| {
            pin(0);
            echo(&a, &b, time)
        });
        echoing.join().expect("the echo does not panic")
    })
}

fn echo(a: &UdpSocket, b: &UdpSocket, time: Duration) -> Result<Rtt> {
    let mut payload = [0u8; UDP_PAYLOAD];
    let mut times = Vec::with_capacity(1 << 16);
    let start = Instant::now();
    while start.elapsed() < time {
        let sent = Instant::now();
        a.send(&payload).context("sending UDP from a")?;
        b.recv(&mut payload).context("receiving UDP in b")?;
        b.send(&payload).context("sending UDP from b")?;
        a.recv(&mut payload).context("receiving UDP in a")?;
        times.push(sent.elapsed().as_nanos() as u64);
    }
    times.sort_unstable();
    ensure!(times.len() >= 100, "only {} packets came back", times.len());
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize] as f64;
    Ok(Rtt { median: at(0.5), p99: at(0.99) })
}

/// Sockets in a and b, connected to each other: their packets need no route looked up in a and b, which share
/// the kernel, and with it the tracepoints, with the router. On a real node only the router's are there.
fn udp_pair(net: &Net) -> Result<(UdpSocket, UdpSocket)> {
    let a = net.a.run(|| UdpSocket::bind((A, UDP_PORT)))?.context("binding UDP in a")?;
    let b = net.b.run(|| UdpSocket::bind((B, UDP_PORT)))?.context("binding UDP in b")?;
    a.connect((B, UDP_PORT)).context("connecting UDP in a")?;
    b.connect((A, UDP_PORT)).context("connecting UDP in b")?;
    for socket in [&a, &b] {
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    }
    Ok((a, b))
}

fn set(socket: &UdpSocket, level: i32, option: i32, value: i32) -> Result<()> {
    // SAFETY: a valid descriptor, and an option of the size given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()).context("setting a socket option") } else { Ok(()) }
}

fn last_cpu() -> usize {
    thread::available_parallelism().map_or(0, |n| n.get() - 1)
}

/// Keeps the calling thread on a CPU and, as a real-time thread, ahead of whatever else wants that CPU, as far
/// as that is allowed.
fn pin(cpu: usize) {
    // SAFETY: a set of bits; all zero is an empty one, and the calls write only to it.
    unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set);
        let first = libc::sched_param { sched_priority: 1 };
        libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const first);
    }
}
