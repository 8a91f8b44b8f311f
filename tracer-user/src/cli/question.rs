// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a plan to the packets that `check` asks about.

use std::net::IpAddr;

use super::error::CliError;
use super::plan::Plan;
use crate::model::Question;
use crate::node::{IpPrefix, NetnsId};

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const TCP: u8 = 6;
/// Packets of one check: a name may stand for several addresses.
const MAX: usize = 8;

/// The packets of a plan: one for each destination, and for each of several pods.
pub fn questions(plan: &Plan) -> Result<Vec<Question>, CliError> {
    let filter = &plan.filter;
    let not_one =
        |what: String| CliError::NotOnePacket { what, accepted: "--dst IP, IP:PORT or a host name" };
    if filter.dst.is_empty() {
        return Err(not_one("no destination was given".to_owned()));
    }
    for prefix in filter.dst.iter().chain(&filter.src) {
        if !prefix.is_host() {
            return Err(not_one(format!("{prefix} is a network")));
        }
    }
    let pods: Vec<NetnsId> = plan.pod_netns().into_iter().map(|netns| netns.id()).collect();
    let mut out = Vec::new();
    for destination in filter.dst.iter().map(IpPrefix::address) {
        let of_family = |p: &&IpPrefix| p.is_ipv6() == destination.is_ipv6();
        let sources: Vec<IpAddr> = filter.src.iter().filter(of_family).map(IpPrefix::address).collect();
        let sources: Vec<Option<IpAddr>> = match sources.as_slice() {
            // Of its own addresses the kernel chooses.
            [] => vec![None],
            [_, _, ..] if pods.len() == 1 => vec![None],
            some => some.iter().copied().map(Some).collect(),
        };
        for source in sources {
            for port in ports(plan) {
                out.push(question(plan, &pods, (source, destination), port));
            }
        }
    }
    if out.len() > MAX {
        return Err(not_one(format!("this stands for {} of them", out.len())));
    }
    Ok(out)
}

/// The port and protocol that were asked for, or each of the service's.
fn ports(plan: &Plan) -> Vec<Option<(u16, u8)>> {
    let filter = &plan.filter;
    let known = || filter.ports.iter().filter(|(_, own)| filter.protocol.is_none_or(|asked| asked == *own));
    match (filter.dport, known().count()) {
        (Some(_), _) | (None, 0) => vec![None],
        _ => known().copied().map(Some).collect(),
    }
}

fn question(
    plan: &Plan,
    pods: &[NetnsId],
    (source, destination): (Option<IpAddr>, IpAddr),
    port: Option<(u16, u8)>,
) -> Question {
    let filter = &plan.filter;
    let mut assumed = Vec::new();
    let protocol = match filter.protocol.or(port.map(|(_, protocol)| protocol)) {
        Some(ICMP) if destination.is_ipv6() => ICMPV6,
        Some(protocol) => protocol,
        None => {
            assumed.push("it is TCP (give --proto for another protocol)".to_owned());
            TCP
        }
    };
    if let Some((port, _)) = port {
        let which = if plan.filter.ports.len() == 1 { "the port" } else { "one of the ports" };
        assumed.push(format!("it goes to {port}, {which} that the service has"));
    }
    Question {
        source,
        sport: filter.sport,
        destination,
        dport: filter.dport.or(port.map(|(port, _)| port)),
        protocol,
        pod: match pods {
            [one] => Some(*one),
            _ => None,
        },
        assumed,
    }
}
