// SPDX-License-Identifier: MIT OR Apache-2.0
//! Conditions: a field of the packet against a value.

use std::collections::BTreeMap;

use serde_json::Value;

use super::values::{addresses, bare, each, fields, number, ports, protocol, short};
use super::words;
use tracer_user::firewall::{Criterion, Match, PortRange, Side, TableFamily};
use tracer_user::firewall::{CtDirection, CtState};
use tracer_user::firewall::{IpSet, Member};
use tracer_user::node::Family;
use tracer_user::text::printable;

/// A field of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    Address(Side),
    Port(Side),
    Protocol,
    Family,
    /// Source: input, destination: output.
    Device(Side),
    Mark {
        mask: u32,
    },
    Connmark {
        mask: u32,
    },
    State,
    Direction,
    Mac,
    Uid,
    Type {
        side: Side,
        on_input: bool,
    },
    Icmp,
    /// Chosen by chance.
    Chance,
}

/// Where the sets of a table are, and what is made of those within a rule.
pub(crate) struct Sets<'s> {
    prefix: &'s str,
    handle: u64,
    family: TableFamily,
    sets: &'s mut BTreeMap<String, IpSet>,
    made: usize,
}

impl<'s> Sets<'s> {
    pub(crate) fn new(
        prefix: &'s str,
        handle: u64,
        family: TableFamily,
        sets: &'s mut BTreeMap<String, IpSet>,
    ) -> Self {
        Self { prefix, handle, family, sets, made: 0 }
    }

    /// What a match statement asks for; with what its fields imply.
    pub(crate) fn condition(&mut self, statement: &Value) -> Vec<Match> {
        let get = |name| statement.get(name).unwrap_or(&Value::Null);
        let (left, right) = (get("left"), get("right"));
        let op = get("op").as_str().unwrap_or("==");
        let negated = op == "!=";
        let mut out = implied(left, self.family);
        let what = match op {
            "==" | "in" | "!=" => self.of(left, right),
            "<" | "<=" | ">" | ">=" => compared(left, op, right),
            _ => None,
        };
        let what = what.unwrap_or_else(|| Criterion::Other(short(statement)));
        out.push(Match { negated: negated && !matches!(what, Criterion::Other(_)), what });
        out
    }

    fn of(&mut self, left: &Value, right: &Value) -> Option<Criterion> {
        let parts = left.get("concat").and_then(Value::as_array);
        if let Some(name) = right.as_str().and_then(|text| text.strip_prefix('@')) {
            let name = format!("{}{}", self.prefix, printable(name));
            return Some(Criterion::Set { name, fields: sides(left)? });
        }
        if parts.is_some() {
            // A set within the rule.
            let members =
                each(right).map(|element| Member { fields: fields(element, |_| ""), nomatch: false });
            let name = format!("{}{}#{}", self.prefix, self.handle, self.made);
            let set = IpSet { name: name.clone(), members: members.collect(), ..IpSet::default() };
            let sides = sides(left)?;
            self.made += 1;
            self.sets.insert(name.clone(), set);
            return Some(Criterion::Set { name, fields: sides });
        }
        Key::of(left)?.criterion(right)
    }
}

/// Which side of the packet each part of a key is from.
fn sides(left: &Value) -> Option<Vec<Side>> {
    let one = std::slice::from_ref(left);
    let parts = left.get("concat").and_then(Value::as_array).map_or(one, Vec::as_slice);
    let side = |part| match Key::of(part)? {
        Key::Address(side) | Key::Port(side) | Key::Device(side) => Some(side),
        Key::Protocol | Key::Mark { mask: u32::MAX } | Key::Mac => Some(Side::Source),
        _ => None,
    };
    parts.iter().map(side).collect()
}

/// `tcp dport` holds for TCP only, `ip saddr` for IPv4 only: nft leaves both unsaid.
fn implied(left: &Value, table: TableFamily) -> Vec<Match> {
    let one = std::slice::from_ref(left);
    let parts = left.get("concat").and_then(Value::as_array).map_or(one, Vec::as_slice);
    let mut out: Vec<Match> = Vec::new();
    for part in parts {
        let part = part.get("&").and_then(|both| both.get(0)).unwrap_or(part);
        let Some(name) = part.get("payload").and_then(|p| p.get("protocol")).and_then(Value::as_str) else {
            continue;
        };
        let what = match name {
            "ip" if table == TableFamily::Inet => Criterion::Family(Family::Ipv4),
            "ip6" if table == TableFamily::Inet => Criterion::Family(Family::Ipv6),
            "ip" | "ip6" | "th" | "ether" => continue,
            name => match words::protocol(name) {
                Some(number) => Criterion::Protocol(vec![number]),
                None => continue,
            },
        };
        let implied = Match { negated: false, what };
        if !out.contains(&implied) {
            out.push(implied);
        }
    }
    out
}

fn compared(left: &Value, op: &str, right: &Value) -> Option<Criterion> {
    let Key::Port(side) = Key::of(left)? else { return None };
    let port = u16::try_from(right.as_u64()?).ok()?;
    let (first, last) = match op {
        "<" => (0, port.checked_sub(1)?),
        "<=" => (0, port),
        ">" => (port.checked_add(1)?, u16::MAX),
        _ => (port, u16::MAX),
    };
    let range = vec![PortRange { first, last }];
    Some(match side {
        Side::Source => Criterion::SourcePort(range),
        Side::Destination => Criterion::DestinationPort(range),
    })
}

impl Key {
    /// The conditions for one element of a verdict map.
    pub(crate) fn conditions(key: &Value, value: &Value, table: TableFamily) -> Vec<Match> {
        let one = std::slice::from_ref;
        let parts = key.get("concat").and_then(Value::as_array).map_or(one(key), Vec::as_slice);
        let values = value.get("concat").and_then(Value::as_array).map_or(one(value), Vec::as_slice);
        let mut out = implied(key, table);
        for (part, value) in parts.iter().zip(values) {
            let what = Self::of(part).and_then(|key| key.criterion(bare(value)));
            let what = what.unwrap_or_else(|| Criterion::Other(short(part)));
            out.push(Match { negated: false, what });
        }
        out
    }

    fn of(expression: &Value) -> Option<Self> {
        let (kind, value) = expression.as_object()?.iter().next()?;
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        Some(match kind.as_str() {
            "payload" => match (text("protocol")?, text("field")?) {
                ("ip" | "ip6", "saddr") => Self::Address(Side::Source),
                ("ip" | "ip6", "daddr") => Self::Address(Side::Destination),
                ("ip", "protocol") | ("ip6", "nexthdr") => Self::Protocol,
                ("tcp" | "udp" | "th" | "sctp" | "dccp" | "udplite", "sport") => Self::Port(Side::Source),
                ("tcp" | "udp" | "th" | "sctp" | "dccp" | "udplite", "dport") => {
                    Self::Port(Side::Destination)
                }
                ("ether", "saddr") => Self::Mac,
                ("icmp" | "icmpv6", "type") => Self::Icmp,
                _ => return None,
            },
            "meta" => match text("key")? {
                "mark" => Self::Mark { mask: u32::MAX },
                "iifname" | "iif" => Self::Device(Side::Source),
                "oifname" | "oif" => Self::Device(Side::Destination),
                "l4proto" => Self::Protocol,
                "nfproto" => Self::Family,
                "skuid" => Self::Uid,
                _ => return None,
            },
            "ct" => match text("key")? {
                "state" => Self::State,
                "direction" => Self::Direction,
                "mark" => Self::Connmark { mask: u32::MAX },
                _ => return None,
            },
            "fib" if text("result") == Some("type") => {
                let has = |flag: &str| value.get("flags").is_some_and(|f| each(f).any(|f| f == flag));
                let side = if has("saddr") { Side::Source } else { Side::Destination };
                Self::Type { side, on_input: has("iif") }
            }
            "numgen" | "jhash" | "symhash" => Self::Chance,
            "&" => match (Self::of(value.get(0)?)?, number(value.get(1)?)?) {
                (Self::Mark { .. }, mask) => Self::Mark { mask },
                (Self::Connmark { .. }, mask) => Self::Connmark { mask },
                _ => return None,
            },
            _ => return None,
        })
    }

    /// Any of the values.
    fn criterion(self, right: &Value) -> Option<Criterion> {
        let all = || each(right);
        Some(match self {
            Self::Address(Side::Source) => Criterion::Source(all().map(addresses).collect::<Option<_>>()?),
            Self::Address(Side::Destination) => {
                Criterion::Destination(all().map(addresses).collect::<Option<_>>()?)
            }
            Self::Port(Side::Source) => Criterion::SourcePort(all().map(ports).collect::<Option<_>>()?),
            Self::Port(Side::Destination) => {
                Criterion::DestinationPort(all().map(ports).collect::<Option<_>>()?)
            }
            Self::Protocol => Criterion::Protocol(all().map(protocol).collect::<Option<_>>()?),
            Self::Family => match right.as_str()? {
                "ipv4" => Criterion::Family(Family::Ipv4),
                "ipv6" => Criterion::Family(Family::Ipv6),
                _ => return None,
            },
            Self::Device(side) => {
                let names = all().map(|v| v.as_str().map(printable)).collect::<Option<_>>()?;
                match side {
                    Side::Source => Criterion::Input(names),
                    Side::Destination => Criterion::Output(names),
                }
            }
            Self::Mark { mask } => Criterion::Mark { value: number(right)?, mask },
            Self::Connmark { mask } => Criterion::Connmark { value: number(right)?, mask },
            Self::State => {
                Criterion::CtState(all().map(|v| v.as_str().and_then(CtState::parse)).collect::<Option<_>>()?)
            }
            Self::Direction => Criterion::CtDirection(match right.as_str()? {
                "original" => CtDirection::Original,
                "reply" => CtDirection::Reply,
                _ => return None,
            }),
            Self::Mac => Criterion::SourceMac(words::mac(right.as_str()?)?),
            Self::Uid => number(right).map(|uid| Criterion::OwnerUid { first: uid, last: uid })?,
            Self::Type { side, on_input } => Criterion::AddressType {
                side,
                types: all().map(|v| v.as_str().map(printable)).collect::<Option<_>>()?,
                limit_iface: on_input.then_some(Side::Source),
            },
            Self::Icmp => {
                let one = |value: &Value| icmp_type(value).map(|kind| (kind, kind));
                Criterion::IcmpTypes(all().map(one).collect::<Option<_>>()?)
            }
            Self::Chance => Criterion::Statistic(format!("by chance: {}", short(right))),
        })
    }
}

/// By number, or by one of nft's names: those of ICMP and ICMPv6 that differ have different names.
fn icmp_type(value: &Value) -> Option<u8> {
    if let Some(number) = value.as_u64() {
        return u8::try_from(number).ok();
    }
    Some(match value.as_str()? {
        "echo-reply" => 0,
        "destination-unreachable" => 3,
        "source-quench" => 4,
        "redirect" => 5,
        "echo-request" => 8,
        "time-exceeded" => 11,
        "parameter-problem" => 12,
        "nd-router-solicit" => 133,
        "nd-router-advert" => 134,
        "nd-neighbor-solicit" => 135,
        "nd-neighbor-advert" => 136,
        _ => return None,
    })
}
