// SPDX-License-Identifier: MIT OR Apache-2.0
//! Words that the tools print.

use std::net::IpAddr;

use tracer_user::firewall::IpRange;

/// A number as iptables writes it: decimal or `0x`.
pub(crate) fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// `10.0.0.1-10.0.0.9`, `10.0.0.1`.
pub(crate) fn address_range(text: &str) -> Option<IpRange> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (IpAddr, IpAddr) = (first.parse().ok()?, last.parse().ok()?);
    (first.is_ipv4() == last.is_ipv4()).then_some(IpRange { first, last })
}

pub(crate) fn mac(text: &str) -> Option<[u8; 6]> {
    let mut parts = text.split(':').map(|part| u8::from_str_radix(part, 16).ok());
    let mac = [(); 6].map(|()| parts.next().flatten());
    if parts.next().is_some() || mac.contains(&None) {
        return None;
    }
    Some(mac.map(Option::unwrap_or_default))
}

/// By name or number (the names iptables and nft write without asking /etc/protocols).
pub(crate) fn protocol(text: &str) -> Option<u8> {
    Some(match text {
        "icmp" => 1,
        "igmp" => 2,
        "ipip" | "ipencap" => 4,
        "tcp" => 6,
        "udp" => 17,
        "ipv6" => 41,
        "gre" => 47,
        "esp" => 50,
        "ah" => 51,
        "ipv6-icmp" | "icmpv6" => 58,
        "ospf" => 89,
        "vrrp" => 112,
        "sctp" => 132,
        "mh" | "ipv6-mh" | "mobility-header" => 135,
        "udplite" => 136,
        "dccp" => 33,
        _ => return text.parse().ok(),
    })
}
