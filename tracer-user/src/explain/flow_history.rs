// SPDX-License-Identifier: MIT OR Apache-2.0
//! Causes that need several packets of one connection, or many connections.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::arp_watch::Askers;
use super::came_back::CameBack;
use super::compare::Opening;
use super::context::{Entry, Exit, Lookup, Risen, View};
use super::large_lost::{self, LargePackets};
use super::nat_detour::Translation;
use super::source_ports::Ports;
use super::tracking::TrackingHistory;
use super::unanswered::{self, ExpectedReplies, Receivers, Waiting};
use super::{application, egress, egress_policy_match, lost, mtu, no_reply, remote_errors};
use crate::cause::Certainty::{Certain, Likely};
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::cluster::egress::datapath::{SOURCE_SETS, is_node_mark};
use crate::firewall::NatKind;
use crate::flow::{Addr, Endpoint, Ends, Hop, Journey, Place};
use crate::node::{Hook, NetnsId};

/// Flows that are remembered.
const FLOWS: usize = 4096;
/// Connections redirected to one port within [`LOOP_NS`] that nobody makes on purpose.
const LOOP: usize = 40;
/// From a SYN to the RST that answers it, at most.
const RESET_NS: u64 = 5_000_000_000;
const LOOP_NS: u64 = 1_000_000_000;

/// What earlier packets of a flow showed.
#[derive(Debug, Default)]
pub(super) struct FlowState {
    /// The first packet of the forward direction was marked for a gateway.
    pub(super) first_marked: Option<(u32, NetnsId)>,
    /// Packets of the forward direction that got as far as we see.
    pub(super) sent: u32,
    pub(super) first_ns: u64,
    pub(super) answered: bool,
    /// Its SYN was seen.
    pub(super) syn: bool,
    /// A RST came as the first answer, from here at this time: journeys are not told in the order of their packets.
    pub(super) reset: Option<(Endpoint, u64, NetnsId)>,
    /// Where its destination was translated, from what to what.
    pub(super) translated: Option<(NetnsId, Endpoint, Endpoint)>,
    /// An ICMP error that was told before the packet it is about.
    pub(super) unreachable: Option<Box<Journey>>,
    /// Packets that were not seen again, though nothing was lost, after this place.
    pub(super) vanished: Option<(Hop, u32)>,
    /// A cause was named for it.
    pub(super) explained: bool,
    /// The last lookup of the forward direction.
    pub(super) last_lookup: Option<Lookup>,
    /// How packets of the forward direction were routed, by namespace.
    pub(super) routes: Vec<Lookup>,
    /// Its first packet that was translated by rules, or by its conntrack entry.
    pub(super) translation: Option<Translation>,
    /// The ends of the last packet of the forward direction, where it was seen last.
    pub(super) ends: Option<Ends>,
    /// It came by the egress tunnel into this namespace.
    pub(super) tunnelled_into: Option<Entry>,
    /// Routers that would rather have the packets sent to another one, on the same network.
    pub(super) redirected_by: Vec<Addr>,
    /// Drops of unknown cause: where, and how many.
    pub(super) dropped: Option<((NetnsId, u64), u32)>,
    /// The TTL that it was sent with.
    pub(super) ttl: u8,
    /// When the first answer to the SYN was seen.
    pub(super) first_answer_ns: Option<u64>,
    /// Where the last packet of the forward direction left a node without an outer header.
    pub(super) exit: Option<Exit>,
    pub(super) programs: application::Programs,
    /// How often a guess about it was held against the model.
    pub(super) guesses_held: u8,
    /// How it began here, for the model.
    pub(super) opening: Option<Opening>,
    /// Where its first packet was for.
    pub(super) asked: Option<Endpoint>,
    pub(super) tracking: Arc<TrackingHistory>,
    pub(super) large: [LargePackets; 2],
    /// What was heard after a request without an answer.
    pub(super) came_back: Vec<CameBack>,
}

/// Memory of the run, bounded.
#[derive(Debug, Default)]
pub(super) struct Connections {
    flows: HashMap<u32, FlowState>,
    /// Redirected connections by port: since when, and which.
    redirects: HashMap<u16, (u64, HashSet<u32>)>,
    pub(super) receivers: Receivers,
    expected: ExpectedReplies,
    /// Packets without answer so far.
    pub(super) unanswered: Waiting,
    /// When it was learned last that records were lost, CLOCK_MONOTONIC.
    lost_ns: Option<u64>,
    ports: Ports,
    /// Ways by an egress gateway that were held against the model.
    egress_paths: HashSet<egress::EgressPath>,
    pub(super) askers: Askers,
    /// By how much counters rose since the start.
    pub(super) counters: Arc<Risen>,
}

impl Connections {
    pub(super) fn flow(&mut self, flow: u32) -> &mut FlowState {
        if self.flows.len() >= FLOWS && !self.flows.contains_key(&flow) {
            self.flows.clear();
        }
        self.flows.entry(flow).or_default()
    }

    /// The first packet that takes this way.
    pub(super) fn first_on_path(&mut self, path: egress::EgressPath) -> bool {
        if self.egress_paths.len() >= FLOWS {
            self.egress_paths.clear();
        }
        self.egress_paths.insert(path)
    }

    /// How the flow began here.
    pub(super) fn opening(&self, flow: u32) -> Option<Opening> {
        self.flows.get(&flow)?.opening
    }

    /// Takes note of a journey, and tells what it shows together with earlier ones.
    pub(super) fn observe(&mut self, view: &View<'_>) -> Option<Finding> {
        let journey = view.journey;
        if let Some(icmp) = journey.packet.icmp_error {
            return self.icmp(view, icmp);
        }
        if let Some(flow) = self.expected.answered(journey) {
            let state = self.flow(flow);
            state.answered = true;
            let asked = state.asked;
            self.receivers.answered(journey, asked, true);
            self.unanswered.over(flow);
            self.askers.over(flow);
        }
        if journey.reply {
            let state = self.flow(journey.flow);
            if let Some(found) = lost::astray(view, state)
                && !state.explained
            {
                return Some(found);
            }
            let unheard = lost::unheard(view, state).or_else(|| lost::dropped_again(view, state));
            let refused = remote_errors::refused(view, state);
            self.flow(journey.flow).answered = true;
            self.unanswered.over(journey.flow);
            self.askers.over(journey.flow);
            let asked = self.flow(journey.flow).asked;
            self.receivers.answered(journey, asked, refused.is_none());
            return refused.or(unheard);
        }
        let marked = journey.hops.iter().find_map(|h| {
            let mark = h.mark_change?.to;
            is_node_mark(mark).then_some((mark, h.netns))
        });
        let lookup = view.lookups().rev().find(|l| !l.reverse && l.error == 0);
        let state = self.flow(journey.flow);
        for route in view.lookups().filter(|l| !l.reverse && l.error == 0 && l.ifindex != 0) {
            if !state.routes.iter().any(|known| known.netns == route.netns) {
                state.routes.push(route);
            }
        }
        if lookup.is_some() {
            state.last_lookup = lookup;
        }
        if let Some(exit) = view.bare_exit()
            && let Place::Device { ifindex, .. } = exit.place
        {
            state.exit = Some(Exit { netns: exit.netns, ifindex, ends: exit.ends });
        }
        let dnat = |h: &&Hop| h.nat.is_some_and(|n| matches!(n.kind, NatKind::Dnat | NatKind::Both));
        if let Some(hop) = journey.hops.iter().find(dnat)
            && let Some(nat) = hop.nat
        {
            state.translated = Some((hop.netns, nat.from.dst, hop.ends.dst));
        }
        if state.translation.is_none() {
            state.translation = Translation::of(view);
        }
        state.ends = journey.hops.last().map(|h| h.ends);
        state.ttl = journey.packet.ttl;
        state.tunnelled_into = state.tunnelled_into.or_else(|| egress::came_by_tunnel(view));
        let first = state.sent == 0;
        if first {
            state.asked = Some(journey.packet.ends.dst);
            state.first_ns = journey.start_ns;
            state.first_marked = marked;
        }
        // A copy was not sent by the sender.
        state.sent += u32::from(first || !view.is_copy());
        state.syn |= view.is_syn();
        if let Some((from, at, netns)) =
            state.reset.take_if(|(_, at, _)| view.is_syn() && journey.start_ns < *at)
            && at.saturating_sub(journey.start_ns) < RESET_NS
            && !state.explained
        {
            return Some(remote_errors::refuses(view, from, netns));
        }
        if let Some(error) = state.unreachable.take()
            && let Some(icmp) = error.packet.icmp_error
        {
            return self.icmp(&View { journey: &error, ..*view }, icmp);
        }
        let open = view.is_syn() && !state.answered;
        let first_mark = state.first_marked;
        if let Some(finding) = self.redirect_loop(view) {
            return Some(finding);
        }
        if let Some((mark, netns)) = first_mark
            && !first
            && marked.is_none()
            && view.bare_exit().is_some_and(|exit| exit.netns == netns)
            && journey
                .hops
                .iter()
                .any(|h| h.netns == netns && matches!(h.place, Place::Hook { hook: Hook::Prerouting, .. }))
        {
            return Some(only_first(view, mark));
        }
        if open {
            self.receivers.asked(journey);
        }
        let state = self.flow(journey.flow);
        if let Some(finding) = lost::vanished(view, state) {
            return Some(finding);
        }
        if let Some(finding) = lost::dropped_again(view, state) {
            return Some(finding);
        }
        if !state.answered && !state.explained {
            self.unanswered.sent(view);
            self.expected.expect(journey);
        }
        no_reply::explain(view, self)
    }

    /// Records were lost, or forgotten for lack of room: an answer may be among them.
    pub(super) fn lost(&mut self, now_ns: u64) {
        self.lost_ns = Some(now_ns);
    }

    /// All records since then are known.
    pub(super) fn sees_all_since(&self, ns: u64) -> bool {
        self.lost_ns.is_none_or(|lost| lost < ns)
    }

    /// What the programs at the ends do; not whether packets arrive.
    pub(super) fn programs(&mut self, view: &View<'_>) -> Option<Finding> {
        let state = self.flow(view.journey.flow);
        let large = &mut state.large[usize::from(view.journey.reply)];
        let found = large_lost::observe(view, large).filter(|_| !state.explained);
        found.or_else(|| application::observe(view, &mut state.programs)).or_else(|| self.ports.observe(view))
    }

    /// What is to be said of the programs at the ends of flows by now.
    pub(super) fn overdue(&mut self, now_ns: u64) -> Vec<(u32, Finding)> {
        let each = |(flow, state): (&u32, &mut FlowState)| {
            state.programs.overdue(now_ns).into_iter().map(|finding| (*flow, finding)).collect::<Vec<_>>()
        };
        self.flows.iter_mut().flat_map(each).collect()
    }

    /// Routers that sent redirects for a flow.
    pub(super) fn redirected_by(&self, flow: u32) -> &[Addr] {
        self.flows.get(&flow).map_or(&[], |state| &state.redirected_by)
    }

    /// What changed the packet, or the one that an ICMP error is about.
    pub(super) fn translation(&mut self, view: &View<'_>) -> Option<Translation> {
        match view.journey.packet.icmp_error {
            Some(_) => self.flow(view.journey.flow).translation.clone(),
            // Its beginning was told before.
            None if view.journey.resumed && !view.journey.reply => {
                self.flow(view.journey.flow).translation.clone()
            }
            None => Translation::of(view),
        }
    }

    /// By how much a counter of a namespace rose since the start.
    pub(super) fn counted(&self, netns: NetnsId, name: &str) -> u64 {
        self.counters.get(&netns).and_then(|all| all.get(name)).copied().unwrap_or(0)
    }

    /// An ICMP error about a packet of the flow.
    fn icmp(&mut self, view: &View<'_>, (icmp_type, code): (u8, u8)) -> Option<Finding> {
        let journey = view.journey;
        let ipv6 = journey.packet.ipv6;
        let too_big = matches!((ipv6, icmp_type, code), (false, 3, 4) | (true, 2, _));
        if too_big {
            return mtu::untold(view);
        }
        if matches!((ipv6, icmp_type, code), (false, 11, 0) | (true, 3, 0)) {
            let state = self.flow(journey.flow);
            let own = view.owner(journey.packet.ends.src.addr.ip()).is_some();
            // Traceroute sends with a small TTL.
            return (!own && !state.explained && state.ttl > 16)
                .then(|| remote_errors::ttl_used_up(view, state.ends));
        }
        if matches!((ipv6, icmp_type), (false, 5) | (true, 137)) {
            let from = journey.packet.ends.src.addr;
            let state = self.flow(journey.flow);
            if state.redirected_by.len() < 4 && !state.redirected_by.contains(&from) {
                state.redirected_by.push(from);
            }
            // What is sent again has no answer.
            let waits = state.sent >= 2 && !state.answered;
            return remote_errors::redirected(view, &state.redirected_by, state.ends).filter(|_| waits);
        }
        let unreachable = matches!((ipv6, icmp_type), (false, 3) | (true, 1));
        if !unreachable {
            // Redirects and quenches are no answer.
            return None;
        }
        let own = view.owner(journey.packet.ends.src.addr.ip()).map(|(ns, _)| ns.id);
        self.unanswered.over(journey.flow);
        let state = self.flow(journey.flow);
        state.answered = true;
        if state.explained {
            return None;
        }
        if state.sent == 0 {
            state.unreachable = Some(Box::new(journey.clone()));
            return None;
        }
        if let Some(own) = own {
            // Said by a watched host itself: its neighbour did not answer.
            let host = matches!((ipv6, code), (false, 1) | (true, 3));
            let there = state.routes.iter().find(|l| l.netns == own).copied();
            let lookup = there.or(state.last_lookup).filter(|l| host && l.netns == own)?;
            return Some(remote_errors::unresolved(view, &lookup, state.ends));
        }
        let (from, tcp) = (journey.packet.ends.src.addr, state.syn);
        let port = matches!((ipv6, icmp_type, code), (false, 3, 3) | (true, 1, 4));
        if port && !tcp && state.asked.is_some_and(|asked| unanswered::is_probe(asked.port)) {
            return None;
        }
        if port {
            return Some(remote_errors::port_unreachable(view, from, tcp));
        }
        let what = crate::text::icmp_name(icmp_type, code, ipv6);
        let (exit, said) = (state.exit, format!("ICMP {what} came in from {from}"));
        if let Some(Exit { netns, ifindex, ends }) = exit
            && let Some(found) = remote_errors::without_tunnel(view, netns, ifindex, ends.dst.addr.ip())
        {
            return Some(found.fact(said));
        }
        Some(
            Finding::new(
                &c::UNREACHABLE_BEYOND,
                Likely,
                format!("{from}, beyond this node, says that the destination cannot be reached: {what}"),
            )
            .fact(said)
            .fix(format!("look on {from} for a route to the destination; a service's address should have been translated before (kube-proxy)"))
            .at(view.place(journey.hops.first().map_or(0, |h| h.netns), 0)),
        )
    }

    fn redirect_loop(&mut self, view: &View<'_>) -> Option<Finding> {
        if !view.is_syn() {
            return None;
        }
        let journey = view.journey;
        let hop = journey.hops.last()?;
        let to = hop.ends.dst;
        let entry = journey.conntrack.iter().find(|e| e.reply.src == to && e.original.dst != to)?;
        if !to.addr.ip().is_loopback() && view.owner(to.addr.ip()).is_none_or(|(ns, _)| ns.id != hop.netns) {
            return None;
        }
        if self.redirects.len() > 256 {
            self.redirects.clear();
        }
        let (since, flows) = self.redirects.entry(to.port).or_default();
        if journey.start_ns.saturating_sub(*since) > LOOP_NS {
            *since = journey.start_ns;
            flows.clear();
        }
        flows.insert(journey.flow);
        if flows.len() < LOOP {
            return None;
        }
        let count = flows.len();
        let name = view.netns(hop.netns);
        Some(
            Finding::new(
                &c::REDIRECT_LOOP,
                Likely,
                format!("the proxy on port {} of {name} is redirected to itself: its own connections to {} come back to it", to.port, entry.original.dst),
            )
            .checked(
                format!("{count} connections to port {} within a second", to.port),
                view.command(hop.netns, format!("{} -t nat -S", view.iptables())),
            )
            .checked(
                "the rules let one user's packets pass: is it the proxy's?",
                view.command(hop.netns, format!("ss -tlnpe sport = :{}", to.port)),
            )
            .fix("run the proxy as the user that the rules' --uid-owner names")
            .at(view.place(hop.netns, 0)),
        )
    }
}

fn only_first(view: &View<'_>, mark: u32) -> Finding {
    let exit = view.bare_exit();
    let netns = exit.map_or(0, |h| h.netns);
    Finding::new(
        &c::ONLY_FIRST_MARKED,
        Certain,
        format!("only the first packet of the connection gets mark {mark:#x}; this one has none and leaves {} directly", view.netns(netns)),
    )
    .fact("the connection's first packet went through the egress tunnel")
    .checked(
        match egress_policy_match::obstacle(view, netns, SOURCE_SETS) {
            Some((rule, why, _)) => format!("{rule} would mark it, but {why}"),
            None => "a rule before EgressGateway's accepts established connections in mangle PREROUTING".to_owned(),
        },
        view.command(netns, format!("{} -t mangle -S PREROUTING", view.iptables())),
    )
    .fix("let EgressGateway's rules come first (Calico: FelixConfiguration chainInsertMode: Append)")
    .at(view.place(netns, 0))
}
