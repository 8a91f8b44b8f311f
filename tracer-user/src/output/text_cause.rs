// SPDX-License-Identifier: MIT OR Apache-2.0
//! Causes for people: under the journey that shows one, and all of them before the sums.

use std::io;

use super::line::Style;
use super::text_state::Text;
use crate::cause::Finding;
use crate::explain::Told;

/// Facts shown without -v.
const FACTS: usize = 3;

/// Under a journey. What was told before is named again, without all that goes with it.
pub(crate) fn write(text: &Text, out: &mut dyn io::Write, told: &Told) -> io::Result<()> {
    let finding = &told.finding;
    let said = said(finding);
    let head = if finding.is_note() { "note" } else { "cause" };
    let row = |out: &mut dyn io::Write, word: &str, said: &str, style: Style| {
        let mut line = text.line(22);
        line.pad(12).put(Style::Bold, word).pad(22).put(style, said);
        line.end(out)
    };
    if told.count > 1 {
        return row(out, head, &format!("{said} (×{})", told.count), Style::Plain);
    }
    row(out, head, &said, Style::Plain)?;
    let verbose = text.options.verbose > 0;
    let mut word = "evidence";
    for fact in finding.evidence.iter().take(if verbose { usize::MAX } else { FACTS }) {
        row(out, word, &fact.text, Style::Dim)?;
        if verbose && !fact.check.is_empty() {
            row(out, "", &format!("check: {}", fact.check), Style::Dim)?;
        }
        word = "";
    }
    for text in &finding.ruled_out {
        row(out, "ruled out", text, Style::Dim)?;
    }
    if verbose && finding.compared > 0 {
        let places = if finding.compared == 1 { "1 place" } else { &format!("{} places", finding.compared) };
        row(out, "compared", &format!("{places} on its way are those of the model's journey"), Style::Dim)?;
    }
    if finding.fix.is_empty() {
        return Ok(());
    }
    row(out, "fix", &finding.fix, Style::Plain)?;
    match tried(finding).filter(|_| verbose) {
        Some(tried) => row(out, "", &tried, Style::Dim),
        None => Ok(()),
    }
}

/// How the fix was found.
pub(crate) fn tried(finding: &Finding) -> Option<String> {
    let tried = match finding.repairs_tried {
        0 => return None,
        1 => "1 change was".to_owned(),
        more => format!("{more} changes were"),
    };
    Some(if finding.commands.is_empty() {
        format!(
            "{tried} tried in the model of the node; none repairs request and reply without cutting off another flow"
        )
    } else {
        format!(
            "{tried} tried in the model of the node: with this, request and reply pass, and no other flow is cut off"
        )
    })
}

/// How sure it is, and the title. A note claims nothing.
fn said(finding: &Finding) -> String {
    let sure = if finding.is_note() { "" } else { finding.certainty.word() };
    format!("{sure}{}", finding.title)
}

/// Before the sums.
pub(crate) fn list(text: &Text, out: &mut dyn io::Write, causes: &[Told]) -> io::Result<()> {
    for told in causes {
        let finding = &told.finding;
        let mut line = text.line(2);
        if finding.is_note() {
            line.put(Style::Dim, &format!("· note (×{}): ", told.count));
        } else {
            line.put(Style::Red, &format!("✗ cause (×{}): ", told.count));
        }
        line.put(Style::Plain, &said(finding));
        line.end(out)?;
        if !finding.fix.is_empty() {
            let mut line = text.line(9);
            line.pad(4).put(Style::Bold, "fix").pad(9).put(Style::Plain, &finding.fix);
            line.end(out)?;
        }
    }
    Ok(())
}
