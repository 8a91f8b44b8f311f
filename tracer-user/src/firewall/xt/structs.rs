// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reading C structs: numbers in the machine's order unless they say otherwise.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::node::Family;

/// A struct's bytes. Everything is at an offset of it; `None` beyond its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Struct<'a>(pub(super) &'a [u8]);

impl<'a> Struct<'a> {
    pub(super) fn bytes<const N: usize>(self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..)?.first_chunk().copied()
    }

    pub(super) fn u8(self, at: usize) -> Option<u8> {
        self.0.get(at).copied()
    }

    pub(super) fn u16(self, at: usize) -> Option<u16> {
        self.bytes(at).map(u16::from_ne_bytes)
    }

    pub(super) fn be16(self, at: usize) -> Option<u16> {
        self.bytes(at).map(u16::from_be_bytes)
    }

    pub(super) fn u32(self, at: usize) -> Option<u32> {
        self.bytes(at).map(u32::from_ne_bytes)
    }

    /// union nf_inet_addr.
    pub(super) fn address(self, at: usize, family: Family) -> Option<IpAddr> {
        Some(match family {
            Family::Ipv4 => Ipv4Addr::from(self.bytes::<4>(at)?).into(),
            Family::Ipv6 => Ipv6Addr::from(self.bytes::<16>(at)?).into(),
        })
    }

    /// Up to the first zero of a field of `length` bytes.
    pub(super) fn text(self, at: usize, length: usize) -> Option<&'a [u8]> {
        self.0.get(at..at + length)?.split(|byte| *byte == 0).next()
    }
}
