// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which field of the packet a register was loaded with.

use super::register::{Source, Value};
use crate::firewall::rule::Side;
use crate::node::Family;

// include/uapi/linux/netfilter/nf_tables.h
const LINK_HEADER: u32 = 0;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
pub(super) const META_LENGTH: u32 = 0;
pub(super) const META_PROTOCOL: u32 = 1;
pub(super) const META_MARK: u32 = 3;
const META_IIF: u32 = 4;
const META_OIF: u32 = 5;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
pub(super) const META_IIFTYPE: u32 = 8;
const META_SKUID: u32 = 10;
pub(super) const META_NFPROTO: u32 = 15;
pub(super) const META_L4PROTO: u32 = 16;
const META_SDIFNAME: u32 = 34;
const CT_STATE: u32 = 0;
const CT_DIRECTION: u32 = 1;
const CT_STATUS: u32 = 2;
pub(super) const CT_MARK: u32 = 3;
const FIB_ADDRTYPE: u32 = 3;
const FIB_SOURCE: u32 = 1;
const FIB_DESTINATION: u32 = 2;
const FIB_IIF: u32 = 8;
const FIB_OIF: u32 = 16;

/// A field that rules ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Address(Side, Family),
    Port(Side),
    Protocol,
    /// NFPROTO_*, one byte.
    Family,
    /// An ethertype.
    EtherType,
    DeviceName(Side),
    DeviceIndex(Side),
    Mark,
    Connmark,
    State,
    Status,
    Direction,
    SourceMac,
    Uid,
    AddressType {
        side: Side,
        device: Option<Side>,
    },
    IcmpType,
    IcmpCode,
    TcpFlags,
    Fragment,
    /// Of the IP packet. Without the header: IPv6's own field.
    Length {
        payload: bool,
    },
    Ttl,
    Chance,
    /// In words.
    Other(String),
}

/// What the rule has asked for so far, on which the meaning of a header's bytes depends.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Context {
    pub(super) family: Option<Family>,
    /// IP protocol.
    pub(super) transport: Option<u8>,
}

impl Field {
    /// The fields in a value, one after the other, and how many bytes of it each takes.
    pub(super) fn of(value: &Value, context: Context) -> Vec<(Self, usize)> {
        let length = value.length;
        let one = |field| vec![(field, length)];
        let side = |source: bool| if source { Side::Source } else { Side::Destination };
        match &value.source {
            Source::Payload { base, offset } => payload(*base, *offset, length, context),
            Source::Meta(key) => one(match *key {
                META_LENGTH => Self::Length { payload: false },
                META_PROTOCOL => Self::EtherType,
                META_MARK => Self::Mark,
                META_IIF | META_OIF => Self::DeviceIndex(side(*key == META_IIF)),
                META_IIFNAME | META_SDIFNAME => Self::DeviceName(Side::Source),
                META_OIFNAME => Self::DeviceName(Side::Destination),
                META_SKUID => Self::Uid,
                META_NFPROTO => Self::Family,
                META_L4PROTO => Self::Protocol,
                _ => Self::Other(super::words::source(&value.source)),
            }),
            Source::Ct { key, direction: None } => one(match *key {
                CT_STATE => Self::State,
                CT_DIRECTION => Self::Direction,
                CT_STATUS => Self::Status,
                CT_MARK => Self::Connmark,
                _ => Self::Other(super::words::source(&value.source)),
            }),
            Source::Fib { result: FIB_ADDRTYPE, flags } => {
                let device = match flags & !(FIB_SOURCE | FIB_DESTINATION) {
                    0 => Some(None),
                    FIB_IIF => Some(Some(Side::Source)),
                    FIB_OIF => Some(Some(Side::Destination)),
                    _ => None,
                };
                one(match device {
                    Some(device) => Self::AddressType { side: side(flags & FIB_SOURCE != 0), device },
                    None => Self::Other(super::words::source(&value.source)),
                })
            }
            Source::Chance { .. } => one(Self::Chance),
            _ => one(Self::Other(super::words::source(&value.source))),
        }
    }
}

/// Bytes of a header, cut into its fields. The last one may be a beginning of one: a prefix.
fn payload(base: u32, offset: u32, length: usize, context: Context) -> Vec<(Field, usize)> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < length {
        let here = offset.saturating_add(u32::try_from(at).unwrap_or(u32::MAX));
        let Some((field, full)) = header_field(base, here, context) else {
            let words = super::words::payload(base, offset, length);
            return vec![(Field::Other(words), length)];
        };
        let take = full.min(length - at);
        if take < full && !matches!(field, Field::Address(..)) {
            return vec![(Field::Other(super::words::payload(base, offset, length)), length)];
        }
        out.push((field, take));
        at += take;
    }
    out
}

fn header_field(base: u32, offset: u32, context: Context) -> Option<(Field, usize)> {
    use Side::{Destination, Source};
    let other = |words: &str, length| Some((Field::Other(words.to_owned()), length));
    match (base, context.family, offset) {
        (LINK_HEADER, _, 0) => other("ether daddr", 6),
        (LINK_HEADER, _, 6) => Some((Field::SourceMac, 6)),
        (LINK_HEADER, _, 12) => Some((Field::EtherType, 2)),
        (NETWORK_HEADER, Some(Family::Ipv4), _) => match offset {
            1 => other("ip dscp", 1),
            2 => Some((Field::Length { payload: false }, 2)),
            4 => other("ip id", 2),
            6 => Some((Field::Fragment, 2)),
            8 => Some((Field::Ttl, 1)),
            9 => Some((Field::Protocol, 1)),
            12 => Some((Field::Address(Source, Family::Ipv4), 4)),
            16 => Some((Field::Address(Destination, Family::Ipv4), 4)),
            _ => None,
        },
        (NETWORK_HEADER, Some(Family::Ipv6), _) => match offset {
            0 => other("ip6 dscp", 2),
            4 => Some((Field::Length { payload: true }, 2)),
            6 => Some((Field::Protocol, 1)),
            7 => Some((Field::Ttl, 1)),
            8 => Some((Field::Address(Source, Family::Ipv6), 16)),
            24 => Some((Field::Address(Destination, Family::Ipv6), 16)),
            _ => None,
        },
        (TRANSPORT_HEADER, ..) => match (context.transport, offset) {
            (Some(1 | 58), 0) => Some((Field::IcmpType, 1)),
            (Some(1 | 58), 1) => Some((Field::IcmpCode, 1)),
            (None | Some(6 | 17 | 33 | 132 | 136), 0) => Some((Field::Port(Source), 2)),
            (None | Some(6 | 17 | 33 | 132 | 136), 2) => Some((Field::Port(Destination), 2)),
            (Some(6), 13) => Some((Field::TcpFlags, 1)),
            _ => None,
        },
        _ => None,
    }
}
