// SPDX-License-Identifier: MIT OR Apache-2.0
//! Values of options that are of one header: TTL, TCP flags, ICMP types.

use crate::firewall::rule::Criterion;

/// `--ttl-eq`, `--ttl-lt`, `--ttl-gt`; `--hl-*` as well.
pub(super) fn ttl(than: &str, value: u8) -> Option<Criterion> {
    let range = match than {
        "eq" => (value, value),
        "lt" => (0, value.checked_sub(1)?),
        "gt" => (value.checked_add(1)?, u8::MAX),
        _ => return None,
    };
    Some(Criterion::Ttl(vec![range]))
}

pub(super) fn tcp_flags(text: &str) -> Option<u8> {
    let bit = |flag: &str| {
        Some(match flag {
            "FIN" => 1,
            "SYN" => 2,
            "RST" => 4,
            "PSH" => 8,
            "ACK" => 16,
            "URG" => 32,
            "ECE" => 64,
            "CWR" => 128,
            "ALL" => 63,
            "NONE" | "" => 0,
            _ => return None,
        })
    };
    text.split(',').try_fold(0, |all, flag| Some(all | bit(flag)?))
}

pub(super) fn icmp(text: &str) -> Option<Criterion> {
    let (kind, code) = match text.split_once('/') {
        Some((kind, code)) => (kind, Some(code.parse().ok()?)),
        None => (text, None),
    };
    Some(Criterion::Icmp { kind: kind.parse().ok()?, codes: code.map(|code| (code, code)) })
}
