// SPDX-License-Identifier: MIT OR Apache-2.0
//! What follows the first packet: the proxy's own connection, later packets, the reply.

use super::chance::Chances;
use super::packet_state::{Flight, Mode, Tuple};
use super::run::{NOBODY, Run, Start, TCP, UDP, first_packet, unspecified, walk};
use super::steps::{Place, Stage};
use super::walker::{End, Found, Walker};
use super::world::World;
use crate::cause::Certainty::{Certain, Likely};
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::firewall::PacketView;
use crate::node::NetnsId;
use crate::snapshot::Change;

/// The proxy that a sidecar's rules lead to makes a connection of its own.
pub(crate) fn by_proxy(
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
pub(crate) fn later(
    world: &mut dyn World,
    start: &Start,
    first: &Run,
    proxied: bool,
) -> (Option<Run>, Vec<Found>) {
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
pub(crate) fn reply(
    world: &mut dyn World,
    request: &Run,
    asked: &Tuple,
    proxied: bool,
) -> (Option<Run>, Vec<Found>) {
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
        // Behind any other device the answer may come by another one.
        (End::Left(host, device), None) if host.uplinks.contains(device) => {
            Start::Arrives(host.clone(), *device)
        }
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
        .fix("let iptables see what crosses the bridge: net.bridge.bridge-nf-call-iptables = 1 on the node")
        .may_repair(request.first_node.unwrap_or(host.id), {
            let path = "net/bridge/bridge-nf-call-iptables".to_owned();
            Some(Change::Sysctl { path, value: 1 })
        })
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
