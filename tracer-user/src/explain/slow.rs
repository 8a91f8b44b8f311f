// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a packet spent its time: a device queue, or the path between two nodes.

use std::collections::HashMap;

use super::context::View;
use crate::cause::Certainty::Likely;
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::flow::{Hop, Journey, NoteKind, Place as At};
use crate::node::{NetnsId, PathRole};

/// Far more than a hop of a cluster takes.
const SLOW_NS: u64 = 50_000_000;
/// Packets whose last place is remembered, for what they were cut into.
const REMEMBERED: usize = 1024;
/// Parts of one packet that are remembered.
const PARTS: usize = 4;

/// Queueing disciplines that hold packets back by rate or delay; the usual ones hold them while the device is busy.
const SHAPERS: [&str; 9] = ["tbf", "htb", "hfsc", "cbq", "cake", "netem", "ets", "drr", "hhf"];

/// Where packets were last seen that may go on as their parts, and parts that are told of before their whole.
#[derive(Debug, Default)]
pub(super) struct Whole {
    last: HashMap<u64, Hop>,
    /// By the whole's number: where each part was first seen.
    parts: HashMap<u64, Vec<Hop>>,
}

/// A wait: after it had left by this device's hook, or before.
#[derive(Clone, Copy, Debug)]
struct Wait {
    netns: NetnsId,
    ifindex: u32,
    ns: u64,
    at: Where,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    /// Between the last hook and the device: its queue where it is seen behind it, or the next hop's MAC.
    Before,
    /// Out of the device, and late at the next place of the same machine.
    Queue,
    /// Out of the device of one node, and late at another node.
    Between,
}

impl Whole {
    /// Takes note of a packet, whatever becomes of it.
    pub(super) fn remember(&mut self, id: u64, hops: &[Hop]) {
        let Some(last) = hops.iter().rev().find(seen) else { return };
        if matches!(last.place, At::Device { egress: true, .. }) {
            if self.last.len() >= REMEMBERED {
                self.last.clear();
            }
            self.last.insert(id, *last);
        }
    }

    /// The last place of a whole and the first of a part of it, now that both are known.
    fn pairs(&mut self, journey: &Journey) -> Vec<[Hop; 2]> {
        let mut pairs = Vec::new();
        let first = journey.hops.iter().find(seen).copied();
        let of = journey.notes.iter().find_map(|n| match n.what {
            NoteKind::PartOf { of } => Some(of),
            _ => None,
        });
        if let (Some(of), Some(first)) = (of, first) {
            match self.last.get(&of) {
                Some(last) => pairs.push([*last, first]),
                None => {
                    if self.parts.len() >= REMEMBERED {
                        self.parts.clear();
                    }
                    let known = self.parts.entry(of).or_default();
                    if known.len() < PARTS {
                        known.push(first);
                    }
                }
            }
        }
        if let Some(last) = self.last.get(&journey.id) {
            let parts = self.parts.remove(&journey.id).unwrap_or_default();
            pairs.extend(parts.into_iter().map(|first| [*last, first]));
        }
        pairs
    }
}

fn seen(hop: &&Hop) -> bool {
    !matches!(hop.place, At::Route { .. })
}

/// The packet waited.
pub(super) fn explain(view: &View<'_>, whole: &mut Whole) -> Option<Finding> {
    let mut pairs = whole.pairs(view.journey);
    let hops: Vec<Hop> = view.journey.hops.iter().filter(seen).copied().collect();
    pairs.extend(hops.windows(2).filter_map(|pair| pair.first_chunk().copied()));
    let wait = pairs.iter().find_map(|[before, after]| wait(view, before, after))?;
    Some(say(view, &wait))
}

fn wait(view: &View<'_>, before: &Hop, after: &Hop) -> Option<Wait> {
    let ns = after.ts.saturating_sub(before.ts);
    if ns < SLOW_NS {
        return None;
    }
    let uplink = |h: &Hop| view.role(h) == Some(PathRole::Uplink);
    match (before.place, after.place) {
        (At::Device { ifindex, egress: true }, _) => {
            let crossed = before.netns != after.netns && uplink(before);
            let found = Wait {
                netns: before.netns,
                ifindex,
                ns,
                at: if crossed { Where::Between } else { Where::Queue },
            };
            // Without a queue it is the CPU that had no time: no fault of the network.
            (qdisc(view, &found) != Some("noqueue") || crossed).then_some(found)
        }
        (At::Hook { .. }, At::Device { ifindex, egress: true })
            if before.netns == after.netns && uplink(after) =>
        {
            Some(Wait { netns: after.netns, ifindex, ns, at: Where::Before })
        }
        _ => None,
    }
}

fn qdisc<'a>(view: &View<'a>, wait: &Wait) -> Option<&'a str> {
    let link = view.of(wait.netns)?.link_by_index(wait.ifindex)?;
    (!link.qdisc.is_empty()).then_some(link.qdisc.as_str())
}

fn say(view: &View<'_>, wait: &Wait) -> Finding {
    let device = view.device_name(wait.netns, wait.ifindex);
    let name = view.netns(wait.netns);
    let kind = qdisc(view, wait);
    let shaped = kind.is_some_and(|kind| SHAPERS.contains(&kind));
    let queue = match kind {
        Some(kind) if shaped => format!("the queue of {device} of {name} ({kind})"),
        _ => format!("the queue of {device} of {name}"),
    };
    let (cause, title) = match wait.at {
        Where::Between if !shaped => (
            &c::SLOW_BETWEEN_NODES,
            if kind == Some("noqueue") {
                format!(
                    "packets take long from {device} of {name} to the next node: the network between is slow"
                )
            } else {
                format!("packets wait after {device} of {name}: in its queue, or in the network behind it")
            },
        ),
        Where::Before if !shaped => (
            &c::WAITS_IN_QUEUE,
            format!("packets wait before {device} of {name}: in its queue, or for the MAC of the next hop"),
        ),
        _ => (&c::WAITS_IN_QUEUE, format!("packets wait in {queue}: it is slower than what is sent")),
    };
    let side = if wait.at == Where::Before { "before" } else { "after" };
    let show = view.command(wait.netns, format!("tc -s qdisc show dev {device}"));
    let finding = Finding::new(cause, Likely, title)
        .checked(format!("{} ms {side} {device}", wait.ns / 1_000_000), show.clone());
    let root = view
        .of(wait.netns)
        .and_then(|e| e.qdiscs.iter().find(|q| q.ifindex == wait.ifindex && Some(q.kind.as_str()) == kind));
    let finding = match root {
        Some(root) if shaped && root.backlog > 0 => finding.checked(
            format!(
                "{} packets ({} B) waited in the {} of {device} when it was read",
                root.queued, root.backlog, root.kind
            ),
            show,
        ),
        _ => finding,
    };
    let finding = if wait.at == Where::Between && !shaped {
        finding.fix(format!("look at the backlog of {device}'s qdisc and at the links between the nodes (ping between them under load)"))
    } else {
        finding.fix(format!("raise the rate of {device}'s qdisc, or send less"))
    };
    finding.at(view.place(wait.netns, wait.ifindex))
}
