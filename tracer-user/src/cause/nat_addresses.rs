// SPDX-License-Identifier: MIT OR Apache-2.0
//! NAT that gives no usable address: REDIRECT on a device without one, a loopback address that leaves as source.

use std::net::IpAddr;

use super::catalogue as c;
use super::finding::Certainty::Certain;
use super::finding::Finding;
use crate::firewall::RuleRef;

/// REDIRECT gives the packet the address of the device that it came in by (nf_nat_redirect_ipv4); that has none.
/// `asked`: the packet's destination, an address of the host. `list`: shows the rule.
pub(crate) fn redirect(
    (name, device): (&str, &str),
    rule: &RuleRef,
    asked: IpAddr,
    list: String,
    command: &dyn Fn(String) -> String,
) -> Finding {
    let (family, prefix) = if asked.is_ipv4() { ("IPv4", 32) } else { ("IPv6", 128) };
    Finding::new(
        &c::REDIRECT_WITHOUT_ADDRESS,
        Certain,
        format!("{rule} on {name} redirects what comes in by {device}, and {device} has no {family} address that REDIRECT could give it: the kernel drops it"),
    )
    .checked(format!("the rule: {}", rule.text), list)
    .checked(format!("{device} has no {family} address"), command(format!("ip addr show dev {device}")))
    .fix(command(format!("ip addr add {asked}/{prefix} dev {device}")))
    .about(device)
}

/// A loopback address leaves the host as source: nobody takes such a packet.
/// `asked`: what the program asked for, where it was translated.
pub(crate) fn loopback_source(
    (name, device): (&str, &str),
    (source, destination): (IpAddr, IpAddr),
    asked: Option<String>,
    command: &dyn Fn(String) -> String,
) -> Finding {
    let why = asked.map_or_else(String::new, |asked| format!(" ({asked} was translated to it)"));
    Finding::new(
        &c::LOOPBACK_SOURCE,
        Certain,
        format!("packets for {destination}{why} leave {name} by {device} with {source} as source, which no other host takes: no rule masquerades them"),
    )
    .checked(
        format!("no rule of nat POSTROUTING gives {source} another source on {device}"),
        command("iptables -t nat -vnL POSTROUTING --line-numbers".to_owned()),
    )
    .fix(command(format!("iptables -t nat -I POSTROUTING -s 127.0.0.0/8 -o {device} -j MASQUERADE")))
    .about(source)
}
