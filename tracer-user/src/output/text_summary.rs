// SPDX-License-Identifier: MIT OR Apache-2.0
//! The sums at the end.

use std::io;

use super::line::{Line, Style};
use super::text_state::Text;
use super::time::{Took, duration};
use crate::flow::{EdgeTimes, PlaceKey, Scene, Summary, Times};

pub(crate) fn write(text: &Text, out: &mut dyn io::Write, scene: &Scene<'_>, s: &Summary) -> io::Result<()> {
    let width = text.options.width;
    let mut line = text.line(2);
    line.rule(2).put(Style::Plain, " ");
    let s_of = |n: u64| if n == 1 { "" } else { "s" };
    line.put(Style::Bold, &format!("{} packet{}", s.packets, s_of(s.packets)));
    let dropped = s.dropped_total();
    for (count, word, style) in [
        (s.left, "left", Style::Green),
        (s.delivered, "delivered", Style::Green),
        (s.unwatched, "handed on", Style::Green),
        (s.merged, "joined to others", Style::Plain),
        (s.cut_up, "cut up", Style::Plain),
        (s.copies, "only copies", Style::Plain),
        (s.under_way, "under way", Style::Plain),
        (s.unclear, "unclear", Style::Yellow),
        (s.evicted, "given up", Style::Yellow),
        (s.vanished, "vanished", Style::Red),
    ] {
        if count > 0 {
            line.put(Style::Plain, ", ").put(style, &format!("{count} {word}"));
        }
    }
    let style = if dropped > 0 { Style::Red } else { Style::Plain };
    line.put(Style::Plain, ", ").put(style, &format!("{dropped} dropped"));
    let style = if s.events_lost > 0 { Style::Red } else { Style::Plain };
    line.put(Style::Plain, ", ").put(style, &format!("{} event{} lost", s.events_lost, s_of(s.events_lost)));
    line.put(Style::Plain, &format!(", {} ", Took(s.duration_ns)));
    let rest = width.saturating_sub(line.width());
    line.rule(rest).end(out)?;

    for (reason, count) in &s.dropped {
        let reason = scene.drop_reason(*reason);
        line.put(Style::Red, &format!("  {count:>6} "));
        line.put(Style::Plain, &format!("dropped: {}", reason.as_deref().unwrap_or("no reason given")));
        line.end(out)?;
    }
    if s.events_lost > 0 {
        let cpus: Vec<_> = s.lost_by_cpu.iter().map(|(cpu, n)| format!("{n} on CPU {cpu}")).collect();
        let cpus = if cpus.is_empty() { String::new() } else { format!(": {}", cpus.join(", ")) };
        let share = s.events_lost as f64 * 100.0 / (s.events + s.events_lost) as f64;
        line.put(Style::Red, &format!("  {:>6} ", s.events_lost));
        line.put(Style::Plain, &format!("events lost ({share:.2} %){cpus}")).end(out)?;
    }
    for (count, what) in [
        (s.evicted, "packets given up: too many under way at once"),
        (
            s.flows_evicted,
            "flows forgotten for lack of room: retransmissions and round trips of these may be missing",
        ),
        (s.conntracks_evicted, "conntrack entries forgotten for lack of room"),
        (s.hops_cut, "hops not kept: packets that loop"),
    ] {
        if count > 0 {
            line.put(Style::Yellow, &format!("  {count:>6} ")).put(Style::Plain, what).end(out)?;
        }
    }
    if s.healthy_frees > 0 && text.options.verbose > 0 {
        line.put(Style::Dim, &format!("  {:>6} freed by the kernel as it should be", s.healthy_frees));
        line.end(out)?;
    }
    table(&mut line, out, scene, s, (width, text.options.verbose > 0))
}

fn table(
    line: &mut Line,
    out: &mut dyn io::Write,
    scene: &Scene<'_>,
    s: &Summary,
    (width, verbose): (usize, bool),
) -> io::Result<()> {
    let mut rows: Vec<(String, &Times)> = Vec::new();
    // From device to device; every hook in between with -v, or where no device is seen.
    let device = |e: &&EdgeTimes| e.from.hook.is_none() && e.to.hook.is_none();
    let all = verbose || !s.edges.iter().any(|e| device(&e));
    for edge in s.edges.iter().filter(|e| all || device(e)) {
        let name =
            format!("{} → {}", place(scene, &edge.from, None), place(scene, &edge.to, Some(&edge.from)));
        rows.push((name, &edge.times));
    }
    if s.round_trip.count > 0 {
        rows.push(("round trip".to_owned(), &s.round_trip));
    }
    if s.beyond.count > 0 {
        rows.push(("  of it beyond the uplink".to_owned(), &s.beyond));
    }
    if rows.is_empty() {
        return Ok(());
    }
    let names = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let names = names.max(24);
    line.put(Style::Plain, "  ").cell(Style::Dim, "hop", names);
    for head in ["count", "p50", "p90", "p99", "max"] {
        line.right(Style::Dim, head, if head == "count" { 7 } else { 9 });
    }
    line.end(out)?;
    for (name, times) in rows {
        line.put(Style::Plain, "  ").cell(Style::Plain, &name, names);
        line.right(Style::Dim, &times.count.to_string(), 7);
        let unit = [times.p50, times.p90, times.p99, times.max].map(|ns| duration(ns).1);
        let same = unit.iter().all(|u| *u == unit[3]);
        for ns in [times.p50, times.p90, times.p99] {
            let (number, unit) = duration(ns);
            let text = if same { number } else { format!("{number} {unit}") };
            line.right(Style::Plain, &text, 9);
        }
        let (number, unit) = duration(times.max);
        line.right(Style::Plain, &number, 9).put(Style::Dim, &format!(" {unit:<2}  "));
        if line.width() + times.bars.len() <= width {
            line.put(Style::Blue, &bars(&times.bars));
        }
        line.end(out)?;
    }
    Ok(())
}

/// "node1 cni0 in"; the namespace only where it differs from that of the step before.
fn place(scene: &Scene<'_>, key: &PlaceKey, before: Option<&PlaceKey>) -> String {
    let mut words = String::new();
    if before.is_none_or(|b| b.netns != key.netns) {
        words.push_str(&scene.netns(key.netns));
        words.push(' ');
    }
    match key.hook {
        Some(hook) => words.push_str(hook.name()),
        None => {
            words.push_str(&scene.device(key.netns, key.ifindex));
            words.push_str(if key.egress { " out" } else { " in" });
        }
    }
    if key.encap && (key.hook.is_some() || before.is_none()) {
        words.push_str(" (outer)");
    }
    words
}

/// A histogram one line high, log scale from min to max; a rare bin still shows.
fn bars(counts: &[u64]) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    let block = |&n: &u64| match n {
        0 => ' ',
        n => BLOCKS[((n * 8 / most) as usize).saturating_sub(1).min(7)],
    };
    counts.iter().map(block).collect()
}
