// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sets and maps, and their elements.

use super::comparison::{self, Bytes};
use super::wire::{self, Attributes, data, verdict};
use crate::firewall::rule::{IpRange, PortRange};
use crate::firewall::set::{IpSet, Member, MemberField};
use crate::node::Family;
use crate::text::printable;

// include/uapi/linux/netfilter/nf_tables.h
pub(super) const NFTA_SET_TABLE: u16 = 1;
pub(super) const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_FLAGS: u16 = 3;
const NFTA_SET_KEY_TYPE: u16 = 4;
const NFT_SET_ANONYMOUS: u32 = 1;
const NFT_SET_INTERVAL: u32 = 4;
const NFT_SET_MAP: u32 = 8;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_SET_ELEM_FLAGS: u16 = 3;
const NFTA_SET_ELEM_USERDATA: u16 = 6;
const NFTA_SET_ELEM_EXPR: u16 = 7;
const NFTA_SET_ELEM_KEY_END: u16 = 10;
const NFTA_SET_ELEM_EXPRESSIONS: u16 = 11;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFT_SET_ELEM_INTERVAL_END: u32 = 1;
const NFT_SET_ELEM_CATCHALL: u32 = 2;

/// Members that are kept of one set.
const MAX_MEMBERS: usize = 262_144;
/// Fields of a key: nft allows 16 bytes in each of four registers.
const MAX_FIELDS: u32 = 16;

/// A set or map.
#[derive(Clone, Debug, Default)]
pub(super) struct Set {
    pub(super) name: String,
    /// nft's numbers of its key's types, first field first.
    kinds: Vec<u32>,
    flags: u32,
    pub(super) elements: Vec<Element>,
    pub(super) cut: usize,
}

#[derive(Clone, Debug)]
pub(super) struct Element {
    /// As in the registers; `None`: any key (`*`).
    pub(super) key: Option<Bytes>,
    pub(super) data: Option<Data>,
    pub(super) comment: Option<String>,
    /// An expression of its own decides too (limit, quota): its name.
    pub(super) by_chance: Option<String>,
    /// Of a set of intervals without a last key: whether a new one begins here or the last one ends.
    ends: bool,
    /// The last key is known.
    closed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Data {
    Value(Vec<u8>),
    Verdict(i32, Option<String>),
}

impl Set {
    pub(super) fn parse(set: Attributes<'_>) -> Option<Self> {
        let mut kinds = set.u32(NFTA_SET_KEY_TYPE).unwrap_or(0);
        let mut fields = Vec::new();
        // Six bits each, the last field lowest (libnftables, datatype_subtype).
        while kinds != 0 && fields.len() < MAX_FIELDS as usize {
            fields.push(kinds & 0x3f);
            kinds >>= 6;
        }
        fields.reverse();
        let flags = set.u32(NFTA_SET_FLAGS).unwrap_or(0);
        Some(Self { name: set.text(NFTA_SET_NAME)?, kinds: fields, flags, elements: Vec::new(), cut: 0 })
    }

    pub(super) fn is_anonymous(&self) -> bool {
        self.flags & NFT_SET_ANONYMOUS != 0
    }

    pub(super) fn is_map(&self) -> bool {
        self.flags & NFT_SET_MAP != 0
    }

    /// Adds the elements of one message.
    pub(super) fn extend(&mut self, message: Attributes<'_>) {
        let elements = message.nested(NFTA_SET_ELEM_LIST_ELEMENTS).unwrap_or(Attributes(&[]));
        for (kind, element) in elements.each() {
            if kind != NFTA_LIST_ELEM {
                continue;
            }
            if self.elements.len() >= MAX_MEMBERS {
                self.cut += 1;
            } else {
                self.elements.extend(Element::parse(Attributes(element)));
            }
        }
    }

    /// After the last message: in order of their keys, any key last. Ends of intervals are elements of their own until now.
    pub(super) fn finish(&mut self) {
        self.elements.sort_by(|a, b| a.key.is_none().cmp(&b.key.is_none()).then_with(|| a.key.cmp(&b.key)));
        if self.flags & NFT_SET_INTERVAL == 0 || self.elements.iter().any(|element| element.closed) {
            return;
        }
        let mut elements = std::mem::take(&mut self.elements);
        let any =
            elements.iter().position(|element| element.key.is_none()).map(|at| elements.swap_remove(at));
        elements.sort_by(|a, b| (&a.key, !a.ends).cmp(&(&b.key, !b.ends)));
        let mut next: Option<Vec<u8>> = None;
        for mut element in elements.into_iter().rev() {
            let Some((first, last)) = &mut element.key else { continue };
            let start = first.clone();
            *last = match &next {
                Some(next) => before(next),
                None => vec![0xff; first.len()],
            };
            if !element.ends && *first <= *last {
                self.elements.push(element);
            }
            if next.as_ref() != Some(&start) {
                next = Some(start);
            }
        }
        self.elements.reverse();
        self.elements.extend(any);
    }

    /// For everybody to look into.
    pub(super) fn to_ipset(&self, name: String) -> IpSet {
        let kinds: Vec<_> = self.kinds.iter().map(|kind| kind_name(*kind)).collect();
        let member = |element: &Element| {
            let fields = match (&element.key, &element.by_chance) {
                (Some(key), None) => fields(key, &self.kinds, self.flags & NFT_SET_INTERVAL != 0),
                (None, None) => vec![MemberField::Any],
                (_, Some(words)) => vec![MemberField::Other(words.clone())],
            };
            Member { fields, nomatch: false }
        };
        IpSet {
            kind: kinds.join(" . "),
            ipv6: self.kinds.contains(&TYPE_IP6ADDR),
            members: self.elements.iter().map(member).collect(),
            cut: self.cut,
            netmask: None,
            name,
        }
    }
}

impl Element {
    fn parse(element: Attributes<'_>) -> Option<Self> {
        let flags = element.u32(NFTA_SET_ELEM_FLAGS).unwrap_or(0);
        let first = data(element.get(NFTA_SET_ELEM_KEY)).map(<[u8]>::to_vec);
        let last = data(element.get(NFTA_SET_ELEM_KEY_END)).map(<[u8]>::to_vec);
        let value = element.get(NFTA_SET_ELEM_DATA);
        let data = verdict(value)
            .map(|(code, chain)| Data::Verdict(code, chain))
            .or_else(|| data(value).map(|value| Data::Value(value.to_vec())));
        if first.is_none() && flags & NFT_SET_ELEM_CATCHALL == 0 {
            return None;
        }
        let closed = last.is_some();
        Some(Self {
            key: first.map(|first| (first.clone(), last.unwrap_or(first))),
            data,
            comment: element.get(NFTA_SET_ELEM_USERDATA).and_then(wire::comment),
            by_chance: element_chance(element),
            ends: flags & NFT_SET_ELEM_INTERVAL_END != 0,
            closed,
        })
    }
}

/// A limit, quota or count of connections of the element's own; a counter decides nothing.
fn element_chance(element: Attributes<'_>) -> Option<String> {
    let one = element.nested(NFTA_SET_ELEM_EXPR);
    let many = element.nested(NFTA_SET_ELEM_EXPRESSIONS);
    let listed = many.into_iter().flat_map(|list| list.each().map(|(_, one)| Attributes(one)));
    one.into_iter().chain(listed).find_map(|expression| {
        let name = expression.text(NFTA_EXPR_NAME)?;
        matches!(name.as_str(), "limit" | "quota" | "connlimit").then_some(name)
    })
}

/// The number before, of big-endian bytes; nothing is before zero, and no interval ends there.
fn before(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for byte in out.iter_mut().rev() {
        let (next, borrowed) = byte.overflowing_sub(1);
        *byte = next;
        if !borrowed {
            break;
        }
    }
    out
}

const TYPE_IP6ADDR: u32 = 8;

/// nft's names and numbers of types (libnftables, enum datatypes): the ABI of a set's key type.
fn kind_name(kind: u32) -> String {
    match kind {
        7 => "ipv4_addr".into(),
        TYPE_IP6ADDR => "ipv6_addr".into(),
        9 => "ether_addr".into(),
        12 => "inet_proto".into(),
        13 => "inet_service".into(),
        19 => "mark".into(),
        41 => "ifname".into(),
        other => format!("type {other}"),
    }
}

/// How many bytes of the key a type takes.
fn kind_length(kind: u32) -> Option<usize> {
    Some(match kind {
        7 | 19 => 4,
        TYPE_IP6ADDR => 16,
        9 => 6,
        12 => 1,
        13 => 2,
        41 => libc::IFNAMSIZ,
        _ => return None,
    })
}

/// The fields of a key of a named set: each begins at a multiple of four.
fn fields((first, last): &Bytes, kinds: &[u32], intervals: bool) -> Vec<MemberField> {
    let mut out = Vec::new();
    let mut at = 0;
    for kind in kinds {
        // The only field may have any type.
        let Some(length) = kind_length(*kind) else {
            let text = comparison_words(first, last);
            return vec![MemberField::Other(text); kinds.len().max(1)];
        };
        let part = |bytes: &[u8]| bytes.get(at..at + length).map(<[u8]>::to_vec);
        let field = part(first).zip(part(last)).and_then(|range| field(*kind, &range, intervals));
        out.push(field.unwrap_or_else(|| MemberField::Other(comparison_words(first, last))));
        at += length.next_multiple_of(4);
    }
    if out.is_empty() { vec![MemberField::Other(comparison_words(first, last))] } else { out }
}

fn comparison_words(first: &[u8], last: &[u8]) -> String {
    let hex = super::words::hex;
    if first == last { hex(first) } else { format!("{}-{}", hex(first), hex(last)) }
}

fn field(kind: u32, range: &Bytes, intervals: bool) -> Option<MemberField> {
    let (first, last) = range;
    let address = |family| {
        let (first, last) = (comparison::address(first, family)?, comparison::address(last, family)?);
        Some(MemberField::Address(IpRange { first, last }))
    };
    let short = |bytes: &[u8]| bytes.first_chunk().map(|b| u16::from_be_bytes(*b));
    match kind {
        7 => address(Family::Ipv4),
        TYPE_IP6ADDR => address(Family::Ipv6),
        9 if first == last => first.first_chunk().copied().map(MemberField::Mac),
        12 if first == last => first.first().copied().map(MemberField::Protocol),
        13 => Some(MemberField::Port {
            proto: 0,
            ports: PortRange { first: short(first)?, last: short(last)? },
        }),
        // What is in order is in network order.
        19 if first == last => comparison::number(first, !intervals).map(|value| MemberField::Mark { value }),
        41 => comparison::device_name(range).map(|name| MemberField::Device(printable(name))),
        _ => None,
    }
}
