// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is looked up again and again of a host: routes by prefix, chains by name. Made when it is first needed; a changed
//! host takes over what the change left alone.

use std::sync::{Arc, OnceLock};

use crate::fib::{Fib, Index as Routing};
use crate::firewall::{Chain, Table};
use crate::snapshot::NetnsEvidence;

#[derive(Clone, Debug, Default)]
pub(super) struct HostIndex {
    routing: OnceLock<Arc<Routing>>,
    /// Of each table the positions of its chains, by name.
    chains: OnceLock<Vec<Arc<[usize]>>>,
}

impl HostIndex {
    /// What still holds of it when `old` becomes `new`.
    pub(super) fn after(&self, old: &NetnsEvidence, new: &NetnsEvidence) -> Self {
        let same = old.routes == new.routes
            && old.exceptions == new.exceptions
            && old.nexthops == new.nexthops
            && old.links == new.links;
        let routing = if same { self.routing.clone() } else { OnceLock::new() };
        let chains =
            if Arc::ptr_eq(&old.rulesets, &new.rulesets) { self.chains.clone() } else { OnceLock::new() };
        let next = Self { routing, chains };
        if let (Some(known), None) = (self.chains.get(), next.chains.get()) {
            let of = |(at, table): (usize, &Table)| match (known.get(at), old.rulesets.get(at)) {
                (Some(known), Some(before)) if has_same_names(before, table) => known.clone(),
                _ => by_name(table),
            };
            let _ = next.chains.set(new.rulesets.iter().enumerate().map(of).collect());
        }
        next
    }

    pub(super) fn fib<'e>(&self, of: &'e NetnsEvidence) -> Fib<'e> {
        let sources = of.routing();
        let index = self.routing.get_or_init(|| Arc::new(Routing::new(&sources)));
        Fib::with(sources, index.clone())
    }

    /// The chain of a table of `of`.
    pub(super) fn chain<'e>(&self, of: &NetnsEvidence, table: &'e Table, name: &str) -> Option<&'e Chain> {
        let tables = &of.rulesets;
        let all = self.chains.get_or_init(|| tables.iter().map(by_name).collect());
        let at = tables.iter().position(|known| std::ptr::eq(known, table));
        let Some(positions) = at.and_then(|at| all.get(at)) else { return table.chain(name) };
        let name_at = |position: &usize| table.chains.get(*position).map(|chain| chain.name.as_str());
        let found = positions.partition_point(|position| name_at(position) < Some(name));
        table.chains.get(*positions.get(found)?).filter(|chain| chain.name == name)
    }
}

fn has_same_names(a: &Table, b: &Table) -> bool {
    a.chains.len() == b.chains.len() && a.chains.iter().zip(&b.chains).all(|(a, b)| a.name == b.name)
}

fn by_name(table: &Table) -> Arc<[usize]> {
    let mut positions: Vec<usize> = (0..table.chains.len()).collect();
    positions.sort_by_key(|at| table.chains.get(*at).map(|chain| chain.name.as_str()));
    positions.into()
}
