// SPDX-License-Identifier: MIT OR Apache-2.0
//! VXLAN: the peer's neighbour and forwarding entries, the outer packet on its own way, and the device that takes it.

use std::net::IpAddr;
use std::sync::Arc;

use super::link::{NUD_FAILED, NUD_INCOMPLETE};
use super::packet_state::{Flight, Inside, Mode};
use super::peers;
use super::steps::{AtHook, Stage};
use super::walker::{End, Next, Walker};
use super::world::Host;
use crate::cause::Certainty::{Certain, Possible};
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::cluster::egress::datapath::{CHAIN_PREFIX, MARK_DONE, MARK_MASK, is_node_mark};
use crate::firewall::{PacketView, TableFamily};
use crate::node::rtnl::Link;
use crate::node::{Hook, Role};
use crate::snapshot::{Change, replacing_mark};

impl Walker<'_> {
    /// Where a packet comes by a VXLAN device: inside another one, from the only peer, or from the one that has its MAC.
    pub(crate) fn arrive(&mut self, host: &Arc<Host>, device: u32, flight: &mut Flight) -> Next {
        let evidence = &host.evidence;
        let outer = host.link(device).and_then(|link| {
            let vxlan = link.vxlan.as_ref()?;
            let sender = flight.packet.mac;
            let is_sender = |mac: &[u8]| sender.is_none_or(|sender| sender.as_slice() == mac);
            let mut peers = evidence.fdb.iter().filter(|e| {
                e.ifindex == device
                    && e.mac.iter().any(|b| *b != 0)
                    && e.remote.is_some()
                    && is_sender(&e.mac)
            });
            let (peer, None) = (peers.next()?, peers.next()) else { return None };
            let remote = peer.remote?;
            let fib = host.fib();
            let back = fib.lookup(&crate::fib::Question::to(remote));
            let uplink = back.routed()?.hops.first()?.ifindex;
            let mut packet = PacketView::new(17, remote, vxlan.local?).mark(0);
            packet.dst_port = Some(vxlan.port);
            let from = peer.mac.first_chunk().copied()?;
            Some((uplink, packet, from, vxlan.vni, link.mac.clone(), link.name.clone()))
        });
        let Some((uplink, packet, from, vni, to, device_name)) = outer else {
            return Next::Receive(host.clone(), device);
        };
        let inner = std::mem::replace(flight, Flight::new(packet, Mode::First));
        flight.inside = Some(Inside { flight: Box::new(inner), vni, from, to, device: device_name });
        Next::Receive(host.clone(), uplink)
    }

    /// Into a VXLAN device.
    pub(crate) fn encapsulate(&mut self, host: &Arc<Host>, flight: &mut Flight, link: &Link) -> Next {
        let Some(vxlan) = link.vxlan.clone() else { return Next::End(End::Left(host.clone(), link.ifindex)) };
        self.tunnelled |= flight.mode != Mode::Reply;
        let stage = if flight.mode == Mode::Reply { Stage::Returning } else { Stage::Tunnel };
        let hop = flight.next_hop.unwrap_or(flight.packet.dst);
        let (mac, remote) = match self.peer_of(host, link, hop) {
            Ok(found) => found,
            Err(finding) => return self.stop(host, stage, *finding),
        };
        let Some(remote) = remote else {
            let device = host.device(link.ifindex);
            self.open(format!(
                "to which node {device} of {} sends it: the peer's entries are learned from traffic",
                host.name()
            ));
            return Next::End(End::Left(host.clone(), link.ifindex));
        };
        let owner = self.world.watched().into_iter().find(|o| o.id != host.id && o.owns(hop));
        if let Some(other) = owner.filter(|other| other.role == Role::Node && !other.owns(remote)) {
            let (device, name, there) = (host.device(link.ifindex), host.name(), other.name());
            let shown = crate::text::mac(&mac);
            let finding = Finding::new(
                &c::TUNNEL_PEER_WRONG,
                Certain,
                format!(
                    "{device} of {name} sends what is for its peer {hop} to {remote}, but {hop} is on {there}"
                ),
            )
            .checked(
                format!("the FDB entry of {shown} says {remote}"),
                host.command(format!("bridge fdb show dev {device} | grep {shown}")),
            )
            .checked(format!("{hop} is on {there}"), other.command(format!("ip addr show to {hop}")))
            .fix(format!("correct that entry: the agent that owns {device} should do so (restart it)"))
            .at(Self::place(host, link.ifindex));
            return self.stop(host, stage, finding);
        }
        let inner = std::mem::replace(flight, Flight::new(flight.packet.clone(), flight.mode));
        let mut outer = PacketView::new(17, vxlan.local.unwrap_or(unspecified(remote)), remote);
        outer.dst_port = Some(vxlan.port);
        // The outer packet keeps the mark (vxlan_xmit_one: skb->mark is in the lookup's key).
        outer.mark = inner.packet.mark;
        (outer.mac, outer.uid) = (None, inner.packet.uid);
        flight.packet = outer;
        flight.mode = Mode::First;
        flight.inside = Some(Inside {
            vni: vxlan.vni,
            from: link.mac.first_chunk().copied().unwrap_or_default(),
            to: mac,
            device: link.name.clone(),
            flight: Box::new(inner),
        });
        self.send_outer(host, flight, link, stage)
    }

    fn send_outer(&mut self, host: &Arc<Host>, flight: &mut Flight, link: &Link, stage: Stage) -> Next {
        let found = self.found.len();
        let way = match self.route(host, flight, 0) {
            Ok(way) => way,
            Err(next) => {
                // Which packet has no route decides where it is mended.
                for found in &mut self.found[found..] {
                    found.stage = stage;
                    found.finding.title =
                        format!("{}: {} cannot send to its peer", found.finding.title, link.name);
                }
                return next;
            }
        };
        if way.output == link.ifindex {
            let mark = flight.packet.mark.unwrap_or(0);
            let device = host.device(link.ifindex);
            let ipv6 = flight.inner().packet.src.is_ipv6();
            let (ip, tables) = if ipv6 { ("ip -6", "ip6tables") } else { ("ip", "iptables") };
            let finding = Finding::new(
                &c::TUNNEL_INTO_ITSELF,
                Certain,
                if mark == 0 {
                    format!("the encapsulated packet is routed into {device} again")
                } else {
                    format!("the encapsulated packet keeps mark {mark:#x} and is routed into {device} again")
                },
            )
            .checked(
                format!("the lookup for {} with mark {mark:#x} leads to {device}", flight.packet.dst),
                host.command(format!("ip route get {} mark {mark:#x}", flight.packet.dst)),
            )
            .checked(
                "no rule in mangle FORWARD replaced the mark before the tunnel",
                host.command(format!("{tables} -t mangle -S FORWARD; {ip} rule")),
            )
            .fix(format!("restore the rule at the top of mangle FORWARD that resets the mark (EgressGateway: restart its agent), so that {mark:#x} does not reach {device}"))
            .may_repair(host.id, reset_of_mark(host, mark, ipv6))
            .at(Self::place(host, link.ifindex));
            return self.stop(host, stage, finding);
        }
        if flight.packet.src.is_unspecified()
            && let Some(source) = way.source.or_else(|| host.address_on(way.output, way.next_hop))
        {
            flight.packet.src = source;
        }
        if let Some(lower) = host.link(way.output)
            && lower.mtu < link.mtu + overhead(flight.packet.dst)
        {
            let (device, lower_name, mtu) = (host.device(link.ifindex), host.device(way.output), lower.mtu);
            let room = mtu.saturating_sub(overhead(flight.packet.dst));
            let finding = Finding::new(
                &c::PACKET_TOO_BIG,
                Possible,
                format!("{device} takes packets of {} B, but with the tunnel's header these do not fit into {lower_name} (MTU {mtu}): they are fragmented or lost", link.mtu),
            )
            .checked(format!("{} B of headers are added", overhead(flight.packet.dst)), host.command(format!("ip link show {device}")))
            .fix(format!("set the MTU of {device} and of the pods to {room} or less"))
            .at(Self::place(host, link.ifindex));
            self.wrong(stage, finding);
        }
        for hook in [Hook::Output, Hook::Postrouting] {
            if let Err(next) = self.hook(host, AtHook::new(hook, 0, way.output), flight) {
                return next;
            }
        }
        self.transmit(host, flight, way.output)
    }

    /// MAC and node of the peer; `None`: it would be found by asking all.
    fn peer_of(
        &self,
        host: &Host,
        link: &Link,
        hop: IpAddr,
    ) -> Result<(Vec<u8>, Option<IpAddr>), Box<Finding>> {
        let device = host.device(link.ifindex);
        let evidence = &host.evidence;
        let own = || evidence.fdb.iter().filter(|e| e.ifindex == link.ifindex && e.own);
        let everyone = own().find(|e| e.mac.iter().all(|b| *b == 0)).and_then(|e| e.remote);
        let known = evidence.neighbours.iter().find(|n| n.ifindex == link.ifindex && n.address == hop);
        let mac = known.map(|n| n.mac.clone()).filter(|mac| !mac.is_empty());
        let dead = known.is_some_and(|n| n.state & (NUD_FAILED | NUD_INCOMPLETE) != 0);
        let place = Walker::place(host, link.ifindex);
        let Some(mac) = mac.filter(|_| !dead) else {
            if everyone.is_some() && !dead {
                return Ok((Vec::new(), None));
            }
            return Err(Box::new(peers::no_neighbour(&self.world.watched(), host, link, hop)));
        };
        match own().find(|e| e.mac == mac).and_then(|e| e.remote).or(everyone) {
            Some(remote) => Ok((mac, Some(remote))),
            None => {
                let shown = crate::text::mac(&mac);
                Err(Box::new(Finding::new(
                    &c::TUNNEL_PEER_MISSING,
                    Certain,
                    format!("{device} of {} does not know behind which node its peer {hop} is: no FDB entry for {shown}", host.name()),
                )
                .checked("the neighbour entry has a MAC that no forwarding entry has", host.command(format!("bridge fdb show dev {device}")))
                .fix(format!("the agent that owns {device} must add the peer (restart it, read its log)"))
                .may_repair(host.id, peers::forwarding(&self.world.watched(), host, link, &mac))
                .at(place)))
            }
        }
    }

    /// The outer packet is at the node it was sent to.
    pub(crate) fn decapsulate(&mut self, host: &Arc<Host>, flight: &mut Flight) -> Next {
        let port = flight.packet.dst_port.unwrap_or(0);
        let stage = if flight.inner().mode == Mode::Reply { Stage::Returning } else { Stage::Tunnel };
        let Some(inside) = flight.inside.take() else {
            return Next::End(End::Unknown("no packet in the tunnel".to_owned()));
        };
        let (wrong, exact) = taken_by(host, inside.vni, port, &inside.to);
        let mut inner = *inside.flight;
        inner.packet.mac = Some(inside.from);
        // Marks do not cross nodes.
        inner.packet.mark = Some(0);
        inner.next_hop = None;
        *flight = inner;
        match (wrong, exact) {
            (Some(finding), _) => self.stop(host, stage, finding),
            (None, Some(link)) => Next::Receive(host.clone(), link.ifindex),
            (None, None) => Next::End(End::Unknown("no tunnel device".to_owned())),
        }
    }
}

/// Bytes that the tunnel adds to an IP packet.
fn overhead(outer: IpAddr) -> u32 {
    if outer.is_ipv4() { 50 } else { 70 }
}

fn unspecified(like: IpAddr) -> IpAddr {
    if like.is_ipv4() {
        std::net::Ipv4Addr::UNSPECIFIED.into()
    } else {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    }
}

/// The rule of EgressGateway that resets the mark of what goes into its tunnel.
fn reset_of_mark(host: &Host, mark: u32, ipv6: bool) -> Option<Change> {
    let family = if ipv6 { TableFamily::Ip6 } else { TableFamily::Ip };
    let table = host.evidence.tables("mangle").find(|table| {
        table.family == family && table.chains.iter().any(|chain| chain.name.starts_with(CHAIN_PREFIX))
    })?;
    let chain = table.chain("FORWARD")?;
    let place =
        chain.rules.first().map_or_else(|| table.policy_ref(chain), |rule| table.rule_ref(chain, rule));
    let rule = Box::new(replacing_mark((MARK_DONE, MARK_MASK), MARK_DONE));
    is_node_mark(mark).then_some(Change::InsertRule { place, rule })
}

/// The device that takes a tunnel's outer packets, and what is wrong with that. `to`: the MAC that the frame inside is
/// for, empty where it is not known.
pub(crate) fn taken_by<'h>(
    host: &'h Host,
    vni: u32,
    port: u16,
    to: &[u8],
) -> (Option<Finding>, Option<&'h Link>) {
    let name = host.name();
    let links = || host.evidence.links.iter().filter(|l| l.vxlan.as_ref().is_some_and(|v| v.port == port));
    let elsewhere = host.evidence.links.iter().find_map(|l| {
        let vxlan = l.vxlan.as_ref().filter(|v| v.vni == vni)?;
        Some((l, vxlan.port))
    });
    let exact = links().find(|l| l.vxlan.as_ref().is_some_and(|v| v.vni == vni));
    let show = host.command("ip -d link show type vxlan");
    let wrong = match exact {
        Some(link) if !link.is_up() => Some(
            Finding::new(
                &c::TUNNEL_NOT_LISTENING,
                Certain,
                format!(
                    "{} is down on {name}: nothing takes the tunnel's packets on UDP {port}",
                    host.device(link.ifindex)
                ),
            )
            .checked("the device is there and not up", show)
            .fix(host.command(format!("ip link set {} up", link.name)))
            .change(host.id, Change::DeviceUp(link.ifindex))
            .at(Walker::place(host, link.ifindex)),
        ),
        Some(link) if !to.is_empty() && link.mac != to => Some(
            Finding::new(
                &c::TUNNEL_WRONG_MAC,
                Certain,
                format!(
                    "the other node sends to MAC {}, but {} of {name} has {}",
                    crate::text::mac(&to),
                    host.device(link.ifindex),
                    crate::text::mac(&link.mac)
                ),
            )
            .checked("the MACs differ", show)
            .fix(format!(
                "recreate {} on {name}, or correct its MAC in the peer's neighbour and FDB entries",
                host.device(link.ifindex)
            ))
            .at(Walker::place(host, link.ifindex)),
        ),
        Some(_) => None,
        None if links().any(Link::is_up) => Some(
            Finding::new(
                &c::TUNNEL_VNI,
                Certain,
                format!("no tunnel device of {name} has VNI {}", vni),
            )
            .checked(format!("what listens on UDP {port} has another one"), show)
            .fix("give both ends of the tunnel the same VNI")
            .at(Walker::place(host, 0)),
        ),
        None if let Some((link, own)) = elsewhere => Some(
            Finding::new(
                &c::TUNNEL_NOT_LISTENING,
                Certain,
                format!(
                    "the tunnel's packets come to {name} on UDP {port}, but {} listens on UDP {own}",
                    host.device(link.ifindex)
                ),
            )
            .checked("the tunnel devices there", show)
            .fix(format!(
                "give both ends of the tunnel the same UDP port: restart the agent that made {} or the other end",
                host.device(link.ifindex)
            ))
            .at(Walker::place(host, link.ifindex)),
        ),
        None => Some(
            Finding::new(
                &c::TUNNEL_NOT_LISTENING,
                Certain,
                format!("{name} has no vxlan device with VNI {} and UDP port {port}", vni),
            )
            .checked("the tunnel devices there", show)
            .fix("restart the agent that makes the tunnel device on that node")
            .at(Walker::place(host, 0)),
        ),
    };
    (wrong, exact)
}
