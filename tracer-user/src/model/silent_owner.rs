// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a host that is known to have an address does not answer for it.

use std::sync::Arc;

use super::bridge_ports::Segment;
use super::route_words::ip_command;
use super::silence::SilentHop;
use super::world::{Host, World};
use crate::cause::Certainty::{Certain, Likely};
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::fib::{Decision, Question};
use crate::node::NetnsId;
use crate::node::rtnl::{Link, Route};
use crate::snapshot::Change;

/// The owner of an address, and its device that has it.
struct Owner {
    host: Arc<Host>,
    link: Link,
}

impl SilentHop {
    /// The address is a known host's.
    pub(super) fn silent_owner(&self, world: &mut dyn World) -> Option<Finding> {
        // A pod that is sent to itself.
        if self.address == self.source {
            return None;
        }
        let mut watched = world.watched().into_iter();
        let host = watched.find(|h| h.id != self.asker.id && h.owns(self.address))?;
        let link = host.link(host.owner(self.address)?)?.clone();
        // Services' addresses, of the node-local DNS cache and so on, are on every node.
        if link.is_loopback() || link.is_kind("dummy") {
            return None;
        }
        let owner = Owner { host, link };
        self.owner_is_down(&owner)
            .or_else(|| self.elsewhere(world, &owner))
            .or_else(|| self.mute(&owner))
            .or_else(|| self.refuses_source(&owner))
    }

    fn about_owner(&self, owner: &Owner, finding: Finding) -> Finding {
        finding.about(self.address).at(crate::cause::Place {
            netns: owner.host.name(),
            device: Some(owner.host.device(owner.link.ifindex)),
            ..crate::cause::Place::default()
        })
    }

    fn owner_is_down(&self, owner: &Owner) -> Option<Finding> {
        if owner.link.is_up() {
            return None;
        }
        let (device, name) = (owner.host.device(owner.link.ifindex), owner.host.name());
        let finding = Finding::new(
            &c::NEIGHBOUR_SILENT,
            Certain,
            format!("{} is on {device} of {name}, which is down: it does not answer", self.address),
        )
        .checked(format!("{device} is down"), owner.host.command(format!("ip -d addr show {device}")))
        .fix(owner.host.command(format!("ip link set {device} up")))
        .change(owner.host.id, Change::DeviceUp(owner.link.ifindex));
        Some(self.about_owner(owner, finding))
    }

    /// It is asked for on a network on which it is not.
    fn elsewhere(&self, world: &mut dyn World, owner: &Owner) -> Option<Finding> {
        let here = network(world, &self.asker, self.ifindex)?;
        let there = network(world, &owner.host, owner.link.ifindex)?;
        if here == there || self.is_gateway {
            return None;
        }
        let (name, out, to) = (self.asker.name(), self.asker.device(self.ifindex), self.address);
        let (place, device) = (owner.host.name(), owner.host.device(owner.link.ifindex));
        let onto = |route: &&Route| {
            route.kind == libc::RTN_UNICAST
                && route.destination.contains(to)
                && route.next_hops.iter().any(|hop| hop.ifindex == self.ifindex && hop.gateway.is_none())
        };
        let route = self.asker.evidence.routes.iter().filter(onto).max_by_key(|r| r.destination.len())?;
        let finding = Finding::new(
            &c::WRONG_ROUTE,
            Certain,
            format!(
                "{name} looks for {to} on the network of {out}, but it is {device} of {place}, on another one"
            ),
        )
        .checked(
            format!("the route by which {name} finds {to} leads to {out} directly"),
            self.asker.command(format!("{} route get {to}", ip_command(to))),
        )
        .fix(format!(
            "correct that route of {name}: {to} is reached by a gateway or tunnel, not on {out} itself"
        ))
        .change(self.asker.id, Change::DeleteRoute(route.clone()));
        Some(finding.about(to).at(crate::cause::Place {
            netns: name,
            device: Some(out),
            ..crate::cause::Place::default()
        }))
    }

    /// The device does not answer ARP, by its flags or sysctls.
    fn mute(&self, owner: &Owner) -> Option<Finding> {
        let (host, link) = (&owner.host, &owner.link);
        let (device, name) = (host.device(link.ifindex), host.name());
        let (text, fix, change) = if link.flags & libc::IFF_NOARP as u32 != 0 {
            let fix = host.command(format!("ip link set {device} arp on"));
            (format!("{device} has ARP switched off (NOARP)"), fix, None)
        } else {
            if self.address.is_ipv6() {
                return None;
            }
            let value = |name: &str| host.sysctl(&format!("net/ipv4/conf/{name}/arp_ignore")).unwrap_or(0);
            let of = ["all", link.name.as_str()].into_iter().max_by_key(|name| value(name))?;
            if value(of) != 8 {
                return None;
            }
            let key = format!("net.ipv4.conf.{}.arp_ignore", of.replace('.', "/"));
            let change = Change::Sysctl { path: format!("net/ipv4/conf/{of}/arp_ignore"), value: 0 };
            (format!("{key} is {}", value(of)), host.command(format!("sysctl -w {key}=0")), Some(change))
        };
        let mut finding = Finding::new(
            &c::NEIGHBOUR_SILENT,
            Certain,
            format!("{} is on {device} of {name}, but does not answer: {text}", self.address),
        )
        .checked(text, host.command(format!("ip -d addr show {device}")))
        .fix(fix);
        if let Some(change) = change {
            finding = finding.change(host.id, change);
        }
        Some(self.about_owner(owner, finding))
    }

    /// ARP requests carry the packet's source, and a host answers only sources that it would take packets from.
    fn refuses_source(&self, owner: &Owner) -> Option<Finding> {
        let (host, source, next) = (&owner.host, self.source, self.address);
        let (device, name, asker) = (host.device(owner.link.ifindex), host.name(), self.asker.name());
        if source.is_ipv6() {
            return None;
        }
        if let Some(index) = host.owner(source) {
            let own = host.device(index);
            let finding = Finding::new(
                &c::DUPLICATE_ADDRESS,
                Certain,
                format!("two hosts have {source}: {asker}, and {name} on {own}; so {name} ignores who asks from it, and {next} seems silent"),
            )
            .checked(format!("{source} is on {own} of {name}"), host.command(format!("ip addr show to {source}")))
            .checked(
                format!("{source} is the source of what {asker} sends"),
                self.asker.command(format!("ip addr show to {source}")),
            )
            .fix(host.command(format!("ip addr del {source} dev {own}")) + ", if that one is wrong")
            .change(host.id, Change::DeleteAddress { ifindex: index, address: source });
            return Some(self.about_owner(owner, finding).about(source));
        }
        let strict = |of: &str| host.sysctl(&format!("net/ipv4/conf/{of}/rp_filter"));
        if strict("all").max(strict(&owner.link.name)) != Some(1) {
            return None;
        }
        let evidence = host.evidence.clone();
        let fib = evidence.fib_about(&[source]);
        let answer = fib.lookup(&Question::to(source));
        let back = match &answer.certain()?.decision {
            Decision::Routed(routed)
                if routed.kind == libc::RTN_UNICAST
                    && routed.hops.iter().all(|hop| hop.ifindex != owner.link.ifindex) =>
            {
                let by = routed.hops.first().map_or_else(String::new, |hop| host.device(hop.ifindex));
                format!("reaches {source} by {by}")
            }
            Decision::Refused(_) => format!("has no route to {source}"),
            _ => return None,
        };
        let finding = Finding::new(
            &c::REVERSE_PATH_FILTER,
            Likely,
            format!("{asker} sends from {source}, but {name} {back}: the strict reverse path filter of {device} does not even let it answer who asks for {next}"),
        )
        .checked(
            format!("{asker} uses {source} as its source"),
            self.asker.command(format!("ip route get {next}")),
        )
        .checked(
            format!("{name} {back}, and rp_filter of {device} is 1"),
            host.command(format!(
                "ip route get {source}; {}",
                host.command(format!("sysctl net.ipv4.conf.{}.rp_filter", device.replace('.', "/")))
            )),
        )
        .fix(format!(
            "let {asker} send from an address of {device}'s network (src of its route, or the address that its program binds to), or give {name} a route: {}",
            host.command(format!("ip route add {source} dev {device}"))
        ));
        Some(self.about_owner(owner, finding).about(source))
    }
}

/// What tells networks apart: the bridge, else the pair of devices. `None`: it is not known where the device leads.
fn network(world: &mut dyn World, host: &Arc<Host>, ifindex: u32) -> Option<(NetnsId, u32)> {
    let link = host.link(ifindex)?.clone();
    if let Some(master) = link.master {
        return Some((host.id, master));
    }
    if let Some(segment) = Segment::of(world, host, ifindex) {
        return Some((segment.host.id, segment.bridge.ifindex));
    }
    let (peer, other) = world.peer(host, &link).filter(|_| link.is_veth())?;
    Some((host.id, ifindex).min((peer.id, other)))
}
