// SPDX-License-Identifier: MIT OR Apache-2.0
//! One journey with everything needed to judge it: names, devices, the snapshot.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::LazyLock;

use super::drop_rate::Odds;
use super::tracking::TrackingHistory;
use crate::cause::Place;
use crate::cluster::egress::datapath::{DEVICE, PORT, VNI};
use crate::fib::Question;
use crate::flow::Place as At;
use crate::flow::{Addr, DropSite, Ending, Ends, Hop, Journey, Names, NoteKind, Scene};
use crate::model::Host;
use crate::node::{Device, DeviceKind, Namespace, NetnsId, PathRole, Role, Topology};
use crate::snapshot::{Evidence, NetnsEvidence};

const UDP: u8 = 17;

/// One journey and what is known besides.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) journey: &'a Journey,
    pub(super) topology: &'a Topology,
    pub(super) names: &'a dyn Names,
    pub(super) evidence: Option<&'a Evidence>,
    /// How earlier packets of the flow were routed in each namespace.
    pub(super) routes: &'a [Lookup],
    /// Where an earlier packet of the flow's forward direction left a node, and what its ends were then.
    pub(super) exit: Option<Exit>,
    /// What became of the packets before it at each hook.
    pub(super) odds: &'a Odds,
    /// Where the flow's forward direction came in by the egress tunnel.
    pub(super) tunnel: Option<Entry>,
    /// What conntrack showed of the flow so far.
    pub(super) tracking: &'a TrackingHistory,
    /// By how much counters rose since the start.
    pub(super) risen: &'a Risen,
}

/// Counters by namespace.
pub(super) type Risen = HashMap<NetnsId, BTreeMap<String, u64>>;

static NO_HISTORY: LazyLock<(TrackingHistory, Risen)> = LazyLock::new(Default::default);

/// A packet's coming out of a tunnel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) netns: NetnsId,
    /// The tunnel device.
    pub(super) ifindex: u32,
}

/// A packet's leaving.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exit {
    pub(super) netns: NetnsId,
    pub(super) ifindex: u32,
    pub(super) ends: Ends,
}

/// A routing lookup on the packet's way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lookup {
    pub(super) netns: NetnsId,
    pub(super) table: u32,
    pub(super) error: i32,
    pub(super) gateway: Addr,
    pub(super) ifindex: u32,
    /// The device that the packet came in by; 0 or 1: sent here.
    pub(super) in_ifindex: u32,
    pub(super) reverse: bool,
    pub(super) mark: u32,
    pub(super) encap: bool,
}

impl<'a> View<'a> {
    /// Of a journey by itself.
    pub(super) fn new(
        journey: &'a Journey,
        topology: &'a Topology,
        names: &'a dyn Names,
        evidence: Option<&'a Evidence>,
        odds: &'a Odds,
    ) -> Self {
        let (tracking, risen) = &*NO_HISTORY;
        Self {
            journey,
            topology,
            names,
            evidence,
            odds,
            routes: &[],
            exit: None,
            tunnel: None,
            tracking,
            risen,
        }
    }

    /// By how much a counter of a namespace rose since the start.
    pub(super) fn counted(&self, netns: NetnsId, name: &str) -> u64 {
        self.risen.get(&netns).and_then(|all| all.get(name)).copied().unwrap_or(0)
    }

    pub(super) fn scene(&self) -> Scene<'a> {
        Scene::new(self.topology, self.names)
    }

    pub(super) fn dropped(&self) -> Option<&'a DropSite> {
        match &self.journey.ending {
            Ending::Dropped(site) => Some(site),
            _ => None,
        }
    }

    pub(super) fn reason(&self, site: &DropSite) -> Cow<'a, str> {
        self.names.drop_reason(site.reason).unwrap_or_default()
    }

    pub(super) fn symbol(&self, site: &DropSite) -> String {
        let name = self.names.symbol(site.location).unwrap_or_default();
        name.split(['.', '+']).next().unwrap_or_default().to_owned()
    }

    /// The functions on the way to where it was freed, innermost first.
    pub(super) fn calls(&self, site: &DropSite) -> Vec<String> {
        let stack = site.stack.iter().take_while(|address| **address != 0);
        stack
            .filter_map(|address| self.names.symbol(*address))
            .map(|name| name.split(['.', '+']).next().unwrap_or_default().to_owned())
            .collect()
    }

    pub(super) fn namespace(&self, netns: NetnsId) -> Option<&'a Namespace> {
        self.topology.namespaces.get(&netns)
    }

    pub(super) fn role_of(&self, netns: NetnsId) -> Option<Role> {
        self.namespace(netns).map(|ns| ns.role)
    }

    pub(super) fn device(&self, netns: NetnsId, ifindex: u32) -> Option<&'a Device> {
        self.namespace(netns)?.devices.get(&ifindex)
    }

    pub(super) fn device_name(&self, netns: NetnsId, ifindex: u32) -> String {
        self.scene().device(netns, ifindex).into_owned()
    }

    pub(super) fn netns(&self, netns: NetnsId) -> String {
        self.scene().netns(netns).into_owned()
    }

    pub(super) fn of(&self, netns: NetnsId) -> Option<&'a NetnsEvidence> {
        self.evidence?.of(netns)
    }

    /// The namespace as the model of the node takes it.
    pub(super) fn host(&self, netns: NetnsId) -> Option<Host> {
        let space = self.namespace(netns)?;
        let uplink = |d: &&Device| d.watched == Some(PathRole::Uplink);
        let uplinks = space.devices.values().filter(uplink).map(|d| d.ifindex).collect();
        let evidence = self.evidence?.netns.get(&netns)?.clone();
        Some(Host::new(netns, space.role, self.prefix(netns), evidence, uplinks))
    }

    pub(super) fn place(&self, netns: NetnsId, ifindex: u32) -> Place {
        let device = (ifindex != 0).then(|| self.device_name(netns, ifindex));
        Place { netns: self.netns(netns), device, ..Place::default() }
    }

    /// A command as it has to be typed on the node.
    pub(super) fn command(&self, netns: NetnsId, command: impl AsRef<str>) -> String {
        let command = command.as_ref();
        match self.prefix(netns) {
            Some(prefix) => format!("{prefix} {command}"),
            None => command.to_owned(),
        }
    }

    /// How commands for a namespace begin, where they cannot be typed as they are on the node.
    pub(super) fn prefix(&self, netns: NetnsId) -> Option<String> {
        let nodes = self.topology.namespaces.values().filter(|ns| ns.role == Role::Node).count();
        let namespace = self.namespace(netns).filter(|ns| ns.role == Role::Pod || nodes > 1)?;
        let by_name = || format!("ip netns exec {}", self.netns(namespace.id)).into();
        Some(self.names.entry(netns).unwrap_or_else(by_name).into_owned())
    }

    /// `ip` or `ip -6`.
    pub(super) fn ip_command(&self) -> &'static str {
        if self.journey.packet.ipv6 { "ip -6" } else { "ip" }
    }

    pub(super) fn iptables(&self) -> &'static str {
        if self.journey.packet.ipv6 { "ip6tables" } else { "iptables" }
    }

    pub(super) fn lookups(&self) -> impl DoubleEndedIterator<Item = Lookup> + use<'a> {
        self.journey.hops.iter().filter_map(lookup)
    }

    /// The last lookup of the way forward in a namespace, of the inner or outer packet.
    pub(super) fn last_lookup(&self, netns: NetnsId, encap: bool) -> Option<Lookup> {
        self.lookups().rev().find(|l| l.netns == netns && l.encap == encap && !l.reverse)
    }

    /// The last lookup of the way forward, as a question for the tables that were read, and where it was.
    pub(super) fn way_out(&self) -> Option<(NetnsId, Question)> {
        let hop =
            self.journey.hops.iter().rfind(|hop| matches!(hop.place, At::Route { reverse: false, .. }))?;
        let At::Route { in_ifindex, local: false, error: 0, .. } = hop.place else { return None };
        // 1: the loopback, by which the host's own packets come.
        let input = if in_ifindex == 1 { 0 } else { in_ifindex };
        let packet = &self.journey.packet;
        let question = match hop.encap {
            Some(index) => {
                let outer = self.journey.encaps.get(usize::from(index))?;
                Question::to(outer.dst.addr.ip()).from(outer.src.addr.ip()).ports(UDP, None, None)
            }
            None => {
                let port = |port| Some(if packet.has_ports() { port } else { 0 });
                Question::to(hop.ends.dst.addr.ip()).from(hop.ends.src.addr.ip()).ports(
                    packet.proto,
                    port(hop.ends.src.port),
                    port(hop.ends.dst.port),
                )
            }
        };
        Some((hop.netns, question.input(input).mark(hop.mark)))
    }

    pub(super) fn icmp_sent(&self) -> Option<(u8, u8)> {
        self.journey.notes.iter().find_map(|note| match note.what {
            NoteKind::IcmpSent { icmp_type, code, .. } => Some((icmp_type, code)),
            _ => None,
        })
    }

    pub(super) fn was_reset(&self) -> bool {
        self.journey.notes.iter().any(|note| matches!(note.what, NoteKind::ResetSent { .. }))
    }

    pub(super) fn is_copy(&self) -> bool {
        self.journey.notes.iter().any(|note| matches!(note.what, NoteKind::Copy { .. }))
    }

    pub(super) fn role(&self, hop: &Hop) -> Option<PathRole> {
        match hop.place {
            At::Device { ifindex, .. } => self.device(hop.netns, ifindex)?.watched,
            _ => None,
        }
    }

    pub(super) fn is_vxlan(&self, netns: NetnsId, ifindex: u32) -> bool {
        self.device(netns, ifindex).is_some_and(|d| matches!(d.kind, DeviceKind::Vxlan { .. }))
    }

    /// The hop by which it left a node without an outer header.
    pub(super) fn bare_exit(&self) -> Option<&'a Hop> {
        if !matches!(self.journey.ending, Ending::Left { .. }) {
            return None;
        }
        let last = self.journey.hops.iter().rev().find(|h| matches!(h.place, At::Device { .. }))?;
        (last.encap.is_none() && self.role(last) == Some(PathRole::Uplink)).then_some(last)
    }

    /// Some watched namespace has this address.
    pub(super) fn owner(&self, address: IpAddr) -> Option<(&'a Namespace, &'a Device)> {
        self.topology.namespaces.values().find_map(|ns| {
            let device = ns.devices.values().find(|d| d.addresses.contains(&address))?;
            Some((ns, device))
        })
    }

    pub(super) fn is_pod_address(&self, address: IpAddr) -> bool {
        self.owner(address).is_some_and(|(ns, _)| ns.role == Role::Pod)
    }

    /// An ICMP error that tells of a smaller MTU.
    pub(super) fn is_too_big(&self) -> bool {
        let packet = &self.journey.packet;
        packet
            .icmp_error
            .is_some_and(|(kind, code)| matches!((packet.ipv6, kind, code), (false, 3, 4) | (true, 2, _)))
    }

    /// The second packet of a handshake.
    pub(super) fn is_syn_ack(&self) -> bool {
        let packet = &self.journey.packet;
        packet.is_tcp() && packet.tcp_flags & 0x12 == 0x12
    }

    /// A packet that may begin a connection, or answers one that does: what the model walks.
    pub(super) fn is_opening(&self) -> bool {
        let packet = &self.journey.packet;
        packet.icmp_error.is_none() && (!packet.is_tcp() || packet.tcp_flags & 0x02 != 0)
    }

    pub(super) fn is_syn(&self) -> bool {
        let packet = &self.journey.packet;
        packet.is_tcp() && packet.tcp_flags & 0x12 == 0x02
    }
}

fn lookup(hop: &Hop) -> Option<Lookup> {
    match hop.place {
        At::Route { table, error, gateway, ifindex, in_ifindex, reverse, .. } => Some(Lookup {
            netns: hop.netns,
            table,
            error,
            gateway,
            ifindex,
            in_ifindex,
            reverse,
            mark: hop.mark,
            encap: hop.encap.is_some(),
        }),
        _ => None,
    }
}

/// EgressGateway's tunnel device.
pub(super) fn is_tunnel(view: &View<'_>, netns: NetnsId, ifindex: u32) -> bool {
    view.device(netns, ifindex).is_some_and(|d| match d.kind {
        DeviceKind::Vxlan { vni, port, .. } => d.name == DEVICE || (vni == VNI && port == PORT),
        _ => false,
    })
}
