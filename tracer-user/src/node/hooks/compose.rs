// SPDX-License-Identifier: MIT OR Apache-2.0
//! From what could be read to the list of hook entries. Pure.

use super::chain::{Chain, nat_priority};
use super::dump::{Info, Registered};
use crate::node::{Family, Hook, HookEntry, HookOwner};

/// Tables of iptables-legacy: name, priority, hooks (net/ipv4/netfilter/iptable_*.c; ip6table_* the same).
/// nat is called by nf_nat, see [`nat_priority`].
const LEGACY: &[(&str, i32, &[Hook])] = &[
    ("raw", libc::NF_IP_PRI_RAW, &[Hook::Prerouting, Hook::Output]),
    ("mangle", libc::NF_IP_PRI_MANGLE, &Hook::ALL),
    ("filter", libc::NF_IP_PRI_FILTER, &[Hook::Input, Hook::Forward, Hook::Output]),
    ("security", libc::NF_IP_PRI_SECURITY, &[Hook::Input, Hook::Forward, Hook::Output]),
];
const NAT_HOOKS: [Hook; 4] = [Hook::Prerouting, Hook::Input, Hook::Output, Hook::Postrouting];

/// What the kernel registers by itself with connection tracking: name, priority, hooks
/// (net/netfilter/nf_conntrack_proto.c, net/ipv4/netfilter/nf_defrag_ipv4.c).
const CONNTRACK: &[(&str, i32, &[Hook])] = &[
    ("defrag", libc::NF_IP_PRI_CONNTRACK_DEFRAG, &[Hook::Prerouting, Hook::Output]),
    ("conntrack", libc::NF_IP_PRI_CONNTRACK, &[Hook::Prerouting, Hook::Output]),
    ("conntrack helper", libc::NF_IP_PRI_CONNTRACK_HELPER, &[Hook::Input, Hook::Postrouting]),
    ("conntrack confirm", i32::MAX, &[Hook::Input, Hook::Postrouting]),
];

/// What is there, without the kernel's own list.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) chains: Vec<Chain>,
    /// Names of the legacy tables of IPv4 and IPv6.
    pub(super) tables: [Vec<String>; 2],
    /// Entries in the connection tracking table.
    pub(super) tracked: u32,
}

const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];

/// The entries as far as they can be told from rulesets: chains exactly, the rest by knowledge.
pub(super) fn guess(seen: &Seen) -> Vec<HookEntry> {
    let mut out: Vec<HookEntry> = seen.chains.iter().flat_map(Chain::entries).collect();
    for (family, tables) in FAMILIES.into_iter().zip(&seen.tables) {
        for (name, priority, hooks) in LEGACY.iter().filter(|(name, ..)| tables.iter().any(|t| t == name)) {
            out.extend(entries(family, *priority, hooks, HookOwner::Iptables { table: (*name).to_owned() }));
        }
    }
    out.extend(legacy_nat(seen));
    for family in FAMILIES {
        let nat = nat_hooks(&out, family);
        for hook in &nat {
            if let Some(priority) = nat_priority(*hook) {
                out.extend(entries(family, priority, &[*hook], kernel("nat")));
            }
        }
        if !nat.is_empty() || seen.tracked > 0 {
            for (name, priority, hooks) in CONNTRACK {
                out.extend(entries(family, *priority, hooks, kernel(name)));
            }
        }
    }
    out
}

/// The entries as the kernel lists them, completed with what its list leaves out: policy and type of the
/// chains, and the nat chains and tables, which nf_nat calls.
pub(super) fn complete(
    registered: impl IntoIterator<Item = (Family, Registered)>,
    seen: &Seen,
    is_own: &dyn Fn(u32) -> bool,
) -> Vec<HookEntry> {
    let mut out: Vec<HookEntry> = registered
        .into_iter()
        .filter(|(_, r)| !matches!(r.info, Info::Program(id) if is_own(id)))
        .map(|(family, r)| HookEntry { family, hook: r.hook, priority: r.priority, owner: owner(&r, seen) })
        .collect();
    out.extend(seen.chains.iter().filter(|c| c.is_nat()).flat_map(Chain::entries));
    out.extend(legacy_nat(seen));
    out
}

fn owner(registered: &Registered, seen: &Seen) -> HookOwner {
    match &registered.info {
        Info::Chain { family, table, name } => seen
            .chains
            .iter()
            .find(|c| c.family == *family && c.table == *table && c.name == *name)
            .map_or_else(
                // Made between the two lists.
                || HookOwner::Nft {
                    family: super::chain::family_name(*family).unwrap_or_default().to_owned(),
                    table: table.clone(),
                    chain: name.clone(),
                    kind: "filter".into(),
                    policy_drop: false,
                },
                Chain::owner,
            ),
        Info::Program(id) => kernel(&format!("bpf program {id}")),
        Info::None => legacy_table(registered).unwrap_or_else(|| kernel(&registered.function)),
    }
}

/// The legacy table behind `ipt_do_table` (one function for all tables since 5.15) or `iptable_mangle_hook`.
fn legacy_table(registered: &Registered) -> Option<HookOwner> {
    let function = registered.function.as_str();
    let named = function
        .strip_prefix("iptable_")
        .or_else(|| function.strip_prefix("ip6table_"))
        .and_then(|rest| LEGACY.iter().find(|(name, ..)| rest.starts_with(name)));
    let (table, ..) = match function {
        "ipt_do_table" | "ip6t_do_table" => {
            LEGACY.iter().find(|(_, priority, _)| *priority == registered.priority).or(named)?
        }
        _ => named?,
    };
    Some(HookOwner::Iptables { table: (*table).to_owned() })
}

fn legacy_nat(seen: &Seen) -> Vec<HookEntry> {
    let with_nat =
        FAMILIES.into_iter().zip(&seen.tables).filter(|(_, tables)| tables.iter().any(|t| t == "nat"));
    with_nat
        .flat_map(|(family, _)| NAT_HOOKS.map(|hook| (family, hook)))
        .filter_map(|(family, hook)| {
            let owner = HookOwner::Iptables { table: "nat".into() };
            Some(HookEntry { family, hook, priority: nat_priority(hook)?, owner })
        })
        .collect()
}

/// The hooks at which nf_nat registers: once one nat chain exists, all four.
fn nat_hooks(entries: &[HookEntry], family: Family) -> Vec<Hook> {
    let is_nat = |owner: &HookOwner| match owner {
        HookOwner::Iptables { table } => table == "nat",
        HookOwner::Nft { kind, .. } => kind == "nat",
        HookOwner::Kernel { .. } => false,
    };
    if entries.iter().any(|e| e.family == family && is_nat(&e.owner)) {
        NAT_HOOKS.to_vec()
    } else {
        Vec::new()
    }
}

fn entries(
    family: Family,
    priority: i32,
    hooks: &[Hook],
    owner: HookOwner,
) -> impl Iterator<Item = HookEntry> {
    hooks.iter().map(move |hook| HookEntry { family, hook: *hook, priority, owner: owner.clone() })
}

fn kernel(name: &str) -> HookOwner {
    HookOwner::Kernel { name: name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(table: &str, kind: &str, hook: Hook, priority: i32) -> Chain {
        Chain {
            family: libc::NFPROTO_IPV4 as u8,
            table: table.into(),
            name: hook.name().into(),
            kind: kind.into(),
            hook,
            priority,
            policy_drop: true,
        }
    }

    fn at(entries: &[HookEntry], family: Family, hook: Hook) -> Vec<(i32, String)> {
        let mut out: Vec<_> = entries
            .iter()
            .filter(|e| e.family == family && e.hook == hook)
            .map(|e| (e.priority, e.owner.label()))
            .collect();
        out.sort();
        out
    }

    #[test]
    fn legacy_tables_bring_conntrack_with_nat() {
        let tables = ["filter", "nat", "mangle"].map(String::from).to_vec();
        let entries = guess(&Seen { tables: [tables, vec![]], ..Seen::default() });
        let show = |hook| {
            at(&entries, Family::Ipv4, hook).iter().map(|(p, n)| format!("{p} {n}")).collect::<Vec<_>>()
        };
        assert_eq!(
            show(Hook::Prerouting),
            ["-400 defrag", "-200 conntrack", "-150 mangle", "-100 nat", "-100 nat"]
        );
        assert_eq!(show(Hook::Forward), ["-150 mangle", "0 filter"]);
        assert_eq!(
            show(Hook::Postrouting),
            ["-150 mangle", "100 nat", "100 nat", "300 conntrack helper", "2147483647 conntrack confirm"]
        );
        assert!(at(&entries, Family::Ipv6, Hook::Prerouting).is_empty());
    }

    #[test]
    fn a_ruleset_without_state_has_no_conntrack() {
        let seen = Seen { chains: vec![chain("filter", "filter", Hook::Forward, 0)], ..Seen::default() };
        assert_eq!(guess(&seen).len(), 1);
        let tracking = Seen { tracked: 3, ..seen };
        assert_eq!(at(&guess(&tracking), Family::Ipv6, Hook::Prerouting).len(), 2);
    }

    #[test]
    fn the_kernels_list_is_completed() {
        let function = |function: &str, priority, info| {
            (Family::Ipv4, Registered { hook: Hook::Prerouting, priority, function: function.into(), info })
        };
        let listed = [
            function("ipv4_conntrack_in", -200, Info::None),
            function("nf_nat_ipv4_pre_routing", -100, Info::None),
            function("ipt_do_table", -150, Info::None),
            function("iptable_raw_hook", -300, Info::None),
            function("nf_hook_run_bpf", -99, Info::Program(7)),
            function("nf_hook_run_bpf", -98, Info::Program(8)),
            function(
                "nft_do_chain",
                5,
                Info::Chain { family: 2, table: "t".into(), name: "PREROUTING".into() },
            ),
        ];
        let seen = Seen {
            chains: vec![
                chain("t", "route", Hook::Prerouting, 5),
                chain("nat", "nat", Hook::Prerouting, -90),
            ],
            ..Seen::default()
        };
        let entries = complete(listed, &seen, &|id| id == 7);
        let names: Vec<_> =
            at(&entries, Family::Ipv4, Hook::Prerouting).into_iter().map(|(_, n)| n).collect();
        assert_eq!(
            names,
            ["raw", "ipv4_conntrack_in", "mangle", "nat", "nf_nat_ipv4_pre_routing", "bpf program 8", "t"]
        );
        let with_policy =
            entries.iter().filter(|e| matches!(e.owner, HookOwner::Nft { policy_drop: true, .. }));
        assert_eq!(with_policy.count(), 2);
    }
}
