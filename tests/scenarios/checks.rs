// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every fault of the catalogue before any traffic: what `egwtrace check` finds, and that it finds nothing where
//! nothing is wrong or nothing can be known. Prints fault → causes → right or wrong.
//!
//! `EGWT_ONLY=a,b` tries these faults only; `EGWT_JOBS=4`.

use std::{
    env,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use anyhow::{Context, Result};
use serde_json::Value;
use tests::{
    Backend, Lab, Spec,
    causes::{self, Attempt, Case, HEALTHY_PACKETS},
    skip_unless_able,
    topology::Family,
};

/// The causes by id with their titles, and the exit code.
fn check(lab: &Lab, packet: &str) -> Result<(Vec<(String, String)>, i32)> {
    let (causes, code) = causes::check(lab, packet)?;
    let text = |cause: &Value, name: &str| cause[name].as_str().unwrap_or_default().to_owned();
    let named =
        |cause| (text(cause, "id"), format!("{}: {}", text(cause, "certainty"), text(cause, "title")));
    Ok((causes.iter().map(named).collect(), code))
}

fn judge(causes: &[&str], found: &[(String, String)], code: i32) -> bool {
    let possible = found.iter().all(|(_, title)| title.starts_with("possible"));
    let right = match causes {
        [] => found.is_empty(),
        wanted => found.first().is_some_and(|(id, _)| wanted.contains(&id.as_str())),
    };
    right && code == i32::from(!possible)
}

#[test]
fn each_fault_is_found_before_traffic() -> Result<()> {
    found(Family::V4, Backend::Nft)
}

#[test]
fn each_fault_of_ipv6_is_found_on_the_other_back_end() -> Result<()> {
    found(Family::V6, Backend::Legacy)
}

fn found(family: Family, backend: Backend) -> Result<()> {
    skip_unless_able!();
    let only = env::var("EGWT_ONLY").ok();
    let wanted = |case: &Case| only.as_ref().is_none_or(|only| only.split(',').any(|name| name == case.name));
    let attempts: Vec<Attempt> = causes::catalogue()
        .filter(wanted)
        .filter(|case| case.families.contains(&family))
        .map(|case| Attempt { case, family, backend, strict: false })
        .collect();
    let jobs = env::var("EGWT_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(3);
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let run = |attempt: &Attempt| -> Result<(Vec<(String, String)>, i32)> {
        let lab = attempt.up(None)?;
        attempt.apply(&lab)?;
        check(&lab, &attempt.packet().context("no packet")?)
    };
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(attempt) = attempts.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let case = &attempt.case;
                    let (right, text) = match run(attempt) {
                        Ok((found, code)) => (
                            judge(attempt.checked().unwrap_or_default(), &found, code),
                            found
                                .iter()
                                .map(|(id, title)| format!("{id} [{title}]"))
                                .collect::<Vec<_>>()
                                .join("; "),
                        ),
                        Err(error) => (false, format!("{error:#}")),
                    };
                    println!("{:6} {:21} → {text}", if right { "right" } else { "WRONG" }, case.name);
                    if !right {
                        wrong.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(case.name);
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
fn each_fault_has_a_packet_and_each_gap_is_a_case() {
    for case in causes::catalogue() {
        let attempt = Attempt { case, family: Family::V4, backend: Backend::Nft, strict: false };
        assert!(attempt.packet().is_some() && attempt.checked().is_some(), "{}", case.name);
    }
    for (gap, why) in causes::GAPS {
        assert!(causes::all().any(|case| case.name == *gap) && !why.is_empty(), "{gap}");
    }
}

#[test]
fn nothing_is_wrong_with_healthy_paths() -> Result<()> {
    skip_unless_able!();
    let mut wrong = Vec::new();
    for (backend, strict) in [(Backend::Nft, true), (Backend::Legacy, false)] {
        let mut spec = Spec::unique().with_ipv6().with_backend(backend);
        spec.strict = strict;
        let lab = Lab::up(spec)?;
        for packet in
            HEALTHY_PACKETS.iter().flat_map(|(four, six)| [four, six]).filter(|packet| !packet.is_empty())
        {
            let (found, code) = check(&lab, packet)?;
            if !found.is_empty() || code != 0 {
                wrong.push(format!("{backend:?} {packet}: {code} {found:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}
