// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fills a namespace's connection table, over ctnetlink: the limit cannot be lowered inside one.

use std::{
    fs, io, mem,
    os::fd::{AsRawFd, OwnedFd},
};

use anyhow::{Context, Result, bail};

use crate::{
    ns::{Ns, check},
    sockets,
};

// linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h.
const CT_NEW: u16 = 1 << 8; // NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_NEW
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_TIMEOUT: u16 = 7;
const NESTED: u16 = 0x8000;
/// IPS_SEEN_REPLY | IPS_ASSURED | IPS_CONFIRMED: such an entry is not evicted for a new one.
const STATUS: u32 = 0b1110;
const TCP_ESTABLISHED: u8 = 3;

/// Messages handed to the kernel at once.
const BATCH: u32 = 512;

/// Adds assured TCP entries, of addresses nobody has, until the table is full. They go with the
/// namespace. Takes about a second and 80 MB of kernel memory for the usual 262144.
///
/// # Errors
/// When ctnetlink refuses, or the table is not full in the end.
pub(crate) fn fill(ns: &Ns) -> Result<()> {
    ns.run(|| -> Result<()> {
        let read = |name: &str| -> Result<u32> {
            let path = format!("/proc/sys/net/netfilter/{name}");
            fs::read_to_string(&path)
                .with_context(|| format!("reading {path}"))?
                .trim()
                .parse()
                .with_context(|| format!("reading a number from {path}"))
        };
        let max = read("nf_conntrack_max")?;
        let socket = sockets::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_NETFILTER)
            .context("opening a netfilter netlink socket")?;
        // Some more than fit: the last ones are refused, which is the point.
        let (mut next, end) = (0, max + BATCH);
        while next < end {
            let mut batch = Vec::with_capacity(BATCH as usize * 160);
            for number in next..next + BATCH {
                let last = number + 1 == next + BATCH;
                entry(&mut batch, number, last);
            }
            send(&socket, &batch)?;
            // The last message of a batch asks for an answer, so that none is lost.
            match answer(&socket)? {
                0 | libc::EEXIST => {}
                libc::ENOMEM | libc::ENFILE => break,
                errno => return Err(io::Error::from_raw_os_error(errno)).context("adding a conntrack entry"),
            }
            next += BATCH;
        }
        let count = read("nf_conntrack_count")?;
        if count < max {
            bail!("the connection table has {count} of {max} entries");
        }
        Ok(())
    })?
    .with_context(|| format!("filling the connection table of {}", ns.name()))
}

fn entry(batch: &mut Vec<u8>, number: u32, acknowledge: bool) {
    let start = batch.len();
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_CREATE | if acknowledge { libc::NLM_F_ACK } else { 0 };
    batch.extend([0; 4]);
    batch.extend(CT_NEW.to_ne_bytes());
    batch.extend((flags as u16).to_ne_bytes());
    batch.extend([0; 8]);
    // struct nfgenmsg: family, version, resource id.
    batch.extend([libc::AF_INET as u8, 0, 0, 0]);
    // 240.0.0.0/4 is nobody's.
    let client = 0xf000_0000 | (number >> 12);
    let port = 1024 + (number & 0xfff) as u16;
    let server = 0xf100_0001_u32;
    tuple(batch, CTA_TUPLE_ORIG, (client, port), (server, 80));
    tuple(batch, CTA_TUPLE_REPLY, (server, 80), (client, port));
    attribute(batch, CTA_STATUS, &STATUS.to_be_bytes());
    attribute(batch, CTA_TIMEOUT, &3600_u32.to_be_bytes());
    nest(batch, CTA_PROTOINFO, |batch| {
        // CTA_PROTOINFO_TCP with CTA_PROTOINFO_TCP_STATE.
        nest(batch, 1, |batch| attribute(batch, 1, &[TCP_ESTABLISHED]));
    });
    let length = (batch.len() - start) as u32;
    batch[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

fn tuple(batch: &mut Vec<u8>, kind: u16, from: (u32, u16), to: (u32, u16)) {
    nest(batch, kind, |batch| {
        // CTA_TUPLE_IP: CTA_IP_V4_SRC, CTA_IP_V4_DST.
        nest(batch, 1, |batch| {
            attribute(batch, 1, &from.0.to_be_bytes());
            attribute(batch, 2, &to.0.to_be_bytes());
        });
        // CTA_TUPLE_PROTO: CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT.
        nest(batch, 2, |batch| {
            attribute(batch, 1, &[libc::IPPROTO_TCP as u8]);
            attribute(batch, 2, &from.1.to_be_bytes());
            attribute(batch, 3, &to.1.to_be_bytes());
        });
    });
}

fn attribute(batch: &mut Vec<u8>, kind: u16, value: &[u8]) {
    batch.extend((4 + value.len() as u16).to_ne_bytes());
    batch.extend(kind.to_ne_bytes());
    batch.extend(value);
    batch.resize(batch.len().next_multiple_of(4), 0);
}

fn nest(batch: &mut Vec<u8>, kind: u16, inside: impl FnOnce(&mut Vec<u8>)) {
    let start = batch.len();
    batch.extend([0; 2]);
    batch.extend((kind | NESTED).to_ne_bytes());
    inside(batch);
    let length = (batch.len() - start) as u16;
    batch[start..start + 2].copy_from_slice(&length.to_ne_bytes());
}

fn send(socket: &OwnedFd, batch: &[u8]) -> Result<()> {
    // SAFETY: the batch lives across the call, with its true length; no address means the kernel.
    let sent = unsafe { libc::send(socket.as_raw_fd(), batch.as_ptr().cast(), batch.len(), 0) };
    if sent < 0 { Err(io::Error::last_os_error()).context("sending to ctnetlink") } else { Ok(()) }
}

/// The errno of the first refusal, or 0. Without NLM_F_ACK the kernel answers only refusals; when
/// the table is full, these are many, and the first is enough.
fn answer(socket: &OwnedFd) -> Result<i32> {
    let mut buffer = [0_u8; 8192];
    // SAFETY: the kernel writes at most the buffer's length into it.
    let count = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    if count < 0 {
        let error = io::Error::last_os_error();
        // Too many refusals for the socket's buffer: the table is full.
        return if error.raw_os_error() == Some(libc::ENOBUFS) {
            Ok(libc::ENOMEM)
        } else {
            Err(error.into())
        };
    }
    check(count as i32)?;
    let at = mem::size_of::<libc::nlmsghdr>();
    let errno = buffer.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_ne_bytes);
    Ok(-errno)
}
