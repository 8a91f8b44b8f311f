// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every fault of the catalogue before any traffic: what `egwtrace check` finds, and that it finds nothing where
//! nothing is wrong or nothing can be known. Prints fault → causes → right or wrong.
//!
//! `EGWT_ONLY=a,b` tries these faults only; `EGWT_JOBS=4`.

use std::{
    env,
    net::IpAddr,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use anyhow::Result;
use serde_json::Value;
use tests::{
    Lab, Spec,
    causes::{self, CASES, Case, HEALTHY_PACKETS, binary},
    faults, skip_unless_root,
    topology::{self as t, Family, NODE1},
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
    found(Family::V4, tests::Backend::Nft, &|case| {
        case.asked.map(|asked| (asked.packet.to_owned(), asked.causes))
    })
}

#[test]
fn each_fault_of_ipv6_is_found_on_the_other_back_end() -> Result<()> {
    found(Family::V6, tests::Backend::Legacy, &|case| {
        let fault = faults::find(case.name).ok()?;
        fault.expected(Family::V6)?;
        let asked = case.asked?;
        let causes =
            SIX.iter().find(|(name, _)| *name == case.name).map_or(asked.causes, |(_, causes)| causes);
        Some((in_ipv6(asked.packet), causes))
    })
}

/// Faults that are another one over IPv6, or that cannot be known there.
const SIX: &[(&str, &[&str])] = &[
    // The agent answers neighbour solicitations by a raw socket, which many programs have.
    ("eip-no-arp", &[]),
];

/// The same packet between the same hosts.
fn in_ipv6(packet: &str) -> String {
    let mut out = packet.to_owned();
    for address in [t::ext, t::ext2, t::pod2, t::cluster_ip, t::empty_service, t::dns_service]
        .into_iter()
        .chain([(|family| t::of(&t::PODS[1].ip, family)) as fn(Family) -> IpAddr, |family| NODE1.ip(family)])
    {
        let (four, six) = (address(Family::V4).to_string(), format!("[{}]", address(Family::V6)));
        for end in [":", " ", ""] {
            let whole = format!("{four}{end}");
            let at_end = !end.is_empty() || out.ends_with(&four);
            if at_end && out.contains(&whole) {
                out = out.replace(&whole, &format!("{six}{end}"));
            }
        }
    }
    out
}

type Asked<'a> = (String, &'a [&'static str]);

fn found(
    family: Family,
    backend: tests::Backend,
    asked: &(dyn Fn(&'static Case) -> Option<Asked<'static>> + Sync),
) -> Result<()> {
    skip_unless_root!();
    if binary().is_none() {
        println!("SKIP no egwtrace: EGWTRACE_BIN is not set (cargo xtask test sets it)");
        return Ok(());
    }
    let only = env::var("EGWT_ONLY").ok();
    let wanted =
        |case: &&Case| only.as_ref().is_none_or(|only| only.split(',').any(|name| name == case.name));
    let cases: Vec<(&Case, Asked<'_>)> =
        CASES.iter().filter(wanted).filter_map(|case| Some((case, asked(case)?))).collect();
    let jobs = env::var("EGWT_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(3);
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let run = |case: &Case, packet: &str| -> Result<(Vec<(String, String)>, i32)> {
        let mut spec = Spec::unique().with_backend(backend);
        spec.ipv6 = family == Family::V6;
        let lab = Lab::up(spec)?;
        faults::find(case.name)?.apply(&lab, family)?;
        check(&lab, packet)
    };
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some((case, (packet, causes))) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (right, text) = match run(case, packet) {
                        Ok((found, code)) => (
                            judge(causes, &found, code),
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
    assert!(wrong.is_empty(), "{} of {}: {wrong:?}", wrong.len(), cases.len());
    Ok(())
}

#[test]
fn the_table_has_every_fault() {
    for fault in faults::all() {
        let case = CASES.iter().find(|case| case.name == fault.name);
        assert!(case.is_some_and(|case| case.asked.is_some()), "{} is not in the table", fault.name);
    }
}

#[test]
fn nothing_is_wrong_with_healthy_paths() -> Result<()> {
    skip_unless_root!();
    if binary().is_none() {
        println!("SKIP no egwtrace: EGWTRACE_BIN is not set (cargo xtask test sets it)");
        return Ok(());
    }
    let mut wrong = Vec::new();
    for (backend, strict) in [(tests::Backend::Nft, true), (tests::Backend::Legacy, false)] {
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
