// SPDX-License-Identifier: MIT OR Apache-2.0
//! Expressions that load, change and compare registers, and the conditions that decide by chance or by count.

use super::comparison::{self, Op};
use super::decode::{Draft, Table, chance, unknown};
use super::expression::Expression;
use super::field::{META_L4PROTO, META_NFPROTO, META_PROTOCOL};
use super::register::{Source, Value, immediate};
use super::wire::{Attributes, data, verdict};
use super::words;
use crate::firewall::rule::{Counters, Criterion, IpRange, Match, PortRange};
use crate::firewall::xt;
use crate::node::Family;
use crate::text::printable;

impl Draft {
    /// Any expression but a lookup.
    pub(super) fn take(&mut self, expression: &Expression<'_>, table: &Table<'_>) {
        let Expression::Other(name, a) = expression else { return };
        if self.load(name, *a).is_some() || self.condition(name, *a, table).is_some() {
            return;
        }
        if self.act(name, *a, table).is_none() {
            self.matches.push(unknown(format!("{} (not understood)", printable(name))));
        }
    }

    /// Something is put into a register.
    fn load(&mut self, name: &[u8], a: Attributes<'_>) -> Option<()> {
        let (register, value) = match name {
            b"payload" => {
                let source = Source::Payload { base: a.u32(2)?, offset: a.u32(3)? };
                (a.u32(1)?, Value::new(source, a.u32(4)?.min(256) as usize))
            }
            b"meta" => {
                let key = a.u32(2)?;
                (a.u32(1)?, Value::new(Source::Meta(key), meta_length(key)))
            }
            b"ct" => {
                let (key, direction) = (a.u32(2)?, a.u8(3));
                (a.u32(1)?, Value::new(Source::Ct { key, direction }, ct_length(key)))
            }
            b"fib" => {
                let (result, flags) = (a.u32(2)?, a.u32(3)?);
                let length = if result == 2 { libc::IFNAMSIZ } else { 4 };
                (a.u32(1)?, Value::new(Source::Fib { result, flags }, length))
            }
            b"numgen" => {
                let kind = if a.u32(3) == Some(1) { "random" } else { "inc" };
                let (modulus, offset) = (a.u32(2)?, a.u32(4).unwrap_or(0));
                let words = format!("numgen {kind} mod {modulus}");
                (a.u32(1)?, Value::new(Source::Chance { words, modulus, offset }, 4))
            }
            b"hash" => {
                let kind = if a.u32(7) == Some(1) { "symhash" } else { "jhash" };
                let (modulus, offset) = (a.u32(4)?, a.u32(6).unwrap_or(0));
                let words = format!("{kind} mod {modulus}");
                (a.u32(2)?, Value::new(Source::Chance { words, modulus, offset }, 4))
            }
            b"immediate" => {
                if let Some((code, chain)) = verdict(a.get(2)) {
                    self.actions.extend(super::action::verdict(code, chain.as_deref()));
                    return Some(());
                }
                (a.u32(1)?, immediate(a.get(2))?)
            }
            b"bitwise" => (a.u32(2)?, self.bitwise(a)?),
            b"byteorder" => {
                let mut value = self.registers.one(a.u32(1))?.clone();
                value.swapped = !value.swapped;
                (a.u32(2)?, value)
            }
            b"exthdr" | b"rt" | b"osf" | b"xfrm" => (a.u32(1)?, other(name, a)),
            b"socket" | b"tunnel" => (a.u32(2)?, other(name, a)),
            _ => return None,
        };
        self.registers.store(Some(register), value);
        Some(())
    }

    /// `(x & mask) ^ xor`; anything else (shifts, two registers) is told in words.
    fn bitwise(&self, a: Attributes<'_>) -> Option<Value> {
        const NFT_BITWISE_MASK_XOR: u32 = 0;
        let value = self.registers.one(a.u32(1))?;
        let length = a.u32(3)?.min(64) as usize;
        let masks = data(a.get(4)).zip(data(a.get(5)));
        match (a.u32(6).unwrap_or(NFT_BITWISE_MASK_XOR), masks) {
            (NFT_BITWISE_MASK_XOR, Some((mask, xor))) if length == value.length => {
                Some(value.masked(mask, xor))
            }
            _ => Some(Value::new(Source::Other(format!("bits of {}", words::value(value))), length)),
        }
    }

    fn condition(&mut self, name: &[u8], a: Attributes<'_>, table: &Table<'_>) -> Option<()> {
        match name {
            b"cmp" => {
                let value = self.registers.one(a.u32(1)).cloned();
                let (op, bytes) = (Op::parse(a.u32(2)?)?, data(a.get(3))?);
                let Some(value) = value else {
                    self.matches.push(unknown(format!("a comparison with {}", words::hex(bytes))));
                    return Some(());
                };
                let all = comparison::compare(&value, op, bytes, self.context, table.outside);
                if op == Op::Eq {
                    self.learn(&value, bytes);
                }
                for m in all {
                    self.also(m);
                }
            }
            b"range" => {
                const NFT_RANGE_NEQ: u32 = 1;
                let value = self.registers.one(a.u32(1)).cloned()?;
                let range = (data(a.get(3))?.to_vec(), data(a.get(4))?.to_vec());
                let field = super::field::Field::of(&value, self.context);
                let what = match field.as_slice() {
                    [(field, _)] if value.mask().is_none() => {
                        comparison::any_of(field, std::slice::from_ref(&range), value.swapped, table.outside)
                    }
                    _ => None,
                };
                let negated = a.u32(2) == Some(NFT_RANGE_NEQ);
                let says =
                    || format!("{} {}-{}", words::value(&value), words::hex(&range.0), words::hex(&range.1));
                self.matches.push(what.map_or_else(|| unknown(says()), |what| Match { negated, what }));
            }
            b"counter" => {
                self.counters = a.u64(2).zip(a.u64(1)).map(|(packets, bytes)| Counters { packets, bytes });
            }
            b"limit" => {
                let unit = match a.u64(2) {
                    Some(1) => "second",
                    Some(60) => "minute",
                    Some(3600) => "hour",
                    Some(86400) => "day",
                    _ => "week",
                };
                let over = if a.u32(5).unwrap_or(0) & 1 != 0 { "over " } else { "" };
                let what = if a.u32(4) == Some(1) { " bytes" } else { "" };
                self.matches.push(chance(format!("limit rate {over}{}{what}/{unit}", a.u64(1)?)));
            }
            b"quota" => self.matches.push(chance(format!("quota of {} bytes", a.u64(1)?))),
            b"connlimit" => {
                let over = if a.u32(2).unwrap_or(0) & 1 != 0 { "over " } else { "" };
                self.matches.push(chance(format!("ct count {over}{}", a.u32(1)?)));
            }
            b"objref" => self.matches.extend(object(a)),
            b"dynset" => {
                let has_own = a.get(7).is_some() || a.get(10).is_some();
                let words = format!("update @{}", a.text(1).unwrap_or_default());
                if has_own {
                    self.matches.push(chance(words));
                }
            }
            b"match" => {
                let (name, info) = (a.text(1)?, a.get(3).unwrap_or_default());
                match xt::matches(&name, a.u32(2).unwrap_or(0), info, table.family, table.outside) {
                    Some(xt::Read::Matches(matches)) => self.matches.extend(matches),
                    Some(xt::Read::Comment(comment)) => self.comments.push(comment),
                    None => {
                        self.opaque = true;
                        self.matches.push(xt::unknown_match(&name));
                    }
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// What later expressions depend on.
    fn learn(&mut self, value: &Value, bytes: &[u8]) {
        let family = |ipv6: bool| Some(if ipv6 { Family::Ipv6 } else { Family::Ipv4 });
        match (&value.source, bytes) {
            (Source::Meta(META_NFPROTO), [proto]) => self.context.family = family(*proto == 10),
            (Source::Meta(META_PROTOCOL) | Source::Payload { base: 0, offset: 12 }, [high, low]) => {
                self.context.family = match (high, low) {
                    (0x08, 0x00) => family(false),
                    (0x86, 0xdd) => family(true),
                    _ => None,
                };
            }
            (Source::Meta(META_L4PROTO), [proto, ..]) => self.context.transport = Some(*proto),
            (Source::Payload { base: 1, offset }, [proto]) => {
                let protocol = if self.context.family == Some(Family::Ipv6) { 6 } else { 9 };
                if *offset == protocol {
                    self.context.transport = Some(*proto);
                }
            }
            _ => {}
        }
    }

    /// One more condition; from `>= a` and `<= b` of one field it makes a range.
    fn also(&mut self, m: Match) {
        if let (false, Some(Match { negated: false, what: last })) = (m.negated, self.matches.last_mut()) {
            let both = match (&*last, &m.what) {
                (Criterion::SourcePort(a), Criterion::SourcePort(b)) => {
                    both_ports(a, b).map(Criterion::SourcePort)
                }
                (Criterion::DestinationPort(a), Criterion::DestinationPort(b)) => {
                    both_ports(a, b).map(Criterion::DestinationPort)
                }
                (Criterion::Source(a), Criterion::Source(b)) => both_addresses(a, b).map(Criterion::Source),
                (Criterion::Destination(a), Criterion::Destination(b)) => {
                    both_addresses(a, b).map(Criterion::Destination)
                }
                (Criterion::IcmpTypes(kinds), Criterion::Other(words)) => icmp_code(kinds, words),
                _ => None,
            };
            if let Some(both) = both {
                *last = both;
                return;
            }
        }
        self.matches.push(m);
    }
}

fn both_ports(a: &[PortRange], b: &[PortRange]) -> Option<Vec<PortRange>> {
    let ([a], [b]) = (a, b) else { return None };
    let both = PortRange { first: a.first.max(b.first), last: a.last.min(b.last) };
    (both.first <= both.last).then(|| vec![both])
}

fn both_addresses(a: &[IpRange], b: &[IpRange]) -> Option<Vec<IpRange>> {
    let ([a], [b]) = (a, b) else { return None };
    let both = IpRange { first: a.first.max(b.first), last: a.last.min(b.last) };
    (a.first.is_ipv4() == b.first.is_ipv4() && both.first <= both.last).then(|| vec![both])
}

/// A type, and then a code.
fn icmp_code(kinds: &[(u8, u8)], words: &str) -> Option<Criterion> {
    let [(first, last)] = kinds else { return None };
    let code = words.strip_prefix("@th,8,8 == 0x").and_then(|code| u8::from_str_radix(code, 16).ok())?;
    (first == last).then_some(Criterion::Icmp { kind: *first, codes: Some((code, code)) })
}

/// A named object that decides: the others only count.
fn object(a: Attributes<'_>) -> Option<Match> {
    let kind = match a.u32(1)? {
        2 => "quota",
        4 => "limit",
        5 => "ct count",
        10 => return Some(unknown(format!("synproxy {}", a.text(2).unwrap_or_default()))),
        _ => return None,
    };
    Some(chance(format!("{kind} name {}", a.text(2).unwrap_or_else(|| "of a map".into()))))
}

fn other(name: &[u8], a: Attributes<'_>) -> Value {
    let words = match (name, a.u32(2)) {
        (b"rt", Some(3)) => "rt mtu".to_owned(),
        (b"socket", _) => "socket".to_owned(),
        (b"exthdr", _) => format!("option {} at {}", a.u8(2).unwrap_or(0), a.u32(3).unwrap_or(0)),
        _ => printable(name),
    };
    let length = if name == b"exthdr" { a.u32(4).unwrap_or(1).min(64) as usize } else { 4 };
    Value::new(Source::Other(words), length)
}

/// Of what meta loads, in bytes.
fn meta_length(key: u32) -> usize {
    match key {
        1 | 8 | 9 | 28 | 29 => 2,
        6 | 7 | 17 | 18 | 26 | 27 | 34 => libc::IFNAMSIZ,
        15 | 16 | 19 | 31 => 1,
        30 => 8,
        _ => 4,
    }
}

fn ct_length(key: u32) -> usize {
    match key {
        1 | 7 | 10 => 1,
        8 | 9 | 13 | 21 | 22 | 6 => 16,
        11 | 12 | 17 => 2,
        14..=16 => 8,
        _ => 4,
    }
}
