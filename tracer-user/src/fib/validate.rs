// SPDX-License-Identifier: MIT OR Apache-2.0
//! Is the source of a packet that comes in believable? (net/ipv4/fib_frontend.c, `fib_validate_source`)

use std::net::{IpAddr, Ipv4Addr};

use super::flow::{Flow, Found, Run};
use super::ipv4::refuse;
use super::model::{Answer, Back, Decision, Martian, Outcome, Question, RefusedBy, Routed};
use super::tables::{Fib, Hops, LOOPBACK};
use crate::node::rtnl::Route;

const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// One possible verdict on a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceVerdict<'e> {
    pub verdict: Validity<'e>,
    pub assumes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Validity<'e> {
    Accepted,
    Martian(Martian<'e>),
    Unknown(String),
}

impl<'e> Fib<'e> {
    /// Whether the packet of `question` is taken when it comes in by `input`. More than one verdict: it depends on
    /// what is not known. IPv6 has no such check but for loopback and multicast sources.
    pub fn validate_source(&self, question: &Question, input: u32) -> Vec<SourceVerdict<'e>> {
        let question = Question { input: Some(input), ..question.clone() };
        let verdict = |outcome: Outcome<'e>| {
            let verdict = match outcome.decision {
                Decision::Refused(refusal) => match refusal.by {
                    RefusedBy::Source(martian) => Validity::Martian(martian),
                    _ => return self.verdicts(&question, self.received_by(input), 0),
                },
                Decision::Routed(_) => Validity::Accepted,
                Decision::Unknown(why) => Validity::Unknown(why),
            };
            vec![SourceVerdict { verdict, assumes: outcome.assumes }]
        };
        let Answer { outcomes } = self.lookup(&question);
        let mut out: Vec<_> = outcomes.into_iter().flat_map(verdict).collect();
        out.dedup();
        out
    }

    /// A port of a VRF gives its packets to the VRF.
    fn received_by(&self, input: u32) -> u32 {
        match self.vrf_of(input) {
            0 => input,
            vrf => vrf,
        }
    }

    /// The decision, unless the source is not accepted.
    pub(super) fn unless_martian(
        &self,
        question: &Question,
        device: u32,
        output: u32,
        to: Decision<'e>,
    ) -> Vec<Outcome<'e>> {
        let outcome = |decision, assumes| Outcome { decision, rule: None, passed: Vec::new(), assumes };
        let judge = |to: Decision<'e>, output: u32| {
            let verdicts = self.verdicts(question, device, output);
            let each = verdicts.into_iter().map(move |SourceVerdict { verdict, assumes }| match verdict {
                Validity::Accepted => outcome(to.clone(), assumes),
                Validity::Martian(why) => outcome(refuse(libc::EINVAL, RefusedBy::Source(why)), assumes),
                Validity::Unknown(why) => outcome(Decision::Unknown(why), assumes),
            });
            each.collect::<Vec<_>>()
        };
        // The way back is looked up as for a packet that comes in by the output device.
        let Decision::Routed(Routed { hops, .. }) = &to else { return judge(to, output) };
        let mut verdicts = hops.iter().map(|hop| self.verdicts(question, device, hop.ifindex));
        let first = verdicts.next();
        if output == 0 || verdicts.all(|other| Some(&other) == first.as_ref()) {
            return judge(to, output);
        }
        let mut out = Vec::new();
        for hop in hops.clone() {
            let Decision::Routed(routed) = &to else { continue };
            let one = Routed { hops: vec![hop], ..routed.clone() };
            out.extend(judge(Decision::Routed(one), hop.ifindex).into_iter().map(|mut one| {
                one.assumes.push(format!("the hash of the multipath route gives device {}", hop.ifindex));
                one
            }));
        }
        out
    }

    /// `output`: where the packet would go on, 0 when it is delivered here.
    fn verdicts(&self, question: &Question, device: u32, output: u32) -> Vec<SourceVerdict<'e>> {
        let source = question.source.unwrap_or(ANY);
        if source.is_ipv6() {
            return vec![SourceVerdict { verdict: Validity::Accepted, assumes: Vec::new() }];
        }
        let filter = self.either(device, "rp_filter");
        let full = self.full_check(question, device, output, filter);
        let redirects = device == output && self.either(device, "send_redirects") != 0;
        if filter != 0 || redirects {
            return full;
        }
        let quick = match () {
            () if self.either(device, "accept_local") != 0 => Validity::Accepted,
            () if self.has_custom_routing() => return full,
            () if self.from.addresses.iter().any(|own| own.address == source) => {
                Validity::Martian(Martian::Own)
            }
            () => Validity::Accepted,
        };
        if self.either(device, "accept_local") != 0 || full.iter().all(|v| v.verdict == quick) {
            return vec![SourceVerdict { verdict: quick, assumes: Vec::new() }];
        }
        let assumes = vec!["no ip rule and no route of table local was ever added by hand".to_owned()];
        let mut out = vec![SourceVerdict { verdict: quick, assumes }];
        out.extend(full.into_iter().map(|mut verdict| {
            verdict.assumes.push("an ip rule or a route of table local was once added by hand".to_owned());
            verdict
        }));
        out
    }

    /// The namespace has, to be seen, other rules or local routes than the kernel's own.
    fn has_custom_routing(&self) -> bool {
        const KERNEL: u8 = 2;
        let local = |route: &Route| {
            route.table == u32::from(libc::RT_TABLE_LOCAL)
                && !route.destination.is_ipv6()
                && route.protocol != KERNEL
                && route.protocol != 0
        };
        !super::flow::are_default(&self.rules4) || self.from.routes.iter().any(local)
    }

    /// `__fib_validate_source`.
    fn full_check(
        &self,
        question: &Question,
        device: u32,
        output: u32,
        filter: i64,
    ) -> Vec<SourceVerdict<'e>> {
        let flow = self.way_back(question, device, output);
        let mut out = Vec::new();
        for run in self.run(&flow) {
            let verdict = self.judge_back(device, filter, &run);
            if !out.iter().any(|v: &SourceVerdict<'_>| v.verdict == verdict) {
                out.push(SourceVerdict { verdict, assumes: run.assumes });
            }
        }
        if out.len() == 1 {
            out.iter_mut().for_each(|verdict| verdict.assumes.clear());
        }
        out
    }

    /// What is looked up for the source of a packet.
    pub(super) fn way_back(&self, question: &Question, device: u32, output: u32) -> Flow {
        let marked = self.either(device, "src_valid_mark") != 0;
        // To everybody on a link: the kernel leaves the address out.
        let to = question.destination;
        let broadcast =
            output == 0 && self.address_type(to, None).is_some_and(|kind| kind == libc::RTN_BROADCAST);
        let from = if broadcast { ANY } else { to };
        Flow {
            destination: question.source.unwrap_or(ANY),
            source: from,
            iif: if output == 0 { LOOPBACK } else { output },
            oif: 0,
            vrf: self.vrf_of(device),
            mark: if marked { question.mark } else { Some(0) },
            uid: Some(0),
            source_port: question.destination_port,
            destination_port: question.source_port,
            tunnel: Some(0),
            ..self.flow4(question, device)
        }
    }

    fn judge_back(&self, device: u32, filter: i64, run: &Run<'e>) -> Validity<'e> {
        let no_way = |refused| match filter {
            0 => Validity::Accepted,
            filter => Validity::Martian(Martian::NoWayBack { refused, filter }),
        };
        let hit = match &run.found {
            Found::Hit(hit) => hit,
            Found::RefusedByRule(_) => return no_way(run.rule.map(Back::Rule)),
            Found::RefusedByRoute(_, route) => return no_way(Some(Back::Route(route))),
            Found::Nothing => return no_way(None),
            Found::Unknown(why) => return Validity::Unknown(why.clone()),
        };
        let accept_local = self.either(device, "accept_local") != 0;
        match hit.route.kind {
            libc::RTN_UNICAST => {}
            libc::RTN_LOCAL if accept_local => {}
            libc::RTN_LOCAL => return Validity::Martian(Martian::Own),
            _ => return Validity::Martian(Martian::Kind(hit.route)),
        }
        if self.uses_device(hit.route, device)
            || hit.route.kind == libc::RTN_LOCAL && device == self.loopback()
        {
            return Validity::Accepted;
        }
        if self.own4(device).next().is_none() {
            return no_way(Some(Back::NoAddress));
        }
        if filter == 1 {
            return Validity::Martian(Martian::OtherDevice { back: Some(hit.route), filter });
        }
        Validity::Accepted
    }

    /// `fib_info_nh_uses_dev`: one of the route's hops is by the device, or by a port of the VRF that it is.
    pub(super) fn uses_device(&self, route: &Route, device: u32) -> bool {
        match self.hops_of(route) {
            Hops::Of(hops) => {
                hops.iter().any(|(hop, _)| hop.ifindex == device || self.vrf_of(hop.ifindex) == device)
            }
            _ => false,
        }
    }
}
