// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `ipset save` prints, read: for nodes described by files rather than asked.

use std::collections::BTreeMap;

use super::iptables::words;
use super::rule::{IpRange, PortRange};
use super::set::{IpSet, Member, MemberField};
use crate::text::printable;

/// Members that are kept of one set.
const MAX_MEMBERS: usize = 262_144;

/// Sets by name. Lines that are not understood are passed over.
pub fn parse_ipset_save(text: &str) -> BTreeMap<String, IpSet> {
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
    text.parse::<crate::node::IpPrefix>().ok().map(IpRange::from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn kinds_of_members() {
        let sets = parse_ipset_save(
            "create a hash:net,port family inet hashsize 1024\n\
             add a 10.0.0.0/8,tcp:80-90 nomatch\nadd a 0.0.0.0/0,icmp:echo-request\n\
             create l list:set size 8\nadd l a\ncreate six hash:ip family inet6\nadd six fd00::1 timeout 3\n\
             add none 1.1.1.1\njunk",
        );
        let a = &sets["a"];
        let ports = MemberField::Port { proto: 6, ports: PortRange { first: 80, last: 90 } };
        assert!(a.members[0].nomatch && a.members[0].fields[1] == ports);
        assert_eq!(a.members[1].fields[1], MemberField::Other("icmp:echo-request".into()));
        assert_eq!(sets["l"].members[0].fields, [MemberField::Set("a".into())]);
        assert!(sets["six"].ipv6);
        assert_eq!(sets.len(), 3);
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "((create|add) [ab] (hash:[a-z,]{0,9}|.{0,20})\n){0,6}") {
            let _ = parse_ipset_save(&text);
        }
    }
}
