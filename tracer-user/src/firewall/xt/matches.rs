// SPDX-License-Identifier: MIT OR Apache-2.0
//! Conditions.

use super::structs::Struct;
use crate::firewall::bytecode::{Outside, address_type};
use crate::firewall::packet::{CtDirection, CtState};
use crate::firewall::rule::{Criterion, IpRange, Match, PortRange, Side};
use crate::node::Family;
use crate::text::printable;

pub(in crate::firewall) enum Read {
    /// All must hold; none: it always holds.
    Matches(Vec<Match>),
    Comment(String),
}

/// What a match of this name and revision asks for. `None`: not understood.
pub(in crate::firewall) fn matches(
    name: &str,
    revision: u32,
    info: &[u8],
    family: Option<Family>,
    outside: &Outside<'_>,
) -> Option<Read> {
    let s = Struct(info);
    let found = match (name, revision) {
        ("comment", _) => return s.text(0, info.len().min(256)).map(|text| Read::Comment(printable(text))),
        ("tcp", 0) => tcp(s)?,
        ("udp", 0) => ports(s, s.u8(8)?)?,
        ("icmp" | "icmp6", 0) => icmp(s)?,
        ("conntrack", 1..=3) => conntrack(s, revision)?,
        ("state", 0) => vec![plain(Criterion::CtState(states(s.u32(0)?, 64)?))],
        ("mark", 1) => vec![m(s.u8(8)? != 0, Criterion::Mark { value: s.u32(0)?, mask: s.u32(4)? })],
        ("connmark", 1) => vec![m(s.u8(8)? != 0, Criterion::Connmark { value: s.u32(0)?, mask: s.u32(4)? })],
        ("addrtype", 1) => addrtype(s)?,
        ("set", 1..=4) => vec![set(s, revision, outside)?],
        ("mac", 0) => vec![m(s.u32(8)? != 0, Criterion::SourceMac(s.bytes(0)?))],
        ("multiport", 1) => vec![multiport(s)?],
        ("statistic", 0) => vec![statistic(s)?],
        ("owner", 1) => owner(s)?,
        ("iprange", 1) => iprange(s, family?)?,
        ("physdev", 0) => physdev(s)?,
        ("recent", 0 | 1) => recent(s)?,
        ("rpfilter", 0) => {
            const NAMES: [(u8, &str); 4] =
                [(1, "--loose"), (2, "--validmark"), (4, "--accept-local"), (8, "--invert")];
            flags("rpfilter", s.u8(0)?, &NAMES)?
        }
        ("socket", 1..=3) => {
            flags("socket", s.u8(0)?, &[(1, "--transparent"), (2, "--nowildcard"), (4, "--restore-skmark")])?
        }
        ("tcpmss", 0) => vec![words("tcpmss", s.u8(4)? != 0, &format!("--mss {}:{}", s.u16(0)?, s.u16(2)?))],
        ("length", 0) => {
            vec![m(s.u8(4)? != 0, Criterion::Length(vec![(s.u16(0)?.into(), s.u16(2)?.into())]))]
        }
        ("ttl" | "hl", 0) => vec![ttl(s)?],
        _ => return None,
    };
    Some(Read::Matches(found))
}

fn m(negated: bool, what: Criterion) -> Match {
    Match { negated, what }
}

fn plain(what: Criterion) -> Match {
    m(false, what)
}

/// struct xt_tcp.
fn tcp(s: Struct<'_>) -> Option<Vec<Match>> {
    const OPTION: u8 = 8;
    const FLAGS: u8 = 4;
    let (option, mask, value, inverted) = (s.u8(8)?, s.u8(9)?, s.u8(10)?, s.u8(11)?);
    if option != 0 || inverted & OPTION != 0 {
        return None;
    }
    let mut out = ports(s, inverted & 3)?;
    if mask != 0 || value != 0 || inverted & FLAGS != 0 {
        out.push(m(inverted & FLAGS != 0, Criterion::TcpFlags { mask, value }));
    }
    Some(out)
}

/// `u16 spts[2], dpts[2]`, as struct xt_tcp and xt_udp begin. Bits 0 and 1 of `inverted`: source, destination.
fn ports(s: Struct<'_>, inverted: u8) -> Option<Vec<Match>> {
    let mut out = Vec::new();
    for (at, bit, what) in
        [(0, 1, Criterion::SourcePort as fn(Vec<PortRange>) -> _), (4, 2, Criterion::DestinationPort)]
    {
        let range = PortRange { first: s.u16(at)?, last: s.u16(at + 2)? };
        let negated = inverted & bit != 0;
        if negated || (range.first, range.last) != (0, u16::MAX) {
            out.push(m(negated, what(vec![range])));
        }
    }
    Some(out)
}

/// struct ipt_icmp, ip6t_icmp.
fn icmp(s: Struct<'_>) -> Option<Vec<Match>> {
    const ANY: u8 = 255;
    let (kind, first, last, inverted) = (s.u8(0)?, s.u8(1)?, s.u8(2)?, s.u8(3)? & 1 != 0);
    if kind == ANY {
        return (!inverted).then(Vec::new);
    }
    let codes = ((first, last) != (0, u8::MAX)).then_some((first, last));
    Some(vec![m(inverted, Criterion::Icmp { kind, codes })])
}

/// struct xt_conntrack_mtinfo1 to 3: what is asked for lies at the same place in all.
fn conntrack(s: Struct<'_>, revision: u32) -> Option<Vec<Match>> {
    const STATE: u16 = 1;
    const DIRECTION: u16 = 1 << 12;
    /// It was asked for as "state".
    const ALIAS: u16 = 1 << 13;
    let (asked, inverted) = (s.u16(146)?, s.u16(148)?);
    if asked & !(STATE | DIRECTION | ALIAS) != 0 {
        return None;
    }
    let mut out = Vec::new();
    if asked & STATE != 0 {
        let bits = if revision == 1 { u32::from(s.u8(150)?) } else { u32::from(s.u16(150)?) };
        out.push(m(inverted & STATE != 0, Criterion::CtState(states(bits, 256)?)));
    }
    if asked & DIRECTION != 0 {
        let direction = if inverted & DIRECTION != 0 { CtDirection::Reply } else { CtDirection::Original };
        out.push(plain(Criterion::CtDirection(direction)));
    }
    Some(out)
}

/// XT_CONNTRACK_STATE_*; `untracked`: its bit.
fn states(bits: u32, untracked: u32) -> Option<Vec<CtState>> {
    let mut all =
        vec![(1, CtState::Invalid), (8, CtState::New), (4, CtState::Related), (2, CtState::Established)];
    all.push((untracked, CtState::Untracked));
    if untracked == 256 {
        all.extend([(64, CtState::Snat), (128, CtState::Dnat)]);
    }
    let known: u32 = all.iter().map(|(bit, _)| bit).sum();
    let found = all.into_iter().filter(|(bit, _)| bits & bit != 0).map(|(_, state)| state).collect();
    (bits & !known == 0).then_some(found)
}

/// struct xt_addrtype_info_v1.
fn addrtype(s: Struct<'_>) -> Option<Vec<Match>> {
    let flags = s.u32(4)?;
    let device = match flags & 0xc {
        4 => Some(Side::Source),
        8 => Some(Side::Destination),
        _ => None,
    };
    let mut out = Vec::new();
    for (at, bit, side) in [(0, 1, Side::Source), (2, 2, Side::Destination)] {
        let bits = u32::from(s.u16(at)?);
        if bits != 0 {
            let types =
                (0..16).filter(|bit| bits & (1 << bit) != 0).map(address_type).collect::<Option<_>>()?;
            out.push(m(flags & bit != 0, Criterion::AddressType { side, types, limit_iface: device }));
        }
    }
    Some(out)
}

/// struct xt_set_info_match_v1, v3 and v4 begin with the same xt_set_info.
fn set(s: Struct<'_>, revision: u32, outside: &Outside<'_>) -> Option<Match> {
    /// IPSET_FLAG_SKIP_COUNTER_UPDATE and _SUBCOUNTER_UPDATE: bookkeeping only.
    const SKIP: u32 = 1 << 3 | 1 << 4;
    let (index, fields, flags) = (s.u16(0)?, s.u8(2)?, s.u8(3)?);
    // Counters of the set's member are compared, or its exceptions count.
    let compares = match revision {
        3 | 4 => s.u8(8)? != 0 || s.u8(24)? != 0 || s.u32(40)? & !SKIP != 0,
        _ => flags & 0x80 != 0,
    };
    if compares || !(1..=6).contains(&fields) {
        return None;
    }
    let name = (outside.ipset)(index)?;
    let side = |field: u8| if flags & 1 << field != 0 { Side::Source } else { Side::Destination };
    Some(m(flags & 1 != 0, Criterion::Set { name, fields: (1..=fields).map(side).collect() }))
}

/// struct xt_multiport_v1.
fn multiport(s: Struct<'_>) -> Option<Match> {
    let (flags, count, inverted) = (s.u8(0)?, s.u8(1)?, s.u8(47)?);
    let mut out = Vec::new();
    let mut at = 0;
    while at < usize::from(count.min(15)) {
        let first = s.u16(2 + 2 * at)?;
        let is_range = s.u8(32 + at)? != 0;
        at += usize::from(is_range);
        out.push(PortRange { first, last: s.u16(2 + 2 * at)? });
        at += 1;
    }
    let what = match flags {
        0 => Criterion::SourcePort(out),
        1 => Criterion::DestinationPort(out),
        2 => Criterion::EitherPort(out),
        _ => return None,
    };
    Some(m(inverted != 0, what))
}

/// struct xt_statistic_info.
fn statistic(s: Struct<'_>) -> Option<Match> {
    let inverted = if s.u16(2)? & 1 != 0 { "! " } else { "" };
    let text = match s.u16(0)? {
        0 => format!(
            "--mode random {inverted}--probability {:.11}",
            f64::from(s.u32(4)?) / f64::from(1u32 << 31)
        ),
        // nth: every is one less than what was asked for.
        1 => format!("--mode nth {inverted}--every {} --packet {}", u64::from(s.u32(4)?) + 1, s.u32(8)?),
        _ => return None,
    };
    Some(plain(Criterion::Statistic(text)))
}

/// struct xt_owner_match_info: users, and groups by their text.
fn owner(s: Struct<'_>) -> Option<Vec<Match>> {
    const UID: u8 = 1;
    const GID: u8 = 2;
    let (asked, inverted) = (s.u8(16)?, s.u8(17)?);
    (asked & !(UID | GID) == 0).then_some(())?;
    let mut out = Vec::new();
    if asked & UID != 0 {
        out.push(m(inverted & UID != 0, Criterion::OwnerUid { first: s.u32(0)?, last: s.u32(4)? }));
    }
    if asked & GID != 0 {
        let (first, last) = (s.u32(8)?, s.u32(12)?);
        let group = if first == last { first.to_string() } else { format!("{first}-{last}") };
        out.push(words("owner", inverted & GID != 0, &format!("--gid-owner {group}")));
    }
    Some(out)
}

/// What cannot be decided, as iptables prints it.
fn words(module: &str, negated: bool, options: &str) -> Match {
    let not = if negated { "! " } else { "" };
    plain(Criterion::Other(format!("-m {module} {not}{options}")))
}

/// Options that are bits.
fn flags(module: &str, bits: u8, names: &[(u8, &str)]) -> Option<Vec<Match>> {
    let known: u8 = names.iter().map(|(bit, _)| bit).sum();
    let set = names.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect::<Vec<_>>();
    (bits & !known == 0).then(|| vec![words(module, false, &set.join(" "))])
}

/// struct xt_iprange_mtinfo.
fn iprange(s: Struct<'_>, family: Family) -> Option<Vec<Match>> {
    let flags = s.u8(64)?;
    let range = |at| Some(vec![IpRange { first: s.address(at, family)?, last: s.address(at + 16, family)? }]);
    let mut out = Vec::new();
    if flags & 1 != 0 {
        out.push(m(flags & 16 != 0, Criterion::Source(range(0)?)));
    }
    if flags & 2 != 0 {
        out.push(m(flags & 32 != 0, Criterion::Destination(range(32)?)));
    }
    Some(out)
}

/// struct xt_physdev_info: names, and by their text whether there are ports at all.
fn physdev(s: Struct<'_>) -> Option<Vec<Match>> {
    const IN: u8 = 1;
    const OUT: u8 = 2;
    let (inverted, asked) = (s.u8(64)?, s.u8(65)?);
    let name = |at: usize| {
        let mask = s.0.get(at + 16..at + 32)?;
        let name = printable(s.text(at, 16)?);
        // All of the name counts, with the zero at its end, or only its beginning.
        Some(if mask.iter().filter(|byte| **byte != 0).count() > name.len() {
            name
        } else {
            format!("{}+", name.trim_end_matches('+'))
        })
    };
    let mut out = Vec::new();
    if asked & IN != 0 {
        out.push(m(inverted & IN != 0, Criterion::PhysIn(name(0)?)));
    }
    if asked & OUT != 0 {
        out.push(m(inverted & OUT != 0, Criterion::PhysOut(name(32)?)));
    }
    for (bit, option) in [(4, "bridged"), (8, "in"), (16, "out")] {
        if asked & bit != 0 {
            out.push(words("physdev", inverted & bit != 0, &format!("--physdev-is-{option}")));
        }
    }
    Some(out)
}

/// struct ipt_ttl_info, ip6t_hl_info.
fn ttl(s: Struct<'_>) -> Option<Match> {
    let (mode, value) = (s.u8(0)?, s.u8(1)?);
    let range = match mode {
        0 | 1 => (value, value),
        2 => (0, value.checked_sub(1)?),
        3 => (value.checked_add(1)?, u8::MAX),
        _ => return None,
    };
    Some(m(mode == 1, Criterion::Ttl(vec![range])))
}

/// struct xt_recent_mtinfo: one that only remembers the address always holds.
fn recent(s: Struct<'_>) -> Option<Vec<Match>> {
    const SET: u8 = 2;
    let (check_set, inverted) = (s.u8(8)?, s.u8(9)?);
    if check_set & 0x0f == SET && inverted == 0 {
        return Some(Vec::new());
    }
    let name = printable(s.text(10, 200)?);
    Some(vec![plain(Criterion::Statistic(format!("-m recent --name {name}")))])
}
