// SPDX-License-Identifier: MIT OR Apache-2.0
//! What came back after a request without an answer, though not as the filter expects it: from another port or address,
//! or as an ICMP error about the outer packet of a tunnel.

use serde::{Deserialize, Serialize};

use super::context::View;
use crate::cause::Certainty::{Certain, Likely};
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::flow::{Addr, Ends, Journey};
use crate::node::NetnsId;
use crate::text::{icmp_name, protocol_name};

const UDP: u8 = 17;
const TFTP: u16 = 69;
/// Different packets that are remembered of a flow, and told.
const MOST: usize = 16;
const TOLD: usize = 4;

/// A request without an answer so far, and what it looked like on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenRequest {
    pub flow: u32,
    pub proto: u8,
    /// As sent, and after each translation.
    pub ends: Vec<Ends>,
    /// Outer packets.
    pub tunnels: Vec<Ends>,
}

/// A packet that a packet socket heard while a request had no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    pub netns: NetnsId,
    pub ifindex: u32,
    /// Sent by that device; otherwise received.
    pub outgoing: bool,
    pub proto: u8,
    /// Of an ICMP error, the ends of the packet that it quotes.
    pub ends: Ends,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<HeardError>,
}

/// The packet is an ICMP error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeardError {
    pub from: Addr,
    pub icmp_type: u8,
    pub code: u8,
}

/// What a packet has to do with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeardAs {
    OtherPort,
    OtherAddress,
    /// Somebody refuses an answer of these two kinds.
    AnswerRefused,
    /// Somebody refuses the outer packet.
    TunnelRefused,
}

/// Packets of one kind that came back.
#[derive(Clone, Copy, Debug)]
pub(super) struct CameBack {
    pub(super) heard: Heard,
    pub(super) relation: HeardAs,
    pub(super) times: u32,
}

impl OpenRequest {
    pub(super) fn of(journey: &Journey) -> Self {
        let mut ends = vec![journey.packet.ends];
        let by_entry = journey.conntrack.iter().map(|entry| entry.reply.reversed());
        for seen in journey.hops.iter().map(|hop| hop.ends).chain(by_entry) {
            if !ends.contains(&seen) {
                ends.push(seen);
            }
        }
        let tunnels = journey.encaps.iter().map(|outer| Ends { src: outer.src, dst: outer.dst }).collect();
        Self { flow: journey.flow, proto: journey.packet.proto, ends, tunnels }
    }

    /// `None`: nothing to do with it, or what the filter sees anyway.
    pub fn relation(&self, heard: &Heard) -> Option<HeardAs> {
        if heard.error.is_none() {
            return self.answer(heard.proto, heard.ends);
        }
        // The source port of the outer packet is a hash.
        let outer = |tunnel: &Ends| {
            (tunnel.src.addr, tunnel.dst) == (heard.ends.src.addr, heard.ends.dst) && heard.proto == UDP
        };
        if self.tunnels.iter().any(outer) {
            return Some(HeardAs::TunnelRefused);
        }
        self.answer(heard.proto, heard.ends).map(|_| HeardAs::AnswerRefused)
    }

    fn answer(&self, proto: u8, ends: Ends) -> Option<HeardAs> {
        if proto != self.proto || self.ends.contains(&ends.reversed()) {
            return None;
        }
        let asked = |own: &&Ends| own.src == ends.dst;
        let same_host = |own: &Ends| own.dst.addr == ends.src.addr;
        if self.ends.iter().filter(asked).any(same_host) {
            return Some(HeardAs::OtherPort);
        }
        let known = self.ends.iter().any(same_host);
        let same_port = self.ends.iter().filter(asked).any(|own| own.dst.port == ends.src.port);
        (same_port && !known).then_some(HeardAs::OtherAddress)
    }
}

/// Takes note of a packet.
pub(super) fn note(known: &mut Vec<CameBack>, heard: Heard, relation: HeardAs) {
    if let Some(one) = known.iter_mut().find(|one| one.heard == heard) {
        one.times = one.times.saturating_add(1);
    } else if known.len() < MOST {
        known.push(CameBack { heard, relation, times: 1 });
    }
}

/// It reached whoever asked, and nobody refused it there: an answer, though an unusual one.
pub(super) fn is_answered(journey: &Journey, came: &[CameBack]) -> bool {
    let Some(first) = journey.hops.first() else { return false };
    let here = |one: &&CameBack| one.heard.netns == first.netns;
    let arrived = came.iter().filter(here).any(|one| {
        matches!(one.relation, HeardAs::OtherPort | HeardAs::OtherAddress)
            && !one.heard.outgoing
            && one.heard.ends.dst == journey.packet.ends.src
    });
    arrived && !came.iter().filter(here).any(|one| one.relation == HeardAs::AnswerRefused)
}

/// What came back, one sentence each.
pub(super) fn facts(view: &View<'_>, came: &[CameBack]) -> Vec<String> {
    let received = came.iter().filter(|one| !one.heard.outgoing || one.relation == HeardAs::AnswerRefused);
    received.take(TOLD).map(|one| fact(view, one)).collect()
}

fn fact(view: &View<'_>, one: &CameBack) -> String {
    let CameBack { heard, times, .. } = one;
    let (device, name) = (view.device_name(heard.netns, heard.ifindex), view.netns(heard.netns));
    let times = if *times > 1 { format!(" (×{times})") } else { String::new() };
    match heard.error {
        None => format!("{} {} came in by {device} of {name}{times}", protocol_name(heard.proto), heard.ends),
        Some(error) => {
            let what = icmp_name(error.icmp_type, error.code, error.from.ip().is_ipv6());
            let way = if heard.outgoing { "left" } else { "came in" };
            let from = error.from;
            format!("ICMP {what} from {from} about {} {way} by {device} of {name}{times}", heard.ends)
        }
    }
}

/// The cause that it shows.
pub(super) fn explain(view: &View<'_>, came: &[CameBack]) -> Option<Finding> {
    let of = |relation| came.iter().find(move |one| one.relation == relation);
    let finding = if let Some(one) = of(HeardAs::TunnelRefused) {
        tunnel_refused(view, one)
    } else if is_answered(view.journey, came) {
        return None;
    } else if let Some(one) = of(HeardAs::OtherPort).or_else(|| of(HeardAs::OtherAddress)) {
        answer_elsewhere(view, one, of(HeardAs::AnswerRefused))
    } else {
        return None;
    };
    Some(facts(view, came).into_iter().fold(finding, Finding::fact))
}

/// The other end of the tunnel does not take the outer packet.
fn tunnel_refused(view: &View<'_>, one: &CameBack) -> Finding {
    let to = one.heard.ends.dst;
    let port = one.heard.error.is_some_and(|error| {
        matches!((error.icmp_type, error.code, error.from.ip().is_ipv6()), (3, 3, false) | (1, 4, true))
    });
    let finding = if port {
        Finding::new(
            &c::TUNNEL_NOT_LISTENING,
            Likely,
            format!("nothing on {} takes the tunnel's packets on UDP {}", to.addr, to.port),
        )
        .fix(format!(
            "on {}: ip -d link show type vxlan (both ends need the same UDP port); a REJECT rule for UDP {} says the same",
            to.addr, to.port
        ))
    } else {
        let from = one.heard.error.map_or(to.addr, |error| error.from);
        Finding::new(&c::UNREACHABLE_BEYOND, Likely, format!("{from} refuses the tunnel's packets to {to}"))
            .fix(format!(
                "look on {from} for the route and the firewall rule for UDP {} to {}",
                to.port, to.addr
            ))
    };
    finding.about(to).at(view.place(one.heard.netns, one.heard.ifindex))
}

fn answer_elsewhere(view: &View<'_>, one: &CameBack, refused: Option<&CameBack>) -> Finding {
    let journey = view.journey;
    let (from, client) = (one.heard.ends.src, journey.packet.ends.src);
    let asked = journey.hops.last().map_or(journey.packet.ends.dst, |hop| hop.ends.dst);
    let translated = one.heard.ends.dst != client;
    let who = if one.relation == HeardAs::OtherPort {
        format!("{} answers from port {}, not from port {} that was asked", from.addr, from.port, asked.port)
    } else {
        format!("{from} answers in place of {}, which was asked", asked.addr)
    };
    let place = view.place(one.heard.netns, one.heard.ifindex);
    let name = view.netns(one.heard.netns);
    let what = match (translated, refused) {
        (true, _) => {
            format!("no conntrack entry of {name} fits, so the answer is not translated back to {client}")
        }
        (false, Some(by)) if at_client(journey, by) => {
            format!("the socket of {client} takes answers from {asked} only")
        }
        (false, Some(by)) => format!("{} refuses the answer", view.netns(by.heard.netns)),
        (false, None) => format!("the answer is seen on {name}, and {client} does not get it"),
    };
    let certainty = if refused.is_some() { Certain } else { Likely };
    let helper = (asked.port == TFTP && journey.packet.proto == UDP && translated).then(|| {
        view.command(
            one.heard.netns,
            format!("{} -t raw -I PREROUTING -p udp --dport 69 -j CT --helper tftp", view.iptables()),
        )
    });
    let fix = match helper {
        Some(rule) => format!("modprobe nf_nat_tftp; {rule}"),
        None => format!(
            "let the program on {} answer from the address and port that were asked ({asked})",
            from.addr
        ),
    };
    Finding::new(&c::ANSWER_ELSEWHERE, certainty, format!("{who}: {what}")).fix(fix).about(asked).at(place)
}

fn at_client(journey: &Journey, by: &CameBack) -> bool {
    journey.hops.first().is_some_and(|hop| hop.netns == by.heard.netns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Endpoint;

    fn ends(src: &str, dst: &str) -> Ends {
        let end = |text: &str| {
            let at: std::net::SocketAddr = text.parse().unwrap();
            Endpoint { addr: at.ip().into(), port: at.port() }
        };
        Ends { src: end(src), dst: end(dst) }
    }

    fn heard(src: &str, dst: &str) -> Heard {
        Heard { netns: 1, ifindex: 2, outgoing: false, proto: UDP, ends: ends(src, dst), error: None }
    }

    /// From a pod, masqueraded, in a tunnel.
    fn request() -> OpenRequest {
        OpenRequest {
            flow: 1,
            proto: UDP,
            ends: vec![ends("10.0.0.2:4000", "192.0.2.1:69"), ends("192.0.2.9:5000", "192.0.2.1:69")],
            tunnels: vec![ends("192.0.2.9:33333", "192.0.2.8:8472")],
        }
    }

    #[test]
    fn the_answer_that_was_asked_for_is_the_filters() {
        assert_eq!(request().relation(&heard("192.0.2.1:69", "192.0.2.9:5000")), None);
        assert_eq!(request().relation(&heard("192.0.2.1:69", "10.0.0.2:4000")), None);
    }

    #[test]
    fn another_port_or_address_to_the_port_that_asked() {
        let relation = |src, dst| request().relation(&heard(src, dst));
        assert_eq!(relation("192.0.2.1:7777", "192.0.2.9:5000"), Some(HeardAs::OtherPort));
        assert_eq!(relation("192.0.2.7:69", "192.0.2.9:5000"), Some(HeardAs::OtherAddress));
        // Somebody else's business.
        assert_eq!(relation("192.0.2.7:7777", "192.0.2.9:5000"), None);
        assert_eq!(relation("192.0.2.1:7777", "192.0.2.9:5001"), None);
    }

    #[test]
    fn errors_about_the_outer_packet_and_about_the_answer() {
        let error = HeardError { from: Addr::v4([192, 0, 2, 8]), icmp_type: 3, code: 3 };
        let relation = |src, dst| request().relation(&Heard { error: Some(error), ..heard(src, dst) });
        // The source port differs from flow to flow.
        assert_eq!(relation("192.0.2.9:44444", "192.0.2.8:8472"), Some(HeardAs::TunnelRefused));
        assert_eq!(relation("192.0.2.9:44444", "192.0.2.8:4789"), None);
        assert_eq!(relation("192.0.2.1:7777", "192.0.2.9:5000"), Some(HeardAs::AnswerRefused));
    }
}
