// SPDX-License-Identifier: MIT OR Apache-2.0
//! A packet at a netfilter hook: connection tracking, the rules of both back ends, what they do to it.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::nat::dropped;
use super::packet_state::{Entry, Flight, Mode};
use super::steps::{AtHook, Direction, MarkChange, MarkOf, Place, Stage, Step};
use super::walker::{Next, Walker};
use super::world::Host;
use crate::cause::Certainty::Certain;
use crate::cause::Finding;
use crate::cause::Place as At;
use crate::cause::catalogue as c;
use crate::firewall::{
    Aside, CtDirection, CtState, Done, PacketView, Rule, RuleRef, Verdict, Walk, walk_aside,
    walk_hook_by_chance,
};
use crate::node::{Hook, nat_priority};

impl Walker<'_> {
    /// Takes the packet through a hook. The error: it goes no further.
    pub(crate) fn hook(&mut self, host: &Arc<Host>, at: AtHook<'_>, flight: &mut Flight) -> Result<(), Next> {
        let name = |ifindex| if ifindex == 0 { String::new() } else { host.device(ifindex) };
        let (input, output) = (name(at.input), name(at.output));
        if matches!(at.hook, Hook::Prerouting | Hook::Output) {
            self.track(host, at.hook, flight)?;
        }
        let place = Place::Hook {
            hook: at.hook.name(),
            input: input.clone(),
            output: output.clone(),
            accepted_by: None,
        };
        let step = self.step(host, flight, place);
        step.mark = flight.packet.mark;
        let index = self.steps.len() - 1;
        let nat = nat_priority(at.hook);
        let ranges: Vec<(Range<i32>, bool)> = match nat {
            None => vec![(i32::MIN..i32::MAX, false)],
            Some(nat) => vec![(i32::MIN..nat, false), (nat..nat + 1, true), (nat + 1..i32::MAX, false)],
        };
        for (range, translates) in ranges {
            flight.packet.input = Some(input.clone());
            flight.packet.output = Some(output.clone());
            let (phys_in, phys_out) = at.ports.unwrap_or_default();
            (flight.packet.phys_in, flight.packet.phys_out) =
                (Some(phys_in.to_owned()), Some(phys_out.to_owned()));
            if translates && flight.untracked_by(host.id).is_some() {
                continue;
            }
            if translates {
                // On the loopback it has its connection already, which is translated once.
                let again = host.link(at.input).is_some_and(crate::node::rtnl::Link::is_loopback);
                if again {
                    continue;
                }
                self.by_entry(host, at.hook, flight, index);
            }
            let node = &**host;
            let walk = by_chance(self.chances, |chance| {
                walk_hook_by_chance(node, at.hook, range.clone(), &flight.packet, chance)
            });
            self.effects(host, at, flight, &walk, index)?;
            if let Some(finding) = self.refused_for_source(host, at, flight, &walk, range) {
                let stage = self.stage(host, stage_at(at.hook), flight);
                return Err(self.stop(host, stage, finding));
            }
            self.verdict(host, at, flight, &walk, index)?;
        }
        self.settle(index, flight);
        Ok(())
    }

    /// Through a device, and the chains that are its own. The error: it goes no further.
    pub(crate) fn through(
        &mut self,
        host: &Arc<Host>,
        ifindex: u32,
        direction: Direction,
        flight: &mut Flight,
    ) -> Result<(), Next> {
        let device = host.device(ifindex);
        match direction {
            Direction::In => {
                self.at_device(host, ifindex, direction, flight);
                let at = AtHook::new(Hook::Prerouting, ifindex, 0);
                self.aside(host, Aside::Device(&device), at, flight)
            }
            Direction::Out => {
                let at = AtHook::new(Hook::Postrouting, 0, ifindex);
                self.aside(host, Aside::Device(&device), at, flight)?;
                self.at_device(host, ifindex, direction, flight);
                Ok(())
            }
        }
    }

    /// Takes the packet through the chains of a device or of bridges, which are not IP's. What they do is told at the step
    /// before.
    pub(crate) fn aside(
        &mut self,
        host: &Arc<Host>,
        which: Aside<'_>,
        at: AtHook<'_>,
        flight: &mut Flight,
    ) -> Result<(), Next> {
        let Some(index) = self.steps.len().checked_sub(1) else { return Ok(()) };
        let name = |ifindex| if ifindex == 0 { String::new() } else { host.device(ifindex) };
        let packet = PacketView {
            input: Some(name(at.input)),
            output: Some(name(at.output)),
            ..flight.packet.clone()
        };
        let node = &**host;
        let walk = by_chance(self.chances, |chance| walk_aside(node, which, at.hook, &packet, chance));
        if walk.trace.is_empty() && walk.verdict == Some(Verdict::Accept) {
            return Ok(());
        }
        self.effects(host, at, flight, &walk, index)?;
        self.verdict(host, at, flight, &walk, index)
    }

    /// The step shows the packet as it leaves the hook.
    pub(crate) fn settle(&mut self, index: usize, flight: &Flight) {
        let ends = flight.inner().tuple().ends();
        if let Some(step) = self.steps.get_mut(index) {
            (step.src, step.dst, step.mark) =
                (ends.src.to_string(), ends.dst.to_string(), flight.packet.mark);
        }
    }

    /// nf_conntrack_in: what the host knows of the connection.
    pub(crate) fn track(&mut self, host: &Arc<Host>, hook: Hook, flight: &mut Flight) -> Result<(), Next> {
        let tuple = flight.tuple();
        let packet = &mut flight.packet;
        let known = flight.entries.get(&host.id).copied();
        match (flight.mode, known) {
            (Mode::First, None) => {
                packet.ct_state = Some(CtState::New);
                packet.ct_direction = Some(CtDirection::Original);
                packet.ct_mark = Some(0);
                (packet.ct_snat, packet.ct_dnat) = (Some(false), Some(false));
                flight.entries.insert(host.id, Entry { before: tuple, after: tuple, mark: Some(0) });
                let table = host.evidence.conntrack;
                if let (Some(count), Some(max)) = (table.count, table.max)
                    && max > 0
                    && count >= max
                {
                    let finding = Finding::new(
                        &c::CONNTRACK_FULL,
                        Certain,
                        format!("the connection table of {} is full ({count} of {max} entries): new connections are refused", host.name()),
                    )
                    .checked(
                        "the count has reached the limit",
                        host.command("sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max"),
                    )
                    .fix("sysctl -w net.netfilter.nf_conntrack_max=524288 (kube-proxy: --conntrack-min), or find who opens so many connections")
                    .at(At { netns: host.name(), hook: Some(hook.name().to_owned()), ..At::default() });
                    let stage = self.stage(host, Stage::Marking, flight);
                    return Err(self.stop(host, stage, finding));
                }
            }
            (Mode::First | Mode::Later, Some(entry)) => {
                let state = if flight.mode == Mode::First { CtState::New } else { CtState::Established };
                known_connection(packet, entry, state, CtDirection::Original);
            }
            (Mode::Later, None) => {
                packet.ct_state = Some(if packet.proto == 6 { CtState::Invalid } else { CtState::New });
                packet.ct_direction = Some(CtDirection::Original);
            }
            (Mode::Reply, Some(entry)) if entry.after.reversed().fits(tuple) => {
                known_connection(packet, entry, CtState::Established, CtDirection::Reply);
            }
            // An answer to a request that went another way.
            (Mode::Reply, _) => {
                let tcp = packet.proto == 6;
                packet.ct_state = Some(if tcp { CtState::Invalid } else { CtState::New });
                packet.ct_direction = Some(CtDirection::Original);
                packet.ct_mark = Some(0);
            }
        }
        Ok(())
    }

    pub(crate) fn effects(
        &mut self,
        host: &Arc<Host>,
        at: AtHook<'_>,
        flight: &mut Flight,
        walk: &Walk<'_>,
        step: usize,
    ) -> Result<(), Next> {
        for effect in &walk.effects {
            let rule = effect.at.name();
            if !effect.certain {
                if !matches!(effect.done, Done::Mark { from, to } | Done::Connmark { from, to } if from == to)
                {
                    self.open(format!("whether {rule} of {} acts on it: {}", host.name(), doubt(walk)));
                }
                continue;
            }
            match effect.done {
                Done::Mark { from, to } if from != to => {
                    note_mark(self.steps.get_mut(step), MarkOf::Packet, (from, to), &rule);
                }
                Done::Connmark { from, to } if from != to => {
                    note_mark(self.steps.get_mut(step), MarkOf::Connection, (from, to), &rule);
                }
                Done::Nat(target) => self.by_rule(host, at, flight, target, &rule, step)?,
                Done::Notrack => {
                    flight.packet.ct_state = Some(CtState::Untracked);
                    flight.untracked = Some((host.id, rule.to_string()));
                }
                Done::TcpMss(_) => flight.clamped = true,
                Done::Tproxy(_) => {
                    self.open(format!(
                        "what {rule} of {} makes of it: TPROXY hands it to a local program",
                        host.name()
                    ));
                }
                Done::Unknown(target) => self.open(format!("what {rule} of {} does: {target}", host.name())),
                _ => {}
            }
        }
        if walk.mark.is_none() && flight.packet.mark.is_some() {
            self.open(format!("the packet's mark after {} of {}", at.hook.name(), host.name()));
        }
        flight.packet.mark = walk.mark;
        flight.packet.ct_mark = walk.ct_mark;
        if let Some(entry) = flight.entries.get_mut(&host.id) {
            entry.mark = walk.ct_mark;
        }
        Ok(())
    }

    pub(crate) fn verdict(
        &mut self,
        host: &Arc<Host>,
        at: AtHook<'_>,
        flight: &Flight,
        walk: &Walk<'_>,
        step: usize,
    ) -> Result<(), Next> {
        match &walk.verdict {
            Some(Verdict::Accept) => {
                if let Some(by) = walk.decided_by.filter(|by| by.rule.is_some())
                    && let Some(Step { place: Place::Hook { accepted_by, .. }, .. }) =
                        self.steps.get_mut(step)
                {
                    *accepted_by = Some(by.name().to_string());
                }
                Ok(())
            }
            Some(verdict @ (Verdict::Drop | Verdict::Reject(_))) => {
                let Some(by) = walk.decided_by else { return Ok(()) };
                let stage = self.stage(host, stage_at(at.hook), flight);
                let led_by = walk.led_to(&by).map(|at| at.name());
                let rule = (&by.name(), led_by.as_ref());
                let finding = dropped(host, at.hook, rule, matches!(verdict, Verdict::Reject(_)), flight);
                Err(self.stop(host, stage, finding))
            }
            Some(Verdict::Queue) => {
                let by = walk.decided_by.map(|by| by.name().to_string()).unwrap_or_default();
                self.open(format!("what the program behind {by} of {} decides", host.name()));
                Ok(())
            }
            None => {
                if walk.cut {
                    self.open(format!(
                        "what the rules of {} {} do: they are too many to walk",
                        host.name(),
                        at.hook.name()
                    ));
                }
                for (verdict, by) in &walk.possible {
                    if matches!(verdict, Verdict::Drop | Verdict::Reject(_)) {
                        self.open(format!(
                            "whether {} of {} drops it: {}",
                            by.name(),
                            host.name(),
                            doubt(walk)
                        ));
                    }
                }
                Ok(())
            }
        }
    }
}

fn stage_at(hook: Hook) -> Stage {
    if matches!(hook, Hook::Prerouting) { Stage::Marking } else { Stage::Passing }
}

fn known_connection(packet: &mut PacketView, entry: Entry, state: CtState, direction: CtDirection) {
    packet.ct_state = Some(state);
    packet.ct_direction = Some(direction);
    packet.ct_mark = entry.mark;
    packet.ct_snat = Some(entry.before.src != entry.after.src);
    packet.ct_dnat = Some(entry.before.dst != entry.after.dst);
}

/// Chance decides once about each rule, when the walk comes to it.
fn by_chance<'e>(
    chances: &mut super::chance::Chances,
    walk: impl Fn(crate::firewall::Chance<'_>) -> Walk<'e>,
) -> Walk<'e> {
    /// After so many no rule matches by chance.
    const MOST: usize = 64;
    let decided: RefCell<FxHashMap<*const Rule, bool>> = RefCell::default();
    let chances = RefCell::new(chances);
    walk(&|rule| {
        let mut decided = decided.borrow_mut();
        let full = decided.len() >= MOST;
        let new = || !full && chances.borrow_mut().next();
        Some(*decided.entry(std::ptr::from_ref(rule)).or_insert_with(new))
    })
}

fn note_mark(step: Option<&mut Step>, of: MarkOf, (from, to): (Option<u32>, Option<u32>), rule: &RuleRef) {
    if let Some(step) = step {
        step.marks.push(MarkChange { of, from, to, table: rule.table.clone(), rule: rule.to_string() });
    }
}

/// The condition that could not be decided.
fn doubt(walk: &Walk<'_>) -> String {
    walk.trace
        .iter()
        .find_map(|step| match step.matched {
            crate::firewall::Matched::Unknown(m) => Some(format!("it depends on \"{m}\"")),
            _ => None,
        })
        .unwrap_or_else(|| "a condition before it is not known".to_owned())
}
