// SPDX-License-Identifier: MIT OR Apache-2.0
//! Numbers of protocols in words.

use crate::text::{icmp_error, protocol_name};

use crate::flow::Packet;

/// What kind of packet it is: "SYN", "PSH-ACK", "UDP", "ICMP echo request seq 1".
pub(crate) fn packet_kind(packet: &Packet) -> String {
    if let Some((icmp_type, code)) = packet.icmp_error {
        return format!("ICMP {}", icmp_error(icmp_type, code, packet.ipv6, packet.ack));
    }
    if packet.is_fragment && packet.frag & 0x1fff != 0 {
        return format!(
            "{} fragment at {}",
            protocol_name(packet.proto),
            u32::from(packet.frag & 0x1fff) * 8
        );
    }
    let mut kind = match packet.proto {
        6 => tcp_flags(packet.tcp_flags).join("-"),
        1 | 58 if packet.echo_id != 0 || packet.seq != 0 => {
            // Echo reply is type 0 in IPv4, 129 in IPv6.
            let answer = matches!((packet.proto, packet.tcp_flags), (1, 0) | (58, 129));
            format!("ICMP echo {} seq {}", if answer { "reply" } else { "request" }, packet.seq)
        }
        proto => protocol_name(proto).into_owned(),
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
