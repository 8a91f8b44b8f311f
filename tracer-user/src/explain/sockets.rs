// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets that no socket takes: is there one that nearly would?

use std::net::IpAddr;

use super::catalogue as c;
use super::finding::Certainty::Certain;
use super::finding::Finding;
use super::view::View;
use crate::flow::{DropSite, Endpoint};
use crate::node::evidence::{NetnsEvidence, Socket};

/// Listening ports that are told, so that a wrong port shows as one.
const PORTS: usize = 8;

/// A socket on the port, and why the packet is not for it.
struct Near {
    why: String,
    socket: String,
    fix: String,
}

/// Nothing listens on the port that was asked for.
pub(super) fn port_closed(view: &View<'_>, site: &DropSite, to: Endpoint) -> Finding {
    let tcp = view.journey.packet.is_tcp();
    let (proto, number) = if tcp { ("TCP", 6) } else { ("UDP", 17) };
    let name = view.netns(site.netns);
    let list =
        view.command(site.netns, format!("ss -{}lnp sport = :{}", if tcp { 't' } else { 'u' }, to.port));
    let near = view.of(site.netns).and_then(|evidence| near(view, site, evidence, number, to));
    let title = match &near {
        Some(near) => {
            format!("{proto} port {} in {name} does not take packets for {}: {}", to.port, to.addr, near.why)
        }
        None => format!("nothing listens on {proto} port {} in {name}", to.port),
    };
    let finding = Finding::new(&c::PORT_CLOSED, Certain, title)
        .checked(format!("no socket takes {to}: NO_SOCKET"), list.clone())
        .about(format!("{proto} {}", to.port));
    match near {
        Some(near) => finding.checked(near.socket, list).fix(near.fix),
        None => {
            let others = view.of(site.netns).map(|e| others(e, number, to.addr.ip())).unwrap_or_default();
            let finding = match others.as_str() {
                "" => finding,
                ports => finding.checked(
                    format!("{proto} ports with a listener there: {ports}"),
                    view.command(site.netns, format!("ss -{}ln", if tcp { 't' } else { 'u' })),
                ),
            };
            finding.fix(format!("start the server on port {}, or ask another port", to.port))
        }
    }
}

fn near(view: &View<'_>, site: &DropSite, evidence: &NetnsEvidence, proto: u8, to: Endpoint) -> Option<Near> {
    let address = to.addr.ip();
    let here: Vec<&Socket> =
        evidence.sockets.iter().filter(|s| s.proto == proto && s.local.port() == to.port).collect();
    if here.iter().any(|s| s.ifindex == 0 && s.takes(proto, address, to.port)) {
        // It was started since.
        return None;
    }
    let near = |socket: &Socket| {
        let local = socket.local.ip().to_canonical();
        let takes = socket.takes(proto, address, to.port);
        let (why, fix) = if takes {
            let device = view.device_name(site.netns, socket.ifindex);
            (
                format!("its socket is bound to {device}"),
                format!("start the server without binding it to {device} (SO_BINDTODEVICE)"),
            )
        } else if local.is_unspecified() {
            let (has, wants) = if local.is_ipv6() { ("IPv6", "IPv4") } else { ("IPv4", "IPv6") };
            let any = if wants == "IPv4" { "0.0.0.0" } else { "::" };
            (format!("it listens for {has} only"), format!("let the server listen on {any} too ({wants})"))
        } else {
            let any = if address.is_ipv4() { "0.0.0.0" } else { "::" };
            let what =
                if local.is_loopback() { format!("{local}, the loopback,") } else { local.to_string() };
            (
                format!("it listens on {what} only"),
                format!("let the server listen on {any} or on {}, not on {local}", to.addr),
            )
        };
        let device = match socket.ifindex {
            0 => String::new(),
            ifindex => format!("%{}", view.device_name(site.netns, ifindex)),
        };
        Near { why, fix, socket: format!("a socket listens on {}{device}", socket.local) }
    };
    here.first().copied().map(near)
}

/// Ports on which something takes packets for the address.
fn others(evidence: &NetnsEvidence, proto: u8, address: IpAddr) -> String {
    let takes = |s: &&Socket| s.ifindex == 0 && s.takes(proto, address, s.local.port());
    let mut ports: Vec<u16> = evidence.sockets.iter().filter(takes).map(|s| s.local.port()).collect();
    ports.sort_unstable();
    ports.dedup();
    let more = if ports.len() > PORTS { ", …" } else { "" };
    let ports: Vec<String> = ports.iter().take(PORTS).map(u16::to_string).collect();
    if ports.is_empty() { String::new() } else { ports.join(", ") + more }
}
