// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether a frame gets to whom it is meant for: neighbour entries that are wrong, hosts that do not answer for their
//! address, ports of bridges that do not forward.

use std::sync::Arc;

use super::bridge_ports::port_blocked;
use super::link::{NUD_FAILED, NUD_INCOMPLETE};
use super::packet_state::{Flight, Mode};
use super::silence::SilentHop;
use super::steps::Stage;
use super::walker::{Next, Walker};
use super::world::Host;
use crate::cause::Certainty::{Certain, Likely};
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::node::rtnl::Link;
use crate::snapshot::Change;
use crate::text::mac;

/// include/uapi/linux/neighbour.h
const NUD_PERMANENT: u16 = 0x80;

impl Walker<'_> {
    /// The frame is at the host that has the next hop's address. Does whoever sends it know that host's MAC?
    pub(crate) fn unasked(&mut self, host: &Arc<Host>, link: &Link, flight: &Flight) -> Option<Next> {
        let (hop, (asker, by)) = (flight.next_hop?, flight.asker?);
        let own = host.owner(hop).and_then(|ifindex| host.link(ifindex))?;
        let asker = self.world.host(asker).filter(|asker| asker.id != host.id)?;
        let out = asker.link(by).filter(|l| l.vxlan.is_none() && !l.is_layer3())?;
        // Behind the device that it came in by, or behind the bridge that this is a port of.
        if own.mac.len() != 6 || !(own.ifindex == link.ifindex || link.master == Some(own.ifindex)) {
            return None;
        }
        let entry = asker.evidence.neighbours.iter().find(|n| n.ifindex == out.ifindex && n.address == hop);
        let known = entry.filter(|n| n.mac.len() == 6 && n.state & (NUD_FAILED | NUD_INCOMPLETE) == 0);
        let (name, device) = (asker.name(), asker.device(out.ifindex));
        let (there, theirs) = (host.name(), host.device(own.ifindex));
        let show = asker.command(format!("ip neigh show {hop} dev {device}"));
        let stage = match flight.inner().mode {
            Mode::Reply => Stage::Returning,
            _ => self.stage(&asker, Stage::Passing, flight),
        };
        if let Some(entry) = known {
            if entry.mac == own.mac {
                return None;
            }
            let (wrong, right) = (mac(&entry.mac), mac(&own.mac));
            let permanent = entry.state & NUD_PERMANENT != 0;
            let finding = Finding::new(
                &c::OTHER_HOST,
                if permanent { Certain } else { Likely },
                format!("{name} sends to MAC {wrong} what is for {hop}, but {theirs} of {there}, which has that address, has MAC {right}"),
            )
            .checked(
                format!("the neighbour entry of {hop} on {name}: {wrong}{}", if permanent { ", permanent" } else { "" }),
                show,
            )
            .checked(format!("{theirs} of {there} has MAC {right}"), host.command(format!("ip link show {theirs}")))
            .fix(asker.command(format!("ip neigh del {hop} dev {device}")))
            .change(asker.id, Change::DeleteNeighbour { ifindex: out.ifindex, address: hop })
            .at(Self::place(&asker, out.ifindex));
            return Some(self.stop(&asker, stage, finding));
        }
        let noarp = own.flags & libc::IFF_NOARP as u32 != 0;
        let ignore =
            ["all", &own.name].map(|n| (n.to_owned(), host.sysctl(&format!("net/ipv4/conf/{n}/arp_ignore"))));
        let ignore = ignore.into_iter().find(|(_, value)| hop.is_ipv4() && *value == Some(8));
        let (why, fix) = match (noarp, ignore) {
            (true, _) => (
                format!("{theirs} has ARP switched off (NOARP)"),
                host.command(format!("ip link set {theirs} arp on")),
            ),
            (false, Some((key, _))) => {
                let key = format!("net.ipv4.conf.{}.arp_ignore", key.replace('.', "/"));
                (format!("{key} is 8"), host.command(format!("sysctl -w {key}=0")))
            }
            (false, None) => {
                let question = SilentHop {
                    asker: asker.clone(),
                    ifindex: by,
                    address: hop,
                    source: flight.packet.src,
                    is_gateway: hop != flight.packet.dst,
                };
                let finding = question.reason(self.world)?;
                return Some(self.stop(&asker, stage, finding));
            }
        };
        let finding = Finding::new(
            &c::NEIGHBOUR_SILENT,
            Certain,
            format!("{hop} is on {theirs} of {there}, but does not answer who asks for it: {why}"),
        )
        .checked(why, host.command(format!("ip -d addr show {theirs}")))
        .checked(format!("{name} does not know its MAC"), show)
        .fix(fix)
        .at(Self::place(host, own.ifindex));
        Some(self.stop(host, stage, finding))
    }

    /// The bridge does not forward at this port, or not between it and the one that the frame came in by.
    pub(crate) fn blocked(&mut self, host: &Arc<Host>, flight: &Flight, port: &Link) -> Option<Next> {
        let before = flight.seen.iter().rev().find(|(id, ifindex)| {
            *id == host.id
                && *ifindex != port.ifindex
                && host.link(*ifindex).is_some_and(|l| l.master == port.master)
        });
        let other = before.and_then(|(_, ifindex)| host.link(*ifindex)).filter(|_| self.bridging);
        let finding = port_blocked(host, port, other)?;
        let stage = self.stage(host, Stage::Passing, flight);
        Some(self.stop(host, stage, finding))
    }
}
