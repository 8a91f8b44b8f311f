// SPDX-License-Identifier: MIT OR Apache-2.0
//! For people: one line per hop.

use std::io;

use super::format::{Explanation, Header, Output};
use super::line::Style;
use super::text_hop::HopLine;
use super::text_state::{Before, Columns, Text};
use super::time::{TimeFormat, Took, time_of_day};
use super::words::{length, packet_kind};
use super::{text_cause, text_policy, text_summary};
use crate::explain::Told;
use crate::flow::{Ending, Journey, News, Notice, Place, Scene, Summary, is_folded};
use crate::text::escape;

fn unix(ns: u64) -> String {
    format!("{}.{:06}", ns / 1_000_000_000, ns % 1_000_000_000 / 1000)
}

impl Text {
    fn clock(&mut self, scene: &Scene<'_>, ns: u64) -> String {
        let first = *self.first.get_or_insert(ns);
        match self.options.time {
            TimeFormat::Wall => time_of_day(scene.names.unix_ns(ns), scene.names.utc_offset_s()),
            TimeFormat::Relative => format!("{:.6} s", ns.saturating_sub(first) as f64 / 1e9),
            TimeFormat::Unix => unix(scene.names.unix_ns(ns)),
            TimeFormat::None => String::new(),
        }
    }

    fn title(
        &mut self,
        out: &mut dyn io::Write,
        scene: &Scene<'_>,
        journey: &Journey,
        continued: bool,
    ) -> io::Result<()> {
        let clock = self.clock(scene, journey.start_ns);
        let mut text = self.line(4);
        text.put(Style::Bold, &format!("#{:<3}", journey.id));
        let packet = &journey.packet;
        let arrow = if journey.reply { Style::Blue } else { Style::Bold };
        text.put(Style::Plain, " ").put(arrow, &packet_kind(packet));
        text.put(Style::Plain, "  ").put(Style::Plain, &packet.ends.to_string());
        if continued {
            text.put(Style::Dim, "  (continued)");
        } else {
            text.put(Style::Dim, &format!("  {}", length(packet)));
            if packet.vlan & 0xfff != 0 {
                text.put(Style::Dim, &format!("  vlan {}", packet.vlan & 0xfff));
            }
            let room = self.options.width.saturating_sub(clock.chars().count());
            if text.width() + 2 <= room {
                text.pad(room);
            } else {
                text.put(Style::Plain, "  ");
            }
            text.put(Style::Dim, &clock);
        }
        text.end(out)?;
        if let Some(owners) = scene.owners(packet.ends) {
            let [src, dst] = owners.map(|name| name.unwrap_or(std::borrow::Cow::Borrowed("?")));
            let mut text = self.line(10);
            text.piece(&[(Style::Cyan, &format!("{src} → {dst}"))]);
            text.end(out)?;
        }
        if let Some(rt) = journey.round_trip.filter(|_| !continued) {
            let mut words = format!("answers #{}: round trip {}", rt.request, Took(rt.total_ns));
            if let Some(beyond) = rt.beyond_ns {
                let device = uplink(scene, journey);
                let device = device.as_deref().unwrap_or("the uplink");
                words.push_str(&format!(", {} of it beyond {device}", Took(beyond)));
            }
            if let Some(answer) = rt.answer_ns {
                words.push_str(&format!(", {} of it until the answer was sent", Took(answer)));
            }
            if rt.ambiguous {
                words.push_str(" (the request was sent more than once)");
            }
            let mut text = self.line(10);
            text.piece(&[(Style::Blue, &words)]);
            text.end(out)?;
        }
        Ok(())
    }

    fn body(
        &mut self,
        out: &mut dyn io::Write,
        scene: &Scene<'_>,
        news: &News<'_>,
        explanation: Option<&Explanation>,
    ) -> io::Result<()> {
        let journey = news.journey;
        let columns = Columns::of(scene);
        let mut since = None;
        let mut opens = true;
        let mut notes = journey.notes.iter().enumerate().skip(news.from_note).peekable();
        for at in 0..journey.hops.len() {
            let hop = &journey.hops[at];
            let authors = explanation.and_then(|e| e.authors.iter().find(|authors| authors.hop == at));
            let shown = self.is_shown(scene, journey, at);
            if at >= news.from_hop {
                while let Some((_, note)) = notes.next_if(|(_, n)| usize::from(n.after) <= at) {
                    self.note(out, scene, note)?;
                }
                if shown {
                    let line = HopLine { journey, at, since, opens: std::mem::take(&mut opens), authors };
                    self.hop(out, scene, &columns, &line)?;
                }
            }
            // Times add up over the lines that are there; lookups before the packet existed do not count.
            if shown || since.is_none() {
                since = Some(hop.ts.max(since.unwrap_or(0)));
            }
        }
        for (_, note) in notes {
            self.note(out, scene, note)?;
        }
        if journey.hops_cut > 0 {
            let mut text = self.line(14);
            text.piece(&[(Style::Dim, &format!("… and {} more hops", journey.hops_cut))]);
            text.end(out)?;
        }
        self.ending(out, scene, journey)?;
        if let Some(explanation) = explanation {
            for told in &explanation.causes {
                text_cause::write(self, out, told)?;
            }
        }
        Ok(())
    }

    fn is_shown(&self, scene: &Scene<'_>, journey: &Journey, at: usize) -> bool {
        if self.options.verbose > 0 {
            return true;
        }
        let rpfilter = match &journey.ending {
            Ending::Dropped(site) => scene.drop_reason(site.reason).is_some_and(|r| r.contains("RPFILTER")),
            _ => false,
        };
        // The lookup of the way back is what killed it only where nothing came after.
        let last = journey.hops[at..].iter().all(|h| matches!(h.place, Place::Route { .. }));
        if is_folded(&journey.hops, at, rpfilter && last) {
            return false;
        }
        let hop = &journey.hops[at];
        // A pod's own hooks rarely do anything: only what they change is worth a line.
        let pod_hook = matches!(hop.place, Place::Hook { .. }) && scene.is_pod(hop.netns);
        hop.changed() || hop.conntrack.is_some_and(|i| self.news_in(journey, i)) || !pod_hook
    }

    fn news_in(&self, journey: &Journey, entry: u8) -> bool {
        journey
            .conntrack
            .get(usize::from(entry))
            .is_some_and(|e| e.translates() && !self.told.contains(&(e.id, (e.original, e.reply))))
    }

    fn gap(&mut self, out: &mut dyn io::Write, next: Before) -> io::Result<()> {
        let before = std::mem::replace(&mut self.before, next);
        if before == Before::Block || (before == Before::Notice && next == Before::Block) {
            out.write_all(b"\n")?;
        }
        Ok(())
    }
}

/// The uplink by which the packet came in.
fn uplink<'a>(scene: &Scene<'a>, journey: &Journey) -> Option<std::borrow::Cow<'a, str>> {
    let hop = journey.hops.iter().find(|h| !matches!(h.place, Place::Route { .. }))?;
    match hop.place {
        Place::Device { ifindex, egress: false } => Some(scene.device(hop.netns, ifindex)),
        _ => None,
    }
}

impl Output for Text {
    fn header(&mut self, out: &mut dyn io::Write, _: &Scene<'_>, header: &Header) -> io::Result<()> {
        let mut text = self.line(2);
        text.put(Style::Bold, &format!("egwtrace {}", escape(&header.version)));
        for part in std::iter::once(&format!("kernel {}", header.kernel)).chain(&header.attached) {
            let part = escape(part);
            if text.width() + 3 + part.chars().count() > self.options.width {
                text.end(out)?;
                text.put(Style::Plain, "  ");
            } else {
                text.put(Style::Dim, " · ");
            }
            text.put(Style::Plain, &part);
        }
        text.end(out)?;
        for line in &header.target {
            text.put(Style::Plain, &escape(line)).end(out)?;
        }
        text_policy::write(self, out, &header.policies)?;
        for missing in &header.missing {
            text.put(Style::Yellow, &format!("without {}: ", escape(&missing.what)));
            text.put(Style::Plain, &escape(&missing.why));
            if !missing.hides.is_empty() {
                text.put(Style::Dim, &format!(" (hides {})", escape(&missing.hides)));
            }
            text.end(out)?;
        }
        self.before = Before::Block;
        Ok(())
    }

    fn journey(
        &mut self,
        out: &mut dyn io::Write,
        scene: &Scene<'_>,
        news: &News<'_>,
        explanation: Option<&Explanation>,
    ) -> io::Result<()> {
        self.gap(out, Before::Block)?;
        self.title(out, scene, news.journey, false)?;
        self.body(out, scene, news, explanation)
    }

    fn continuation(
        &mut self,
        out: &mut dyn io::Write,
        scene: &Scene<'_>,
        news: &News<'_>,
        explanation: Option<&Explanation>,
    ) -> io::Result<()> {
        self.gap(out, Before::Block)?;
        self.title(out, scene, news.journey, true)?;
        self.body(out, scene, news, explanation)
    }

    fn notice(&mut self, out: &mut dyn io::Write, scene: &Scene<'_>, notice: &Notice) -> io::Result<()> {
        let mut text = self.line(4);
        match notice {
            Notice::Lost { cpu, count, total, .. } => {
                let s = if *count == 1 { " was" } else { "s were" };
                let cpu = cpu.map(|cpu| format!(" on CPU {cpu}")).unwrap_or_default();
                let words = format!("!!  {count} event{s} lost{cpu} ({total} so far): hops may be missing");
                self.gap(out, Before::Notice)?;
                text.put(Style::Red, &words);
            }
            Notice::Stray { netns, ends, what, .. } => {
                self.gap(out, Before::Notice)?;
                text.put(Style::Dim, &format!("··  {ends} in {}:", scene.netns(*netns)));
                text.end(out)?;
                let note = crate::flow::Note { ts: 0, netns: *netns, after: 0, what: *what };
                return self.note(out, scene, &note);
            }
            Notice::Device { netns, device, appeared, .. } => {
                self.gap(out, Before::Notice)?;
                let what = if *appeared { "is watched now" } else { "is gone" };
                let words = format!("··  {} {} {what}", escape(netns), escape(device));
                text.put(Style::Yellow, &words);
            }
            Notice::Zoomed { zoom, on, .. } => {
                if self.options.verbose == 0 {
                    return Ok(());
                }
                self.gap(out, Before::Notice)?;
                let words = if *on { "looking between the tables of" } else { "done looking at" };
                let words = format!("··  {words} {} {}", scene.netns(zoom.netns), zoom.hook.name());
                text.put(Style::Dim, &words);
            }
            Notice::Text { text: words, .. } => {
                self.gap(out, Before::Notice)?;
                text.put(Style::Plain, &format!("··  {}", escape(words)));
            }
        }
        text.end(out)
    }

    fn cause(&mut self, out: &mut dyn io::Write, _: &Scene<'_>, told: &Told) -> io::Result<()> {
        self.gap(out, Before::Block)?;
        text_cause::write(self, out, told)
    }

    fn summary(
        &mut self,
        out: &mut dyn io::Write,
        scene: &Scene<'_>,
        summary: &Summary,
        causes: &[Told],
    ) -> io::Result<()> {
        self.gap(out, Before::Block)?;
        text_cause::list(self, out, causes)?;
        text_summary::write(self, out, scene, summary)
    }
}
