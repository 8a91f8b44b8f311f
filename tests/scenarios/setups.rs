// SPDX-License-Identifier: MIT OR Apache-2.0
//! Node configurations outside of the catalogue: that each does what it says, and what `egwtrace check` reports of
//! it. Prints setup → causes → right or wrong. What is known to be wrong is listed, and the list may only shrink.
//!
//! `EGWT_ONLY=a,b` tries these setups only; `EGWT_JOBS=4`.

use std::{
    env,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde_json::Value;
use tests::{
    Lab,
    causes::{Trace, Watch, check},
    mend::{Mended, mend},
    setups::Setup,
    skip_unless_able, skip_unless_root,
};

/// Setups of which `egwtrace check` does not say the right thing yet. One that has become right is taken out.
const GAPS: &[&str] = &[];

/// The same of the trace.
const TRACE_GAPS: &[&str] = &[];

/// What should have been otherwise, and what was seen.
type Judged = (Option<String>, String);

/// All setups that are asked for, each in a lab of its own; the names of those for which `work` says what is wrong.
fn wrong_of(work: &(dyn Fn(&Setup, &Lab) -> Result<Judged> + Sync)) -> Vec<&'static str> {
    let only = env::var("EGWT_ONLY").ok();
    let wanted = |name: &str| only.as_ref().is_none_or(|only| only.split(',').any(|word| word == name));
    let setups: Vec<&Setup> = Setup::all().filter(|setup| wanted(setup.name)).collect();
    let jobs = env::var("EGWT_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(3);
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(setup) = setups.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let done = setup.up().and_then(|lab| work(setup, &lab));
                    let (why, text) =
                        done.unwrap_or_else(|error| (Some(format!("{error:#}")), String::new()));
                    match why {
                        None => println!("right  {:34} → {text}", setup.name),
                        Some(why) => {
                            println!("WRONG  {:34} → {text} (expected {why})", setup.name);
                            wrong.lock().unwrap_or_else(PoisonError::into_inner).push(setup.name);
                        }
                    }
                }
            });
        }
    });
    let mut wrong = wrong.into_inner().unwrap_or_else(PoisonError::into_inner);
    wrong.sort_unstable();
    wrong
}

#[test]
fn each_setup_does_what_it_says() -> Result<()> {
    skip_unless_root!();
    let wrong = wrong_of(&|setup, lab| {
        let outcome = setup.connect(lab)?;
        let worked = outcome.answer().is_some();
        let why =
            (worked != setup.is_healthy()).then(|| if worked { "no answer" } else { "an answer" }.to_owned());
        Ok((why, outcome.to_string()))
    });
    assert!(wrong.is_empty(), "{wrong:?}");
    Ok(())
}

#[test]
fn each_setup_is_explained_before_traffic() -> Result<()> {
    skip_unless_able!();
    let wrong = wrong_of(&|setup, lab| {
        let (found, code) = check(lab, setup.packet)?;
        let (named, titles) = (named(&found), titles(&found));
        let possible = named.iter().all(|(possible, _)| *possible);
        let why = setup
            .wrong(&named)
            .or_else(|| (code != i32::from(!possible)).then(|| "another exit code".to_owned()));
        Ok((why, format!("{} {code}", titles.join("; "))))
    });
    only_the_gaps(&wrong, GAPS);
    Ok(())
}

/// What the trace of the client's attempt reports, both nodes watched.
#[test]
fn each_setup_is_explained_by_its_traffic() -> Result<()> {
    skip_unless_able!();
    let wrong = wrong_of(&|setup, lab| {
        let trace = Trace::start(lab, setup.name, setup.packet, Watch::Both)?;
        let began = Instant::now();
        setup.connect(lab)?;
        thread::sleep(Duration::from_millis(1200));
        let found = trace.stop(setup.name, began)?.whole;
        Ok((setup.wrong(&named(&found)), titles(&found).join("; ")))
    });
    only_the_gaps(&wrong, TRACE_GAPS);
    Ok(())
}

/// Whether each cause is only possible, and its text.
fn named(causes: &[Value]) -> Vec<(bool, String)> {
    causes.iter().map(|cause| (cause["certainty"] == "possible", cause.to_string())).collect()
}

fn titles(causes: &[Value]) -> Vec<String> {
    let text = |cause: &Value, name: &str| cause[name].as_str().unwrap_or_default().to_owned();
    let title =
        |cause| format!("{} [{}: {}]", text(cause, "id"), text(cause, "certainty"), text(cause, "title"));
    causes.iter().map(title).collect()
}

/// What is wrong must be the known gaps and nothing else.
fn only_the_gaps(wrong: &[&str], gaps: &[&str]) {
    let only = env::var("EGWT_ONLY").ok();
    let tried = |name: &str| only.as_ref().is_none_or(|only| only.split(',').any(|word| word == name));
    let gaps: Vec<&str> = gaps.iter().copied().filter(|name| tried(name)).collect();
    println!("known gaps, {} of {}: {gaps:?}", gaps.len(), Setup::all().count());
    let unexpected: Vec<&&str> = wrong.iter().filter(|name| !gaps.contains(name)).collect();
    let closed: Vec<&&str> = gaps.iter().filter(|name| !wrong.contains(name)).collect();
    assert!(unexpected.is_empty(), "wrong: {unexpected:?}");
    assert!(closed.is_empty(), "right by now, take them out of the known gaps: {closed:?}");
}

/// What the report says to type is typed, and the traffic must pass then.
#[test]
fn the_commands_of_a_report_mend_the_setup() -> Result<()> {
    skip_unless_able!();
    let wrong = wrong_of(&|setup, lab| {
        if setup.is_healthy() || GAPS.contains(&setup.name) {
            return Ok((None, "not tried: healthy, or a known gap".to_owned()));
        }
        let (causes, _) = check(lab, setup.packet)?;
        let passes = || Ok(setup.connect(lab)?.answer().is_some());
        if passes()? {
            return Ok((Some("no answer before the fix".to_owned()), String::new()));
        }
        Ok(match mend(lab, &causes, &passes)? {
            Mended::Yes(commands) => (None, format!("mended: {}", commands.join("; "))),
            Mended::NoCommands(why) => (None, format!("not tried: {why}")),
            Mended::No(why) => (Some("the traffic to pass, and nothing else to break".to_owned()), why),
        })
    });
    assert!(wrong.is_empty(), "{wrong:?}");
    Ok(())
}

#[test]
fn each_known_gap_is_a_setup() {
    for gap in GAPS.iter().chain(TRACE_GAPS) {
        assert!(Setup::all().any(|setup| setup.name == *gap), "{gap}");
    }
}
