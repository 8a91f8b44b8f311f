// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lookups of IPv4: a table (net/ipv4/fib_trie.c), a packet that is sent, a packet that comes in (net/ipv4/route.c).

use std::net::{IpAddr, Ipv4Addr};

use super::flow::{Flow, Found, Hit, Run, TableAnswer};
use super::model::{Answer, Decision, Hop, Outcome, Question, Refusal, RefusedBy, Routed};
use super::tables::{Fib, Hops, LOOPBACK};
use crate::node::rtnl::{NextHop, Route};

const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// What a route of this kind says instead of leading somewhere (`fib_props`).
pub(super) fn error_of(kind: u8) -> Option<i32> {
    match kind {
        libc::RTN_BLACKHOLE | libc::RTN_NAT | libc::RTN_XRESOLVE => Some(libc::EINVAL),
        libc::RTN_UNREACHABLE => Some(libc::EHOSTUNREACH),
        libc::RTN_PROHIBIT => Some(libc::EACCES),
        libc::RTN_THROW => Some(libc::EAGAIN),
        _ => None,
    }
}

impl<'e> Fib<'e> {
    /// `fib_table_lookup`; of several tables as if they were one trie.
    pub(super) fn ask4(&self, flow: &Flow, tables: &[u32]) -> TableAnswer<'e> {
        let mut each: Vec<_> =
            tables.iter().map(|table| self.candidates(*table, flow.destination).peekable()).collect();
        // Prefixes with the same first address are one leaf of the trie: a next hop object that will not do ends the
        // search in all of them.
        let mut missed = None;
        loop {
            let longest = each
                .iter_mut()
                .filter_map(|next| next.peek().and_then(|run| run.first()).map(|r| r.destination.len()))
                .max();
            let Some(longest) = longest else { return TableAnswer::Nothing };
            let same = |run: &Vec<&Route>| run.first().is_some_and(|r| r.destination.len() == longest);
            for next in &mut each {
                let Some(run) = next.next_if(|run| same(run)) else { continue };
                let leaf = run.first().map(|route| route.destination.address());
                if missed.is_some() && leaf == missed {
                    continue;
                }
                match self.of_prefix4(flow, tables, &run) {
                    Ok(answer) => return answer,
                    Err(RouteMiss::Leaf) => missed = leaf,
                    Err(RouteMiss::Prefix) => {}
                }
            }
        }
    }

    /// Among the routes of one prefix, by type of service and metric.
    fn of_prefix4(
        &self,
        flow: &Flow,
        tables: &[u32],
        run: &[&'e Route],
    ) -> Result<TableAnswer<'e>, RouteMiss> {
        for (at, route) in run.iter().copied().enumerate() {
            if route.tos != 0 {
                match flow.tos {
                    None => {
                        return Ok(TableAnswer::Unknown(format!(
                            "the route to {} is for packets with tos {:#x} only, and the packet's is not known",
                            route.destination, route.tos
                        )));
                    }
                    Some(tos) if tos & 0x1c != route.tos => continue,
                    Some(_) => {}
                }
            }
            match error_of(route.kind) {
                Some(libc::EAGAIN) => return Ok(TableAnswer::Throw(route)),
                Some(errno) => return Ok(TableAnswer::Refused(errno, route)),
                None => {}
            }
            let hops = match self.hops_of(route) {
                Hops::Of(hops) => hops,
                Hops::Blackhole => return Ok(TableAnswer::Refused(libc::EINVAL, route)),
                Hops::Unread(id) => {
                    return Ok(TableAnswer::Unknown(format!(
                        "the next hop object {id} of the route to {} was not read",
                        route.destination
                    )));
                }
            };
            let good = |hop: &NextHop| {
                self.usable(route, hop, flow.ignore_linkstate) && (flow.oif == 0 || hop.ifindex == flow.oif)
            };
            let first = hops.iter().position(|(hop, _)| good(hop));
            let Some(first) = first else {
                // A route with a next hop object ends the search for its prefix.
                if route.nexthop_id.is_some() {
                    return Err(RouteMiss::Leaf);
                }
                continue;
            };
            // The hash takes the weights of hops that are up; the device that the sender is bound to does not matter
            // any more once one hop is by it.
            let mut usable: Vec<_> = hops
                .iter()
                .filter(|(hop, _)| self.usable(route, hop, flow.ignore_linkstate))
                .copied()
                .collect();
            if flow.oif != 0 {
                usable = hops.get(first).copied().into_iter().collect();
            }
            let table = tables.first().copied().unwrap_or_default();
            let table = if tables.len() > 1 { route.table } else { table };
            let rivals =
                if usable.len() == 1 { self.rivals(flow, route, run.get(at + 1..)) } else { Vec::new() };
            return Ok(TableAnswer::Hit(Hit { route, table, hops: usable, rivals }));
        }
        Err(RouteMiss::Prefix)
    }

    /// Other default routes of the same metric: the kernel turns to one whose gateway answers
    /// (`fib_select_default`).
    fn rivals(&self, flow: &Flow, route: &Route, rest: Option<&[&'e Route]>) -> Vec<&'e Route> {
        if !route.destination.is_empty() || flow.oif != 0 || route.kind != libc::RTN_UNICAST {
            return Vec::new();
        }
        let gateway = |r: &Route| r.next_hops.first().is_some_and(|hop| hop.gateway.is_some());
        if !gateway(route) {
            return Vec::new();
        }
        let rest = rest.unwrap_or_default().iter().copied();
        rest.take_while(|r| r.priority == route.priority && r.tos == route.tos)
            .filter(|r| r.kind == route.kind && r.scope == route.scope && gateway(r))
            .filter(|r| r.next_hops.iter().any(|hop| self.usable(r, hop, false)))
            .collect()
    }

    pub(super) fn flow4(&self, question: &Question, iif: u32) -> Flow {
        Flow {
            destination: question.destination,
            source: question.source.unwrap_or(ANY),
            iif,
            oif: 0,
            vrf: 0,
            mark: question.mark,
            tos: question.tos,
            // What is forwarded belongs to the root of the namespace.
            uid: if question.input.is_some() { Some(0) } else { question.uid },
            protocol: question.protocol,
            source_port: question.source_port,
            destination_port: question.destination_port,
            flow_label: question.flow_label,
            tunnel: if question.input.is_some() { None } else { Some(0) },
            prefer: 0,
            strict: false,
            ignore_linkstate: false,
        }
    }

    /// `ip_route_output_key_hash_rcu`.
    pub(super) fn output4(&self, question: &Question) -> Answer<'e> {
        let to = question.destination;
        let mut flow = self.flow4(question, LOOPBACK);
        if let Some(source) = question.source {
            if source.is_multicast() || is_broadcast(source) || is_zeronet(source) {
                return refused(libc::EINVAL, RefusedBy::ForeignSource);
            }
            if !self.is_own4(source) {
                return refused(libc::EINVAL, RefusedBy::ForeignSource);
            }
            if question.output.is_none()
                && (to.is_multicast() || is_broadcast(to))
                && let Some(device) = self.device_of(source)
            {
                return self.on_link4(question, device);
            }
        }
        if let Some(output) = question.output {
            if self.link(output).is_none() {
                return refused(libc::ENODEV, RefusedBy::Device);
            }
            if !self.is_up(output) {
                return refused(libc::ENETUNREACH, RefusedBy::Device);
            }
            if is_local_multicast(to) || is_broadcast(to) || question.protocol == Some(IGMP) {
                return self.on_link4(question, output);
            }
            flow.oif = output;
        }
        if to.is_unspecified() {
            flow.destination = question.source.unwrap_or(Ipv4Addr::LOCALHOST.into());
            let hop = Hop { source: Some(flow.destination), ..plain(self.loopback(), None) };
            return routed(libc::RTN_LOCAL, None, 0, vec![hop]);
        }
        let runs = self.run(&flow);
        Answer { outcomes: runs.into_iter().flat_map(|run| self.output_of4(question, &flow, run)).collect() }
    }

    fn output_of4(&self, question: &Question, flow: &Flow, run: Run<'e>) -> Vec<Outcome<'e>> {
        let (rule, passed, assumes) = (run.rule, run.passed, run.assumes);
        let mut out = Vec::new();
        let mut push = |decision, more: Option<String>| {
            let assumes = assumes.iter().cloned().chain(more).collect();
            out.push(Outcome { decision, rule, passed: passed.clone(), assumes });
        };
        match run.found {
            Found::Hit(hit) if hit.route.kind == libc::RTN_LOCAL => {
                let source = question.source.or(hit.route.source).or(Some(flow.destination));
                let device = hit.hops.first().map_or(0, |(hop, _)| hop.ifindex);
                let vrf = self.vrf_of(device);
                let device = if vrf != 0 { vrf } else { self.loopback() };
                let hop = Hop { source, mtu: hit.route.mtu, ..plain(device, None) };
                push(decided(libc::RTN_LOCAL, Some(hit.route), hit.table, vec![hop]), None);
            }
            Found::Hit(hit) => {
                let several = !hit.rivals.is_empty();
                let about = |route: &Route| {
                    several.then(|| {
                        format!(
                            "of the default routes of metric {} that by {} is used",
                            route.priority,
                            route
                                .next_hops
                                .first()
                                .and_then(|h| h.gateway)
                                .map_or_else(String::new, |g| g.to_string())
                        )
                    })
                };
                for route in std::iter::once(hit.route).chain(hit.rivals.iter().copied()) {
                    let hops = if std::ptr::eq(route, hit.route) {
                        hit.hops.clone()
                    } else {
                        route.next_hops.iter().map(|hop| (*hop, 1)).collect()
                    };
                    let hops: Vec<_> =
                        hops.iter().map(|hop| self.hop4(question, flow, route, hit.table, *hop)).collect();
                    let kind = match flow.destination {
                        to if is_broadcast(to) => libc::RTN_BROADCAST,
                        to if to.is_multicast() => libc::RTN_MULTICAST,
                        _ => route.kind,
                    };
                    let decision = match hops.iter().any(|hop| self.leaks_loopback(hop)) {
                        true => refuse(libc::EINVAL, RefusedBy::ForeignSource),
                        false if is_zeronet(flow.destination) => refuse(libc::EINVAL, RefusedBy::Destination),
                        false => decided(kind, Some(route), hit.table, hops),
                    };
                    push(decision, about(route));
                }
            }
            Found::RefusedByRule(errno) => {
                let by = rule.map_or(RefusedBy::NoRoute, RefusedBy::Rule);
                push(self.or_on_link(question, errno, by), None);
            }
            Found::RefusedByRoute(errno, route) => {
                push(self.or_on_link(question, errno, RefusedBy::Route(route)), None);
            }
            Found::Nothing => push(self.or_on_link(question, libc::ENETUNREACH, RefusedBy::NoRoute), None),
            Found::Unknown(why) => push(Decision::Unknown(why), None),
        }
        out
    }

    pub(super) fn plain4(&self, question: &Question, iif: u32) -> Answer<'e> {
        let flow = Flow { oif: question.output.unwrap_or(0), ..self.flow4(question, iif) };
        let decide = |run: Run<'e>| {
            let decision = match run.found {
                Found::Hit(hit) => {
                    let hop = |hop: &(NextHop, u16)| self.hop4(question, &flow, hit.route, hit.table, *hop);
                    decided(hit.route.kind, Some(hit.route), hit.table, hit.hops.iter().map(hop).collect())
                }
                Found::RefusedByRule(errno) => {
                    refuse(errno, run.rule.map_or(RefusedBy::NoRoute, RefusedBy::Rule))
                }
                Found::RefusedByRoute(errno, route) => refuse(errno, RefusedBy::Route(route)),
                Found::Nothing => refuse(libc::ENETUNREACH, RefusedBy::NoRoute),
                Found::Unknown(why) => Decision::Unknown(why),
            };
            Outcome { decision, rule: run.rule, passed: run.passed, assumes: run.assumes }
        };
        Answer { outcomes: self.run(&flow).into_iter().map(decide).collect() }
    }

    /// A sender bound to a device needs no route: the kernel takes the destination to be on that link.
    fn or_on_link(&self, question: &Question, errno: i32, by: RefusedBy<'e>) -> Decision<'e> {
        match question.output {
            Some(output) if question.destination.is_multicast() || self.vrf_of(output) == 0 => {
                let source =
                    question.source.or_else(|| self.select_source4(output, None, libc::RT_SCOPE_LINK));
                let hop = Hop { source, ..plain(output, None) };
                decided(libc::RTN_UNICAST, None, 0, vec![hop])
            }
            _ => refuse(errno, by),
        }
    }

    /// To everybody on a link.
    fn on_link4(&self, question: &Question, device: u32) -> Answer<'e> {
        let kind =
            if question.destination.is_multicast() { libc::RTN_MULTICAST } else { libc::RTN_BROADCAST };
        let source = question.source.or_else(|| self.select_source4(device, None, libc::RT_SCOPE_LINK));
        routed(kind, None, 0, vec![Hop { source, ..plain(device, None) }])
    }

    fn hop4(
        &self,
        question: &Question,
        flow: &Flow,
        route: &'e Route,
        table: u32,
        (hop, weight): (NextHop, u16),
    ) -> Hop<'e> {
        let to = flow.destination;
        let source = question.source.or(route.source).or_else(|| {
            let vrf = self.vrf_of(hop.ifindex);
            if vrf != 0 && vrf != flow.vrf && flow.vrf != 0 {
                return self.select_source4(vrf, None, libc::RT_SCOPE_LINK);
            }
            let gateway = hop.gateway.filter(IpAddr::is_ipv4);
            self.select_source4(hop.ifindex, gateway, route.scope)
        });
        let exception = Some(route)
            .filter(|route| route.kind == libc::RTN_UNICAST)
            .and_then(|_| self.exception(to, table, hop.ifindex));
        let learned = exception.and_then(|e| e.next_hops.first()).and_then(|hop| hop.gateway);
        Hop {
            ifindex: hop.ifindex,
            gateway: learned.or(hop.gateway),
            source,
            mtu: exception.map(|e| e.mtu).filter(|mtu| *mtu != 0).unwrap_or(route.mtu),
            weight,
            encap: hop.encap,
            exception,
        }
    }

    /// A loopback address would leave by another device.
    fn leaks_loopback(&self, hop: &Hop<'_>) -> bool {
        let link = self.link(hop.ifindex);
        hop.source.is_some_and(|source| source.is_loopback())
            && link.is_some_and(|link| !link.is_loopback() && !link.is_kind("vrf"))
            && self.either(hop.ifindex, "route_localnet") == 0
    }

    /// `ip_route_input_slow`.
    pub(super) fn input4(&self, question: &Question, input: u32) -> Answer<'e> {
        use super::model::Martian;
        let to = question.destination;
        let from = question.source.unwrap_or(ANY);
        // What comes in by a port of a VRF comes in by the VRF for all that follows.
        let vrf = self.vrf_of(input);
        let device = if vrf != 0 { vrf } else { input };
        let martian = |why| refused(libc::EINVAL, RefusedBy::Source(why));
        if to.is_multicast() {
            return unknown("multicast: which groups the host has joined is not read");
        }
        if from.is_multicast() || is_broadcast(from) {
            return martian(Martian::Invalid);
        }
        let everybody = is_broadcast(to) || from.is_unspecified() && to.is_unspecified();
        if !everybody {
            if is_zeronet(from) {
                return martian(Martian::Invalid);
            }
            if is_zeronet(to) {
                return refused(libc::EINVAL, RefusedBy::Destination);
            }
            if self.either(device, "route_localnet") == 0 {
                if to.is_loopback() {
                    return refused(libc::EINVAL, RefusedBy::Destination);
                }
                if from.is_loopback() {
                    return martian(Martian::Loopback);
                }
            }
        }
        if everybody {
            let outcomes = self.broadcast_in(question, device, None, 0);
            return Answer { outcomes };
        }
        let flow = Flow { iif: device, ..self.flow4(question, device) };
        let mut outcomes = Vec::new();
        for run in self.run(&flow) {
            let (rule, passed, assumes) = (run.rule, run.passed.clone(), run.assumes.clone());
            for mut outcome in self.input_of4(question, device, run) {
                outcome.rule = rule;
                outcome.passed.clone_from(&passed);
                outcome.assumes = assumes.iter().cloned().chain(outcome.assumes).collect();
                outcomes.push(outcome);
            }
        }
        Answer { outcomes }
    }

    fn input_of4(&self, question: &Question, device: u32, run: Run<'e>) -> Vec<Outcome<'e>> {
        let forwards = self.forwards4(device);
        let just = |decision| vec![Outcome { decision, rule: None, passed: Vec::new(), assumes: Vec::new() }];
        let no_way = |errno, by| {
            if forwards { refuse(errno, by) } else { refuse(libc::EHOSTUNREACH, RefusedBy::ForwardingOff) }
        };
        match run.found {
            Found::Hit(hit) if hit.route.kind == libc::RTN_BROADCAST => {
                if self.own(false, device, "bc_forwarding") != 0 && self.all(false, "bc_forwarding") != 0 {
                    return self.forward4(question, device, &hit);
                }
                self.broadcast_in(question, device, Some(hit.route), hit.table)
            }
            Found::Hit(hit) if hit.route.kind == libc::RTN_LOCAL => {
                let hop = Hop { mtu: hit.route.mtu, ..plain(self.local_device(&hit), None) };
                let to = decided(libc::RTN_LOCAL, Some(hit.route), hit.table, vec![hop]);
                self.unless_martian(question, device, 0, to)
            }
            Found::Hit(_) if !forwards => just(refuse(libc::EHOSTUNREACH, RefusedBy::ForwardingOff)),
            Found::Hit(hit) if hit.route.kind != libc::RTN_UNICAST => {
                just(refuse(libc::EINVAL, RefusedBy::Destination))
            }
            Found::Hit(hit) => self.forward4(question, device, &hit),
            Found::RefusedByRule(errno) => {
                just(no_way(errno, run.rule.map_or(RefusedBy::NoRoute, RefusedBy::Rule)))
            }
            Found::RefusedByRoute(errno, route) => just(no_way(errno, RefusedBy::Route(route))),
            Found::Nothing => just(no_way(libc::ENETUNREACH, RefusedBy::NoRoute)),
            Found::Unknown(why) => just(Decision::Unknown(why)),
        }
    }

    /// A device that was not read is taken to forward.
    fn forwards4(&self, device: u32) -> bool {
        let name = self.link(device).map_or("", |link| link.name.as_str());
        let own = self.from.sysctls.get(&format!("net/ipv4/conf/{name}/forwarding"));
        own.or_else(|| self.from.sysctls.get("net/ipv4/ip_forward")).is_none_or(|value| value != "0")
    }

    pub(super) fn local_device(&self, hit: &Hit<'_>) -> u32 {
        let vrf = hit.hops.first().map_or(0, |(hop, _)| self.vrf_of(hop.ifindex));
        if vrf != 0 { vrf } else { self.loopback() }
    }

    fn forward4(&self, question: &Question, device: u32, hit: &Hit<'e>) -> Vec<Outcome<'e>> {
        // Only a packet of this host looks for a default route that works.
        let flow = self.flow4(question, device);
        let hops: Vec<_> =
            hit.hops.iter().map(|hop| self.hop4(question, &flow, hit.route, hit.table, *hop)).collect();
        let output = hops.first().map_or(0, |hop| hop.ifindex);
        self.unless_martian(
            question,
            device,
            output,
            decided(hit.route.kind, Some(hit.route), hit.table, hops),
        )
    }

    fn broadcast_in(
        &self,
        question: &Question,
        device: u32,
        route: Option<&'e Route>,
        table: u32,
    ) -> Vec<Outcome<'e>> {
        let to = decided(libc::RTN_BROADCAST, route, table, vec![plain(self.loopback(), None)]);
        if question.source.is_none_or(is_zeronet) {
            return vec![Outcome { decision: to, rule: None, passed: Vec::new(), assumes: Vec::new() }];
        }
        self.unless_martian(question, device, 0, to)
    }
}

/// No route of a prefix will do.
enum RouteMiss {
    Prefix,
    /// Nor will those of other prefixes with the same first address.
    Leaf,
}

const IGMP: u8 = 2;

pub(super) fn plain<'e>(ifindex: u32, gateway: Option<IpAddr>) -> Hop<'e> {
    Hop { ifindex, gateway, source: None, mtu: 0, weight: 1, encap: 0, exception: None }
}

pub(super) fn decided<'e>(
    kind: u8,
    route: Option<&'e Route>,
    table: u32,
    hops: Vec<Hop<'e>>,
) -> Decision<'e> {
    Decision::Routed(Routed { kind, route, table, hops })
}

fn routed<'e>(kind: u8, route: Option<&'e Route>, table: u32, hops: Vec<Hop<'e>>) -> Answer<'e> {
    Answer::one(decided(kind, route, table, hops))
}

pub(super) fn refuse(errno: i32, by: RefusedBy<'_>) -> Decision<'_> {
    Decision::Refused(Refusal { errno, by })
}

pub(super) fn refused(errno: i32, by: RefusedBy<'_>) -> Answer<'_> {
    Answer::one(refuse(errno, by))
}

pub(super) fn unknown<'e>(why: &str) -> Answer<'e> {
    Answer::one(Decision::Unknown(why.to_owned()))
}

pub(super) fn is_broadcast(address: IpAddr) -> bool {
    address == IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// 0.0.0.0/8
pub(super) fn is_zeronet(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(a) if a.octets()[0] == 0)
}

/// 224.0.0.0/24
fn is_local_multicast(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(a) if a.octets()[..3] == [224, 0, 0])
}
