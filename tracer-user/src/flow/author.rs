// SPDX-License-Identifier: MIT OR Apache-2.0
//! The registered chains that can have changed or dropped a packet at a hook.

use serde::{Deserialize, Serialize};

use crate::node::{HookEntry, HookOwner, Interval, Topology};

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Deed {
    Mark,
    Translation,
    /// Dropped by a rule of nftables, by something else, or unknown.
    DropByNft,
    DropByOther,
    Drop,
}

impl Deed {
    /// Where the packet was freed tells a rule of nftables (iptables-nft's too) from everything else: since
    /// 6.7 (net/netfilter/nf_tables_core.c) those free in `nft_do_chain`; iptables-legacy, conntrack and NAT
    /// return a verdict to `nf_hook_slow`, as all did before.
    pub fn of_drop(symbol: &str) -> Self {
        match symbol {
            "nft_do_chain" => Self::DropByNft,
            "nf_hook_slow" => Self::DropByOther,
            _ => Self::Drop,
        }
    }

    pub(crate) fn is_drop(self) -> bool {
        matches!(self, Self::DropByNft | Self::DropByOther | Self::Drop)
    }

    fn fits(self, owner: &HookOwner) -> bool {
        match self {
            Self::Mark => owner.can_mark(),
            Self::Translation => match owner {
                HookOwner::Iptables { table } => table == "nat",
                HookOwner::Nft { kind, .. } => kind == "nat",
                HookOwner::Kernel { name } => name.contains("nat"),
            },
            Self::DropByNft => matches!(owner, HookOwner::Nft { .. }),
            Self::DropByOther => !matches!(owner, HookOwner::Nft { .. }),
            Self::Drop => true,
        }
    }
}

/// What is registered in the interval and can have done it, in the order packets meet it.
///
/// Of entries at the priority of one of our positions: we registered later, so we stand before them.
pub fn candidates<'t>(topology: &'t Topology, at: &Interval, deed: Deed) -> Vec<&'t HookEntry> {
    let mut found: Vec<_> = entries(topology, at, deed).collect();
    found.sort_by_key(|entry| entry.priority);
    found
}

fn entries<'t>(
    topology: &'t Topology,
    at: &Interval,
    deed: Deed,
) -> impl Iterator<Item = &'t HookEntry> + use<'t> {
    let Interval { family, hook, after, until, .. } = *at;
    topology.namespaces.get(&at.netns).into_iter().flat_map(|ns| &ns.hooks).filter(move |entry| {
        entry.family == family
            && entry.hook == hook
            && (after..until).contains(&entry.priority)
            && deed.fits(&entry.owner)
    })
}

/// Priorities at which candidates stand: zooming in can tell these apart, and nothing finer.
pub(crate) fn distinct_priorities(topology: &Topology, at: &Interval, deed: Deed) -> usize {
    let mut first = None;
    let mut count = 0;
    for entry in entries(topology, at, deed) {
        match first {
            None => (first, count) = (Some(entry.priority), 1),
            Some(p) if p == entry.priority => {}
            Some(_) => return 2,
        }
    }
    count
}

/// The tables of the candidates, each once, in the order packets meet them. Translations are always the
/// NAT core's, whose rules are in the tables called "nat".
pub fn tables(topology: &Topology, at: &Interval, deed: Deed) -> Vec<String> {
    if deed == Deed::Translation {
        return vec!["nat".to_owned()];
    }
    let mut labels: Vec<String> = Vec::new();
    for entry in candidates(topology, at, deed) {
        let label = entry.owner.label();
        if !labels.contains(&label) {
            labels.push(label);
        }
    }
    labels
}
