// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is not understood further, in nft's own words where there are any.

use std::fmt::Write as _;

use super::register::{Source, Value};

const META: [&str; 36] = [
    "length",
    "protocol",
    "priority",
    "mark",
    "iif",
    "oif",
    "iifname",
    "oifname",
    "iiftype",
    "oiftype",
    "skuid",
    "skgid",
    "nftrace",
    "rtclassid",
    "secmark",
    "nfproto",
    "l4proto",
    "ibrname",
    "obrname",
    "pkttype",
    "cpu",
    "iifgroup",
    "oifgroup",
    "cgroup",
    "random",
    "ipsec",
    "iifkind",
    "oifkind",
    "ibrpvid",
    "ibrvproto",
    "time",
    "day",
    "hour",
    "sdif",
    "sdifname",
    "broute",
];
const CT: [&str; 24] = [
    "state",
    "direction",
    "status",
    "mark",
    "secmark",
    "expiration",
    "helper",
    "l3proto",
    "saddr",
    "daddr",
    "protocol",
    "proto-src",
    "proto-dst",
    "label",
    "packets",
    "bytes",
    "avgpkt",
    "zone",
    "event",
    "ip saddr",
    "ip daddr",
    "ip6 saddr",
    "ip6 daddr",
    "id",
];

pub(super) fn meta(key: u32) -> String {
    named("meta", &META, key)
}

pub(super) fn ct(key: u32, direction: Option<u8>) -> String {
    let of = match direction {
        Some(0) => "ct original",
        Some(_) => "ct reply",
        None => "ct",
    };
    named(of, &CT, key)
}

fn named(of: &str, names: &[&str], key: u32) -> String {
    match usize::try_from(key).ok().and_then(|key| names.get(key)) {
        Some(name) => format!("{of} {name}"),
        None => format!("{of} key {key}"),
    }
}

/// As nft writes bytes that it has no name for: `@th,16,8`, in bits.
pub(super) fn payload(base: u32, offset: u32, length: usize) -> String {
    let base = match base {
        0 => "ll",
        1 => "nh",
        2 => "th",
        3 => "ih",
        _ => "tunnel",
    };
    format!("@{base},{},{}", u64::from(offset) * 8, length * 8)
}

pub(super) fn source(source: &Source) -> String {
    match source {
        Source::Payload { base, offset } => payload(*base, *offset, 0),
        Source::Meta(key) => meta(*key),
        Source::Ct { key, direction } => ct(*key, *direction),
        Source::Fib { result, flags } => fib(*result, *flags),
        Source::Chance { words, .. } | Source::Other(words) => words.clone(),
        Source::Constant(bytes) => hex(bytes),
    }
}

fn fib(result: u32, flags: u32) -> String {
    let names = [(1, "saddr"), (2, "daddr"), (4, "mark"), (8, "iif"), (16, "oif")];
    let by: Vec<_> = names.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name).collect();
    let result = match result {
        1 => "oif",
        2 => "oifname",
        3 => "type",
        _ => "result",
    };
    format!("fib {} {result}", by.join(" . "))
}

pub(super) fn value(value: &Value) -> String {
    let mut out = match value.source {
        Source::Payload { base, offset } => payload(base, offset, value.length),
        _ => source(&value.source),
    };
    if value.mask().is_some() {
        let _ = write!(out, " & {}", hex(&value.and));
    }
    if value.is_xored() {
        let _ = write!(out, " ^ {}", hex(&value.xor));
    }
    out
}

pub(super) fn values(values: &[&Value]) -> String {
    values.iter().map(|one| value(one)).collect::<Vec<_>>().join(" . ")
}

pub(super) fn hex(bytes: &[u8]) -> String {
    let mut out = String::from("0x");
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
    out
}
