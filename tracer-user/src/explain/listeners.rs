// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets to an address and port where no socket listens, and the listener that is nearest.

use std::net::IpAddr;

use super::context::View;
use crate::cause::Certainty::Certain;
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::cause::listening::{near, title};
use crate::flow::{DropSite, Endpoint};
use crate::node::Socket;
use crate::snapshot::NetnsEvidence;

/// Listening ports that are told, so that a wrong port shows as one.
const PORTS: usize = 8;

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
