// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `egwtrace` says of a node's traffic and what `egwtrace check` says of the same packet before it: the same
//! cause, or nothing both times. Every row of the catalogue's faults and every other node configuration is tried;
//! where they may differ is listed with the reason, and the list may only shrink.
//!
//! `EGWT_ONLY=a,b` tries these rows only; `EGWT_JOBS=4`.

use std::{
    collections::BTreeMap,
    env,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::Value;
use tests::{
    Backend, Lab,
    causes::{Attempt, Case, Trace, Watch, catalogue, check, fill},
    setups::Setup,
    skip_unless_able,
    topology::Family,
};

/// Rows of which they say different things, and why that is right or what is missing.
const DIFFER: &[(&str, &str)] = &[
    ("eip-ports", "the ports are taken by connections that are yet to be"),
    ("latency", "only traffic shows how long packets wait"),
    ("nic-queue", "only traffic fills a queue"),
    ("kube-invalid", "the connection's entry is deleted while it is used"),
    ("listen-overflow", "the accept queue is still empty before the traffic"),
    ("rpf-multinic", "by which device a host beyond the nodes answers shows only with its answer"),
    (
        "mtu-egress",
        "a packet that is too large was seen; its sender is told, so for a check it is only possible",
    ),
    ("default-by-vpn", "a VPN that takes everything may be meant: only the silence makes it a cause"),
    ("redirect-outlives-router", "a learned next hop may be right: only the silence makes it a cause"),
];

/// What one of them says: the causes that are more than possible, the surest first.
#[derive(Debug, Default)]
struct Said(Vec<(String, String)>);

impl Said {
    fn of(causes: &[Value]) -> Self {
        let text = |cause: &Value, name: &str| cause[name].as_str().unwrap_or_default().to_owned();
        let sure = causes.iter().filter(|cause| cause["certainty"] != "possible");
        Self(sure.map(|cause| (text(cause, "id"), text(cause, "title"))).collect())
    }

    fn has(&self, id: &str) -> bool {
        self.0.iter().any(|(other, _)| id == other)
    }
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let each: Vec<String> = self.0.iter().map(|(id, title)| format!("{id} [{title}]")).collect();
        f.write_str(if each.is_empty() { "nothing" } else { "" })?;
        f.write_str(&each.join("; "))
    }
}

/// How they differ.
fn difference(traced: &Said, checked: &Said, code: i32) -> Option<&'static str> {
    let red = code != 0;
    match (traced.0.first(), red) {
        (None, true) => Some("check is red, the trace is silent"),
        (Some(_), false) => Some("the trace names a cause, check is green"),
        (Some((id, _)), true) if !checked.has(id) => Some("they name different causes"),
        _ => None,
    }
}

/// A row of a table: its name, and the lab in which both are asked.
struct Row {
    name: &'static str,
    ask: Box<dyn Fn() -> Result<(Said, Said, i32)> + Sync>,
}

fn of_setup(setup: &'static Setup) -> Row {
    let ask = move || {
        let lab = setup.up()?;
        let traffic = || setup.connect(&lab).map(drop);
        both(&lab, setup.name, setup.packet, setup.packet, Duration::from_millis(1200), &traffic)
    };
    Row { name: setup.name, ask: Box::new(ask) }
}

fn of_fault(case: Case) -> Row {
    let attempt = Attempt { case, family: Family::V4, backend: Backend::Nft, strict: false };
    let ask = move || {
        let lab = attempt.up(None)?;
        let probe = attempt.apply(&lab)?;
        let packet = attempt.packet().context("no packet")?;
        let flow = fill(case.says.flow, Family::V4);
        let traffic = || probe.run(&lab, Family::V4).map(drop);
        both(&lab, case.name, &packet, &flow, Duration::from_millis(400), &traffic)
    };
    Row { name: case.name, ask: Box::new(ask) }
}

/// What check says of the packet, then what the trace says of the traffic.
fn both(
    lab: &Lab,
    name: &str,
    packet: &str,
    flow: &str,
    wait: Duration,
    traffic: &dyn Fn() -> Result<()>,
) -> Result<(Said, Said, i32)> {
    let (checked, code) = check(lab, packet)?;
    let trace = Trace::start(lab, name, flow, Watch::Both)?;
    let began = Instant::now();
    traffic().context("the traffic")?;
    thread::sleep(wait);
    let traced = trace.stop(name, began)?.whole;
    Ok((Said::of(&traced), Said::of(&checked), code))
}

fn agree(rows: impl Iterator<Item = Row>) -> Result<()> {
    skip_unless_able!();
    let only = env::var("EGWT_ONLY").ok();
    let wanted = |row: &Row| only.as_ref().is_none_or(|only| only.split(',').any(|word| word == row.name));
    let rows: Vec<Row> = rows.filter(wanted).collect();
    let jobs = env::var("EGWT_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(3);
    let (next, differ) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (why, text) = match (row.ask)() {
                        Ok((traced, checked, code)) => (
                            difference(&traced, &checked, code).map(str::to_owned),
                            format!("trace: {traced}; check ({code}): {checked}"),
                        ),
                        Err(error) => (Some(format!("{error:#}")), String::new()),
                    };
                    println!("{} {:34} → {text}", if why.is_none() { "same  " } else { "DIFFER" }, row.name);
                    if let Some(why) = why {
                        differ.lock().unwrap_or_else(PoisonError::into_inner).insert(row.name, why);
                    }
                }
            });
        }
    });
    let differ = differ.into_inner().unwrap_or_else(PoisonError::into_inner);
    let listed = |name: &str| DIFFER.iter().any(|(known, _)| *known == name);
    let unexpected: Vec<_> = differ.iter().filter(|(name, _)| !listed(name)).collect();
    let closed: Vec<_> =
        rows.iter().map(|row| row.name).filter(|name| listed(name) && !differ.contains_key(name)).collect();
    println!(
        "they differ for {} of {}, {} of these listed",
        differ.len(),
        rows.len(),
        differ.len() - unexpected.len()
    );
    assert!(unexpected.is_empty(), "trace and check differ: {unexpected:#?}");
    assert!(closed.is_empty(), "they agree by now, take them out of the list: {closed:?}");
    Ok(())
}

#[test]
fn trace_and_check_agree_on_each_setup() -> Result<()> {
    agree(Setup::all().map(of_setup))
}

#[test]
#[ignore = "sixty labs: three minutes; run with --ignored"]
fn trace_and_check_agree_on_each_fault() -> Result<()> {
    agree(catalogue().map(of_fault))
}

#[test]
fn each_listed_difference_is_a_row() {
    for (name, why) in DIFFER {
        let known =
            Setup::all().any(|setup| setup.name == *name) || catalogue().any(|case| case.name == *name);
        assert!(known && !why.is_empty(), "{name}");
    }
}
