// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets delivered to their receiver that got no answer.

use super::context::View;
use super::flow_history::Connections;
use crate::cause::Certainty::{Certain, Likely, Possible};
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::flow::{Ending, Endpoint};
use crate::node::{NetnsId, Socket};

/// Connections that a listening socket refused because its queue was full.
const OVERFLOWS: &str = "TcpExt.ListenOverflows";
/// SYNs that were dropped because too many handshakes were under way, and SYN cookies are off.
const SYNS_DROPPED: &str = "TcpExt.TCPReqQFullDrop";
/// Requests that a listening socket dropped, for whatever reason.
const DROPS: &str = "TcpExt.ListenDrops";

/// Of a server whose socket says so, or that answered before (`alive`), the accept queue is full; of any other
/// nothing is known. `count`: packets that wait.
pub(super) fn explain(view: &View<'_>, seen: &Connections, alive: bool, count: u32) -> Option<Finding> {
    let journey = view.journey;
    let last = journey.hops.last();
    let to = last.map_or(journey.packet.ends.dst, |h| h.ends.dst);
    let (netns, ifindex, delivered) = match journey.ending {
        Ending::Delivered { netns } => (netns, 0, true),
        Ending::Unwatched { netns, ifindex } => (netns, ifindex, false),
        _ => return None,
    };
    let place = view.place(netns, ifindex);
    let syn = view.is_syn();
    let what = match (syn, count) {
        (true, 1) => "1 SYN was".to_owned(),
        (true, _) => format!("{count} SYNs were"),
        (false, 1) => "1 packet was".to_owned(),
        (false, _) => format!("{count} packets were"),
    };
    let handed = format!("{what} handed to it; no answer, no ICMP error, no drop on this side");
    let of_kernel = || {
        let queue = || syn_queue(view, seen, netns, to, &handed).filter(|_| syn);
        pings_ignored(view, netns, to, &handed).or_else(queue)
    };
    if let Some(found) = delivered.then(of_kernel).flatten() {
        return Some(found.at(place));
    }
    let full = syn && delivered && queue_is_full(view, seen, netns, to.port);
    if full || (syn && !delivered && alive) {
        let finding = Finding::new(
            &c::ACCEPT_QUEUE_FULL,
            if full { Certain } else { Likely },
            format!("{to} ignores connection requests: its accept queue is full, the server does not accept"),
        )
        .checked(
            handed,
            format!(
                "in the pod: ss -tln sport = :{}; nstat -az TcpExtListenOverflows TcpExtListenDrops",
                to.port
            ),
        );
        let finding = match seen.counted(netns, OVERFLOWS) {
            0 => finding,
            times => finding.fact(format!("{OVERFLOWS} of {} rose by {times}", view.netns(netns))),
        };
        let finding = if alive { finding.fact("earlier connections to it were answered") } else { finding };
        return Some(
            finding
                .fix("let the server accept faster, or enlarge its listen backlog and net.core.somaxconn")
                .about(to.port)
                .at(place),
        );
    }
    Some(nothing_known(view, netns, ifindex, delivered, to, handed).about(to).at(place))
}

fn nothing_known(
    view: &View<'_>,
    netns: NetnsId,
    ifindex: u32,
    delivered: bool,
    to: Endpoint,
    handed: String,
) -> Finding {
    let device = view.device_name(netns, ifindex);
    let ports = view.journey.packet.has_ports();
    let (title, check, fix) = match (delivered, ports) {
        (true, true) => (
            format!(
                "{to} in {} has got it and does not answer: the program there, or the way back",
                view.netns(netns)
            ),
            view.command(netns, format!("ss -anp sport = :{}", to.port)),
            format!(
                "look at the program that has port {} there: does it hang, does it want to answer?",
                to.port
            ),
        ),
        (true, false) => (
            format!("{} in {} has got it and does not answer", to.addr, view.netns(netns)),
            view.command(netns, format!("tcpdump -ni any host {}", view.journey.packet.ends.src.addr)),
            format!("look at the routes and the firewall of {}", view.netns(netns)),
        ),
        (false, _) => (
            format!(
                "{to} does not answer what {device} hands to it: the cause is in that pod, or its MAC or way back is wrong"
            ),
            view.command(netns, format!("tcpdump -nei {device} host {}", to.addr)),
            if ports && view.journey.packet.is_tcp() {
                format!(
                    "trace in that pod too (--pod); look at its firewall, its routes, its accept queue (ss -tln sport = :{})",
                    to.port
                )
            } else if ports {
                format!(
                    "trace in that pod too (--pod); look at its firewall, its routes, who has the port (ss -anp sport = :{})",
                    to.port
                )
            } else {
                "trace in that pod too (--pod); look at its firewall and its routes".to_owned()
            },
        ),
    };
    Finding::new(&c::NO_ANSWER, Possible, title).checked(handed, check).fix(fix)
}

/// A host that is told not to answer pings.
fn pings_ignored(view: &View<'_>, netns: NetnsId, to: Endpoint, handed: &str) -> Option<Finding> {
    let key = match view.journey.packet.proto {
        1 => "net/ipv4/icmp_echo_ignore_all",
        58 => "net/ipv6/icmp/echo_ignore_all",
        _ => return None,
    };
    if view.of(netns)?.sysctl(key)? == 0 {
        return None;
    }
    let (name, key) = (view.netns(netns), key.replace('/', "."));
    Some(
        Finding::new(
            &c::PINGS_IGNORED,
            Certain,
            format!("{name} ({}) does not answer pings: {key} is 1", to.addr),
        )
        .checked(handed, view.command(netns, format!("sysctl {key}")))
        .fix(format!(
            "{}; or test with a connection instead of a ping",
            view.command(netns, format!("sysctl -w {key}=0"))
        ))
        .about(to.addr),
    )
}

/// Handshakes under way fill the queue for them: without SYN cookies, SYNs are dropped then.
fn syn_queue(
    view: &View<'_>,
    seen: &Connections,
    netns: NetnsId,
    to: Endpoint,
    handed: &str,
) -> Option<Finding> {
    let name = view.netns(netns);
    let value = |key: &str| view.of(netns).and_then(|e| e.sysctl(&format!("net/ipv4/{key}")));
    let full = seen.counted(netns, SYNS_DROPPED);
    let others = seen.counted(netns, DROPS).saturating_sub(seen.counted(netns, OVERFLOWS));
    let (counter, times) = match value("tcp_syncookies") {
        _ if full > 0 => (SYNS_DROPPED, full),
        Some(0) if others > 0 => (DROPS, others),
        _ => return None,
    };
    let finding = Finding::new(
        &c::SYN_QUEUE_FULL,
        if full > 0 { Certain } else { Likely },
        format!("{to} ignores connection requests: too many handshakes with it are unfinished, and SYN cookies are off"),
    )
    .fact(handed)
    .checked(
        format!("{counter} of {name} rose by {times}"),
        view.command(netns, format!("nstat -az {}", counter.replace('.', ""))),
    );
    let finding = match (value("tcp_syncookies"), value("tcp_max_syn_backlog")) {
        (Some(cookies), Some(backlog)) => finding.checked(
            format!("tcp_syncookies is {cookies}, tcp_max_syn_backlog {backlog}"),
            view.command(netns, "sysctl net.ipv4.tcp_syncookies net.ipv4.tcp_max_syn_backlog"),
        ),
        _ => finding,
    };
    Some(
        finding
            .fix(format!(
                "find why handshakes are not finished (SYN-ACKs that get lost, a SYN flood); {}",
                view.command(netns, "sysctl -w net.ipv4.tcp_syncookies=1")
            ))
            .about(to.port),
    )
}

/// By the counter of its namespace, or by the socket as it was read.
fn queue_is_full(view: &View<'_>, seen: &Connections, netns: NetnsId, port: u16) -> bool {
    let full = |s: &&Socket| s.proto == 6 && s.local.port() == port && s.backlog > 0 && s.queued > s.backlog;
    seen.counted(netns, OVERFLOWS) > 0 || view.of(netns).is_some_and(|e| e.sockets.iter().any(|s| full(&s)))
}
