// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which request a packet answers, and how long that took.

use std::collections::VecDeque;

use super::fingerprint::Fingerprint;
use super::model::RoundTrip;

const OUTSTANDING: usize = 16;
/// A UDP packet this much later is no answer any more.
const UDP_PATIENCE: u64 = 10_000_000_000;

/// No timeout after which TCP sends again is shorter (the kernel's TCP_RTO_MIN), ns.
pub(crate) const RTO_MIN: u64 = 200_000_000;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// A packet that something is expected in answer to. Times in ns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) id: u64,
    start: u64,
    /// Left by an uplink.
    left: Option<u64>,
    /// Delivered here.
    delivered: Option<u64>,
    seq: u32,
    /// First sequence number that it cannot cover.
    end: u32,
    resent: bool,
    ip_id: u16,
}

/// Unanswered packets of one flow, by direction.
#[derive(Debug, Default)]
pub(crate) struct Outstanding {
    sides: [VecDeque<Request>; 2],
}

/// What a new packet is to the ones before.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Relation {
    pub(crate) answers: Option<Request>,
    pub(crate) repeats: Option<Repeat>,
}

/// An earlier packet with the same numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Repeat {
    pub(crate) of: u64,
    /// When that was first seen, ns.
    pub(crate) since: u64,
    /// The sender did not send it again: something on the way doubled it.
    pub(crate) copy: bool,
}

impl Outstanding {
    pub(crate) fn packet(&mut self, id: u64, start: u64, fp: &Fingerprint) -> Relation {
        let side = usize::from(fp.dir != 0);
        let mut relation = Relation::default();
        if fp.quoted || fp.frag_offset != 0 {
            return relation;
        }
        match fp.proto {
            6 => {
                if fp.tcp_flags & ACK != 0 {
                    relation.answers = acked(&mut self.sides[1 - side], fp.l4b);
                }
                if let Some(end) = tcp_end(fp) {
                    relation.repeats = self.remember(side, id, start, fp, end);
                }
            }
            1 | 58 => {
                let others = &mut self.sides[1 - side];
                if let Some(at) = others.iter().position(|r| r.seq == fp.l4a) {
                    relation.answers = others.remove(at);
                } else {
                    relation.repeats =
                        self.remember(side, id, start, fp, fp.l4a.wrapping_add(1)).filter(|r| r.copy);
                }
            }
            17 => {
                let others = &mut self.sides[1 - side];
                others.retain(|r| start.saturating_sub(r.start) < UDP_PATIENCE);
                match others.pop_front() {
                    Some(request) => relation.answers = Some(request),
                    None => self.push(side, id, start, 0, &Fingerprint { l4a: 0, ..*fp }),
                }
            }
            _ => {}
        }
        relation
    }

    fn remember(&mut self, side: usize, id: u64, start: u64, fp: &Fingerprint, end: u32) -> Option<Repeat> {
        if let Some(earlier) = self.sides[side].iter_mut().find(|r| r.seq == fp.l4a) {
            // Whoever sends again gives the packet another identification, if any.
            let same_id = fp.ip_id != 0 && earlier.ip_id == fp.ip_id;
            let handshake = fp.proto == 6 && fp.tcp_flags & SYN != 0 && earlier.ip_id == fp.ip_id;
            let copy = (same_id || handshake) && start.saturating_sub(earlier.start) < RTO_MIN;
            earlier.resent |= !copy;
            return Some(Repeat { of: earlier.id, since: earlier.start, copy });
        }
        self.push(side, id, start, end, fp);
        None
    }

    fn push(&mut self, side: usize, id: u64, start: u64, end: u32, fp: &Fingerprint) {
        let (seq, ip_id) = (fp.l4a, fp.ip_id);
        let queue = &mut self.sides[side];
        if queue.len() == OUTSTANDING {
            queue.pop_front();
        }
        queue.push_back(Request { id, start, left: None, delivered: None, seq, end, resent: false, ip_id });
    }

    /// Where a packet ended, for the split of its round trip.
    pub(crate) fn ended(&mut self, id: u64, dir: u8, left: Option<u64>, delivered: Option<u64>) {
        if let Some(r) = self.sides[usize::from(dir != 0)].iter_mut().find(|r| r.id == id) {
            r.left = left.or(r.left);
            r.delivered = delivered.or(r.delivered);
        }
    }
}

/// End of the range of numbers that a TCP packet takes; `None` for one that needs no answer.
fn tcp_end(fp: &Fingerprint) -> Option<u32> {
    if fp.tcp_flags & RST != 0 {
        return None;
    }
    if fp.tcp_flags & (SYN | FIN) != 0 {
        return Some(fp.l4a.wrapping_add(u32::from(fp.l3len)));
    }
    fp.tcp_range().map(|(_, end)| end)
}

/// The newest request that `ack` covers; it and the older ones are done.
fn acked(requests: &mut VecDeque<Request>, ack: u32) -> Option<Request> {
    let mut newest = None;
    requests.retain(|r| {
        let past = ack.wrapping_sub(r.seq);
        let covered = past > 0 && past < u32::MAX / 2;
        if covered && past <= r.end.wrapping_sub(r.seq) {
            newest = Some(*r);
        }
        !covered
    });
    newest
}

impl Request {
    /// The round trip, once the reply has been seen from `first` to `last`. `entered`: the reply came in by
    /// an uplink.
    pub(crate) fn answered(&self, first: u64, last: u64, entered: bool) -> RoundTrip {
        RoundTrip {
            request: self.id,
            total_ns: last.saturating_sub(self.start),
            beyond_ns: self.left.filter(|_| entered).map(|left| first.saturating_sub(left)),
            answer_ns: self.delivered.map(|delivered| first.saturating_sub(delivered)),
            ambiguous: self.resent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(dir: u8, flags: u8, seq: u32, ack: u32, len: u16) -> Fingerprint {
        Fingerprint {
            flow: 1,
            proto: 6,
            dir,
            tcp_flags: flags,
            l4a: seq,
            l4b: ack,
            l3len: len,
            ..Fingerprint::default()
        }
    }

    #[test]
    fn handshake_and_data() {
        let mut o = Outstanding::default();
        assert!(o.packet(1, 0, &tcp(0, SYN, 100, 0, 60)).answers.is_none());
        o.ended(1, 0, Some(10), None);
        let r = o.packet(2, 500, &tcp(1, SYN | ACK, 900, 101, 60)).answers.expect("answers the SYN");
        let rt = r.answered(500, 510, true);
        assert_eq!((rt.request, rt.total_ns, rt.beyond_ns), (1, 510, Some(490)));
        let r = o.packet(3, 600, &tcp(0, ACK, 101, 901, 52)).answers.expect("answers the SYN-ACK");
        assert_eq!(r.id, 2);
        o.packet(4, 700, &tcp(0, ACK | 8, 101, 901, 1000));
        o.packet(5, 710, &tcp(0, ACK | 8, 1049, 901, 1000));
        assert_eq!(o.packet(6, 900, &tcp(1, ACK, 901, 1997, 52)).answers.map(|r| r.id), Some(5));
        assert!(o.packet(7, 950, &tcp(1, ACK, 901, 1997, 52)).answers.is_none());
    }

    #[test]
    fn a_repeated_segment_makes_the_round_trip_ambiguous() {
        let mut o = Outstanding::default();
        o.packet(1, 0, &tcp(0, SYN, 100, 0, 60));
        let repeats = o.packet(2, RTO_MIN, &tcp(0, SYN, 100, 0, 60)).repeats;
        assert_eq!(repeats, Some(Repeat { of: 1, since: 0, copy: false }));
        let r = o.packet(3, RTO_MIN + 9, &tcp(1, SYN | ACK, 900, 101, 60)).answers.expect("answers");
        assert!(r.answered(RTO_MIN + 9, RTO_MIN + 9, false).ambiguous);
    }

    #[test]
    fn what_comes_sooner_than_any_timeout_was_not_sent_again() {
        let mut o = Outstanding::default();
        o.packet(1, 0, &tcp(0, SYN, 100, 0, 60));
        assert!(o.packet(2, 40_000, &tcp(0, SYN, 100, 0, 60)).repeats.expect("the same numbers").copy);
        let r = o.packet(3, 50_000, &tcp(1, SYN | ACK, 900, 101, 60)).answers.expect("answers");
        assert!(!r.answered(50_000, 50_000, false).ambiguous);
        // Data is sent again at once when the other side says what is missing: only the identification tells.
        let data = |ip_id| Fingerprint { ip_id, ..tcp(0, ACK | 8, 101, 901, 1000) };
        o.packet(4, 60_000, &data(7));
        assert!(!o.packet(5, 90_000, &data(8)).repeats.expect("the same numbers").copy);
        assert!(o.packet(6, 91_000, &data(7)).repeats.expect("the same numbers").copy);
    }

    #[test]
    fn echo_by_number_and_udp_in_order() {
        let mut o = Outstanding::default();
        let echo = |dir, seq| Fingerprint { proto: 1, dir, l4a: seq, l3len: 84, ..Fingerprint::default() };
        o.packet(1, 0, &echo(0, 1));
        o.packet(2, 10, &echo(0, 2));
        assert_eq!(o.packet(3, 20, &echo(1, 2)).answers.map(|r| r.id), Some(2));
        assert_eq!(o.packet(4, 30, &echo(1, 1)).answers.map(|r| r.id), Some(1));
        let udp = |dir| Fingerprint { proto: 17, dir, l3len: 60, ..Fingerprint::default() };
        let mut o = Outstanding::default();
        o.packet(1, 0, &udp(0));
        o.packet(2, 1, &udp(0));
        assert_eq!(o.packet(3, 2, &udp(1)).answers.map(|r| r.id), Some(1));
        assert_eq!(o.packet(4, 3, &udp(1)).answers.map(|r| r.id), Some(2));
    }
}
