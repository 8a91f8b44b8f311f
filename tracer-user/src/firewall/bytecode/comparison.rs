// SPDX-License-Identifier: MIT OR Apache-2.0
//! A field against values: what of it the walk can decide.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::field::{Context, Field};
use super::masks::{half, masked};
use super::register::{Source, Value};
use super::ruleset::Outside;
use super::words;
use crate::firewall::packet::{CtDirection, CtState};
use crate::firewall::rule::{Criterion, IpRange, Match, PortRange, Side};
use crate::node::Family;
use crate::text::printable;

/// enum nft_cmp_ops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

/// First and last value, as they lie in a register.
pub(super) type Bytes = (Vec<u8>, Vec<u8>);

const ARPHRD_ETHER: [u8; 2] = 1u16.to_ne_bytes();
const IPV6_HEADER: u32 = 40;

impl Op {
    pub(super) fn parse(code: u32) -> Option<Self> {
        Some(match code {
            0 => Self::Eq,
            1 => Self::Ne,
            2 => Self::Lt,
            3 => Self::Le,
            4 => Self::Gt,
            5 => Self::Ge,
            _ => return None,
        })
    }

    fn sign(self) -> &'static str {
        match self {
            Self::Eq => "==",
            Self::Ne => "!=",
            Self::Lt => "<",
            Self::Le => "<=",
            Self::Gt => ">",
            Self::Ge => ">=",
        }
    }
}

/// The conditions that a comparison with `bytes` is.
pub(super) fn compare(
    value: &Value,
    op: Op,
    bytes: &[u8],
    context: Context,
    outside: &Outside<'_>,
) -> Vec<Match> {
    let unknown = || {
        vec![plain(Criterion::Other(format!("{} {} {}", words::value(value), op.sign(), words::hex(bytes))))]
    };
    // nft asks for an Ethernet device before it looks at a MAC.
    if value.source == Source::Meta(super::field::META_IIFTYPE) && op == Op::Eq && bytes == ARPHRD_ETHER {
        return Vec::new();
    }
    let mut fields = Field::of(value, context);
    // The beginning of a name, or of an address: nft compares as much as counts.
    if let [(_, length)] = fields.as_mut_slice() {
        *length = (*length).min(bytes.len());
    }
    if value.is_xored() {
        return unknown();
    }
    if let Some(mask) = value.mask() {
        let [(field, _)] = fields.as_slice() else { return unknown() };
        return match masked(field, value, op, mask, bytes) {
            Some(m) => vec![m],
            None => unknown(),
        };
    }
    let mut out = Vec::new();
    let mut rest = bytes;
    let many = fields.len() > 1;
    for (field, length) in fields {
        let Some((here, after)) = rest.split_at_checked(length) else { return unknown() };
        rest = after;
        let whole = match op {
            Op::Eq => Some((false, (here.to_vec(), here.to_vec()))),
            Op::Ne if !many => Some((true, (here.to_vec(), here.to_vec()))),
            _ if many => None,
            _ => half(op, here, is_number(&field) && !value.swapped).map(|range| (false, range)),
        };
        let Some((negated, range)) = whole else { return unknown() };
        match any_of(&field, &[range], value.swapped, outside) {
            Some(what) => out.push(Match { negated, what }),
            None => return unknown(),
        }
    }
    out
}

/// The condition that a single field has one of these values.
pub(super) fn any_of(
    field: &Field,
    ranges: &[Bytes],
    swapped: bool,
    outside: &Outside<'_>,
) -> Option<Criterion> {
    let numbers = || -> Option<Vec<(u32, u32)>> {
        let host = is_number(field) && !swapped;
        ranges.iter().map(|(first, last)| Some((number(first, host)?, number(last, host)?))).collect()
    };
    let bytes = || -> Option<Vec<(u8, u8)>> {
        ranges.iter().map(|(first, last)| Some((*first.first()?, *last.first()?))).collect()
    };
    let names = || ranges.iter().map(device_name).collect::<Option<Vec<_>>>();
    let one =
        || numbers().and_then(|all| <[_; 1]>::try_from(all).ok()).filter(|[(a, b)]| a == b).map(|[(a, _)]| a);
    Some(match field {
        Field::Address(side, family) => {
            let all = ranges.iter().map(|range| addresses(range, *family)).collect::<Option<_>>()?;
            sided(*side, all, Criterion::Source, Criterion::Destination)
        }
        Field::Port(side) => {
            let all = numbers()?.into_iter().map(|(first, last)| ports(first, last)).collect();
            sided(*side, all, Criterion::SourcePort, Criterion::DestinationPort)
        }
        Field::Protocol => {
            Criterion::Protocol(bytes()?.into_iter().flat_map(|(first, last)| first..=last).collect())
        }
        Field::Family => match bytes()?.as_slice() {
            [(2, 2)] => Criterion::Family(Family::Ipv4),
            [(10, 10)] => Criterion::Family(Family::Ipv6),
            _ => return None,
        },
        Field::EtherType => match numbers()?.as_slice() {
            [(0x0800, 0x0800)] => Criterion::Family(Family::Ipv4),
            [(0x86dd, 0x86dd)] => Criterion::Family(Family::Ipv6),
            _ => return None,
        },
        Field::DeviceName(side) => sided(*side, names()?, Criterion::Input, Criterion::Output),
        Field::DeviceIndex(side) => {
            let all = numbers()?.into_iter();
            let name = |(first, last)| if first == last { (outside.device)(first) } else { None };
            sided(*side, all.map(name).collect::<Option<_>>()?, Criterion::Input, Criterion::Output)
        }
        Field::Mark => Criterion::Mark { value: one()?, mask: u32::MAX },
        Field::Connmark => Criterion::Connmark { value: one()?, mask: u32::MAX },
        Field::State => {
            let all = numbers()?.into_iter();
            let state = |(first, last)| if first == last { state_of(first) } else { None };
            Criterion::CtState(all.map(state).collect::<Option<_>>()?)
        }
        Field::Direction => match bytes()?.as_slice() {
            [(0, 0)] => Criterion::CtDirection(CtDirection::Original),
            [(1, 1)] => Criterion::CtDirection(CtDirection::Reply),
            _ => return None,
        },
        Field::SourceMac => match ranges {
            [(first, last)] if first == last => Criterion::SourceMac(first.first_chunk().copied()?),
            _ => return None,
        },
        Field::Uid => match numbers()?.as_slice() {
            [(first, last)] => Criterion::OwnerUid { first: *first, last: *last },
            _ => return None,
        },
        Field::AddressType { side, device } => Criterion::AddressType {
            side: *side,
            types: numbers()?
                .into_iter()
                .map(|(first, last)| if first == last { address_type(first) } else { None })
                .collect::<Option<_>>()?,
            limit_iface: *device,
        },
        Field::IcmpType => Criterion::IcmpTypes(bytes()?),
        Field::TcpFlags => match bytes()?.as_slice() {
            [(first, last)] if first == last => Criterion::TcpFlags { mask: 0xff, value: *first },
            _ => return None,
        },
        Field::Length { payload } => {
            let header = if *payload { IPV6_HEADER } else { 0 };
            let add = |(first, last): (u32, u32)| (first.saturating_add(header), last.saturating_add(header));
            Criterion::Length(numbers()?.into_iter().map(add).collect())
        }
        Field::Ttl => Criterion::Ttl(bytes()?),
        Field::Status | Field::IcmpCode | Field::Fragment | Field::Chance | Field::Other(_) => return None,
    })
}

/// Numbers that lie in the register in the machine's order; all others are in network order.
fn is_number(field: &Field) -> bool {
    matches!(
        field,
        Field::Mark
            | Field::Connmark
            | Field::State
            | Field::Status
            | Field::Uid
            | Field::DeviceIndex(_)
            | Field::AddressType { .. }
            | Field::Chance
    ) || matches!(field, Field::Length { payload: false })
}

/// Of one to four bytes.
pub(super) fn number(bytes: &[u8], host: bool) -> Option<u32> {
    Some(match (bytes.len(), host) {
        (1, _) => u32::from(bytes[0]),
        (2, true) => u16::from_ne_bytes(*bytes.first_chunk()?).into(),
        (2, false) => u16::from_be_bytes(*bytes.first_chunk()?).into(),
        (4, true) => u32::from_ne_bytes(*bytes.first_chunk()?),
        (4, false) => u32::from_be_bytes(*bytes.first_chunk()?),
        _ => return None,
    })
}

fn ports(first: u32, last: u32) -> PortRange {
    let port = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
    PortRange { first: port(first), last: port(last) }
}

/// Missing bytes at the end: a prefix.
fn addresses((first, last): &Bytes, family: Family) -> Option<IpRange> {
    let full = if family == Family::Ipv4 { 4 } else { 16 };
    let padded = |bytes: &[u8], with| {
        let mut out = bytes.to_vec();
        out.resize(full, with);
        address(&out, family)
    };
    Some(IpRange { first: padded(first, 0)?, last: padded(last, 0xff)? })
}

pub(super) fn address(bytes: &[u8], family: Family) -> Option<IpAddr> {
    match (family, bytes.len()) {
        (Family::Ipv4, 4) => bytes.first_chunk::<4>().map(|b| Ipv4Addr::from(*b).into()),
        (Family::Ipv6, 16) => bytes.first_chunk::<16>().map(|b| Ipv6Addr::from(*b).into()),
        _ => None,
    }
}

/// A name, or with `*` at its end the beginning of one.
pub(super) fn device_name((first, last): &Bytes) -> Option<String> {
    let name = |bytes: &[u8]| printable(bytes.split(|byte| *byte == 0).next().unwrap_or_default());
    if first == last {
        let whole = first.contains(&0) || first.len() >= libc::IFNAMSIZ;
        return Some(if whole { name(first) } else { format!("{}*", name(first)) });
    }
    let same = first.iter().zip(last).take_while(|(a, b)| a == b).count();
    let rest = first.get(same..)?.iter().all(|byte| *byte == 0)
        && last.get(same..)?.iter().all(|byte| *byte == 0xff);
    rest.then(|| format!("{}*", name(first.get(..same).unwrap_or_default())))
}

/// NF_CT_STATE_*.
pub(super) fn state_of(bit: u32) -> Option<CtState> {
    Some(match bit {
        1 => CtState::Invalid,
        2 => CtState::Established,
        4 => CtState::Related,
        8 => CtState::New,
        64 => CtState::Untracked,
        _ => return None,
    })
}

/// RTN_*, as addrtype calls them.
pub(in crate::firewall) fn address_type(kind: u32) -> Option<String> {
    let names = [
        "UNSPEC",
        "UNICAST",
        "LOCAL",
        "BROADCAST",
        "ANYCAST",
        "MULTICAST",
        "BLACKHOLE",
        "UNREACHABLE",
        "PROHIBIT",
    ];
    usize::try_from(kind).ok().and_then(|kind| names.get(kind)).map(|name| (*name).to_owned())
}

pub(super) fn sided<T>(
    side: Side,
    value: T,
    source: fn(T) -> Criterion,
    destination: fn(T) -> Criterion,
) -> Criterion {
    match side {
        Side::Source => source(value),
        Side::Destination => destination(value),
    }
}

fn plain(what: Criterion) -> Match {
    Match { negated: false, what }
}
