// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tables.

use std::fs;
use std::io::{self, IsTerminal as _, Write as _};

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::Bench;
use super::cost::{Figures, Ratios};
use super::sections::{Cost, Rate};
use super::snapshot::Times;
use super::stats::Series;
use super::subject::{Memory, Mode};
use crate::process;

/// What is done now, on a terminal only; an empty text takes it away.
pub(super) fn progress(text: &str) {
    let mut stderr = io::stderr();
    if stderr.is_terminal() {
        // Nothing depends on it.
        let _ = write!(stderr, "\r\x1b[K{text}");
        let _ = stderr.flush();
    }
}

pub(super) fn machine(bench: &Bench, results: &mut Map<String, Value>) -> Result<()> {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default().to_owned();
    let kernel = process::output(std::process::Command::new("uname").arg("-r"))?.trim().to_owned();
    let cpus = std::thread::available_parallelism()?.get();
    let size = fs::metadata(&bench.binary)?.len();
    println!(
        "{} · kernel {kernel} · {cpus} CPUs · load {load} before · {} rounds of {:.2} s",
        bench.binary.display(),
        bench.rounds,
        bench.time.as_secs_f64()
    );
    results.insert(
        "machine".into(),
        json!({ "kernel": kernel, "cpus": cpus, "load": load, "binary_bytes": size }),
    );
    Ok(())
}

pub(super) fn cost<'a>(off: &[Figures], noise: &Ratios, modes: impl Iterator<Item = (&'a str, &'a Ratios)>) {
    let of =
        |figure: fn(&Figures) -> f64| off.iter().map(figure).filter(|v| v.is_finite()).collect::<Series>();
    println!("\nWhat packets pay: ratio to off, median (min–max); off itself: {}", absolute(&of));
    println!("  {:<24} {:>18} {:>18} {:>18} {:>18}  tracer's CPUs", "", "UDP 64 B", "TCP", "RTT", "RTT p99");
    let line = |name: &str, r: &Ratios| {
        println!(
            "  {name:<24} {:>18} {:>18} {:>18} {:>18}  {}",
            ratio(&r.udp),
            ratio(&r.tcp),
            ratio(&r.rtt),
            ratio(&r.rtt_p99),
            if r.cpu.is_empty() { String::new() } else { format!("{:.2}", r.cpu.median()) }
        );
    };
    line("off again (noise)", noise);
    for (name, ratios) in modes {
        line(name, ratios);
    }
    println!("  goals: miss ≥ 0.95, ≥ 0.99, ≤ 1.10 and no worse than tcpdump; match ≥ 0.80, ≥ 0.95, ≤ 1.50");
}

fn absolute(of: &dyn Fn(fn(&Figures) -> f64) -> Series) -> String {
    let mut parts = Vec::new();
    let (udp, tcp, rtt, p99) = (of(|f| f.udp), of(|f| f.tcp), of(|f| f.rtt), of(|f| f.rtt_p99));
    if !udp.is_empty() {
        parts.push(format!("{:.0} k packets/s", udp.median() / 1e3));
    }
    if !tcp.is_empty() {
        parts.push(format!("{:.2} Gbit/s", tcp.median() * 8.0 / 1e9));
    }
    if !rtt.is_empty() {
        parts.push(format!("RTT {:.1} µs, p99 {:.1} µs", rtt.median() / 1e3, p99.median() / 1e3));
    }
    parts.join(" · ")
}

fn ratio(series: &Series) -> String {
    if series.is_empty() {
        return String::new();
    }
    format!("{:.2} ({:.2}–{:.2})", series.median(), series.min(), series.max())
}

pub(super) fn programs(costs: &[Cost]) {
    println!("\nBPF programs: ns a run by the kernel's statistics, which are part of it");
    println!(
        "  {:<20} {:>8} {:>8} {:>14} {:>12} {:>10}",
        "", "miss", "match", "runs/packet", "verified", "code B"
    );
    let ns = |value: Option<f64>| value.map_or_else(String::new, |ns| format!("{ns:.0}"));
    for cost in costs {
        println!(
            "  {:<20} {:>8} {:>8} {:>14.2} {:>12} {:>10}",
            cost.program.name,
            ns(cost.miss),
            ns(cost.matched),
            cost.runs,
            cost.program.verified,
            cost.program.code
        );
    }
    let sum = |of: fn(&Cost) -> Option<f64>| costs.iter().filter_map(|c| Some(of(c)? * c.runs)).sum::<f64>();
    println!("  {:<20} {:>8.0} {:>8.0}   a packet", "sum", sum(|c| c.miss), sum(|c| c.matched));
}

pub(super) fn events(mode: Mode, rates: &[Rate], memory: Memory) {
    println!("\nRecords before loss ({}), UDP for a second at each rate", mode.name());
    println!("  {:>12} {:>12} {:>12} {:>14}", "packets/s", "records/s", "lost/s", "tracer's CPUs");
    for rate in rates {
        println!("  {:>12.0} {:>12.0} {:>12.0} {:>14.2}", rate.packets, rate.seen, rate.lost, rate.cpu);
    }
    println!("  memory after the last: {}", mib(memory));
}

pub(super) fn start(ready: &Series, idle: Memory, calm: Memory, flood: Memory) {
    println!(
        "\nReady (start to first line): {:.0} ms ({:.0}–{:.0})",
        ready.median() * 1e3,
        ready.min() * 1e3,
        ready.max() * 1e3
    );
    println!("Memory: idle {}; at 20,000 packets/s {}; flooded {}", mib(idle), mib(calm), mib(flood));
}

pub(super) fn snapshots(all: &[Times]) {
    println!("\nReading a node with kube-proxy's rules, ms");
    println!("  {:<20} {:>8} {:>20} {:>20} {:>20}", "", "rules", "first", "unchanged", "one rule more");
    let ms = |series: &Series| format!("{:.0} ({:.0}–{:.0})", series.median(), series.min(), series.max());
    for times in all {
        let (first, again, changed) = (ms(&times.first), ms(&times.again), ms(&times.changed));
        println!("  {:<20} {:>8} {first:>20} {again:>20} {changed:>20}", times.name, times.rules);
    }
    println!("\nThe model over it: MB of the snapshot; ms of an answer, and of 200");
    println!(
        "  {:<20} {:>8} {:>20} {:>20} {:>20} {:>20}",
        "", "memory", "first answer", "next", "200", "200 after a change"
    );
    let ms = |series: &Series| format!("{:.2} ({:.2}–{:.2})", series.median(), series.min(), series.max());
    for times in all {
        let [first, next, many, changed] = times.walk.each_ref().map(ms);
        let memory = times.memory.median();
        println!("  {:<20} {memory:>8.1} {first:>20} {next:>20} {many:>20} {changed:>20}", times.name);
    }
}

pub(super) fn pods(count: u32, named: &Series, bare: &Series) {
    let ms = |series: &Series| {
        format!("{:.0} ms ({:.0}–{:.0})", series.median() * 1e3, series.min() * 1e3, series.max() * 1e3)
    };
    println!(
        "\nOn a node with {count} pods, ready: {} for a pod by its name, {} for an address",
        ms(named),
        ms(bare)
    );
}

fn mib(memory: Memory) -> String {
    format!("{:.1} MiB (peak {:.1})", memory.resident as f64 / 1024.0, memory.peak as f64 / 1024.0)
}
