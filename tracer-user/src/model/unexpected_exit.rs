// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets that leave as they should not: untranslated, with a pod's address, past a sidecar, by a mark too late.

use std::net::IpAddr;
use std::sync::Arc;

use super::egress_sets::why;
use super::judge::{Judge, PROXY_PORTS, hook_place, tables};
use super::peers;
use super::route_words::ip_command;
use super::routes::leads;
use super::steps::{Direction, MarkOf, Place, Stage, Step};
use super::walker::{End, Found, Walker};
use super::world::Host;
use crate::cause::Certainty::{Certain, Likely};
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::cause::ipsec::NodeState;
use crate::cause::no_route;
use crate::cause::service_translation;
use crate::cluster::egress::datapath::CHAIN_PREFIX;
use crate::firewall::{Criterion, Match, Matched, NearMiss, PacketView, Target, near_misses, walk_hook};
use crate::node::{Hook, Role};

impl Judge<'_> {
    pub(crate) fn mark_after_routing(&self) -> Option<Found> {
        let ipv6 = self.start.dst.0.is_ipv6();
        let (host, mark, rule, table) = self.steps().find_map(|(host, step)| {
            let Place::Hook { hook: "POSTROUTING", .. } = &step.place else { return None };
            if step.encap.is_some() {
                return None;
            }
            let changed = step.marks.iter().rev().find(|m| m.of == MarkOf::Packet)?;
            let mark = changed.to?;
            let leads = host.evidence.rules.iter().find(|r| leads(r, mark, ipv6))?;
            let used = self.steps().any(|(other, step)| {
                other.id == host.id
                    && matches!(step.place, Place::Route { table, .. } if table == leads.table)
            });
            (!used).then(|| (host, mark, changed.rule.clone(), leads.table))
        })?;
        let finding = Finding::new(
            &c::MARK_AFTER_ROUTING,
            Certain,
            format!(
                "{} sets mark {mark:#x} in POSTROUTING, after routing: its table {table} is not used",
                host.name()
            ),
        )
        .checked(
            format!("{rule} sets it"),
            host.command(format!("{} -t mangle -S POSTROUTING", tables(self.start.src.0))),
        )
        .checked(
            format!("an ip rule leads mark {mark:#x} to table {table}"),
            host.command(if ipv6 { "ip -6 rule show" } else { "ip rule show" }),
        )
        .fix("set the mark in mangle PREROUTING (OUTPUT for the node's own packets)")
        .at(hook_place(host, "POSTROUTING"));
        Some(Found { stage: Stage::Passing, finding })
    }

    /// A service's address that leaves as it is.
    pub(crate) fn not_translated(&self) -> Option<Found> {
        let (host, device) = self.bare_exit()?;
        if self.is_translated(host) {
            return None;
        }
        let (hook, input) = self.steps().find_map(|(at, step)| match &step.place {
            Place::Hook { hook: "PREROUTING", input, .. } if at.id == host.id => {
                Some((Hook::Prerouting, input.clone()))
            }
            Place::Hook { hook: "OUTPUT", .. } if at.id == host.id => Some((Hook::Output, String::new())),
            _ => None,
        })?;
        let name = host.name();
        let node =
            NodeState { evidence: &host.evidence, name: &name, command: &|command| host.command(command) };
        let packet = PacketView { input: Some(input), ..self.packet.clone() };
        let finding =
            service_translation::missing(&node, hook, &packet, self.run.flight.untracked_by(host.id))?;
        Some(Found { stage: Stage::Marking, finding: finding.at(Walker::place(host, device)) })
    }

    /// To a pod of another node by the default route, because the tunnel lost its routes.
    pub(crate) fn without_tunnel(&self) -> Option<Found> {
        let (host, device) = self.bare_exit()?;
        let to = self.run.flight.entries.get(&host.id)?.after.dst.0;
        let name = host.name();
        let node =
            NodeState { evidence: &host.evidence, name: &name, command: &|command| host.command(command) };
        let mut finding = no_route::without_tunnel(&node, to, &host.device(device))?;
        for (id, change) in peers::route_to_pod(self.nodes, host, to) {
            finding = finding.change(id, change);
        }
        Some(Found { stage: Stage::Routing, finding: finding.at(Walker::place(host, device)) })
    }

    /// A pod's own address on the wire, towards somebody who does not know the pods' networks.
    pub(crate) fn pod_address(&self) -> Option<Found> {
        let (host, device) = self.bare_exit()?;
        let entry = self.run.flight.entries.get(&host.id)?;
        let from_pod = self.steps().next().is_some_and(|(first, _)| first.role == Role::Pod);
        let source = entry.after.src.0;
        if !from_pod
            || entry.before.src != entry.after.src
            || Some(host.id) != self.run.first_node
            || host.owns(source)
        {
            return None;
        }
        let to = entry.after.dst.0;
        if let Some(found) = self.route_missing(host, device, to) {
            return Some(found);
        }
        let default = self.steps().rev_route(host).is_some_and(|via| via);
        let packet = &self.run.flight.packet;
        // EgressGateway's are for policies, kube-proxy's for services.
        let general = |near: &NearMiss| {
            ![CHAIN_PREFIX, "KUBE-"].iter().any(|theirs| near.rule.chain.starts_with(theirs))
        };
        let translates =
            |near: &NearMiss| near.action.starts_with("MASQUERADE") || near.action.starts_with("SNAT");
        let spared = near_misses(&*host.evidence, Hook::Postrouting, "nat", packet)
            .into_iter()
            .find(|near| translates(near) && general(near));
        let on_link = !default && spared.is_some();
        // A specific route through another host is how networks without tunnels look.
        if !on_link && !self.by_default_route(host, to) {
            return None;
        }
        let (gone, name, tables) = (host.device(device), host.name(), tables(source));
        let spares = spared.as_ref().map_or_else(String::new, |near| {
            format!(
                ", and no answer finds the way back: {} does not translate them, {}",
                near.rule,
                why(near)
            )
        });
        let finding = Finding::new(
            &c::POD_ADDRESS_ON_THE_WIRE,
            Likely,
            format!("packets to {to} leave {gone} of {name} with the pod's own address {source}{spares}"),
        );
        let finding = match &spared {
            Some(near) => finding
                .checked(
                    format!("{} is the rule that would have", near.rule),
                    host.command(format!("{tables} -t nat -vnL {} --line-numbers", near.rule.chain)),
                )
                .fix(format!("let {} apply to {to} (Calico: no ippool may contain {to}, or its address is not masqueraded)", near.rule)),
            None => finding
                .checked("no rule in nat POSTROUTING takes it", host.command(format!("{tables} -t nat -vnL POSTROUTING")))
                .fact("whoever is out there must know the way back to it")
                .fix(format!("if {to} is a pod: restore the route to its node; else let the CNI masquerade it")),
        };
        let finding = finding
            .checked(
                format!("it goes by {gone}, not by a tunnel"),
                host.command(format!("ip route get {to}")),
            )
            .at(Walker::place(host, device));
        Some(Found { stage: Stage::Passing, finding })
    }

    /// A rule spares the destination from masquerading, as one of the cluster's, and only the default route leads there.
    fn route_missing(&self, host: &Host, device: u32, to: IpAddr) -> Option<Found> {
        if !self.by_default_route(host, to) {
            return None;
        }
        let gone = host.device(device);
        let packet = self.run.flight.packet.clone().devices("", &gone);
        let walk = walk_hook(host, Hook::Postrouting, i32::MIN..i32::MAX, &packet);
        let spares = walk.trace.iter().find(|step| {
            let names = |m: &Match| {
                !m.negated && matches!(&m.what, Criterion::Destination(r) if r.iter().any(|r| r.contains(to)))
            };
            step.matched == Matched::Yes
                && step.at.table.name == "nat"
                && step.at.rule.is_some_and(|rule| {
                    matches!(rule.target(), Some(Target::Return | Target::Accept))
                        && rule.matches.iter().any(names)
                })
        })?;
        let (rule, name, tables) = (spares.at.name(), host.name(), tables(to));
        let down = host.evidence.links.iter().find(|link| link.vxlan.is_some() && !link.is_up());
        let down = down.map_or_else(String::new, |link| {
            format!(" ({} is down, and routes go with their device)", host.device(link.ifindex))
        });
        let finding = Finding::new(
            &c::POD_ROUTE_MISSING,
            Likely,
            format!("{name} has no route to the pods' network of {to}{down}: packets leave {gone} for the default gateway as they are"),
        )
        .checked(
            format!("the lookup finds only the default route for {to}"),
            host.command(format!("{} route get {to}", ip_command(to))),
        )
        .checked(
            format!("{to} is one of the cluster's addresses: {rule} spares it from masquerading"),
            host.command(format!("{tables} -t nat -vnL {} --line-numbers", rule.chain)),
        )
        .fix(format!("let the CNI write its routes again (flannel, Calico: restart its agent on {name}); see that the other node is registered"))
        .at(Walker::place(host, device));
        Some(Found { stage: Stage::Passing, finding })
    }

    /// No route is more specific than the default one.
    pub(crate) fn by_default_route(&self, host: &Host, to: IpAddr) -> bool {
        let mut covering = host
            .evidence
            .routes
            .iter()
            .filter(|r| r.destination.contains(to) && r.table == u32::from(libc::RT_TABLE_MAIN));
        covering.all(|r| r.destination.is_empty())
    }

    /// From outside to a service, and on with the client's address to an endpoint that answers by another way.
    pub(crate) fn not_masqueraded(&self) -> Option<Found> {
        let first = self.run.hosts.first().and_then(|id| self.hosts.iter().find(|h| h.id == *id))?;
        let entry = self.run.flight.inner().entries.get(&first.id)?;
        let step = self.run.steps.first().filter(|step| step.encap.is_none())?;
        let Place::Device { device, direction: Direction::In } = &step.place else { return None };
        let uplink = first.evidence.link(device).is_some_and(|l| first.uplinks.contains(&l.ifindex));
        let elsewhere =
            match &self.run.end {
                End::Left(host, device) => host.id == first.id && host.uplinks.contains(device),
                End::Delivered(_) => self.run.tunnelled,
                // The other node sees that it should have come another way.
                End::Stopped(_) => self.run.found.iter().any(|f| {
                    [c::REVERSE_PATH_FILTER.id, c::SERVICE_NOT_MASQUERADED.id].contains(&f.finding.id)
                }),
                _ => false,
            };
        if !uplink
            || !elsewhere
            || first.role != Role::Node
            || entry.before.dst == entry.after.dst
            || entry.before.src != entry.after.src
        {
            return None;
        }
        let (service, endpoint) = (entry.before.ends().dst, entry.after.ends().dst);
        let client = entry.after.src.0;
        let tables = tables(client);
        let finding = Finding::new(
            &c::SERVICE_NOT_MASQUERADED,
            Likely,
            format!("traffic to {service} is sent on to {endpoint} on another node with the client's address {client}: replies take another way"),
        )
        .checked(
            "it is translated to the endpoint but not masqueraded (kube-proxy's mark 0x4000 is missing)",
            first.command(format!("{tables} -t nat -S | grep -e KUBE-MARK-MASQ -e KUBE-EXT")),
        )
        .fix("let kube-proxy write its rules again (restart it); with externalTrafficPolicy: Local, ask a node that has an endpoint")
        .at(Walker::place(first, 0));
        Some(Found { stage: Stage::Passing, finding })
    }

    pub(crate) fn sidecar_bypassed(&self) -> Option<Found> {
        let (host, _) = self.steps().next()?;
        if host.role != Role::Pod || self.run.flight.packet.proto != 6 {
            return None;
        }
        let proxy =
            host.evidence.sockets.iter().find(|s| s.proto == 6 && PROXY_PORTS.contains(&s.local.port()))?;
        let redirects =
            host.evidence.tables("nat").flat_map(|t| &t.chains).flat_map(|c| c.rules.iter()).any(|r| {
                matches!(r.target(), Some(Target::Redirect { .. } | Target::Dnat(_) | Target::Tproxy(_)))
            });
        if redirects {
            return None;
        }
        let (name, port) = (host.name(), proxy.local.port());
        let finding = Finding::new(
            &c::SIDECAR_BYPASSED,
            Likely,
            format!("traffic of {name} bypasses its sidecar: a proxy listens on {port}, but no rule redirects to it"),
        )
        .checked("no REDIRECT rule in its nat table", host.command("iptables -t nat -S"))
        .checked(format!("a proxy listens on {port}"), host.command("ss -tlnp"))
        .fix("see whether the init container that writes the rules ran and ended with 0; restart the pod")
        .at(Walker::place(host, 0));
        Some(Found { stage: Stage::Sending, finding })
    }
}

/// Did the last lookup of a host lead through a gateway?
trait LastRoute {
    fn rev_route(self, host: &Host) -> Option<bool>;
}

impl<'a, I: Iterator<Item = (&'a Arc<Host>, &'a Step)>> LastRoute for I {
    fn rev_route(self, host: &Host) -> Option<bool> {
        self.filter(|(h, _)| h.id == host.id)
            .filter_map(|(_, step)| match &step.place {
                Place::Route { via, .. } => Some(via.is_some()),
                _ => None,
            })
            .last()
    }
}
