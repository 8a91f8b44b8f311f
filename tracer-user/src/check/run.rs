// SPDX-License-Identifier: MIT OR Apache-2.0
//! One check: the first packet by every choice of chance, later packets of the connection, the reply; then what is
//! wrong with all that.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::chance::Chances;
use super::flight::{Flight, Mode, Tuple};
use super::policy::{Judge, egress_tunnel, policys_address, selected};
use super::report::{Ending, Path, Place, Report, Stage, StageResult, Step, Verdict};
use super::walker::{End, Found, Next, Walker};
use super::world::{Host, World};
use crate::explain::Certainty::{Certain, Likely, Possible};
use crate::explain::Finding;
use crate::explain::catalogue as c;
use crate::node::evidence::{Criterion, PacketView};
use crate::node::rtnl::{RouteAnswer, RouteQuestion};
use crate::node::{NetnsId, Role};
use crate::output::protocol_name;

const TCP: u8 = 6;
const UDP: u8 = 17;

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
pub(super) struct Run {
    pub(super) steps: Vec<Step>,
    pub(super) hosts: Vec<NetnsId>,
    pub(super) found: Vec<Found>,
    pub(super) unknown: Vec<String>,
    pub(super) end: End,
    pub(super) flight: Flight,
    pub(super) first_node: Option<NetnsId>,
    pub(super) tunnelled: bool,
    pub(super) other_node: bool,
}

/// Where the packet begins.
#[derive(Clone, Debug)]
enum Start {
    Sent(Arc<Host>),
    Arrives(Arc<Host>, u32),
}

/// Walks the path that the packet would take.
pub fn check(world: &mut dyn World, question: &Question) -> Report {
    let mut report = Report {
        packet: String::new(),
        assumed: question.assumed.clone(),
        paths: Vec::new(),
        stages: Vec::new(),
        causes: Vec::new(),
        unknown: Vec::new(),
    };
    let mut packet = view(question);
    let start = match start(world, question, &mut packet, &mut report.assumed) {
        Ok(start) => start,
        Err(why) => {
            report.packet = shown(&packet);
            report.unknown.push(why);
            return report;
        }
    };
    for host in world.watched() {
        for text in &host.evidence.unreadable {
            report.unknown.push(format!("{}: {}", host.name(), crate::output::escape(text)));
        }
    }
    let mut chances = Chances::default();
    let mut ways: Vec<Way> = Vec::new();
    loop {
        ways.push(Way::walk(world, &mut chances, &start, &packet));
        if !chances.advance() {
            break;
        }
    }
    if chances.is_cut() {
        report.unknown.push("there are more ways than were tried: rules choose one by chance".to_owned());
    }
    conclude(&mut report, &ways, &packet);
    report
}

/// All about one choice of chance.
struct Way {
    request: Run,
    /// The proxy's own connection.
    proxied: Option<Run>,
    later: Option<Run>,
    reply: Option<Run>,
    found: Vec<Found>,
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
        first.ct_state = Some(crate::node::evidence::CtState::New);
        first.ct_direction = Some(crate::node::evidence::CtDirection::Original);
        first.ct_mark = Some(0);
        let main_tuple = Tuple::of(&first);
        let judge = Judge { run: main, hosts: &hosts, start: main_tuple, packet: &first };
        let judged = judge.all();
        if judged.iter().any(|f| f.finding.id == c::SERVICE_NOT_MASQUERADED.id) {
            // The other node only sees that the client is not behind the tunnel.
            found.retain(|f| f.finding.id != c::REVERSE_PATH_FILTER.id);
        }
        found.extend(judged);
        // What only makes packets too large lets the others through.
        let ends = matches!(main.end, End::Left(..) | End::Delivered(_));
        let breaks = found
            .iter()
            .any(|f| f.finding.id != c::PACKET_TOO_BIG.id && f.finding.id != c::PATH_MTU_BLACK_HOLE.id);
        if ends && !breaks {
            let (later, more) = later(world, start, main, way.proxied.is_some());
            found.extend(more);
            let differs = later.is_some();
            way.later = later;
            if !differs {
                let (reply, more) = reply(world, main, &main_tuple, way.proxied.is_some());
                found.extend(more);
                way.reply = reply;
            }
        }
        found.sort_by_key(|f| f.stage);
        way.found = found;
        way
    }

    fn main(&self) -> &Run {
        self.proxied.as_ref().unwrap_or(&self.request)
    }
}

fn walk(world: &mut dyn World, chances: &mut Chances, start: &Start, mut flight: Flight) -> Run {
    let mut walker = Walker::new(world, chances);
    let next = match start {
        Start::Sent(host) => walker.send(host, &mut flight),
        Start::Arrives(host, device) => Next::Receive(host.clone(), *device),
    };
    let end = walker.follow(&mut flight, next);
    let Walker { steps, hosts, found, unknown, first_node, tunnelled, other_node, .. } = walker;
    Run { steps, hosts, found, unknown, end, flight, first_node, tunnelled, other_node }
}

/// The proxy that a sidecar's rules lead to makes a connection of its own.
fn by_proxy(
    world: &mut dyn World,
    chances: &mut Chances,
    start: &Start,
    request: &Run,
    asked: &Tuple,
) -> Option<(Option<Run>, Vec<Found>)> {
    let (Start::Sent(host), End::Delivered(at)) = (start, &request.end) else { return None };
    let entry = request.flight.entries.get(&host.id)?;
    if at.id != host.id || entry.before.dst == entry.after.dst || host.owns(entry.before.dst.0) {
        return None;
    }
    let port = entry.after.dst.1?;
    let users = world.listeners(host, request.flight.packet.proto, port);
    let Some(user) = users.first().copied() else {
        let why = format!("as which user the proxy on port {port} of {} sends, and so where", host.name());
        let end = End::Unknown("the proxy's own connection is not known".to_owned());
        let run = Run { steps: Vec::new(), found: Vec::new(), unknown: vec![why], end, ..request.clone() };
        return Some((Some(run), Vec::new()));
    };
    let mut packet =
        PacketView::new(request.flight.packet.proto, unspecified(asked.dst.0), asked.dst.0).mark(0);
    packet.dst_port = asked.dst.1;
    packet.tcp_flags = request.flight.packet.tcp_flags;
    packet.uid = Some(user);
    let run = walk(world, chances, start, Flight::new(packet, Mode::First));
    let again = matches!(&run.end, End::Delivered(end) if end.id == host.id)
        && run.flight.entries.get(&host.id).is_some_and(|e| e.after.dst == entry.after.dst);
    if !again {
        return Some((Some(run), Vec::new()));
    }
    let name = host.name();
    let finding = Finding::new(
        &c::REDIRECT_LOOP,
        Likely,
        format!("the proxy on port {port} of {name} runs as user {}: its own connections are redirected to itself", user),
    )
    .checked("its connection meets the same redirection", host.command("iptables -t nat -S"))
    .checked(
        format!("no rule lets packets of user {} pass", user),
        host.command(format!("ss -tlnpe sport = :{port}")),
    )
    .fix("run the proxy as the user that the rules' --uid-owner names")
    .at(Walker::place(host, 0));
    Some((None, vec![Found { stage: Stage::Sending, finding }]))
}

/// Packets after the first one. `Some` run: they go another way.
fn later(world: &mut dyn World, start: &Start, first: &Run, proxied: bool) -> (Option<Run>, Vec<Found>) {
    if !matches!(first.flight.inner().packet.proto, TCP | UDP) {
        return (None, Vec::new());
    }
    let mut packet = first_packet(first, start);
    if proxied {
        packet.uid = first.flight.inner().packet.uid;
    }
    packet.tcp_flags = packet.tcp_flags.map(|_| 0x10);
    let mut flight = Flight::new(packet, Mode::Later);
    flight.entries.clone_from(&first.flight.inner().entries);
    let run = walk(world, &mut Chances::default(), start, flight);
    let same = match (&first.end, &run.end) {
        (End::Left(a, i), End::Left(b, j)) => a.id == b.id && i == j && same_tunnel(first, &run),
        (End::Delivered(a), End::Delivered(b)) => a.id == b.id,
        _ => false,
    };
    if same || matches!(run.end, End::Unknown(_)) {
        return (None, Vec::new());
    }
    let mut found = run.found.clone();
    let marked = |run: &Run| {
        run.steps.iter().zip(&run.hosts).find_map(|(step, host)| {
            let mark = step.marks.iter().rev().find(|m| m.to.is_some_and(|m| m != 0))?;
            Some((mark.to?, *host, mark.rule.clone()))
        })
    };
    if let Some((mark, id, rule)) = marked(first)
        && marked(&run).is_none_or(|(other, ..)| other != mark)
        && let Some(host) = world.host(id)
    {
        let tables = if run.flight.packet.src.is_ipv6() { "ip6tables" } else { "iptables" };
        let before = accepted_early(&run, id);
        found.clear();
        found.push(Found {
            stage: Stage::Marking,
            finding: Finding::new(
                &c::ONLY_FIRST_MARKED,
                Certain,
                format!("only the first packet of a connection gets mark {mark:#x} on {}: the following ones take another way", host.name()),
            )
            .checked(
                match before {
                    Some(by) => format!("{by} accepts established connections before {rule}"),
                    None => format!("{rule} does not act on established connections"),
                },
                host.command(format!("{tables} -t mangle -S PREROUTING")),
            )
            .fix("let EgressGateway's rules come first (Calico: FelixConfiguration chainInsertMode: Append)")
            .at(Walker::place(&host, 0)),
        });
    }
    if found.is_empty() { (None, Vec::new()) } else { (Some(run), found) }
}

fn same_tunnel(a: &Run, b: &Run) -> bool {
    match (&a.flight.inside, &b.flight.inside) {
        (Some(x), Some(y)) => x.device == y.device && a.flight.packet.dst == b.flight.packet.dst,
        (None, None) => true,
        _ => false,
    }
}

/// The rule by which a hook before routing let the packet go.
fn accepted_early(run: &Run, host: NetnsId) -> Option<String> {
    run.steps.iter().zip(&run.hosts).find_map(|(step, id)| match &step.place {
        Place::Hook { hook: "PREROUTING", accepted_by, .. } if *id == host && step.encap.is_none() => {
            accepted_by.clone()
        }
        _ => None,
    })
}

/// The answer, by the way that the request came.
fn reply(world: &mut dyn World, request: &Run, asked: &Tuple, proxied: bool) -> (Option<Run>, Vec<Found>) {
    let inner = request.flight.inner();
    let back = inner.tuple().reversed();
    let mut packet = PacketView::new(inner.packet.proto, back.src.0, back.dst.0).mark(0);
    (packet.src_port, packet.dst_port) = (back.src.1, back.dst.1);
    packet.tcp_flags = inner.packet.tcp_flags.map(|_| 0x12);
    packet.icmp = inner.packet.icmp.map(|(kind, _)| if kind == 8 { (0, 0) } else { (129, 0) });
    packet.uid = Some(NOBODY);
    let start = match (&request.end, &request.flight.inside) {
        (End::Delivered(host), _) => Start::Sent(host.clone()),
        (End::Left(host, _), Some(inside)) => match host.evidence.link(&inside.device) {
            Some(link) => {
                packet.mac = inside.to.first_chunk().copied();
                Start::Arrives(host.clone(), link.ifindex)
            }
            None => return (None, Vec::new()),
        },
        (End::Left(host, device), None) => Start::Arrives(host.clone(), *device),
        _ => return (None, Vec::new()),
    };
    let mut flight = Flight::new(packet, Mode::Reply);
    flight.entries.clone_from(&inner.entries);
    let run = walk(world, &mut Chances::default(), &start, flight);
    let mut found = run.found.clone();
    found.extend(reply_source(world, request, &run, asked, proxied));
    (Some(run), found)
}

/// The reply must come from the address that was asked.
fn reply_source(
    world: &dyn World,
    request: &Run,
    reply: &Run,
    asked: &Tuple,
    proxied: bool,
) -> Option<Found> {
    let first = world.host(*request.hosts.first()?)?;
    let got = reply.flight.inner().tuple();
    if got.src == asked.dst || proxied {
        return None;
    }
    let fits_port = got.src.0 == asked.dst.0 && (got.src.1.is_none() || asked.dst.1.is_none());
    if fits_port {
        return None;
    }
    let (sender, service, name) = (got.ends().src, asked.ends().dst, first.name());
    let finding = match &reply.end {
        End::Delivered(host) if host.id == first.id => Finding::new(
            &c::REPLY_FROM_ANOTHER_ADDRESS,
            Certain,
            format!("the answer comes to {name} from {sender}, but {service} was asked: its address is not translated back"),
        )
        .checked(
            "replies that cross a bridge are translated only where iptables sees them",
            "sysctl net.bridge.bridge-nf-call-iptables net.bridge.bridge-nf-call-ip6tables",
        )
        .fix("sysctl -w net.bridge.bridge-nf-call-iptables=1")
        .at(Walker::place(host, 0)),
        End::Left(host, device) => Finding::new(
            &c::SERVICE_NOT_MASQUERADED,
            Likely,
            format!("the reply leaves {} from {sender}, but the client asked {service}: it does not come back through {name}", host.name()),
        )
        .checked(
            "the request was translated and not masqueraded (kube-proxy's mark 0x4000 is missing)",
            first.command("iptables -t nat -S | grep -e KUBE-MARK-MASQ -e KUBE-EXT"),
        )
        .fix("let kube-proxy write its rules again (restart it); with externalTrafficPolicy: Local, ask a node that has an endpoint")
        .at(Walker::place(host, *device)),
        _ => return None,
    };
    Some(Found { stage: Stage::Returning, finding })
}

/// Puts everything together.
fn conclude(report: &mut Report, ways: &[Way], packet: &PacketView) {
    let mut causes: Vec<(Found, usize)> = Vec::new();
    for way in ways {
        for found in &way.found {
            match causes.iter_mut().find(|(known, _)| known.finding == found.finding) {
                Some((_, count)) => *count += 1,
                None => causes.push((found.clone(), 1)),
            }
        }
    }
    for (found, count) in &mut causes {
        if *count < ways.len() {
            let finding = found.finding.clone();
            found.finding =
                finding.fact(format!("so for {count} of {} ways that rules choose by chance", ways.len()));
        }
    }
    // What is only possible does not come first.
    causes.sort_by_key(|(found, _)| (found.finding.certainty == Possible, found.stage));
    let Some(shown_way) = ways.iter().find(|way| !way.found.is_empty()).or_else(|| ways.first()) else {
        return;
    };
    report.packet = shown(&Flight::new(packet.clone(), Mode::First).packet);
    if packet.src.is_unspecified() {
        let mut whole = packet.clone();
        (whole.src, _) = first_tuple(&shown_way.request, packet).src;
        report.packet = shown(&whole);
    }
    let mut alternatives: Vec<String> = Vec::new();
    if ways.len() > 1 {
        for way in ways {
            let to = way.main().flight.inner().tuple().ends().dst.to_string();
            if !alternatives.contains(&to) {
                alternatives.push(to);
            }
        }
    }
    report.paths.push(path("request", &shown_way.request, packet, alternatives));
    for (what, run) in [
        ("request by the proxy", &shown_way.proxied),
        ("later packets", &shown_way.later),
        ("reply", &shown_way.reply),
    ] {
        if let Some(run) = run {
            report.paths.push(path(what, run, packet, Vec::new()));
        }
    }
    for way in ways {
        let runs = [Some(&way.request), way.proxied.as_ref(), way.later.as_ref(), way.reply.as_ref()];
        for text in runs.into_iter().flatten().flat_map(|run| &run.unknown) {
            if !report.unknown.contains(text) {
                report.unknown.push(text.clone());
            }
        }
    }
    beyond(report, shown_way);
    report.stages = stages(shown_way, &causes);
    report.causes = causes.into_iter().map(|(found, _)| found.finding).collect();
}

/// What is out of sight by its nature.
fn beyond(report: &mut Report, way: &Way) {
    let main = way.main();
    match &main.end {
        End::Left(host, device) if main.flight.inside.is_some() => {
            let to = main.flight.packet.dst;
            report.unknown.push(format!(
                "what the node {to} does with it: run check there too, or give its namespace with --node-netns (it left {} by {})",
                host.name(), host.device(*device)
            ));
        }
        End::Left(host, device) => {
            let source = main.flight.packet.src;
            let to = main.flight.packet.dst;
            report.unknown.push(format!(
                "whether {to} answers, and what is between {} of {} and it",
                host.device(*device),
                host.name()
            ));
            if way.reply.is_some() {
                report.unknown.push(format!(
                    "by which device the reply comes to {}: {} is assumed, by which the request left",
                    host.name(),
                    host.device(*device)
                ));
            }
            let first = first_tuple(main, &main.flight.packet).src.0;
            if !host.owns(source) && policys_address(&host.evidence, first, to).is_some() {
                let device = host.device(*device);
                report.unknown.push(format!(
                    "whether {source} is answered for on the network of {device}: it is on no device of {}, a program must do so",
                    host.name()
                ));
            }
        }
        End::Unknown(why) => report.unknown.push(why.clone()),
        _ => {}
    }
    if let Some(End::Unknown(why)) = way.reply.as_ref().map(|run| &run.end) {
        report.unknown.push(format!("the way back: {why}"));
    }
}

fn stages(way: &Way, causes: &[(Found, usize)]) -> Vec<StageResult> {
    let main = way.main();
    let wrong = || causes.iter().filter(|(found, _)| found.finding.certainty != Possible);
    let first_wrong = wrong().map(|(found, _)| found.stage).min();
    let stops = matches!(main.end, End::Stopped(_) | End::Unknown(_));
    let from_pod = main.steps.first().is_some_and(|s| !matches!(s.place, Place::Device { .. }));
    Stage::ALL
        .into_iter()
        .map(|stage| {
            let failed = wrong().any(|(found, _)| found.stage == stage);
            let verdict = if failed {
                Verdict::Failed
            } else {
                let after = first_wrong.is_some_and(|first| stage > first);
                match stage {
                    Stage::Sending if !from_pod => Verdict::NotNeeded,
                    Stage::Tunnel if !main.tunnelled && !(after && stops) => Verdict::NotNeeded,
                    Stage::OtherNode if main.flight.inside.is_some() && !stops => Verdict::NotKnown,
                    Stage::OtherNode if !main.other_node && !main.tunnelled => Verdict::NotNeeded,
                    Stage::Arriving if matches!(main.end, End::Left(..)) && !after => Verdict::NotKnown,
                    Stage::Returning if way.reply.is_none() => {
                        if after || stops {
                            Verdict::NotReached
                        } else {
                            Verdict::NotKnown
                        }
                    }
                    Stage::Returning => match way.reply.as_ref().map(|run| &run.end) {
                        Some(End::Unknown(_)) => Verdict::NotKnown,
                        _ => Verdict::Passed,
                    },
                    _ if after || (stops && first_wrong.is_none()) => Verdict::NotReached,
                    _ => Verdict::Passed,
                }
            };
            StageResult { stage, verdict }
        })
        .collect()
}

fn path(what: &str, run: &Run, packet: &PacketView, alternatives: Vec<String>) -> Path {
    let ends = first_tuple(run, packet).ends();
    let ending = match run.end.told() {
        Ending::Left { netns, device } => Ending::Left { netns, device },
        other => other,
    };
    Path {
        packet: what.to_owned(),
        src: ends.src.to_string(),
        dst: ends.dst.to_string(),
        steps: run.steps.clone(),
        ending,
        alternatives,
    }
}

/// The packet as it began.
fn first_tuple(run: &Run, packet: &PacketView) -> Tuple {
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

fn first_packet(run: &Run, start: &Start) -> PacketView {
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
const NOBODY: u32 = 65_534;

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

fn shown(packet: &PacketView) -> String {
    format!("{} {}", Tuple::of(packet).ends(), protocol_name(packet.proto).to_ascii_lowercase())
}

fn unspecified(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// Where it begins: at its sender, or at the device by which it comes to the node.
fn start(
    world: &mut dyn World,
    question: &Question,
    packet: &mut PacketView,
    assumed: &mut Vec<String>,
) -> Result<Start, String> {
    let pod = question.pod.and_then(|id| world.host(id));
    let sender = match (&pod, question.source) {
        (Some(pod), None) => Some(pod.clone()),
        (Some(pod), Some(source)) if pod.owns(source) => Some(pod.clone()),
        (_, Some(source)) => local_sender(world, source),
        (None, None) => world.watched().into_iter().find(|h| h.role == Role::Node),
    };
    if let Some(host) = sender {
        packet.uid = Some(stranger(&host));
        if host.role == Role::Pod && names_users(&host) {
            assumed.push(format!("a program of {} sends it whose user no rule names", host.name()));
        }
        return Ok(Start::Sent(host));
    }
    packet.uid = Some(NOBODY);
    let node =
        world.watched().into_iter().find(|h| h.role == Role::Node).ok_or("no node's namespace is known")?;
    let source = question.source.ok_or("no source is known")?;
    // A pod of another node comes by the egress tunnel where a policy of this gateway selects it.
    if selected(&node.evidence, source, question.destination)
        && let Some(link) = egress_tunnel(&node)
    {
        let mut peers =
            node.evidence.neighbours.iter().filter(|n| n.ifindex == link.ifindex && n.mac.len() == 6);
        packet.mac = peers.next().and_then(|n| n.mac.first_chunk().copied());
        let which = if peers.next().is_some() { "from one of its peers" } else { "from its only peer" };
        assumed.push(format!(
            "it comes to {} by {} {which}: a policy selects {source}",
            node.name(),
            node.device(link.ifindex)
        ));
        return Ok(Start::Arrives(node.clone(), link.ifindex));
    }
    let back = RouteQuestion { destination: source, source: None, mark: 0, input: None, service: None };
    match world.route(&node, &back)? {
        RouteAnswer::Route(route) => {
            let device = route.next_hops.first().map_or(0, |hop| hop.ifindex);
            assumed.push(format!(
                "it comes to {} by {}, by which {} sends to {source}",
                node.name(),
                node.device(device),
                node.name()
            ));
            Ok(Start::Arrives(node, device))
        }
        RouteAnswer::Refused(_) => Err(format!(
            "by which device packets from {source} come to {}: there is no route to it",
            node.name()
        )),
    }
}

/// The namespace that has the address: a watched one, or a pod behind a veth of one.
fn local_sender(world: &mut dyn World, source: IpAddr) -> Option<Arc<Host>> {
    let watched = world.watched();
    if let Some(host) = watched.iter().find(|h| h.owns(source)) {
        return Some(host.clone());
    }
    for node in watched.iter().filter(|h| h.role == Role::Node) {
        let back = RouteQuestion { destination: source, source: None, mark: 0, input: None, service: None };
        let Ok(RouteAnswer::Route(route)) = world.route(node, &back) else { continue };
        let Some(hop) = route.next_hops.first().filter(|hop| hop.gateway.is_none()) else { continue };
        let ends: Vec<_> = node
            .evidence
            .links
            .iter()
            .filter(|l| {
                (l.ifindex == hop.ifindex || l.master == Some(hop.ifindex))
                    && !node.uplinks.contains(&l.ifindex)
            })
            .cloned()
            .collect();
        for link in ends {
            if let Some((pod, _)) = world.peer(node, &link)
                && pod.owns(source)
                && pod.role == Role::Pod
            {
                return Some(pod);
            }
        }
    }
    None
}

fn owner_rules(host: &Host) -> impl Iterator<Item = (u32, u32)> {
    host.evidence
        .rulesets
        .iter()
        .flat_map(|t| &t.chains)
        .flat_map(|c| &c.rules)
        .flat_map(|r| &r.matches)
        .filter_map(|m| match m.what {
            Criterion::OwnerUid { first, last } => Some((first, last)),
            _ => None,
        })
}

fn names_users(host: &Host) -> bool {
    owner_rules(host).next().is_some()
}

/// A user that no rule of the host names.
fn stranger(host: &Host) -> u32 {
    let taken: Vec<(u32, u32)> = owner_rules(host).collect();
    let free = |uid: &u32| !taken.iter().any(|(first, last)| (*first..=*last).contains(uid));
    (1..=NOBODY).rev().find(free).unwrap_or(NOBODY)
}
