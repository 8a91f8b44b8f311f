// SPDX-License-Identifier: MIT OR Apache-2.0
//! What rules do.

use super::structs::Struct;
use crate::firewall::iptables::is_passing;
use crate::firewall::rule::{ConnmarkOp, IpRange, NatTo, PortRange, Target};
use crate::node::Family;
use crate::text::printable;

// include/uapi/linux/netfilter/nf_nat.h
const NF_NAT_RANGE_MAP_IPS: u32 = 1;
const NF_NAT_RANGE_PROTO_SPECIFIED: u32 = 2;
const NF_NAT_RANGE_PROTO_RANDOM: u32 = 4;
const NF_NAT_RANGE_PERSISTENT: u32 = 8;
const NF_NAT_RANGE_PROTO_RANDOM_FULLY: u32 = 16;

/// `None`: not understood.
pub(in crate::firewall) fn target(
    name: &str,
    revision: u32,
    info: &[u8],
    family: Option<Family>,
) -> Option<Target> {
    let s = Struct(info);
    Some(match (name, revision) {
        ("MARK", 2) => Target::Mark { value: s.u32(0)?, mask: s.u32(4)? },
        ("CONNMARK", 1 | 2) => Target::Connmark(connmark(s, revision)?),
        ("DNAT", _) => Target::Dnat(nat(s, revision, family?)?),
        ("SNAT", _) => Target::Snat(nat(s, revision, family?)?),
        ("MASQUERADE", 0) => {
            let to = nat(s, revision, family?)?;
            Target::Masquerade { ports: to.ports, random: to.random }
        }
        ("REDIRECT", 0) => {
            let to = nat(s, revision, family?)?;
            Target::Redirect { ports: to.ports, random: to.random }
        }
        ("REJECT", 0) => Target::Reject { with: reject(s.u32(0)?, family?)?.to_owned() },
        ("NOTRACK", _) => Target::Notrack,
        ("CT", 0..=2) if s.u16(0)? & 1 != 0 => Target::Notrack,
        ("TCPMSS", 0) => {
            const TO_PATH: u16 = 0xffff;
            let mss = s.u16(0)?;
            Target::TcpMss((mss != TO_PATH).then_some(mss))
        }
        ("LOG", _) => Target::Log(match printable(s.text(2, 30)?) {
            prefix if prefix.is_empty() => "LOG".to_owned(),
            prefix => format!("LOG --log-prefix {prefix}"),
        }),
        ("CT", 0..=2) => Target::Ct(format!("CT --zone {}", s.u16(2)?)),
        ("TPROXY", 1) => tproxy(s, family?)?,
        ("TTL" | "HL", _) => {
            // struct ipt_TTL_info, ip6t_HL_info.
            let mode = ["set", "inc", "dec"].get(usize::from(s.u8(0)?))?;
            Target::Log(format!("{name} --{}-{mode} {}", name.to_lowercase(), s.u8(1)?))
        }
        ("NFQUEUE", _) => Target::Queue(format!("NFQUEUE --queue-num {}", s.u16(0)?)),
        // Nobody's way depends on their options.
        (name, _) if is_passing(name) => Target::Log(printable(name)),
        _ => return None,
    })
}

/// struct xt_tproxy_target_info_v1.
fn tproxy(s: Struct<'_>, family: Family) -> Option<Target> {
    let (mask, value) = (s.u32(0)?, s.u32(4)?);
    let (address, port) = (s.address(8, family)?, s.be16(24)?);
    Some(Target::Tproxy(format!(
        "TPROXY --on-port {port} --on-ip {address} --tproxy-mark {value:#x}/{mask:#x}"
    )))
}

/// struct xt_connmark_tginfo1, 2.
fn connmark(s: Struct<'_>, revision: u32) -> Option<ConnmarkOp> {
    let (value, ct_mask, mask) = (s.u32(0)?, s.u32(4)?, s.u32(8)?);
    let mode = if revision == 1 { s.u8(12)? } else { s.u8(14)? };
    // Bits that are shifted.
    if revision == 2 && s.u8(13)? != 0 {
        return None;
    }
    Some(match mode {
        0 => ConnmarkOp::Set { value, mask: ct_mask },
        1 => ConnmarkOp::Save { ct_mask, mask },
        2 => ConnmarkOp::Restore { ct_mask, mask },
        _ => return None,
    })
}

/// struct nf_nat_ipv4_multi_range_compat (revision 0 with IPv4), else nf_nat_range or nf_nat_range2.
fn nat(s: Struct<'_>, revision: u32, family: Family) -> Option<NatTo> {
    let compat = revision == 0 && family == Family::Ipv4;
    let (flags, addresses, ports) = if compat { (s.u32(4)?, (8, 12), 16) } else { (s.u32(0)?, (4, 20), 36) };
    let has = |bit: u32| flags & bit != 0;
    let range =
        || Some(IpRange { first: s.address(addresses.0, family)?, last: s.address(addresses.1, family)? });
    let port = || Some(PortRange { first: s.be16(ports)?, last: s.be16(ports + 2)? });
    Some(NatTo {
        addresses: if has(NF_NAT_RANGE_MAP_IPS) { Some(range()?) } else { None },
        ports: if has(NF_NAT_RANGE_PROTO_SPECIFIED) { Some(port()?) } else { None },
        random: has(NF_NAT_RANGE_PROTO_RANDOM) || has(NF_NAT_RANGE_PROTO_RANDOM_FULLY),
        persistent: has(NF_NAT_RANGE_PERSISTENT),
    })
}

/// enum ipt_reject_with, ip6t_reject_with, as `--reject-with` takes them.
fn reject(with: u32, family: Family) -> Option<&'static str> {
    let names: &[&str] = match family {
        Family::Ipv4 => &[
            "icmp-net-unreachable",
            "icmp-host-unreachable",
            "icmp-proto-unreachable",
            "icmp-port-unreachable",
            "echo-reply",
            "icmp-net-prohibited",
            "icmp-host-prohibited",
            "tcp-reset",
            "icmp-admin-prohibited",
        ],
        Family::Ipv6 => &[
            "icmp6-no-route",
            "icmp6-adm-prohibited",
            "icmp6-not-neighbour",
            "icmp6-addr-unreachable",
            "icmp6-port-unreachable",
            "echo-reply",
            "tcp-reset",
            "icmp6-policy-fail",
            "icmp6-reject-route",
        ],
    };
    names.get(usize::try_from(with).ok()?).copied()
}
