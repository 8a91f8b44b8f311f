// SPDX-License-Identifier: MIT OR Apache-2.0
//! A mark that a packet gets for the destination that it had before DNAT, and that chooses the route of the real one.

use std::net::IpAddr;

use super::catalogue as c;
use super::finding::Certainty::Likely;
use super::finding::Finding;
use super::ipsec::NodeState;
use crate::fib::{Outcome, Question};
use crate::firewall::{Done, PacketView, Target, walk_hook};
use crate::node::Hook;
use crate::text::table_name;

/// `packet`: the first one of its connection, as it comes to PREROUTING.
pub(crate) fn find(node: &NodeState<'_>, packet: &PacketView) -> Option<Finding> {
    let evidence = node.evidence;
    let walk = |packet: &PacketView| walk_hook(evidence, Hook::Prerouting, i32::MIN..i32::MAX, packet);
    let marked = walk(packet);
    let mark = marked.mark.filter(|mark| Some(*mark) != packet.mark)?;
    let mut nat = marked.effects.iter().filter(|effect| effect.certain);
    let (to, port) = nat.find_map(|effect| match effect.done {
        Done::Nat(Target::Dnat(to)) => {
            Some((to.addresses?.first, to.ports.map_or(packet.dst_port, |p| Some(p.first))))
        }
        _ => None,
    })?;
    let real = PacketView { dst: to, dst_port: port, ..packet.clone() };
    let unmarked = walk(&real).mark.filter(|unmarked| *unmarked != mark)?;
    let sets = |done: &Done<'_>| match *done {
        Done::Mark { from, to } | Done::Connmark { from, to } => from != to && to == Some(mark),
        _ => false,
    };
    let by = marked.effects.iter().find(|effect| effect.certain && sets(&effect.done))?.at;
    let input = evidence.link(packet.input.as_deref()?)?.ifindex;
    let fib = evidence.fib_about(&[to, packet.src]);
    let ask = |mark| {
        let question = Question::to(to).from(packet.src).input(input).mark(mark);
        fib.lookup(&question.ports(packet.proto, packet.src_port, port))
    };
    let (with, without) = (ask(mark), ask(unmarked));
    let (with, without) = (with.certain()?, without.certain()?);
    // Without the mark, a rule for the source would have chosen.
    let own = without.rule.filter(|rule| rule.source.is_some_and(|source| source.contains(packet.src)))?;
    let (taken, meant) = (way(node, with)?, way(node, without)?);
    if taken.0 == meant.0 {
        return None;
    }
    let chosen = with.rule?;
    let (name, by, before) = (node.name, by.name(), packet.dst);
    let finding = Finding::new(
        &c::MARKED_BEFORE_DNAT,
        Likely,
        format!(
            "{by} on {name} gives mark {mark:#x} to packets for {before}, before they are translated to {to}: by that mark they leave by {} (ip rule {}, table {}), while packets from {} to {to} belong on {} (ip rule {}, table {})",
            taken.1,
            chosen.priority,
            table_name(taken.0.1),
            packet.src,
            meant.1,
            own.priority,
            table_name(meant.0.1)
        ),
    )
    .checked(
        format!("for {to} itself the rules give mark {unmarked:#x}: the rule is asked before DNAT"),
        (node.command)(format!("{} -t {} -vnL {} --line-numbers", tables(before), by.table, by.chain)),
    )
    .checked(format!("the rule: {}", by.text), (node.command)("ip rule".to_owned()));
    let prefix = if before.is_ipv4() { 32 } else { 128 };
    Some(
        finding
            .fix((node.command)(format!(
                "{} -t {} -I {} -d {before}/{prefix} -j RETURN",
                tables(before),
                by.table,
                by.chain
            )))
            .about(by.place()),
    )
}

/// Device and table, and the device's name.
fn way(node: &NodeState<'_>, outcome: &Outcome<'_>) -> Option<((u32, u32), String)> {
    let crate::fib::Decision::Routed(routed) = &outcome.decision else { return None };
    let [hop] = routed.hops.as_slice() else { return None };
    let name = node.evidence.link_by_index(hop.ifindex)?.name.clone();
    Some(((hop.ifindex, routed.table), crate::text::escape(&name).into_owned()))
}

fn tables(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "iptables" } else { "ip6tables" }
}
