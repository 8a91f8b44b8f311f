// SPDX-License-Identifier: MIT OR Apache-2.0
//! A rule that gave a packet another source, and for which mark it did.

use std::net::IpAddr;
use std::sync::Arc;

use super::steps::{MarkOf, Step};
use super::world::Host;
use crate::firewall::{Backend, Criterion, PacketView, RuleRef};

/// A rule that changed the source, of a packet that went on.
#[derive(Clone, Debug)]
pub(crate) struct SourceChange {
    pub(crate) host: Arc<Host>,
    pub(crate) rule: RuleRef,
    pub(crate) hook: &'static str,
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    /// The mark for which the rule took it, and the rule that had set that.
    pub(crate) marked: Option<(u32, String)>,
}

impl SourceChange {
    pub(crate) fn new(
        host: &Arc<Host>,
        hook: &'static str,
        rule: &RuleRef,
        (from, to): (IpAddr, IpAddr),
        steps: &[Step],
    ) -> Self {
        let marks = steps.iter().filter(|step| step.netns == host.name() && step.encap.is_none());
        let mark = marks.flat_map(|step| &step.marks).rfind(|mark| mark.of == MarkOf::Packet);
        let marked = mark.filter(|_| asks_for_mark(host, rule)).and_then(|m| Some((m.to?, m.rule.clone())));
        Self { host: host.clone(), rule: rule.clone(), hook, from, to, marked }
    }

    /// Before the rule, in its chain: nothing else in it is for this packet.
    pub(crate) fn spare(&self, packet: &PacketView) -> Option<String> {
        let RuleRef { table, chain, number, .. } = &self.rule;
        let legacy = match self.rule.backend {
            Backend::Nft => return None,
            Backend::IptablesNft => "",
            Backend::IptablesLegacy => "-legacy",
        };
        let tool = if self.from.is_ipv4() { "iptables" } else { "ip6tables" };
        let (from, to) = (self.from, packet.dst);
        let own_chain = chain != self.hook && *number != 0;
        own_chain.then(|| {
            self.host
                .command(format!("{tool}{legacy} -t {table} -I {chain} {number} -s {from} -d {to} -j RETURN"))
        })
    }
}

/// The rule matches on the packet's mark.
fn asks_for_mark(host: &Host, rule: &RuleRef) -> bool {
    let same = |table: &&crate::firewall::Table| {
        table.name == rule.table && table.backend == rule.backend && table.family == rule.family
    };
    let tables = host.evidence.rulesets.iter().filter(same);
    let chains = tables.flat_map(|table| &table.chains).filter(|chain| chain.name == rule.chain);
    let mut rules = chains.flat_map(|chain| chain.rules.iter()).filter(|own| own.number == rule.number);
    rules.any(|own| own.matches.iter().any(|m| matches!(m.what, Criterion::Mark { .. })))
}
