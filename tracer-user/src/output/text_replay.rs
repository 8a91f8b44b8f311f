// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a recording says, for people.

use std::io;

use super::line::Style;
use super::text_state::Text;
use super::time::rfc3339;
use super::{TextOptions, text_cause, text_policy};
use crate::record::{Begin, Replayed};
use crate::text::escape;

/// Writes what a recording says as text.
#[derive(Debug)]
pub struct ReplayText {
    text: Text,
}

impl ReplayText {
    pub fn new(options: TextOptions) -> Self {
        Self { text: Text::new(options) }
    }

    /// What it is. `first_ns`: of the first packet, CLOCK_MONOTONIC.
    pub fn header(&self, out: &mut dyn io::Write, begin: &Begin, first_ns: u64) -> io::Result<()> {
        let mut line = self.text.line(2);
        line.put(Style::Bold, "recording");
        let when = if first_ns == 0 {
            String::new()
        } else {
            format!(" · {}", rfc3339(first_ns.saturating_add(begin.offset_ns)))
        };
        let said =
            format!(" by egwtrace {} · kernel {}{when}", escape(&begin.version), escape(&begin.kernel));
        line.put(Style::Plain, &said).end(out)?;
        for target in &begin.target {
            line.put(Style::Plain, &escape(target)).end(out)?;
        }
        text_policy::write(&self.text, out, &begin.policies)
    }

    pub fn causes(&self, out: &mut dyn io::Write, replayed: &Replayed) -> io::Result<()> {
        for told in &replayed.causes {
            out.write_all(b"\n")?;
            let mut line = self.text.line(2);
            let s = if told.count == 1 { "" } else { "s" };
            let (style, sign) = if told.finding.is_note() { (Style::Dim, "·") } else { (Style::Red, "✗") };
            line.put(style, &format!("  {sign} {} packet{s}", told.count)).end(out)?;
            let once = crate::explain::Told { count: 1, ..told.clone() };
            text_cause::write(&self.text, out, &once)?;
        }
        out.write_all(b"\n")?;
        let mut line = self.text.line(2);
        let n = replayed.causes.iter().filter(|told| !told.finding.is_note()).count();
        let (style, found) = match n {
            0 => (Style::Green, "no cause found".to_owned()),
            1 => (Style::Red, "one cause found".to_owned()),
            _ => (Style::Red, format!("{n} causes found")),
        };
        line.put(Style::Plain, "── ").put(style, &found);
        let packets = replayed.packets_of_run.unwrap_or(replayed.packets).max(replayed.packets);
        line.put(Style::Plain, &format!(" in {packets} packets"));
        if !replayed.namespaces.is_empty() {
            line.put(Style::Plain, &format!(" and the rules of {}", replayed.namespaces.join(", ")));
        }
        if replayed.events_lost > 0 {
            line.put(Style::Yellow, &format!("; {} events were lost", replayed.events_lost));
        }
        line.end(out)
    }
}
