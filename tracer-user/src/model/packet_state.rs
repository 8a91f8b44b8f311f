// SPDX-License-Identifier: MIT OR Apache-2.0
//! A packet under way: its headers as they are now, and what connection tracking knows of it on each host.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::firewall::PacketView;
use crate::flow::{Endpoint, Ends};
use crate::node::NetnsId;

/// Which packet of the connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The first one: chains of type nat are asked.
    First,
    /// Another one of the same direction: established, translated as the first one was.
    Later,
    /// Against it.
    Reply,
}

/// A connection as one host tracks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// As the first packet came to the host.
    pub(crate) before: Tuple,
    /// As it left it.
    pub(crate) after: Tuple,
    pub(crate) mark: Option<u32>,
}

/// `None`: the port is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tuple {
    pub(crate) src: (IpAddr, Option<u16>),
    pub(crate) dst: (IpAddr, Option<u16>),
}

/// Around the packet.
#[derive(Clone, Debug)]
pub(crate) struct Inside {
    pub(crate) flight: Box<Flight>,
    pub(crate) vni: u32,
    /// The tunnel device that sends, its MAC, and the one the inner frame is addressed to.
    pub(crate) from: [u8; 6],
    pub(crate) to: Vec<u8>,
    pub(crate) device: String,
}

#[derive(Clone, Debug)]
pub(crate) struct Flight {
    pub(crate) packet: PacketView,
    pub(crate) mode: Mode,
    pub(crate) entries: BTreeMap<NetnsId, Entry>,
    /// What the frame is addressed to: an address that whoever gets it answers for.
    pub(crate) next_hop: Option<IpAddr>,
    /// Who asks for the next hop's MAC, and by which device.
    pub(crate) asker: Option<(NetnsId, u32)>,
    /// The MTU of the route that it goes on by; 0: it has none of its own.
    pub(crate) route_mtu: u32,
    /// MTU of the device that the packet was first sent by, and whose it is.
    pub(crate) origin: Option<(u32, String)>,
    pub(crate) inside: Option<Inside>,
    /// The rule that keeps a host from tracking it: there nothing translates it.
    pub(crate) untracked: Option<(NetnsId, String)>,
    /// A rule clamps the MSS: TCP's segments fit.
    pub(crate) clamped: bool,
    /// Where it was: host and device, for loops.
    pub(crate) seen: Vec<(NetnsId, u32)>,
}

impl Tuple {
    pub(crate) fn of(packet: &PacketView) -> Self {
        Self { src: (packet.src, packet.src_port), dst: (packet.dst, packet.dst_port) }
    }

    pub(crate) fn reversed(self) -> Self {
        Self { src: self.dst, dst: self.src }
    }

    /// The same ends, as far as the ports are known.
    pub(crate) fn fits(self, other: Self) -> bool {
        let end = |a: (IpAddr, Option<u16>), b: (IpAddr, Option<u16>)| {
            a.0 == b.0 && (a.1 == b.1 || a.1.is_none() || b.1.is_none())
        };
        end(self.src, other.src) && end(self.dst, other.dst)
    }

    pub(crate) fn ends(self) -> Ends {
        let end = |(address, port): (IpAddr, Option<u16>)| Endpoint {
            addr: address.into(),
            port: port.unwrap_or(0),
        };
        Ends { src: end(self.src), dst: end(self.dst) }
    }
}

impl Flight {
    pub(crate) fn new(packet: PacketView, mode: Mode) -> Self {
        Self {
            packet,
            mode,
            entries: BTreeMap::new(),
            next_hop: None,
            asker: None,
            origin: None,
            inside: None,
            route_mtu: 0,
            untracked: None,
            clamped: false,
            seen: Vec::new(),
        }
    }

    pub(crate) fn tuple(&self) -> Tuple {
        Tuple::of(&self.packet)
    }

    /// The rule for which this host does not track it.
    pub(crate) fn untracked_by(&self, host: NetnsId) -> Option<&str> {
        self.untracked.as_ref().filter(|(id, _)| *id == host).map(|(_, rule)| rule.as_str())
    }

    /// The packet of the flow itself, not what is around it.
    pub(crate) fn inner(&self) -> &Self {
        self.inside.as_ref().map_or(self, |inside| &inside.flight)
    }
}
