// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets that expect an answer and have not got one.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;

use super::came_back::OpenRequest;
use super::context::View;
use crate::flow::{Ending, Endpoint, Ends, Journey};
use crate::node::rtnl::Route;

/// An answer takes less than this.
const PATIENCE_NS: u64 = 1_300_000_000;
/// Without an answer for so long, a request is listened for by other means.
const LISTEN_NS: u64 = 200_000_000;
/// A resolver repeats its question after five seconds.
const FORGET_NS: u64 = 10_000_000_000;
/// Packets that are remembered, the first of each flow.
const WAITING: usize = 256;

/// Receivers, and tuples of unanswered flows, that are remembered.
const KNOWN: usize = 4096;

/// UDP ports to which programs send and want no answer: log, flow records, statistics, traps, discovery.
const ONE_WAY: [u16; 12] = [162, 514, 1900, 2055, 4729, 4739, 5355, 6343, 6831, 8125, 9995, 9996];

#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// The oldest first; true: it has waited long enough, and was told of.
    journeys: VecDeque<(Journey, bool)>,
}

impl Waiting {
    /// It got as far as it can be seen.
    pub(super) fn sent(&mut self, view: &View<'_>) {
        let journey = view.journey;
        let arrived = matches!(
            journey.ending,
            Ending::Left { .. } | Ending::Delivered { .. } | Ending::Unwatched { .. }
        );
        if !arrived || !wants_answer(view) || self.journeys.iter().any(|(j, _)| j.flow == journey.flow) {
            return;
        }
        if self.journeys.len() == WAITING {
            self.journeys.pop_front();
        }
        self.journeys.push_back((journey.clone(), false));
    }

    /// There is an answer, or it is known why there is none.
    pub(super) fn over(&mut self, flow: u32) {
        self.journeys.retain(|(journey, _)| journey.flow != flow);
    }

    /// The packets that have waited long enough. `now_ns`: CLOCK_MONOTONIC.
    pub(super) fn overdue(&mut self, now_ns: u64) -> Vec<Journey> {
        let waited = |journey: &Journey| now_ns.saturating_sub(journey.start_ns);
        self.journeys.retain(|(journey, told)| !told || waited(journey) < FORGET_NS);
        let late = self.journeys.iter_mut().filter(|(journey, _)| waited(journey) >= PATIENCE_NS);
        late.filter_map(|(journey, told)| (!std::mem::replace(told, true)).then(|| journey.clone())).collect()
    }

    /// Requests whose answers are to be listened for: those that wait for a while already.
    pub(super) fn open(&self, now_ns: u64) -> impl Iterator<Item = &Journey> {
        let waited = move |journey: &Journey| now_ns.saturating_sub(journey.start_ns);
        let all = self.journeys.iter().map(|(journey, _)| journey);
        all.filter(move |journey| (LISTEN_NS..FORGET_NS).contains(&waited(journey)))
    }

    pub(super) fn requests(&self) -> Vec<OpenRequest> {
        self.journeys.iter().map(|(journey, _)| OpenRequest::of(journey)).collect()
    }

    pub(super) fn of(&self, flow: u32) -> Option<&Journey> {
        self.journeys.iter().map(|(journey, _)| journey).find(|journey| journey.flow == flow)
    }
}

/// Who has to answer connection requests, and who did: by the address behind all translations that were seen, as a
/// reply comes from there and not from the service's address.
#[derive(Debug, Default)]
pub(super) struct Receivers {
    /// Unanswered requests: since when, and how many packets.
    waiting: HashMap<Endpoint, (u64, u32)>,
    alive: HashSet<Endpoint>,
}

impl Receivers {
    /// A connection request that has no answer yet.
    pub(super) fn asked(&mut self, journey: &Journey) {
        if self.waiting.len() >= KNOWN {
            self.waiting.clear();
        }
        self.waiting.entry(receiver(journey)).or_insert((journey.start_ns, 0)).1 += 1;
    }

    /// A reply to a request for `asked` came from here.
    pub(super) fn answered(&mut self, reply: &Journey, asked: Option<Endpoint>, alive: bool) {
        if self.alive.len() >= KNOWN {
            self.alive.clear();
        }
        for from in tuples(reply).map(|ends| ends.src).chain(asked) {
            self.waiting.remove(&from);
            if alive {
                self.alive.insert(from);
            }
        }
    }

    /// Since when requests to the receiver of this one wait, and how many packets.
    pub(super) fn waiting(&self, journey: &Journey) -> Option<(u64, u32)> {
        self.waiting.get(&receiver(journey)).copied()
    }

    /// The receiver of this request answered others.
    pub(super) fn is_alive(&self, journey: &Journey) -> bool {
        self.alive.contains(&receiver(journey))
    }
}

/// Who has to answer: the destination where the packet was seen last.
fn receiver(journey: &Journey) -> Endpoint {
    journey.hops.last().map_or(journey.packet.ends.dst, |hop| hop.ends.dst)
}

/// The packet's ends as it was seen on the way, each once where nothing changed in between.
fn tuples(journey: &Journey) -> impl Iterator<Item = Ends> {
    let mut last = None;
    let all = std::iter::once(journey.packet.ends).chain(journey.hops.iter().map(|hop| hop.ends));
    all.filter(move |ends| last.replace(*ends) != Some(*ends))
}

/// Unanswered flows by each tuple that an answer may have, the one of the packet turned round: where a translation
/// was not seen, the answer is a flow of its own for the filter.
#[derive(Debug, Default)]
pub(super) struct ExpectedReplies {
    flows: HashMap<(u8, Ends), u32>,
}

impl ExpectedReplies {
    pub(super) fn expect(&mut self, request: &Journey) {
        if self.flows.len() >= KNOWN {
            self.flows.clear();
        }
        let entries = request.conntrack.iter().map(|entry| entry.reply);
        for ends in tuples(request).map(Ends::reversed).chain(entries) {
            self.flows.insert((request.packet.proto, ends), request.flow);
        }
    }

    /// The flow, other than its own, that a packet answers.
    pub(super) fn answered(&mut self, packet: &Journey) -> Option<u32> {
        if self.flows.is_empty() {
            return None;
        }
        let flow = tuples(packet).find_map(|ends| self.flows.get(&(packet.packet.proto, ends)).copied())?;
        for ends in tuples(packet) {
            self.flows.remove(&(packet.packet.proto, ends));
        }
        (flow != packet.flow).then_some(flow)
    }
}

/// A request, by what it is: a SYN, an echo request, a datagram to one host.
pub(super) fn wants_answer(view: &View<'_>) -> bool {
    let journey = view.journey;
    let packet = &journey.packet;
    if journey.reply || packet.icmp_error.is_some() || packet.is_fragment || is_for_many(view) {
        return false;
    }
    match packet.proto {
        6 => packet.tcp_flags & 0x12 == 0x02,
        17 => !is_one_way(packet.ends.dst.port) && !is_probe(packet.ends.dst.port),
        1 => packet.echo_type() == 8,
        58 => packet.echo_type() == 128,
        _ => false,
    }
}

/// Programs send there and want no answer.
pub(super) fn is_one_way(port: u16) -> bool {
    ONE_WAY.contains(&port)
}

/// Traceroute sends there, one port after the other, and wants to hear that nothing listens.
pub(super) fn is_probe(port: u16) -> bool {
    (33_434..=33_534).contains(&port)
}

/// For many: by its address, by the MAC that it was sent to, or by what a route says of it.
pub(super) fn is_for_many(view: &View<'_>) -> bool {
    let to = view.journey.packet.ends.dst.addr.ip();
    let many = match to {
        IpAddr::V4(v4) => v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_multicast(),
    };
    let broadcast = |route: &Route| {
        route.kind == libc::RTN_BROADCAST && route.destination.contains(to) && route.destination.len() == 32
    };
    many || view.journey.hops.iter().any(|h| {
        h.macs.is_some_and(|macs| macs.destination[0] & 1 != 0)
            || view.of(h.netns).is_some_and(|e| e.routes.iter().any(broadcast))
    })
}
