// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every fault of the catalogue, and variants of it, under the real binary: which cause it names, and that it
//! names none where nothing is wrong. Prints fault → cause → right or wrong.
//!
//! `EGWT_ONLY=a,b` tries these only; `EGWT_KEEP=DIR` keeps what egwtrace printed, `EGWT_RECORD=DIR` recordings;
//! `EGWT_JOBS=4`.

use std::{
    env,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use tests::{
    Backend, Lab, Spec,
    causes::{Attempt, Case, ELSEWHERE, ENDS, HEALTHY, Trace, VARIANTS, WAYS, Watch, catalogue, fill},
    skip_unless_able,
    topology::Family,
};

/// Kinds of evidence, one of each: what a build is tried with each time.
const FEW: &[&str] = &[
    "egw-agent-down",
    "snat-order",
    "rule-missing",
    "fwd-drop",
    "calico-append",
    "vxlan-no-fdb",
    "rpf-gw",
    "pod-no-route",
    "netpol",
    "svc-no-kubeproxy",
    "ip-forward",
    "osm-envoy-down",
];

/// The catalogue over IPv4, on one back end.
fn four() -> impl Iterator<Item = Case> {
    catalogue().map(|case| Case { families: &[Family::V4], backends: &[Backend::Nft], ..case })
}

fn try_all(cases: impl IntoIterator<Item = Case>, names: Option<&[&str]>) -> Result<()> {
    skip_unless_able!();
    let only: Option<Vec<String>> =
        env::var("EGWT_ONLY").ok().map(|names| names.split(',').map(str::to_owned).collect());
    let wanted = |name: &str| {
        names.is_none_or(|names| names.contains(&name))
            && only.as_ref().is_none_or(|only| only.iter().any(|wanted| wanted == name))
    };
    let attempts: Vec<Attempt> = Attempt::all(cases).filter(|attempt| wanted(attempt.case.name)).collect();
    let jobs = env::var("EGWT_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(3);
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(attempt) = attempts.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (why, text) = match attempt.run(None) {
                        Ok(found) => (attempt.wrong(&found), found.to_string()),
                        Err(error) => (Some(format!("{error:#}")), String::new()),
                    };
                    let name = attempt.name();
                    match why {
                        None => println!("right  {name:28} → {text}"),
                        Some(why) => {
                            println!("WRONG  {name:28} → {text} (expected {why})");
                            wrong.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(name);
                        }
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    assert!(wrong.is_empty(), "{} of {}: {wrong:?}", wrong.len(), attempts.len());
    Ok(())
}

#[test]
fn a_few_faults_are_named() -> Result<()> {
    try_all(four(), Some(FEW))
}

#[test]
#[ignore = "sixty labs: two minutes and a half; run with --ignored"]
fn each_fault_is_named() -> Result<()> {
    try_all(four(), None)
}

#[test]
#[ignore = "a hundred and more labs: five minutes; run with --ignored"]
fn each_variant_is_named() -> Result<()> {
    try_all(VARIANTS.iter().copied(), None)
}

#[test]
#[ignore = "eighty labs: four minutes; run with --ignored"]
fn each_wrong_way_is_named() -> Result<()> {
    try_all(WAYS.iter().copied(), None)
}

#[test]
#[ignore = "forty labs and more: three minutes; run with --ignored"]
fn each_trouble_at_the_ends_is_named() -> Result<()> {
    try_all(ENDS.iter().copied(), None)
}

#[test]
#[ignore = "thirty labs: two minutes; run with --ignored"]
fn each_fault_elsewhere_is_named() -> Result<()> {
    try_all(ELSEWHERE.iter().copied(), None)
}

#[test]
fn healthy_traffic_has_no_cause() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique())?;
    let mut wrong = Vec::new();
    for (probe, flow) in HEALTHY {
        let name = format!("healthy-{}", probe.name());
        let trace = Trace::start(&lab, &name, &fill(flow, Family::V4), Watch::Both)?;
        let began = Instant::now();
        let report = probe.run(&lab, Family::V4)?;
        thread::sleep(Duration::from_millis(300));
        let found = trace.stop(&name, began)?;
        let right = found.causes.is_empty();
        println!("{} {:10} {report} → {found}", if right { "right" } else { "WRONG" }, probe.name());
        if !right {
            wrong.push(probe.name());
        }
    }
    assert!(wrong.is_empty(), "causes where nothing is wrong: {wrong:?}");
    Ok(())
}
