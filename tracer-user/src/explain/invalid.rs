// SPDX-License-Identifier: MIT OR Apache-2.0
//! InvalidReason conntrack takes a packet for INVALID: by its entry, by what came before it, by the packet itself.

use std::net::SocketAddr;

use super::context::View;
use super::tracking::{is_invalid, sure};
use crate::cause::Certainty::{self, Certain, Likely};
use crate::cause::catalogue as c;
use crate::cause::{Fact, Finding};
use crate::flow::{DropSite, Endpoint, Hop, Place};
use crate::node::NetnsId;
use crate::snapshot::{ConnectionTuple, NetnsEvidence, TrackedConnection};

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
/// Journeys are told in the order in which they end.
const SETTLED_NS: u64 = 100_000_000;
const DELETED: &str = "let the program connect again, and find what deletes entries (conntrack -D or -F; an agent that flushes the table)";
const LIBERAL: &str = "net.netfilter.nf_conntrack_tcp_be_liberal";
const ESTABLISHED: &str = "net.netfilter.nf_conntrack_tcp_timeout_established";

/// InvalidReason, as far as it is known.
pub(super) struct InvalidReason {
    pub(super) certainty: Certainty,
    /// Goes on after "conntrack takes it for INVALID: ".
    pub(super) text: String,
    pub(super) facts: Vec<Fact>,
    pub(super) fix: String,
}

impl InvalidReason {
    fn new(certainty: Certainty, text: impl Into<String>) -> Self {
        Self { certainty, text: text.into(), facts: Vec::new(), fix: String::new() }
    }

    fn fact(mut self, text: impl Into<String>, check: impl Into<String>) -> Self {
        self.facts.push(Fact { text: text.into(), check: check.into() });
        self
    }

    fn fix(self, fix: impl Into<String>) -> Self {
        Self { fix: fix.into(), ..self }
    }

    /// Adds it to the finding of what was done to the packet.
    pub(super) fn tell(self, mut finding: Finding) -> Finding {
        finding.certainty = finding.certainty.max(self.certainty);
        // What says why comes before what says where.
        let at = finding.evidence.len().min(1);
        finding.evidence.splice(at..at, self.facts);
        finding.fix(self.fix)
    }
}

/// Of a packet that netfilter of a namespace has.
pub(super) fn why(view: &View<'_>, netns: NetnsId) -> InvalidReason {
    let packet = &view.journey.packet;
    let hop = view.journey.hops.iter().rev().find(|hop| hop.netns == netns && is_invalid(hop));
    if packet.icmp_error.is_some() {
        return InvalidReason::new(Likely, "conntrack knows no connection that this ICMP error is about")
            .fix(
                "find why the node did not see that connection: another way, or an entry that is gone by now",
            );
    }
    if let Some(hop) = hop.filter(|hop| hop.tracking.is_some_and(|t| t.wrong_checksum)) {
        return checksum(view, hop);
    }
    match packet.proto {
        6 => segment(view, netns),
        17 | 132 => InvalidReason::new(Likely, "its checksum or its length is wrong").fix(format!(
            "look for what sends it so: tcpdump -nvv host {} on the sender, and ethtool -k of its device",
            packet.ends.src.addr
        )),
        _ => one_way(view, netns).unwrap_or_else(|| {
            InvalidReason::new(Likely, "it is no answer to anything that the node knows by now")
                .fix("find why the node did not see the request, or forgot it")
        }),
    }
}

/// The kernel computed it, and it is wrong.
fn checksum(view: &View<'_>, hop: &Hop) -> InvalidReason {
    let packet = &view.journey.packet;
    let what = crate::text::protocol_name(packet.proto);
    let from = packet.ends.src.addr;
    let first = view.journey.hops.first();
    let watched = first.filter(|first| view.owner(from.ip()).is_some_and(|(ns, _)| ns.id == first.netns));
    let came = match first.map(|hop| (hop.netns, hop.place)) {
        Some((netns, Place::Device { ifindex, egress: false })) => format!(
            "it is so before {} of {} has it, and has nothing to do with its entry or the window",
            view.device_name(netns, ifindex),
            view.netns(netns)
        ),
        _ => "it has nothing to do with its entry or the window".to_owned(),
    };
    let sender = watched.map_or_else(|| format!("{from}"), |first| view.netns(first.netns));
    InvalidReason::new(Certain, format!("its {what} checksum is wrong"))
        .fact(
            format!("conntrack of {} computed the {what} checksum, and it does not fit the packet", view.netns(hop.netns)),
            view.command(hop.netns, format!("tcpdump -nvvi any host {from}")),
        )
        .fact(came, "")
        .fix(format!(
            "find what makes it wrong on {sender} or on the way from there: a device that offers checksum offload and does not do it (ethtool -k; switch \"tx\" off with ethtool -K), or a rule that rewrites packets; the receiver would throw it away too"
        ))
}

fn tuple(view: &View<'_>, netns: NetnsId) -> ConnectionTuple {
    let hops = &view.journey.hops;
    let ends = hops
        .iter()
        .find(|h| h.netns == netns && h.encap.is_none())
        .map_or(view.journey.packet.ends, |h| h.ends);
    let end = |end: Endpoint| SocketAddr::new(end.addr.ip(), end.port);
    ConnectionTuple { proto: view.journey.packet.proto, src: end(ends.src), dst: end(ends.dst) }
}

/// Its entry, where the snapshot has it.
fn entry<'e>(view: &View<'_>, evidence: &'e NetnsEvidence, netns: NetnsId) -> Option<&'e TrackedConnection> {
    evidence.connection_of(tuple(view, netns), 0).map(|(entry, _)| entry)
}

/// Only packets of one direction come through the namespace.
fn one_way(view: &View<'_>, netns: NetnsId) -> Option<InvalidReason> {
    let (journey, name) = (view.journey, view.netns(netns));
    let seen = view.tracking.of(netns)?;
    // A packet that came a moment before may not have been told of yet.
    let settled = seen.first_ns().is_some_and(|first| journey.end_ns.saturating_sub(first) >= SETTLED_NS);
    if seen.came(!journey.reply) || !settled {
        return None;
    }
    let known = view.of(netns).and_then(|evidence| entry(view, evidence, netns));
    let answers_missing =
        known.map_or_else(|| seen.known_before(journey.end_ns).is_some(), |entry| !entry.seen_reply());
    let ends = journey.packet.ends;
    let begins_nothing = journey.packet.is_tcp() && journey.packet.tcp_flags & (SYN | ACK) == SYN | ACK;
    let (text, fact) = if answers_missing {
        (
            format!(
                "{name} sees one direction of the connection only: what {} answers takes another way",
                ends.dst.addr
            ),
            format!(
                "of the connection only packets from {} came to {name}, since its first one",
                ends.src.addr
            ),
        )
    } else if begins_nothing || !journey.packet.is_tcp() {
        (
            format!(
                "{name} sees one direction of the connection only: the request that this answers took another way"
            ),
            format!(
                "no packet from {} to {} came to {name}, and it has no entry of the connection",
                ends.dst.addr, ends.src.addr
            ),
        )
    } else {
        return None;
    };
    let why = InvalidReason::new(sure(view.tracking.began_here() || begins_nothing), text)
        .fact(fact, view.command(netns, format!("conntrack -L -s {}", ends.src.addr)));
    let why = match known {
        Some(entry) => why.fact(format!("the entry: {entry}"), ""),
        None => why,
    };
    Some(why.fix(format!(
        "let both directions pass {name}, or neither: compare the way from {} to {} with the way back (ip route get on both); no sysctl of conntrack helps, but the rule may spare these addresses",
        ends.src.addr, ends.dst.addr
    )))
}

fn segment(view: &View<'_>, netns: NetnsId) -> InvalidReason {
    let (journey, name) = (view.journey, view.netns(netns));
    let flags = journey.packet.tcp_flags;
    let seen = view.tracking.of(netns);
    let evidence = view.of(netns);
    let sysctl = |key: &str| evidence.and_then(|e| e.sysctl(&format!("net/netfilter/{key}")));
    if let Some(found) = one_way(view, netns) {
        return found;
    }
    let known = evidence.and_then(|evidence| entry(view, evidence, netns));
    let now = journey.end_ns;
    let last = seen.and_then(|seen| seen.known_before(now));
    let timeout = sysctl("nf_conntrack_tcp_timeout_established");
    let idle = last.map(|last| now.saturating_sub(last));
    let list = view.command(netns, format!("conntrack -L -s {}", journey.packet.ends.src.addr));
    if let (Some(idle), Some(timeout)) = (idle, timeout)
        && idle / 1_000_000_000 >= timeout.unsigned_abs()
        && !seen.is_some_and(|seen| seen.known_after(now))
    {
        let why = InvalidReason::new(
            Certain,
            format!(
                "its entry timed out: the connection was idle for {} s, and {name} forgets established connections after {timeout} s",
                idle / 1_000_000_000
            ),
        )
        .fact(
            format!("the last packet before had an entry, {} s ago", idle / 1_000_000_000),
            view.command(netns, format!("sysctl {ESTABLISHED}")),
        );
        return lost_translation(view, netns, why).fix(format!(
            "{} (kube-proxy: conntrack.tcpEstablishedTimeout), or let the program send keepalives more often than that",
            view.command(netns, format!("sysctl -w {ESTABLISHED}=86400"))
        ));
    }
    let both = seen.is_some_and(super::tracking::Tracked::knew_both)
        || known.is_some_and(TrackedConnection::seen_reply);
    let there = known.is_some()
        || seen.is_some_and(|seen| seen.known_after(now))
        || idle.is_some_and(|idle| idle < 1_000_000_000);
    let outside = view.tracking.outside_of_window(journey);
    let plain = flags & ACK != 0 && flags & (SYN | RST) == 0;
    if both && there && plain && sysctl("nf_conntrack_tcp_be_liberal") == Some(0) {
        let text = match outside {
            Some(distance) => format!(
                "its sequence number is {} bytes {} what the other end has acknowledged, out of every window",
                distance.unsigned_abs(),
                if distance > 0 { "beyond" } else { "before" }
            ),
            None => "it does not fit into the window that conntrack expects for the connection".to_owned(),
        };
        let why = InvalidReason::new(sure(outside.is_some()), text).fact(
            format!("{name} has an entry of the connection and saw both directions of it; the checksum is not what it minds"),
            list,
        );
        let why = match known {
            Some(entry) => why.fact(format!("the entry: {entry}"), ""),
            None => why,
        };
        return why.fix(view.command(netns, format!("sysctl -w {LIBERAL}=1")));
    }
    // Read after the packet: the absence of an entry says something.
    let absent =
        evidence.is_some_and(|e| e.taken_ns > now && e.unread_connections.is_none()) && known.is_none();
    if last.is_some() && absent && !seen.is_some_and(|seen| seen.known_after(now)) {
        let why = InvalidReason::new(
            Certain,
            format!("its entry is gone from {name}: it was deleted, though the connection is in use"),
        )
        .fact(format!("packets of the connection had an entry on {name} before; it has none now"), list);
        return lost_translation(view, netns, why).fix(DELETED);
    }
    if known.is_none() && last.is_none() {
        let what = match flags {
            f if f & RST != 0 => "a RST",
            f if f & FIN != 0 => "a FIN",
            _ => "a segment in the middle of a connection",
        };
        let loose = sysctl("nf_conntrack_tcp_loose");
        let why = InvalidReason::new(
            Likely,
            format!("it is {what}, and {name} knows no such connection: it timed out, was deleted, or began by another way"),
        )
        .fact("no packet of the connection had an entry there while it was watched", list);
        let why = match loose {
            Some(0) => why.fact(
                "connections are not picked up in the middle: nf_conntrack_tcp_loose is 0",
                view.command(netns, "sysctl net.netfilter.nf_conntrack_tcp_loose"),
            ),
            _ => why,
        };
        return why.fix("let the program connect again; it is a new connection then, which the node sees from its beginning");
    }
    // With an entry it would be part of the connection, without one it would be picked up if that were allowed.
    if plain && outside.is_none() && !there && sysctl("nf_conntrack_tcp_loose") == Some(0) {
        let why = InvalidReason::new(
            Likely,
            format!("its entry is gone from {name}, which picks up no connection in the middle"),
        )
        .fact("packets of the connection had an entry there before, and its sequence number fits", list)
        .fact(
            "nf_conntrack_tcp_loose is 0",
            view.command(netns, "sysctl net.netfilter.nf_conntrack_tcp_loose"),
        );
        return lost_translation(view, netns, why).fix(DELETED);
    }
    InvalidReason::new(Likely, "the segment does not fit into the connection that it knows".to_owned())
        .fact(
            "its checksum is not what conntrack minds, and packets of the connection had an entry before",
            list,
        )
        .fix(format!(
            "compare its flags and sequence number with the connection's: tcpdump -nS host {}",
            journey.packet.ends.src.addr
        ))
}

/// What the entry did, nobody does now.
fn lost_translation(view: &View<'_>, netns: NetnsId, why: InvalidReason) -> InvalidReason {
    match view.tracking.of(netns).and_then(|seen| seen.translation) {
        Some((from, to)) => why
            .fact(format!("with it went its translation ({from} was {to}): the packet goes on as it is"), ""),
        None => why,
    }
}

/// An answer passed a node untranslated because conntrack there takes it for INVALID, and comes to who asked from an
/// address that it does not know.
pub(super) fn untranslated(view: &View<'_>, site: &DropSite) -> Option<Finding> {
    let journey = view.journey;
    let hop = journey.hops.iter().find(|hop| is_invalid(hop) && hop.encap.is_none())?;
    let (before, after) = view.tracking.of(hop.netns)?.translation?;
    let ends = hop.ends;
    // It has what the translated packets have, or their reverse.
    let [a, b] = [before, after].map(|e| [e.src, e.dst]);
    let one_of = |end: Endpoint| a.contains(&end) || b.contains(&end);
    if !one_of(ends.src) && !one_of(ends.dst) {
        return None;
    }
    let (name, there) = (view.netns(hop.netns), view.netns(site.netns));
    let why = why(view, hop.netns);
    let finding = Finding::new(
        &c::CONNTRACK_INVALID,
        Certain,
        format!(
            "{name} does not translate a packet of {} back: conntrack takes it for INVALID: {}; {there} gets it from an address that it did not ask, and resets the connection",
            ends.src, why.text
        ),
    )
    .fact(format!("{there} has no connection with {} and answers with a RST: {}", ends.src, view.reason(site)))
    .fact("no rule of the node drops INVALID packets before they leave it, as kube-proxy's KUBE-FORWARD rule does")
    .about(name)
    .at(view.place(hop.netns, 0));
    Some(why.tell(finding))
}
