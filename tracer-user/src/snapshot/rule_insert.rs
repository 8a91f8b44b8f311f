// SPDX-License-Identifier: MIT OR Apache-2.0
//! A rule that is put into a chain: what it does to what was read, and the command that does it.

use std::net::IpAddr;
use std::sync::Arc;

use super::model::NetnsEvidence;
use crate::firewall::{Backend, Criterion, IpRange, Match, PortRange, Rule, RuleRef, TableFamily, Target};

/// Accepts what goes between two addresses, as one direction of a flow.
pub(crate) fn accepting(
    backend: Backend,
    (source, destination): (IpAddr, IpAddr),
    proto: u8,
    (sport, dport): (Option<u16>, Option<u16>),
) -> Rule {
    let nft = backend == Backend::Nft;
    let ip = if source.is_ipv6() { "ip6" } else { "ip" };
    let one = |address: IpAddr| vec![IpRange { first: address, last: address }];
    let mut what = vec![Criterion::Source(one(source)), Criterion::Destination(one(destination))];
    let mut words = if nft {
        format!("{ip} saddr {source} {ip} daddr {destination}")
    } else {
        format!("-s {source} -d {destination}")
    };
    if let Some(name) = [(6, "tcp"), (17, "udp")].into_iter().find(|(p, _)| *p == proto).map(|(_, name)| name)
    {
        what.push(Criterion::Protocol(vec![proto]));
        if !nft {
            words += &format!(" -p {name}");
        }
        let ports = |port: u16| vec![PortRange::one(port)];
        if let Some(port) = sport {
            what.push(Criterion::SourcePort(ports(port)));
            words += &if nft { format!(" {name} sport {port}") } else { format!(" --sport {port}") };
        }
        if let Some(port) = dport {
            what.push(Criterion::DestinationPort(ports(port)));
            words += &if nft { format!(" {name} dport {port}") } else { format!(" --dport {port}") };
        }
    }
    written(what, Target::Accept, words + if nft { " accept" } else { " -j ACCEPT" })
}

/// Accepts packets with exactly this mark (iptables).
pub(crate) fn accepting_mark(mark: u32) -> Rule {
    let what = vec![Criterion::Mark { value: mark, mask: u32::MAX }];
    written(what, Target::Accept, format!("-m mark --mark {mark:#x} -j ACCEPT"))
}

/// Replaces marks of a group by one (iptables).
pub(crate) fn replacing_mark((value, mask): (u32, u32), by: u32) -> Rule {
    let what = vec![Criterion::Mark { value, mask }];
    let target = Target::Mark { value: by, mask: u32::MAX };
    written(what, target, format!("-m mark --mark {value:#x}/{mask:#x} -j MARK --set-mark {by:#x}"))
}

/// Jumps to a chain (iptables).
pub(crate) fn jumping(chain: &str) -> Rule {
    written(Vec::new(), Target::Jump(chain.to_owned()), format!("-j {chain}"))
}

fn written(what: Vec<Criterion>, target: Target, text: String) -> Rule {
    let matches = what.into_iter().map(|what| Match { negated: false, what }).collect();
    Rule { text, matches, actions: vec![target], ..Rule::default() }
}

pub(super) fn insert_rule(netns: &mut NetnsEvidence, place: &RuleRef, rule: &Rule) {
    for table in Arc::make_mut(&mut netns.rulesets) {
        let same =
            table.family == place.family && table.backend == place.backend && table.name == place.table;
        for chain in table.chains.iter_mut().filter(|chain| same && chain.name == place.chain) {
            let rules = Arc::make_mut(&mut chain.rules);
            let at = rules.iter().position(|rule| rule.number == place.number).unwrap_or(rules.len());
            rules.insert(at, rule.clone());
            for (rule, number) in rules.iter_mut().zip(1..) {
                rule.number = number;
            }
        }
    }
}

pub(super) fn insert_command(place: &RuleRef, rule: &Rule) -> Option<String> {
    let RuleRef { family, table, chain, number, handle, .. } = place;
    let tool = if *family == TableFamily::Ip6 { "ip6tables" } else { "iptables" };
    let tool = match place.backend {
        Backend::Nft if *number == 0 => {
            return Some(format!("nft add rule {family} {table} {chain} {}", rule.text));
        }
        Backend::Nft => {
            return handle.map(|handle| {
                format!("nft insert rule {family} {table} {chain} handle {handle} {}", rule.text)
            });
        }
        Backend::IptablesNft => format!("{tool}-nft"),
        Backend::IptablesLegacy => format!("{tool}-legacy"),
    };
    Some(match number {
        0 => format!("{tool} -t {table} -A {chain} {}", rule.text),
        number => format!("{tool} -t {table} -I {chain} {number} {}", rule.text),
    })
}
