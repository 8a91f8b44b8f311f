// SPDX-License-Identifier: MIT OR Apache-2.0
//! A rule as `iptables-save` writes it, made of what was understood.

use std::fmt::Write as _;

use crate::firewall::rule::{ConnmarkOp, Criterion, IpRange, Match, NatTo, PortRange, Rule, Side, Target};
use crate::node::IpPrefix;

/// Without counters: `-A CHAIN ...`.
pub(in crate::firewall) fn print(chain: &str, rule: &Rule) -> String {
    let mut out = format!("-A {chain}");
    // What has no module comes first, the protocol last of it.
    let rank = |m: &&Match| match m.what {
        Criterion::Source(_) | Criterion::Destination(_) | Criterion::Input(_) | Criterion::Output(_) => 0,
        Criterion::Protocol(_) => 1,
        _ => 2,
    };
    let mut matches: Vec<_> = rule.matches.iter().collect();
    matches.sort_by_key(rank);
    let (first, rest) = matches.split_at(matches.iter().filter(|m| rank(m) < 2).count());
    let protocol = matches.iter().find_map(|m| match &m.what {
        Criterion::Protocol(all) if !m.negated => all.first().copied(),
        _ => None,
    });
    for m in first {
        condition(m, protocol, &mut out);
    }
    for comment in &rule.comments {
        let _ = write!(out, " -m comment --comment {}", quoted(comment));
    }
    for m in rest {
        condition(m, protocol, &mut out);
    }
    for target in &rule.actions {
        action(target, &mut out);
    }
    out
}

fn condition(m: &Match, protocol: Option<u8>, out: &mut String) {
    let not = if m.negated { "! " } else { "" };
    let _ = match &m.what {
        Criterion::Source(ranges) if !are_networks(ranges) => {
            write!(out, " -m iprange {not}--src-range {}", list(ranges, ToString::to_string))
        }
        Criterion::Destination(ranges) if !are_networks(ranges) => {
            write!(out, " -m iprange {not}--dst-range {}", list(ranges, ToString::to_string))
        }
        Criterion::Source(ranges) => write!(out, " {not}-s {}", list(ranges, network)),
        Criterion::Destination(ranges) => write!(out, " {not}-d {}", list(ranges, network)),
        Criterion::Protocol(all) => write!(out, " {not}-p {}", list(all, |p| protocol_name(*p))),
        Criterion::Input(names) => write!(out, " {not}-i {}", list(names, |name| device(name))),
        Criterion::Output(names) => write!(out, " {not}-o {}", list(names, |name| device(name))),
        Criterion::SourcePort(ranges) => ports(out, protocol, not, "sport", ranges),
        Criterion::DestinationPort(ranges) => ports(out, protocol, not, "dport", ranges),
        Criterion::EitherPort(ranges) => write!(out, " -m multiport {not}--ports {}", list(ranges, port)),
        Criterion::PhysIn(name) => write!(out, " -m physdev {not}--physdev-in {name}"),
        Criterion::PhysOut(name) => write!(out, " -m physdev {not}--physdev-out {name}"),
        Criterion::Mark { value, mask } => write!(out, " -m mark {not}--mark {}", masked(*value, *mask)),
        Criterion::Connmark { value, mask } => {
            write!(out, " -m connmark {not}--mark {}", masked(*value, *mask))
        }
        Criterion::CtState(states) => {
            write!(out, " -m conntrack {not}--ctstate {}", list(states, ToString::to_string))
        }
        Criterion::CtDirection(direction) => write!(out, " -m conntrack --ctdir {direction}"),
        Criterion::Set { name, fields } => {
            write!(out, " -m set {not}--match-set {name} {}", list(fields, ToString::to_string))
        }
        Criterion::AddressType { side, types, limit_iface } => {
            let limit = match limit_iface {
                Some(Side::Source) => " --limit-iface-in",
                Some(Side::Destination) => " --limit-iface-out",
                None => "",
            };
            write!(out, " -m addrtype {not}--{side}-type {}{limit}", types.join(","))
        }
        Criterion::SourceMac(mac) => {
            write!(out, " -m mac {not}--mac-source {}", crate::text::mac(*mac))
        }
        Criterion::OwnerUid { first, last } if first == last => {
            write!(out, " -m owner {not}--uid-owner {first}")
        }
        Criterion::OwnerUid { first, last } => write!(out, " -m owner {not}--uid-owner {first}-{last}"),
        Criterion::TcpFlags { mask: 0x17, value: 2 } => write!(out, " {not}--tcp-flags FIN,SYN,RST,ACK SYN"),
        Criterion::TcpFlags { mask, value } => {
            write!(out, " {not}--tcp-flags {} {}", flags(*mask), flags(*value))
        }
        Criterion::Icmp { kind, codes } => {
            let option = if protocol == Some(58) { "icmpv6-type" } else { "icmp-type" };
            let code = codes.map_or(String::new(), |(first, _)| format!("/{first}"));
            write!(out, " {not}--{option} {kind}{code}")
        }
        Criterion::Length(ranges) if ranges.len() == 1 => {
            write!(out, " -m length {not}--length {}:{}", ranges[0].0, ranges[0].1)
        }
        Criterion::Ttl(ranges) if ranges.len() == 1 => ttl(out, protocol == Some(58), not, ranges[0]),
        Criterion::Fragment => write!(out, " {not}-f"),
        Criterion::Statistic(text) if text.starts_with("--mode") => write!(out, " -m statistic {text}"),
        Criterion::Statistic(text) | Criterion::Other(text) if text.starts_with("-m ") => {
            write!(out, " {text}")
        }
        Criterion::Statistic(text) if text.starts_with("limit rate ") => {
            write!(out, " -m limit --limit {}", text.trim_start_matches("limit rate "))
        }
        // Not in iptables' words: made by nft in a table of its.
        _ => write!(out, " [{m}]"),
    };
}

fn ttl(out: &mut String, six: bool, not: &str, (first, last): (u8, u8)) -> std::fmt::Result {
    let name = if six { "hl" } else { "ttl" };
    match (first, last) {
        (first, last) if first == last => write!(out, " -m {name} {not}--{name}-eq {first}"),
        (0, last) => write!(out, " -m {name} {not}--{name}-lt {}", u16::from(last) + 1),
        (first, _) => write!(out, " -m {name} {not}--{name}-gt {}", first - 1),
    }
}

fn ports(
    out: &mut String,
    protocol: Option<u8>,
    not: &str,
    name: &str,
    ranges: &[PortRange],
) -> std::fmt::Result {
    match ranges {
        [range] => {
            let module = protocol.map_or(String::new(), |p| format!(" -m {}", protocol_name(p)));
            write!(out, "{module} {not}--{name} {}", port(range))
        }
        ranges => write!(out, " -m multiport {not}--{name}s {}", list(ranges, port)),
    }
}

fn action(target: &Target, out: &mut String) {
    let random = |random: bool| if random { " --random-fully" } else { "" };
    let to_ports = |ports: &Option<PortRange>| match ports {
        Some(ports) => format!(" --to-ports {ports}"),
        None => String::new(),
    };
    let _ = match target {
        Target::Jump(chain) => write!(out, " -j {chain}"),
        Target::Goto(chain) => write!(out, " -g {chain}"),
        Target::Reject { with } => write!(out, " -j REJECT --reject-with {with}"),
        Target::Mark { value, mask } => write!(out, " -j MARK --set-xmark {value:#x}/{mask:#x}"),
        Target::Connmark(ConnmarkOp::Set { value, mask }) => {
            write!(out, " -j CONNMARK --set-xmark {value:#x}/{mask:#x}")
        }
        Target::Connmark(ConnmarkOp::Save { ct_mask, mask }) => {
            write!(out, " -j CONNMARK --save-mark --nfmask {mask:#x} --ctmask {ct_mask:#x}")
        }
        Target::Connmark(ConnmarkOp::Restore { ct_mask, mask }) => {
            write!(out, " -j CONNMARK --restore-mark --nfmask {mask:#x} --ctmask {ct_mask:#x}")
        }
        Target::Dnat(to) => write!(out, " -j DNAT --to-destination {}{}", nat(to), random(to.random)),
        Target::Snat(to) => write!(out, " -j SNAT --to-source {}{}", nat(to), random(to.random)),
        Target::Masquerade { ports, random: r } => {
            write!(out, " -j MASQUERADE{}{}", to_ports(ports), random(*r))
        }
        Target::Redirect { ports, random: r } => write!(out, " -j REDIRECT{}{}", to_ports(ports), random(*r)),
        Target::TcpMss(Some(mss)) => write!(out, " -j TCPMSS --set-mss {mss}"),
        Target::TcpMss(None) => out.write_str(" -j TCPMSS --clamp-mss-to-pmtu"),
        // The expression that iptables-nft makes of it.
        Target::Log(text) if text.starts_with("log") => out.write_str(" -j NFLOG"),
        Target::Queue(text) if text.starts_with("queue to ") => {
            write!(out, " -j NFQUEUE --queue-num {}", text.trim_start_matches("queue to "))
        }
        other => write!(out, " -j {other}"),
    };
}

fn nat(to: &NatTo) -> String {
    let ports = to.ports.map_or(String::new(), |ports| format!(":{ports}"));
    match &to.addresses {
        Some(range) if range.first.is_ipv6() && to.ports.is_some() => match range.first == range.last {
            true => format!("[{}]{ports}", range.first),
            false => format!("[{}]-[{}]{ports}", range.first, range.last),
        },
        Some(range) if range.first == range.last => format!("{}{ports}", range.first),
        Some(range) => format!("{}-{}{ports}", range.first, range.last),
        None => ports,
    }
}

fn are_networks(ranges: &[IpRange]) -> bool {
    ranges.iter().all(|range| IpPrefix::spanning(range.first, range.last).is_some())
}

fn network(range: &IpRange) -> String {
    let host = if range.first.is_ipv4() { "/32" } else { "/128" };
    if range.first == range.last { format!("{}{host}", range.first) } else { range.to_string() }
}

fn port(range: &PortRange) -> String {
    if range.first == range.last {
        range.first.to_string()
    } else {
        format!("{}:{}", range.first, range.last)
    }
}

fn device(name: &str) -> String {
    match name.strip_suffix('*') {
        Some(start) => format!("{start}+"),
        None => name.to_owned(),
    }
}

fn list<T>(items: &[T], one: impl Fn(&T) -> String) -> String {
    items.iter().map(one).collect::<Vec<_>>().join(",")
}

fn masked(value: u32, mask: u32) -> String {
    if mask == u32::MAX { format!("{value:#x}") } else { format!("{value:#x}/{mask:#x}") }
}

fn flags(bits: u8) -> String {
    const NAMES: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
    let set = (0..8).filter(|bit| bits & (1 << bit) != 0).map(|bit| NAMES[bit]);
    let all = set.collect::<Vec<_>>().join(",");
    if all.is_empty() { "NONE".to_owned() } else { all }
}

fn protocol_name(number: u8) -> String {
    match number {
        1 => "icmp".into(),
        6 => "tcp".into(),
        17 => "udp".into(),
        58 => "ipv6-icmp".into(),
        132 => "sctp".into(),
        other => other.to_string(),
    }
}

fn quoted(text: &str) -> String {
    let plain =
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-./:@%+,".contains(&b));
    if plain { text.to_owned() } else { format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")) }
}
