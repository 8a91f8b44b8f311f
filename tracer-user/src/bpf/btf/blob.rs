// SPDX-License-Identifier: MIT OR Apache-2.0
//! One BTF blob (`vmlinux`, or a module's on top of it): checked once from end to end, indexed by type
//! number and by name, never copied.

use std::io;
use std::ops::Range;
use std::path::PathBuf;

use super::bytes::Bytes;

const MAGIC: u16 = 0xeb9f;
const VERSION: u8 = 1;
const HEADER_LEN: usize = 24;
/// Bytes that every type record begins with: name, info, size or type.
const TYPE_LEN: usize = 12;

/// Why BTF cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    #[error(
        "cannot read the kernel's type information {path}: {source}; \
         the kernel must be built with CONFIG_DEBUG_INFO_BTF=y and /sys be mounted"
    )]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "not BTF: it begins with {magic:#06x} instead of 0xeb9f (BTF of the other byte order is not read)"
    )]
    Magic { magic: u16 },
    #[error("BTF version {version} is not known; only version 1 is")]
    Version { version: u8 },
    #[error("BTF is cut short: {what} would end at byte {end} of {len}")]
    Truncated { what: &'static str, end: u64, len: usize },
    #[error("BTF strings are not terminated")]
    Strings,
    #[error("BTF type {id} is of kind {kind}, which this version of egwtrace does not know")]
    Kind { id: u32, kind: u8 },
}

/// `BTF_KIND_*` of `include/uapi/linux/btf.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Int,
    Ptr,
    Array,
    Struct,
    Union,
    Enum,
    Fwd,
    Typedef,
    Volatile,
    Const,
    Restrict,
    Func,
    FuncProto,
    Var,
    DataSec,
    Float,
    DeclTag,
    TypeTag,
    Enum64,
}

impl Kind {
    fn parse(kind: u8) -> Option<Self> {
        const KINDS: [Kind; 19] = [
            Kind::Int,
            Kind::Ptr,
            Kind::Array,
            Kind::Struct,
            Kind::Union,
            Kind::Enum,
            Kind::Fwd,
            Kind::Typedef,
            Kind::Volatile,
            Kind::Const,
            Kind::Restrict,
            Kind::Func,
            Kind::FuncProto,
            Kind::Var,
            Kind::DataSec,
            Kind::Float,
            Kind::DeclTag,
            Kind::TypeTag,
            Kind::Enum64,
        ];
        KINDS.get(usize::from(kind).checked_sub(1)?).copied()
    }

    /// Bytes that follow the common part of a record with `vlen` elements.
    fn extra_len(self, vlen: usize) -> usize {
        match self {
            Self::Int | Self::Var | Self::DeclTag => 4,
            Self::Array => 12,
            Self::Struct | Self::Union | Self::DataSec | Self::Enum64 => 12 * vlen,
            Self::Enum | Self::FuncProto => 8 * vlen,
            _ => 0,
        }
    }

    /// Worth finding by name.
    fn is_named(self) -> bool {
        matches!(self, Self::Struct | Self::Union | Self::Enum | Self::Enum64 | Self::Typedef)
    }
}

/// One type record.
#[derive(Clone, Copy)]
pub(super) struct Type<'a> {
    pub(super) kind: Kind,
    /// Meaning depends on the kind; for structures: members say their bit-field size.
    pub(super) kind_flag: bool,
    pub(super) name: u32,
    /// Size in bytes, or number of the type referred to.
    pub(super) size_or_type: u32,
    pub(super) vlen: u16,
    /// What follows the common part.
    extra: &'a [u8],
}

impl<'a> Type<'a> {
    fn parse(bytes: &'a [u8], at: usize, id: u32) -> Result<Self, BtfError> {
        let short = |end: usize| BtfError::Truncated { what: "a type", end: end as u64, len: bytes.len() };
        let common = bytes.get(at..at + TYPE_LEN).ok_or_else(|| short(at + TYPE_LEN))?;
        let info = word(common, 4);
        let number = (info >> 24 & 0x1f) as u8;
        let kind = Kind::parse(number).ok_or(BtfError::Kind { id, kind: number })?;
        let vlen = info as u16;
        let start = at + TYPE_LEN;
        let end = start + kind.extra_len(usize::from(vlen));
        Ok(Self {
            kind,
            kind_flag: info >> 31 == 1,
            name: word(common, 0),
            size_or_type: word(common, 8),
            vlen,
            extra: bytes.get(start..end).ok_or_else(|| short(end))?,
        })
    }

    fn len(&self) -> usize {
        TYPE_LEN + self.extra.len()
    }

    /// The words after the common part, `N` to an element.
    pub(super) fn elements<const N: usize>(&self) -> impl Iterator<Item = [u32; N]> + use<'a, N> {
        self.extra.chunks_exact(4 * N).map(|chunk| std::array::from_fn(|i| word(chunk, 4 * i)))
    }
}

/// One checked blob.
pub(super) struct Blob {
    bytes: Bytes,
    strings: Range<usize>,
    /// Byte of each record, by type number less `first_id`.
    offsets: Vec<u32>,
    /// Hash of the name and number of each type worth finding by name, sorted.
    names: Vec<(u32, u32)>,
    first_id: u32,
    first_string: u32,
}

impl Blob {
    /// Checks and indexes `bytes`. `base`: what a module's blob continues the numbers of.
    pub(super) fn parse(bytes: Bytes, base: Option<&Self>) -> Result<Self, BtfError> {
        let header = BtfHeader::parse(&bytes)?;
        let (first_id, first_string) = base.map_or((1, 0), |base| (base.end_id(), base.end_string()));
        let strings = header.strings.clone();
        check_strings(&bytes[strings.clone()], base.is_some())?;

        // Some 26 bytes a record in practice; the vector grows if a blob is denser.
        let mut offsets = Vec::with_capacity(header.types.len() / 24);
        let mut names = Vec::with_capacity(header.types.len() / 128);
        let types = &bytes[..header.types.end];
        let mut at = header.types.start;
        while at < types.len() {
            let id = first_id.saturating_add(offsets.len() as u32);
            let ty = Type::parse(types, at, id)?;
            if ty.kind.is_named() {
                // A module's type may have its name among the base's strings: `nf_conn` is declared there.
                let name = match ty.name.checked_sub(first_string) {
                    Some(own) => string_at(&bytes[strings.clone()], own),
                    None => base.and_then(|base| base.string(ty.name)),
                };
                names.extend(name.filter(|name| !name.is_empty()).map(|name| (hash(name), id)));
            }
            offsets.push(at as u32);
            at += ty.len();
        }
        offsets.shrink_to_fit();
        names.sort_unstable();
        names.shrink_to_fit();
        Ok(Self { bytes, strings, offsets, names, first_id, first_string })
    }

    /// The number of function `name`. They are many and not indexed: all types are looked at.
    pub(super) fn function_id(&self, name: &str) -> Option<u32> {
        let strings = &self.bytes[self.strings.clone()];
        let terminated = [&[0], name.as_bytes(), &[0]].concat();
        let before = strings.windows(terminated.len()).position(|bytes| bytes == terminated)?;
        let offset = self.first_string.checked_add(before as u32 + 1)?;
        let ids = (self.first_id..).zip(&self.offsets);
        let mut types =
            ids.filter_map(|(id, &at)| Some((id, Type::parse(&self.bytes, at as usize, id).ok()?)));
        types.find_map(|(id, ty)| (ty.kind == Kind::Func && ty.name == offset).then_some(id))
    }

    fn end_id(&self) -> u32 {
        self.first_id.saturating_add(self.offsets.len() as u32)
    }

    fn end_string(&self) -> u32 {
        self.first_string.saturating_add(self.strings.len() as u32)
    }

    /// The record of type `id`; `None` when it is not of this blob (0 is `void`).
    fn ty(&self, id: u32) -> Option<Type<'_>> {
        let at = *self.offsets.get(id.checked_sub(self.first_id)? as usize)?;
        Type::parse(&self.bytes, at as usize, id).ok()
    }

    fn string(&self, offset: u32) -> Option<&[u8]> {
        string_at(&self.bytes[self.strings.clone()], offset.checked_sub(self.first_string)?)
    }
}

/// A blob together with the one it builds on: what type numbers and names are looked up in.
#[derive(Clone, Copy)]
pub(super) struct Graph<'a> {
    pub(super) base: &'a Blob,
    pub(super) split: Option<&'a Blob>,
}

impl<'a> Graph<'a> {
    pub(super) fn ty(&self, id: u32) -> Option<Type<'a>> {
        self.base.ty(id).or_else(|| self.split?.ty(id))
    }

    pub(super) fn name(&self, offset: u32) -> Option<&'a [u8]> {
        self.base.string(offset).or_else(|| self.split?.string(offset))
    }

    /// Types called `name` in the upper blob, lowest number first within a hash.
    pub(super) fn named(self, name: &str) -> impl Iterator<Item = (u32, Type<'a>)> {
        let blob = self.split.unwrap_or(self.base);
        let wanted = hash(name.as_bytes());
        let start = blob.names.partition_point(|&(hash, _)| hash < wanted);
        blob.names[start..]
            .iter()
            .take_while(move |&&(hash, _)| hash == wanted)
            .filter_map(move |&(_, id)| Some((id, blob.ty(id)?)))
            .filter(move |(_, ty)| self.name(ty.name) == Some(name.as_bytes()))
    }
}

struct BtfHeader {
    types: Range<usize>,
    strings: Range<usize>,
}

impl BtfHeader {
    fn parse(bytes: &[u8]) -> Result<Self, BtfError> {
        let len = bytes.len();
        let cut = |what, end| BtfError::Truncated { what, end, len };
        let header = bytes.get(..HEADER_LEN).ok_or(cut("the header", HEADER_LEN as u64))?;
        let magic = u16::from_ne_bytes([header[0], header[1]]);
        if magic != MAGIC {
            return Err(BtfError::Magic { magic });
        }
        if header[2] != VERSION {
            return Err(BtfError::Version { version: header[2] });
        }
        let header_len = u64::from(word(header, 4));
        let section = |what, at: usize| {
            let start = header_len + u64::from(word(header, at));
            let end = start + u64::from(word(header, at + 4));
            // Offsets are kept in 32 bits.
            if header_len < HEADER_LEN as u64 || end > len as u64 || end > u64::from(u32::MAX) {
                return Err(cut(what, end));
            }
            Ok(start as usize..end as usize)
        };
        Ok(Self { types: section("the types", 8)?, strings: section("the strings", 16)? })
    }
}

/// As the kernel checks them (`btf_parse_str_sec`): terminated, and the first one empty, save in a module.
fn check_strings(strings: &[u8], split: bool) -> Result<(), BtfError> {
    match strings {
        [] if split => Ok(()),
        [.., 0] if split || strings[0] == 0 => Ok(()),
        _ => Err(BtfError::Strings),
    }
}

fn string_at(strings: &[u8], offset: u32) -> Option<&[u8]> {
    let rest = strings.get(offset as usize..)?;
    rest.iter().position(|&byte| byte == 0).map(|end| &rest[..end])
}

/// Native-endian word at `at`; callers have checked that it is there.
fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// FNV-1a: names are short, and only equality of the names themselves counts in the end.
fn hash(name: &[u8]) -> u32 {
    name.iter().fold(0x811c_9dc5, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
