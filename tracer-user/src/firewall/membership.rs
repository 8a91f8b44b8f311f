// SPDX-License-Identifier: MIT OR Apache-2.0
//! Is a packet in a set?

use super::facts::NodeFacts;
use super::packet::PacketView;
use super::rule::{IpRange, Side};
use super::set::{IpSet, Member, MemberField};
use super::truth::{Truth, device as device_is};

/// Sets in sets; the kernel allows one level.
const MAX_DEPTH: u8 = 4;

/// Is the packet in the set of this name? `fields`: which side of the packet each field of the set is taken from.
pub fn in_set(node: &dyn NodeFacts, name: &str, fields: &[Side], packet: &PacketView) -> Truth {
    in_set_at(node, name, fields, packet, 0)
}

fn in_set_at(node: &dyn NodeFacts, name: &str, fields: &[Side], packet: &PacketView, depth: u8) -> Truth {
    match node.set(name) {
        Some(set) if depth < MAX_DEPTH => set.has(node, fields, packet, depth),
        _ => Truth::Unknown,
    }
}

impl IpSet {
    fn has(&self, node: &dyn NodeFacts, fields: &[Side], packet: &PacketView, depth: u8) -> Truth {
        let mut best: Option<(u32, bool)> = None;
        let mut unknown = false;
        for member in &self.members {
            match member.covers(node, fields, packet, depth) {
                Truth::No => {}
                Truth::Unknown => unknown = true,
                // The most specific decides, an exception before its equal.
                Truth::Yes => best = best.max(Some((member.specificity(), member.nomatch))),
            }
        }
        match best {
            Some((_, nomatch)) => Truth::of(!nomatch),
            None if unknown || self.cut > 0 => Truth::Unknown,
            None => Truth::No,
        }
    }
}

impl Member {
    fn covers(&self, node: &dyn NodeFacts, sides: &[Side], packet: &PacketView, depth: u8) -> Truth {
        if let [MemberField::Set(name)] = self.fields.as_slice() {
            return in_set_at(node, name, sides, packet, depth + 1);
        }
        // iptables refuses fewer sides than the set has fields; nft fields carry their own.
        let mut sides = sides.iter();
        let mut all = Truth::Yes;
        for field in &self.fields {
            let Some(side) = sides.next() else { return Truth::No };
            all = all.and(field.covers(*side, packet));
            if all == Truth::No {
                break;
            }
        }
        all
    }

    /// Bits that must agree.
    fn specificity(&self) -> u32 {
        let bits = |range: &IpRange| match (range.first, range.last) {
            (std::net::IpAddr::V4(a), std::net::IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            (std::net::IpAddr::V6(a), std::net::IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            _ => 0,
        };
        self.fields.iter().map(|f| if let MemberField::Address(range) = f { bits(range) } else { 0 }).sum()
    }
}

impl MemberField {
    fn covers(&self, side: Side, packet: &PacketView) -> Truth {
        let known = |value: Option<bool>| value.map_or(Truth::Unknown, Truth::of);
        match self {
            Self::Address(range) => Truth::of(range.contains(packet.address(side))),
            Self::Port { proto, .. } if *proto != 0 && *proto != packet.proto => Truth::No,
            Self::Port { ports, .. } if packet.is_icmp() => {
                known(packet.icmp.map(|(kind, code)| ports.contains(u16::from_be_bytes([kind, code]))))
            }
            Self::Port { .. } if !packet.has_ports() => Truth::No,
            Self::Port { ports, .. } => known(packet.port_of(side).map(|port| ports.contains(port))),
            Self::Protocol(proto) => Truth::of(*proto == packet.proto),
            // A destination's is not known to us.
            Self::Mac(mac) => match side {
                Side::Source => known(packet.mac.map(|m| m == *mac)),
                Side::Destination => Truth::Unknown,
            },
            Self::Device(name) => {
                let device = match side {
                    Side::Source => packet.input.as_ref(),
                    Side::Destination => packet.output.as_ref(),
                };
                device_is(std::slice::from_ref(name), device.map(String::as_str))
            }
            Self::Mark { value } => known(packet.mark.map(|mark| mark == *value)),
            Self::Any => Truth::Yes,
            Self::Set(_) | Self::Other(_) => Truth::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::IpAddr;

    use super::*;
    use crate::firewall::Table;
    use crate::firewall::rule::PortRange;

    fn net(text: &str) -> MemberField {
        MemberField::Address(text.parse::<crate::node::IpPrefix>().unwrap().into())
    }

    /// A namespace with sets and nothing else.
    #[derive(Default)]
    struct Sets {
        sets: BTreeMap<String, IpSet>,
    }

    impl NodeFacts for Sets {
        fn rulesets(&self) -> &[Table] {
            &[]
        }

        fn set(&self, name: &str) -> Option<&IpSet> {
            self.sets.get(name)
        }

        fn ifindex(&self, _: &str) -> Option<u32> {
            None
        }

        fn address_type(&self, _: IpAddr, _: Option<u32>) -> Option<&'static str> {
            None
        }

        fn reverse_path(&self, _: &crate::firewall::PacketView, _: crate::fib::ReversePath) -> Option<bool> {
            None
        }

        fn has_socket(&self, _: u8, _: Option<u16>) -> bool {
            false
        }
    }

    fn evidence(kind: &str, members: Vec<Member>) -> Sets {
        let mut evidence = Sets::default();
        let set = IpSet { name: "s".into(), kind: kind.into(), members, ..IpSet::default() };
        evidence.sets.insert("s".into(), set);
        let inner = Member { fields: vec![MemberField::Set("s".into())], nomatch: false };
        let outer =
            IpSet { name: "l".into(), kind: "list:set".into(), members: vec![inner], ..IpSet::default() };
        evidence.sets.insert("l".into(), outer);
        evidence
    }

    fn packet(dst: &str) -> PacketView {
        PacketView::new(6, "10.200.0.22".parse().unwrap(), dst.parse().unwrap()).ports(41234, 80)
    }

    #[test]
    fn the_longest_prefix_decides() {
        let member = |text, nomatch| Member { fields: vec![net(text)], nomatch };
        let evidence = evidence(
            "hash:net",
            vec![member("10.0.0.0/8", false), member("10.1.0.0/16", true), member("10.1.2.0/24", false)],
        );
        for (address, truth) in [
            ("10.9.9.9", Truth::Yes),
            ("10.1.9.9", Truth::No),
            ("10.1.2.3", Truth::Yes),
            ("11.0.0.1", Truth::No),
        ] {
            assert_eq!(in_set(&evidence, "s", &[Side::Destination], &packet(address)), truth, "{address}");
            assert_eq!(in_set(&evidence, "l", &[Side::Destination], &packet(address)), truth, "{address}");
        }
        assert_eq!(in_set(&evidence, "none", &[Side::Source], &packet("10.1.1.1")), Truth::Unknown);
    }

    #[test]
    fn address_and_port() {
        let port = |proto| MemberField::Port { proto, ports: PortRange::one(80) };
        let set = |proto| {
            evidence(
                "hash:ip,port",
                vec![Member { fields: vec![net("10.96.0.1"), port(proto)], nomatch: false }],
            )
        };
        let both = [Side::Destination, Side::Destination];
        assert_eq!(in_set(&set(6), "s", &both, &packet("10.96.0.1")), Truth::Yes);
        assert_eq!(in_set(&set(17), "s", &both, &packet("10.96.0.1")), Truth::No);
        assert_eq!(in_set(&set(6), "s", &[Side::Destination, Side::Source], &packet("10.96.0.1")), Truth::No);
        let mut unknown = packet("10.96.0.1");
        unknown.dst_port = None;
        assert_eq!(in_set(&set(6), "s", &both, &unknown), Truth::Unknown);
    }

    #[test]
    fn a_set_that_holds_itself_ends() {
        let evidence =
            evidence("list:set", vec![Member { fields: vec![MemberField::Set("s".into())], nomatch: false }]);
        assert_eq!(in_set(&evidence, "s", &[Side::Source], &packet("10.0.0.1")), Truth::Unknown);
    }
}
