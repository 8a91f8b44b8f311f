// SPDX-License-Identifier: MIT OR Apache-2.0
//! The bridge that a device leads to, and whether who asks for an address there is heard behind its ports.

use std::net::IpAddr;
use std::sync::Arc;

use super::world::{Host, World};
use crate::cause::Certainty::{Certain, Likely};
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::node::rtnl::Link;
use crate::snapshot::Change;

/// BR_STATE_FORWARDING, include/uapi/linux/if_bridge.h.
const FORWARDING: u8 = 3;

/// A bridge, and the port of it by which the asker's frames come; `None`: the asker is the bridge's own host.
pub(crate) struct Segment {
    pub(crate) host: Arc<Host>,
    pub(crate) bridge: Link,
    pub(crate) port: Option<Link>,
}

impl Segment {
    pub(crate) fn of(world: &mut dyn World, asker: &Arc<Host>, ifindex: u32) -> Option<Self> {
        let link = asker.link(ifindex)?.clone();
        if link.is_kind("bridge") {
            return Some(Self { host: asker.clone(), bridge: link, port: None });
        }
        let (host, peer) = world.peer(asker, &link)?;
        let port = host.link(peer)?.clone();
        let bridge = host.link(port.master?).filter(|l| l.is_kind("bridge"))?.clone();
        Some(Self { host, bridge, port: Some(port) })
    }

    fn others(&self) -> impl Iterator<Item = &Link> {
        let own = self.port.as_ref().map(|port| port.ifindex);
        self.host
            .evidence
            .links
            .iter()
            .filter(move |l| l.master == Some(self.bridge.ifindex) && Some(l.ifindex) != own)
    }

    /// The port behind which the address is, where that is known.
    fn port_of(&self, world: &mut dyn World, address: IpAddr) -> Option<&Link> {
        self.others()
            .find(|port| world.peer_addresses(&self.host, port).is_some_and(|all| all.contains(&address)))
    }

    /// The host that has the address, behind one of the ports.
    pub(crate) fn owner(&self, world: &mut dyn World, address: IpAddr) -> Option<Arc<Host>> {
        let port = self.port_of(world, address)?.clone();
        world.peer(&self.host, &port).map(|(owner, _)| owner)
    }

    /// The asker's port, or the one behind which the address is, does not forward.
    pub(crate) fn blocked(&self, world: &mut dyn World, address: IpAddr) -> Option<Finding> {
        let other = self.port_of(world, address).cloned();
        let own = self.port.as_ref().and_then(|port| port_blocked(&self.host, port, None));
        own.or_else(|| port_blocked(&self.host, other.as_ref()?, self.port.as_ref()))
    }

    /// Questions go to all: a port to which the bridge does not flood them hears none.
    pub(crate) fn unheard(&self, world: &mut dyn World, address: IpAddr) -> Option<Finding> {
        if self.host.owns(address) {
            return None;
        }
        let deaf = |link: &Link| {
            link.port
                .is_some_and(|port| if address.is_ipv4() { port.no_broadcast } else { port.no_multicast })
        };
        let known = self.port_of(world, address).cloned();
        let ports: Vec<Link> = match &known {
            Some(port) => vec![port.clone()],
            None => self.others().cloned().collect(),
        };
        let port = ports.iter().find(|port| deaf(port))?;
        let (name, bridge, device) =
            (self.host.name(), self.host.device(self.bridge.ifindex), self.host.device(port.ifindex));
        let (flag, frames, what) = if address.is_ipv4() {
            ("bcast_flood", "broadcasts", "ARP requests")
        } else {
            ("mcast_flood", "multicast", "neighbour solicitations")
        };
        let title = if known.is_some() {
            format!(
                "{bridge} of {name} does not hand {frames} to {device}, behind which {address} is ({flag} off): it does not hear the {what} for it"
            )
        } else {
            format!(
                "{bridge} of {name} does not hand {frames} to {device} ({flag} off): if {address} is behind it, it does not hear the {what}"
            )
        };
        // A port that asked for the group by MLD gets it all the same.
        let sure = known.is_some() && address.is_ipv4();
        Some(
            Finding::new(&c::PORT_BLOCKED, if sure { Certain } else { Likely }, title)
                .checked(
                    format!("{flag} of {device} is off"),
                    self.host.command(format!("bridge -d link show dev {device}")),
                )
                .checked(
                    "nobody answers the question",
                    self.host.command(format!("bridge mdb show dev {bridge}")),
                )
                .fix(self.host.command(format!("bridge link set dev {device} {flag} on")))
                .at(crate::cause::Place {
                    netns: name,
                    device: Some(device),
                    ..crate::cause::Place::default()
                }),
        )
    }
}

/// A port that does not forward, or that is isolated from the other one.
pub(super) fn port_blocked(host: &Host, port: &Link, other: Option<&Link>) -> Option<Finding> {
    let known = port.port?;
    let (device, name) = (host.device(port.ifindex), host.name());
    let finding = if !port.is_up() {
        Finding::new(
            &c::DEVICE_DOWN,
            Certain,
            format!("the bridge port {device} of {name} is down: nothing passes it"),
        )
        .checked(format!("{device} is down"), host.command(format!("ip link show {device}")))
        .fix(host.command(format!("ip link set {device} up")))
        .change(host.id, Change::DeviceUp(port.ifindex))
    } else if known.state != FORWARDING {
        let state = ["disabled", "listening", "learning", "forwarding", "blocking"];
        let state = state.get(usize::from(known.state)).copied().unwrap_or("not forwarding");
        Finding::new(
            &c::PORT_BLOCKED,
            Certain,
            format!("the bridge port {device} of {name} is {state}: nothing passes it"),
        )
        .checked(format!("state {state}"), host.command(format!("bridge -d link show dev {device}")))
        .fix(
            host.command(format!("bridge link set dev {device} state 3"))
                + " (or wait for the spanning tree; or find what blocks it)",
        )
        .change(host.id, Change::ForwardAtPort(port.ifindex))
    } else {
        let isolated = |link: &&Link| link.port.is_some_and(|port| port.isolated);
        let other = other.filter(|_| known.isolated).filter(isolated)?;
        let one = host.device(other.ifindex);
        Finding::new(
            &c::PORT_BLOCKED,
            Certain,
            format!("{one} and {device} are isolated ports of the same bridge on {name}: nothing passes between them"),
        )
        .checked("both ports are isolated", host.command("bridge -d link show"))
        .fix(host.command(format!("bridge link set dev {device} isolated off")))
        .change(host.id, Change::EndIsolation(port.ifindex))
    };
    Some(finding.at(crate::cause::Place {
        netns: name,
        device: Some(device),
        ..crate::cause::Place::default()
    }))
}
