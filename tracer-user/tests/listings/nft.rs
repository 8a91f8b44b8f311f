// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tables, chains, sets and rules of the listing.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use serde_json::{Deserializer, Value};

use super::actions;
use super::fields::{Key, Sets};
use super::values::{self, short};
use tracer_user::firewall::{Backend, Base, Chain, Counters, Match, Policy, Rule, Table, TableFamily};
use tracer_user::firewall::{IpSet, Member};
use tracer_user::node::Hook;
use tracer_user::text::printable;

/// Rules that are kept, elements of verdict maps included.
const MAX_RULES: usize = 400_000;
const MAX_MEMBERS: usize = 262_144;

/// What was understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) tables: Vec<Table>,
    /// Named sets, as `FAMILY TABLE NAME`; sets within a rule as `FAMILY TABLE HANDLE#NUMBER`.
    pub(crate) sets: BTreeMap<String, IpSet>,
    pub(crate) problems: Vec<String>,
}

/// Reads the output of `nft -j list ...`, of one command or of several.
pub(crate) fn parse(json: &str) -> Listed {
    let mut reader = Reader::default();
    for document in Deserializer::from_str(json).into_iter::<Value>() {
        match document {
            Ok(document) => {
                let objects = document.get("nftables").and_then(Value::as_array);
                for object in objects.into_iter().flatten().filter_map(Value::as_object) {
                    for (kind, object) in object {
                        reader.object(kind, object);
                    }
                }
            }
            Err(error) => {
                reader.out.problems.push(format!("native nftables rules: nft's output is damaged: {error}"));
                break;
            }
        }
    }
    if reader.rules > MAX_RULES {
        let cut = reader.rules - MAX_RULES;
        reader.out.problems.push(format!("{cut} native nftables rules beyond the limit were not read"));
    }
    reader.out
}

#[derive(Default)]
struct Reader {
    out: Listed,
    /// Places of chains: table, chain.
    chains: FxHashMap<(TableFamily, String, String), (usize, usize)>,
    /// Elements of named verdict maps: key and verdict.
    maps: FxHashMap<String, Vec<Value>>,
    rules: usize,
}

impl Reader {
    fn object(&mut self, kind: &str, object: &Value) {
        let text = |name: &str| object.get(name).and_then(Value::as_str).map(printable);
        let family = match object.get("family").and_then(Value::as_str) {
            Some("ip") => TableFamily::Ip,
            Some("ip6") => TableFamily::Ip6,
            Some("inet") => TableFamily::Inet,
            _ => return,
        };
        let name = text("name");
        match (kind, text("table"), name) {
            ("table", _, Some(name)) => {
                self.table(family, &name);
            }
            ("chain", Some(table), Some(name)) => self.chain(family, &table, name, object),
            ("set", Some(table), Some(name)) => self.set(format!("{family} {table} {name}"), object),
            ("map", Some(table), Some(name)) => {
                let elements = object.get("elem").and_then(Value::as_array).cloned().unwrap_or_default();
                self.maps.insert(format!("{family} {table} {name}"), elements);
            }
            ("rule", Some(table), _) => self.rule(family, &table, object),
            _ => {}
        }
    }

    fn table(&mut self, family: TableFamily, name: &str) -> usize {
        let tables = &mut self.out.tables;
        tables.iter().position(|t| t.family == family && t.name == name).unwrap_or_else(|| {
            tables.push(Table { family, backend: Backend::Nft, name: name.to_owned(), chains: Vec::new() });
            tables.len() - 1
        })
    }

    fn chain(&mut self, family: TableFamily, table: &str, name: String, object: &Value) {
        let at = self.table(family, table);
        let chains = &mut self.out.tables[at].chains;
        self.chains.entry((family, table.to_owned(), name.clone())).or_insert_with(|| {
            chains.push(Chain { name, base: base(object), rules: Arc::default() });
            (at, chains.len() - 1)
        });
    }

    fn set(&mut self, name: String, object: &Value) {
        let kinds: Vec<String> = match object.get("type") {
            Some(Value::String(kind)) => vec![printable(kind)],
            Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).map(printable).collect(),
            _ => Vec::new(),
        };
        let elements = object.get("elem").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let members = elements.iter().take(MAX_MEMBERS).map(|element| Member {
            fields: values::fields(values::bare(element), |at| kinds.get(at).map_or("", String::as_str)),
            nomatch: false,
        });
        let set = IpSet {
            kind: kinds.join(" . "),
            ipv6: kinds.iter().any(|kind| kind == "ipv6_addr"),
            members: members.collect(),
            cut: elements.len().saturating_sub(MAX_MEMBERS),
            netmask: None,
            name: name.clone(),
        };
        self.out.sets.insert(name, set);
    }

    fn rule(&mut self, family: TableFamily, table: &str, object: &Value) {
        let Some(chain) = object.get("chain").and_then(Value::as_str).map(printable) else { return };
        let Some((table_at, chain_at)) = self.chains.get(&(family, table.to_owned(), chain)).copied() else {
            return;
        };
        let handle = object.get("handle").and_then(Value::as_u64);
        let prefix = format!("{family} {table} ");
        let mut sets = Sets::new(&prefix, handle.unwrap_or(0), family, &mut self.out.sets);
        let mut rule = Rule {
            handle,
            comments: object.get("comment").and_then(Value::as_str).map(printable).into_iter().collect(),
            ..Rule::default()
        };
        let mut verdicts = None;
        for statement in object.get("expr").and_then(Value::as_array).into_iter().flatten() {
            let Some((kind, value)) = statement.as_object().and_then(|o| o.iter().next()) else { continue };
            match kind.as_str() {
                "match" => rule.matches.extend(sets.condition(value)),
                "counter" => rule.counters = counters(value),
                "vmap" => verdicts = Some(value),
                "limit" | "quota" | "connlimit" => rule.matches.push(Match {
                    negated: false,
                    what: tracer_user::firewall::Criterion::Statistic(short(statement)),
                }),
                kind => rule.actions.extend(actions::action(kind, value)),
            }
        }
        let rules = match verdicts {
            None => vec![rule],
            Some(map) => self.expand(&prefix, family, &rule, map),
        };
        let chain = &mut self.out.tables[table_at].chains[chain_at];
        // All that a verdict map becomes has one number.
        let number = chain.rules.last().map_or(1, |last| last.number.saturating_add(1));
        for mut rule in rules {
            self.rules += 1;
            if self.rules <= MAX_RULES {
                rule.number = number;
                rule.text = rule.in_words();
                Arc::make_mut(&mut chain.rules).push(rule);
            }
        }
    }

    /// A rule for each element of a verdict map: its keys exclude each other, a catch-all comes last.
    fn expand(&self, prefix: &str, family: TableFamily, rule: &Rule, map: &Value) -> Vec<Rule> {
        let key = map.get("key").unwrap_or(&Value::Null);
        let data = map.get("data").unwrap_or(&Value::Null);
        let elements = match data.as_str().and_then(|name| name.strip_prefix('@')) {
            Some(name) => self.maps.get(&format!("{prefix}{}", printable(name))).map(Vec::as_slice),
            None => data.get("set").and_then(Value::as_array).map(Vec::as_slice),
        };
        let mut out = Vec::new();
        let mut last = None;
        for element in elements.unwrap_or_default() {
            let Some([value, verdict]) = element.as_array().map(Vec::as_slice) else { continue };
            let mut rule = rule.clone();
            if let Some((kind, value)) = verdict.as_object().and_then(|o| o.iter().next()) {
                rule.actions.extend(actions::action(kind, value));
            }
            let value = values::bare(value);
            if value == "*" {
                last = Some(rule);
                continue;
            }
            rule.matches.extend(Key::conditions(key, value, family));
            out.push(rule);
        }
        out.extend(last);
        out
    }
}

fn base(object: &Value) -> Option<Base> {
    let hook = object.get("hook")?.as_str()?;
    let hook = Hook::ALL.into_iter().find(|h| h.name().eq_ignore_ascii_case(hook))?;
    Some(Base {
        hook,
        priority: object.get("prio")?.as_i64().and_then(|prio| i32::try_from(prio).ok())?,
        kind: object.get("type").and_then(Value::as_str).map(printable).unwrap_or_default(),
        policy: match object.get("policy").and_then(Value::as_str) {
            Some("drop") => Policy::Drop,
            _ => Policy::Accept,
        },
        devices: Vec::new(),
    })
}

fn counters(value: &Value) -> Option<Counters> {
    let number = |name| value.get(name).and_then(Value::as_u64);
    Some(Counters { packets: number("packets")?, bytes: number("bytes")? })
}
