// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bridges, with br_netfilter and without: which port a frame leaves by, and veths that are not in the bridge.

use std::net::IpAddr;
use std::sync::Arc;

use super::link::Answer;
use super::packet_state::Flight;
use super::steps::{AtHook, Direction, Stage};
use super::walker::{End, Next, Walker};
use super::world::Host;
use crate::cause::Certainty::{Certain, Likely};
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::firewall::Aside;
use crate::node::Hook;
use crate::node::rtnl::Link;
use crate::snapshot::Change;

impl Walker<'_> {
    /// To the port behind which the next hop is. `from`: the port that the frame came in by; `None`: it is one of the
    /// bridge's own host.
    pub(crate) fn by_bridge(
        &mut self,
        host: &Arc<Host>,
        flight: &mut Flight,
        bridge: &Link,
        from: Option<&Link>,
    ) -> Next {
        let Some(hop) = flight.next_hop else { return Next::End(End::Left(host.clone(), bridge.ifindex)) };
        let answer = self.port(host, bridge, hop);
        if let Answer::Peer(_, port) = &answer
            && let Err(next) = self.forwarded(host, flight, from, *port)
        {
            return next;
        }
        self.by_port(host, flight, bridge, hop, answer)
    }

    fn by_port(
        &mut self,
        host: &Arc<Host>,
        flight: &mut Flight,
        bridge: &Link,
        hop: IpAddr,
        answer: Answer,
    ) -> Next {
        match answer {
            Answer::Peer(_, port) => self.out_of_port(host, flight, port),
            Answer::Nobody => self
                .unanswered(host, flight, bridge, hop, true)
                .unwrap_or(Next::End(End::Left(host.clone(), bridge.ifindex))),
            Answer::NotKnown => self
                .unanswered(host, flight, bridge, hop, false)
                .unwrap_or(Next::End(End::Left(host.clone(), bridge.ifindex))),
        }
    }

    /// The bridge decides to send it by a port, and asks its own rules (br_forward).
    fn forwarded(
        &mut self,
        host: &Arc<Host>,
        flight: &mut Flight,
        from: Option<&Link>,
        port: u32,
    ) -> Result<(), Next> {
        if let Some(link) = host.link(port).cloned() {
            if let Some(next) = self.blocked(host, flight, &link) {
                return Err(next);
            }
            if from.is_some_and(|from| from.ifindex == port)
                && link.port.is_some_and(|port| port.hairpin == Some(false))
            {
                let finding = self.hairpin_off(host, flight, &link);
                let stage = self.stage(host, Stage::Passing, flight);
                return Err(self.stop(host, stage, finding));
            }
        }
        let at = match from {
            Some(from) => AtHook::new(Hook::Forward, from.ifindex, port),
            None => AtHook::new(Hook::Output, 0, port),
        };
        self.aside(host, Aside::Bridge, at, flight)
    }

    fn out_of_port(&mut self, host: &Arc<Host>, flight: &mut Flight, port: u32) -> Next {
        let at = AtHook::new(Hook::Postrouting, 0, port);
        if let Err(next) = self.aside(host, Aside::Bridge, at, flight) {
            return next;
        }
        if let Err(next) = self.through(host, port, Direction::Out, flight) {
            return next;
        }
        let link = host.link(port).cloned();
        match link.and_then(|link| self.world.peer(host, &link)) {
            Some((other, device)) => Next::Receive(other, device),
            None => Next::End(End::Left(host.clone(), port)),
        }
    }

    /// A frame that would have to leave by the port that it came in by.
    fn hairpin_off(&self, host: &Host, flight: &Flight, port: &Link) -> Finding {
        let (device, name, to) = (host.device(port.ifindex), host.name(), flight.packet.dst);
        Finding::new(
            &c::HAIRPIN_OFF,
            Certain,
            format!("{to} is behind {device} of {name}, by which the packet came in: the bridge does not send a frame back there"),
        )
        .checked(format!("hairpin is off on {device}"), host.command(format!("bridge -d link show dev {device}")))
        .fix(host.command(format!("bridge link set dev {device} hairpin on")))
        .change(host.id, Change::HairpinOn(port.ifindex))
        .at(Self::place(host, port.ifindex))
    }

    /// The port of a bridge behind which an address is (as [`Answer::Peer`]: the host and the port).
    pub(crate) fn port(&mut self, host: &Arc<Host>, bridge: &Link, address: IpAddr) -> Answer {
        let ports: Vec<Link> =
            host.evidence.links.iter().filter(|l| l.master == Some(bridge.ifindex)).cloned().collect();
        let mut all_known = true;
        for port in &ports {
            match self.world.peer_addresses(host, port) {
                Some(there) if there.contains(&address) => return Answer::Peer(host.clone(), port.ifindex),
                // One without addresses of its own leads on.
                Some(there) => all_known &= there.iter().any(|a| !a.is_loopback()),
                None => all_known = false,
            }
        }
        // A port of another bridge leads on, too.
        let mut leads_on = |port: &Link| {
            let behind = self.world.peer(host, port);
            behind.is_some_and(|(other, ifindex)| other.link(ifindex).is_some_and(|l| l.master.is_some()))
        };
        all_known &= !ports.iter().any(&mut leads_on);
        // By what the bridge has learned, for ports that lead elsewhere.
        let mac = host
            .evidence
            .neighbours
            .iter()
            .find(|n| n.address == address && n.ifindex == bridge.ifindex && !n.mac.is_empty())
            .map(|n| n.mac.clone());
        let learned = mac.and_then(|mac| {
            host.evidence.fdb.iter().find(|e| e.mac == mac && e.master == Some(bridge.ifindex) && !e.own)
        });
        match learned.filter(|_| !all_known) {
            Some(entry) => Answer::Peer(host.clone(), entry.ifindex),
            None if all_known => Answer::Nobody,
            None => Answer::NotKnown,
        }
    }

    /// The next hop's address is on a bridge, and the device is not in it.
    pub(crate) fn no_port(&mut self, host: &Arc<Host>, flight: &Flight, link: &Link) -> Option<Next> {
        let hop = flight.next_hop?;
        let bridge = host.owner(hop).filter(|i| *i != link.ifindex).and_then(|i| host.link(i))?;
        if !link.is_kind("veth")
            || !bridge.is_kind("bridge")
            || link.master.is_some()
            || host.uplinks.contains(&link.ifindex)
        {
            return None;
        }
        // Addresses of its own: a routed veth.
        if host
            .evidence
            .addresses
            .iter()
            .any(|a| a.ifindex == link.ifindex && a.address.is_ipv4() == hop.is_ipv4() && a.scope == 0)
        {
            return None;
        }
        let port_of = bridge.ifindex;
        let (device, bridge) = (host.device(link.ifindex), host.device(port_of));
        let finding = Finding::new(
            &c::PORT_NOT_IN_BRIDGE,
            Likely,
            format!("{device} is not in {bridge}, which has the pod's gateway address {hop}: frames for it end at {device}"),
        )
        .checked(format!("{device} is in no bridge"), host.command(format!("ip -d link show {device}")))
        .checked(format!("{hop} is on {bridge}"), host.command(format!("ip addr show {bridge}")))
        .fix(host.command(format!("ip link set {device} master {bridge}")))
        .change(host.id, Change::JoinBridge { port: link.ifindex, bridge: port_of })
        .at(Self::place(host, link.ifindex));
        let stage = self.stage(host, Stage::Marking, flight);
        Some(self.stop(host, stage, finding))
    }

    pub(crate) fn at_bridge(
        &mut self,
        host: &Arc<Host>,
        flight: &mut Flight,
        port: &Link,
        bridge: &Link,
    ) -> Next {
        if let Some(next) = self.blocked(host, flight, port) {
            return next;
        }
        let key =
            if flight.packet.src.is_ipv6() { "bridge-nf-call-ip6tables" } else { "bridge-nf-call-iptables" };
        let filtered = host.sysctl(&format!("net/bridge/{key}")) == Some(1);
        let up = flight.next_hop.is_none_or(|hop| host.owns(hop));
        self.bridging = !up;
        let coming = AtHook::new(Hook::Prerouting, port.ifindex, 0);
        if let Err(next) = self.aside(host, Aside::Bridge, coming, flight) {
            return next;
        }
        if !filtered {
            if !up {
                return self.by_bridge(host, flight, bridge, Some(port));
            }
            return match self.up(host, flight, port, bridge) {
                Ok(()) => self.ingress(host, flight, bridge.ifindex),
                Err(next) => next,
            };
        }
        let name = port.name.clone();
        let before = flight.packet.dst;
        let at = AtHook { ports: Some((&name, "")), ..AtHook::new(Hook::Prerouting, bridge.ifindex, 0) };
        if let Err(next) = self.hook(host, at, flight) {
            return next;
        }
        if flight.packet.dst != before {
            // Translated: the bridge asks routing, and keeps the frame where that leads to the bridge itself, whoever it
            // was addressed to (br_nf_pre_routing_finish).
            self.bridging = false;
            let way = match self.route(host, flight, bridge.ifindex) {
                Ok(way) => way,
                Err(next) => return next,
            };
            if way.output != bridge.ifindex || way.local {
                return match self.up(host, flight, port, bridge) {
                    Ok(()) => self.onward(host, flight, bridge.ifindex, way),
                    Err(next) => next,
                };
            }
            flight.asker = Some((host.id, bridge.ifindex));
        } else if up {
            return match self.up(host, flight, port, bridge) {
                Ok(()) => self.routed(host, flight, bridge.ifindex),
                Err(next) => next,
            };
        }
        let hop = flight.next_hop.unwrap_or(flight.packet.dst);
        let answer = self.port(host, bridge, hop);
        let mut out = String::new();
        if let Answer::Peer(_, port_out) = &answer {
            if let Err(next) = self.forwarded(host, flight, Some(port), *port_out) {
                return next;
            }
            out = host.link(*port_out).map(|l| l.name.clone()).unwrap_or_default();
        }
        for hook in [Hook::Forward, Hook::Postrouting] {
            let input = if hook == Hook::Forward { bridge.ifindex } else { 0 };
            let at = AtHook { ports: Some((&name, &out)), ..AtHook::new(hook, input, bridge.ifindex) };
            if let Err(next) = self.hook(host, at, flight) {
                return next;
            }
        }
        self.by_port(host, flight, bridge, hop, answer)
    }

    /// From a port to the bridge's own host.
    fn up(&mut self, host: &Arc<Host>, flight: &mut Flight, port: &Link, bridge: &Link) -> Result<(), Next> {
        self.aside(host, Aside::Bridge, AtHook::new(Hook::Input, port.ifindex, 0), flight)?;
        self.through(host, bridge.ifindex, Direction::In, flight)
    }
}
