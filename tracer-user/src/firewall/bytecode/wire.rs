// SPDX-License-Identifier: MIT OR Apache-2.0
//! Attributes of nfnetlink messages: numbers are in network order.

use crate::node::netlink::{attributes, be32, text};
use crate::text::printable;

/// The attributes of one object, looked up by kind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes<'a>(pub(super) &'a [u8]);

impl<'a> Attributes<'a> {
    pub(super) fn get(self, kind: u16) -> Option<&'a [u8]> {
        attributes(self.0).find(|(k, _)| *k == kind).map(|(_, value)| value)
    }

    pub(super) fn nested(self, kind: u16) -> Option<Self> {
        self.get(kind).map(Attributes)
    }

    pub(super) fn u32(self, kind: u16) -> Option<u32> {
        self.get(kind).and_then(be32)
    }

    pub(super) fn u64(self, kind: u16) -> Option<u64> {
        self.get(kind)?.first_chunk().map(|b| u64::from_be_bytes(*b))
    }

    pub(super) fn u8(self, kind: u16) -> Option<u8> {
        self.get(kind)?.first().copied()
    }

    /// Safe to print.
    pub(super) fn text(self, kind: u16) -> Option<String> {
        self.get(kind).map(text)
    }

    pub(super) fn each(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        attributes(self.0)
    }
}

/// Bytes of a value: NFTA_DATA_VALUE within.
pub(super) fn data(nested: Option<&[u8]>) -> Option<&[u8]> {
    const NFTA_DATA_VALUE: u16 = 1;
    Attributes(nested?).get(NFTA_DATA_VALUE)
}

/// A verdict: NFTA_DATA_VERDICT within. Its code, and the chain of a jump or goto.
pub(super) fn verdict(nested: Option<&[u8]>) -> Option<(i32, Option<String>)> {
    const NFTA_DATA_VERDICT: u16 = 2;
    const NFTA_VERDICT_CODE: u16 = 1;
    const NFTA_VERDICT_CHAIN: u16 = 2;
    let verdict = Attributes(nested?).nested(NFTA_DATA_VERDICT)?;
    Some((verdict.u32(NFTA_VERDICT_CODE)? as i32, verdict.text(NFTA_VERDICT_CHAIN)))
}

/// The comment of a rule or an element, in what is nft's own: type, length, value, of one byte, one byte, and that many (libnftnl, nftnl_udata).
pub(super) fn comment(mut userdata: &[u8]) -> Option<String> {
    /// NFTNL_UDATA_RULE_COMMENT, NFTNL_UDATA_SET_ELEM_COMMENT.
    const COMMENT: u8 = 0;
    while let [kind, length, rest @ ..] = userdata {
        let (value, after) = rest.split_at_checked(usize::from(*length))?;
        if *kind == COMMENT {
            return Some(printable(value.split(|byte| *byte == 0).next().unwrap_or_default()));
        }
        userdata = after;
    }
    None
}
