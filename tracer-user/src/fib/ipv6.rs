// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lookups of IPv6: a table, a packet that is sent, a packet that comes in (net/ipv6/route.c).
//!
//! Taken for granted: CONFIG_IPV6_ROUTER_PREF and CONFIG_IPV6_SUBTREES, as distributions build their kernels, and that
//! no router's route has run out since it was read.

use std::net::{IpAddr, Ipv6Addr};

use super::flow::{Flow, Found, Hit, Run, TableAnswer};
use super::ipv4::{decided, error_of, plain, refuse, refused, unknown};
use super::model::{Answer, Decision, Hop, Martian, Outcome, Question, RefusedBy};
use super::tables::{Fib, Hops, LOOPBACK};
use crate::node::IpPrefix;
use crate::node::rtnl::{NextHop, Route};

const NUD_FAILED: u16 = 0x20;
const ANY: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// What is found among the routes of one prefix.
enum Best<'e> {
    Route(&'e Route, NextHop),
    Blackhole(&'e Route),
    Unread(&'e Route, u32),
}

impl<'e> Fib<'e> {
    /// `fib6_table_lookup`.
    pub(super) fn ask6(&self, flow: &Flow, tables: &[u32]) -> TableAnswer<'e> {
        // A host that does not forward leaves routers alone that do not answer, while there are others.
        let host = self.all(true, "forwarding") == 0;
        let rounds: &[bool] = if host { &[true, false] } else { &[false] };
        for reachable in rounds {
            for table in tables {
                let mut descended = false;
                for run in self.candidates(*table, flow.destination) {
                    // A prefix that has routes for certain sources only counts for those when the tree is descended:
                    // its other routes are found on the way back up, if a longer prefix was there at all. The root of
                    // the tree is where the way ends.
                    let fits = |from: Option<IpPrefix>| from.is_some_and(|from| from.contains(flow.source));
                    let by_source = run
                        .first()
                        .is_some_and(|route| route.from.is_some() && !route.destination.is_empty());
                    if by_source && !descended && !run.iter().any(|route| fits(route.from)) {
                        continue;
                    }
                    descended = true;
                    for node in run.chunk_by(|a, b| a.from == b.from) {
                        let from = node.first().and_then(|route| route.from);
                        if (from.is_none() || fits(from))
                            && let Some(best) = self.select6(flow, node, *reachable)
                        {
                            return self.answer6(flow, *table, best, *reachable);
                        }
                    }
                }
            }
        }
        TableAnswer::Nothing
    }

    /// `rt6_select`: the lowest metric that has a usable route; among equals by preference and device.
    fn select6(&self, flow: &Flow, node: &[&'e Route], reachable: bool) -> Option<Best<'e>> {
        let metric = node.first()?.priority;
        let split = node.partition_point(|route| route.priority == metric);
        let (first, rest) = node.split_at(split);
        self.best_of(flow, first, reachable).or_else(|| self.best_of(flow, rest, reachable))
    }

    fn best_of(&self, flow: &Flow, routes: &[&'e Route], reachable: bool) -> Option<Best<'e>> {
        let mut best: Option<(u8, Best<'e>)> = None;
        for route in routes.iter().copied().filter(|route| !is_null_entry(route)) {
            let hops = match self.hops_of(route) {
                Hops::Of(hops) => hops,
                Hops::Blackhole => return Some(Best::Blackhole(route)),
                Hops::Unread(id) => return Some(Best::Unread(route, id)),
            };
            for (hop, _) in &hops {
                if !self.usable(route, hop, flow.ignore_linkstate) {
                    continue;
                }
                let Some(score) = self.score(flow, route, hop, reachable) else { continue };
                if best.as_ref().is_none_or(|(most, _)| score > *most) {
                    best = Some((score, Best::Route(route, *hop)));
                }
                // The members of a group are tried until one will do.
                if route.nexthop_id.is_some() {
                    break;
                }
            }
        }
        best.map(|(_, best)| best)
    }

    /// `rt6_score_route`. `None`: it will not do.
    fn score(&self, flow: &Flow, route: &Route, hop: &NextHop, reachable: bool) -> Option<u8> {
        let device = if flow.prefer != 0 { flow.prefer } else { flow.oif };
        let by_device = device == 0 || hop.ifindex == device;
        if !by_device && flow.strict {
            return None;
        }
        if reachable
            && let Some(gateway) = hop.gateway
            && self
                .from
                .neighbours
                .iter()
                .any(|n| n.ifindex == hop.ifindex && n.address == gateway && n.state & NUD_FAILED != 0)
        {
            return None;
        }
        // Medium is 0 and high 1, low is 3: in this order with the upper bit turned round.
        Some(((route.preference ^ 2) & 3) << 2 | if by_device { 2 } else { 0 })
    }

    fn answer6(&self, flow: &Flow, table: u32, best: Best<'e>, reachable: bool) -> TableAnswer<'e> {
        let (route, hop) = match best {
            Best::Route(route, hop) => (route, hop),
            Best::Blackhole(route) => return TableAnswer::Refused(libc::EINVAL, route),
            Best::Unread(route, id) => {
                return TableAnswer::Unknown(format!(
                    "the next hop object {id} of the route to {} was not read",
                    route.destination
                ));
            }
        };
        match error_of(route.kind) {
            Some(libc::EAGAIN) => return TableAnswer::Throw(route),
            Some(errno) => return TableAnswer::Refused(errno, route),
            None => {}
        }
        let Hops::Of(all) = self.hops_of(route) else { return TableAnswer::Nothing };
        let mut hops: Vec<_> = all
            .into_iter()
            .filter(|(hop, _)| {
                self.usable(route, hop, flow.ignore_linkstate)
                    && self.score(flow, route, hop, reachable).is_some()
            })
            .collect();
        if hops.is_empty() {
            hops.push((hop, 1));
        }
        // The best one first.
        if let Some(at) = hops.iter().position(|(is, _)| *is == hop) {
            hops.swap(0, at);
        }
        TableAnswer::Hit(Hit { route, table, hops, rivals: Vec::new() })
    }

    fn flow6(&self, question: &Question, iif: u32, oif: u32) -> Flow {
        let to = question.destination;
        let any_source = question.source.is_none();
        Flow {
            source: question.source.unwrap_or(ANY),
            oif,
            strict: needs_device(to) || question.input.is_none() && oif != 0 && any_source,
            ..self.flow4(question, iif)
        }
    }

    /// `ip6_route_output_flags`.
    pub(super) fn output6(&self, question: &Question) -> Answer<'e> {
        let to = question.destination;
        let output = question.output.unwrap_or(0);
        if output != 0 && self.link(output).is_none() {
            return refused(libc::ENODEV, RefusedBy::Device);
        }
        if output != 0 && self.vrf_of(output) != 0 && (to.is_multicast() || is_link_local(to)) {
            return unknown("link-local destinations within a VRF are not looked up here");
        }
        let flow = self.flow6(question, LOOPBACK, output);
        let runs = self.run(&flow);
        Answer { outcomes: runs.into_iter().map(|run| self.outcome6(question, &flow, run, false)).collect() }
    }

    /// `ip6_rcv_core`, `ip6_route_input`, `ip6_forward`.
    pub(super) fn input6(&self, question: &Question, input: u32) -> Answer<'e> {
        let to = question.destination;
        let from = question.source.unwrap_or(ANY);
        let vrf = self.vrf_of(input);
        let device = if vrf != 0 { vrf } else { input };
        let martian = |why| refused(libc::EINVAL, RefusedBy::Source(why));
        if to.is_multicast() {
            return unknown("multicast: which groups the host has joined is not read");
        }
        if vrf != 0 && is_link_local(to) {
            return unknown("link-local destinations within a VRF are not looked up here");
        }
        if from.is_multicast() {
            return martian(Martian::Invalid);
        }
        if !self.link(device).is_some_and(|link| link.is_loopback() || link.is_kind("vrf")) {
            if to.is_loopback() {
                return refused(libc::EINVAL, RefusedBy::Destination);
            }
            if from.is_loopback() {
                return martian(Martian::Loopback);
            }
        }
        // Routes by the device that it came in by are better; but rules see no output device.
        let flow = Flow { source: from, prefer: device, ..self.flow6(question, device, 0) };
        let runs = self.run(&flow);
        Answer { outcomes: runs.into_iter().map(|run| self.outcome6(question, &flow, run, true)).collect() }
    }

    pub(super) fn plain6(&self, question: &Question, iif: u32) -> Answer<'e> {
        let flow = Flow {
            prefer: question.input.unwrap_or(0),
            ..self.flow6(question, iif, question.output.unwrap_or(0))
        };
        let runs = self.run(&flow);
        Answer { outcomes: runs.into_iter().map(|run| self.outcome6(question, &flow, run, false)).collect() }
    }

    fn outcome6(&self, question: &Question, flow: &Flow, run: Run<'e>, input: bool) -> Outcome<'e> {
        let decision = match run.found {
            Found::Hit(hit) => self.decide6(question, flow, &hit, input),
            Found::RefusedByRule(errno) => {
                refuse(errno, run.rule.map_or(RefusedBy::NoRoute, RefusedBy::Rule))
            }
            Found::RefusedByRoute(errno, route) => refuse(errno, RefusedBy::Route(route)),
            Found::Nothing => refuse(libc::ENETUNREACH, RefusedBy::NoRoute),
            Found::Unknown(why) => Decision::Unknown(why),
        };
        Outcome { decision, rule: run.rule, passed: run.passed, assumes: run.assumes }
    }

    fn decide6(&self, question: &Question, flow: &Flow, hit: &Hit<'e>, input: bool) -> Decision<'e> {
        let route = hit.route;
        let to = flow.destination;
        if matches!(route.kind, libc::RTN_LOCAL | libc::RTN_ANYCAST) {
            let by = hit.hops.first().map_or(0, |(hop, _)| hop.ifindex);
            let vrf = self.vrf_of(by);
            let device = match vrf {
                0 => self.loopback(),
                _ if needs_device(route.destination.address()) => by,
                vrf => vrf,
            };
            let source =
                question.source.or(route.source).or_else(|| self.select_source6(to, by)).filter(|_| !input);
            let hop = Hop { source, mtu: route.mtu, ..plain(device, None) };
            return decided(route.kind, Some(route), hit.table, vec![hop]);
        }
        if input && !to.is_multicast() && self.forwarding6_off() {
            return refuse(libc::EHOSTUNREACH, RefusedBy::ForwardingOff);
        }
        let hop = |(hop, weight): &(NextHop, u16)| {
            let exception = self.exception(to, hit.table, hop.ifindex);
            let learned = exception.and_then(|e| e.next_hops.first()).and_then(|hop| hop.gateway);
            let source = question
                .source
                .or(route.source)
                .or_else(|| self.select_source6(to, hop.ifindex))
                .filter(|_| !input);
            Hop {
                ifindex: hop.ifindex,
                gateway: learned.or(hop.gateway),
                source,
                mtu: exception.map(|e| e.mtu).filter(|mtu| *mtu != 0).unwrap_or(route.mtu),
                weight: *weight,
                encap: hop.encap,
                exception,
            }
        };
        decided(route.kind, Some(route), hit.table, hit.hops.iter().map(hop).collect())
    }

    fn forwarding6_off(&self) -> bool {
        self.from.sysctls.get("net/ipv6/conf/all/forwarding").is_some_and(|value| value == "0")
    }
}

/// What is in every table's place when it has nothing; some kernels list it.
fn is_null_entry(route: &Route) -> bool {
    route.kind == libc::RTN_UNREACHABLE && route.destination.is_empty() && route.priority == u32::MAX
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(a) if a.is_unicast_link_local())
}

/// `rt6_need_strict`: the address means something else on every link.
fn needs_device(address: IpAddr) -> bool {
    address.is_multicast() || address.is_loopback() || is_link_local(address)
}
