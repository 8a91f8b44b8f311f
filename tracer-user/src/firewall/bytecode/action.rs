// SPDX-License-Identifier: MIT OR Apache-2.0
//! What expressions do: verdicts, translations, marks.

use super::comparison;
use super::decode::{Draft, Table};
use super::field::{CT_MARK, META_MARK};
use super::register::{Source, Value};
use super::wire::Attributes;
use super::words;
use crate::firewall::rule::{ConnmarkOp, IpRange, NatTo, PortRange, Target};
use crate::firewall::xt;
use crate::node::Family;

// include/uapi/linux/netfilter/nf_nat.h
const NF_NAT_RANGE_PROTO_RANDOM: u32 = 4;
const NF_NAT_RANGE_PERSISTENT: u32 = 8;
const NF_NAT_RANGE_PROTO_RANDOM_FULLY: u32 = 16;
/// TCPOPT_MSS.
const TCP_OPTION_MSS: u8 = 2;

/// `None`: on to the next rule.
pub(super) fn verdict(code: i32, chain: Option<&str>) -> Option<Target> {
    let chain = || chain.unwrap_or_default().to_owned();
    Some(match code {
        0 => Target::Drop,
        1 => Target::Accept,
        3 => Target::Queue("queue".into()),
        -1 | -2 => return None,
        -3 => Target::Jump(chain()),
        -4 => Target::Goto(chain()),
        -5 => Target::Return,
        other => Target::Other(format!("verdict {other}")),
    })
}

impl Draft {
    /// An expression that acts; `None` when it is none of those.
    pub(super) fn act(&mut self, name: &[u8], a: Attributes<'_>, table: &Table<'_>) -> Option<()> {
        let words = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        let target = match name {
            b"nat" => {
                const NFT_NAT_DNAT: u32 = 1;
                let mut to = self.translation(a.u32(7), (a.u32(5), a.u32(6)));
                let family = a.u32(2).map(|f| if f == 10 { Family::Ipv6 } else { Family::Ipv4 })?;
                let constant = |register| self.registers.one(register).and_then(Value::as_constant);
                if let Some(first) = constant(a.u32(3)) {
                    let last = constant(a.u32(4)).unwrap_or(first);
                    let ends = comparison::address(first, family).zip(comparison::address(last, family));
                    to.addresses = ends.map(|(first, last)| IpRange { first, last });
                }
                if a.u32(1) == Some(NFT_NAT_DNAT) { Target::Dnat(to) } else { Target::Snat(to) }
            }
            b"masq" => {
                let to = self.translation(a.u32(1), (a.u32(2), a.u32(3)));
                Target::Masquerade { ports: to.ports, random: to.random }
            }
            b"redir" => {
                let to = self.translation(a.u32(3), (a.u32(1), a.u32(2)));
                Target::Redirect { ports: to.ports, random: to.random }
            }
            b"reject" => Target::Reject { with: reject(a.u32(1)?, a.u8(2), table) },
            b"notrack" => Target::Notrack,
            b"queue" => {
                let number = a.get(1).and_then(|n| comparison::number(n, false));
                Target::Queue(number.map_or("queue".into(), |n| format!("queue to {n}")))
            }
            b"log" => Target::Log(match (a.text(2), a.get(1)) {
                (Some(prefix), _) => format!("log prefix \"{prefix}\""),
                (None, Some(_)) => "log to a group".to_owned(),
                (None, None) => "log".to_owned(),
            }),
            b"tproxy" => {
                let port = self.registers.one(a.u32(3)).and_then(Value::as_constant);
                let port = port
                    .and_then(|p| comparison::number(p, false))
                    .map_or(String::new(), |p| format!(":{p}"));
                Target::Tproxy(format!("tproxy to {port}"))
            }
            b"meta" | b"ct" | b"payload" | b"exthdr" => self.set_field(name, a)?,
            b"flow_offload" => Target::Log(format!("flow add @{}", a.text(1).unwrap_or_default())),
            b"dup" | b"last" | b"counter" => Target::Log(words(name)),
            b"target" => {
                let (name, info) = (a.text(1)?, a.get(3).unwrap_or_default());
                xt::target(&name, a.u32(2).unwrap_or(0), info, table.family).unwrap_or_else(|| {
                    self.opaque = true;
                    xt::unknown_target(&name)
                })
            }
            _ => return None,
        };
        self.actions.push(target);
        Some(())
    }

    fn translation(&self, flags: Option<u32>, ports: (Option<u32>, Option<u32>)) -> NatTo {
        let port = |register| {
            let bytes = self.registers.one(register).and_then(Value::as_constant)?;
            Some(u16::from_be_bytes(*bytes.first_chunk()?))
        };
        let first = port(ports.0);
        let flags = flags.unwrap_or(0);
        NatTo {
            addresses: None,
            ports: first.map(|first| PortRange { first, last: port(ports.1).unwrap_or(first) }),
            random: flags & (NF_NAT_RANGE_PROTO_RANDOM | NF_NAT_RANGE_PROTO_RANDOM_FULLY) != 0,
            persistent: flags & NF_NAT_RANGE_PERSISTENT != 0,
        }
    }

    /// A field of the packet or its connection is written.
    fn set_field(&self, name: &[u8], a: Attributes<'_>) -> Option<Target> {
        match name {
            b"meta" => {
                let (key, value) = (a.u32(2)?, self.registers.one(Some(a.u32(3)?)));
                let says = || format!("{} set {}", words::meta(key), value.map_or("?".into(), words::value));
                Some(if key == META_MARK {
                    value.and_then(mark).unwrap_or_else(|| Target::Other(says()))
                } else {
                    Target::Log(says())
                })
            }
            b"ct" => {
                let (key, value) = (a.u32(2)?, self.registers.one(Some(a.u32(4)?)));
                let says =
                    || format!("{} set {}", words::ct(key, None), value.map_or("?".into(), words::value));
                Some(match (key, value.map(connmark)) {
                    (CT_MARK, Some(Some(op))) => Target::Connmark(op),
                    (CT_MARK, _) => Target::Other(says()),
                    _ => Target::Ct(says()),
                })
            }
            b"payload" => {
                let value = self.registers.one(Some(a.u32(5)?));
                let (base, offset, length) = (a.u32(2)?, a.u32(3)?, a.u32(4)? as usize);
                let text = format!(
                    "{} set {}",
                    words::payload(base, offset, length),
                    value.map_or("?".into(), words::value)
                );
                // TTL is written with the byte behind it, for the checksum.
                if let (1, Some((_, name))) = (
                    base,
                    [(8, "ip ttl"), (6, "ip6 hoplimit"), (7, "ip6 hoplimit")]
                        .iter()
                        .find(|(at, _)| *at == offset),
                ) {
                    return Some(Target::Log(format!(
                        "{name} set {}",
                        value.map_or("?".into(), words::value)
                    )));
                }
                // The first bytes of IP are type of service and the like, which no other rule's way depends on.
                Some(if base == 1 && offset < 2 { Target::Log(text) } else { Target::Other(text) })
            }
            b"exthdr" => {
                let value = self.registers.one(Some(a.u32(7)?));
                let constant =
                    value.and_then(Value::as_constant).and_then(|bytes| comparison::number(bytes, false));
                let is_mss = a.u32(6) == Some(1) && a.u8(2) == Some(TCP_OPTION_MSS);
                let mss = constant.and_then(|mss| u16::try_from(mss).ok());
                Some(if is_mss { Target::TcpMss(mss) } else { Target::Log("option set".into()) })
            }
            _ => None,
        }
    }
}

/// `meta mark set` to a value of a register.
fn mark(value: &Value) -> Option<Target> {
    if let Some(constant) = value.as_constant() {
        return Some(Target::Mark { value: comparison::number(constant, true)?, mask: u32::MAX });
    }
    let (and, xor) = masks(value)?;
    match &value.source {
        Source::Meta(META_MARK) => Some(Target::Mark { value: xor, mask: !and }),
        Source::Ct { key: CT_MARK, .. } if xor == 0 => {
            Some(Target::Connmark(ConnmarkOp::Restore { ct_mask: and, mask: u32::MAX }))
        }
        _ => None,
    }
}

fn connmark(value: &Value) -> Option<ConnmarkOp> {
    if let Some(constant) = value.as_constant() {
        return Some(ConnmarkOp::Set { value: comparison::number(constant, true)?, mask: u32::MAX });
    }
    let (and, xor) = masks(value)?;
    match &value.source {
        Source::Meta(META_MARK) if xor == 0 => Some(ConnmarkOp::Save { ct_mask: u32::MAX, mask: and }),
        Source::Ct { key: CT_MARK, .. } => Some(ConnmarkOp::Set { value: xor, mask: !and }),
        _ => None,
    }
}

/// `(x & first) ^ second`, of four bytes in the machine's order.
fn masks(value: &Value) -> Option<(u32, u32)> {
    let number =
        |bytes: &[u8], empty| if bytes.is_empty() { Some(empty) } else { comparison::number(bytes, true) };
    (value.length == 4).then_some(())?;
    Some((number(&value.and, u32::MAX)?, number(&value.xor, 0)?))
}

/// In the words of the tool the rule is from.
fn reject(kind: u32, code: Option<u8>, table: &Table<'_>) -> String {
    const ICMP: [(u8, &str); 7] = [
        (0, "net-unreachable"),
        (1, "host-unreachable"),
        (2, "prot-unreachable"),
        (3, "port-unreachable"),
        (9, "net-prohibited"),
        (10, "host-prohibited"),
        (13, "admin-prohibited"),
    ];
    const ICMPV6: [(u8, &str); 6] = [
        (0, "no-route"),
        (1, "admin-prohibited"),
        (3, "addr-unreachable"),
        (4, "port-unreachable"),
        (5, "policy-fail"),
        (6, "reject-route"),
    ];
    const ICMPX: [(u8, &str); 4] =
        [(0, "no-route"), (1, "port-unreachable"), (2, "host-unreachable"), (3, "admin-prohibited")];
    let six = table.family == Some(Family::Ipv6);
    let (kind, names): (&str, &[_]) = match kind {
        1 => return if table.iptables { "tcp-reset".into() } else { "tcp reset".into() },
        0 if six && table.iptables => ("icmp6", &ICMPV6),
        0 if six => ("icmpv6", &ICMPV6),
        0 => ("icmp", &ICMP),
        _ => ("icmpx", &ICMPX),
    };
    let name = code.and_then(|code| names.iter().find(|(c, _)| *c == code)).map_or("", |(_, name)| name);
    let between = if table.iptables { "-" } else { " " };
    format!("{kind}{between}{name}")
}
