// SPDX-License-Identifier: MIT OR Apache-2.0
//! Conditions and actions in words, and why a condition does not hold.

use std::fmt;
use std::fmt::Write as _;

use super::facts::NodeFacts;
use super::packet::PacketView;
use super::rule::{ConnmarkOp, Criterion, Match, NatTo, Side, Target};
use super::truth::Truth;
use crate::text::mac;

impl Match {
    /// It says more of the node and its agents than of the packet's own headers.
    pub(super) fn depends_on_node(&self) -> bool {
        match &self.what {
            Criterion::Set { .. }
            | Criterion::SourceMac(_)
            | Criterion::Mark { .. }
            | Criterion::Connmark { .. } => true,
            Criterion::Other(text) => text.starts_with("-m rpfilter"),
            _ => false,
        }
    }

    /// What the packet has instead: "source 10.200.0.22 is not in set egress-src-v4-… (0 members)". For a
    /// condition that cannot be known: what would have to be known.
    pub fn why_not(&self, node: &dyn NodeFacts, packet: &PacketView) -> String {
        let holds = self.holds(node, packet);
        if holds == Truth::Unknown && !matches!(self.what, Criterion::Set { .. }) {
            return format!("it is not known whether \"{self}\" holds");
        }
        let is = |inside: bool| if inside { "is" } else { "is not" };
        let here = is(self.negated);
        let have = |what: &str, value: Option<String>| match value {
            Some(value) => format!("rule wants {self}, packet has {what} {value}"),
            None => format!("rule wants {self}, the packet has no {what}"),
        };
        let hex = |mark: Option<u32>| mark.map(|m| format!("{m:#x}"));
        let shown = |x: &Option<String>| x.clone().filter(|x| !x.is_empty());
        match &self.what {
            Criterion::Source(ranges) => format!("source {} {here} in {}", packet.src, list(ranges)),
            Criterion::Destination(ranges) => {
                format!("destination {} {here} in {}", packet.dst, list(ranges))
            }
            Criterion::Set { name, fields } => set_words(node, packet, name, fields, here, holds),
            Criterion::AddressType { side, types, .. } => {
                format!("{} {} {here} {}", long(*side), packet.address(*side), types.join(" or "))
            }
            Criterion::Protocol(_) => have("protocol", Some(packet.proto.to_string())),
            Criterion::Family(_) => have("family", Some(format!("{:?}", packet.family()))),
            Criterion::SourcePort(_) => have("source port", packet.src_port.map(|p| p.to_string())),
            Criterion::DestinationPort(_) => have("destination port", packet.dst_port.map(|p| p.to_string())),
            Criterion::EitherPort(_) => {
                let ports = packet.src_port.zip(packet.dst_port);
                have("ports", ports.map(|(src, dst)| format!("{src} and {dst}")))
            }
            Criterion::Input(_) => have("input device", shown(&packet.input)),
            Criterion::Output(_) => have("output device", shown(&packet.output)),
            Criterion::PhysIn(_) => have("input bridge port", shown(&packet.phys_in)),
            Criterion::PhysOut(_) => have("output bridge port", shown(&packet.phys_out)),
            Criterion::Mark { .. } => have("mark", hex(packet.mark)),
            Criterion::Connmark { .. } => have("connection mark", hex(packet.ct_mark)),
            Criterion::CtState(_) => have("state", packet.ct_state.map(|s| s.to_string())),
            Criterion::CtDirection(_) => have("direction", packet.ct_direction.map(|d| d.to_string())),
            Criterion::SourceMac(_) => have("MAC", packet.mac.map(mac)),
            Criterion::OwnerUid { .. } => have("owner uid", packet.uid.map(|u| u.to_string())),
            Criterion::TcpFlags { .. } => have("TCP flags", packet.tcp_flags.map(|f| format!("{f:#x}"))),
            Criterion::Icmp { .. } => {
                have("ICMP type", packet.icmp.map(|(kind, code)| format!("{kind}/{code}")))
            }
            Criterion::IcmpTypes(_) => have("ICMP type", packet.icmp.map(|(kind, _)| kind.to_string())),
            Criterion::Length(_) => have("length", packet.length.map(|l| l.to_string())),
            Criterion::Ttl(_) => have("TTL", packet.ttl.map(|ttl| ttl.to_string())),
            Criterion::Fragment => have("fragment", None),
            Criterion::Other(text) if text.starts_with("-m rpfilter") => format!(
                "the way back to its source {} is {} by {}, by which it came in",
                packet.src,
                if self.negated { "also" } else { "not" },
                shown(&packet.input).unwrap_or_else(|| "the device".to_owned())
            ),
            Criterion::Statistic(text) | Criterion::Other(text) => {
                format!("it is not known whether \"{text}\" holds")
            }
        }
    }
}

fn set_words(
    node: &dyn NodeFacts,
    packet: &PacketView,
    name: &str,
    sides: &[Side],
    here: &str,
    holds: Truth,
) -> String {
    let mut what = String::new();
    for (at, side) in sides.iter().enumerate() {
        // The second field of a set is a port in nearly all kinds that have one.
        let is_port = at == 1 && node.set(name).is_some_and(|s| s.kind.contains(",port"));
        let port = packet.port_of(*side).filter(|_| is_port);
        let _ = match port {
            Some(port) => write!(what, ", port {port}"),
            None => {
                write!(what, "{}{} {}", if at == 0 { "" } else { ", " }, long(*side), packet.address(*side))
            }
        };
    }
    match node.set(name) {
        None => format!("set {name} was not read, so it is not known whether {what} is in it"),
        Some(_) if holds == Truth::Unknown => format!("it is not known whether {what} is in set {name}"),
        Some(set) => {
            let count = set.members.len() + set.cut;
            let members = if count == 1 { "member" } else { "members" };
            format!("{what} {here} in set {name} ({count} {members})")
        }
    }
}

fn long(side: Side) -> &'static str {
    match side {
        Side::Source => "source",
        Side::Destination => "destination",
    }
}

fn list<T: fmt::Display>(items: &[T]) -> String {
    const SHOWN: usize = 4;
    let mut out = items.iter().take(SHOWN).map(ToString::to_string).collect::<Vec<_>>().join(",");
    if items.len() > SHOWN {
        let _ = write!(out, ",… ({} in all)", items.len());
    }
    out
}

/// Ranges of numbers.
fn spans<T: fmt::Display + PartialEq>(ranges: &[(T, T)]) -> String {
    let one = |(first, last): &(T, T)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    list(&ranges.iter().map(one).collect::<Vec<_>>())
}

fn masked(value: u32, mask: u32) -> String {
    if mask == u32::MAX { format!("{value:#x}") } else { format!("{value:#x}/{mask:#x}") }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.negated {
            f.write_str("not ")?;
        }
        self.what.fmt(f)
    }
}

impl fmt::Display for Criterion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(ranges) => write!(f, "source {}", list(ranges)),
            Self::Destination(ranges) => write!(f, "destination {}", list(ranges)),
            Self::Protocol(protocols) => write!(f, "protocol {}", list(protocols)),
            Self::Family(family) => write!(f, "family {family:?}"),
            Self::SourcePort(ports) => write!(f, "source port {}", list(ports)),
            Self::DestinationPort(ports) => write!(f, "destination port {}", list(ports)),
            Self::EitherPort(ports) => write!(f, "port {}", list(ports)),
            Self::Input(names) => write!(f, "input device {}", list(names)),
            Self::Output(names) => write!(f, "output device {}", list(names)),
            Self::PhysIn(name) => write!(f, "input bridge port {name}"),
            Self::PhysOut(name) => write!(f, "output bridge port {name}"),
            Self::Mark { value, mask } => write!(f, "mark {}", masked(*value, *mask)),
            Self::Connmark { value, mask } => write!(f, "connection mark {}", masked(*value, *mask)),
            Self::CtState(states) => write!(f, "state {}", list(states)),
            Self::CtDirection(direction) => write!(f, "direction {direction}"),
            Self::Set { name, fields } => write!(f, "{} in set {name}", list(fields)),
            Self::AddressType { side, types, .. } => write!(f, "{side} type {}", list(types)),
            Self::SourceMac(address) => write!(f, "MAC {}", mac(*address)),
            Self::OwnerUid { first, last } if first == last => write!(f, "owner uid {first}"),
            Self::OwnerUid { first, last } => write!(f, "owner uid {first}-{last}"),
            Self::TcpFlags { mask, value } => write!(f, "TCP flags {value:#x}/{mask:#x}"),
            Self::Icmp { kind, codes: None } => write!(f, "ICMP type {kind}"),
            Self::Icmp { kind, codes: Some((first, last)) } if first == last => {
                write!(f, "ICMP type {kind}/{first}")
            }
            Self::Icmp { kind, codes: Some((first, last)) } => write!(f, "ICMP type {kind}/{first}-{last}"),
            Self::IcmpTypes(kinds) => write!(f, "ICMP type {}", spans(kinds)),
            Self::Length(ranges) => write!(f, "length {}", spans(ranges)),
            Self::Ttl(ranges) => write!(f, "TTL {}", spans(ranges)),
            Self::Fragment => f.write_str("later fragment"),
            Self::Statistic(text) | Self::Other(text) => f.write_str(text),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports = |ports: &Option<_>| match ports {
            Some(ports) => format!(" to ports {ports}"),
            None => String::new(),
        };
        match self {
            Self::Accept => f.write_str("ACCEPT"),
            Self::Drop => f.write_str("DROP"),
            Self::Return => f.write_str("RETURN"),
            Self::Reject { with } if with.is_empty() => f.write_str("REJECT"),
            Self::Reject { with } => write!(f, "REJECT with {with}"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
            Self::Mark { value, mask } => write!(f, "MARK {}", masked(*value, *mask)),
            Self::Connmark(ConnmarkOp::Save { .. }) => f.write_str("CONNMARK save"),
            Self::Connmark(ConnmarkOp::Restore { .. }) => f.write_str("CONNMARK restore"),
            Self::Connmark(ConnmarkOp::Set { value, mask }) => {
                write!(f, "CONNMARK {}", masked(*value, *mask))
            }
            Self::Dnat(to) => write!(f, "DNAT to {to}"),
            Self::Snat(to) => write!(f, "SNAT to {to}"),
            Self::Masquerade { ports: to, .. } => write!(f, "MASQUERADE{}", ports(to)),
            Self::Redirect { ports: to, .. } => write!(f, "REDIRECT{}", ports(to)),
            Self::Notrack => f.write_str("NOTRACK"),
            Self::TcpMss(Some(mss)) => write!(f, "TCPMSS {mss}"),
            Self::TcpMss(None) => f.write_str("TCPMSS to the path's MTU"),
            Self::Ct(text) | Self::Tproxy(text) | Self::Queue(text) | Self::Log(text) | Self::Other(text) => {
                f.write_str(text)
            }
        }
    }
}

impl fmt::Display for NatTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(addresses) = &self.addresses {
            write!(f, "{addresses}")?;
        }
        if let Some(ports) = &self.ports {
            write!(f, ":{ports}")?;
        }
        Ok(())
    }
}
