// SPDX-License-Identifier: MIT OR Apache-2.0
//! From PREROUTING on: routing, forwarding, or the socket; and packets that a host sends itself.

use std::sync::Arc;

use super::packet_state::{Flight, Mode};
use super::routes::Way;
use super::silence::no_usable_address;
use super::steps::{AtHook, Direction, Place, Stage};
use super::walker::{End, Next, Walker};
use super::world::Host;
use crate::cause::Certainty::{Certain, Likely, Possible};
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::cause::listening::{self, Near};
use crate::node::{Hook, Role};
use crate::snapshot::{Change, XfrmDirection};

const LOOPBACK: u32 = 1;

impl Walker<'_> {
    /// A packet that came in by a device of its own, or by a bridge that did not ask the rules.
    pub(crate) fn ingress(&mut self, host: &Arc<Host>, flight: &mut Flight, device: u32) -> Next {
        if let Err(next) = self.hook(host, AtHook::new(Hook::Prerouting, device, 0), flight) {
            return next;
        }
        self.routed(host, flight, device)
    }

    /// After PREROUTING.
    pub(crate) fn routed(&mut self, host: &Arc<Host>, flight: &mut Flight, device: u32) -> Next {
        // A packet on the loopback was routed when it was sent.
        let looped_back = host.link(device).is_some_and(crate::node::rtnl::Link::is_loopback);
        if looped_back && host.owns(flight.packet.dst) {
            return self.deliver(host, flight, device);
        }
        match self.route(host, flight, device) {
            Ok(way) => self.onward(host, flight, device, way),
            Err(next) => next,
        }
    }

    pub(crate) fn onward(&mut self, host: &Arc<Host>, flight: &mut Flight, device: u32, way: Way) -> Next {
        if way.local {
            return self.deliver(host, flight, device);
        }
        if let Err(next) = self
            .xfrm_in(host, XfrmDirection::Fwd, flight, device)
            .and_then(|()| self.xfrm_out(host, flight, way.output))
        {
            return next;
        }
        for at in
            [AtHook::new(Hook::Forward, device, way.output), AtHook::new(Hook::Postrouting, 0, way.output)]
        {
            if let Err(next) = self.hook(host, at, flight) {
                return next;
            }
        }
        self.transmit(host, flight, way.output)
    }

    /// A packet of the host itself.
    pub(crate) fn send(&mut self, host: &Arc<Host>, flight: &mut Flight) -> Next {
        self.enter(host, flight);
        if let Some(next) = self.nothing_up(host, flight) {
            return next;
        }
        if flight.mode == Mode::First
            && flight.inside.is_none()
            && let Some(finding) = no_usable_address(host, flight.packet.dst)
        {
            let stage = self.stage(host, Stage::Sending, flight);
            return self.stop(host, stage, finding);
        }
        let mut way = match self.route(host, flight, 0) {
            Ok(way) => way,
            Err(next) => return next,
        };
        if flight.packet.src.is_unspecified() {
            let chosen = way.source.or_else(|| host.address_on(way.output, way.next_hop));
            let Some(source) = chosen else {
                let name = host.name();
                return Next::End(End::Unknown(format!(
                    "{name} has no address to send from to {}",
                    flight.packet.dst
                )));
            };
            flight.packet.src = source;
            if let Some(step) = self.steps.last_mut() {
                step.src = source.to_string();
            }
        }
        let output = if way.local { LOOPBACK } else { way.output };
        if let Err(next) = self.xfrm_out(host, flight, output) {
            return next;
        }
        let before = (flight.packet.dst, flight.packet.mark);
        if let Err(next) = self.hook(host, AtHook::new(Hook::Output, 0, output), flight) {
            return next;
        }
        if before != (flight.packet.dst, flight.packet.mark) {
            // Rules changed what routing looks at: it is asked again (ip_route_me_harder).
            way = match self.route(host, flight, 0) {
                Ok(way) => way,
                Err(next) => return next,
            };
        }
        let output = if way.local { LOOPBACK } else { way.output };
        if let Err(next) = self.hook(host, AtHook::new(Hook::Postrouting, 0, output), flight) {
            return next;
        }
        if flight.mode != Mode::Reply && flight.inside.is_none() && flight.origin.is_none() {
            flight.origin =
                host.link(output).map(|l| (l.mtu, format!("{} of {}", host.device(output), host.name())));
        }
        if way.local {
            self.at_device(host, LOOPBACK, Direction::Out, flight);
            return Next::Receive(host.clone(), LOOPBACK);
        }
        self.transmit(host, flight, output)
    }

    /// None of a pod's devices is up.
    fn nothing_up(&mut self, host: &Arc<Host>, flight: &Flight) -> Option<Next> {
        let mut links = host.evidence.links.iter().filter(|l| !l.is_loopback());
        let first = links.clone().find(|l| l.mac.len() == 6).filter(|_| host.role == Role::Pod)?;
        if links.any(crate::node::rtnl::Link::is_up) {
            return None;
        }
        let device = host.device(first.ifindex);
        let finding = Finding::new(
            &c::DEVICE_DOWN,
            Certain,
            format!("{device} of {} is down: the pod can send nothing", host.name()),
        )
        .checked(format!("{device} is down"), host.command(format!("ip link show {device}")))
        .fix(
            host.command(format!("ip link set {device} up"))
                + "; its routes went with it: restart the pod, or add the default route again",
        )
        .change(host.id, Change::DeviceUp(first.ifindex))
        .at(Self::place(host, first.ifindex));
        let stage = self.stage(host, Stage::Sending, flight);
        Some(self.stop(host, stage, finding))
    }

    /// To a socket of this host, or out of a tunnel.
    fn deliver(&mut self, host: &Arc<Host>, flight: &mut Flight, device: u32) -> Next {
        if let Err(next) = self.hook(host, AtHook::new(Hook::Input, device, 0), flight) {
            return next;
        }
        if let Err(next) = self.xfrm_in(host, XfrmDirection::In, flight, device) {
            return next;
        }
        if flight.inside.is_some() {
            return self.decapsulate(host, flight);
        }
        let packet = &flight.packet;
        let here = Next::End(End::Delivered(host.clone()));
        let ping = match packet.proto {
            1 => Some("net/ipv4/icmp_echo_ignore_all"),
            58 => Some("net/ipv6/icmp/echo_ignore_all"),
            _ => None,
        };
        if let Some(key) = ping.filter(|key| flight.mode != Mode::Reply && host.sysctl(key).unwrap_or(0) != 0)
        {
            let change = Change::Sysctl { path: key.to_owned(), value: 0 };
            let (name, key) = (host.name(), key.replace('/', "."));
            let title = format!("{name} ({}) does not answer pings: {key} is 1", packet.dst);
            let finding = Finding::new(&c::PINGS_IGNORED, Certain, title)
                .checked("it would take the ping and say nothing", host.command(format!("sysctl {key}")))
                .fix(host.command(format!("sysctl -w {key}=0")))
                .change(host.id, change);
            return self.stop(host, Stage::Arriving, finding.at(Self::place(host, 0)));
        }
        if flight.mode == Mode::Reply || !matches!(packet.proto, 6 | 17) {
            return here;
        }
        let proto = if packet.proto == 6 { "TCP" } else { "UDP" };
        let Some(port) = packet.dst_port else {
            self.open(format!("whether anything listens in {}: no port was given", host.name()));
            return here;
        };
        let address = packet.dst;
        if let Some(finding) = self.somebody_elses(host, flight) {
            let stage = self.stage(host, Stage::Arriving, flight);
            return self.stop(host, stage, finding);
        }
        let sockets = host.evidence.sockets.iter().filter(|s| s.takes(packet.proto, address, port));
        let mut sockets = sockets.filter(|s| s.ifindex == 0 || s.ifindex == device).peekable();
        let name = host.name();
        let flags = if packet.proto == 6 { 't' } else { 'u' };
        let check = host.command(format!("ss -{flags}lnp sport = :{port}"));
        if let Some(socket) = sockets.peek() {
            let full = packet.proto == 6 && socket.backlog > 0 && socket.queued > socket.backlog;
            let (queued, backlog, local) = (socket.queued, socket.backlog, socket.local);
            self.step(host, flight, Place::Socket { socket: format!("{proto} {local} listens") });
            if full {
                let finding = Finding::new(
                    &c::ACCEPT_QUEUE_FULL,
                    Certain,
                    format!(
                        "{address}:{port} in {name} takes no new connections now: its accept queue is full"
                    ),
                )
                .checked(format!("{queued} connections wait, {backlog} may"), check)
                .fix("let the server accept faster, or enlarge its listen backlog and net.core.somaxconn")
                .at(Self::place(host, 0));
                self.wrong(Stage::Arriving, finding);
            }
            return here;
        }
        let entry = flight.entries.get(&host.id).filter(|e| e.before.dst != e.after.dst);
        let finding = if let Some(entry) = entry {
            let was = entry.before.ends().dst;
            Finding::new(
                &c::REDIRECTED_TO_NOBODY,
                Certain,
                format!(
                    "connections to {was} are redirected to port {port}, on which nothing listens in {name}"
                ),
            )
            .checked("a rule of this namespace redirects it", host.command("iptables -t nat -S"))
            .checked(format!("no socket takes {proto} {port}"), check)
            .fix(format!(
                "start the proxy (is the sidecar ready?), or exclude port {} from the redirection",
                was.port
            ))
        } else {
            let translated =
                flight.entries.values().map(|e| (e.before, e.after)).find(|(b, a)| b.dst != a.dst);
            let near = listening::near(&host.evidence, packet.proto, address, port);
            let finding = Finding::new(
                &c::PORT_CLOSED,
                Certain,
                listening::title(near.as_ref(), proto, address, port, &name),
            )
            .checked(format!("no socket takes {address}:{port}"), check.clone());
            let finding = match near {
                Some(Near { socket, fix, .. }) => finding.checked(socket, check).fix(fix),
                None => finding.fix(format!("start the server on port {port}, or ask another port")),
            };
            match translated {
                Some((before, _)) => {
                    finding.fact(format!("{} is translated to it", before.ends().dst)).fix(format!(
                        "let the service's targetPort be the port that the container listens on, not {port}"
                    ))
                }
                None => finding,
            }
        };
        let stage = if host.role == crate::node::Role::Pod && self.first_node.is_none() {
            Stage::Sending
        } else {
            Stage::Arriving
        };
        self.stop(host, stage, finding.at(Self::place(host, 0)))
    }

    /// A node has an address of its pods' network on another device than their bridge.
    fn somebody_elses(&self, host: &Host, flight: &Flight) -> Option<Finding> {
        let address = flight.packet.dst;
        let own = host.owner(address).filter(|_| host.role == Role::Node)?;
        let bridge = host.evidence.addresses.iter().find(|a| {
            let network = crate::node::IpPrefix::new(a.address, a.prefix_len);
            a.ifindex != own
                && network.is_some_and(|n| n.contains(address) && n != crate::node::IpPrefix::host(a.address))
                && host.link(a.ifindex).is_some_and(|l| l.is_kind("bridge"))
        })?;
        let (name, device, pods) = (host.name(), host.device(own), host.device(bridge.ifindex));
        Some(
            Finding::new(
                &c::DUPLICATE_ADDRESS,
                Likely,
                format!("{name} has {address} itself, on {device}, though it is of the pods' network of {pods}: it takes for itself what is for the pod"),
            )
            .checked(
                format!("{address} is on {device}, and {}/{} on {pods}", bridge.address, bridge.prefix_len),
                host.command(format!("ip addr show to {address}")),
            )
            .fix(host.command(format!("ip addr del {address} dev {device}")) + ", if a pod has that address")
            .change(host.id, Change::DeleteAddress { ifindex: own, address })
            .at(Self::place(host, own)),
        )
    }

    /// Does it fit?
    pub(crate) fn fit(&mut self, host: &Arc<Host>, flight: &mut Flight, link: &crate::node::rtnl::Link) {
        let Some((origin, whose)) = flight.origin.clone() else { return };
        let device = host.device(link.ifindex);
        let (mtu, what, show) = if (1..link.mtu).contains(&flight.route_mtu) {
            let show = format!("ip route get {}", flight.packet.dst);
            (flight.route_mtu, format!("the route by {device}"), show)
        } else {
            (link.mtu, device.clone(), format!("ip link show {device}"))
        };
        if flight.inside.is_some() || flight.mode != Mode::First || link.is_loopback() || mtu >= origin {
            return;
        }
        if flight.clamped && flight.packet.proto == 6 {
            return;
        }
        // Told once, for the narrowest place that comes first.
        flight.origin = None;
        let stage = self.stage(host, Stage::Passing, flight);
        let place = Self::place(host, link.ifindex);
        let finding = match self.too_big_is_dropped(host, flight, link) {
            Some(rule) => Finding::new(
                &c::PATH_MTU_BLACK_HOLE,
                Certain,
                format!("packets of more than {mtu} B do not fit into {what}, and {} drops the ICMP message that would tell {}", host.name(), flight.packet.src),
            )
            .checked(format!("{whose} sends up to {origin} B, {what} takes {mtu} B"), host.command(show))
            .checked(
                format!("ICMP frag-needed is dropped by {rule}"),
                host.command(format!("{} -vnL OUTPUT --line-numbers", if flight.packet.src.is_ipv6() { "ip6tables" } else { "iptables" })),
            )
            .fix(format!(
                "accept {} in the firewall of {}, or set the MTU of the sending pods to {mtu}",
                if flight.packet.src.is_ipv6() { "icmpv6 packet-too-big" } else { "icmp fragmentation-needed" },
                host.name()
            )),
            None => Finding::new(
                &c::PACKET_TOO_BIG,
                // The sender is told, and sends smaller ones.
                Possible,
                format!("packets of more than {mtu} B do not fit into {what} of {}: {whose} sends up to {origin} B", host.name()),
            )
            .checked(format!("the MTU of {what} is {mtu}"), host.command(show))
            .fact("what may not be fragmented is dropped until the sender has learned the smaller size by ICMP")
            .fix(format!("set the MTU of the sending pods to {mtu} or less (CNI configuration)")),
        };
        self.wrong(stage, finding.at(place));
    }

    /// The rule of the host that drops its "too big" message to the sender.
    fn too_big_is_dropped(
        &self,
        host: &Host,
        flight: &Flight,
        link: &crate::node::rtnl::Link,
    ) -> Option<String> {
        use crate::firewall::{CtDirection, CtState, PacketView, Verdict, walk_hook};
        let to = flight.packet.src;
        let own = host.evidence.addresses.iter().find(|a| {
            a.ifindex != link.ifindex && a.address.is_ipv4() == to.is_ipv4() && !a.address.is_loopback()
        })?;
        let (proto, icmp) = if to.is_ipv4() { (1, (3, 4)) } else { (58, (2, 0)) };
        let mut packet = PacketView::new(proto, own.address, to)
            .mark(0)
            .conntrack(CtState::Related, CtDirection::Reply)
            .devices("", &host.device(own.ifindex));
        packet.icmp = Some(icmp);
        let walk = walk_hook(host, Hook::Output, i32::MIN..i32::MAX, &packet);
        let by = walk.decided_by.map(|by| by.name().to_string());
        matches!(walk.verdict, Some(Verdict::Drop | Verdict::Reject(_))).then_some(by?)
    }
}
