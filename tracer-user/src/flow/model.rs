// SPDX-License-Identifier: MIT OR Apache-2.0
//! A packet's journey as plain data. All times are CLOCK_MONOTONIC in ns; names are resolved when shown.

use serde::{Deserialize, Serialize};
use tracer_common::STACK_DEPTH;

use super::addr::{Addr, Endpoint, Ends};
use super::author::Deed;
use crate::firewall::{CtState, NatKind};
use crate::node::{Hook, Interval, NetnsId};

/// One packet, from where it was first seen to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journey {
    /// Number on the screen, from 1 in order of first sight.
    pub id: u64,
    /// [`tracer_common::Event::flow`].
    pub flow: u32,
    /// The packet goes against the direction that the filter names.
    pub reply: bool,
    pub start_ns: u64,
    /// Last sighting, or the drop.
    pub end_ns: u64,
    pub packet: Packet,
    pub hops: Vec<Hop>,
    /// Outer headers it was seen in; hops refer to them by index.
    pub encaps: Vec<Encap>,
    /// Conntrack entries it was seen with that translate, or were new.
    pub conntrack: Vec<ConntrackEntry>,
    pub notes: Vec<Note>,
    pub round_trip: Option<RoundTrip>,
    pub ending: Ending,
    /// Hops that were not kept (only packets that loop reach the limit).
    pub hops_cut: u32,
    /// Part of this journey was shown before and forgotten since: only the news is here.
    pub resumed: bool,
}

/// The packet as it was first seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packet {
    /// IP protocol.
    pub proto: u8,
    pub ipv6: bool,
    pub ends: Ends,
    pub mark: u32,
    /// Bytes from the IP header on, by the header.
    pub l3len: u32,
    pub ttl: u8,
    pub ip_id: u16,
    /// As in the IPv4 header, plus nothing when not a fragment.
    pub frag: u16,
    pub is_fragment: bool,
    pub tcp_flags: u8,
    /// TCP sequence number; ICMP echo sequence.
    pub seq: u32,
    /// TCP acknowledgement number; next-hop MTU of an ICMP "too big".
    pub ack: u32,
    pub gso_size: u16,
    pub gso_segs: u16,
    pub vlan: u16,
    /// Type and code, when it is an ICMP error about a packet of the flow.
    pub icmp_error: Option<(u8, u8)>,
    /// ICMP echo identifier.
    pub echo_id: u16,
    /// TCP: its sender takes no more data (window 0).
    #[serde(default)]
    pub zero_window: bool,
}

/// One sighting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    pub ts: u64,
    pub netns: NetnsId,
    pub place: Place,
    /// Of the flow's own packet, after whatever happened here.
    pub ends: Ends,
    pub mark: u32,
    /// `skb->len`.
    pub len: u32,
    pub l3len: u16,
    pub ttl: u8,
    /// Index into [`Journey::encaps`] while the packet is inside another.
    pub encap: Option<u8>,
    /// Index into [`Journey::conntrack`] where the entry is told for the first time.
    pub conntrack: Option<u8>,
    pub mark_change: Option<MarkChange>,
    /// Old and new `nf_conn.mark`, when it changed since the hop before.
    pub ct_mark_change: Option<(u32, u32)>,
    pub nat: Option<Nat>,
    /// As conntrack has it, where that was asked already; not while the packet is inside another.
    #[serde(default)]
    pub tracking: Option<Tracking>,
    /// Where it came in by a device that has such addresses.
    #[serde(default)]
    pub macs: Option<Macs>,
}

/// What conntrack says of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tracking {
    /// Without an entry: INVALID or UNTRACKED.
    pub state: CtState,
    /// Against the direction of the connection.
    pub reply: bool,
    /// `nf_conn.mark`.
    pub mark: u32,
    /// INVALID: its transport checksum is wrong, as the kernel computed it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub wrong_checksum: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Macs {
    pub destination: [u8; 6],
    pub source: [u8; 6],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Place {
    /// tc on a device.
    Device { ifindex: u32, egress: bool },
    /// A netfilter position. `priority` is `None` when the position is not known any more.
    Hook { hook: Hook, ifindex: u32, out_ifindex: u32, position: u8, priority: Option<i32> },
    /// A lookup in one routing table. `error`: 0 or a negative errno; `mark` as looked up.
    Route {
        table: u32,
        error: i32,
        gateway: Addr,
        ifindex: u32,
        in_ifindex: u32,
        reverse: bool,
        /// The packet is for this host itself.
        local: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encap {
    pub src: Endpoint,
    pub dst: Endpoint,
    pub vni: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkChange {
    pub from: u32,
    pub to: u32,
    pub cause: Cause,
}

/// Who changed or dropped a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// The kernel clears the mark between namespaces and when it adds or removes an outer header.
    Scrubbed,
    /// What is registered in this interval of a hook.
    Hook(Interval),
    /// Nothing we watch can have done it.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nat {
    pub kind: NatKind,
    pub from: Ends,
    /// `None`: seen at a device only.
    pub interval: Option<Interval>,
}

/// Both tuples of a conntrack entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConntrackEntry {
    /// Address of the `nf_conn`: tells entries apart, nothing more.
    pub id: u64,
    pub original: Ends,
    pub reply: Ends,
    /// IPS_* bits.
    pub status: u32,
    pub mark: u32,
}

/// Something about the packet that is no hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    pub ts: u64,
    pub netns: NetnsId,
    /// Hops that were seen before it.
    pub after: u16,
    pub what: NoteKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum NoteKind {
    /// The kernel answered this packet with an ICMP error.
    IcmpSent { icmp_type: u8, code: u8, ipv6: bool },
    /// The kernel answered this packet with a RST; reason as in `enum sk_rst_reason`.
    ResetSent { reason: u32 },
    /// A socket of the flow was reset by this packet.
    ResetReceived,
    /// This packet repeats an earlier one.
    Retransmission { of: Option<u64>, after_ns: Option<u64> },
    /// Another copy of an earlier packet, which a bridge or switch sent to several ports or a queue doubled.
    Copy { of: u64, after_ns: u64 },
    /// Freed by the kernel in a way that is part of healthy traffic.
    Freed { reason: u32, location: u64 },
    /// Part of a larger packet seen before.
    PartOf { of: u64 },
    /// Other packets were joined to this one (GRO, reassembly).
    Absorbed { packets: u16 },
    /// It was cut up and is the first fragment now; the others are new journeys, numbered from `first` to `last`.
    CutUp { first: u64, last: u64, packets: u16 },
    /// Seen at the same place again, with a smaller TTL. `times` so far.
    Looped { times: u16 },
}

/// A reply and what it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundTrip {
    /// [`Journey::id`] of the request.
    pub request: u64,
    /// From the first sight of the request to the last of the reply.
    pub total_ns: u64,
    /// Of it, between leaving by an uplink and coming back.
    pub beyond_ns: Option<u64>,
    /// Of it, between the delivery of the request here and the first sight of the reply.
    pub answer_ns: Option<u64>,
    /// The request was sent more than once: it is not known which one was answered.
    pub ambiguous: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Ending {
    /// Under way.
    #[default]
    Open,
    /// Out of the node by this device.
    Left {
        netns: NetnsId,
        ifindex: u32,
    },
    /// To a socket of this namespace.
    Delivered {
        netns: NetnsId,
    },
    /// Handed to a device behind which nothing is watched.
    Unwatched {
        netns: NetnsId,
        ifindex: u32,
    },
    Dropped(DropSite),
    /// Not seen again, though nothing was lost. Where it should have come next.
    Vanished {
        next: Expected,
        /// It may instead have crossed this bridge to a port that is not watched.
        bridge: Option<u32>,
    },
    /// Not seen again, but events were lost meanwhile, or (`lost` 0) devices were attached or detached: nothing is
    /// claimed.
    Unclear {
        lost: u64,
    },
    /// Became part of another packet (GRO, reassembly).
    Merged {
        into: u64,
    },
    /// Its fragments went on instead of it: `packets` journeys, numbered from `first` to `last`.
    CutUp {
        first: u64,
        last: u64,
        packets: u16,
    },
    /// A copy of another packet that went no further: what becomes of the packet does not depend on it.
    Copy {
        of: u64,
    },
    /// Given up because too many packets were under way.
    Evicted,
}

/// Where and why a packet was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropSite {
    pub ts: u64,
    pub netns: NetnsId,
    /// `skb->dev`; 0 none.
    pub ifindex: u32,
    /// `enum skb_drop_reason`; `u32::MAX`: the kernel gives none.
    pub reason: u32,
    /// Address that freed it.
    pub location: u64,
    /// The hook it died in, and what there can have done it.
    pub interval: Option<Interval>,
    pub deed: Deed,
    /// A socket's namespace had it already (INPUT was seen).
    pub delivered: bool,
    pub mark: u32,
    pub len: u32,
    pub encap: Option<u8>,
    /// Return addresses, innermost first; 0 ends them.
    pub stack: [u64; STACK_DEPTH],
}

/// What should have come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expected {
    Hook {
        netns: NetnsId,
        hook: Hook,
    },
    /// Routing decides between INPUT and FORWARD.
    Routing {
        netns: NetnsId,
    },
    Device {
        netns: NetnsId,
        ifindex: u32,
        egress: bool,
    },
    Unknown,
}

impl Journey {
    /// Empties it for another packet, keeping the memory unless it grew large.
    pub(crate) fn clear(&mut self) {
        let mut hops = std::mem::take(&mut self.hops);
        hops.clear();
        hops.shrink_to(32);
        let mut encaps = std::mem::take(&mut self.encaps);
        encaps.clear();
        let mut conntrack = std::mem::take(&mut self.conntrack);
        conntrack.clear();
        let mut notes = std::mem::take(&mut self.notes);
        notes.clear();
        notes.shrink_to(8);
        *self = Self { hops, encaps, conntrack, notes, ..Self::default() };
    }

    pub fn is_dropped(&self) -> bool {
        matches!(self.ending, Ending::Dropped(_))
    }

    /// Outer header of a hop.
    pub fn encap_of(&self, hop: &Hop) -> Option<&Encap> {
        self.encaps.get(usize::from(hop.encap?))
    }
}

impl Hop {
    /// Something happened here besides passing.
    pub fn changed(&self) -> bool {
        self.mark_change.is_some() || self.nat.is_some() || self.ct_mark_change.is_some()
    }

    /// Both are positions of one traversal of one hook.
    pub fn same_run(&self, other: &Self) -> bool {
        match (self.place, other.place) {
            (
                Place::Hook { hook: a, ifindex: ai, out_ifindex: ao, .. },
                Place::Hook { hook: b, ifindex: bi, out_ifindex: bo, .. },
            ) => {
                a == b
                    && ai == bi
                    && ao == bo
                    && self.netns == other.netns
                    && self.encap.is_some() == other.encap.is_some()
            }
            _ => false,
        }
    }
}

impl Packet {
    /// ICMP type of a packet that is no error: an echo request's or reply's.
    pub(crate) fn echo_type(&self) -> u8 {
        // The record keeps it where TCP has its flags.
        self.tcp_flags
    }

    pub fn is_tcp(&self) -> bool {
        self.proto == 6 && self.icmp_error.is_none()
    }
    pub fn has_ports(&self) -> bool {
        matches!(self.proto, 6 | 17 | 132 | 136) && self.icmp_error.is_none()
    }
}
