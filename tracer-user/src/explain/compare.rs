// SPDX-License-Identifier: MIT OR Apache-2.0
//! The model of the node beside what was seen: the same packet is walked over the snapshot of the moment, and both
//! journeys are laid side by side, place by place.

use std::net::IpAddr;

use super::context::View;
use crate::firewall::PacketView;
use crate::flow::{Encap, Ending, Hop, Journey, Packet, Place as At};
use crate::model::{
    Direction, End, Found, Place, Prediction, Run, Snapshot, Stage, Start, Way, World as _, predict_from,
    search, stranger,
};
use crate::node::rtnl::Link;
use crate::node::{Hook, Role};

use crate::cause::catalogue::{CauseKind, NO_ROUTE, TRANSLATED_ASTRAY};
use crate::cause::{Certainty, Fact, Finding};

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const SYN: u8 = 0x02;
const SYN_ACK_RST: u8 = 0x16;

/// How a flow began here: what the model is asked about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opening {
    packet: Packet,
    /// The first sighting outside of a tunnel: on a gateway the model is asked about what comes out of it.
    first: Hop,
    /// It was seen in this packet only.
    outer: Option<Encap>,
    /// It begins a connection; of any other packet rules and translations may depend on what was before.
    begins: bool,
}

/// What the comparison of one journey says.
#[derive(Debug)]
pub(super) struct Compared {
    pub(super) outcome: Outcome,
    /// Sightings that are places of the model's journey too, in the same order.
    pub(super) places: u32,
    /// What the model could not decide on the way, one sentence each.
    pub(super) unknown: Vec<String>,
}

#[derive(Debug)]
pub(super) enum Outcome {
    /// The model finds something wrong, and what was seen does not contradict it.
    Wrong,
    /// By the model the packet goes as it was seen to, and further: nothing that was read stops it.
    Passes {
        /// Where the model's journey ends.
        expected: String,
    },
    /// Up to some place both agree; then the packet was elsewhere.
    Parts { expected: String },
}

impl Opening {
    /// `None`: the model cannot be asked about it (an ICMP error, the middle of a connection).
    pub(super) fn of(journey: &Journey) -> Option<Self> {
        let packet = journey.packet;
        let begins = match packet.proto {
            _ if packet.icmp_error.is_some() || packet.is_fragment => false,
            6 => packet.tcp_flags & SYN_ACK_RST == SYN,
            _ => true,
        };
        let (first, outer) = Self::first(journey)?;
        (begins && !journey.reply && !journey.resumed).then_some(Self { packet, first, outer, begins })
    }

    /// Of a packet whose flow's beginning was not seen, or whose way cannot be known beforehand.
    pub(super) fn of_one(journey: &Journey) -> Option<Self> {
        let packet = journey.packet;
        let (first, outer) = Self::first(journey)?;
        let whole = packet.icmp_error.is_none() && !packet.is_fragment && !journey.resumed;
        whole.then_some(Self { packet, first, outer, begins: false })
    }

    fn first(journey: &Journey) -> Option<(Hop, Option<Encap>)> {
        let first = *journey.hops.iter().find(|hop| hop.encap.is_none()).or(journey.hops.first())?;
        Some((first, first.encap.and_then(|i| journey.encaps.get(usize::from(i))).copied()))
    }

    fn start(&self, snapshot: &Snapshot) -> Option<Start> {
        let host = snapshot.host(self.first.netns)?;
        if let Some(outer) = &self.outer {
            let takes = |link: &&Link| {
                link.vxlan.as_ref().is_some_and(|v| v.vni == outer.vni && v.port == outer.dst.port)
            };
            let device = host.evidence.links.iter().find(takes)?.ifindex;
            return host.owns(outer.dst.addr.ip()).then_some(Start::Arrives(host, device));
        }
        match self.first.place {
            At::Device { ifindex, egress: false } if host.role == Role::Node => {
                Some(Start::Arrives(host, ifindex))
            }
            At::Hook { hook: Hook::Prerouting, ifindex, .. } if host.role == Role::Node => {
                Some(Start::Arrives(host, ifindex))
            }
            At::Device { egress: true, .. } | At::Hook { hook: Hook::Output | Hook::Postrouting, .. } => {
                Some(Start::Sent(host))
            }
            At::Route { in_ifindex: 0 | 1, reverse: false, .. } => Some(Start::Sent(host)),
            _ => None,
        }
    }

    fn view(&self) -> PacketView {
        let packet = &self.packet;
        let ends = if self.begins { packet.ends } else { self.first.ends };
        let mut out = PacketView::new(packet.proto, ends.src.addr.ip(), ends.dst.addr.ip()).mark(packet.mark);
        if packet.has_ports() {
            out = out.ports(ends.src.port, ends.dst.port);
            let flags = if self.begins { SYN } else { packet.tcp_flags };
            out.tcp_flags = packet.is_tcp().then_some(flags);
        } else if matches!(packet.proto, ICMP | ICMPV6) {
            out.icmp = Some((packet.echo_type(), 0));
        }
        out.mac = self.first.macs.map(|macs| macs.source);
        out.length = (packet.gso_size == 0 && packet.l3len != 0).then_some(packet.l3len);
        out.ttl = Some(packet.ttl);
        out
    }
}

/// Asks the model about the flow of a journey.
pub(super) fn predict(opening: &Opening, snapshot: &mut Snapshot) -> Option<Prediction> {
    let start = opening.start(snapshot)?;
    let mut packet = opening.view();
    if let Start::Sent(host) = &start {
        packet.uid = Some(stranger(host));
    }
    Some(predict_from(snapshot, start, packet, Vec::new()))
}

/// What was found from the evidence of the packets, held against the model. Where both agree on where the packet ends,
/// the cause is the model's; where the model lets the packet pass, what it computes is no longer certain.
pub(super) fn hold_against_model(
    view: &View<'_>,
    opening: Option<Opening>,
    snapshot: &mut Snapshot,
    found: &mut Vec<Finding>,
) {
    let flow = opening;
    let Some((opening, prediction, compared)) = ask(view, opening, snapshot) else { return };
    match compared.outcome {
        Outcome::Wrong => {
            let at = found.iter().position(gives_way);
            let unknown = found.iter().all(|f| !f.breaks()) && view.is_opening();
            let silent = at.is_some_and(|at| found[at].kind().guess);
            if (at.is_some() || unknown)
                && let Some(mut cause) = stops_here(view, &opening, &prediction)
                && !found.iter().any(|f| is_astray(f) && cause.kind().follows)
                && (opening.begins || !cause.kind().observed)
                && (at.is_some() || view.journey.is_dropped() || cause.kind().intent)
            {
                // Both say the same, and nothing on the way is unknown.
                let sure = !cause.kind().guess && cause.id != TRANSLATED_ASTRAY.id;
                if !opening.begins {
                    cause.certainty = Certainty::Likely;
                } else if view.journey.is_dropped() && compared.unknown.is_empty() && sure {
                    cause.certainty = Certainty::Certain;
                }
                found.retain(|f| !gives_way(f));
                found.insert(at.unwrap_or(0).min(found.len()), cause.fact(seen(view, silent)));
            }
        }
        Outcome::Passes { expected } | Outcome::Parts { expected } if compared.unknown.is_empty() => {
            for finding in found.iter_mut().filter(|finding| is_claim(finding)) {
                finding.certainty = Certainty::Likely;
                finding.evidence.push(Fact {
                    text: format!(
                        "not by what was read of the node: by that {expected}; it may have changed meanwhile"
                    ),
                    check: String::new(),
                });
            }
        }
        _ => {}
    }
    explain_rules(&prediction, found);
    if let Some(finding) = found.iter_mut().find(|finding| finding.breaks()) {
        finding.compared = compared.places;
    }
    // What repairs a lone packet may not be what the connection needs.
    match flow {
        _ if opening.begins => repair_predicted(&prediction, snapshot, found),
        Some(flow) => repair(&flow, snapshot, found),
        None => {}
    }
}

/// The model knows why a rule ended the packet.
fn explain_rules(prediction: &Prediction, found: &mut [Finding]) {
    for finding in found {
        let place = &finding.place;
        let mut known = prediction.ways.iter().flat_map(|way| &way.found).map(|known| &known.finding);
        let why = known.find(|known| {
            let explained = known.explains.as_ref();
            explained.is_some_and(|(netns, rule)| *netns == place.netns && Some(rule) == place.rule.as_ref())
        });
        if let Some(why) = why {
            *finding = why.clone().fact(format!("seen: {}", finding.title));
        }
    }
}

/// Looks for what repairs the flow, where the model finds something wrong in the same namespace.
pub(super) fn repair(opening: &Opening, snapshot: &mut Snapshot, found: &mut [Finding]) {
    if let Some(prediction) = predict(opening, snapshot) {
        repair_predicted(&prediction, snapshot, found);
    }
}

/// A repair may be looked for.
pub(super) fn is_repairable(finding: &Finding) -> bool {
    finding.certainty != Certainty::Possible && !finding.is_note()
}

fn repair_predicted(prediction: &Prediction, snapshot: &mut Snapshot, found: &mut [Finding]) {
    let known = || prediction.ways.iter().flat_map(|way| &way.found).map(|known| &known.finding);
    let same = |finding: &Finding| {
        is_repairable(finding) && known().any(|k| k.id == finding.id && k.place.netns == finding.place.netns)
    };
    // The model may have another name for it.
    let near = |finding: &Finding| {
        is_repairable(finding)
            && finding.breaks()
            && known().any(|k| k.breaks() && k.place.netns == finding.place.netns)
    };
    let at = found.iter().position(same).or_else(|| found.iter().position(near));
    let Some(finding) = at.and_then(|at| found.get_mut(at)) else { return };
    let searched = search(snapshot, prediction);
    if same(finding) || !searched.loosens_a_check() {
        searched.put_into(finding);
    }
}

/// The model's answer about the packet's flow; where that has none for this packet, about the packet by itself.
fn ask(
    view: &View<'_>,
    opening: Option<Opening>,
    snapshot: &mut Snapshot,
) -> Option<(Opening, Prediction, Compared)> {
    let openings = [opening, Opening::of_one(view.journey).filter(|_| view.journey.is_dropped())];
    openings.into_iter().flatten().find_map(|opening| {
        let prediction = predict(&opening, snapshot)?;
        let compared = compare(view, &opening, &prediction)?;
        Some((opening, prediction, compared))
    })
}

/// Another host or rule led it astray, and what the model finds follows from that.
fn is_astray(finding: &Finding) -> bool {
    finding.kind().reroutes && finding.certainty != Certainty::Possible
}

/// The model has its own words for it.
fn gives_way(finding: &Finding) -> bool {
    let kind = finding.kind();
    finding.breaks() && !kind.observed && !kind.large_only
}

/// The first thing that the model finds wrong on this packet's way, where the packet ended as it says.
fn stops_here(view: &View<'_>, opening: &Opening, prediction: &Prediction) -> Option<Finding> {
    let way = way_of(view, opening, prediction)?;
    let run = run_of(way, view.journey, opening);
    if let (Ending::Dropped(site), Some(run)) = (view.journey.ending, run)
        && !matches!(&run.end, End::Stopped(host) if host.id == site.netns)
    {
        return None;
    }
    let fits = |found: &&Found| {
        let finding = &found.finding;
        finding.certainty != Certainty::Possible && (!finding.kind().harmless || finding.kind().intent)
    };
    way.found.iter().find(fits).map(|found| found.finding.clone())
}

/// How the packet ended, in words.
fn seen(view: &View<'_>, silent: bool) -> String {
    match view.journey.ending {
        Ending::Dropped(site) => {
            let (reason, name) = (view.reason(&site), view.netns(site.netns));
            let device = match site.ifindex {
                0 => String::new(),
                ifindex => format!(" ({})", view.device_name(site.netns, ifindex)),
            };
            format!("seen: the kernel dropped it in {name}{device}: {reason}")
        }
        _ if silent => "seen: the packets go this way, and no answer came".to_owned(),
        _ => "seen: the packet goes this way".to_owned(),
    }
}

/// A guess about a request without an answer gives way to what the model finds on the same way; where the model finds
/// nothing, it says what that rules out, or where the packet was not as expected.
pub(super) fn instead_of_guess(
    view: &View<'_>,
    opening: &Opening,
    snapshot: &mut Snapshot,
    guess: Finding,
) -> Finding {
    let to = opening.packet.ends.dst.addr.ip();
    let everybody = to.is_multicast() || matches!(to, IpAddr::V4(to) if to.is_broadcast());
    if everybody || guess.certainty != Certainty::Possible {
        return guess;
    }
    let Some(prediction) = predict(opening, snapshot) else { return guess };
    let Some(compared) = compare(view, opening, &prediction) else { return guess };
    if !compared.unknown.is_empty() {
        return guess;
    }
    // A reply that came in would have been seen; one that was never sent would not.
    let here = matches!(view.journey.ending, Ending::Delivered { .. });
    // Where it was delivered, an answer that finds no route is no packet that could be seen.
    let unsent = |finding: &Finding| {
        let Ending::Delivered { netns } = view.journey.ending else { return false };
        finding.id == NO_ROUTE.id && finding.place.netns == view.netns(netns)
    };
    let found = prediction.ways.iter().flat_map(|way| &way.found);
    let found = found.filter(|found| {
        let finding = &found.finding;
        finding.certainty != Certainty::Possible
            && !finding.kind().harmless
            // What else would have been seen: a neighbour that failed, a drop.
            && (!finding.kind().follows || unsent(finding))
            && (here || view.journey.reply || found.stage != Stage::Returning)
    });
    let mut told = match compared.outcome {
        Outcome::Wrong => match found.map(|found| found.finding.clone()).next() {
            Some(mut finding) => {
                search(snapshot, &prediction).put_into(&mut finding);
                finding.fact("seen: the packets go this way, and no answer came")
            }
            None => guess,
        },
        Outcome::Passes { expected } => guess.rules_out(format!(
            "routes, rules, neighbours and sysctls of the node, as they were read: by them {expected}, and so it was seen"
        )),
        Outcome::Parts { expected } => {
            guess.fact(format!("by what was read of the node {expected}; the packet was seen elsewhere"))
        }
    };
    told.compared = compared.places;
    told
}

/// The model can contradict it: a certain cause that the model computes. Of any other, no walk is worth its time.
pub(super) fn is_claim(finding: &Finding) -> bool {
    finding.certainty == Certainty::Certain && CauseKind::of(finding.id).modelled
}

/// Lays the journey beside the prediction.
pub(super) fn compare(view: &View<'_>, opening: &Opening, prediction: &Prediction) -> Option<Compared> {
    let journey = view.journey;
    let way = way_of(view, opening, prediction)?;
    let run = run_of(way, journey, opening);
    let unknown = unknown(way);
    let wrong = way.found.iter().any(|found| found.finding.certainty != Certainty::Possible);
    let mut places = 0;
    let outcome = match run {
        Some(run) => {
            let (parted, met) = lay_beside(view, run, &mut places);
            match parted {
                Some(expected) => Outcome::Parts { expected: format!("it goes {expected}") },
                None if wrong => {
                    if goes_further(view, run, met) {
                        Outcome::Parts { expected: told(run) }
                    } else {
                        Outcome::Wrong
                    }
                }
                None => Outcome::Passes { expected: told(run) },
            }
        }
        None if wrong => Outcome::Wrong,
        None => return None,
    };
    Some(Compared { outcome, places, unknown })
}

/// The journey of the prediction that is this packet's.
fn run_of<'p>(way: &'p Way, journey: &Journey, opening: &Opening) -> Option<&'p Run> {
    if journey.reply && opening.begins {
        return way.reply.as_ref();
    }
    let first = journey.packet.proto != 6 || journey.packet.tcp_flags == opening.packet.tcp_flags;
    match &way.later {
        Some(later) if !first => Some(later),
        _ => Some(way.main()),
    }
}

/// Rules choose by chance: the way of this flow is the one with its translation, and of these the one that ends where
/// the packet did.
fn way_of<'p>(view: &View<'_>, opening: &Opening, prediction: &'p Prediction) -> Option<&'p Way> {
    let ways = || prediction.ways.iter();
    let own = || ways().filter(|way| leads_to(way, opening, view));
    let ends_here = |way: &&Way| {
        let run = run_of(way, view.journey, opening);
        match (view.journey.ending, run.map(|run| &run.end)) {
            (Ending::Dropped(site), Some(End::Stopped(host))) => site.netns == host.id,
            _ => false,
        }
    };
    own().find(ends_here).or_else(|| own().next()).or_else(|| ways().next())
}

/// The way's translation is the one that was seen.
fn leads_to(way: &Way, opening: &Opening, view: &View<'_>) -> bool {
    let to = way.main().flight.inner().tuple().ends().dst;
    let asked = opening.packet.ends.dst;
    let hops = &view.journey.hops;
    to == asked || hops.iter().any(|hop| hop.ends.dst == to || hop.ends.src == to)
}

fn unknown(way: &Way) -> Vec<String> {
    let runs = [Some(&way.request), way.proxied.as_ref(), way.later.as_ref(), way.reply.as_ref()];
    let mut out: Vec<String> = Vec::new();
    for run in runs.into_iter().flatten() {
        let ends = match &run.end {
            End::Unknown(why) => Some(why),
            _ => None,
        };
        for text in run.unknown.iter().chain(ends) {
            if !out.contains(text) {
                out.push(text.clone());
            }
        }
    }
    out
}

/// Both have a place of this kind: a device with its direction, or a hook.
fn is_same(step: &Place, ifindex: u32, hop: &Hop) -> bool {
    match (step, hop.place) {
        (Place::Device { direction, .. }, At::Device { ifindex: seen, egress }) => {
            ifindex == seen && (*direction == Direction::Out) == egress
        }
        (Place::Hook { hook, .. }, At::Hook { hook: seen, .. }) => *hook == seen.name(),
        _ => false,
    }
}

/// Every sighting must be a step of the prediction, in its order; not every step is watched. The first sighting that
/// is none, with the step that was expected; and how many steps were passed.
fn lay_beside(view: &View<'_>, run: &Run, places: &mut u32) -> (Option<String>, usize) {
    let mut next = 0usize;
    // In its tunnel it is not the packet that the model was asked about.
    let hops = view.journey.hops.iter().skip_while(|hop| hop.encap.is_some());
    for hop in hops.filter(|hop| !matches!(hop.place, At::Route { .. })) {
        let found = run
            .steps
            .iter()
            .zip(&run.hosts)
            .enumerate()
            .skip(next.saturating_sub(1))
            .find(|(_, (step, netns))| **netns == hop.netns && is_same(&step.place, step.ifindex, hop));
        match found {
            Some((at, _)) => {
                next = at + 1;
                *places += 1;
            }
            None => {
                // Behind where the model's journey ends, or in a namespace that it does not know.
                let all_met =
                    run.steps.iter().skip(next).all(|step| matches!(step.place, Place::Route { .. }));
                if all_met && is_behind_the_end(run, hop) {
                    return (Some("no further than that".to_owned()), next);
                }
                if all_met || !run.hosts.contains(&hop.netns) {
                    return (None, next);
                }
                let expected = run.steps.get(next).map(|step| place_of_step(&step.place, &step.netns));
                return (expected, next);
            }
        }
    }
    (None, next)
}

/// The model stops the packet before this hook.
fn is_behind_the_end(run: &Run, hop: &Hop) -> bool {
    let At::Hook { hook: hook @ (Hook::Input | Hook::Forward | Hook::Postrouting), .. } = hop.place else {
        return false;
    };
    let mut steps = run.steps.iter().zip(&run.hosts);
    matches!(&run.end, End::Stopped(host) if host.id == hop.netns)
        && !steps.any(|(step, netns)| {
            *netns == hop.netns && matches!(step.place, Place::Hook { hook: own, .. } if own == hook.name())
        })
}

/// The packet was seen behind the place where the model stops it.
fn goes_further(view: &View<'_>, run: &Run, met: usize) -> bool {
    let End::Stopped(host) = &run.end else { return false };
    let ended_there = match view.journey.ending {
        Ending::Dropped(site) => site.netns == host.id,
        Ending::Vanished { .. } => true,
        _ => false,
    };
    let arrived = matches!(view.journey.ending, Ending::Delivered { netns } if netns != host.id);
    !ended_there && (arrived && met >= run.steps.len())
}

fn place_of_step(place: &Place, netns: &str) -> String {
    match place {
        Place::Device { device, direction: Direction::In } => format!("in by {device} of {netns}"),
        Place::Device { device, direction: Direction::Out } => format!("out by {device} of {netns}"),
        Place::Hook { hook, .. } => format!("{hook} of {netns}"),
        Place::Route { device, .. } => format!("routed to {device} in {netns}"),
        Place::Socket { socket } => format!("{socket} in {netns}"),
    }
}

fn told(run: &Run) -> String {
    match &run.end {
        End::Left(host, device) => format!("it leaves {} by {}", host.name(), host.device(*device)),
        End::Delivered(host) => format!("it is delivered in {}", host.name()),
        End::Stopped(host) => format!("it ends in {}", host.name()),
        End::Unknown(why) => format!("not known: {why}"),
    }
}
