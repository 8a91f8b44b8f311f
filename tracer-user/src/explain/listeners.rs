// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets to an address and port where no socket listens, and the listener that is nearest.

use std::net::IpAddr;

use super::catalogue as c;
use super::context::View;
use super::finding::Certainty::Certain;
use super::finding::Finding;
use crate::flow::{DropSite, Endpoint};
use crate::node::Socket;
use crate::snapshot::NetnsEvidence;

/// Listening ports that are told, so that a wrong port shows as one.
const PORTS: usize = 8;

/// A socket on the port, and why the packet is not for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Near {
    why: String,
    pub(crate) socket: String,
    pub(crate) fix: String,
}

/// Nothing listens on the port that was asked for.
pub(super) fn port_closed(view: &View<'_>, site: &DropSite, to: Endpoint) -> Finding {
    let tcp = view.journey.packet.is_tcp();
    let (proto, number) = if tcp { ("TCP", 6) } else { ("UDP", 17) };
    let name = view.netns(site.netns);
    let (address, flag) = (to.addr.ip(), if tcp { 't' } else { 'u' });
    let list = view.command(site.netns, format!("ss -{flag}lnp sport = :{}", to.port));
    let evidence = view.of(site.netns);
    let near = evidence.and_then(|evidence| near(evidence, number, address, to.port));
    let finding =
        Finding::new(&c::PORT_CLOSED, Certain, title(near.as_ref(), proto, address, to.port, &name))
            .checked(format!("no socket takes {to}: NO_SOCKET"), list.clone())
            .about(format!("{proto} {}", to.port));
    let Some(near) = near else {
        let others = evidence.map(|evidence| others(evidence, number, address)).unwrap_or_default();
        let finding = match others.as_str() {
            "" => finding,
            ports => finding.checked(
                format!("{proto} ports with a listener there: {ports}"),
                view.command(site.netns, format!("ss -{flag}ln")),
            ),
        };
        return finding.fix(format!("start the server on port {}, or ask another port", to.port));
    };
    finding.checked(near.socket, list).fix(near.fix)
}

/// What is wrong, in one sentence.
pub(crate) fn title(near: Option<&Near>, proto: &str, address: IpAddr, port: u16, name: &str) -> String {
    match near {
        Some(near) => {
            format!("{proto} port {port} in {name} does not take packets for {address}: {}", near.why)
        }
        None => format!("nothing listens on {proto} port {port} in {name}"),
    }
}

/// A socket that has the port and does not take what is for this address; `None` too where one takes it.
pub(crate) fn near(evidence: &NetnsEvidence, proto: u8, address: IpAddr, port: u16) -> Option<Near> {
    let here = || evidence.sockets.iter().filter(|s| s.proto == proto && s.local.port() == port);
    if here().any(|s| s.ifindex == 0 && s.takes(proto, address, port)) {
        // It was started since.
        return None;
    }
    let socket = here().next()?;
    let device = match socket.ifindex {
        0 => String::new(),
        ifindex => evidence.link_by_index(ifindex).map_or_else(|| format!("if{ifindex}"), |l| l.name.clone()),
    };
    let local = socket.local.ip().to_canonical();
    let any = if address.is_ipv4() { "0.0.0.0" } else { "::" };
    let (why, fix) = if socket.takes(proto, address, port) {
        (
            format!("its socket is bound to {device}"),
            format!("start the server without binding it to {device} (SO_BINDTODEVICE)"),
        )
    } else if local.is_unspecified() {
        let (has, wants) = if local.is_ipv6() { ("IPv6", "IPv4") } else { ("IPv4", "IPv6") };
        (format!("it listens for {has} only"), format!("let the server listen on {any} too ({wants})"))
    } else {
        let what = if local.is_loopback() { format!("{local}, the loopback,") } else { local.to_string() };
        (
            format!("it listens on {what} only"),
            format!("let the server listen on {any} or on {address}, not on {local}"),
        )
    };
    let on = if device.is_empty() { device } else { format!("%{device}") };
    Some(Near { why, fix, socket: format!("a socket listens on {}{on}", socket.local) })
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
