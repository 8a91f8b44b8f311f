// SPDX-License-Identifier: MIT OR Apache-2.0
//! The expressions of a rule, as they are dumped (include/uapi/linux/netfilter/nf_tables.h).

use super::wire::Attributes;

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_LOOKUP_SET: u16 = 1;
const NFTA_LOOKUP_SREG: u16 = 2;
const NFTA_LOOKUP_DREG: u16 = 3;
const NFTA_LOOKUP_FLAGS: u16 = 5;
const NFT_LOOKUP_F_INV: u32 = 1;

/// One expression.
#[derive(Clone, Debug)]
pub(super) enum Expression<'a> {
    Lookup {
        set: String,
        registers: u32,
        /// A map: where what it gives is put.
        into: Option<u32>,
        negated: bool,
    },
    /// By its name, with its attributes.
    Other(&'a [u8], Attributes<'a>),
}

impl<'a> Expression<'a> {
    /// Those in a list (NFTA_RULE_EXPRESSIONS).
    pub(super) fn all(list: &'a [u8]) -> impl Iterator<Item = Self> {
        Attributes(list).each().filter(|(kind, _)| *kind == NFTA_LIST_ELEM).filter_map(|(_, one)| {
            let one = Attributes(one);
            let name = one.get(NFTA_EXPR_NAME)?;
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            Some(Self::parse(name, one.nested(NFTA_EXPR_DATA).unwrap_or(Attributes(&[]))))
        })
    }

    fn parse(name: &'a [u8], data: Attributes<'a>) -> Self {
        if name != b"lookup" {
            return Self::Other(name, data);
        }
        Self::Lookup {
            set: data.text(NFTA_LOOKUP_SET).unwrap_or_default(),
            registers: data.u32(NFTA_LOOKUP_SREG).unwrap_or(0),
            into: data.u32(NFTA_LOOKUP_DREG),
            negated: data.u32(NFTA_LOOKUP_FLAGS).unwrap_or(0) & NFT_LOOKUP_F_INV != 0,
        }
    }
}
