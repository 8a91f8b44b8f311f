// SPDX-License-Identifier: MIT OR Apache-2.0
//! Values: addresses, ports, names, and sets of them.

use serde_json::Value;

use super::words;
use tracer_user::firewall::MemberField;
use tracer_user::firewall::{IpRange, PortRange};
use tracer_user::node::IpPrefix;
use tracer_user::text::printable;

/// Of text that is kept because it is not understood.
const MAX_TEXT: usize = 512;

/// An element without its timeout, comment and counter.
pub(crate) fn bare(value: &Value) -> &Value {
    value.get("elem").and_then(|elem| elem.get("val")).unwrap_or(value)
}

/// The values of a set or list, or the one.
pub(crate) fn each(value: &Value) -> impl Iterator<Item = &Value> {
    let list = value.get("set").unwrap_or(value);
    let (many, one) = match list.as_array() {
        Some(many) => (many.as_slice(), None),
        None => (&[][..], Some(list)),
    };
    many.iter().chain(one).map(bare)
}

/// An address, prefix or range.
pub(crate) fn addresses(value: &Value) -> Option<IpRange> {
    if let Some(text) = value.as_str() {
        return text.parse::<IpPrefix>().ok().map(IpRange::from);
    }
    if let Some(prefix) = value.get("prefix") {
        let length = u8::try_from(prefix.get("len")?.as_u64()?).ok()?;
        return IpPrefix::new(prefix.get("addr")?.as_str()?.parse().ok()?, length).map(IpRange::from);
    }
    let [first, last] = value.get("range")?.as_array()?.as_slice() else { return None };
    let (first, last) = (first.as_str()?.parse().ok()?, last.as_str()?.parse().ok()?);
    Some(IpRange { first, last })
}

pub(crate) fn ports(value: &Value) -> Option<PortRange> {
    let port = |value: &Value| value.as_u64().and_then(|port| u16::try_from(port).ok());
    if let Some([first, last]) = value.get("range").and_then(Value::as_array).map(Vec::as_slice) {
        return Some(PortRange { first: port(first)?, last: port(last)? });
    }
    port(value).map(PortRange::one)
}

pub(crate) fn number(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|n| u32::try_from(n).ok())
}

pub(crate) fn protocol(value: &Value) -> Option<u8> {
    match value.as_str() {
        Some(name) => words::protocol(name),
        None => value.as_u64().and_then(|n| u8::try_from(n).ok()),
    }
}

/// The fields of a set's element. `kind`: nft's type of the field at this place, empty when not known.
pub(crate) fn fields<'k>(value: &Value, kind: impl Fn(usize) -> &'k str) -> Vec<MemberField> {
    match value.get("concat").and_then(Value::as_array) {
        Some(parts) => parts.iter().enumerate().map(|(at, part)| field(bare(part), kind(at))).collect(),
        None => vec![field(value, kind(0))],
    }
}

fn field(value: &Value, kind: &str) -> MemberField {
    let understood = match kind {
        "mark" => number(value).map(|value| MemberField::Mark { value }),
        "inet_proto" => protocol(value).map(MemberField::Protocol),
        "ifname" => value.as_str().map(|name| MemberField::Device(printable(name))),
        "ether_addr" => value.as_str().and_then(words::mac).map(MemberField::Mac),
        "inet_service" => ports(value).map(|ports| MemberField::Port { proto: 0, ports }),
        "ipv4_addr" | "ipv6_addr" => addresses(value).map(MemberField::Address),
        // By its looks.
        "" => addresses(value)
            .map(MemberField::Address)
            .or_else(|| ports(value).map(|ports| MemberField::Port { proto: 0, ports }))
            .or_else(|| protocol(value).map(MemberField::Protocol)),
        _ => None,
    };
    understood.unwrap_or_else(|| MemberField::Other(short(value)))
}

/// JSON as text, cut where it is long.
pub(crate) fn short(value: &Value) -> String {
    let text = value.to_string();
    printable(text.char_indices().nth(MAX_TEXT).map_or(text.as_str(), |(at, _)| &text[..at]))
}
