// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is looked up again and again of a host: routes by prefix, chains by name. Made when it is first needed; a changed
//! host takes over what the change left alone.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use super::world::Host;
use crate::fib::{Fib, Index as Routing, ReversePath};
use crate::firewall::{Chain, IpSet, NodeFacts, PacketView, Table};
use crate::snapshot::NetnsEvidence;

#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    routing: OnceLock<Arc<Routing>>,
    /// Of each table the positions of its chains, by name.
    chains: OnceLock<Vec<Arc<[usize]>>>,
}

impl Index {
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
}

fn has_same_names(a: &Table, b: &Table) -> bool {
    a.chains.len() == b.chains.len() && a.chains.iter().zip(&b.chains).all(|(a, b)| a.name == b.name)
}

fn by_name(table: &Table) -> Arc<[usize]> {
    let mut positions: Vec<usize> = (0..table.chains.len()).collect();
    positions.sort_by_key(|at| table.chains.get(*at).map(|chain| chain.name.as_str()));
    positions.into()
}

impl Host {
    /// The same host with something else in it. What was indexed and is still the same is not indexed again.
    #[must_use]
    pub fn with(&self, evidence: NetnsEvidence) -> Self {
        let index = self.index.after(&self.evidence, &evidence);
        Self { evidence: Arc::new(evidence), index, ..self.clone() }
    }

    /// Routing of this host.
    pub fn fib(&self) -> Fib<'_> {
        let sources = self.evidence.routing();
        let index = self.index.routing.get_or_init(|| Arc::new(Routing::new(&sources)));
        Fib::with(sources, index.clone())
    }
}

impl NodeFacts for Host {
    fn rulesets(&self) -> &[Table] {
        self.evidence.rulesets()
    }

    fn chain<'e>(&self, table: &'e Table, name: &str) -> Option<&'e Chain> {
        let tables = &self.evidence.rulesets;
        let all = self.index.chains.get_or_init(|| tables.iter().map(by_name).collect());
        let at = tables.iter().position(|known| std::ptr::eq(known, table));
        let Some(positions) = at.and_then(|at| all.get(at)) else { return table.chain(name) };
        let name_at = |position: &usize| table.chains.get(*position).map(|chain| chain.name.as_str());
        let found = positions.partition_point(|position| name_at(position) < Some(name));
        table.chains.get(*positions.get(found)?).filter(|chain| chain.name == name)
    }

    fn set(&self, name: &str) -> Option<&IpSet> {
        self.evidence.set(name)
    }

    fn ifindex(&self, device: &str) -> Option<u32> {
        self.evidence.ifindex(device)
    }

    fn address_type(&self, address: IpAddr, device: Option<u32>) -> Option<&'static str> {
        self.evidence.address_type_by(&self.fib(), address, device)
    }

    fn reverse_path(&self, packet: &PacketView, how: ReversePath) -> Option<bool> {
        self.evidence.reverse_path_by(&self.fib(), packet, how)
    }

    fn has_socket(&self, proto: u8, port: Option<u16>) -> bool {
        self.evidence.has_socket(proto, port)
    }
}
