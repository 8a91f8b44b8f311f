// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names of numbers in packets and routes: protocols, ICMP types, routing tables, MAC addresses.

use std::borrow::Cow;

/// A link-layer address: `02:42:ac:11:00:02`.
pub(crate) fn mac(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

pub(crate) fn protocol_name(proto: u8) -> Cow<'static, str> {
    Cow::Borrowed(match proto {
        1 => "ICMP",
        2 => "IGMP",
        6 => "TCP",
        17 => "UDP",
        41 => "IPv6",
        47 => "GRE",
        50 => "ESP",
        58 => "ICMPv6",
        132 => "SCTP",
        136 => "UDP-Lite",
        other => return Cow::Owned(format!("protocol {other}")),
    })
}

/// Type and code of an ICMP error (RFC 792, 1122, 1812, 4443). `mtu`: 0 none.
pub(crate) fn icmp_error(icmp_type: u8, code: u8, ipv6: bool, mtu: u32) -> Cow<'static, str> {
    let name = match (ipv6, icmp_type, code) {
        (false, 3, 4) | (true, 2, _) => {
            let name = if ipv6 { "packet-too-big" } else { "frag-needed" };
            return if mtu == 0 { Cow::Borrowed(name) } else { Cow::Owned(format!("{name}, MTU {mtu}")) };
        }
        (false, 3, 0) | (true, 1, 0) => "net-unreachable",
        (false, 3, 1) => "host-unreachable",
        (false, 3, 2) => "protocol-unreachable",
        (false, 3, 3) | (true, 1, 4) => "port-unreachable",
        (false, 3, 9) => "net-prohibited",
        (false, 3, 10) => "host-prohibited",
        (false, 3, 13) | (true, 1, 1) => "admin-prohibited",
        (true, 1, 2) => "beyond-scope",
        (true, 1, 3) => "address-unreachable",
        (true, 1, 5) => "policy-failed",
        (true, 1, 6) => "reject-route",
        (false, 4, _) => "source-quench",
        (false, 5, _) | (true, 137, _) => "redirect",
        (false, 11, 0) | (true, 3, 0) => "ttl-exceeded",
        (false, 11, 1) | (true, 3, 1) => "reassembly-timeout",
        (false, 12, _) | (true, 4, _) => "parameter-problem",
        _ => return Cow::Owned(format!("type {icmp_type} code {code}")),
    };
    Cow::Borrowed(name)
}

/// [`icmp_error`] without an MTU.
pub(crate) fn icmp_name(icmp_type: u8, code: u8, ipv6: bool) -> Cow<'static, str> {
    icmp_error(icmp_type, code, ipv6, 0)
}

/// Routing tables that have names without a configuration file.
pub(crate) fn table_name(id: u32) -> Cow<'static, str> {
    match id {
        253 => Cow::Borrowed("default"),
        254 => Cow::Borrowed("main"),
        255 => Cow::Borrowed("local"),
        other => Cow::Owned(other.to_string()),
    }
}

/// The error that a routing lookup ended with.
pub(crate) fn route_error(error: i32) -> Cow<'static, str> {
    match -error {
        2 | 3 | 11 => Cow::Borrowed("no match"),
        13 => Cow::Borrowed("prohibit"),
        22 => Cow::Borrowed("blackhole"),
        101 => Cow::Borrowed("no route"),
        113 => Cow::Borrowed("unreachable"),
        errno => Cow::Owned(format!("error {errno}")),
    }
}
