// SPDX-License-Identifier: MIT OR Apache-2.0
//! Address translation, as it shows in a packet's headers, and the conntrack entries behind it.

use tracer_common::{CT_TUPLE_REPLY, DIR_REPLY, Event, FLAG_FRAG, FLAG_QUOTED};

use super::addr::{Addr, Endpoint, Ends};
use super::bounded_map::Generations;
use super::model::ConntrackEntry;
use crate::firewall::NatKind;

/// From here on a packet goes against its entry's original direction, `enum ip_conntrack_info` (uapi).
pub(crate) const CT_ESTABLISHED_REPLY: u8 = 3;
pub(crate) const CT_RELATED_REPLY: u8 = 4;

/// The ends an event shows. Ports only where they are ports: not an echo identifier, not an ICMP type.
pub(crate) fn ends_of(e: &Event) -> Ends {
    let ports = matches!(e.proto, 6 | 17 | 132 | 136) && e.flags & FLAG_QUOTED == 0;
    let port = |p: u16| if ports { p } else { 0 };
    Ends {
        src: Endpoint { addr: Addr(e.src), port: port(e.sport) },
        dst: Endpoint { addr: Addr(e.dst), port: port(e.dport) },
    }
}

/// What was translated between two sightings of one packet. Port 0 (a later fragment) equals any port.
pub(crate) fn translation(before: Ends, after: Ends, e: &Event) -> Option<NatKind> {
    let fragment = e.flags & FLAG_FRAG != 0;
    let differ = |a: Endpoint, b: Endpoint| {
        a.addr != b.addr || (a.port != b.port && !fragment && a.port != 0 && b.port != 0)
    };
    let src = differ(before.src, after.src);
    let dst = differ(before.dst, after.dst);
    let reply = match e.ct_info() {
        _ if e.is_encap() || e.ct() == 0 => e.dir == DIR_REPLY,
        CT_ESTABLISHED_REPLY | CT_RELATED_REPLY => true,
        _ => false,
    };
    Some(match (src, dst, reply) {
        (false, false, _) => return None,
        (true, false, false) => NatKind::Snat,
        (false, true, false) => NatKind::Dnat,
        (true, true, false) => NatKind::Both,
        (false, true, true) => NatKind::UnSnat,
        (true, false, true) => NatKind::UnDnat,
        (true, true, true) => NatKind::UnBoth,
    })
}

impl ConntrackEntry {
    /// The entry translates: its reply tuple is not just the original reversed.
    pub fn translates(&self) -> bool {
        self.reply != self.original.reversed()
    }
}

/// Conntrack entries by address, put together from their two records.
#[derive(Debug)]
pub(crate) struct Conntracks {
    known: Generations<u64, ConntrackEntry>,
    /// Original tuples whose reply has not come yet: there are never many.
    half: Vec<ConntrackEntry>,
}

const HALVES: usize = 64;

impl Conntracks {
    pub(crate) fn new(size: usize) -> Self {
        Self { known: Generations::new(size), half: Vec::new() }
    }

    pub(crate) fn observe(&mut self, e: &Event) {
        let (id, status, mark) = (e.ct(), e.ct_status(), e.ct_mark());
        if id == 0 {
            return;
        }
        let ends = ends_of(e);
        if e.position != CT_TUPLE_REPLY {
            self.half.retain(|h| h.id != id);
            if self.half.len() == HALVES {
                self.half.remove(0);
            }
            let reply = Ends::default();
            self.half.push(ConntrackEntry { id, original: ends, reply, status, mark });
        } else if let Some(at) = self.half.iter().position(|h| h.id == id) {
            let entry = self.half.swap_remove(at);
            self.known.insert(id, ConntrackEntry { reply: ends, status, mark, ..entry });
        }
    }

    pub(crate) fn find(&mut self, id: u64) -> Option<ConntrackEntry> {
        self.known.get_mut(id).copied()
    }

    pub(crate) fn evicted(&self) -> u64 {
        self.known.evicted()
    }
}
