// SPDX-License-Identifier: MIT OR Apache-2.0
//! One run through the policy rules (net/core/fib_rules.c, `fib_rules_lookup`).

use std::net::IpAddr;

use super::model::{Passed, Selector, Selectors, Why};
use super::tables::{Fib, Hops};
use crate::node::rtnl::{Link, Route, Rule};

// FR_ACT_*, include/uapi/linux/fib_rules.h
pub(super) const TO_TABLE: u8 = 1;
const GOTO: u8 = 2;
const NOP: u8 = 3;
const UNREACHABLE: u8 = 7;
const PROHIBIT: u8 = 8;
const LOCAL: u32 = libc::RT_TABLE_LOCAL as u32;
const MAIN: u32 = libc::RT_TABLE_MAIN as u32;
const DEFAULT: u32 = libc::RT_TABLE_DEFAULT as u32;

/// More possibilities than these are not told apart.
const MAX_OUTCOMES: usize = 16;

/// What the kernel looks up (`struct flowi`). `None`: not known.
#[derive(Clone, Debug)]
pub(super) struct Flow {
    pub(super) destination: IpAddr,
    /// The unspecified address: none.
    pub(super) source: IpAddr,
    pub(super) iif: u32,
    pub(super) oif: u32,
    /// The VRF that the lookup is in.
    pub(super) vrf: u32,
    pub(super) mark: Option<u32>,
    pub(super) tos: Option<u8>,
    pub(super) uid: Option<u32>,
    pub(super) protocol: Option<u8>,
    pub(super) source_port: Option<u16>,
    pub(super) destination_port: Option<u16>,
    pub(super) flow_label: Option<u32>,
    /// Key of the tunnel it came by.
    pub(super) tunnel: Option<u64>,
    /// Routes by this device are better than others (IPv6); 0: by `oif`. Rules do not see it.
    pub(super) prefer: u32,
    /// Only routes by that device will do (IPv6, RT6_LOOKUP_F_IFACE).
    pub(super) strict: bool,
    /// Devices without carrier are as good as others (FIB_LOOKUP_IGNORE_LINKSTATE).
    pub(super) ignore_linkstate: bool,
}

impl Flow {
    pub(super) fn is_ipv6(&self) -> bool {
        self.destination.is_ipv6()
    }
}

/// What a run found.
#[derive(Clone, Debug)]
pub(super) struct Run<'e> {
    pub(super) found: Found<'e>,
    pub(super) rule: Option<&'e Rule>,
    pub(super) passed: Vec<Passed<'e>>,
    pub(super) assumes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found<'e> {
    Hit(Hit<'e>),
    /// By the rule itself, with this errno.
    RefusedByRule(i32),
    RefusedByRoute(i32, &'e Route),
    Nothing,
    Unknown(String),
}

/// A route that was found in a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hit<'e> {
    pub(super) route: &'e Route,
    /// The table that was asked.
    pub(super) table: u32,
    /// Those that can be used; never empty.
    pub(super) hops: Vec<(crate::node::rtnl::NextHop, u16)>,
    /// Routes as good as this one, of which the kernel takes one by what neighbours answer (IPv4 default routes).
    pub(super) rivals: Vec<&'e Route>,
}

/// What a table says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TableAnswer<'e> {
    Hit(Hit<'e>),
    Refused(i32, &'e Route),
    Throw(&'e Route),
    Nothing,
    Unknown(String),
}

enum Selection {
    Matches,
    Fails(Selectors),
    /// It depends on these.
    Depends(Selectors),
}

impl<'e> Fib<'e> {
    /// All that the kernel could find for the flow. Never empty.
    pub(super) fn run(&self, flow: &Flow) -> Vec<Run<'e>> {
        let mut flow = flow.clone();
        self.join_vrf(&mut flow);
        let rules = if flow.is_ipv6() { &self.rules6 } else { &self.rules4 };
        let mut out = Vec::new();
        if rules.is_empty() {
            out.push(self.without_rules(&flow));
            return out;
        }
        let start = Run { found: Found::Nothing, rule: None, passed: Vec::new(), assumes: Vec::new() };
        self.walk(rules, &flow, 0, start, &mut out);
        // As long as a namespace has the rules it was born with, IPv4 keeps the tables local and main in one trie, and
        // the longest prefix of both wins. Whether other rules ever existed is not to be seen.
        if !flow.is_ipv6() && are_default(rules) && out.len() == 1 {
            let merged = self.without_rules(&flow);
            if let Some(apart) = out.first_mut()
                && route_of(&merged.found) != route_of(&apart.found)
            {
                apart.assumes.push("there once was another ip rule".to_owned());
                let assumes = vec!["there never was another ip rule".to_owned()];
                out.push(Run { assumes, ..merged });
            }
        }
        out.dedup_by(|a, b| a.found == b.found && a.rule == b.rule && a.assumes == b.assumes);
        out
    }

    /// `l3mdev_update_flow`, net/l3mdev/l3mdev.c.
    fn join_vrf(&self, flow: &mut Flow) {
        if flow.oif != 0 && self.link(flow.oif).is_some() {
            if flow.vrf == 0 {
                flow.vrf = self.vrf_of(flow.oif);
            }
            if flow.vrf == flow.oif {
                flow.oif = 0;
            }
        } else if flow.iif != super::tables::LOOPBACK && flow.vrf == 0 {
            flow.vrf = self.vrf_of(flow.iif);
        }
    }

    fn without_rules(&self, flow: &Flow) -> Run<'e> {
        let ipv6 = flow.is_ipv6();
        let run = |found| Run { found, rule: None, passed: Vec::new(), assumes: Vec::new() };
        if !ipv6 {
            let main = self.ask(flow, &[LOCAL, MAIN]);
            return run(match (main, self.has_table(false, DEFAULT)) {
                (TableAnswer::Hit(hit), _) => Found::Hit(hit),
                (_, true) => found_in(self.ask(flow, &[DEFAULT])),
                (other, false) => found_in(other),
            });
        }
        match self.ask(flow, &[LOCAL]) {
            TableAnswer::Nothing | TableAnswer::Throw(_) => run(found_in(self.ask(flow, &[MAIN]))),
            other => run(found_in(other)),
        }
    }

    /// From the rule at `at` on.
    fn walk(&self, rules: &[&'e Rule], flow: &Flow, mut at: usize, mut run: Run<'e>, out: &mut Vec<Run<'e>>) {
        while let Some(rule) = rules.get(at).copied() {
            at += 1;
            let why = match self.select(rule, flow) {
                Selection::Matches => None,
                Selection::Fails(selectors) if selectors.is_empty() => Some(Why::Inverted),
                Selection::Fails(selectors) => Some(Why::Selectors(selectors)),
                Selection::Depends(selectors) => {
                    if out.len() + 1 >= MAX_OUTCOMES {
                        let why = format!("too many ip rules ask for what is not known ({selectors})");
                        run.found = Found::Unknown(why);
                        out.push(run);
                        return;
                    }
                    let about = format!("ip rule {} ({})", rule.priority, rule.selector());
                    let mut other = run.clone();
                    other.passed.push(Passed { rule, why: Why::Selectors(selectors) });
                    other.assumes.push(format!("{about} does not apply: {selectors}"));
                    run.assumes.push(format!("{about} applies: {selectors}"));
                    // The rule applies: on from what it does; it does not: from the next one.
                    self.walk(rules, flow, at, other, out);
                    None
                }
            };
            let why = why.or_else(|| self.act(rules, rule, flow, &mut at, &mut run, out));
            match why {
                Some(why) => run.passed.push(Passed { rule, why }),
                None => return,
            }
        }
        run.found = Found::Nothing;
        out.push(run);
    }

    /// Does what the rule says. `None`: it decided, and `run` is in `out`.
    fn act(
        &self,
        rules: &[&'e Rule],
        rule: &'e Rule,
        flow: &Flow,
        at: &mut usize,
        run: &mut Run<'e>,
        out: &mut Vec<Run<'e>>,
    ) -> Option<Why<'e>> {
        let found = match rule.action {
            GOTO => {
                let target = rule.goto.and_then(|to| rules.iter().position(|r| r.priority == to));
                return Some(match target.filter(|target| *target >= *at) {
                    Some(target) => {
                        *at = target;
                        Why::Goto
                    }
                    None => Why::Nop,
                });
            }
            NOP => return Some(Why::Nop),
            TO_TABLE => {
                let table = if rule.conditions.l3mdev { self.vrf_table(flow.vrf) } else { rule.table };
                match self.ask(flow, &[table]) {
                    TableAnswer::Nothing => return Some(Why::NoRoute { table }),
                    TableAnswer::Throw(route) => return Some(Why::Thrown(route)),
                    TableAnswer::Hit(hit) => {
                        if !self.source_fits(rule, flow, &hit) {
                            return Some(Why::SourceOfRoute);
                        }
                        match self.suppresses(rule, &hit) {
                            Some(true) => return Some(Why::Suppressed(hit.route)),
                            Some(false) => Found::Hit(hit),
                            None => Found::Unknown(format!(
                                "the hop that the hash takes decides whether ip rule {} passes over the route to {}",
                                rule.priority, hit.route.destination
                            )),
                        }
                    }
                    other => found_in(other),
                }
            }
            UNREACHABLE => Found::RefusedByRule(libc::ENETUNREACH),
            PROHIBIT => Found::RefusedByRule(libc::EACCES),
            _ => Found::RefusedByRule(libc::EINVAL),
        };
        let mut done = run.clone();
        (done.found, done.rule) = (found, Some(rule));
        out.push(done);
        None
    }

    fn vrf_table(&self, vrf: u32) -> u32 {
        self.link(vrf).and_then(|link: &Link| link.vrf_table).unwrap_or(0)
    }

    /// `fib4_rule_suppress`, `fib6_rule_suppress`: only what would be used is passed over, no refusal. `None`: it
    /// depends on the hop that a hash takes.
    fn suppresses(&self, rule: &Rule, hit: &Hit<'_>) -> Option<bool> {
        if rule.suppress_prefix_len.is_some_and(|most| u32::from(hit.route.destination.len()) <= most) {
            return Some(true);
        }
        let Some(wanted) = rule.suppress_ifgroup else { return Some(false) };
        let is = |ifindex: u32| self.link(ifindex).is_some_and(|link| link.group == wanted);
        if !hit.route.destination.is_ipv6() {
            // The route's first hop, whichever is used.
            let first = match self.hops_of(hit.route) {
                Hops::Of(hops) => hops.first().map(|(hop, _)| hop.ifindex),
                _ => None,
            };
            return Some(first.is_some_and(is));
        }
        let mut each = hit.hops.iter().map(|(hop, _)| is(hop.ifindex));
        let first = each.next()?;
        each.all(|other| other == first).then_some(first)
    }

    /// IPv6: a rule with a source that was not known is checked with the one that the route gives
    /// (`fib6_rule_saddr`).
    fn source_fits(&self, rule: &Rule, flow: &Flow, hit: &Hit<'_>) -> bool {
        let Some(wanted) =
            rule.source.filter(|_| rule.conditions.find_source && flow.source.is_unspecified())
        else {
            return true;
        };
        let device = hit.hops.first().map_or(0, |(hop, _)| hop.ifindex);
        self.select_source6(flow.destination, device).is_some_and(|source| wanted.contains(source))
    }

    fn select(&self, rule: &Rule, flow: &Flow) -> Selection {
        let (mut failed, mut unknown) = (Selectors::default(), Selectors::default());
        let mut check = |selector, holds: Option<bool>| match holds {
            Some(true) => {}
            Some(false) => failed.add(selector),
            None => unknown.add(selector),
        };
        let ipv6 = flow.is_ipv6();
        if let Some(name) = &rule.input {
            check(Selector::Input, Some(self.is_device(name, flow.iif, flow.vrf)));
        }
        if let Some(name) = &rule.output {
            check(Selector::Output, Some(self.is_device(name, flow.oif, flow.vrf)));
        }
        if rule.mask != 0 {
            check(Selector::Mark, flow.mark.map(|mark| (mark ^ rule.mark) & rule.mask == 0));
        }
        if let Some(wanted) = &rule.source {
            let deferred = ipv6 && flow.source.is_unspecified();
            let holds = if deferred { rule.conditions.find_source } else { wanted.contains(flow.source) };
            check(Selector::Source, Some(holds));
        }
        if let Some(wanted) = &rule.destination {
            check(Selector::Destination, Some(wanted.contains(flow.destination)));
        }
        let asked = &rule.conditions;
        if !asked.is_none() {
            if let Some(key) = asked.tunnel {
                check(Selector::Tunnel, flow.tunnel.map(|is| is == key));
            }
            if asked.l3mdev {
                check(Selector::Vrf, Some(self.vrf_table(flow.vrf) != 0));
            }
            if let Some((first, last)) = asked.users {
                check(Selector::User, flow.uid.map(|uid| (first..=last).contains(&uid)));
            }
            if asked.tos != 0 {
                // IPv4 compares the bits of RFC 1349 only.
                let mask = if ipv6 { 0xfc } else { 0x1c };
                check(Selector::Tos, flow.tos.map(|tos| tos & mask == asked.tos));
            }
            if let Some((dscp, mask)) = asked.dscp {
                check(Selector::Tos, flow.tos.map(|tos| ((tos >> 2) ^ dscp) & mask == 0));
            }
            if let Some(protocol) = asked.ip_proto {
                check(Selector::Protocol, flow.protocol.map(|is| is == protocol));
            }
            if let Some(ports) = asked.source_ports {
                check(Selector::SourcePort, flow.source_port.map(|port| ports.contain(port)));
            }
            if let Some(ports) = asked.destination_ports {
                check(Selector::DestinationPort, flow.destination_port.map(|port| ports.contain(port)));
            }
            if let Some((label, mask)) = asked.flow_label {
                check(Selector::FlowLabel, flow.flow_label.map(|is| (is ^ label) & mask == 0));
            }
            if !asked.unknown.is_empty() {
                check(Selector::Unread, None);
            }
        } else if !rule.more.is_empty() {
            // A recording of a program that kept the words only.
            check(Selector::Unread, None);
        }
        match (failed.is_empty(), unknown.is_empty(), rule.inverted) {
            (true, true, false) | (false, _, true) => Selection::Matches,
            (true, true, true) => Selection::Fails(Selectors::default()),
            (false, _, false) => Selection::Fails(failed),
            (true, false, _) => Selection::Depends(unknown),
        }
    }

    /// A name is bound to the device when the rule is made or the device appears. The name of a VRF stands for all
    /// its ports.
    fn is_device(&self, name: &str, ifindex: u32, vrf: u32) -> bool {
        let named = |ifindex: u32| self.link(ifindex).filter(|link| link.name == name);
        named(ifindex).is_some_and(|link| !link.is_kind("vrf")) || named(vrf).is_some()
    }

    /// The tables, looked up as one: the longest prefix, of equal ones that of the first table.
    fn ask(&self, flow: &Flow, tables: &[u32]) -> TableAnswer<'e> {
        if flow.is_ipv6() { self.ask6(flow, tables) } else { self.ask4(flow, tables) }
    }
}

fn found_in(answer: TableAnswer<'_>) -> Found<'_> {
    match answer {
        TableAnswer::Hit(hit) => Found::Hit(hit),
        TableAnswer::Refused(errno, route) => Found::RefusedByRoute(errno, route),
        TableAnswer::Throw(_) | TableAnswer::Nothing => Found::Nothing,
        TableAnswer::Unknown(why) => Found::Unknown(why),
    }
}

/// The route that decided, for comparison.
fn route_of<'e>(found: &Found<'e>) -> Option<&'e Route> {
    match found {
        Found::Hit(hit) => Some(hit.route),
        Found::RefusedByRoute(_, route) => Some(route),
        _ => None,
    }
}

/// Those that every namespace is born with.
pub(super) fn are_default(rules: &[&Rule]) -> bool {
    let plain = |rule: &Rule, priority: u32, table: u32| {
        let fresh = Rule { priority, table, action: TO_TABLE, protocol: rule.protocol, ..Rule::default() };
        *rule == fresh
    };
    match rules {
        [local, main, default] => {
            plain(local, 0, LOCAL) && plain(main, 32766, MAIN) && plain(default, 32767, DEFAULT)
        }
        [local, main] => plain(local, 0, LOCAL) && plain(main, 32766, MAIN),
        _ => false,
    }
}
