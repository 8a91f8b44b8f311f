// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the packets of a node pay. Each mode is measured between two measurements of nothing running, and its
//! ratio taken to their mean, so that what else the machine does cancels out as far as it can.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::report;
use super::stats::Series;
use super::subject::{Mode, Subject};
use super::{Bench, Load, load};

/// The figures of one measurement; larger is better for the first two. NaN: not measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figures {
    /// Packets a second.
    pub(super) udp: f64,
    /// Bytes a second.
    pub(super) tcp: f64,
    /// Nanoseconds.
    pub(super) rtt: f64,
    pub(super) rtt_p99: f64,
    /// CPUs that the tracing process took meanwhile, without what its programs took of the traffic's.
    pub(super) cpu: f64,
}

/// Ratios of a mode to nothing running, round by round.
#[derive(Debug, Default)]
pub(super) struct Ratios {
    pub(super) udp: Series,
    pub(super) tcp: Series,
    pub(super) rtt: Series,
    pub(super) rtt_p99: Series,
    pub(super) cpu: Series,
}

impl Ratios {
    fn push(&mut self, figures: &Figures, before: &Figures, after: &Figures) {
        let to = |of: fn(&Figures) -> f64| of(figures) / ((of(before) + of(after)) / 2.0);
        for (series, ratio) in [
            (&mut self.udp, to(|f| f.udp)),
            (&mut self.tcp, to(|f| f.tcp)),
            (&mut self.rtt, to(|f| f.rtt)),
            (&mut self.rtt_p99, to(|f| f.rtt_p99)),
            (&mut self.cpu, figures.cpu),
        ] {
            if ratio.is_finite() {
                series.push(ratio);
            }
        }
    }

    fn json(&self) -> Value {
        json!({
            "udp": self.udp.json(),
            "tcp": self.tcp.json(),
            "rtt_median": self.rtt.json(),
            "rtt_p99": self.rtt_p99.json(),
            "tracer_cpus": self.cpu.json(),
        })
    }
}

pub(super) fn run(bench: &Bench) -> Result<Value> {
    let modes = subjects(bench);
    // The first packets find neither neighbours nor warm caches.
    measure(bench, None)?;
    let mut noise = Ratios::default();
    let mut off = Vec::new();
    let mut ratios: Vec<Ratios> = modes.iter().map(|_| Ratios::default()).collect();
    let mut order: Vec<usize> = (0..modes.len()).collect();
    for round in 0..bench.rounds {
        report::progress(&format!("round {} of {}", round + 1, bench.rounds));
        shuffle(&mut order);
        let mut before = measure(bench, None)?;
        for &at in &order {
            let (name, mode, binary) = &modes[at];
            let subject = Subject::start(*mode, &bench.net, binary)?;
            let figures = measure(bench, Some(&subject)).with_context(|| format!("measuring {name}"))?;
            subject.stop()?;
            let after = measure(bench, None)?;
            ratios[at].push(&figures, &before, &after);
            noise.push(&after, &before, &before);
            off.push(before);
            before = after;
        }
        off.push(before);
    }
    report::progress("");
    report::cost(&off, &noise, modes.iter().map(|(name, ..)| name.as_str()).zip(&ratios));
    let all = |of: fn(&Figures) -> f64| off.iter().map(of).collect::<Series>().json();
    let by_mode: serde_json::Map<String, Value> =
        modes.iter().zip(&ratios).map(|((name, ..), ratios)| (name.clone(), ratios.json())).collect();
    Ok(json!({
        "off": {
            "udp_packets_per_second": all(|f| f.udp),
            "tcp_bytes_per_second": all(|f| f.tcp),
            "rtt_median_ns": all(|f| f.rtt),
            "rtt_p99_ns": all(|f| f.rtt_p99),
        },
        "off_to_the_off_before": noise.json(),
        "ratios": by_mode,
    }))
}

/// Names, modes and programs, of what is measured.
fn subjects(bench: &Bench) -> Vec<(String, Mode, &Path)> {
    let mut subjects = Vec::new();
    for &mode in &bench.modes {
        if !mode.is_other() {
            subjects.push((mode.name().to_owned(), mode, bench.binary.as_path()));
            continue;
        }
        for other in &bench.against {
            let file = other.file_name().unwrap_or(other.as_os_str()).to_string_lossy();
            subjects.push((format!("{file}, {}", mode.name()), mode, other.as_path()));
        }
    }
    subjects
}

fn measure(bench: &Bench, subject: Option<&Subject>) -> Result<Figures> {
    let wanted = |load| bench.loads.contains(&load);
    let mut figures =
        Figures { udp: f64::NAN, tcp: f64::NAN, rtt: f64::NAN, rtt_p99: f64::NAN, cpu: f64::NAN };
    let cpu_time = || subject.map(Subject::cpu_time);
    let (start, before) = (Instant::now(), cpu_time());
    if wanted(Load::Udp) {
        figures.udp = load::udp(&bench.net, bench.time, None)?.rate;
    }
    if wanted(Load::Tcp) {
        figures.tcp = load::tcp(&bench.net, bench.time)?;
    }
    if wanted(Load::Rtt) {
        let rtt = load::rtt(&bench.net, bench.time)?;
        (figures.rtt, figures.rtt_p99) = (rtt.median, rtt.p99);
    }
    if let (Some(before), Some(after)) = (before, cpu_time()) {
        figures.cpu = after.saturating_sub(before).as_secs_f64() / start.elapsed().as_secs_f64();
    }
    Ok(figures)
}

/// An order that no rhythm of the machine's keeps up with.
fn shuffle(order: &mut [usize]) {
    let mut state = std::time::UNIX_EPOCH.elapsed().map_or(1, |d| d.as_nanos() as u64) | 1;
    for i in (1..order.len()).rev() {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        order.swap(i, (state % (i as u64 + 1)) as usize);
    }
}
