// SPDX-License-Identifier: MIT OR Apache-2.0
//! Numbers of protocols in words.

use std::borrow::Cow;

use crate::flow::Packet;

/// What kind of packet it is: "SYN", "PSH-ACK", "UDP", "ICMP echo request seq 1".
pub(crate) fn packet_kind(packet: &Packet) -> String {
    if let Some((icmp_type, code)) = packet.icmp_error {
        return format!("ICMP {}", icmp_error(icmp_type, code, packet.ipv6, packet.ack));
    }
    if packet.is_fragment && packet.frag & 0x1fff != 0 {
        return format!("{} fragment at {}", protocol(packet.proto), u32::from(packet.frag & 0x1fff) * 8);
    }
    let mut kind = match packet.proto {
        6 => tcp_flags(packet.tcp_flags).join("-"),
        1 | 58 if packet.echo_id != 0 || packet.seq != 0 => {
            // Echo reply is type 0 in IPv4, 129 in IPv6.
            let answer = matches!((packet.proto, packet.tcp_flags), (1, 0) | (58, 129));
            format!("ICMP echo {} seq {}", if answer { "reply" } else { "request" }, packet.seq)
        }
        proto => protocol(proto).into_owned(),
    };
    if kind.is_empty() {
        kind.push_str("TCP");
    }
    if packet.zero_window {
        kind.push_str(" zero window");
    }
    if packet.is_fragment {
        kind.push_str(" first fragment");
    }
    kind
}

/// `packets` journeys by their numbers: "#4", "#4 to #6", "3 packets from #4 to #9".
pub(crate) fn numbers(first: u64, last: u64, packets: u16) -> String {
    match last.saturating_sub(first) {
        0 => format!("#{first}"),
        between if between + 1 == u64::from(packets) => format!("#{first} to #{last}"),
        _ => format!("{packets} packets from #{first} to #{last}"),
    }
}

/// ICMP type of a packet that is no error: an echo request's or reply's.
pub(crate) fn echo_type(packet: &Packet) -> u8 {
    // The record keeps it where TCP has its flags.
    packet.tcp_flags
}

/// `66:c5:d6:cc:29:54`.
pub(crate) fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

/// TCP flags by name, the way people say them: SYN and ACK last.
pub(crate) fn tcp_flags(flags: u8) -> Vec<&'static str> {
    const NAMES: [(u8, &str); 8] = [
        (0x02, "SYN"),
        (0x01, "FIN"),
        (0x04, "RST"),
        (0x08, "PSH"),
        (0x20, "URG"),
        (0x10, "ACK"),
        (0x40, "ECE"),
        (0x80, "CWR"),
    ];
    NAMES.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name).collect()
}

pub(crate) fn protocol(proto: u8) -> Cow<'static, str> {
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
pub(crate) fn table(id: u32) -> Cow<'static, str> {
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

/// "1500 B", or the segments of a packet that is yet to be split: "29012 B (20×1448)".
pub(crate) fn length(packet: &Packet) -> String {
    if packet.gso_size != 0 && packet.gso_segs > 1 {
        format!("{} B ({}×{})", packet.l3len, packet.gso_segs, packet.gso_size)
    } else {
        format!("{} B", packet.l3len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_it_is() {
        let tcp = Packet { proto: 6, tcp_flags: 0x12, ..Packet::default() };
        assert_eq!(packet_kind(&tcp), "SYN-ACK");
        let ping = Packet { proto: 1, tcp_flags: 8, seq: 3, echo_id: 9, ..Packet::default() };
        assert_eq!(packet_kind(&ping), "ICMP echo request seq 3");
        let big = Packet { proto: 1, ack: 1450, icmp_error: Some((3, 4)), ..Packet::default() };
        assert_eq!(packet_kind(&big), "ICMP frag-needed, MTU 1450");
        let part = Packet { proto: 17, is_fragment: true, frag: 185, ..Packet::default() };
        assert_eq!(packet_kind(&part), "UDP fragment at 1480");
    }
}
