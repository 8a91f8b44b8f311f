// SPDX-License-Identifier: MIT OR Apache-2.0
//! Slow or stalled programs at the ends of the flow.

use super::context::View;
use super::{invalid, unanswered};
use crate::cause::Certainty::{Certain, Likely, Possible};
use crate::cause::catalogue as c;
use crate::cause::{Finding, Place};
use crate::flow::{DropSite, Ending, Endpoint, NoteKind, Packet};

/// A program that takes longer is worth a word.
const LATE_NS: u64 = 1_000_000_000;
/// Beyond this nobody waits for the answer: it is something new that is told.
const UNRELATED_NS: u64 = 60_000_000_000;
/// A window may be closed for a moment: that is flow control at work.
const CLOSED_NS: u64 = 1_000_000_000;
/// What happened before is told by then.
const TOLD_NS: u64 = 300_000_000;
/// More than the headers of a segment that carries nothing, options and all.
const HEADERS: u32 = 120;

const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;

/// What a flow showed of its programs.
#[derive(Debug, Default)]
pub(super) struct Programs {
    /// A request that the program has and did not answer yet.
    request: Option<DeliveredRequest>,
    /// Since when the one end, the other end takes no more data.
    closed: [Option<u64>; 2],
    /// When one end first said that it is over.
    ended: Option<u64>,
    /// Of data that nobody took, if nothing before it said so: journeys are not told in the order of their packets.
    forgotten: Option<(u64, Finding)>,
    /// Of a client that gave up, unless an answer is told of yet.
    unanswered: Option<(u64, Finding)>,
    /// The other end has sent data.
    spoke: bool,
}

#[derive(Clone, Copy, Debug)]
struct DeliveredRequest {
    journey: u64,
    sent_ns: u64,
    arrived_ns: u64,
    /// Handed to a namespace that is watched.
    delivered: bool,
    /// The kernel of the other end has said that it has it.
    acked_ns: Option<u64>,
}

/// Looks at a packet of a flow.
pub(super) fn observe(view: &View<'_>, programs: &mut Programs) -> Option<Finding> {
    let packet = &view.journey.packet;
    forgotten(view, programs);
    let arrived = matches!(
        view.journey.ending,
        Ending::Delivered { .. } | Ending::Left { .. } | Ending::Unwatched { .. }
    );
    if packet.icmp_error.is_some() || packet.is_fragment || !arrived || view.is_copy() {
        return None;
    }
    does_not_read(view, programs).or_else(|| answers_late(view, programs))
}

fn has_data(packet: &Packet) -> bool {
    !packet.is_tcp() || packet.tcp_flags & PSH != 0 || packet.l3len > HEADERS
}

fn answers_late(view: &View<'_>, programs: &mut Programs) -> Option<Finding> {
    let journey = view.journey;
    let packet = &journey.packet;
    let flags = if packet.is_tcp() { packet.tcp_flags } else { 0 };
    if !packet.has_ports() {
        return None;
    }
    if flags & SYN != 0 {
        (programs.request, programs.unanswered, programs.spoke) = (None, None, false);
        return None;
    }
    if flags & (FIN | RST) != 0 && !journey.reply && programs.unanswered.is_none() {
        programs.unanswered = programs.request.and_then(|request| never_answered(view, &request));
    }
    if flags & RST != 0 {
        return None;
    }
    let again = journey.notes.iter().any(|n| matches!(n.what, NoteKind::Retransmission { .. }));
    if !journey.reply {
        // Of several, the last one is what the program needs to have.
        let request = DeliveredRequest {
            journey: journey.id,
            sent_ns: journey.start_ns,
            arrived_ns: journey.end_ns,
            delivered: matches!(journey.ending, Ending::Delivered { .. }),
            acked_ns: None,
        };
        let newer = programs.request.is_none_or(|known| known.sent_ns < request.sent_ns);
        if has_data(packet) && newer {
            programs.request = (!again).then_some(request);
        }
        return None;
    }
    let request = programs.request?;
    if journey.start_ns < request.sent_ns {
        return None;
    }
    programs.spoke |= has_data(packet);
    if !has_data(packet) {
        if packet.tcp_flags & ACK != 0 && request.acked_ns.is_none() {
            programs.request = Some(DeliveredRequest { acked_ns: Some(journey.start_ns), ..request });
        }
        return None;
    }
    programs.request = None;
    let took = journey.start_ns.saturating_sub(request.arrived_ns);
    let acked = request.acked_ns.map(|at| at.saturating_sub(request.arrived_ns));
    let prompt = acked.is_some_and(|ns| ns < took / 4);
    if !(LATE_NS..UNRELATED_NS).contains(&took)
        || again
        || !(prompt || (!packet.is_tcp() && request.delivered))
    {
        return None;
    }
    let way =
        request.arrived_ns.saturating_sub(request.sent_ns) + journey.end_ns.saturating_sub(journey.start_ns);
    let from = journey.hops.last().map_or(packet.ends, |h| h.ends).src;
    let finding = Finding::new(
        &c::SLOW_ANSWER,
        if request.delivered { Certain } else { Likely },
        format!("the program at {from} takes long to answer ({}): the network does not", seconds(took)),
    )
    .fact(format!(
        "request #{} was there after {} µs and answered {} later; the way here took {} µs of both",
        request.journey,
        request.arrived_ns.saturating_sub(request.sent_ns) / 1000,
        seconds(took),
        way / 1000
    ));
    let finding = match acked {
        Some(ns) if packet.is_tcp() => finding.fact(format!(
            "the kernel there acknowledged the request after {} µs: only the program's answer was missing",
            ns / 1000
        )),
        _ => finding,
    };
    Some(
        finding
            .fix("look at that program: its log, its CPU limit, what it waits for itself")
            .about(from)
            .at(origin(view)),
    )
}

/// The client gave up. Who never heard a word may have wanted none.
fn never_answered(view: &View<'_>, request: &DeliveredRequest) -> Option<(u64, Finding)> {
    let journey = view.journey;
    let waited = journey.start_ns.saturating_sub(request.arrived_ns);
    let acked = request.acked_ns?.saturating_sub(request.arrived_ns);
    let to = journey.packet.ends.dst;
    if waited < LATE_NS || acked > waited / 4 || unanswered::is_one_way(to.port) {
        return None;
    }
    let finding = Finding::new(
        &c::SLOW_ANSWER,
        Possible,
        format!(
            "the program at {to} had a request for {} and did not answer it; then the client gave up",
            seconds(waited)
        ),
    )
    .fact(format!(
        "the kernel there acknowledged request #{} after {} µs: only the program's answer was missing",
        request.journey,
        acked / 1000
    ))
    .fix("look at that program: its log, its CPU limit, what it waits for itself")
    .about(to)
    .at(origin(view));
    Some((journey.start_ns, finding))
}

impl Programs {
    /// What can be said once all that came before must have been told. `now_ns`: CLOCK_MONOTONIC.
    pub(super) fn overdue(&mut self, now_ns: u64) -> Vec<Finding> {
        let late = |(at, _): &mut (u64, Finding)| now_ns.saturating_sub(*at) > TOLD_NS;
        let forgotten = self.forgotten.take_if(late);
        let forgotten = forgotten.filter(|(at, _)| self.ended.is_none_or(|ended| ended > *at));
        let unanswered = self.unanswered.take_if(late).filter(|_| !self.spoke);
        forgotten.into_iter().chain(unanswered).map(|(_, finding)| finding).collect()
    }
}

/// A segment in the middle of a connection that its receiver does not know.
fn forgotten(view: &View<'_>, programs: &mut Programs) {
    let packet = &view.journey.packet;
    if !packet.is_tcp() || packet.icmp_error.is_some() {
        return;
    }
    let at = view.journey.start_ns;
    if packet.tcp_flags & SYN != 0 {
        (programs.ended, programs.forgotten) = (None, None);
        return;
    }
    if packet.tcp_flags & (FIN | RST) != 0 {
        programs.ended = Some(programs.ended.map_or(at, |known| known.min(at)));
        return;
    }
    // Where another program listens on the port by now, it is that one's socket that does not know the segment.
    let refused = |site: &&DropSite| {
        matches!(&*view.reason(site), "NO_SOCKET" | "TCP_FLAGS") && site.encap.is_none() && view.was_reset()
    };
    let Some(site) = view.dropped().filter(refused) else { return };
    if invalid::untranslated(view, site).is_some() {
        return;
    }
    if has_data(packet) && programs.forgotten.is_none() {
        programs.forgotten = Some((at, unknown(view, site)));
    }
}

fn unknown(view: &View<'_>, site: &DropSite) -> Finding {
    let packet = &view.journey.packet;
    let (name, ends) = (view.netns(site.netns), view.journey.hops.last().map_or(packet.ends, |h| h.ends));
    Finding::new(
            &c::FORGOTTEN,
            Certain,
            format!("{} in {name} does not know the connection from {} any more: the program there was restarted, or gave it up without a word", ends.dst, ends.src),
        )
        .checked(
            format!("data came for it, and no socket has that connection: {}, answered by a RST", view.reason(site)),
            view.command(site.netns, format!("ss -tanp sport = :{}", ends.dst.port)),
        )
        .fact("neither end had closed the connection while it was watched")
        .fix(format!("see whether what listens on port {} was restarted (kubectl get pod: RESTARTS); let {} connect again", ends.dst.port, ends.src.addr))
        .about(ends.dst)
        .at(view.place(site.netns, site.ifindex))
}

fn does_not_read(view: &View<'_>, programs: &mut Programs) -> Option<Finding> {
    let journey = view.journey;
    let packet = &journey.packet;
    if !packet.is_tcp() {
        return None;
    }
    let since = &mut programs.closed[usize::from(journey.reply)];
    if !packet.zero_window {
        *since = None;
        return None;
    }
    let first = *since.get_or_insert(journey.start_ns);
    let closed = journey.start_ns.saturating_sub(first);
    if closed < CLOSED_NS {
        return None;
    }
    let Endpoint { addr, port } = packet.ends.src;
    let (reader, writer) = (packet.ends.src, packet.ends.dst);
    let place = origin(view);
    let netns = journey.hops.first().map_or(0, |h| h.netns);
    Some(
        Finding::new(
            &c::DOES_NOT_READ,
            Certain,
            format!("the program at {reader} does not read what {writer} sends: its receive buffer is full, and the connection stands still"),
        )
        .checked(
            format!("{addr} says \"window 0\" for {} now", seconds(closed)),
            view.command(netns, format!("ss -tnmp '( sport = :{port} or dport = :{port} )'")),
        )
        .fact("the packets themselves arrive and are acknowledged")
        .fix(format!("look at the program at {reader}: it hangs, or is slower than what it is sent; larger buffers only put it off"))
        .about(reader)
        .at(place),
    )
}

/// Where a packet came from, as far as it was watched.
fn origin(view: &View<'_>) -> Place {
    view.place(view.journey.hops.first().map_or(0, |h| h.netns), 0)
}

fn seconds(ns: u64) -> String {
    format!("{}.{} s", ns / 1_000_000_000, ns / 100_000_000 % 10)
}
