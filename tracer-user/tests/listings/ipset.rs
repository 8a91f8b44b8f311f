// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `ipset save` prints, read: for nodes described by files rather than asked.

use std::collections::BTreeMap;

use super::words;
use tracer_user::firewall::{IpRange, PortRange};
use tracer_user::firewall::{IpSet, Member, MemberField};
use tracer_user::text::printable;

/// Members that are kept of one set.
const MAX_MEMBERS: usize = 262_144;

/// Sets by name. Lines that are not understood are passed over.
pub(crate) fn parse_ipset_save(text: &str) -> BTreeMap<String, IpSet> {
    let mut sets: BTreeMap<String, IpSet> = BTreeMap::new();
    for line in text.lines() {
        let mut parts = line.split_whitespace();
        match (parts.next(), parts.next(), parts.next()) {
            (Some("create"), Some(name), Some(kind)) => {
                let name = printable(name);
                let ipv6 = line.contains(" family inet6");
                let set = IpSet { name: name.clone(), kind: printable(kind), ipv6, ..IpSet::default() };
                sets.insert(name, set);
            }
            (Some("add"), Some(name), Some(member)) => {
                let Some(set) = sets.get_mut(&printable(name)) else { continue };
                if set.members.len() >= MAX_MEMBERS {
                    set.cut += 1;
                    continue;
                }
                let fields = fields(&set.kind, member);
                set.members.push(Member { fields, nomatch: parts.any(|word| word == "nomatch") });
            }
            _ => {}
        }
    }
    sets
}

fn fields(kind: &str, member: &str) -> Vec<MemberField> {
    let kinds = kind.split_once(':').map_or("", |(_, kinds)| kinds).split(',');
    kinds
        .zip(member.split(','))
        .map(|(kind, text)| field(kind, text).unwrap_or_else(|| MemberField::Other(printable(text))))
        .collect()
}

fn field(kind: &str, text: &str) -> Option<MemberField> {
    Some(match kind {
        "ip" | "net" => MemberField::Address(address(text)?),
        "port" => {
            let (proto, ports) = match text.split_once(':') {
                Some((proto, ports)) => (words::protocol(proto)?, ports),
                None => (0, text),
            };
            let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
            let ports = PortRange { first: first.parse().ok()?, last: last.parse().ok()? };
            MemberField::Port { proto, ports }
        }
        "mac" => MemberField::Mac(words::mac(text)?),
        "iface" => MemberField::Device(printable(text)),
        "mark" => MemberField::Mark { value: words::number(text)? },
        "set" => MemberField::Set(printable(text)),
        _ => return None,
    })
}

fn address(text: &str) -> Option<IpRange> {
    if text.contains('-') {
        return words::address_range(text);
    }
    text.parse::<tracer_user::node::IpPrefix>().ok().map(IpRange::from)
}
