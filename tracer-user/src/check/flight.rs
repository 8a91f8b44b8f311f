// SPDX-License-Identifier: MIT OR Apache-2.0
//! A packet under way: its headers as they are now, and what connection tracking knows of it on each host.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::firewall::PacketView;
use crate::flow::{Endpoint, Ends};
use crate::node::NetnsId;

/// Which packet of the connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// The first one: chains of type nat are asked.
    First,
    /// Another one of the same direction: established, translated as the first one was.
    Later,
    /// Against it.
    Reply,
}

/// A connection as one host tracks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// As the first packet came to the host.
    pub(super) before: Tuple,
    /// As it left it.
    pub(super) after: Tuple,
    pub(super) mark: Option<u32>,
}

/// `None`: the port is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tuple {
    pub(super) src: (IpAddr, Option<u16>),
    pub(super) dst: (IpAddr, Option<u16>),
}

/// Around the packet.
#[derive(Clone, Debug)]
pub(super) struct Inside {
    pub(super) flight: Box<Flight>,
    pub(super) vni: u32,
    /// The tunnel device that sends, its MAC, and the one the inner frame is addressed to.
    pub(super) from: [u8; 6],
    pub(super) to: Vec<u8>,
    pub(super) device: String,
}

#[derive(Clone, Debug)]
pub(super) struct Flight {
    pub(super) packet: PacketView,
    pub(super) mode: Mode,
    pub(super) entries: BTreeMap<NetnsId, Entry>,
    /// What the frame is addressed to: an address that whoever gets it answers for.
    pub(super) next_hop: Option<IpAddr>,
    /// Who asks for the next hop's MAC, and by which device.
    pub(super) asker: Option<(NetnsId, u32)>,
    /// The MTU of the route that it goes on by; 0: it has none of its own.
    pub(super) route_mtu: u32,
    /// MTU of the device that the packet was first sent by, and whose it is.
    pub(super) origin: Option<(u32, String)>,
    pub(super) inside: Option<Inside>,
    /// A rule clamps the MSS: TCP's segments fit.
    pub(super) clamped: bool,
    /// Where it was: host and device, for loops.
    pub(super) seen: Vec<(NetnsId, u32)>,
}

impl Tuple {
    pub(super) fn of(packet: &PacketView) -> Self {
        Self { src: (packet.src, packet.src_port), dst: (packet.dst, packet.dst_port) }
    }

    pub(super) fn reversed(self) -> Self {
        Self { src: self.dst, dst: self.src }
    }

    /// The same ends, as far as the ports are known.
    pub(super) fn fits(self, other: Self) -> bool {
        let end = |a: (IpAddr, Option<u16>), b: (IpAddr, Option<u16>)| {
            a.0 == b.0 && (a.1 == b.1 || a.1.is_none() || b.1.is_none())
        };
        end(self.src, other.src) && end(self.dst, other.dst)
    }

    pub(super) fn ends(self) -> Ends {
        let end = |(address, port): (IpAddr, Option<u16>)| Endpoint {
            addr: address.into(),
            port: port.unwrap_or(0),
        };
        Ends { src: end(self.src), dst: end(self.dst) }
    }
}

impl Flight {
    pub(super) fn new(packet: PacketView, mode: Mode) -> Self {
        Self {
            packet,
            mode,
            entries: BTreeMap::new(),
            next_hop: None,
            asker: None,
            origin: None,
            inside: None,
            route_mtu: 0,
            clamped: false,
            seen: Vec::new(),
        }
    }

    pub(super) fn tuple(&self) -> Tuple {
        Tuple::of(&self.packet)
    }

    /// The packet of the flow itself, not what is around it.
    pub(super) fn inner(&self) -> &Self {
        self.inside.as_ref().map_or(self, |inside| &inside.flight)
    }
}
