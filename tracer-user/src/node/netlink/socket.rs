// SPDX-License-Identifier: MIT OR Apache-2.0
//! A netlink socket. It belongs to the namespace of the thread that opened it and can be used from
//! anywhere afterwards.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use netlink_packet_core::NetlinkBuffer;
use netlink_sys::{Socket, SocketAddr};

use super::attributes::{Request, attributes, text};

/// The kernel fills at most this much at a time when the reader offers it.
const BUFFER: usize = 32 * 1024;
/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// How often a dump that changed while it was read is read again.
const TRIES: usize = 4;

#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    #[error("cannot open a netlink socket in {netns}: {source}")]
    Open { netns: String, source: io::Error },
    #[error("the kernel refused to list {what} of {netns}: {source}{detail}")]
    Refused { what: &'static str, netns: String, source: io::Error, detail: String },
    #[error("cannot read {what} of {netns}: {source}")]
    Io { what: &'static str, netns: String, source: io::Error },
    #[error(
        "the kernel's list of {what} of {netns} is malformed; this is a bug in egwtrace or in the kernel"
    )]
    Malformed { what: &'static str, netns: String },
}

impl NetlinkError {
    /// The kernel has no such facility (as opposed to: it failed).
    pub fn is_unsupported(&self) -> bool {
        matches!(self, Self::Refused { source, .. } if matches!(source.raw_os_error(),
            Some(libc::EINVAL | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT | libc::ENOENT)))
    }
}

#[derive(Debug)]
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
    /// For messages about failures.
    netns: String,
}

impl Netlink {
    /// Opens a socket in the namespace of the calling thread, called `netns` in messages.
    /// `protocol`: `NETLINK_ROUTE` ...; `groups`: multicast groups to join.
    pub(crate) fn open(
        protocol: libc::c_int,
        netns: &str,
        groups: &[libc::c_uint],
    ) -> Result<Self, NetlinkError> {
        let open = || {
            let mut socket = Socket::new(protocol as isize)?;
            socket.bind(&SocketAddr::new(0, 0))?;
            // Both are niceties of newer kernels: the reason in words, and no echo of the request.
            let _ = socket.set_ext_ack(true);
            let _ = socket.set_cap_ack(true);
            for group in groups {
                socket.add_membership(*group)?;
            }
            socket.set_non_blocking(!groups.is_empty())?;
            Ok(socket)
        };
        let socket = open().map_err(|source| NetlinkError::Open { netns: netns.to_owned(), source })?;
        Ok(Self { socket, sequence: 0, buffer: Vec::new(), netns: netns.to_owned() })
    }

    /// Requests are taken word for word from now on, and refused where they are not understood.
    pub(crate) fn check_strictly(&mut self) -> Result<(), NetlinkError> {
        let on: libc::c_int = 1;
        // SAFETY: an option of the size of an integer, which is valid for the call.
        let set = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_NETLINK,
                libc::NETLINK_GET_STRICT_CHK,
                (&raw const on).cast(),
                size_of_val(&on) as libc::socklen_t,
            )
        };
        if set == 0 {
            return Ok(());
        }
        Err(NetlinkError::Open { netns: self.netns.clone(), source: io::Error::last_os_error() })
    }

    /// Sends a dump request and collects what `parse` makes of each message of the answer. Read again from
    /// the start when the kernel says that things changed meanwhile.
    pub(crate) fn dump<T>(
        &mut self,
        request: &Request,
        parse: impl Fn(u16, &[u8]) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        let mut out = Vec::new();
        for _ in 0..TRIES {
            out.clear();
            let steady = self.exchange(request, &mut |kind, payload| out.extend(parse(kind, payload)))?;
            if steady {
                break;
            }
        }
        Ok(out)
    }

    /// Sends a dump request and hands over each message of the answer. False: things changed meanwhile, and what was
    /// handed over is not all from one moment.
    pub(crate) fn each(
        &mut self,
        request: &Request,
        each: &mut dyn FnMut(u16, &[u8]),
    ) -> Result<bool, NetlinkError> {
        self.exchange(request, each)
    }

    /// Sends a request for one object.
    pub(crate) fn one<T>(
        &mut self,
        request: &Request,
        parse: impl Fn(u16, &[u8]) -> Option<T>,
    ) -> Result<Option<T>, NetlinkError> {
        let mut out = None;
        self.exchange(request, &mut |kind, payload| out = parse(kind, payload))?;
        Ok(out)
    }

    /// One request, its whole answer. False when the dump was not consistent.
    fn exchange(
        &mut self,
        request: &Request,
        each: &mut dyn FnMut(u16, &[u8]),
    ) -> Result<bool, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = encode(request, self.sequence);
        let what = request.what;
        let failed = |netns: &str, source| NetlinkError::Io { what, netns: netns.to_owned(), source };
        self.socket.send(&bytes, 0).map_err(|e| failed(&self.netns, e))?;
        let is_dump = request.flags & libc::NLM_F_DUMP as u16 == libc::NLM_F_DUMP as u16;
        let mut steady = true;
        // The buffer is there only while something is read: sockets are kept for the whole trace.
        let mut buffer = Vec::with_capacity(BUFFER);
        loop {
            buffer.clear();
            match self.socket.recv(&mut buffer, 0) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(failed(&self.netns, e)),
            }
            let mut messages = Messages::new(&buffer);
            for message in messages.by_ref() {
                if message.sequence != self.sequence {
                    continue;
                }
                steady &= message.flags & libc::NLM_F_DUMP_INTR as u16 == 0;
                match i32::from(message.kind) {
                    libc::NLMSG_NOOP => {}
                    libc::NLMSG_DONE | libc::NLMSG_ERROR => {
                        return match error_code(message.payload) {
                            0 => Ok(steady),
                            code => Err(NetlinkError::Refused {
                                what,
                                netns: self.netns.clone(),
                                source: io::Error::from_raw_os_error(code),
                                detail: error_text(&message),
                            }),
                        };
                    }
                    _ => {
                        each(message.kind, message.payload);
                        if !is_dump {
                            return Ok(steady);
                        }
                    }
                }
            }
            if messages.malformed() {
                return Err(NetlinkError::Malformed { what, netns: self.netns.clone() });
            }
        }
    }

    /// Reads one datagram of a multicast socket; never waits.
    pub(crate) fn receive(&mut self) -> io::Result<Messages<'_>> {
        self.buffer.clear();
        self.buffer.reserve(BUFFER);
        self.socket.recv(&mut self.buffer, libc::MSG_DONTWAIT)?;
        Ok(Messages::new(&self.buffer))
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Netlink {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// One netlink message.
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) payload: &'a [u8],
}

/// The messages of one datagram. Ends at the first malformed one.
pub(crate) struct Messages<'a> {
    rest: &'a [u8],
    malformed: bool,
}

impl<'a> Messages<'a> {
    pub(crate) fn new(datagram: &'a [u8]) -> Self {
        Self { rest: datagram, malformed: false }
    }

    pub(crate) fn malformed(&self) -> bool {
        self.malformed
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let rest = std::mem::take(&mut self.rest);
        let Ok(header) = NetlinkBuffer::new_checked(rest) else {
            self.malformed = true;
            return None;
        };
        let length = header.length() as usize;
        self.rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message {
            kind: header.message_type(),
            flags: header.flags(),
            sequence: header.sequence_number(),
            payload: rest.get(HEADER..length).unwrap_or_default(),
        })
    }
}

fn encode(request: &Request, sequence: u32) -> Vec<u8> {
    let length = HEADER + request.payload.len();
    let mut bytes = vec![0; HEADER];
    let mut header = NetlinkBuffer::new(&mut bytes);
    header.set_length(length as u32);
    header.set_message_type(request.kind);
    header.set_flags(request.flags);
    header.set_sequence_number(sequence);
    bytes.extend_from_slice(&request.payload);
    bytes
}

/// The errno of NLMSG_ERROR or NLMSG_DONE; 0 when there is none.
fn error_code(payload: &[u8]) -> i32 {
    payload.first_chunk().map_or(0, |b| i32::from_ne_bytes(*b).saturating_neg().max(0))
}

/// What the kernel says in words (NLMSGERR_ATTR_MSG), with a leading colon.
fn error_text(message: &Message<'_>) -> String {
    const NLMSGERR_ATTR_MSG: u16 = 1;
    if message.flags & libc::NLM_F_ACK_TLVS as u16 == 0 {
        return String::new();
    }
    // NLMSG_ERROR repeats the header of the request (NETLINK_CAP_ACK: not its payload), NLMSG_DONE does not.
    let skip = if i32::from(message.kind) == libc::NLMSG_ERROR { 4 + HEADER } else { 4 };
    attributes(message.payload.get(skip..).unwrap_or_default())
        .find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)
        .map(|(_, value)| format!(": {}", text(value)))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_are_split() {
        let mut bytes = encode(&Request::dump("x", 18, &[1, 2, 3]), 7);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(encode(&Request::one("x", 3, &[]), 8));
        let kinds: Vec<_> = Messages::new(&bytes).map(|m| (m.kind, m.sequence, m.payload.to_vec())).collect();
        assert_eq!(kinds, [(18, 7, vec![1, 2, 3]), (3, 8, vec![])]);
    }

    #[test]
    fn a_refusal_carries_the_kernels_words() {
        let Ok(mut socket) = Netlink::open(libc::NETLINK_ROUTE, "here", &[]) else { return };
        // RTM_GETLINK of a device that cannot exist.
        let mut fixed = [0u8; 16];
        fixed[4..8].copy_from_slice(&i32::MAX.to_ne_bytes());
        let error =
            socket.one(&Request::one("a device", libc::RTM_GETLINK, &fixed), |_, _| Some(())).unwrap_err();
        assert!(
            error.to_string().starts_with("the kernel refused to list a device of here: No such device"),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn arbitrary_datagrams_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for message in Messages::new(&bytes) {
                let _ = (error_code(message.payload), error_text(&message));
            }
        }
    }
}
