// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is wrong with a way that leads somewhere: EgressGateway's policies against it, services that were left alone,
//! sidecars that are passed by, pod addresses that nobody knows the way back to.

use std::net::IpAddr;
use std::sync::Arc;

use super::flight::Tuple;
use super::report::{Direction, MarkOf, Place, Stage, Step};
use super::routes::leads;
use super::run::Run;
use super::walker::{End, Found, Walker};
use super::world::Host;
use crate::explain::Certainty::{Certain, Likely, Possible};
use crate::explain::Finding;
use crate::explain::catalogue as c;
use crate::explain::egress::{DEVICE, is_egress_tunnel, is_node_mark};
use crate::node::evidence::{
    Criterion, IpRange, MemberField, Miss, NearMiss, NetnsEvidence, PacketView, Rule, Target, near_misses,
};
use crate::node::rtnl::Link;
use crate::node::{Hook, Role};

const REQUEST_CHAIN: &str = "EGRESSGATEWAY-MARK-REQUEST";
const SNAT_CHAIN: &str = "EGRESSGATEWAY-SNAT-EIP";
const SERVICES: &str = "KUBE-SERVICES";
const ETH_P_ALL: u16 = 0x0003;
const PROXY_PORTS: [u16; 3] = [15001, 15003, 15006];

/// A way with what is needed to judge it.
pub(super) struct Judge<'r> {
    pub(super) run: &'r Run,
    pub(super) hosts: &'r [Arc<Host>],
    pub(super) start: Tuple,
    /// The packet as the first node gets it.
    pub(super) packet: &'r PacketView,
}

impl Judge<'_> {
    pub(super) fn all(&self) -> Vec<Found> {
        let masqueraded = self.masqueraded();
        // A gateway that does not know the source does not translate it: no fault of its own.
        let source = if masqueraded.is_none() {
            self.left_without_snat().or_else(|| self.other_source()).or_else(|| self.not_announced())
        } else {
            None
        };
        let mut out = vec![
            masqueraded,
            self.mark_after_routing(),
            source,
            self.sidecar_bypassed(),
            self.not_masqueraded(),
        ];
        // What left as it should not have: the first of these explains it.
        out.push(self.not_selected().or_else(|| self.not_translated()).or_else(|| self.pod_address()));
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

    fn host(&self, step: usize) -> Option<&Arc<Host>> {
        let id = self.run.hosts.get(step)?;
        self.hosts.iter().find(|h| h.id == *id)
    }

    fn steps(&self) -> impl Iterator<Item = (&Arc<Host>, &Step)> {
        self.run.steps.iter().enumerate().filter_map(|(i, step)| Some((self.host(i)?, step)))
    }

    /// Left a node by an uplink, in no tunnel.
    fn bare_exit(&self) -> Option<(&Arc<Host>, u32)> {
        let End::Left(host, device) = &self.run.end else { return None };
        (host.role == Role::Node && self.run.flight.inside.is_none() && host.uplinks.contains(device))
            .then_some((host, *device))
    }

    fn masqueraded(&self) -> Option<Found> {
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
        let finding = Finding::new(
            &c::MASQUERADED_BEFORE_TUNNEL,
            Certain,
            format!("{name} translates the source {} to {} before the tunnel: the gateway does not know it as the pod's", nat.from, nat.to),
        )
        .checked(
            format!("{} acts on the way into {device}", nat.rule),
            host.command(format!("{tables} -t nat -S POSTROUTING")),
        )
        .fact("EgressGateway expects EGRESSGATEWAY-SNAT-EIP and the ACCEPT of mark 0x26000000 before every other rule there")
        .fix("put the CNI's rules after EgressGateway's (Calico: FelixConfiguration chainInsertMode: Append); restart the egressgateway agent if its ACCEPT is gone")
        .at(hook_place(host, "POSTROUTING"));
        Some(Found { stage: Stage::Passing, finding })
    }

    fn mark_after_routing(&self) -> Option<Found> {
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

    /// It came into this node by EgressGateway's tunnel.
    fn from_tunnel(&self, host: &Host) -> bool {
        self.steps().any(|(other, step)| match &step.place {
            Place::Device { device, direction: Direction::In }
                if other.id == host.id && step.encap.is_none() =>
            {
                other.evidence.link(device).is_some_and(is_egress_tunnel)
            }
            _ => false,
        })
    }

    fn left_without_snat(&self) -> Option<Found> {
        let (host, device) = self.bare_exit()?;
        let entry = self.run.flight.entries.get(&host.id)?;
        if !self.from_tunnel(host) || entry.before.src != entry.after.src {
            return None;
        }
        let source = entry.after.src.0;
        let name = host.name();
        let near = nearest(&host.evidence, Hook::Postrouting, "nat", &self.run.flight.packet, SNAT_CHAIN);
        let finding = Finding::new(
            &c::LEFT_WITHOUT_SNAT,
            Certain,
            format!("{name} sends the packet out with the pod's own address {source}: no rule gives it the egress IP"),
        )
        .checked(
            "it comes by the egress tunnel, and nat POSTROUTING leaves its source as it is",
            host.command(format!("{} -t nat -S {SNAT_CHAIN}", tables(source))),
        );
        let finding = match near {
            Some(near) => finding.fact(why(&near)),
            None => finding,
        };
        let finding = finding
            .fix("see whether the EgressPolicy has an egress IP (status.eip); restart the egressgateway agent on the gateway")
            .at(Walker::place(host, device));
        Some(Found { stage: Stage::OtherNode, finding })
    }

    /// SNAT gives another address than the policy's rule.
    fn other_source(&self) -> Option<Found> {
        let (host, _) = self.bare_exit()?;
        let entry = self.run.flight.entries.get(&host.id)?;
        let (before, after) = (entry.before.src.0, entry.after.src.0);
        if before == after {
            return None;
        }
        let destination = entry.after.dst.0;
        let (wanted, set) = policys_address(&host.evidence, before, destination)?;
        if wanted.contains(after) {
            return None;
        }
        // On the pod's own node the rule is only for the gateway that this node is.
        let name = host.name();
        let by = self
            .steps()
            .filter(|(h, _)| h.id == host.id)
            .find_map(|(_, s)| s.nat.iter().find(|n| n.kind == "SNAT"));
        let by = by.map(|nat| format!("{} acts first", nat.rule)).unwrap_or_default();
        let tables = tables(before);
        let finding = Finding::new(
            &c::SNAT_TO_ANOTHER_ADDRESS,
            Certain,
            format!("{name} translates the source to {after}, the policy's egress IP is {wanted}: another rule comes first"),
        )
        .checked(format!("{SNAT_CHAIN} would give {wanted} ({set} matches)"), host.command(format!("{tables} -t nat -S {SNAT_CHAIN}")))
        .checked(by, host.command(format!("{tables} -t nat -vnL POSTROUTING --line-numbers")))
        .fix(format!("let the jump to {SNAT_CHAIN} be the first rule of nat POSTROUTING (restart the egressgateway agent), or remove the rule before it"))
        .at(hook_place(host, "POSTROUTING"));
        let stage = if self.from_tunnel(host) { Stage::OtherNode } else { Stage::Passing };
        Some(Found { stage, finding })
    }

    /// The egress IP is on no device, and no program answers ARP for it.
    fn not_announced(&self) -> Option<Found> {
        const ARP: u16 = 0x0806;
        let (host, device) = self.bare_exit()?;
        let entry = self.run.flight.entries.get(&host.id)?;
        let address = entry.after.src.0;
        let (wanted, _) = policys_address(&host.evidence, entry.before.src.0, entry.after.dst.0)?;
        let link = host.link(device)?;
        let on_link = host.evidence.addresses.iter().any(|a| {
            a.ifindex == device
                && crate::node::IpPrefix::new(a.address, a.prefix_len)
                    .is_some_and(|net| net.contains(address))
        });
        let proxied = ["all", link.name.as_str()]
            .iter()
            .any(|name| host.sysctl(&format!("net/ipv4/conf/{name}/proxy_arp")) == Some(1));
        let listens = host
            .packet_sockets
            .as_ref()?
            .iter()
            .any(|(proto, at)| matches!(*proto, ARP | ETH_P_ALL) && (*at == device || *at == 0));
        if !wanted.contains(address)
            || address.is_ipv6()
            || host.owns(address)
            || !on_link
            || proxied
            || listens
        {
            return None;
        }
        let (name, shown) = (host.name(), host.device(device));
        let finding = Finding::new(
            &c::NO_ANSWER,
            Likely,
            format!("nobody answers ARP for the egress IP {address} on {shown} of {name}: replies to it do not find their way"),
        )
        .checked(format!("{address} is on no device of {name}"), host.command(format!("ip addr show to {address}")))
        .checked(format!("no program listens to ARP on {shown}"), host.command("cat /proc/net/packet"))
        .fix(format!("start (or restart) the egressgateway agent on {name}; from that network: arping {address}"))
        .at(Walker::place(host, device));
        let stage = if self.from_tunnel(host) { Stage::OtherNode } else { Stage::Arriving };
        Some(Found { stage, finding })
    }

    /// Not taken into the tunnel, though a policy's sets name one of its ends.
    fn not_selected(&self) -> Option<Found> {
        let (host, device) = self.bare_exit()?;
        if Some(host.id) != self.run.first_node || self.is_translated(host) || self.is_marked(host) {
            return None;
        }
        // The mark is put on what pods of this node send.
        if matches!(self.run.steps.first()?.place, Place::Device { .. }) {
            return None;
        }
        let evidence = &host.evidence;
        let (source, destination) = (self.start.src.0, self.start.dst.0);
        let family = if source.is_ipv6() { "v6" } else { "v4" };
        let prefix = format!("egress-src-{family}-");
        let left_as = self.run.flight.packet.src;
        let name = host.name();
        let tables = tables(source);
        let rules = chain_rules(evidence, "mangle", REQUEST_CHAIN);
        let at = Walker::place(host, device);
        let list = |set: &str| host.command(format!("ipset list {set}"));
        for set in evidence.sets.keys().filter(|set| set.starts_with(&prefix)) {
            let other = format!("egress-dst-{family}-{}", &set[prefix.len()..]);
            let (from, to) = (contains(evidence, set, source), contains(evidence, &other, destination));
            let empty = evidence.sets.get(&other).is_some_and(|s| s.members.is_empty());
            let used = rules.iter().any(|r| {
                r.matches.iter().any(|m| matches!(&m.what, Criterion::Set { name, .. } if name == set))
            });
            // The gateway of a policy needs no mark for pods of its own.
            if from && to && chain_rules(evidence, "nat", SNAT_CHAIN).iter().any(|r| names_set(r, set)) {
                continue;
            }
            let finding = if from && to {
                let finding = Finding::new(
                    &c::EGRESS_NOT_HANDLED,
                    Certain,
                    format!("a policy of EgressGateway selects {source} and {destination}, but {name} does not mark them: the packet would leave as {left_as}"),
                )
                .checked(format!("{set} and {other} contain them"), list(set));
                let list_chain = host.command(format!("{tables} -t mangle -S {REQUEST_CHAIN}"));
                if used {
                    let near = nearest(evidence, Hook::Prerouting, "mangle", self.packet, REQUEST_CHAIN);
                    let why = near.map_or_else(
                        || format!("the rule for it in mangle {REQUEST_CHAIN} is not reached"),
                        |n| why(&n),
                    );
                    finding
                        .checked(why, host.command(format!("{tables} -t mangle -vnL PREROUTING --line-numbers")))
                        .fix("let EgressGateway's rules come first in mangle PREROUTING (Calico: FelixConfiguration chainInsertMode: Append); restart its agent")
                } else {
                    finding
                        .checked(format!("no rule of mangle {REQUEST_CHAIN} uses these sets"), list_chain)
                        .fix(format!("start (or restart) the egressgateway agent on {name}; read its log"))
                }
            } else if used && to && !from {
                Finding::new(
                    &c::EGRESS_POD_NOT_SELECTED,
                    Possible,
                    format!("{destination} is a destination of an EgressPolicy, but {source} is not in its set of pods: the packet would leave as {left_as}"),
                )
                .checked(format!("{set} does not contain {source}"), list(set))
                .checked(format!("{other} contains {destination}"), list(&other))
                .fix("if the policy should select this pod: correct its spec.appliedTo.podSelector, or see why the agent is behind (EgressEndpointSlice)")
            } else if used && from && empty {
                Finding::new(
                    &c::EGRESS_DESTINATION_NOT_SELECTED,
                    Likely,
                    format!("an EgressPolicy selects {source}, but its set of destinations is empty: {destination} would be left alone"),
                )
                .checked(format!("{other} is empty"), list(&other))
                .fix(format!("add {destination} to the policy's spec.destSubnet"))
            } else {
                continue;
            };
            return Some(Found { stage: Stage::Marking, finding: finding.at(at) });
        }
        None
    }

    fn is_translated(&self, host: &Host) -> bool {
        self.run.flight.entries.get(&host.id).is_some_and(|e| e.before.dst != e.after.dst)
    }

    fn is_marked(&self, host: &Host) -> bool {
        let ours = |mark: Option<u32>| {
            mark.is_some_and(|m| is_node_mark(m) || m == crate::explain::egress::MARK_DONE)
        };
        self.steps()
            .any(|(h, step)| h.id == host.id && (ours(step.mark) || step.marks.iter().any(|m| ours(m.to))))
    }

    /// An address of the services' network that leaves as it is.
    fn not_translated(&self) -> Option<Found> {
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
    fn pod_address(&self) -> Option<Found> {
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
        let spared = near_misses(&host.evidence, Hook::Postrouting, "nat", packet)
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
    fn by_default_route(&self, host: &Host, to: IpAddr) -> bool {
        let mut covering = host
            .evidence
            .routes
            .iter()
            .filter(|r| r.destination.contains(to) && r.table == u32::from(libc::RT_TABLE_MAIN));
        covering.all(|r| r.destination.is_empty())
    }

    /// From outside to a service, and on with the client's address to an endpoint that answers by another way.
    fn not_masqueraded(&self) -> Option<Found> {
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

    fn sidecar_bypassed(&self) -> Option<Found> {
        let (host, _) = self.steps().next()?;
        if host.role != Role::Pod || self.run.flight.packet.proto != 6 {
            return None;
        }
        let proxy =
            host.evidence.sockets.iter().find(|s| s.proto == 6 && PROXY_PORTS.contains(&s.local.port()))?;
        let redirects = host.evidence.tables("nat").flat_map(|t| &t.chains).flat_map(|c| &c.rules).any(|r| {
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

/// The address of the policy that selects both ends, by the rules of a gateway; with the set that says so.
pub(super) fn policys_address(
    evidence: &NetnsEvidence,
    source: IpAddr,
    destination: IpAddr,
) -> Option<(IpRange, String)> {
    chain_rules(evidence, "nat", SNAT_CHAIN).iter().find_map(|rule| {
        let mut named = None;
        for m in &rule.matches {
            let Criterion::Set { name, .. } = &m.what else { continue };
            let address = if name.starts_with("egress-src-") { source } else { destination };
            if contains(evidence, name, address) == m.negated {
                return None;
            }
            named = Some(name.clone());
        }
        match rule.target() {
            Some(Target::Snat(to)) => Some((to.addresses?, named?)),
            _ => None,
        }
    })
}

/// A policy's sets name both ends. On the node of a pod they name the pods of that node only.
pub(super) fn selected(evidence: &NetnsEvidence, source: IpAddr, destination: IpAddr) -> bool {
    let family = if source.is_ipv6() { "v6" } else { "v4" };
    let prefix = format!("egress-src-{family}-");
    evidence.sets.keys().filter(|set| set.starts_with(&prefix)).any(|set| {
        let other = format!("egress-dst-{family}-{}", &set[prefix.len()..]);
        // Without a set of destinations the policy is for all of them.
        let to = !evidence.sets.contains_key(&other) || contains(evidence, &other, destination);
        to && contains(evidence, set, source)
    })
}

fn chain_rules<'e>(evidence: &'e NetnsEvidence, table: &'e str, chain: &'e str) -> Vec<&'e Rule> {
    evidence.tables(table).filter_map(|t| t.chain(chain)).flat_map(|c| &c.rules).collect()
}

fn names_set(rule: &Rule, set: &str) -> bool {
    rule.matches.iter().any(|m| matches!(&m.what, Criterion::Set { name, .. } if name == set))
}

fn contains(evidence: &NetnsEvidence, set: &str, address: IpAddr) -> bool {
    evidence.sets.get(set).is_some_and(|set| {
        set.members.iter().any(|m| {
            !m.nomatch
                && matches!(m.fields.first(), Some(MemberField::Address(range)) if range.contains(address))
        })
    })
}

/// Why the rule of a chain that should have acted did not.
fn nearest(
    evidence: &NetnsEvidence,
    hook: Hook,
    table: &str,
    packet: &PacketView,
    chain: &str,
) -> Option<NearMiss> {
    near_misses(evidence, hook, table, packet).into_iter().find(|near| near.rule.chain == chain)
}

fn why(near: &NearMiss) -> String {
    match &near.miss {
        Miss::Failed { why, .. } => format!("{} does not match: {why}", near.rule),
        Miss::NotReached { by, verdict } => {
            format!("{} is not reached: {by} ends the walk before ({verdict})", near.rule)
        }
        Miss::NotEntered { jump, why, .. } => {
            format!("{} is not reached: {jump} does not match: {why}", near.rule)
        }
    }
}

fn tables(address: IpAddr) -> &'static str {
    if address.is_ipv6() { "ip6tables" } else { "iptables" }
}

fn hook_place(host: &Host, hook: &str) -> crate::explain::Place {
    crate::explain::Place { hook: Some(hook.to_owned()), ..Walker::place(host, 0) }
}

/// EgressGateway's tunnel device of a host.
pub(super) fn egress_tunnel(host: &Host) -> Option<&Link> {
    host.evidence.link(DEVICE).or_else(|| host.evidence.links.iter().find(|l| is_egress_tunnel(l)))
}
