// SPDX-License-Identifier: MIT OR Apache-2.0
//! What conntrack of each namespace showed of one flow so far.

use crate::cause::Certainty::{self, Certain, Likely};
use crate::firewall::CtState;
use crate::flow::{Ends, Hop, Journey};
use crate::node::NetnsId;

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
/// Namespaces that are remembered of one flow.
const NAMESPACES: usize = 16;
/// No window is larger (RFC 7323, section 2.3).
const LARGEST_WINDOW: i64 = 1 << 30;

/// Of one flow.
#[derive(Clone, Debug, Default)]
pub(super) struct TrackingHistory {
    at: Vec<Tracked>,
    /// The highest acknowledgement of each direction (index: [`Journey::reply`]), and when it was sent.
    acked: [Option<u32>; 2],
    /// Its SYN was seen.
    began: bool,
}

/// Of one flow in one namespace.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tracked {
    netns: NetnsId,
    /// When packets came there, first and last, whatever conntrack said of them; by [`Journey::reply`].
    came: [Option<(u64, u64)>; 2],
    /// Of those that had an entry.
    known: [Option<(u64, u64)>; 2],
    /// Its translation there.
    pub(super) translation: Option<(Ends, Ends)>,
}

impl TrackingHistory {
    /// Takes note of a journey; of one more than once, too.
    pub(super) fn observe(&mut self, journey: &Journey) {
        let packet = &journey.packet;
        if packet.icmp_error.is_some() {
            return;
        }
        let way = usize::from(journey.reply);
        if packet.is_tcp() {
            self.began |= packet.tcp_flags & (SYN | ACK) == SYN;
            let newer = |known: u32| (packet.ack.wrapping_sub(known) as i32) > 0;
            let invalid = journey.hops.iter().any(is_invalid);
            if packet.tcp_flags & (ACK | RST) == ACK && !invalid && self.acked[way].is_none_or(newer) {
                self.acked[way] = Some(packet.ack);
            }
        }
        for hop in journey.hops.iter().filter(|hop| hop.encap.is_none()) {
            let Some(tracking) = hop.tracking else { continue };
            let Some(at) = self.of_mut(hop.netns) else { continue };
            let note = |slot: &mut Option<(u64, u64)>| {
                let (first, last) = slot.unwrap_or((hop.ts, hop.ts));
                *slot = Some((first.min(hop.ts), last.max(hop.ts)));
            };
            note(&mut at.came[way]);
            if !matches!(tracking.state, CtState::Invalid | CtState::Untracked) {
                note(&mut at.known[way]);
            }
            if let Some(nat) = hop.nat {
                at.translation.get_or_insert((nat.from, hop.ends));
            }
        }
    }

    fn of_mut(&mut self, netns: NetnsId) -> Option<&mut Tracked> {
        let index = self.at.iter().position(|at| at.netns == netns).or_else(|| {
            let new = Tracked { netns, came: [None; 2], known: [None; 2], translation: None };
            (self.at.len() < NAMESPACES).then(|| self.at.push(new))?;
            Some(self.at.len() - 1)
        })?;
        self.at.get_mut(index)
    }

    pub(super) fn of(&self, netns: NetnsId) -> Option<&Tracked> {
        self.at.iter().find(|at| at.netns == netns)
    }

    /// Its first packet was seen: what was not seen since did not come.
    pub(super) fn began_here(&self) -> bool {
        self.began
    }

    /// The highest acknowledgement that packets of a direction carried.
    pub(super) fn acked(&self, by_reply: bool) -> Option<u32> {
        self.acked[usize::from(by_reply)]
    }

    /// By how much a TCP segment misses what its receiver can take; `None`: it may fit, or is not known.
    pub(super) fn outside_of_window(&self, journey: &Journey) -> Option<i64> {
        let acked = self.acked(!journey.reply)?;
        let distance = i64::from(journey.packet.seq.wrapping_sub(acked) as i32);
        (distance.abs() > 1 << 20 && distance.abs() < LARGEST_WINDOW * 2).then_some(distance)
    }
}

impl Tracked {
    /// A packet of this direction was seen there, with or without an entry.
    pub(super) fn came(&self, reply: bool) -> bool {
        self.came[usize::from(reply)].is_some()
    }

    /// When the first packet came there.
    pub(super) fn first_ns(&self) -> Option<u64> {
        self.came.iter().flatten().map(|(first, _)| *first).min()
    }

    /// When the last packet that had an entry came there before `ns`, as far as that is known.
    pub(super) fn known_before(&self, ns: u64) -> Option<u64> {
        let ends = |span: &(u64, u64)| if span.1 < ns { span.1 } else { span.0 };
        self.known.iter().flatten().map(ends).filter(|at| *at < ns).max()
    }

    /// A packet that had an entry came there after `ns`.
    pub(super) fn known_after(&self, ns: u64) -> bool {
        self.known.iter().flatten().any(|span| span.1 > ns)
    }

    /// Packets of both directions had an entry there.
    pub(super) fn knew_both(&self) -> bool {
        self.known.iter().all(Option::is_some)
    }
}

pub(super) fn is_invalid(hop: &Hop) -> bool {
    hop.tracking.is_some_and(|tracking| tracking.state == CtState::Invalid)
}

/// `Certain` where nothing is left open.
pub(super) fn sure(all: bool) -> Certainty {
    if all { Certain } else { Likely }
}
