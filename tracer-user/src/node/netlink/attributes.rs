// SPDX-License-Identifier: MIT OR Apache-2.0
//! Building requests and reading attributes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::{Buf as _, BufMut as _};
use netlink_packet_core::{NLA_HEADER_SIZE, NlasIterator};

use crate::text::printable;

/// A request: header fields, the fixed part of the family, attributes.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(crate) payload: Vec<u8>,
    /// For messages about failures: what was asked for.
    pub(super) what: &'static str,
}

impl Request {
    /// Asks for everything of a kind.
    pub(crate) fn dump(what: &'static str, kind: u16, fixed: &[u8]) -> Self {
        Self { kind, flags: (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16, payload: fixed.to_vec(), what }
    }

    /// Asks for one object.
    pub(crate) fn one(what: &'static str, kind: u16, fixed: &[u8]) -> Self {
        Self { kind, flags: libc::NLM_F_REQUEST as u16, payload: fixed.to_vec(), what }
    }

    pub(crate) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = (NLA_HEADER_SIZE + value.len()) as u16;
        self.payload.put_u16_ne(length);
        self.payload.put_u16_ne(kind);
        self.payload.put_slice(value);
        self.payload.resize(self.payload.len().next_multiple_of(4), 0);
        self
    }
}

/// The attributes in `bytes`: kind (without the flag bits) and value. Ends at the first malformed one.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).map_while(Result::ok).map_while(|attribute| {
        let (kind, end) = (attribute.kind(), usize::from(attribute.length()));
        attribute.into_inner().get(NLA_HEADER_SIZE..end).map(|value| (kind, value))
    })
}

/// A 32-bit value in the machine's order (rtnetlink).
pub(crate) fn ne32(mut value: &[u8]) -> Option<u32> {
    value.try_get_u32_ne().ok()
}

/// A 32-bit value in network order (nfnetlink).
pub(crate) fn be32(mut value: &[u8]) -> Option<u32> {
    value.try_get_u32().ok()
}

/// A C string, safe to print.
pub(crate) fn text(value: &[u8]) -> String {
    printable(value.split(|b| *b == 0).next().unwrap_or_default())
}

/// An address; which family it is follows from its length.
pub(crate) fn ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => value.first_chunk::<4>().map(|b| Ipv4Addr::from(*b).into()),
        16 => value.first_chunk::<16>().map(|b| Ipv6Addr::from(*b).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let request = Request::dump("x", 1, &[]).attribute(3, b"abc\0").attribute(4, &7u32.to_ne_bytes());
        let read: Vec<_> = attributes(&request.payload).collect();
        assert_eq!(read, [(3, &b"abc\0"[..]), (4, &7u32.to_ne_bytes()[..])]);
        assert_eq!(text(read[0].1), "abc");
        assert_eq!(ne32(read[1].1), Some(7));
    }

    #[test]
    fn a_length_that_lies_ends_the_list() {
        let good = Request::dump("x", 1, &[]).attribute(1, &[1, 2, 3, 4]).payload;
        for length in [0u16, 1, 3, 5, 400, u16::MAX] {
            let mut bytes = good.clone();
            bytes.extend_from_slice(&length.to_ne_bytes());
            bytes.extend_from_slice(&[2, 0]);
            assert_eq!(attributes(&bytes).count(), 1, "length {length}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for (_, value) in attributes(&bytes) {
                let _ = (ne32(value), be32(value), text(value), ip(value));
                let _ = attributes(value).count();
            }
        }
    }
}
