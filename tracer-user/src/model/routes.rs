// SPDX-License-Identifier: MIT OR Apache-2.0
//! Routing, by the kernel's own lookup with the mark and the input device; and why it refuses.

use std::net::IpAddr;
use std::sync::Arc;

use super::packet_state::Flight;
use super::steps::{Place, Stage};
use super::walker::{Next, Walker};
use super::world::Host;
use crate::explain::Certainty::Certain;
use crate::explain::Finding;
use crate::explain::catalogue as c;
use crate::explain::egress::is_node_mark;
use crate::node::rtnl::{Route, RouteAnswer, RouteQuestion, Rule};
use crate::output::table_name;
use crate::snapshot::Routed;

/// FR_ACT_TO_TBL
const TO_TABLE: u8 = 1;

/// Where a packet goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) local: bool,
    pub(crate) output: u32,
    pub(crate) next_hop: IpAddr,
    pub(crate) gateway: bool,
    pub(crate) table: u32,
    /// No more specific route than the default one.
    pub(crate) source: Option<IpAddr>,
}

impl Walker<'_> {
    /// The lookup for a packet that came in by `input`, or (0) is sent here. The error: there is no way.
    pub(crate) fn route(&mut self, host: &Arc<Host>, flight: &mut Flight, input: u32) -> Result<Way, Next> {
        let packet = &flight.packet;
        let question = RouteQuestion {
            destination: packet.dst,
            source: Some(packet.src).filter(|s| !s.is_unspecified()),
            mark: packet.mark.unwrap_or(0),
            input: (input != 0).then_some(input),
            service: packet
                .dst_port
                .filter(|_| matches!(packet.proto, 6 | 17))
                .map(|port| (packet.proto, port)),
        };
        let answer = match self.world.route(host, &question) {
            Ok(answer) => answer,
            Err(why) => return Err(Next::End(super::walker::End::Unknown(why))),
        };
        match answer {
            RouteAnswer::Route(route) if refusal_of(&route).is_none() => {
                let way = way(&route, packet.dst);
                if !way.local && input != 0 && !self.forwards(host, input, flight) {
                    return Err(self.forwarding_off(host, input, flight));
                }
                self.step(
                    host,
                    flight,
                    Place::Route {
                        table: way.table,
                        fwmark: question.mark,
                        local: way.local,
                        via: way.gateway.then(|| way.next_hop.to_string()),
                        device: host.device(way.output),
                    },
                );
                self.judge_mark(host, flight, &question, way)?;
                self.judge_way(host, flight, &question, way)?;
                flight.next_hop = Some(way.next_hop);
                flight.route_mtu = route.mtu;
                Ok(way)
            }
            RouteAnswer::Route(route) => {
                let errno = refusal_of(&route).unwrap_or(libc::EHOSTUNREACH);
                Err(self.refused(host, flight, &question, errno))
            }
            RouteAnswer::Refused(errno) => Err(self.refused(host, flight, &question, errno)),
        }
    }

    fn forwards(&self, host: &Host, input: u32, flight: &Flight) -> bool {
        let family = if flight.packet.dst.is_ipv6() { "ipv6" } else { "ipv4" };
        let device = host.link(input).map_or("", |l| l.name.as_str());
        match host.sysctl(&format!("net/{family}/conf/{device}/forwarding")) {
            // For IPv6 the whole host decides.
            _ if family == "ipv6" => host.sysctl("net/ipv6/conf/all/forwarding") != Some(0),
            own => own != Some(0),
        }
    }

    fn forwarding_off(&mut self, host: &Arc<Host>, input: u32, flight: &Flight) -> Next {
        let ipv6 = flight.packet.dst.is_ipv6();
        let device = host.device(input);
        let key = if ipv6 {
            "net.ipv6.conf.all.forwarding".to_owned()
        } else if host.sysctl("net/ipv4/ip_forward") == Some(0) {
            "net.ipv4.ip_forward".to_owned()
        } else {
            format!("net.ipv4.conf.{}.forwarding", device.replace('.', "/"))
        };
        let finding = Finding::new(
            &c::FORWARDING_OFF,
            Certain,
            format!("{} does not forward packets: {key} is 0", host.name()),
        )
        .checked(
            format!(
                "{} is not an address of {}, so it would have to be forwarded",
                flight.packet.dst,
                host.name()
            ),
            host.command(format!("sysctl {key}")),
        )
        .fix(host.command(format!("sysctl -w {key}=1")))
        .at(Self::place(host, input));
        let stage = self.stage(host, Stage::Routing, flight);
        self.stop(host, stage, finding)
    }

    /// The kernel would not route it.
    fn refused(&mut self, host: &Arc<Host>, flight: &Flight, asked: &RouteQuestion, errno: i32) -> Next {
        let to = asked.destination;
        let stage = self.stage(host, Stage::Routing, flight);
        let name = host.name();
        let ip = if to.is_ipv6() { "ip -6" } else { "ip" };
        let from =
            asked.source.filter(|_| asked.input.is_some()).map(|s| format!(" from {s}")).unwrap_or_default();
        let by = asked.input.map(|i| format!(" iif {}", host.device(i))).unwrap_or_default();
        let mark = if asked.mark == 0 { String::new() } else { format!(" mark {:#x}", asked.mark) };
        let get = host.command(format!("{ip} route get {to}{from}{by}{mark}"));
        // Asked as for a packet of the host itself: without the check of the source, and without forwarding.
        let plain = RouteQuestion { input: None, source: None, ..asked.clone() };
        let plain = if asked.input.is_some() {
            match self.world.route(host, &plain) {
                Ok(RouteAnswer::Refused(errno)) => Err(errno),
                Ok(RouteAnswer::Route(route)) => refusal_of(&route).map_or(Ok(way(&route, to)), Err),
                Err(_) => Err(errno),
            }
        } else {
            Err(errno)
        };
        let errno = match plain {
            Err(errno) => errno,
            Ok(way) => {
                let input = asked.input.unwrap_or(0);
                if !way.local && !self.forwards(host, input, flight) {
                    return self.forwarding_off(host, input, flight);
                }
                return match self.reverse_path(host, flight, asked, &get) {
                    Some(finding) => self.stop(host, stage, finding),
                    None => Next::End(super::walker::End::Unknown(format!(
                        "{name} would not take a packet from {} by {}, though it has a route to {to}: the kernel says errno {errno}; see `{get}`",
                        flight.packet.src,
                        host.device(input)
                    ))),
                };
            }
        };
        let from = asked.input.map_or_else(|| "lo".to_owned(), |input| host.device(input));
        if let Routed::Refused(rule) = host.evidence.routed_from(&from, asked.source, to, asked.mark) {
            let finding = Finding::new(
                match rule.does() {
                    "blackhole" => &c::ROUTE_BLACKHOLE,
                    "prohibit" => &c::ROUTE_PROHIBIT,
                    _ => &c::ROUTE_UNREACHABLE,
                },
                Certain,
                format!(
                    "ip rule {} of {name} ({} {}) refuses packets to {to}",
                    rule.priority,
                    rule.selector(),
                    rule.does()
                ),
            )
            .checked("the kernel's own lookup ends with it", get)
            .fix(
                host.command(format!("{ip} rule del priority {}", rule.priority))
                    + ", or let it spare this packet",
            )
            .at(Self::place(host, asked.input.unwrap_or(0)));
            return self.stop(host, stage, finding);
        }
        let kind = match errno {
            libc::EINVAL => &c::ROUTE_BLACKHOLE,
            libc::EACCES => &c::ROUTE_PROHIBIT,
            libc::EHOSTUNREACH if self.has_unreachable(host, to) => &c::ROUTE_UNREACHABLE,
            _ => &c::NO_ROUTE,
        };
        let finding = if kind.id == c::NO_ROUTE.id {
            Finding::new(kind, Certain, format!("{name} has no route to {to}"))
                .checked("the kernel's own lookup finds none", get)
                .fix(host.command(format!("{ip} route add {to} via GATEWAY dev DEVICE")))
        } else {
            let word = kind.id.strip_prefix("route-").unwrap_or(kind.id);
            let article = if word.starts_with('u') { "an" } else { "a" };
            Finding::new(kind, Certain, format!("{name} has {article} {word} route for {to}"))
                .checked("the kernel's own lookup ends with it", get)
                .fix(
                    host.command(format!("{ip} route show table all type {word}"))
                        + &format!(" shows it: delete it, or add a route for {to}"),
                )
        };
        self.stop(host, stage, finding.at(Self::place(host, asked.input.unwrap_or(0))))
    }

    fn has_unreachable(&self, host: &Host, to: IpAddr) -> bool {
        let routes = host.evidence.routes.iter().filter(|r| r.destination.contains(to));
        let mut routes = routes.filter(|r| r.kind == libc::RTN_UNREACHABLE);
        // IPv6 keeps one for the whole family on the loopback, which is what "no route" is.
        routes.any(|r| !(r.destination.is_empty() && to.is_ipv6() && r.priority == u32::MAX))
    }

    fn reverse_path(
        &mut self,
        host: &Host,
        flight: &Flight,
        asked: &RouteQuestion,
        get: &str,
    ) -> Option<Finding> {
        let input = asked.input?;
        let device = host.link(input)?.name.clone();
        let own = host.sysctl(&format!("net/ipv4/conf/{device}/rp_filter"))?;
        let all = host.sysctl("net/ipv4/conf/all/rp_filter").unwrap_or(0);
        if flight.packet.dst.is_ipv6() || own.max(all) == 0 {
            return None;
        }
        let source = flight.packet.src;
        let back = RouteQuestion { destination: source, source: None, mark: 0, input: None, service: None };
        let back = match self.world.route(host, &back) {
            Ok(RouteAnswer::Route(route)) => Some(way(&route, source)),
            _ => None,
        };
        if let Some(finding) = self.way_back(host, input, source, back) {
            return Some(finding);
        }
        let key = if own.max(all) == own { device.replace('.', "/") } else { "all".to_owned() };
        let shown = host.device(input);
        let (kind, way_back) = match back {
            Some(way) => ("strict", format!("the way back to {source} is by {}", host.device(way.output))),
            None => ("strict or loose", format!("there is no way back to {source}")),
        };
        if back.is_some() && own.max(all) != 1 {
            return None;
        }
        Some(
            Finding::new(
                &c::REVERSE_PATH_FILTER,
                Certain,
                format!("{shown} of {} has a {kind} reverse path filter, and {way_back}", host.name()),
            )
            .checked(
                format!("rp_filter of {shown} is {}", own.max(all)),
                host.command(format!("sysctl net.ipv4.conf.{key}.rp_filter")),
            )
            .checked("the kernel refuses the packet when it is asked", get)
            .fix(host.command(format!("sysctl -w net.ipv4.conf.{key}.rp_filter=2")))
            .at(Self::place(host, input)),
        )
    }

    /// A mark that is to choose the table, and another table that answered.
    fn judge_mark(
        &mut self,
        host: &Arc<Host>,
        flight: &Flight,
        asked: &RouteQuestion,
        way: Way,
    ) -> Result<(), Next> {
        let mark = asked.mark;
        if mark == 0 || way.local || flight.inside.is_some() {
            return Ok(());
        }
        let stage = self.stage(host, Stage::Routing, flight);
        let name = host.name();
        let ip = if asked.destination.is_ipv6() { "ip -6" } else { "ip" };
        let out = host.device(way.output);
        let used = table_name(way.table);
        if is_node_mark(mark) && self.wrong_table(host, stage, mark, &way, ip) {
            return Ok(());
        }
        let rule = host.evidence.rules.iter().find(|r| leads(r, mark, asked.destination.is_ipv6()));
        let Some(rule) = rule else {
            if is_node_mark(mark) {
                let finding = Finding::new(
                    &c::FWMARK_WITHOUT_RULE,
                    Certain,
                    format!("{name} marks the packet {mark:#x}, but has no ip rule for it: table {used} sends it out of {out}"),
                )
                .checked(
                    format!("no rule leads mark {mark:#x} to table {mark}"),
                    host.command(format!("{ip} rule show fwmark {mark:#x}")),
                )
                .fix(host.command(format!("{ip} rule add priority 99 fwmark {mark:#x} lookup {mark}")))
                .at(Self::place(host, way.output));
                self.wrong(stage, finding);
            }
            return Ok(());
        };
        let empty = !host
            .evidence
            .routes
            .iter()
            .any(|r| r.table == rule.table && r.destination.is_ipv6() == asked.destination.is_ipv6());
        if way.table != rule.table && (empty || is_node_mark(mark)) {
            let table = rule.table;
            let finding = Finding::new(
                &c::FWMARK_TABLE_EMPTY,
                Certain,
                format!("the routing table of mark {mark:#x} has no route for it on {name}: the packet leaks out of {out}"),
            )
            .checked(
                format!("an ip rule leads it to table {table}, and table {used} answers"),
                host.command(format!("{ip} route show table {table}")),
            );
            let device = crate::explain::egress::DEVICE;
            let finding = match host.evidence.link(device) {
                _ if !is_node_mark(mark) => finding.fix(
                    host.command(format!("{ip} route add default via GATEWAY dev DEVICE table {table}")),
                ),
                None => finding
                    .checked(
                        format!("{device} does not exist on {name}"),
                        host.command(format!("ip -d link show {device}")),
                    )
                    .fix(format!(
                        "restart the egressgateway agent on {name}: it makes {device} and the route again"
                    )),
                Some(link) => {
                    let state = if link.is_up() { "is up" } else { "is down" };
                    finding
                        .checked(
                            format!("{device} {state}"),
                            host.command(format!("ip -d link show {device}")),
                        )
                        .fix(format!("restart the egressgateway agent on {name}: it makes the route again"))
                }
            };
            self.wrong(stage, finding.at(Self::place(host, way.output)));
        }
        Ok(())
    }
}

/// The rule leads packets with this mark to a table.
pub(crate) fn leads(rule: &Rule, mark: u32, ipv6: bool) -> bool {
    rule.ipv6 == ipv6
        && rule.action == TO_TABLE
        && rule.mask != 0
        && !rule.inverted
        && rule.mark != 0
        && mark & rule.mask == rule.mark
}

fn way(route: &Route, to: IpAddr) -> Way {
    let hop = route.next_hops.first().copied().unwrap_or_default();
    Way {
        local: route.kind == libc::RTN_LOCAL,
        output: hop.ifindex,
        next_hop: hop.gateway.unwrap_or(to),
        gateway: hop.gateway.is_some(),
        table: route.table,
        source: route.source,
    }
}

/// Routes that refuse; IPv6 tells them as routes.
fn refusal_of(route: &Route) -> Option<i32> {
    match route.kind {
        libc::RTN_BLACKHOLE => Some(libc::EINVAL),
        libc::RTN_PROHIBIT => Some(libc::EACCES),
        libc::RTN_UNREACHABLE => Some(libc::EHOSTUNREACH),
        _ => None,
    }
}
