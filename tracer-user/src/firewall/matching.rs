// SPDX-License-Identifier: MIT OR Apache-2.0
//! Does a condition hold for a packet? Yes, no, or it cannot be known from what was read.

use std::net::IpAddr;

use super::facts::NodeFacts;
use super::membership::in_set;
use super::packet::{CtState, PacketView};
use super::rule::{Criterion, IpRange, Match, PortRange, Rule, Side};
use super::truth::{Truth, device};
use crate::fib::ReversePath;
use crate::node::Family;

/// What became of a rule's conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matched<'e> {
    Yes,
    /// The first condition that does not hold.
    No(&'e Match),
    /// All others hold, or are unknown as well.
    Unknown(&'e Match),
}

impl Rule {
    pub fn matched(&self, node: &dyn NodeFacts, packet: &PacketView) -> Matched<'_> {
        let mut unknown = None;
        for m in &self.matches {
            match m.holds(node, packet) {
                Truth::Yes => {}
                Truth::No => return Matched::No(m),
                Truth::Unknown => unknown = unknown.or(Some(m)),
            }
        }
        unknown.map_or(Matched::Yes, Matched::Unknown)
    }

    /// The conditions that do not hold.
    pub fn failures<'a>(
        &'a self,
        node: &'a dyn NodeFacts,
        packet: &'a PacketView,
    ) -> impl Iterator<Item = &'a Match> + 'a {
        self.matches.iter().filter(move |m| m.holds(node, packet) == Truth::No)
    }
}

impl Match {
    /// It holds by chance or by count: for some packets and not for others that are equal.
    pub fn is_chance(&self) -> bool {
        matches!(self.what, Criterion::Statistic(_))
    }

    pub fn holds(&self, node: &dyn NodeFacts, packet: &PacketView) -> Truth {
        let truth = self.what.holds(node, packet);
        // A port of another protocol, a type of what is no ICMP: the condition does not apply, negated or not.
        if truth == Truth::No && self.negated && !self.what.applies(packet) {
            return Truth::No;
        }
        if self.negated { !truth } else { truth }
    }
}

impl Criterion {
    fn applies(&self, packet: &PacketView) -> bool {
        match self {
            Self::SourcePort(_) | Self::DestinationPort(_) | Self::EitherPort(_) => packet.has_ports(),
            Self::TcpFlags { .. } => packet.proto == 6 && !packet.later_fragment,
            Self::Icmp { .. } | Self::IcmpTypes(_) => packet.is_icmp(),
            _ => true,
        }
    }

    fn holds(&self, node: &dyn NodeFacts, packet: &PacketView) -> Truth {
        match self {
            Self::Source(ranges) => within(ranges, packet.src),
            Self::Destination(ranges) => within(ranges, packet.dst),
            Self::Protocol(protocols) => Truth::of(protocols.contains(&packet.proto)),
            Self::Family(family) => Truth::of(*family == packet.family()),
            Self::SourcePort(ranges) => packet.port(Side::Source, ranges),
            Self::DestinationPort(ranges) => packet.port(Side::Destination, ranges),
            Self::EitherPort(ranges) => {
                packet.port(Side::Source, ranges).or(packet.port(Side::Destination, ranges))
            }
            Self::Input(names) => device(names, packet.input.as_deref()),
            Self::Output(names) => device(names, packet.output.as_deref()),
            Self::PhysIn(name) => device(std::slice::from_ref(name), packet.phys_in.as_deref()),
            Self::PhysOut(name) => device(std::slice::from_ref(name), packet.phys_out.as_deref()),
            Self::Mark { value, mask } => Truth::of_known(packet.mark.map(|m| m & mask == *value)),
            Self::Connmark { value, mask } => Truth::of_known(packet.ct_mark.map(|m| m & mask == *value)),
            Self::CtState(states) => {
                states.iter().fold(Truth::No, |truth, state| truth.or(packet.in_state(*state)))
            }
            Self::CtDirection(direction) => Truth::of_known(packet.ct_direction.map(|d| d == *direction)),
            Self::Set { name, fields } => in_set(node, name, fields, packet),
            Self::AddressType { side, types, limit_iface } => {
                address_type(node, packet, *side, types, *limit_iface)
            }
            Self::SourceMac(mac) => Truth::of_known(packet.mac.map(|m| m == *mac)),
            Self::OwnerUid { first, last } => {
                Truth::of_known(packet.uid.map(|uid| (*first..=*last).contains(&uid)))
            }
            Self::TcpFlags { .. } if packet.proto != 6 || packet.later_fragment => Truth::No,
            Self::TcpFlags { mask, value } => Truth::of_known(packet.tcp_flags.map(|f| f & mask == *value)),
            Self::Icmp { .. } if !packet.is_icmp() => Truth::No,
            Self::Icmp { kind, codes } => Truth::of_known(packet.icmp.map(|(k, code)| {
                k == *kind && codes.is_none_or(|(first, last)| (first..=last).contains(&code))
            })),
            Self::IcmpTypes(_) if !packet.is_icmp() => Truth::No,
            Self::IcmpTypes(kinds) => Truth::of_known(
                packet
                    .icmp
                    .map(|(kind, _)| kinds.iter().any(|(first, last)| (first..=last).contains(&&kind))),
            ),
            Self::Length(ranges) => Truth::of_known(
                packet.length.map(|l| ranges.iter().any(|(first, last)| (first..=last).contains(&&l))),
            ),
            Self::Ttl(ranges) => Truth::of_known(
                packet.ttl.map(|ttl| ranges.iter().any(|(first, last)| (first..=last).contains(&&ttl))),
            ),
            Self::Fragment => Truth::of(packet.later_fragment),
            Self::Other(text) => match reverse_path(text) {
                Some((how, inverted)) => {
                    Truth::of_known(node.reverse_path(packet, how).map(|holds| holds != inverted))
                }
                None => Truth::Unknown,
            },
            Self::Statistic(_) => Truth::Unknown,
        }
    }
}

impl PacketView {
    pub(super) fn has_ports(&self) -> bool {
        matches!(self.proto, 6 | 17 | 33 | 132 | 136) && !self.later_fragment
    }

    pub(super) fn is_icmp(&self) -> bool {
        matches!((self.proto, self.family()), (1, Family::Ipv4) | (58, Family::Ipv6)) && !self.later_fragment
    }

    pub(super) fn port_of(&self, side: Side) -> Option<u16> {
        match side {
            Side::Source => self.src_port,
            Side::Destination => self.dst_port,
        }
    }

    pub(super) fn address(&self, side: Side) -> IpAddr {
        match side {
            Side::Source => self.src,
            Side::Destination => self.dst,
        }
    }

    fn port(&self, side: Side, ranges: &[PortRange]) -> Truth {
        if !self.has_ports() {
            return Truth::No;
        }
        Truth::of_known(self.port_of(side).map(|port| ranges.iter().any(|range| range.contains(port))))
    }

    fn in_state(&self, state: CtState) -> Truth {
        match state {
            CtState::Snat => Truth::of_known(self.ct_snat),
            CtState::Dnat => Truth::of_known(self.ct_dnat),
            state => Truth::of_known(self.ct_state.map(|s| s == state)),
        }
    }
}

/// By the local tables, as `fib`'s and addrtype's own lookups go (net/netfilter/xt_addrtype.c).
fn address_type(
    node: &dyn NodeFacts,
    packet: &PacketView,
    side: Side,
    types: &[String],
    limit_iface: Option<Side>,
) -> Truth {
    let device = match limit_iface {
        None => None,
        Some(side) => {
            let name = match side {
                Side::Source => packet.input.as_deref(),
                Side::Destination => packet.output.as_deref(),
            };
            match name.and_then(|name| node.ifindex(name)) {
                Some(ifindex) => Some(ifindex),
                None => return Truth::Unknown,
            }
        }
    };
    let Some(found) = node.address_type(packet.address(side), device) else { return Truth::Unknown };
    Truth::of(types.iter().any(|t| t.eq_ignore_ascii_case(found)))
}

/// `-m rpfilter --loose --validmark --accept-local --invert`, which recordings have as text; and whether it is inverted.
fn reverse_path(text: &str) -> Option<(ReversePath, bool)> {
    let (mut how, mut inverted) = (ReversePath::default(), false);
    for word in text.strip_prefix("-m rpfilter")?.split_whitespace() {
        match word {
            "--loose" => how.loose = true,
            "--validmark" => how.valid_mark = true,
            "--accept-local" => how.accept_local = true,
            "--invert" => inverted = true,
            _ => return None,
        }
    }
    Some((how, inverted))
}

fn within(ranges: &[IpRange], address: IpAddr) -> Truth {
    Truth::of(ranges.iter().any(|range| range.contains(address)))
}
