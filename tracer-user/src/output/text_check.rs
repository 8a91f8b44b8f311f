// SPDX-License-Identifier: MIT OR Apache-2.0
//! A check for people: the expected hops in the look of a trace, the stages, what is wrong, what is not known.

use std::io;

use super::line::{Line, Style, hex};
use super::text_state::Text;
use super::{TextOptions, text_cause, text_policy};
use crate::cause::Finding;
use crate::check::{Path, Report, Verdict};
use crate::explain::Told;
use crate::model::{Direction, Ending, MarkOf, Place, Stage, Step};
use crate::text::table_name;

/// Writes reports as text.
#[derive(Debug)]
pub struct CheckText {
    text: Text,
}

impl CheckText {
    pub fn new(options: TextOptions) -> Self {
        Self { text: Text::new(options) }
    }

    /// One report. `nodes`: what was looked at, by name.
    pub fn report(&self, out: &mut dyn io::Write, report: &Report, nodes: &str) -> io::Result<()> {
        let text = &self.text;
        let mut line = text.line(2);
        line.put(Style::Bold, &format!("egwtrace {}", env!("CARGO_PKG_VERSION")));
        line.put(Style::Dim, " · ").put(Style::Plain, &format!("check on {nodes}: nothing is sent"));
        line.end(out)?;
        line.put(Style::Plain, &report.packet).end(out)?;
        for assumed in &report.assumed {
            line.put(Style::Dim, &format!("assumed: {assumed}")).end(out)?;
        }
        text_policy::write(text, out, &report.policies)?;
        for path in &report.paths {
            out.write_all(b"\n")?;
            self.path(out, path)?;
        }
        out.write_all(b"\n")?;
        self.stages(out, report)?;
        for (at, finding) in report.causes.iter().enumerate() {
            out.write_all(b"\n")?;
            let mut line = text.line(2);
            let stage = report.stages.iter().find(|s| s.verdict == Verdict::Failed).map(|s| s.stage);
            match (at, stage) {
                _ if finding.is_note() => line.put(Style::Dim, "  · not as it might be meant"),
                (0, Some(stage)) => {
                    line.put(Style::Red, &format!("  ✗ first thing wrong: {}", stage.words()))
                }
                _ => line.put(Style::Red, "  ✗ also"),
            };
            line.end(out)?;
            text_cause::write(text, out, &Told { finding: finding.clone(), count: 1 })?;
        }
        if !report.unknown.is_empty() {
            out.write_all(b"\n")?;
            let mut line = text.line(14);
            line.put(Style::Yellow, "  not known:").end(out)?;
            for unknown in &report.unknown {
                line.put(Style::Dim, "    ? ").put(Style::Plain, unknown).end(out)?;
            }
        }
        out.write_all(b"\n")?;
        let mut line = text.line(2);
        match (report.is_wrong(), report.causes.is_empty(), report.paths.is_empty()) {
            (true, ..) => {
                line.put(Style::Red, "── something is wrong: mend the first thing first, then check again")
            }
            (false, false, _) if !report.causes.iter().all(Finding::is_note) => {
                line.put(Style::Yellow, "── nothing is certainly wrong; see above what is possible")
            }
            (false, _, true) => line.put(Style::Yellow, "── nothing could be checked"),
            (false, _, false) => line
                .put(Style::Green, &format!("── nothing wrong found on {nodes}; the expected path is above")),
        };
        line.end(out)
    }

    fn path(&self, out: &mut dyn io::Write, path: &Path) -> io::Result<()> {
        let verbose = self.text.options.verbose > 0;
        let mut line = self.text.line(4);
        line.put(Style::Bold, &path.packet);
        line.put(Style::Plain, &format!("  {} → {}", path.src, path.dst)).end(out)?;
        let shown = |step: &&Step| verbose || !matches!(&step.place, Place::Hook { .. } if is_quiet(step));
        let steps: Vec<&Step> = path.steps.iter().filter(shown).collect();
        let netns = steps.iter().map(|s| s.netns.chars().count()).max().unwrap_or(4).min(24);
        let place =
            steps.iter().map(|s| place_name(&s.place).chars().count()).max().unwrap_or(0).clamp(11, 18);
        let details = 4 + netns + 2 + place + 2 + 6 + 2;
        for step in steps {
            let mut line = self.text.line(details);
            line.put(Style::Plain, "    ").cell(Style::Dim, &step.netns, netns);
            self.step(&mut line, step, place);
            line.end(out)?;
        }
        if path.alternatives.len() > 1 {
            let mut line = self.text.line(6);
            line.put(Style::Dim, &format!("    chance decides between {}", path.alternatives.join(", ")));
            line.end(out)?;
        }
        let mut line = self.text.line(6);
        match &path.ending {
            Ending::Left { netns, device } => {
                line.put(Style::Green, &format!("    leaves {netns} by {device}"))
            }
            Ending::Delivered { netns } => line.put(Style::Green, &format!("    arrives in {netns}")),
            Ending::Stopped { netns } => line.put(Style::Red, &format!("    ✗ gets no further than {netns}")),
            Ending::Unknown { why } => line.put(Style::Yellow, &format!("    ? {why}")),
        };
        line.end(out)
    }

    fn step(&self, line: &mut Line, step: &Step, width: usize) {
        match &step.place {
            Place::Device { device, direction } => {
                line.cell(Style::Bold, device, width);
                line.cell(Style::Plain, if *direction == Direction::Out { "out" } else { "in" }, 6);
            }
            Place::Hook { hook, accepted_by, .. } => {
                let style = if is_quiet(step) { Style::Dim } else { Style::Plain };
                line.cell(style, hook, width);
                let tables: Vec<&str> = step.marks.iter().map(|m| m.table.as_str()).collect();
                let one = tables.first().filter(|first| tables.iter().all(|t| t == *first));
                let nat = step.nat.first().map(|_| "nat");
                line.cell(Style::Plain, one.copied().or(nat).unwrap_or_default(), 6);
                if self.text.options.verbose > 0
                    && let Some(by) = accepted_by
                {
                    line.piece(&[(Style::Dim, &format!("accepted by {by}"))]);
                }
            }
            Place::Route { table: id, fwmark, local, via, device } => {
                line.cell(Style::Blue, "route", width);
                let mut words = String::new();
                if *fwmark != 0 && !(253..=255).contains(id) {
                    words.push_str(&format!("fwmark {} → ", hex(*fwmark)));
                }
                words.push_str(&format!("table {}", table_name(*id)));
                match (local, via) {
                    (true, _) => words.push_str(" → this host"),
                    (false, Some(via)) => words.push_str(&format!(" → via {via} dev {device}")),
                    (false, None) => words.push_str(&format!(" → dev {device}")),
                }
                line.piece(&[(Style::Blue, &words)]);
            }
            Place::Socket { socket } => {
                line.cell(Style::Bold, "socket", width);
                line.piece(&[(Style::Green, socket)]);
            }
        }
        for mark in &step.marks {
            let known = |m: Option<u32>| m.map_or("?".to_owned(), hex);
            let what = if mark.of == MarkOf::Connection { "ct mark" } else { "mark" };
            let words = format!("{what} {} → {}", known(mark.from), known(mark.to));
            self.with_rule(line, (Style::Yellow, &words), &format!("by {}", mark.rule));
        }
        for nat in &step.nat {
            let words = format!("{} {} → {}", nat.kind, nat.from, nat.to);
            let by = if nat.rule.is_empty() { String::new() } else { format!("by {}", nat.rule) };
            self.with_rule(line, (Style::Cyan, &words), &by);
        }
        if let Some(outer) = &step.encap {
            let device = matches!(step.place, Place::Device { .. });
            if device {
                let words = format!("in vxlan {} → {} vni {}", outer.src, outer.dst, outer.vni);
                line.piece(&[(Style::Magenta, &words)]);
            } else {
                line.piece(&[(Style::Dim, "outer packet")]);
            }
        }
    }

    /// What changed, and the rule behind it: on a line of its own where both do not fit.
    fn with_rule(&self, line: &mut Line, (style, words): (Style, &str), by: &str) {
        let together = line.width() + 4 + words.chars().count() + by.chars().count();
        if by.is_empty() {
            line.piece(&[(style, words)]);
        } else if together <= self.text.options.width {
            line.piece(&[(style, words), (Style::Plain, " "), (Style::Dim, by)]);
        } else {
            line.piece(&[(style, words)]);
            line.piece(&[(Style::Dim, by)]);
        }
    }

    fn stages(&self, out: &mut dyn io::Write, report: &Report) -> io::Result<()> {
        let mut line = self.text.line(4);
        line.put(Style::Plain, "    ");
        for (at, result) in report.stages.iter().enumerate() {
            let (style, sign, rest) = match result.verdict {
                Verdict::Passed => (Style::Green, "✓", ""),
                Verdict::Failed => (Style::Red, "✗", ""),
                Verdict::NotReached => (Style::Dim, "·", " (not reached)"),
                Verdict::NotNeeded => continue,
                Verdict::NotKnown => (Style::Yellow, "?", " (not known)"),
            };
            let words = stage_words(result.stage);
            if at > 0 && line.width() + 4 + words.chars().count() + rest.len() > self.text.options.width {
                line.end(out)?;
                line.put(Style::Plain, "    ");
            }
            line.put(style, &format!("{sign} "))
                .put(Style::Plain, words)
                .put(Style::Dim, rest)
                .put(Style::Plain, "   ");
        }
        line.end(out)
    }
}

fn stage_words(stage: Stage) -> &'static str {
    stage.words()
}

/// Nothing happens to the packet there.
fn is_quiet(step: &Step) -> bool {
    step.marks.is_empty() && step.nat.is_empty()
}

fn place_name(place: &Place) -> &str {
    match place {
        Place::Device { device, .. } => device,
        Place::Hook { hook, .. } => hook,
        Place::Route { .. } => "route",
        Place::Socket { .. } => "socket",
    }
}
