// SPDX-License-Identifier: MIT OR Apache-2.0
//! The lines of one journey: hops, notes, the end.

use std::io;

use super::line::{Line, Style, hex};
use super::text_state::{Columns, Text};
use super::time::{Took, duration};
use super::words::numbers;
use crate::explain::HopAuthors;
use crate::firewall::Attribution;
use crate::flow::{
    Cause, Deed, DropSite, Ending, Endpoint, Expected, Hop, Journey, Note, NoteKind, Place, Scene,
};
use crate::node::Interval;
use crate::text::{icmp_error, mac, route_error, table_name};

/// Tables of candidates: "mangle", "raw or mangle", "one of raw, mangle, nat".
pub(crate) fn tables_words(scene: &Scene<'_>, at: &Interval, deed: Deed) -> String {
    let labels = scene.tables(at, deed);
    match labels.len() {
        0 | 1 => labels.concat(),
        2 => labels.join(" or "),
        _ => format!("one of {}", labels.join(", ")),
    }
}

pub(crate) struct HopLine<'a> {
    pub(crate) journey: &'a Journey,
    pub(crate) at: usize,
    /// Of the line before; `None`: first of the journey.
    pub(crate) since: Option<u64>,
    /// The first line of its block: it names the unit.
    pub(crate) opens: bool,
    pub(crate) authors: Option<&'a HopAuthors>,
}

impl Text {
    pub(crate) fn hop(
        &mut self,
        out: &mut dyn io::Write,
        scene: &Scene<'_>,
        columns: &Columns,
        line: &HopLine<'_>,
    ) -> io::Result<()> {
        let hop = &line.journey.hops[line.at];
        let mut text = self.line(columns.details);
        self.time_cell(&mut text, line.since.map_or(0, |since| hop.ts.saturating_sub(since)), line.opens);
        text.cell(Style::Dim, &scene.netns(hop.netns), columns.netns);
        let verbose = self.options.verbose;
        let table = table_cell(scene, hop);
        let quiet = !hop.changed();
        match hop.place {
            Place::Device { ifindex, egress } => {
                text.cell(Style::Bold, &scene.device(hop.netns, ifindex), columns.place);
                text.cell(Style::Plain, if egress { "out" } else { "in" }, columns.kind);
            }
            Place::Hook { hook, priority, .. } => {
                let style = if quiet { Style::Dim } else { Style::Plain };
                text.cell(style, hook.name(), columns.place);
                let mut kind = table.clone().unwrap_or_default();
                if verbose > 0 {
                    let priority = priority.map_or("?".to_owned(), |p| p.to_string());
                    let gap = if kind.is_empty() { "" } else { " " };
                    kind = format!("{kind}{gap}<{priority}");
                }
                text.cell(Style::Plain, &kind, columns.kind);
            }
            Place::Route { .. } => {
                text.cell(Style::Blue, "route", columns.place);
            }
        }
        if line.opens && line.at == 0 && line.journey.packet.mark != 0 {
            text.piece(&[(Style::Yellow, &format!("mark {}", hex(line.journey.packet.mark)))]);
        }
        self.route_piece(&mut text, scene, hop);
        let told = table.is_some() && matches!(hop.place, Place::Hook { .. });
        changes(&mut text, scene, hop, told, line.authors);
        self.encap_piece(&mut text, line, hop);
        if verbose > 1 && !matches!(hop.place, Place::Route { .. }) {
            text.piece(&[(Style::Dim, &format!("ttl {} len {} mark {}", hop.ttl, hop.len, hex(hop.mark)))]);
            if let Some(tracking) = hop.tracking {
                let way = if tracking.reply { " reply" } else { "" };
                text.piece(&[(
                    Style::Dim,
                    &format!("ct {}{way} mark {}", tracking.state, hex(tracking.mark)),
                )]);
            }
            if let Some(macs) = hop.macs {
                text.piece(&[(Style::Dim, &format!("MAC {} → {}", mac(macs.source), mac(macs.destination)))]);
            }
        }
        text.end(out)?;
        self.conntrack_line(out, columns, line.journey, hop)
    }

    fn time_cell(&self, text: &mut Line, delta: u64, first: bool) {
        let (number, unit) = duration(delta);
        let unit = if unit == "µs" && !first { "  " } else { unit };
        text.right(Style::Dim, &format!("+{number}"), 13).put(Style::Dim, &format!(" {unit:<2}  "));
    }

    fn route_piece(&self, text: &mut Line, scene: &Scene<'_>, hop: &Hop) {
        let Place::Route { table: id, error, gateway, ifindex, in_ifindex, reverse, local } = hop.place
        else {
            return;
        };
        let mut words = String::new();
        if reverse {
            words.push_str("way back: ");
        }
        let policy = !(253..=255).contains(&id);
        if hop.mark != 0 && policy {
            words.push_str(&format!("fwmark {} → ", hex(hop.mark)));
        }
        words.push_str(&format!("table {}", table_name(id)));
        if error < 0 {
            words.push_str(&format!(" → {}", route_error(error)));
        } else {
            if local {
                words.push_str(" → this host");
            }
            if !gateway.is_none() {
                words.push_str(&format!(" → via {gateway}"));
            }
            if ifindex != 0 && !local {
                let to = if gateway.is_none() { " → " } else { " " };
                words.push_str(&format!("{to}dev {}", scene.device(hop.netns, ifindex)));
            }
        }
        if self.options.verbose > 1 && in_ifindex != 0 {
            words.push_str(&format!(" (came in by {})", scene.device(hop.netns, in_ifindex)));
        }
        let style = if error < 0 && error != -11 { Style::Red } else { Style::Blue };
        text.piece(&[(style, &words)]);
    }

    fn encap_piece(&self, text: &mut Line, line: &HopLine<'_>, hop: &Hop) {
        let Some(outer) = line.journey.encap_of(hop) else { return };
        let before =
            line.journey.hops[..line.at].iter().rev().find(|h| !matches!(h.place, Place::Route { .. }));
        let news = before.is_none_or(|b| b.encap != hop.encap);
        let device = matches!(hop.place, Place::Device { .. });
        if device || news {
            let words = format!("in vxlan {} → {} vni {}", outer.src.addr, outer.dst.addr, outer.vni);
            text.piece(&[(Style::Magenta, &words)]);
        } else {
            text.piece(&[(Style::Dim, "outer packet")]);
        }
    }

    fn conntrack_line(
        &mut self,
        out: &mut dyn io::Write,
        columns: &Columns,
        journey: &Journey,
        hop: &Hop,
    ) -> io::Result<()> {
        let entry = hop.conntrack.and_then(|i| journey.conntrack.get(usize::from(i)));
        let Some(entry) = entry else { return Ok(()) };
        let verbose = self.options.verbose > 0;
        if !(verbose || entry.translates() && self.first_time(entry)) {
            return Ok(());
        }
        let mut text = self.line(columns.details);
        text.piece(&[
            (Style::Dim, "conntrack  "),
            (Style::Dim, &format!("{}  ⇄  {}", entry.original, entry.reply)),
        ]);
        text.end(out)
    }

    pub(crate) fn note(&self, out: &mut dyn io::Write, scene: &Scene<'_>, note: &Note) -> io::Result<()> {
        let mut text = self.line(14);
        let (style, words) = match note.what {
            NoteKind::IcmpSent { icmp_type, code, ipv6 } => (
                Style::Yellow,
                format!(
                    "↩ ICMP {} sent back by {}",
                    icmp_error(icmp_type, code, ipv6, 0),
                    scene.netns(note.netns)
                ),
            ),
            NoteKind::ResetSent { reason } => {
                let reason = scene.reset_reason(reason).map(|r| format!(": {r}")).unwrap_or_default();
                (Style::Yellow, format!("↩ RST sent back by {}{reason}", scene.netns(note.netns)))
            }
            NoteKind::ResetReceived => (
                Style::Yellow,
                format!("RST received: the connection in {} is gone", scene.netns(note.netns)),
            ),
            NoteKind::Retransmission { of, after_ns } => {
                let of = of.map(|id| format!(" of #{id}")).unwrap_or_default();
                let after = after_ns.map(|ns| format!(", {} later", Took(ns))).unwrap_or_default();
                (Style::Yellow, format!("retransmission{of}{after}"))
            }
            NoteKind::Copy { of, after_ns } => {
                (Style::Dim, format!("copy of #{of}, {} later", Took(after_ns)))
            }
            NoteKind::Freed { reason, location } => {
                if self.options.verbose == 0 {
                    return Ok(());
                }
                let reason = scene.drop_reason(reason).unwrap_or_default();
                (Style::Dim, format!("freed, as it should be: {reason} at {}", scene.symbol(location)))
            }
            NoteKind::PartOf { of } => (Style::Dim, format!("part of #{of}")),
            NoteKind::Absorbed { packets } => {
                let s = if packets == 1 { "" } else { "s" };
                (Style::Dim, format!("{packets} more packet{s} joined to it"))
            }
            NoteKind::CutUp { first, last, packets } => (
                Style::Dim,
                format!("cut up: goes on as the first fragment; the rest: {}", numbers(first, last, packets)),
            ),
            NoteKind::Looped { times } => (
                Style::Red,
                format!("routing loop: seen {times} times where it had been before, with a smaller TTL"),
            ),
        };
        text.piece(&[(style, &words)]);
        text.end(out)
    }

    pub(crate) fn ending(
        &self,
        out: &mut dyn io::Write,
        scene: &Scene<'_>,
        journey: &Journey,
    ) -> io::Result<()> {
        let mut text = self.line(10);
        let took = Took(journey.end_ns.saturating_sub(journey.start_ns));
        match &journey.ending {
            Ending::Open => text.piece(&[(Style::Dim, "… under way")]),
            Ending::Left { netns, ifindex } => text.piece(&[(
                Style::Green,
                &format!("left {} by {} after {took}", scene.netns(*netns), scene.device(*netns, *ifindex)),
            )]),
            Ending::Delivered { netns } => {
                let to = scene.taker(journey, *netns);
                let to =
                    to.map(|(name, pid, port)| format!(", {name} (pid {pid}) :{port},")).unwrap_or_default();
                let words = format!("delivered to {}{to} after {took}", scene.netns(*netns));
                text.piece(&[(Style::Green, &words)])
            }
            Ending::Unwatched { netns, ifindex } => text.piece(&[(
                Style::Green,
                &format!(
                    "handed to {} on {} after {took}; what is behind it is not watched",
                    scene.device(*netns, *ifindex),
                    scene.netns(*netns)
                ),
            )]),
            Ending::Merged { into } => text.piece(&[(Style::Dim, &format!("joined to #{into}"))]),
            Ending::CutUp { first, last, packets } => {
                let words = format!("cut up, goes on as {}", numbers(*first, *last, *packets));
                text.piece(&[(Style::Dim, &words)])
            }
            Ending::Copy { of } => {
                text.piece(&[(Style::Dim, &format!("ends here: it is only a copy of #{of}"))])
            }
            Ending::Evicted => text.piece(&[(Style::Dim, "given up: too many packets under way")]),
            Ending::Unclear { lost: 0 } => text.piece(&[
                (Style::Yellow, "? not seen again"),
                (Style::Plain, "; what is watched changed meanwhile, so nothing follows from that"),
            ]),
            Ending::Unclear { lost } => text.piece(&[
                (Style::Yellow, "? not seen again"),
                (Style::Plain, &format!("; {lost} events were lost meanwhile, so nothing follows from that")),
            ]),
            Ending::Vanished { next, bridge } => {
                text.piece(&[(Style::Red, "? VANISHED")]);
                text.piece(&[(Style::Plain, &self.vanished(scene, journey, *next, *bridge))])
            }
            Ending::Dropped(site) => {
                self.dropped(&mut text, scene, journey, site);
                &mut text
            }
        };
        text.end(out)?;
        if let Ending::Dropped(site) = &journey.ending
            && self.options.verbose > 0
        {
            let calls = site.stack.iter().take_while(|a| **a != 0).map(|a| scene.symbol(*a));
            let calls: Vec<_> = calls.collect();
            if !calls.is_empty() {
                let mut text = self.line(12);
                text.piece(&[(Style::Dim, &format!("called from {}", calls.join(" ← ")))]);
                text.end(out)?;
            }
        }
        Ok(())
    }

    fn vanished(&self, scene: &Scene<'_>, journey: &Journey, next: Expected, bridge: Option<u32>) -> String {
        let last = journey.hops.iter().rev().find(|h| !matches!(h.place, Place::Route { .. }));
        let last_netns = last.map(|h| h.netns);
        let mut words = match last {
            Some(hop) => format!("last seen at {}", place_words(scene, hop)),
            None => "never seen at a device".to_owned(),
        };
        let at = |netns| {
            if Some(netns) == last_netns { String::new() } else { format!("{} ", scene.netns(netns)) }
        };
        match next {
            Expected::Hook { netns, hook } => {
                words.push_str(&format!(", next expected {}{}", at(netns), hook.name()));
            }
            Expected::Routing { netns } => {
                words.push_str(&format!(", next expected {}routing, then FORWARD or INPUT", at(netns)));
            }
            Expected::Device { netns, ifindex, egress } => {
                let way = if egress { "out" } else { "in" };
                words.push_str(&format!(
                    ", next expected {}{} {way}",
                    at(netns),
                    scene.device(netns, ifindex)
                ));
            }
            Expected::Unknown => {}
        }
        if let (Some(bridge), Some(netns)) = (bridge, last_netns) {
            let bridge = scene.device(netns, bridge);
            words.push_str(&format!(", unless {bridge} passed it to a port that is not watched"));
        }
        words.push_str("; 0 events lost");
        words
    }

    fn dropped(&self, text: &mut Line, scene: &Scene<'_>, journey: &Journey, site: &DropSite) {
        let reason = scene.drop_reason(site.reason);
        text.piece(&[
            (Style::Red, "✗ DROPPED  "),
            (Style::Red, reason.as_deref().unwrap_or("(no reason on this kernel)")),
        ]);
        let mut place = format!("in {}", scene.netns(site.netns));
        if let Some(at) = &site.interval {
            place.push_str(&format!(" {}", at.hook.name()));
            let deed = site.deed;
            let tables = scene.tables(at, deed);
            match &tables[..] {
                [] => {}
                [one] => place.push_str(&format!(" {one}")),
                _ => place.push_str(&format!(" by {}", tables_words(scene, at, deed))),
            }
        }
        if site.ifindex != 0 {
            place.push_str(&format!(", device {}", scene.device(site.netns, site.ifindex)));
        }
        text.piece(&[(Style::Bold, &place)]);
        text.piece(&[(Style::Plain, &format!("at {}", scene.symbol(site.location)))]);
        if site.mark != 0 {
            text.piece(&[(Style::Yellow, &format!("mark {}", hex(site.mark)))]);
        }
        if let Some(outer) = site.encap.and_then(|i| journey.encaps.get(usize::from(i))) {
            let words = format!("in vxlan {} → {} vni {}", outer.src.addr, outer.dst.addr, outer.vni);
            text.piece(&[(Style::Magenta, &words)]);
        }
        if site.delivered {
            text.piece(&[(Style::Plain, "after it had passed INPUT")]);
        }
    }
}

pub(crate) fn place_words(scene: &Scene<'_>, hop: &Hop) -> String {
    let netns = scene.netns(hop.netns);
    match hop.place {
        Place::Device { ifindex, egress } => {
            let way = if egress { "out" } else { "in" };
            format!("{netns} {} {way}", scene.device(hop.netns, ifindex))
        }
        Place::Hook { hook, .. } => format!("{netns} {}", hook.name()),
        Place::Route { .. } => format!("{netns} routing"),
    }
}

/// The table behind what changed at a hook, where it is one.
fn table_cell(scene: &Scene<'_>, hop: &Hop) -> Option<String> {
    let mark = mark_tables(scene, hop);
    match (mark.as_deref(), hop.nat.is_some_and(|nat| nat.interval.is_some())) {
        (None, true) => Some("nat".to_owned()),
        (Some([one]), false) => Some(one.clone()),
        (Some([one]), true) if one == "nat" => Some(one.clone()),
        _ => None,
    }
}

fn mark_tables(scene: &Scene<'_>, hop: &Hop) -> Option<Vec<String>> {
    match &hop.mark_change.as_ref()?.cause {
        Cause::Hook(at) => Some(scene.tables(at, Deed::Mark)),
        _ => None,
    }
}

/// What changed; with the tables where the column in front cannot tell them.
fn changes(text: &mut Line, scene: &Scene<'_>, hop: &Hop, told: bool, authors: Option<&HopAuthors>) {
    if let Some(change) = &hop.mark_change {
        let words = match change.cause {
            Cause::Scrubbed => format!("mark {} scrubbed", hex(change.from)),
            _ => format!("mark {} → {}", hex(change.from), hex(change.to)),
        };
        let by = match &change.cause {
            _ if authors.is_some_and(|a| a.mark.is_some()) => String::new(),
            Cause::Hook(at) if !told => match tables_words(scene, at, Deed::Mark) {
                tables if tables.is_empty() => tables,
                tables => format!(" by {tables}"),
            },
            _ => String::new(),
        };
        text.piece(&[(Style::Yellow, &words), (Style::Plain, &by)]);
        by_rule(text, authors.and_then(|a| a.mark.as_deref()));
    }
    if let Some((from, to)) = hop.ct_mark_change {
        text.piece(&[(Style::Yellow, &format!("ct mark {} → {}", hex(from), hex(to)))]);
    }
    if let Some(nat) = &hop.nat {
        let mut words = nat.kind.name().to_owned();
        if nat.from.src != hop.ends.src {
            words.push_str(&format!(" {} → {}", nat.from.src, hop.ends.src));
            words.push_str(&owner_words(scene, hop.ends.src));
        }
        if nat.from.dst != hop.ends.dst {
            if nat.from.src != hop.ends.src {
                words.push(',');
            }
            words.push_str(&format!(" {} → {}", nat.from.dst, hop.ends.dst));
            words.push_str(&owner_words(scene, hop.ends.dst));
        }
        text.piece(&[(Style::Cyan, &words)]);
        by_rule(text, authors.and_then(|a| a.nat.as_deref()));
    }
}

/// "by mangle EGRESSGATEWAY-MARK-REQUEST rule 1 "Set mark for EgressPolicy default-test"".
fn by_rule(text: &mut Line, found: Option<&Attribution>) {
    let Some(found) = found else { return };
    const SHOWN: usize = 3;
    let rules: Vec<_> = found.rules.iter().take(SHOWN).map(ToString::to_string).collect();
    let sure = if found.certain { "by" } else { "probably by" };
    let mut words = format!("{sure} {}", rules.join(" or "));
    if found.rules.len() > SHOWN {
        words.push_str(&format!(" or {} others", found.rules.len() - SHOWN));
    }
    if let (false, Some((rule, what))) = (found.certain, found.undecided.first()) {
        words.push_str(&format!("; not decided: {what} of {rule}"));
    }
    text.piece(&[(Style::Plain, &words)]);
}

/// ` (shop/web)`, where it has a name.
fn owner_words(scene: &Scene<'_>, end: Endpoint) -> String {
    scene.owner(end.addr).map(|name| format!(" ({name})")).unwrap_or_default()
}
