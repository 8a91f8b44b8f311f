// SPDX-License-Identifier: MIT OR Apache-2.0
//! The listening socket that is nearest to what a packet asks for.

use std::net::IpAddr;

use crate::snapshot::NetnsEvidence;

/// A socket on the port, and why the packet is not for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Near {
    pub(crate) why: String,
    pub(crate) socket: String,
    pub(crate) fix: String,
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
