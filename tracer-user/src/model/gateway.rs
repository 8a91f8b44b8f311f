// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a gateway makes of the packet: whose address it leaves with, and whether that address is answered for.

use std::net::IpAddr;

use super::egress_sets::{nearest, policys_address, why};
use super::judge::{ETH_P_ALL, Judge, before_rule, hook_place, tables};
use super::route_words::ip_command;
use super::steps::Stage;
use super::walker::{Found, Walker};
use super::world::Host;
use crate::cause::Certainty::{Certain, Likely};
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::cause::policies;
use crate::cluster::egress::datapath::{DEVICE, SNAT_CHAIN, is_egress_tunnel};
use crate::node::Hook;
use crate::node::rtnl::Route;
use crate::snapshot::{Change, jumping};

/// The source is of the tunnel's own network: no pod's.
fn tunnels_own(host: &Host, source: IpAddr) -> Option<Finding> {
    let (name, ip) = (host.name(), ip_command(source));
    let by_tunnel = |route: &&Route| {
        !route.destination.is_empty()
            && route.destination.contains(source)
            && route.next_hops.iter().any(|hop| host.link(hop.ifindex).is_some_and(is_egress_tunnel))
    };
    host.evidence.routes.iter().find(by_tunnel)?;
    Some(
        Finding::new(
            &c::MASQUERADED_BEFORE_TUNNEL,
            Likely,
            format!("the pod's node masqueraded the source to its tunnel address {source}: {name} does not know it as a pod's"),
        )
        .checked(
            format!("{source} is on the network of {DEVICE}"),
            host.command(format!("{ip} route get {source}")),
        )
        .fix("on the pod's node, put the CNI's POSTROUTING rules after EgressGateway's (Calico: chainInsertMode: Append)"),
    )
}

/// A rule in raw turned tracking off, and without tracking there is no NAT.
fn not_tracked(host: &Host, rule: &str, source: IpAddr) -> Finding {
    Finding::new(
        &c::UNTRACKED,
        Certain,
        format!("{} does not track the packet ({rule} says NOTRACK), so nothing can give it the egress IP: it leaves as {source}", host.name()),
    )
    .checked(format!("{rule} matches it"), host.command(format!("{} -t raw -S", tables(source))))
    .fix(format!("remove {rule}, or let it spare what comes from {DEVICE}"))
}

impl Judge<'_> {
    pub(crate) fn left_without_snat(&self) -> Option<Found> {
        let (host, device) = self.bare_exit()?;
        let entry = self.run.flight.entries.get(&host.id)?;
        if !self.came_by_tunnel(host) || entry.before.src != entry.after.src {
            return None;
        }
        let source = entry.after.src.0;
        let name = host.name();
        if let Some(finding) = tunnels_own(host, source) {
            return Some(Found { stage: Stage::OtherNode, finding: finding.at(Walker::place(host, device)) });
        }
        if let Some(rule) = self.run.flight.untracked_by(host.id) {
            let finding = not_tracked(host, rule, source).at(hook_place(host, "PREROUTING"));
            return Some(Found { stage: Stage::OtherNode, finding });
        }
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
        let (from, to) = (self.start.src.0, self.start.dst.0);
        let said = self.objects.and_then(|objects| policies::no_address(objects, from, to, &name));
        let finding = match said {
            Some((fact, show, fix)) => finding.checked(fact, show).fix(fix),
            None => finding.fix("see whether the EgressPolicy has an egress IP (status.eip); restart the egressgateway agent on the gateway"),
        };
        let finding = finding.at(Walker::place(host, device));
        Some(Found { stage: Stage::OtherNode, finding })
    }

    /// SNAT gives another address than the policy's rule.
    pub(crate) fn other_source(&self) -> Option<Found> {
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
        let rule = || Box::new(jumping(SNAT_CHAIN));
        let first = by.and_then(|nat| before_rule(host, &nat.rule));
        let first = first.map(|place| Change::InsertRule { place, rule: rule() });
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
        .may_repair(host.id, first)
        .at(hook_place(host, "POSTROUTING"));
        let stage = if self.came_by_tunnel(host) { Stage::OtherNode } else { Stage::Passing };
        Some(Found { stage, finding })
    }

    /// The egress IP is on no device, and no program answers ARP for it.
    pub(crate) fn not_announced(&self) -> Option<Found> {
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
            .evidence
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
            &c::SOURCE_UNCLAIMED,
            Likely,
            format!("nobody answers ARP for the egress IP {address} on {shown} of {name}: replies to it do not find their way"),
        )
        .checked(format!("{address} is on no device of {name}"), host.command(format!("ip addr show to {address}")))
        .checked(format!("no program listens to ARP on {shown}"), host.command("cat /proc/net/packet"))
        .fix(format!("start (or restart) the egressgateway agent on {name}; from that network: arping {address}"))
        .at(Walker::place(host, device));
        let stage = if self.came_by_tunnel(host) { Stage::OtherNode } else { Stage::Arriving };
        Some(Found { stage, finding })
    }
}
