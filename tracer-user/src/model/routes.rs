// SPDX-License-Identifier: MIT OR Apache-2.0
//! Routing, by the kernel's own lookup with the mark and the input device; and why it refuses.

use std::net::IpAddr;
use std::sync::Arc;

use super::packet_state::{Flight, Mode};
use super::peers;
use super::preempted::Preempted;
use super::route_words::{ip_command, words};
use super::steps::{Place, Stage};
use super::walker::{Next, Walker};
use super::world::Host;
use crate::cause::Certainty::{Certain, Likely};
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::cause::ipsec::NodeState;
use crate::cause::no_route;
use crate::cluster::egress::datapath::{is_egress_tunnel, is_node_mark};
use crate::fib::{Answer, Decision, Martian, Question, Refusal, RefusedBy};
use crate::node::rtnl::{Address, NextHop, Route, RouteAnswer, RouteQuestion, Rule};
use crate::node::{IpPrefix, NetnsId, Role};
use crate::snapshot::Change;
use crate::text::table_name;

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
        let question = question(flight, input);
        let here = host.clone();
        let fib = here.fib();
        let answer = fib.lookup(&question);
        if let Some(why) = answer.unknown() {
            self.open(format!("which route {} takes to {}: {why}", host.name(), question.destination));
        }
        let Some(outcome) = answer.outcomes.first() else {
            return Err(Next::End(super::walker::End::Unknown("no answer of the lookup".to_owned())));
        };
        self.compare_with_kernel(host, &question, &answer);
        match &outcome.decision {
            Decision::Unknown(why) => Err(Next::End(super::walker::End::Unknown(why.clone()))),
            Decision::Refused(refusal) => Err(self.refused(host, flight, &question, *refusal)),
            Decision::Routed(routed) => {
                let route = routed.as_route(0);
                if routed.hops.len() > 1 {
                    self.open(format!(
                        "which of {} next hops to {} {} takes: a hash of the connection chooses",
                        routed.hops.len(),
                        question.destination,
                        host.name()
                    ));
                }
                let mut way = way(&route, question.destination);
                way.local |= route.kind == libc::RTN_BROADCAST && input != 0;
                self.step(
                    host,
                    flight,
                    Place::Route {
                        table: way.table,
                        fwmark: question.mark.unwrap_or(0),
                        local: way.local,
                        via: way.gateway.then(|| way.next_hop.to_string()),
                        device: host.device(way.output),
                    },
                );
                if let Some(preempted) = Preempted::of(host, &question, outcome)
                    && let Some(certainty) = preempted.suspicion(host)
                {
                    let stage = self.stage(host, Stage::Routing, flight);
                    self.wrong(stage, preempted.say(host, certainty, ""));
                }
                let group = matches!(route.kind, libc::RTN_BROADCAST | libc::RTN_MULTICAST);
                if group && !way.local {
                    let why = format!("{} is a group: who is in it is not known", question.destination);
                    return Err(Next::End(super::walker::End::Unknown(why)));
                }
                self.judge_mark(host, flight, &question, way)?;
                self.judge_way(host, flight, &question, way)?;
                flight.next_hop = Some(way.next_hop);
                flight.route_mtu = route.mtu;
                Ok(way)
            }
        }
    }

    /// Where the kernel can be asked the same, it must say the same; else what was read is not the whole truth.
    fn compare_with_kernel(&mut self, host: &Arc<Host>, question: &Question, answer: &Answer<'_>) {
        let Some(own) = answer.certain() else { return };
        let asked = RouteQuestion {
            destination: question.destination,
            source: question.source,
            mark: question.mark.unwrap_or(0),
            input: question.input,
            service: question
                .destination_port
                .filter(|_| matches!(question.protocol, Some(6 | 17)))
                .map(|port| (question.protocol.unwrap_or(0), port)),
        };
        let Some(kernel) = self.world.kernel_route(host, &asked) else { return };
        let differs = match (&own.decision, &kernel) {
            (Decision::Routed(routed), RouteAnswer::Route(route)) if refusal_of(route).is_none() => {
                let hop = route.next_hops.first();
                !routed
                    .hops
                    .iter()
                    .any(|own| hop.is_none_or(|hop| hop.ifindex == own.ifindex && hop.gateway == own.gateway))
            }
            (Decision::Refused(_), RouteAnswer::Refused(_)) => false,
            (Decision::Refused(_), RouteAnswer::Route(route)) => refusal_of(route).is_none(),
            // A firewall, a security module or a program may refuse what routing does not.
            _ => true,
        };
        if differs {
            let said = match kernel {
                RouteAnswer::Route(route) => match route.next_hops.first() {
                    Some(hop) => format!("sends it out of {}", host.device(hop.ifindex)),
                    None => "has another route".to_owned(),
                },
                RouteAnswer::Refused(errno) => format!("refuses it (errno {errno})"),
            };
            self.open(format!(
                "why the kernel of {} {said} when asked for {}: its rules and tables, as they were read, say otherwise",
                host.name(),
                question.destination
            ));
        }
    }

    fn forwarding_off(&mut self, host: &Arc<Host>, input: u32, flight: &Flight) -> Next {
        let ipv6 = flight.packet.dst.is_ipv6();
        let device = host.device(input);
        let (key, path) = if ipv6 {
            ("net.ipv6.conf.all.forwarding".to_owned(), "net/ipv6/conf/all/forwarding".to_owned())
        } else if host.sysctl("net/ipv4/ip_forward") == Some(0) {
            ("net.ipv4.ip_forward".to_owned(), "net/ipv4/ip_forward".to_owned())
        } else {
            let key = format!("net.ipv4.conf.{}.forwarding", device.replace('.', "/"));
            (key, format!("net/ipv4/conf/{device}/forwarding"))
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
        .change(host.id, Change::Sysctl { path, value: 1 })
        .at(Self::place(host, input));
        let stage = self.stage(host, Stage::Routing, flight);
        self.stop(host, stage, finding)
    }

    /// Routing refuses it.
    fn refused(&mut self, host: &Arc<Host>, flight: &Flight, asked: &Question, refusal: Refusal<'_>) -> Next {
        let stage = self.stage(host, Stage::Routing, flight);
        let input = asked.input.unwrap_or(0);
        let get = get_command(host, asked);
        let finding = match refusal.by {
            RefusedBy::ForwardingOff => return self.forwarding_off(host, input, flight),
            RefusedBy::Rule(rule) => refused_by_rule(host, rule, asked, get),
            RefusedBy::Route(route) => refused_by_route(host, route, asked, get),
            RefusedBy::NoRoute => {
                let finding = no_route(host, asked, get);
                let changes = self.missing_routes(host, asked.destination);
                changes.into_iter().fold(finding, |finding, change| finding.change(host.id, change))
            }
            // What sent it was told.
            RefusedBy::Source(_) | RefusedBy::Destination
                if self.found.iter().any(|found| found.finding.id == c::LOOPBACK_SOURCE.id) =>
            {
                return Next::End(super::walker::End::Stopped(host.clone()));
            }
            RefusedBy::Source(martian) => self.martian(host, flight, asked, martian, get),
            RefusedBy::Destination => Finding::new(
                &c::SIMPLE,
                Certain,
                format!(
                    "{} does not take packets to {} that come in by {}",
                    host.name(),
                    asked.destination,
                    host.device(input)
                ),
            )
            .checked(
                "loopback addresses, and broadcast addresses of other networks, are not taken from outside",
                get,
            )
            .fix(match asked.destination.is_loopback() && asked.destination.is_ipv4() {
                true => format!(
                    "translate to an address of the node instead of 127.0.0.0/8, or: {}",
                    host.command(format!(
                        "sysctl -w net.ipv4.conf.{}.route_localnet=1",
                        host.device(input).replace('.', "/")
                    ))
                ),
                false => String::new(),
            })
            .at(Self::place(host, input)),
            RefusedBy::ForeignSource => Finding::new(
                &c::SIMPLE,
                Certain,
                format!("{} does not have the address that the packet is sent from", host.name()),
            )
            .checked("a sender's source must be an address of its own", host.command("ip addr"))
            .at(Self::place(host, 0)),
            RefusedBy::Device => {
                return Next::End(super::walker::End::Unknown(format!(
                    "the device that the sender in {} is bound to is down or gone",
                    host.name()
                )));
            }
        };
        self.stop(host, stage, finding.at(Self::place(host, input)))
    }

    /// Routes that may be missing: to a network of its own, or by a host behind a veth that is on the same network.
    fn missing_routes(&mut self, host: &Host, to: IpAddr) -> Vec<Change> {
        let mut out = Vec::new();
        for own in host.evidence.addresses.iter().filter(|a| a.address.is_ipv4() == to.is_ipv4()) {
            let Some(network) = IpPrefix::new(own.address, own.prefix_len) else { continue };
            let Some(link) = host.link(own.ifindex).filter(|link| link.is_up() && !link.is_loopback()) else {
                continue;
            };
            let mut add = |destination, gateway| {
                let next_hops = vec![NextHop { ifindex: own.ifindex, gateway, ..NextHop::default() }];
                out.push(Change::AddRoute(Route { destination, next_hops, ..Route::default() }));
            };
            if network.contains(to) {
                add(network, None);
            } else if let Some((there, port)) = self.world.peer(host, link)
                // No node sends to the world by one of its pods.
                && (host.role == Role::Pod || there.role == Role::Node)
            {
                let bridge = there.link(port).and_then(|port| port.master);
                let on = |a: &&Address| a.ifindex == port || Some(a.ifindex) == bridge;
                for gateway in there.evidence.addresses.iter().filter(on) {
                    if network.contains(gateway.address) && !host.owns(gateway.address) {
                        add(
                            IpPrefix::new(super::run::unspecified(to), 0).unwrap_or_default(),
                            Some(gateway.address),
                        );
                    }
                }
            }
        }
        out
    }

    /// The source of a packet that came in is not accepted.
    fn martian(
        &self,
        host: &Host,
        flight: &Flight,
        asked: &Question,
        martian: Martian<'_>,
        get: String,
    ) -> Finding {
        let input = asked.input.unwrap_or(0);
        let (source, device, name) = (flight.packet.src, host.device(input), host.name());
        let said = |kind, title: String| {
            Finding::new(kind, Certain, title).checked("the lookup refuses the packet", get.clone())
        };
        match martian {
            Martian::Own if host.role == crate::node::Role::Node && self.was_routed_by(host) => self.circles(host, flight).checked(
                format!("{name} sent it, and it comes back by {device} with {name}'s own address as its source"),
                get,
            ),
            Martian::Own if let Some(finding) = self.duplicate(host, input, source) => finding,
            Martian::Own => said(
                &c::OWN_SOURCE,
                format!("{name} drops the packet: its source {source} is an address of {name} itself, and it came in by {device}"),
            )
            .checked(format!("{source} is on a device of {name}"), host.command(format!("ip addr show to {source}"))),
            Martian::Invalid => said(
                &c::SIMPLE,
                format!("{name} drops the packet: {source} cannot be a source"),
            ),
            Martian::Loopback => said(
                &c::SIMPLE,
                format!("{name} drops the packet: a loopback address does not come in by {device} (route_localnet is 0)"),
            )
            .checked("route_localnet", host.command(format!("sysctl net.ipv4.conf.{}.route_localnet", device.replace('.', "/")))),
            Martian::Kind(route) => said(
                &c::ROUTE_BLACKHOLE,
                format!("{name} drops packets from {source}: its route {} is no way back", words(host, route)),
            ),
            Martian::OtherDevice { back, filter } => {
                let back = back.map(|route| way(route, source));
                if let Some(finding) = self.way_back(host, input, source, back) {
                    return finding;
                }
                let by = back.map_or_else(|| "another device".to_owned(), |way| host.device(way.output));
                let routes = peers::way_back(&self.world.watched(), host, input, source);
                // What another node did to it shows there.
                let first = flight.mode == Mode::First && self.first_node == Some(host.id);
                if let Some(found) = not_behind_tunnel(host, flight, input, back).filter(|_| first) {
                    return found;
                }
                reverse_path(host, input, filter, &format!("the way back to {source} is by {by}"), get, routes)
            }
            Martian::NoWayBack { filter, .. } => {
                if let Some(finding) = self.way_back(host, input, source, None) {
                    return finding;
                }
                let routes = peers::way_back(&self.world.watched(), host, input, source);
                reverse_path(host, input, filter, &format!("there is no way back to {source}"), get, routes)
            }
        }
    }

    /// A mark that is to choose the table, and another table that answered.
    fn judge_mark(
        &mut self,
        host: &Arc<Host>,
        flight: &Flight,
        asked: &Question,
        way: Way,
    ) -> Result<(), Next> {
        let mark = asked.mark.unwrap_or(0);
        if mark == 0 || way.local || flight.inside.is_some() {
            return Ok(());
        }
        let stage = self.stage(host, Stage::Routing, flight);
        let name = host.name();
        let ip = if asked.destination.is_ipv6() { "ip -6" } else { "ip" };
        let out = host.device(way.output);
        let used = table_name(way.table);
        if is_node_mark(mark) && self.wrong_table(host, stage, mark, &way, asked.destination) {
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
                .change(host.id, Change::AddRoutingRule(rule_of_mark(mark, asked.destination.is_ipv6())))
                .at(Self::place(host, way.output));
                self.wrong(stage, finding);
            }
            return Ok(());
        };
        if way.table != rule.table
            && is_node_mark(mark)
            && let Some(first) = before(host, rule, asked, way.table)
        {
            let (priority, own) = (first.priority, rule.priority);
            let finding = Finding::new(
                &c::FWMARK_RULE_PREEMPTED,
                Certain,
                format!("ip rule {priority} ({}) of {name} comes before rule {own} of mark {mark:#x}: table {used} sends the packet out of {out}", first.selector()),
            )
            .checked(format!("table {} is never asked", rule.table), host.command(format!("{ip} rule show")))
            .fix(format!("delete ip rule {priority}, or give it a priority number above {own}"))
            .change(host.id, Change::DeleteRoutingRule(first.clone()));
            self.wrong(stage, finding.at(Self::place(host, way.output)));
            return Ok(());
        }
        let empty = !host
            .evidence
            .routes
            .iter()
            .any(|r| r.table == rule.table && r.destination.is_ipv6() == asked.destination.is_ipv6());
        if way.table != rule.table && (empty || is_node_mark(mark)) {
            let table = rule.table;
            let tunnel = host.evidence.link(crate::cluster::egress::datapath::DEVICE);
            let why = match tunnel {
                _ if !is_node_mark(mark) => String::new(),
                None => format!(": {} does not exist", crate::cluster::egress::datapath::DEVICE),
                Some(link) if !link.is_up() => format!(": {} is down", host.device(link.ifindex)),
                Some(_) => ": its route is missing".to_owned(),
            };
            let finding = Finding::new(
                &c::FWMARK_TABLE_EMPTY,
                Certain,
                format!("the routing table of mark {mark:#x} on {name} has no route for it{why}; the packet leaks out of {out}"),
            )
            .checked(
                format!("an ip rule leads it to table {table}, and table {used} answers"),
                host.command(format!("{ip} route show table {table}")),
            );
            let device = crate::cluster::egress::datapath::DEVICE;
            let finding = match host.evidence.link(device) {
                _ if !is_node_mark(mark) => {
                    finding.fix(format!("whoever made that rule has to give table {table} a route"))
                }
                None => finding
                    .checked(
                        format!("{device} does not exist on {name}"),
                        host.command(format!("ip -d link show {device}")),
                    )
                    .fix(format!(
                        "restart the egressgateway agent on {name}: it makes {device} and the route again"
                    )),
                Some(link) => {
                    let nodes = self.world.watched();
                    let routes = peers::default_by_tunnel(&nodes, host, link, table, asked.destination);
                    let finding = routes.into_iter().fold(finding, |f, route| f.change(host.id, route));
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

/// What routing looks at of a packet.
pub(crate) fn question(flight: &Flight, input: u32) -> Question {
    let packet = &flight.packet;
    let mut question = Question::to(packet.dst).from(packet.src).input(input).ports(
        packet.proto,
        packet.src_port,
        packet.dst_port,
    );
    question.mark = packet.mark;
    question.uid = packet.uid;
    question.tos = Some(0);
    question
}

/// The command that asks the kernel the same.
fn get_command(host: &Host, asked: &Question) -> String {
    let ip = ip_command(asked.destination);
    let to = asked.destination;
    let from = asked.source.map(|s| format!(" from {s}")).unwrap_or_default();
    let by = asked.input.map(|i| format!(" iif {}", host.device(i))).unwrap_or_default();
    let mark = match asked.mark {
        None | Some(0) => String::new(),
        Some(mark) => format!(" mark {mark:#x}"),
    };
    host.command(format!("{ip} route get {to}{from}{by}{mark}"))
}

fn refused_by_rule(host: &Host, rule: &Rule, asked: &Question, get: String) -> Finding {
    let name = host.name();
    let kind = match rule.does() {
        "blackhole" => &c::ROUTE_BLACKHOLE,
        "prohibit" => &c::ROUTE_PROHIBIT,
        _ => &c::ROUTE_UNREACHABLE,
    };
    Finding::new(
        kind,
        Certain,
        format!(
            "ip rule {} of {name} ({} {}) refuses packets to {}",
            rule.priority,
            rule.selector(),
            rule.does(),
            asked.destination
        ),
    )
    .checked("the lookup ends with it", get)
    .fix(host.command(format!("{} rule del priority {}", ip_command(asked.destination), rule.priority)))
    .change(host.id, Change::DeleteRoutingRule(rule.clone()))
}

fn refused_by_route(host: &Host, route: &Route, asked: &Question, get: String) -> Finding {
    let (kind, word) = match route.kind {
        libc::RTN_BLACKHOLE => (&c::ROUTE_BLACKHOLE, "blackhole"),
        libc::RTN_PROHIBIT => (&c::ROUTE_PROHIBIT, "prohibit"),
        _ => (&c::ROUTE_UNREACHABLE, "unreachable"),
    };
    // IPv6 keeps one for the whole family on the loopback, which is what "no route" is.
    if route.destination.is_empty() && asked.destination.is_ipv6() && route.priority == u32::MAX {
        return no_route(host, asked, get);
    }
    let article = if word.starts_with('u') { "an" } else { "a" };
    let ip = ip_command(asked.destination);
    let to = if route.destination.is_empty() { "default".to_owned() } else { route.destination.to_string() };
    let table = if route.table == u32::from(libc::RT_TABLE_MAIN) {
        String::new()
    } else {
        format!(" table {}", route.table)
    };
    let metric = if route.priority == 0 { String::new() } else { format!(" metric {}", route.priority) };
    Finding::new(
        kind,
        Certain,
        format!("{} has {article} {word} route for {}", host.name(), asked.destination),
    )
    .checked(format!("the lookup ends with {word} {to}{table}"), get)
    .fix(host.command(format!("{ip} route del {word} {to}{table}{metric}")))
    .change(host.id, Change::DeleteRoute(route.clone()))
}

fn no_route(host: &Host, asked: &Question, get: String) -> Finding {
    let name = host.name();
    let node = NodeState { evidence: &host.evidence, name: &name, command: &|command| host.command(command) };
    no_route::no_route(&node, asked.destination, ("no rule leads to a route for it".to_owned(), get))
}

/// A tunnel to other nodes' pods brings what is no pod's: its filter is not at fault.
fn not_behind_tunnel(host: &Host, flight: &Flight, input: u32, back: Option<Way>) -> Option<Finding> {
    let link = host.link(input).filter(|link| link.vxlan.is_some() && !is_egress_tunnel(link))?;
    let out = back.filter(|way| host.uplinks.contains(&way.output))?.output;
    let (client, to) = (flight.packet.src, flight.packet.dst);
    if no_route::is_near_pods(&host.evidence, client) {
        return None;
    }
    let (device, out, name) = (host.device(link.ifindex), host.device(out), host.name());
    Some(
        Finding::new(
            &c::SERVICE_NOT_MASQUERADED,
            Likely,
            format!("another node sends what is for {to} to {name} by {device} with the client's address {client}: the answer would leave by {out}, and the client would not know it"),
        )
        .checked(
            format!("the way back to {client} is by {out}, not by {device}, whose reverse path filter refuses it"),
            host.command(format!("{} route get {client}", ip_command(client))),
        )
        .fix("on the node that the client asks: let kube-proxy write its rules again, so that it masquerades (restart it); with externalTrafficPolicy: Local, ask a node that has an endpoint")
        .at(Walker::place(host, input)),
    )
}

/// `filter`: the greater of the device's rp_filter and the one for all.
/// `routes`: what may be missing of the way back.
fn reverse_path(
    host: &Host,
    input: u32,
    filter: i64,
    way_back: &str,
    get: String,
    routes: Vec<(NetnsId, Change)>,
) -> Finding {
    let shown = host.device(input);
    let own =
        host.link(input).and_then(|link| host.sysctl(&format!("net/ipv4/conf/{}/rp_filter", link.name)));
    let key = if own == Some(filter) { shown.replace('.', "/") } else { "all".to_owned() };
    let kind = if filter == 1 { "strict" } else { "loose" };
    let finding = Finding::new(
        &c::REVERSE_PATH_FILTER,
        Certain,
        format!("{shown} of {} has a {kind} reverse path filter, and {way_back}", host.name()),
    )
    .checked(
        format!("rp_filter of {shown} is {filter}"),
        host.command(format!("sysctl net.ipv4.conf.{key}.rp_filter")),
    )
    .checked("the lookup refuses the packet", get);
    let finding = routes.into_iter().fold(finding, |finding, (id, change)| finding.change(id, change));
    if filter == 1 {
        finding.fix(host.command(format!("sysctl -w net.ipv4.conf.{key}.rp_filter=2"))).change(
            host.id,
            Change::Sysctl {
                path: format!("net/ipv4/conf/{}/rp_filter", if key == "all" { "all" } else { &shown }),
                value: 2,
            },
        )
    } else {
        finding.fix(format!("add a route back to the source on {}: {way_back}", host.name()))
    }
}

/// As EgressGateway's agent writes it.
fn rule_of_mark(mark: u32, ipv6: bool) -> Rule {
    Rule { ipv6, priority: 99, action: TO_TABLE, table: mark, mark, mask: u32::MAX, ..Rule::default() }
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

/// The rule that comes before the one of the packet's mark, and leads to the table in use.
fn before<'h>(host: &'h Host, own: &Rule, asked: &Question, table: u32) -> Option<&'h Rule> {
    let mark = asked.mark.unwrap_or(0);
    host.evidence.rules.iter().find(|rule| {
        rule.priority <= own.priority
            && rule.table == table
            && *rule != own
            && rule.matches(asked.source.unwrap_or(asked.destination), asked.destination, mark)
    })
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
