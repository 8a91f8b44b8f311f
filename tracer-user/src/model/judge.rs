// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is wrong with a way that leads somewhere: EgressGateway's policies against it, services that were left alone,
//! sidecars that are passed by, pod addresses that nobody knows the way back to.

use std::net::IpAddr;
use std::sync::Arc;

use super::egress_sets::{nearest, why};
use super::packet_state::Tuple;
use super::run::Run;
use super::steps::{Direction, Place, Stage, Step};
use super::walker::{End, Found, Walker};
use super::world::Host;
use crate::cause::Certainty::{Certain, Possible};
use crate::cause::Finding;
use crate::cause::bare::Bare;
use crate::cause::catalogue as c;
use crate::cause::cluster_address::sent_to_gateway;
use crate::cause::early_mark;
use crate::cause::ipsec::NodeState;
use crate::cause::policies::{self, Said};
use crate::cause::policy_sets;
use crate::cluster::egress::Objects;
use crate::cluster::egress::datapath::{
    MARK_DONE, REQUEST_CHAIN, expected_first, is_egress_tunnel, is_marked, is_node_mark,
};
use crate::firewall::{Backend, Chain, PacketView, Rule, RuleRef, Table, Target};
use crate::node::{Hook, Role};
use crate::snapshot::{Change, accepting_mark};

pub(crate) const ETH_P_ALL: u16 = 0x0003;

pub(crate) const PROXY_PORTS: [u16; 3] = [15001, 15003, 15006];

/// A way with what is needed to judge it.
pub(crate) struct Judge<'r> {
    pub(crate) run: &'r Run,
    pub(crate) hosts: &'r [Arc<Host>],
    /// All nodes that are watched.
    pub(crate) nodes: &'r [Arc<Host>],
    pub(crate) start: Tuple,
    /// The packet as the first node gets it.
    pub(crate) packet: &'r PacketView,
    /// EgressGateway's objects.
    pub(crate) objects: Option<&'r Objects>,
}

impl Judge<'_> {
    pub(crate) fn all(&self) -> Vec<Found> {
        let masqueraded = self.masqueraded();
        // A gateway that does not know the source does not translate it: no fault of its own.
        let source = if masqueraded.is_none() {
            self.left_without_snat().or_else(|| self.other_source()).or_else(|| self.not_announced())
        } else {
            None
        };
        let mut out = vec![
            self.marked_before_dnat(),
            self.takes_cluster(),
            masqueraded,
            self.wrong_gateway(),
            self.mark_after_routing(),
            source,
            self.sidecar_bypassed(),
            self.not_masqueraded(),
        ];
        // What left as it should not have: the first of these explains it.
        // A mark that comes too late is meant to do what a policy would.
        let late = out.iter().flatten().any(|found| found.finding.id == c::MARK_AFTER_ROUTING.id);
        let not_selected = if late { None } else { self.not_selected() };
        out.push(
            not_selected
                .or_else(|| self.not_translated())
                .or_else(|| self.without_tunnel())
                .or_else(|| self.pod_address()),
        );
        let mut out: Vec<Found> = out.into_iter().flatten().collect();
        if let Some(host) = self.hosts.iter().find(|h| !h.evidence.unreadable.is_empty()) {
            // Rules that were not read may do what none of the others does.
            for found in &mut out {
                let finding = found
                    .finding
                    .clone()
                    .fact(format!("not all of {} could be read: see below", host.name()));
                found.finding = Finding { certainty: Possible, ..finding };
            }
        }
        out
    }

    pub(crate) fn host(&self, step: usize) -> Option<&Arc<Host>> {
        let id = self.run.hosts.get(step)?;
        self.hosts.iter().find(|h| h.id == *id)
    }

    pub(crate) fn steps(&self) -> impl Iterator<Item = (&Arc<Host>, &Step)> {
        self.run.steps.iter().enumerate().filter_map(|(i, step)| Some((self.host(i)?, step)))
    }

    /// Left a node by an uplink, in no tunnel.
    pub(crate) fn bare_exit(&self) -> Option<(&Arc<Host>, u32)> {
        let End::Left(host, device) = &self.run.end else { return None };
        (host.role == Role::Node && self.run.flight.inside.is_none() && host.uplinks.contains(device))
            .then_some((host, *device))
    }

    pub(crate) fn masqueraded(&self) -> Option<Found> {
        // With a mark that was not reset EgressGateway's ACCEPT there cannot match.
        if self.run.found.iter().any(|f| f.finding.id == c::TUNNEL_INTO_ITSELF.id) {
            return None;
        }
        let (host, step, device) = self.steps().find_map(|(host, step)| {
            let Place::Hook { hook: "POSTROUTING", output, .. } = &step.place else { return None };
            let link = host.evidence.link(output)?;
            let snat = step.nat.iter().any(|nat| nat.kind == "SNAT");
            (snat && step.encap.is_none() && is_egress_tunnel(link)).then_some((
                host,
                step,
                link.name.clone(),
            ))
        })?;
        let nat = step.nat.iter().find(|nat| nat.kind == "SNAT")?;
        let (tables, name) = (tables(self.start.src.0), host.name());
        let spare = before_rule(host, &nat.rule)
            .map(|place| Change::InsertRule { place, rule: Box::new(accepting_mark(MARK_DONE)) });
        let finding = Finding::new(
            &c::MASQUERADED_BEFORE_TUNNEL,
            Certain,
            format!("{name} translates the source {} before the tunnel: the gateway does not know it as the pod's", self.start.src.0),
        )
        .checked(
            format!("{} makes it {} on the way into {device}", nat.rule, nat.to),
            host.command(format!("{tables} -t nat -S POSTROUTING")),
        )
        .fact(expected_first())
        .fix("put the CNI's rules after EgressGateway's (Calico: FelixConfiguration chainInsertMode: Append); restart the egressgateway agent if its ACCEPT is gone")
        .may_repair(host.id, spare)
        .at(hook_place(host, "POSTROUTING"));
        Some(Found { stage: Stage::Passing, finding })
    }

    /// It came into this node by EgressGateway's tunnel.
    pub(crate) fn came_by_tunnel(&self, host: &Host) -> bool {
        self.steps().any(|(other, step)| match &step.place {
            Place::Device { device, direction: Direction::In }
                if other.id == host.id && step.encap.is_none() =>
            {
                other.evidence.link(device).is_some_and(is_egress_tunnel)
            }
            _ => false,
        })
    }

    /// Where it leaves its node bare, or would if anybody answered for its next hop.
    fn leaving(&self) -> Option<(&Arc<Host>, u32)> {
        self.bare_exit().or_else(|| {
            let silent = self.run.found.last().is_some_and(|f| f.finding.id == c::NEIGHBOUR_SILENT.id);
            let End::Stopped(host) = &self.run.end else { return None };
            let Place::Route { device, .. } =
                &self.steps().filter(|(h, _)| h.id == host.id).last().map(|(_, step)| step)?.place
            else {
                return None;
            };
            let device = host.evidence.link(device)?.ifindex;
            (silent && self.run.flight.inside.is_none() && host.uplinks.contains(&device))
                .then_some((host, device))
        })
    }

    /// The other nodes, by name.
    fn other_nodes(&self, host: &Host) -> Vec<(String, &crate::snapshot::NetnsEvidence)> {
        let nodes = self.nodes.iter().filter(|other| other.id != host.id);
        nodes.map(|node| (node.name(), node.evidence.as_ref())).collect()
    }

    /// Not taken into the tunnel, though a policy names one of its ends.
    pub(crate) fn not_selected(&self) -> Option<Found> {
        let (host, device) = self.leaving()?;
        if Some(host.id) != self.run.first_node || self.is_translated(host) || self.is_marked(host) {
            return None;
        }
        // The mark is put on what pods of this node send.
        if matches!(self.run.steps.first()?.place, Place::Device { .. }) {
            return None;
        }
        let evidence = &*host.evidence;
        let name = host.name();
        let at = Walker::place(host, device);
        let bare = Bare {
            node: evidence,
            name: &name,
            source: self.start.src.0,
            destination: self.start.dst.0,
            left_as: self.run.flight.packet.src,
            left: "the packet would leave",
        };
        let others = self.other_nodes(host);
        let command = |command| host.command(command);
        if let Some(objects) = self.objects {
            match policies::say(objects, &bare, &others, &command) {
                Some(Said::Cause(finding)) => {
                    return Some(Found { stage: Stage::Marking, finding: finding.at(at) });
                }
                Some(Said::Fine) => return None,
                Some(Said::Rules) | None => {}
            }
        }
        let asked = policy_sets::ForeignDestination {
            bare: &bare,
            others: &others,
            objects: self.objects,
            command: &command,
            missed: &|_| {
                let near = nearest(evidence, Hook::Prerouting, "mangle", self.packet, REQUEST_CHAIN);
                let unreached = || format!("the rule for it in mangle {REQUEST_CHAIN} is not reached");
                Some((Certain, near.map_or_else(unreached, |near| why(&near))))
            },
        };
        let finding = policy_sets::say(&asked)?;
        Some(Found { stage: Stage::Marking, finding: finding.at(at) })
    }

    /// Marked for a gateway, and its destination is an address of the cluster.
    fn takes_cluster(&self) -> Option<Found> {
        let (host, _) = self.marked()?;
        let name = host.name();
        let (source, destination) = (self.start.src.0, self.start.dst.0);
        let bare = Bare { node: &host.evidence, name: &name, source, destination, left_as: source, left: "" };
        let found = sent_to_gateway(&bare, &self.other_nodes(host), &|command| host.command(command))?;
        Some(Found { stage: Stage::Marking, finding: found.at(hook_place(host, "PREROUTING")) })
    }

    /// The first node, where it marks the packet for a gateway, and the mark.
    fn marked(&self) -> Option<(&Arc<Host>, u32)> {
        self.steps().find_map(|(host, step)| {
            let mark = step.marks.iter().filter_map(|m| m.to).rev().find(|m| is_node_mark(*m))?;
            (Some(host.id) == self.run.first_node && step.encap.is_none()).then_some((host, mark))
        })
    }

    /// Left by another device than its source's, for a mark of its destination before DNAT.
    fn marked_before_dnat(&self) -> Option<Found> {
        let (host, device) = self.bare_exit()?;
        if Some(host.id) != self.run.first_node || !self.is_translated(host) {
            return None;
        }
        let name = host.name();
        let node =
            NodeState { evidence: &host.evidence, name: &name, command: &|command| host.command(command) };
        let input = self.steps().find_map(|(at, step)| match &step.place {
            Place::Hook { hook: "PREROUTING", input, .. } if at.id == host.id => Some(input.clone()),
            _ => None,
        })?;
        let packet = PacketView { input: Some(input), ..self.packet.clone() };
        let finding = early_mark::find(&node, &packet)?;
        Some(Found { stage: Stage::Marking, finding: finding.at(Walker::place(host, device)) })
    }

    /// Marked for another node than the one by which the policy's traffic leaves.
    fn wrong_gateway(&self) -> Option<Found> {
        let (host, mark) = self.marked()?;
        let (source, destination) = (self.start.src.0, self.start.dst.0);
        let finding = policies::wrong_gateway(self.objects?, source, destination, mark, &host.name())?;
        Some(Found { stage: Stage::Marking, finding: finding.at(hook_place(host, "PREROUTING")) })
    }

    pub(crate) fn is_translated(&self, host: &Host) -> bool {
        self.run.flight.entries.get(&host.id).is_some_and(|e| e.before.dst != e.after.dst)
    }

    pub(crate) fn is_marked(&self, host: &Host) -> bool {
        let ours = |mark: Option<u32>| mark.is_some_and(is_marked);
        self.steps()
            .any(|(h, step)| h.id == host.id && (ours(step.mark) || step.marks.iter().any(|m| ours(m.to))))
    }
}

pub(crate) fn tables(address: IpAddr) -> &'static str {
    if address.is_ipv6() { "ip6tables" } else { "iptables" }
}

pub(crate) fn hook_place(host: &Host, hook: &str) -> crate::cause::Place {
    crate::cause::Place { hook: Some(hook.to_owned()), ..Walker::place(host, 0) }
}

/// The rule of a chain of POSTROUTING that translates as, or leads to, what this rule does: a place to insert before.
pub(crate) fn before_rule(host: &Host, text: &str) -> Option<RuleRef> {
    let nat = |chain: &&Chain| {
        chain.base.as_ref().is_some_and(|base| base.hook == Hook::Postrouting && base.kind == "nat")
    };
    host.evidence.rulesets.iter().filter(|table| table.backend != Backend::Nft).find_map(|table| {
        let base = table.chains.iter().find(nat)?;
        base.rules
            .iter()
            .find(|rule| leads(table, base, rule, text, 5))
            .map(|rule| table.rule_ref(base, rule))
    })
}

/// It is that rule, or jumps to its chain.
fn leads(table: &Table, chain: &Chain, rule: &Rule, text: &str, deep: usize) -> bool {
    let there = rule.actions.iter().filter_map(|action| match action {
        Target::Jump(to) | Target::Goto(to) if deep > 0 => table.chain(to),
        _ => None,
    });
    table.rule_ref(chain, rule).to_string() == text
        || there
            .flat_map(|to| to.rules.iter().map(move |rule| (to, rule)))
            .any(|(to, rule)| leads(table, to, rule, text, deep - 1))
}
