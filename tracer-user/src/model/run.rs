// SPDX-License-Identifier: MIT OR Apache-2.0
//! One check: the first packet by every choice of chance, later packets of the connection, the reply; then what is
//! wrong with all that.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::chance::Chances;
use super::follow_up::{by_proxy, later, reply};
use super::judge::Judge;
use super::packet_state::{Flight, Mode, Tuple};
use super::start::start;
use super::steps::{Direction, Place, Stage, Step};
use super::walker::{End, Found, Walker};
use super::world::{Host, World};
use crate::cause::Certainty::{Likely, Possible};
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::cause::diversion::Diversion;
use crate::cluster::egress::datapath::REPLY_CHAIN;
use crate::cluster::egress::datapath::{is_egress_tunnel, is_node_mark};
use crate::firewall::PacketView;
use crate::node::{NetnsId, Role};
use crate::text::{escape, protocol_name};

pub(crate) const TCP: u8 = 6;

pub(crate) const UDP: u8 = 17;

/// The packet that is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// `None`: what the kernel would choose.
    pub source: Option<IpAddr>,
    pub sport: Option<u16>,
    pub destination: IpAddr,
    pub dport: Option<u16>,
    pub protocol: u8,
    /// The pod's namespace, when one was named.
    pub pod: Option<NetnsId>,
    /// What the command line left open and how it was taken.
    pub assumed: Vec<String>,
}

/// A way that was walked.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) steps: Vec<Step>,
    pub(crate) hosts: Vec<NetnsId>,
    pub(crate) found: Vec<Found>,
    pub(crate) unknown: Vec<String>,
    pub(crate) end: End,
    pub(crate) flight: Flight,
    pub(crate) first_node: Option<NetnsId>,
    pub(crate) tunnelled: bool,
    pub(crate) other_node: bool,
    /// The rule that gave the packet another destination or source.
    pub(crate) diverted: Option<Diversion>,
}

/// Where the packet begins.
#[derive(Clone, Debug)]
pub(crate) enum Start {
    Sent(Arc<Host>),
    Arrives(Arc<Host>, u32),
}

/// What the model says of one question.
pub(crate) struct Prediction {
    /// The first packet as it begins; its source is unspecified where the kernel chooses it.
    pub(crate) packet: PacketView,
    pub(crate) start: Start,
    /// What had to be assumed, one sentence each.
    pub(crate) assumed: Vec<String>,
    /// One for each choice that rules make by chance.
    pub(crate) ways: Vec<Way>,
    /// There are more ways than were walked.
    pub(crate) cut: bool,
}

/// The packet of a question before it is known where it begins.
pub(crate) fn first_view(question: &Question) -> PacketView {
    view(question)
}

/// Walks request, later packets and reply over the world as it is. The error says why no start is known.
pub(crate) fn predict(world: &mut dyn World, question: &Question) -> Result<Prediction, String> {
    let mut packet = view(question);
    let mut assumed = Vec::new();
    let start = start(world, question, &mut packet, &mut assumed)?;
    Ok(predict_from(world, start, packet, assumed))
}

/// The same from a start that is known.
pub(crate) fn predict_from(
    world: &mut dyn World,
    start: Start,
    packet: PacketView,
    assumed: Vec<String>,
) -> Prediction {
    let mut chances = Chances::default();
    let mut ways: Vec<Way> = Vec::new();
    loop {
        ways.push(Way::walk(world, &mut chances, &start, &packet));
        if !chances.advance() {
            break;
        }
    }
    let cut = chances.is_cut();
    Prediction { packet, start, assumed, ways, cut }
}

/// Why the asked one's own devices, addresses, rules and routes let it send nothing at all; `None` where it can.
pub(crate) fn refused_at_home(world: &mut dyn World, question: &Question) -> Option<Finding> {
    let mut packet = view(question);
    let start = start(world, question, &mut packet, &mut Vec::new()).ok()?;
    let Start::Sent(host) = &start else { return None };
    let mut of_user = |uid: Option<u32>| {
        let packet = PacketView { uid, ..packet.clone() };
        let run = walk(world, &mut Chances::default(), &start, Flight::new(packet, Mode::First));
        let stopped = matches!(&run.end, End::Stopped(at) if at.id == host.id);
        // A packet that its firewall drops is seen.
        let unseen = run.steps.iter().all(|step| matches!(step.place, Place::Route { .. }));
        run.found.into_iter().next_back().map(|found| found.finding).filter(|_| stopped && unseen)
    };
    // Who sends is not known.
    of_user(packet.uid).or_else(|| {
        let rules = host.evidence.rules.iter();
        rules.filter(|rule| rule.ipv6 == question.destination.is_ipv6()).find_map(|rule| {
            let (first, _) = rule.conditions.users?;
            let mut found = of_user(Some(first))?;
            found.certainty = Possible;
            Some(found.fact(format!(
                "ip rule {} concerns only what fits {}: does the program that connects? (id -u)",
                rule.priority,
                rule.selector()
            )))
        })
    })
}

/// All about one choice of chance.
pub(crate) struct Way {
    pub(crate) request: Run,
    /// The proxy's own connection.
    pub(crate) proxied: Option<Run>,
    pub(crate) later: Option<Run>,
    pub(crate) reply: Option<Run>,
    pub(crate) found: Vec<Found>,
}

impl Way {
    fn walk(world: &mut dyn World, chances: &mut Chances, start: &Start, packet: &PacketView) -> Self {
        let request = walk(world, chances, start, Flight::new(packet.clone(), Mode::First));
        let mut found = request.found.clone();
        let tuple = first_tuple(&request, packet);
        let mut way = Self { request, proxied: None, later: None, reply: None, found: Vec::new() };
        if let Some((proxied, more)) = by_proxy(world, chances, start, &way.request, &tuple) {
            found.extend(more);
            if let Some(run) = &proxied {
                found.extend(run.found.iter().cloned());
            }
            way.proxied = proxied;
        }
        let main = way.proxied.as_ref().unwrap_or(&way.request);
        let hosts = hosts_of(world, main);
        let entry = main.first_node.and_then(|id| main.flight.inner().entries.get(&id));
        let mut first = packet.clone();
        if let Some(entry) = entry {
            (first.src, first.src_port) = entry.before.src;
            (first.dst, first.dst_port) = entry.before.dst;
        }
        first.ct_state = Some(crate::firewall::CtState::New);
        first.ct_direction = Some(crate::firewall::CtDirection::Original);
        first.ct_mark = Some(0);
        let main_tuple = Tuple::of(&first);
        let objects = world.policies();
        let objects = objects.as_deref();
        let mut nodes = world.watched();
        nodes.retain(|host| host.role == Role::Node);
        let judge =
            Judge { run: main, hosts: &hosts, nodes: &nodes, start: main_tuple, packet: &first, objects };
        let mut judged = judge.all();
        if let Some(diversion) = &main.diverted {
            for found in &mut judged {
                if let Some(cause) = diversion.explains(&found.finding) {
                    found.finding = cause;
                }
            }
        }
        if judged.iter().any(|f| f.finding.id == c::SERVICE_NOT_MASQUERADED.id) {
            // The other node only sees that the client is not behind the tunnel.
            found.retain(|f| {
                ![c::REVERSE_PATH_FILTER.id, c::SERVICE_NOT_MASQUERADED.id].contains(&f.finding.id)
            });
        }
        found.extend(judged);
        // What only makes packets too large lets the others through.
        let ends = matches!(main.end, End::Left(..) | End::Delivered(_));
        let breaks = found.iter().any(|f| !f.finding.kind().large_only);
        if ends && !breaks {
            let (later, more) = later(world, start, main, way.proxied.is_some());
            found.extend(more);
            let differs = later.is_some();
            way.later = later;
            if !differs {
                let (reply, more) = reply(world, main, &main_tuple, way.proxied.is_some());
                let unmarked = reply.as_ref().and_then(|run| reply_not_marked(&hosts, main, run));
                found.extend(unmarked);
                found.extend(more);
                way.reply = reply;
            }
        }
        found.sort_by_key(|f| f.stage);
        // What leads a packet astray comes first, and what then becomes of it follows.
        let astray = |f: &Found| f.finding.kind().reroutes;
        if found.iter().any(astray) {
            let sure = found.iter().any(|f| astray(f) && f.finding.certainty != Possible);
            found.retain(|f| {
                let kind = f.finding.kind();
                !(kind.large_only || sure && kind.follows)
            });
        }
        way.found = found;
        way
    }

    pub(crate) fn main(&self) -> &Run {
        self.proxied.as_ref().unwrap_or(&self.request)
    }
}

/// The request came out of an egress tunnel, and the answer is routed elsewhere and refused.
fn reply_not_marked(hosts: &[Arc<Host>], request: &Run, reply: &Run) -> Option<Found> {
    let wrong = reply.found.iter().find(|f| f.finding.kind().follows)?;
    let (gateway, tunnel) = request.steps.iter().zip(&request.hosts).find_map(|(step, id)| {
        let Place::Device { device, direction: Direction::In } = &step.place else { return None };
        let host = hosts.iter().find(|host| host.id == *id)?;
        let link = host.evidence.links.iter().find(|l| escape(&l.name) == *device)?;
        (is_egress_tunnel(link) && step.encap.is_none()).then_some((host, device))
    })?;
    let out = reply.steps.iter().zip(&reply.hosts).find_map(|(step, id)| match &step.place {
        Place::Route { device, fwmark, .. } if *id == gateway.id => Some((device, *fwmark)),
        _ => None,
    });
    let (out, _) = out.filter(|(out, mark)| *out != tunnel && !is_node_mark(*mark))?;
    let chains: Vec<_> = gateway.evidence.tables("mangle").filter_map(|t| t.chain(REPLY_CHAIN)).collect();
    let name = gateway.name();
    let why = if chains.is_empty() {
        format!("mangle has no chain {REPLY_CHAIN}")
    } else if chains.iter().all(|chain| chain.rules.is_empty()) {
        format!("{REPLY_CHAIN} is empty")
    } else {
        format!("no rule of {REPLY_CHAIN} restores the mark of the connection")
    };
    let tables = if reply.flight.inner().packet.src.is_ipv6() { "ip6tables" } else { "iptables" };
    let finding = Finding::new(
        &c::REPLY_NOT_MARKED,
        Likely,
        format!(
            "{name} does not mark answers for the tunnel ({why}): they would leave by {out}, not by {tunnel}"
        ),
    )
    .checked(
        format!("the request comes by {tunnel}, the answer would be routed to {out}"),
        gateway.command(format!("{tables} -t mangle -vnL {REPLY_CHAIN}")),
    )
    .fact(format!("what would become of it: {}", wrong.finding.title))
    .fix(format!(
        "restart the egressgateway agent on {name}: it writes {REPLY_CHAIN} and the jump to it again"
    ))
    .at(Walker::place(gateway, 0));
    Some(Found { stage: Stage::Returning, finding })
}

pub(crate) fn walk(world: &mut dyn World, chances: &mut Chances, start: &Start, mut flight: Flight) -> Run {
    let mut walker = Walker::new(world, chances);
    let next = match start {
        Start::Sent(host) => walker.send(host, &mut flight),
        Start::Arrives(host, device) => walker.arrive(host, *device, &mut flight),
    };
    let end = walker.follow(&mut flight, next);
    let Walker { steps, hosts, mut found, unknown, first_node, tunnelled, other_node, diverted, .. } = walker;
    let diverted = diverted.map(|(diversion, before)| {
        for found in found.iter_mut().skip(before) {
            if let Some(cause) = diversion.explains(&found.finding) {
                found.finding = cause;
            }
        }
        diversion
    });
    Run { steps, hosts, found, unknown, end, flight, first_node, tunnelled, other_node, diverted }
}

/// The packet as it began.
pub(crate) fn first_tuple(run: &Run, packet: &PacketView) -> Tuple {
    let entry = run.hosts.first().and_then(|id| run.flight.inner().entries.get(id));
    match entry {
        Some(entry) if run.flight.inner().mode != Mode::Reply => entry.before,
        Some(entry) => entry.after.reversed(),
        None => {
            let mut tuple = if run.flight.inner().mode == Mode::Reply {
                run.flight.inner().tuple()
            } else {
                Tuple::of(packet)
            };
            if tuple.src.0.is_unspecified() {
                tuple.src.0 = run.flight.inner().packet.src;
            }
            tuple
        }
    }
}

pub(crate) fn first_packet(run: &Run, start: &Start) -> PacketView {
    let inner = run.flight.inner();
    let id = match start {
        Start::Sent(host) | Start::Arrives(host, _) => host.id,
    };
    let tuple = inner.entries.get(&id).map_or(inner.tuple(), |e| e.before);
    let mut packet = PacketView::new(inner.packet.proto, tuple.src.0, tuple.dst.0).mark(0);
    (packet.src_port, packet.dst_port) = (tuple.src.1, tuple.dst.1);
    (packet.tcp_flags, packet.uid, packet.mac) = (inner.packet.tcp_flags, inner.packet.uid, inner.packet.mac);
    packet
}

fn hosts_of(world: &dyn World, run: &Run) -> Vec<Arc<Host>> {
    let mut ids = run.hosts.clone();
    ids.sort_unstable();
    ids.dedup();
    ids.into_iter().filter_map(|id| world.host(id)).collect()
}

/// A user whom no rule names.
pub(crate) const NOBODY: u32 = 65_534;

fn view(question: &Question) -> PacketView {
    let source = question.source.unwrap_or(unspecified(question.destination));
    let mut packet = PacketView::new(question.protocol, source, question.destination).mark(0);
    (packet.src_port, packet.dst_port) = (question.sport, question.dport);
    packet.tcp_flags = (question.protocol == TCP).then_some(0x02);
    packet.icmp = match question.protocol {
        1 => Some((8, 0)),
        58 => Some((128, 0)),
        _ => None,
    };
    packet
}

pub(crate) fn shown(packet: &PacketView) -> String {
    format!("{} {}", Tuple::of(packet).ends(), protocol_name(packet.proto).to_ascii_lowercase())
}

pub(crate) fn unspecified(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}
