// SPDX-License-Identifier: MIT OR Apache-2.0
//! From device to device: veths, bridges with and without br_netfilter, uplinks; who answers for the next hop.

use std::net::IpAddr;
use std::sync::Arc;

use super::packet_state::{Flight, Mode};
use super::silence::SilentHop;
use super::steps::{Direction, Place, Stage, Step};
use super::walker::{End, Next, Walker};
use super::world::Host;
use crate::cause::Certainty::Certain;
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::cause::nat_addresses;
use crate::node::Role;
use crate::node::rtnl::{Link, Neighbour};
use crate::snapshot::Change;

// include/uapi/linux/neighbour.h
pub(crate) const NUD_INCOMPLETE: u16 = 0x01;

pub(crate) const NUD_FAILED: u16 = 0x20;

/// Who has the address of the next hop, seen from a device.
pub(crate) enum Answer {
    /// The namespace behind the veth, at this device.
    Peer(Arc<Host>, u32),
    /// Nobody behind it.
    Nobody,
    /// What is behind it is not known.
    NotKnown,
}

impl Walker<'_> {
    /// Out of a device of the host, towards `flight.next_hop`.
    pub(crate) fn transmit(&mut self, host: &Arc<Host>, flight: &mut Flight, output: u32) -> Next {
        let Some(link) = host.link(output).cloned() else {
            return Next::End(End::Unknown(format!("{} has no device {output} any more", host.name())));
        };
        if !link.is_up() {
            return self.down(host, flight, &link, Stage::Passing, "packets are routed to it");
        }
        if flight.packet.src.is_loopback() && !link.is_loopback() {
            let entry = flight.entries.get(&host.id).filter(|entry| entry.before.dst != entry.after.dst);
            let asked = entry.map(|entry| entry.before.ends().dst.to_string());
            let (name, device) = (host.name(), host.device(output));
            let ends = (flight.packet.src, flight.packet.dst);
            let command = |command: String| host.command(command);
            let finding = nat_addresses::loopback_source((&name, &device), ends, asked, &command);
            let stage = self.stage(host, Stage::Passing, flight);
            self.wrong(stage, finding.at(Self::place(host, output)));
        }
        self.fit(host, flight, &link);
        flight.asker = Some((host.id, output));
        if let Some(mac) = link.mac.first_chunk() {
            flight.packet.mac = Some(*mac);
        }
        if let Err(next) = self.through(host, output, Direction::Out, flight) {
            return next;
        }
        if link.is_loopback() {
            return Next::Receive(host.clone(), output);
        }
        if link.vxlan.is_some() {
            return self.encapsulate(host, flight, &link);
        }
        if link.is_kind("bridge") {
            return self.by_bridge(host, flight, &link, None);
        }
        self.wire(host, flight, &link)
    }

    fn down(&mut self, host: &Arc<Host>, flight: &Flight, link: &Link, own: Stage, why: &str) -> Next {
        let device = host.device(link.ifindex);
        let finding = Finding::new(&c::SIMPLE, Certain, format!("{device} of {} is down", host.name()))
            .checked(why, host.command(format!("ip link show {device}")))
            .fix(host.command(format!("ip link set {device} up")))
            .change(host.id, Change::DeviceUp(link.ifindex))
            .at(Self::place(host, link.ifindex));
        let stage = self.stage(host, own, flight);
        self.stop(host, stage, finding)
    }

    /// Over a link to whoever has the next hop's address.
    pub(crate) fn wire(&mut self, host: &Arc<Host>, flight: &Flight, link: &Link) -> Next {
        let Some(hop) = flight.next_hop else {
            return Next::End(End::Left(host.clone(), link.ifindex));
        };
        let watched = self.world.watched().into_iter().find(|other| {
            other.id != host.id && other.role == Role::Node && other.owns(hop) && host.role == Role::Node
        });
        if let Some(other) = watched
            && host.uplinks.contains(&link.ifindex)
            && let Some(device) = other.owner(hop)
        {
            return Next::Receive(other, device);
        }
        if host.uplinks.contains(&link.ifindex) {
            return self
                .unanswered(host, flight, link, hop, false)
                .unwrap_or(Next::End(End::Left(host.clone(), link.ifindex)));
        }
        match self.answer(host, link, hop) {
            Answer::Peer(other, device) => {
                // It is not the one that has the address: a port of a bridge, or proxy ARP.
                let silent =
                    (!other.owns(hop)).then(|| self.silent_by_state(host, flight, link, hop)).flatten();
                silent.unwrap_or(Next::Receive(other, device))
            }
            Answer::Nobody => match self.unanswered(host, flight, link, hop, true) {
                Some(next) => next,
                None => Next::End(End::Left(host.clone(), link.ifindex)),
            },
            Answer::NotKnown => self
                .unanswered(host, flight, link, hop, false)
                .unwrap_or(Next::End(End::Left(host.clone(), link.ifindex))),
        }
    }

    pub(crate) fn answer(&mut self, host: &Arc<Host>, link: &Link, hop: IpAddr) -> Answer {
        let Some((other, device)) = self.world.peer(host, link) else { return Answer::NotKnown };
        let Some(end) = other.link(device) else { return Answer::NotKnown };
        let name = &end.name;
        let proxied =
            ["net/ipv4/conf/NAME/proxy_arp", "net/ipv6/conf/NAME/proxy_ndp", "net/ipv4/conf/all/proxy_arp"]
                .iter()
                .any(|path| other.sysctl(&path.replace("NAME", name)) == Some(1));
        // Whoever is on the bridge answers, and what is known of the bridge tells who.
        if other.owns(hop) || proxied || end.master.is_some() {
            return Answer::Peer(other, device);
        }
        Answer::Nobody
    }

    /// What the neighbour table says of a next hop that is on no watched device. `nobody`: it is known that no one
    /// behind the device has it.
    pub(crate) fn unanswered(
        &mut self,
        host: &Arc<Host>,
        flight: &Flight,
        link: &Link,
        hop: IpAddr,
        nobody: bool,
    ) -> Option<Next> {
        let known = host.evidence.neighbours.iter().find(|n| n.ifindex == link.ifindex && n.address == hop);
        if let Some(next) = self.silent_by_state(host, flight, link, hop) {
            return Some(next);
        }
        let device = host.device(link.ifindex);
        let silent = match known {
            Some(entry) if entry.state & (NUD_FAILED | NUD_INCOMPLETE) != 0 => true,
            Some(entry) if !entry.mac.is_empty() => return None,
            _ => nobody,
        };
        if !silent {
            // Of the destination itself it is said at the end that nobody knows whether it answers.
            if !link.is_layer3() && hop != flight.packet.dst {
                self.open(format!(
                    "whether {hop} answers on {device} of {}: it was not asked lately",
                    host.name()
                ));
            }
            return None;
        }
        let seen = match known {
            Some(_) => "the kernel asked for its address and got no answer",
            None => "no namespace behind the device has this address",
        };
        let stage = self.stage_of_question(host, flight, hop);
        let finding = self
            .asked(host, flight, link, hop)
            .unexplained(self.world)
            .checked(seen, host.command(format!("ip neigh show {hop} dev {device}")));
        Some(self.stop(host, stage, finding))
    }

    /// The state of the namespaces says that whoever has the next hop's address is not heard, or does not answer.
    pub(crate) fn silent_by_state(
        &mut self,
        host: &Arc<Host>,
        flight: &Flight,
        link: &Link,
        hop: IpAddr,
    ) -> Option<Next> {
        let asked = self.asked(host, flight, link, hop);
        let known = |n: &&Neighbour| n.ifindex == asked.ifindex && n.address == hop && !n.mac.is_empty();
        let entry = asked.asker.evidence.neighbours.iter().find(known);
        if entry.is_some_and(|entry| entry.state & (NUD_FAILED | NUD_INCOMPLETE) == 0) || link.is_layer3() {
            return None;
        }
        let finding = asked.reason(self.world)?;
        let stage = self.stage_of_question(&asked.asker, flight, hop);
        Some(self.stop(host, stage, finding))
    }

    fn stage_of_question(&self, host: &Host, flight: &Flight, hop: IpAddr) -> Stage {
        match flight.mode {
            Mode::Reply => Stage::Returning,
            _ if host.role == Role::Pod && hop != flight.packet.dst => Stage::Sending,
            _ => self.stage(host, Stage::Passing, flight),
        }
    }

    /// Who asks for the next hop: the sender of the frame, where it crosses a bridge.
    pub(crate) fn asked(&self, host: &Arc<Host>, flight: &Flight, link: &Link, hop: IpAddr) -> SilentHop {
        let bridged = flight.asker.filter(|_| self.bridging);
        let asker = bridged.and_then(|(id, ifindex)| Some((self.world.host(id)?, ifindex)));
        let (asker, ifindex) = asker.unwrap_or_else(|| (host.clone(), link.ifindex));
        let source = flight.packet.src;
        SilentHop { asker, ifindex, address: hop, source, is_gateway: hop != flight.packet.dst }
    }

    /// A frame arrives.
    pub(crate) fn receive(&mut self, host: &Arc<Host>, device: u32, flight: &mut Flight) -> Next {
        self.enter(host, flight);
        let Some(link) = host.link(device).cloned() else {
            return Next::End(End::Unknown(format!("{} has no device {device} any more", host.name())));
        };
        if link.is_up()
            && let Err(next) = self.through(host, device, Direction::In, flight)
        {
            return next;
        }
        if !link.is_up() {
            return self.down(host, flight, &link, Stage::Marking, "the packet would come in by it");
        }
        if let Some(next) = self.looped(host, device, flight) {
            return next;
        }
        if let Some(next) = self.unasked(host, &link, flight) {
            return next;
        }
        match link.master.and_then(|master| host.link(master).cloned()) {
            Some(bridge) if bridge.is_kind("bridge") => self.at_bridge(host, flight, &link, &bridge),
            _ => {
                if let Some(next) = self.no_port(host, flight, &link) {
                    return next;
                }
                self.ingress(host, flight, device)
            }
        }
    }

    /// The same packet at the same place again.
    pub(crate) fn looped(&mut self, host: &Arc<Host>, device: u32, flight: &mut Flight) -> Option<Next> {
        const TIMES: usize = 2;
        let here = (host.id, device);
        flight.seen.push(here);
        if flight.seen.iter().filter(|seen| **seen == here).count() <= TIMES {
            return None;
        }
        let finding = self
            .circles(host, flight)
            .fact("the expected path comes to the same device again and again, until the TTL is used up")
            .at(Self::place(host, device));
        let stage = self.stage(host, Stage::Routing, flight);
        Some(self.stop(host, stage, finding))
    }

    /// This packet came to the host before, and was sent on.
    pub(crate) fn was_routed_by(&self, host: &Host) -> bool {
        let routed = |step: &Step| matches!(step.place, Place::Route { local: false, .. });
        self.steps.iter().zip(&self.hosts).any(|(step, id)| *id == host.id && routed(step))
    }

    pub(crate) fn circles(&self, host: &Host, flight: &Flight) -> Finding {
        let to = flight.packet.dst;
        let mut by: Vec<String> = Vec::new();
        let mut told = Vec::new();
        for (step, id) in self.steps.iter().zip(&self.hosts) {
            let Place::Route { device, via, local: false, .. } = &step.place else { continue };
            let is_node = self.world.host(*id).is_some_and(|host| host.role == Role::Node);
            // The first of each host: others may be of the outer packet.
            if !is_node || told.contains(id) || told.len() == 3 {
                continue;
            }
            told.push(*id);
            let next = via.as_ref().map_or_else(String::new, |via| format!("to {via} "));
            by.push(format!("{} sends them {next}by {device}", step.netns));
        }
        let marks: Vec<u32> =
            self.steps.iter().rev().take(12).flat_map(|s| &s.marks).filter_map(|m| m.to).collect();
        let egress = marks.iter().any(|m| crate::cluster::egress::datapath::is_node_mark(*m));
        Finding::new(
            &c::ROUTING_LOOP,
            Certain,
            format!("packets to {to} go round in circles: {}", by.join(", ")),
        )
        .checked(
            format!("the way it takes from {}", host.name()),
            host.command(format!("ip rule; {}", host.command(format!("ip route get {to}")))),
        )
        .fix(if egress {
            "an EgressGateway mark is put on packets that come back from the gateway: upgrade the agent to 0.6.6 or later"
        } else {
            "two hosts route to each other: correct the route (or the mark that chooses it) on one of them"
        })
        .about(to)
        .at(Self::place(host, 0))
    }
}
