// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tables, chains and rules of the text.

use std::borrow::Cow;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::{matches, targets, words};
use crate::firewall::rule::{Backend, Base, Chain, Counters, Policy, Rule, Table, TableFamily};
use crate::node::Hook;
use crate::text::printable;

/// Rules that are kept; kube-proxy's largest known rulesets have a tenth of that.
const MAX_RULES: usize = 400_000;
/// Of a rule's text; the kernel's names and comments are far shorter.
const MAX_TEXT: usize = 2048;

/// What was understood of the text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    pub tables: Vec<Table>,
    /// Tables which the tool saw and cannot show: made with nft.
    pub incompatible: Vec<String>,
    /// Rules beyond the limit.
    pub cut: usize,
}

/// Reads the output of `iptables-save -c` (or without counters). Lines that are not understood are passed over.
pub fn parse(text: &str, family: TableFamily, backend: Backend) -> Saved {
    let mut saved = Saved::default();
    let mut table: Option<Table> = None;
    let mut index: FxHashMap<String, usize> = FxHashMap::default();
    let (mut split, mut rules) = (Vec::new(), 0);
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            saved.tables.extend(table.take());
            index.clear();
            table = Some(Table { family, backend, name: printable(name.trim()), chains: Vec::new() });
        } else if let Some(comment) = line.strip_prefix('#') {
            saved.incompatible.extend(incompatible(comment));
        } else if let Some(table) = &mut table {
            if let Some(declared) = line.strip_prefix(':') {
                declare(declared, table, &mut index);
            } else if line.starts_with(['-', '[']) {
                rules += 1;
                if rules > MAX_RULES {
                    saved.cut += 1;
                } else {
                    append(line, table, &index, &mut split);
                }
            }
        }
    }
    saved.tables.extend(table);
    saved
}

/// ``# Table `foo' is incompatible, use 'nft' tool.``
fn incompatible(comment: &str) -> Option<String> {
    let rest = comment.trim_start().strip_prefix("Table `")?;
    let (name, rest) = rest.split_once('\'')?;
    rest.contains("incompatible").then(|| printable(name))
}

/// `NAME POLICY [packets:bytes]`.
fn declare(text: &str, table: &mut Table, index: &mut FxHashMap<String, usize>) {
    let mut parts = text.split_whitespace();
    let Some(name) = parts.next().map(printable) else { return };
    let policy = match parts.next() {
        Some("ACCEPT") => Some(Policy::Accept),
        Some("DROP") => Some(Policy::Drop),
        _ => None,
    };
    let hook = Hook::ALL.into_iter().find(|hook| hook.name() == name);
    let base = policy.zip(hook).map(|(policy, hook)| base(&table.name, hook, policy));
    if !index.contains_key(&name) {
        index.insert(name.clone(), table.chains.len());
        table.chains.push(Chain { name, base, rules: Arc::default() });
    }
}

/// Its base chains are those that iptables makes: it can show the table, and made it.
pub(in crate::firewall) fn made(table: &Table) -> bool {
    const TABLES: [&str; 5] = ["filter", "mangle", "nat", "raw", "security"];
    let named =
        TABLES.contains(&table.name.as_str()) && matches!(table.family, TableFamily::Ip | TableFamily::Ip6);
    let as_made = |chain: &Chain, found: &Base| {
        found.hook.name() == chain.name
            && Base { policy: found.policy, ..base(&table.name, found.hook, found.policy) } == *found
    };
    let mut bases = table.chains.iter().filter_map(|chain| Some((chain, chain.base.as_ref()?))).peekable();
    named && bases.peek().is_some() && bases.all(|(chain, base)| as_made(chain, base))
}

/// Where iptables registers the chains of its tables: enum nf_ip_hook_priorities
/// (include/uapi/linux/netfilter_ipv4.h); the chain types are those of iptables-nft.
fn base(table: &str, hook: Hook, policy: Policy) -> Base {
    let (priority, kind) = match (table, hook) {
        ("raw", _) => (libc::NF_IP_PRI_RAW, "filter"),
        ("mangle", Hook::Output) => (libc::NF_IP_PRI_MANGLE, "route"),
        ("mangle", _) => (libc::NF_IP_PRI_MANGLE, "filter"),
        ("nat", Hook::Prerouting | Hook::Output) => (libc::NF_IP_PRI_NAT_DST, "nat"),
        ("nat", _) => (libc::NF_IP_PRI_NAT_SRC, "nat"),
        ("security", _) => (libc::NF_IP_PRI_SECURITY, "filter"),
        _ => (libc::NF_IP_PRI_FILTER, "filter"),
    };
    Base { hook, priority, kind: kind.to_owned(), policy, devices: Vec::new() }
}

/// `[packets:bytes] -A CHAIN ...`.
fn append<'a>(
    line: &'a str,
    table: &mut Table,
    index: &FxHashMap<String, usize>,
    split: &mut Vec<Cow<'a, str>>,
) {
    let (counters, line) = match line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((counters, rest)) => (parse_counters(counters), rest.trim_start()),
        None => (None, line),
    };
    words::split(line, split);
    let [append, chain, rest @ ..] = split.as_slice() else { return };
    if append != "-A" {
        return;
    }
    let Some(chain) = index.get(printable(chain.as_bytes()).as_str()) else { return };
    let rule = parse_rule(line, rest, counters, |name| index.contains_key(name));
    if let Some(chain) = table.chains.get_mut(*chain) {
        let number = u32::try_from(chain.rules.len() + 1).unwrap_or(u32::MAX);
        Arc::make_mut(&mut chain.rules).push(Rule { number, ..rule });
    }
}

fn parse_rule(
    line: &str,
    words: &[Cow<'_, str>],
    counters: Option<Counters>,
    is_chain: impl Fn(&str) -> bool,
) -> Rule {
    let end = words.iter().position(|word| matches!(word.as_ref(), "-j" | "-g")).unwrap_or(words.len());
    let (conditions, action) = words.split_at(end);
    let (matches, comments) = matches::parse(conditions);
    let text = line.char_indices().nth(MAX_TEXT).map_or(line, |(at, _)| &line[..at]);
    Rule {
        number: 0,
        handle: None,
        text: printable(text),
        comments,
        matches,
        actions: targets::parse(action, is_chain).into_iter().collect(),
        counters,
    }
}

fn parse_counters(text: &str) -> Option<Counters> {
    let (packets, bytes) = text.split_once(':')?;
    Some(Counters { packets: packets.parse().ok()?, bytes: bytes.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::firewall::rule::{Criterion, Target};

    const TEXT: &str = r#"# Generated by iptables-nft-save v1.8.9 (nf_tables)
*mangle
:PREROUTING ACCEPT [12:3456]
:FORWARD DROP [0:0]
:EGW - [0:0]
[3:180] -A PREROUTING -m comment --comment "egw:Lh98b3mb9WlZrgw7" -m comment --comment "Checking" -j EGW
-A FORWARD ! -i eth+ -p tcp -m tcp ! --dport 53 -g EGW
COMMIT
# Table `native' is incompatible, use 'nft' tool.
"#;

    fn saved(text: &str) -> Saved {
        parse(text, TableFamily::Ip, Backend::IptablesNft)
    }

    #[test]
    fn chains_policies_counters_and_comments() {
        let saved = saved(TEXT);
        assert_eq!(saved.incompatible, ["native"]);
        let [table] = saved.tables.as_slice() else { panic!("{saved:?}") };
        let prerouting = table.chain("PREROUTING").unwrap();
        assert_eq!(prerouting.base.as_ref().map(|b| (b.priority, b.policy)), Some((-150, Policy::Accept)));
        assert_eq!(table.chain("FORWARD").unwrap().base.as_ref().unwrap().policy, Policy::Drop);
        assert_eq!(table.chain("EGW").unwrap().base, None);
        let rule = &prerouting.rules[0];
        assert_eq!(rule.counters, Some(Counters { packets: 3, bytes: 180 }));
        assert_eq!(rule.label(), Some("Checking"));
        assert_eq!(rule.actions, [Target::Jump("EGW".into())]);
        assert!(rule.text.starts_with("-A PREROUTING"));
        let name = table.rule_ref(prerouting, rule).to_string();
        assert_eq!(name, "mangle PREROUTING rule 1 \"Checking\"");
        let forward = &table.chain("FORWARD").unwrap().rules[0];
        assert_eq!(forward.actions, [Target::Goto("EGW".into())]);
        let negated: Vec<_> = forward.matches.iter().map(|m| m.negated).collect();
        assert_eq!(negated, [true, false, true]);
        assert_eq!(forward.matches[0].what, Criterion::Input(vec!["eth+".into()]));
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "(.{0,30}\n?){0,12}") {
            let _ = saved(&text);
        }

        #[test]
        fn damaged_rules_never_panic(at in 0usize..400, insert in ".{0,4}", cut in 0usize..500) {
            let mut text: String = TEXT.chars().take(cut).collect();
            let at = text.char_indices().map(|(i, _)| i).nth(at).unwrap_or(text.len());
            text.insert_str(at, &insert);
            let _ = saved(&text);
        }

        #[test]
        fn shuffled_words_never_panic(words in proptest::collection::vec(
            proptest::sample::select(vec![
                "-A", "X", "!", "-m", "set", "--match-set", "src,dst", "-j", "MARK", "--set-xmark", "0x1/0x2",
                "--mark", "conntrack", "--ctstate", "NEW", "-p", "tcp", "--dport", "1:", "DNAT", "--to-destination",
                "[::1]:80-90", "-g", "\"", "statistic", "--probability", "0.5", "-s", "1.1.1.1/33", "socket", "-f",
            ]), 0..14,
        )) {
            let _ = saved(&format!("*t\n:X - [0:0]\n-A X {}\n", words.join(" ")));
        }
    }
}
