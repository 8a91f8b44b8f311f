// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is measured besides the cost: the programs, the records, the start.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

use super::kernel::{self, Counters, Program};
use super::stats::Series;
use super::subject::{Memory, Mode, Subject, time_to_ready};
use super::{Bench, load, report};

/// UDP packets a second, at which nothing is short of time.
const CALM: f64 = 20_000.0;
/// Where the search for the first loss begins, and how it goes on.
const FIRST_PACE: f64 = 15_000.0;
const FASTER: f64 = 1.5;
const PACED_FOR: Duration = Duration::from_millis(1000);
const STARTS: u32 = 15;

/// A program's runs during one measurement.
#[derive(Clone, Debug)]
pub(super) struct Cost {
    pub(super) program: Program,
    /// Nanoseconds a run.
    pub(super) miss: Option<f64>,
    pub(super) matched: Option<f64>,
    /// Runs for each packet.
    pub(super) runs: f64,
}

/// Nanoseconds a run of each program, by the kernel's statistics, for packets that are ours and that are not.
pub(super) fn programs(bench: &Bench) -> Result<Value> {
    report::progress("programs");
    let mut costs: Vec<Cost> = Vec::new();
    for mode in [Mode::Miss, Mode::MatchJson] {
        for program in runs(bench, mode)? {
            let (delta, packets) = program;
            let each = (delta.runs > 0).then(|| delta.run_time_ns as f64 / delta.runs as f64);
            let runs = delta.runs as f64 / packets as f64;
            let found = costs.iter_mut().find(|c| c.program.name == delta.name);
            match found {
                Some(cost) => {
                    cost.matched = each;
                    cost.runs = cost.runs.max(runs);
                }
                None => {
                    let (miss, matched) = if mode == Mode::Miss { (each, None) } else { (None, each) };
                    costs.push(Cost { program: delta, miss, matched, runs });
                }
            }
        }
    }
    report::progress("");
    report::programs(&costs);
    Ok(costs
        .iter()
        .map(|c| {
            json!({
                "program": c.program.name,
                "miss_ns": c.miss,
                "match_ns": c.matched,
                "runs_per_packet": c.runs,
                "verified_instructions": c.program.verified,
                "code_bytes": c.program.code,
            })
        })
        .collect())
}

/// The programs with what they took during some calm UDP traffic, and its packets.
fn runs(bench: &Bench, mode: Mode) -> Result<Vec<(Program, u64)>> {
    let subject = Subject::start(mode, &bench.net, &bench.binary)?;
    let stats = kernel::enable_stats()?;
    // One flow's first packets do more.
    load::udp(&bench.net, Duration::from_millis(50), Some(CALM))?;
    let before = kernel::programs(subject.pid())?;
    let traffic = load::udp(&bench.net, bench.time.max(Duration::from_millis(500)), Some(CALM))?;
    let after = kernel::programs(subject.pid())?;
    drop(stats);
    subject.stop()?;
    Ok(after
        .into_iter()
        .map(|program| {
            let (time, runs) =
                before.iter().find(|b| b.id == program.id).map_or((0, 0), |b| (b.run_time_ns, b.runs));
            let delta =
                Program { run_time_ns: program.run_time_ns - time, runs: program.runs - runs, ..program };
            (delta, traffic.sent.max(1))
        })
        .collect())
}

/// Records a second, and how many of them could be kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub(super) seen: f64,
    pub(super) lost: f64,
    pub(super) packets: f64,
    pub(super) cpu: f64,
}

/// Raises the rate of packets until records are lost.
pub(super) fn events(bench: &Bench) -> Result<Value> {
    let mut all = serde_json::Map::new();
    for mode in [Mode::MatchJson, Mode::MatchText] {
        let mut rates = Vec::new();
        let mut pace = FIRST_PACE;
        loop {
            report::progress(&format!("records: {}, {:.0} packets/s", mode.name(), pace));
            let (rate, memory) = record_rate(bench, mode, Some(pace))?;
            rates.push(rate);
            if rate.lost > 0.0 || rate.packets < pace * 0.8 {
                report::progress("");
                report::events(mode, &rates, memory);
                all.insert(mode.name().to_owned(), rates.iter().map(Rate::json).collect());
                break;
            }
            pace *= FASTER;
        }
    }
    Ok(Value::Object(all))
}

impl Rate {
    fn json(&self) -> Value {
        json!({
            "packets_per_second": self.packets,
            "records_per_second": self.seen,
            "lost_per_second": self.lost,
            "tracer_cpus": self.cpu,
        })
    }
}

fn record_rate(bench: &Bench, mode: Mode, pace: Option<f64>) -> Result<(Rate, Memory)> {
    let subject = Subject::start(mode, &bench.net, &bench.binary)?;
    let counters = Counters::of(subject.pid())?;
    let (start, cpu, before) = (Instant::now(), subject.cpu_time(), counters.read()?);
    let traffic = load::udp(&bench.net, PACED_FOR, pace)?;
    let after = counters.read()?;
    let took = start.elapsed().as_secs_f64();
    let cpu = subject.cpu_time().saturating_sub(cpu).as_secs_f64() / took;
    let sending = PACED_FOR.as_secs_f64();
    let rate = Rate {
        seen: (after.0 - before.0) as f64 / sending,
        lost: (after.1 - before.1) as f64 / sending,
        packets: traffic.sent as f64 / sending,
        cpu,
    };
    let memory = subject.memory()?;
    subject.stop()?;
    Ok((rate, memory))
}

/// How long until the first line, and how much memory.
pub(super) fn start(bench: &Bench) -> Result<Value> {
    report::progress("start");
    let mut ready = Series::default();
    for _ in 0..STARTS {
        ready.push(time_to_ready(&bench.net, &bench.binary)?.as_secs_f64());
        thread::sleep(Duration::from_millis(20));
    }
    let subject = Subject::start(Mode::MatchJson, &bench.net, &bench.binary)?;
    let idle = subject.memory()?;
    load::udp(&bench.net, Duration::from_secs(1), Some(CALM))?;
    let calm = subject.memory()?;
    load::udp(&bench.net, Duration::from_secs(1), None)?;
    let flood = subject.memory()?;
    subject.stop()?;
    report::progress("");
    report::start(&ready, idle, calm, flood);
    let memory = |m: Memory| json!({ "resident_kib": m.resident, "peak_kib": m.peak });
    Ok(json!({
        "ready_s": ready.json(),
        "memory_idle": memory(idle),
        "memory_at_20000_packets_per_second": memory(calm),
        "memory_flooded": memory(flood),
    }))
}
