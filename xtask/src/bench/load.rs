// SPDX-License-Identifier: MIT OR Apache-2.0
//! The traffic. Senders run on the first CPU and receivers on the last, so that the sender's softirq, which does
//! all of the forwarding, runs alike in every round.

use std::io::{self, Read as _, Write as _};
use std::mem;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::net::{B, Net};
use super::stats::Series;

const UDP_PORT: u16 = 5001;
const TCP_PORT: u16 = 5002;
/// IP and UDP headers and 36 bytes: a packet of 64.
const UDP_PAYLOAD: usize = 64 - 28;
const BATCH: usize = 32;
const TCP_WRITE: usize = 128 << 10;
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
    let receiver = net.b.run(|| UdpSocket::bind((B, UDP_PORT)))?.context("binding UDP in b")?;
    receiver.set_read_timeout(Some(Duration::from_millis(20)))?;
    set(&receiver, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 64 << 20)?;
    let sender = net.a.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?.context("binding UDP in a")?;
    sender.connect((B, UDP_PORT)).context("connecting UDP")?;

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

/// Counts what arrives until the sender is done and nothing more comes.
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
                libc::MSG_WAITFORONE,
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

/// ICMP echoes from a to b, each sent when the one before has been answered.
pub(super) fn rtt(net: &Net, time: Duration) -> Result<Rtt> {
    let socket = net.a.run(raw_icmp)?.context("a raw socket in a")?;
    thread::scope(|scope| {
        let pinging = scope.spawn(|| {
            pin(0);
            ping(&socket, time)
        });
        pinging.join().expect("the pinger does not panic")
    })
}

fn raw_icmp() -> io::Result<OwnedFd> {
    // SAFETY: socket takes numbers only.
    let raw = unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_ICMP) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor, nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    let limit = libc::timeval { tv_sec: 1, tv_usec: 0 };
    // SAFETY: a valid descriptor, and an option of the size given.
    let result = unsafe {
        libc::setsockopt(
            raw,
            libc::SOL_SOCKET,
            libc::SO_RCVTIMEO,
            (&raw const limit).cast(),
            size_of_val(&limit) as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}

fn ping(socket: &OwnedFd, time: Duration) -> Result<Rtt> {
    // SAFETY: a structure of numbers; all zero is a value of it.
    let mut to: libc::sockaddr_in = unsafe { mem::zeroed() };
    to.sin_family = libc::AF_INET as libc::sa_family_t;
    to.sin_addr.s_addr = u32::from(B).to_be();
    let id = (std::process::id() as u16).to_be_bytes();
    let mut times = Vec::with_capacity(1 << 16);
    let start = Instant::now();
    let mut seq = 0u16;
    while start.elapsed() < time {
        seq = seq.wrapping_add(1);
        let echo = echo_request(id, seq);
        let sent = Instant::now();
        // SAFETY: message and address are alive and of the sizes given.
        let n = unsafe {
            libc::sendto(
                socket.as_raw_fd(),
                echo.as_ptr().cast(),
                echo.len(),
                0,
                (&raw const to).cast(),
                size_of_val(&to) as libc::socklen_t,
            )
        };
        if n < 0 {
            return Err(io::Error::last_os_error()).context("sending an echo request");
        }
        if answered(socket, id, seq)? {
            times.push(sent.elapsed().as_nanos() as u64);
        }
    }
    times.sort_unstable();
    ensure!(times.len() >= 100, "only {} echo requests were answered", times.len());
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize] as f64;
    Ok(Rtt { median: at(0.5), p99: at(0.99) })
}

/// Waits for the answer; false when it does not come.
fn answered(socket: &OwnedFd, id: [u8; 2], seq: u16) -> Result<bool> {
    let mut packet = [0u8; 256];
    loop {
        // SAFETY: a buffer of the size given.
        let n = unsafe { libc::recv(socket.as_raw_fd(), packet.as_mut_ptr().cast(), packet.len(), 0) };
        if n < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::WouldBlock { Ok(false) } else { Err(error.into()) };
        }
        // After an IP header without options: type 0, then identifier and sequence number.
        if n >= 28 && packet[20] == 0 && packet[24..26] == id && packet[26..28] == seq.to_be_bytes() {
            return Ok(true);
        }
    }
}

/// 64 bytes of ICMP, as `ping` sends them.
fn echo_request(id: [u8; 2], seq: u16) -> [u8; 64] {
    let mut echo = [0u8; 64];
    echo[0] = 8;
    echo[4..6].copy_from_slice(&id);
    echo[6..8].copy_from_slice(&seq.to_be_bytes());
    let sum: u32 = echo.chunks_exact(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = !((folded & 0xffff) + (folded >> 16)) as u16;
    echo[2..4].copy_from_slice(&folded.to_be_bytes());
    echo
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_request_has_a_valid_checksum() {
        let echo = echo_request([1, 2], 0x1234);
        let sum: u32 = echo.chunks_exact(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]]))).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }
}
