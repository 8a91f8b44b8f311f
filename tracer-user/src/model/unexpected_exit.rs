// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets that leave as they should not: untranslated, with a pod's address, past a sidecar, by a mark too late.

use std::net::IpAddr;
use std::sync::Arc;

use super::egress_sets::{chain_rules, why};
use super::judge::{Judge, PROXY_PORTS, SERVICES, hook_place, tables};
use super::routes::leads;
use super::steps::{Direction, MarkOf, Place, Stage, Step};
use super::walker::{End, Found, Walker};
use super::world::Host;
use crate::cause::Certainty::{Certain, Likely};
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::firewall::{Criterion, IpRange, Miss, Rule, Target, near_misses};
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

    /// An address of the services' network that leaves as it is.
    pub(crate) fn not_translated(&self) -> Option<Found> {
        let (host, device) = self.bare_exit()?;
        let to = self.start.dst.0;
        if self.is_translated(host) {
            return None;
        }
        let mut services: Vec<(IpRange, &Rule)> = Vec::new();
        for table in ["nat", "filter"] {
            for rule in chain_rules(&host.evidence, table, SERVICES) {
                services.extend(rule.matches.iter().filter(|m| !m.negated).flat_map(|m| match &m.what {
                    Criterion::Destination(ranges) => ranges.iter().map(|r| (*r, rule)).collect(),
                    _ => Vec::new(),
                }));
            }
        }
        let near = services.iter().find(|(range, _)| same_network(range.first, to))?;
        let own = services.iter().find(|(range, _)| range.contains(to));
        let name = host.name();
        let finding = Finding::new(
            &c::SERVICE_NOT_TRANSLATED,
            Likely,
            match own {
                Some(_) => format!("{name} knows the service {to}, but not with this port or protocol: the packet leaves untranslated"),
                None => format!("{name} does not translate {to}, which is on the services' network: kube-proxy has no rule for it"),
            },
        )
        .checked(
            format!("{SERVICES} has rules for {} and none that takes this packet", own.unwrap_or(near).0),
            host.command(format!("{} -t nat -S {SERVICES}", tables(to))),
        )
        .fix(match own {
            Some(_) => "ask a port that the service has".to_owned(),
            None => format!("see whether the service exists and kube-proxy runs on {name}; restart it and read its log"),
        })
        .at(Walker::place(host, device));
        Some(Found { stage: Stage::Marking, finding })
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
        let default = self.steps().rev_route(host).is_some_and(|via| via);
        let packet = &self.run.flight.packet;
        let spared = near_misses(&*host.evidence, Hook::Postrouting, "nat", packet)
            .into_iter()
            .find(|n| n.action.starts_with("MASQUERADE") && matches!(&n.miss, Miss::Failed { .. }));
        let on_link = !default && spared.is_some();
        // A specific route through another host is how networks without tunnels look.
        if !on_link && !self.by_default_route(host, to) {
            return None;
        }
        let gone = host.device(device);
        let mut finding = Finding::new(
            &c::POD_ADDRESS_ON_THE_WIRE,
            Likely,
            format!("packets to {to} leave {gone} of {} with the pod's own address {source}: whoever is out there must know the way back to it", host.name()),
        )
        .checked("no rule in nat POSTROUTING takes it", host.command(format!("{} -t nat -vnL POSTROUTING", tables(source))));
        if let Some(near) = &spared {
            finding = finding.fact(why(near));
        }
        let finding = finding
            .checked(format!("it goes by {gone}, not by a tunnel"), host.command(format!("ip route get {to}")))
            .fix(format!("if {to} is a pod: restore the route to its node; else let the CNI masquerade it (Calico: no ippool may contain {to})"))
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
        let Place::Device { device, direction: Direction::In } = &self.run.steps.first()?.place else {
            return None;
        };
        let uplink = first.evidence.link(device).is_some_and(|l| first.uplinks.contains(&l.ifindex));
        let elsewhere = match &self.run.end {
            End::Left(host, _) => host.id == first.id,
            End::Delivered(_) => self.run.tunnelled,
            // The other node sees that it should have come another way.
            End::Stopped(_) => self.run.found.iter().any(|f| f.finding.id == c::REVERSE_PATH_FILTER.id),
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

/// Services' networks are not smaller than that.
fn same_network(a: IpAddr, b: IpAddr) -> bool {
    let length = if a.is_ipv4() { 16 } else { 112 };
    crate::node::IpPrefix::new(a, length).is_some_and(|net| net.contains(b))
}
