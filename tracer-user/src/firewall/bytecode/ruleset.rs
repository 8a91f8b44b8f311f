// SPDX-License-Identifier: MIT OR Apache-2.0
//! Chains, sets and rules of all tables, from the messages of a dump.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::decode::{self, Draft};
use super::sets::{NFTA_SET_NAME, NFTA_SET_TABLE, Set};
use super::wire::{self, Attributes};
use crate::firewall::iptables;
use crate::firewall::rule::{Backend, Base, Chain, Policy, Rule, Table, TableFamily};
use crate::firewall::set::IpSet;
use crate::node::netlink::text;
use crate::node::{Family, Hook};

// include/uapi/linux/netfilter/nf_tables.h
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_HOOK_DEV: u16 = 3;
const NFTA_HOOK_DEVS: u16 = 4;
/// NF_NETDEV_EGRESS; NF_NETDEV_INGRESS is 0.
const NETDEV_EGRESS: u32 = 1;
const NF_INET_INGRESS: u32 = 5;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_HANDLE: u16 = 3;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_RULE_USERDATA: u16 = 7;
const NF_DROP: u32 = 0;

/// Rules that are kept, what maps make of them included.
const MAX_RULES: usize = 400_000;

/// Payloads of the kernel's messages, struct nfgenmsg first: what has to be known before rules are read.
#[derive(Clone, Debug, Default)]
pub struct Dump {
    pub chains: Vec<Vec<u8>>,
    pub sets: Vec<Vec<u8>>,
    pub elements: Vec<Vec<u8>>,
}

/// What only the machine knows.
pub struct Outside<'o> {
    /// A device's name by its number.
    pub device: &'o dyn Fn(u32) -> Option<String>,
    /// An ipset's name by its number.
    pub ipset: &'o dyn Fn(u16) -> Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    pub tables: Vec<Table>,
    /// By `FAMILY TABLE NAME`.
    pub sets: BTreeMap<String, IpSet>,
    /// Rules beyond the limit.
    pub cut: usize,
    /// Families in which a rule of iptables has an extension that was not understood.
    pub opaque: Vec<TableFamily>,
}

/// A set as requests name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetKey {
    /// NFPROTO_*.
    pub family: u8,
    /// With the zero at its end.
    pub table: Vec<u8>,
    pub name: Vec<u8>,
}

/// Of which set a message of a dump of sets is.
pub fn set_key(payload: &[u8]) -> Option<SetKey> {
    let (fixed, rest) = payload.split_at_checked(4)?;
    let rest = Attributes(rest);
    let raw = |kind| rest.get(kind).map(<[u8]>::to_vec);
    Some(SetKey { family: fixed[0], table: raw(NFTA_SET_TABLE)?, name: raw(NFTA_SET_NAME)? })
}

type TableKey = (TableFamily, String);

type Sets = FxHashMap<TableKey, FxHashMap<String, Set>>;

/// Reads rules, one message after the other. Those of arp are passed over.
pub struct Reader {
    out: Ruleset,
    sets: Sets,
    none: FxHashMap<String, Set>,
    /// Places of chains.
    places: FxHashMap<TableFamily, FxHashMap<String, TableIndex>>,
    rules: usize,
}

#[derive(Default)]
struct TableIndex {
    table: usize,
    chains: FxHashMap<String, usize>,
}

fn family(fixed: u8) -> Option<TableFamily> {
    match i32::from(fixed) {
        libc::NFPROTO_IPV4 => Some(TableFamily::Ip),
        libc::NFPROTO_IPV6 => Some(TableFamily::Ip6),
        libc::NFPROTO_INET => Some(TableFamily::Inet),
        libc::NFPROTO_BRIDGE => Some(TableFamily::Bridge),
        libc::NFPROTO_NETDEV => Some(TableFamily::Netdev),
        _ => None,
    }
}

fn message(payload: &[u8]) -> Option<(TableFamily, Attributes<'_>)> {
    let (fixed, rest) = payload.split_at_checked(4)?;
    Some((family(fixed[0])?, Attributes(rest)))
}

fn sets(dump: &Dump) -> Sets {
    let mut out = Sets::default();
    for (family, set) in dump.sets.iter().filter_map(|payload| message(payload)) {
        if let Some((table, set)) = set.text(NFTA_SET_TABLE).zip(Set::parse(set)) {
            out.entry((family, table)).or_default().insert(set.name.clone(), set);
        }
    }
    for (family, elements) in dump.elements.iter().filter_map(|payload| message(payload)) {
        let Some(table) = elements.text(NFTA_SET_TABLE) else { continue };
        let set = elements.text(NFTA_SET_NAME).and_then(|name| out.get_mut(&(family, table))?.get_mut(&name));
        if let Some(set) = set {
            set.extend(elements);
        }
    }
    out
}

impl Reader {
    pub fn new(dump: &Dump) -> Self {
        let mut reader = Self {
            out: Ruleset::default(),
            sets: sets(dump),
            none: FxHashMap::default(),
            places: FxHashMap::default(),
            rules: 0,
        };
        for message in &dump.chains {
            reader.chain(message);
        }
        for table in &mut reader.out.tables {
            table.backend = if iptables::made(table) { Backend::IptablesNft } else { Backend::Nft };
        }
        for ((family, table), sets) in &mut reader.sets {
            for set in sets.values_mut() {
                set.finish();
                // Maps are followed; what is asked for by its members is a set.
                if !set.is_anonymous() && !set.is_map() {
                    let name = format!("{family} {table} {}", set.name);
                    reader.out.sets.insert(name.clone(), set.to_ipset(name));
                }
            }
        }
        reader
    }

    pub fn finish(self) -> Ruleset {
        self.out
    }

    fn chain(&mut self, payload: &[u8]) {
        let Some((family, chain)) = message(payload) else { return };
        let Some((table, name)) = chain.text(NFTA_CHAIN_TABLE).zip(chain.text(NFTA_CHAIN_NAME)) else {
            return;
        };
        let tables = &mut self.out.tables;
        let place = self.places.entry(family).or_default().entry(table.clone()).or_insert_with(|| {
            tables.push(Table { family, backend: Backend::Nft, name: table, chains: Vec::new() });
            TableIndex { table: tables.len() - 1, chains: FxHashMap::default() }
        });
        let Some(table) = tables.get_mut(place.table) else { return };
        let base = base(family, chain);
        place.chains.insert(name.clone(), table.chains.len());
        table.chains.push(Chain { name, base, rules: Arc::default() });
    }

    /// The payload of one message of a dump of rules.
    pub fn rule(&mut self, payload: &[u8], outside: &Outside<'_>) {
        // One that is damaged, or of a chain that is none of ours.
        let _ = self.take(payload, outside);
    }

    fn take(&mut self, payload: &[u8], outside: &Outside<'_>) -> Option<()> {
        let (family, rule) = message(payload)?;
        let name = rule.text(NFTA_RULE_TABLE)?;
        let place = self.places.get(&family)?.get(&name)?;
        let table = self.out.tables.get_mut(place.table)?;
        let chain = *place.chains.get(&rule.text(NFTA_RULE_CHAIN)?)?;
        let iptables = table.backend == Backend::IptablesNft;
        let prefix = format!("{family} {name} ");
        let of = decode::Table {
            prefix: &prefix,
            family: match family {
                TableFamily::Ip => Some(Family::Ipv4),
                TableFamily::Ip6 => Some(Family::Ipv6),
                TableFamily::Inet | TableFamily::Bridge | TableFamily::Netdev => None,
            },
            sets: self.sets.get(&(family, name)).unwrap_or(&self.none),
            outside,
            iptables,
        };
        let expressions = rule.get(NFTA_RULE_EXPRESSIONS).unwrap_or_default();
        let drafts = decode::rules(expressions, &of, &mut self.out.sets);
        let chain = table.chains.get_mut(chain)?;
        // All that a rule becomes has one number.
        let number = chain.rules.last().map_or(1, |last| last.number.saturating_add(1));
        let handle = rule.u64(NFTA_RULE_HANDLE).filter(|_| !iptables);
        let comment = rule.get(NFTA_RULE_USERDATA).and_then(wire::comment);
        for draft in drafts {
            self.rules += 1;
            if self.rules > MAX_RULES {
                self.out.cut += 1;
                continue;
            }
            if draft.opaque && iptables && !self.out.opaque.contains(&family) {
                self.out.opaque.push(family);
            }
            let maps: String = draft.maps.iter().map(|map| format!(", of map {map}")).collect();
            let mut rule = draft.rule();
            rule.comments.extend(comment.clone());
            rule.number = number;
            rule.handle = handle;
            rule.text = if iptables { iptables::print(&chain.name, &rule) } else { rule.in_words() + &maps };
            Arc::make_mut(&mut chain.rules).push(rule);
        }
        Some(())
    }
}

impl Draft {
    fn rule(self) -> Rule {
        Rule {
            comments: self.comments,
            matches: self.matches,
            actions: self.actions,
            counters: self.counters,
            ..Rule::default()
        }
    }
}

fn base(family: TableFamily, chain: Attributes<'_>) -> Option<Base> {
    let at = chain.nested(NFTA_CHAIN_HOOK)?;
    let number = at.u32(NFTA_HOOK_HOOKNUM)?;
    let hook = match family {
        TableFamily::Netdev if number == NETDEV_EGRESS => Hook::Postrouting,
        TableFamily::Netdev => Hook::Prerouting,
        TableFamily::Inet if number == NF_INET_INGRESS => Hook::Prerouting,
        _ => u8::try_from(number).ok().and_then(Hook::parse)?,
    };
    let many = at.nested(NFTA_HOOK_DEVS).into_iter().flat_map(|all| all.each().map(|(_, name)| text(name)));
    let mut devices: Vec<String> = at.text(NFTA_HOOK_DEV).into_iter().chain(many).collect();
    devices.sort();
    devices.dedup();
    Some(Base {
        hook,
        priority: at.u32(NFTA_HOOK_PRIORITY)? as i32,
        kind: chain.text(NFTA_CHAIN_TYPE).unwrap_or_default(),
        policy: if chain.u32(NFTA_CHAIN_POLICY) == Some(NF_DROP) { Policy::Drop } else { Policy::Accept },
        devices,
    })
}
