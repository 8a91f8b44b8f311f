// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs faults, each in a fresh lab of its own, and compares what the client saw.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{
    Backend, Lab, Spec,
    causes::{Attempt, CASES, Trace, fill},
    faults::{Fault, Verdict},
    helper::Helper,
    mend::{Mended, mend_fault},
    topology::Family,
};

/// What no packet shows is told some time later.
const AFTER_PROBE: Duration = Duration::from_millis(900);

/// One fault to try, and in what.
#[derive(Debug, Clone, Copy)]
pub struct Trial {
    /// The fault.
    pub fault: &'static Fault,
    /// The family of its traffic.
    pub family: Family,
    /// The iptables back end of the lab.
    pub backend: Backend,
    /// Also whether egwtrace names its cause.
    pub causes: bool,
}

impl Trial {
    /// Puts a lab up, applies the fault, makes its traffic, and takes the lab down.
    ///
    /// # Errors
    /// When the lab cannot be put up or the fault not applied.
    pub fn run(&self, helper: &Helper) -> Result<Verdict> {
        let mut spec = Spec::unique().with_backend(self.backend);
        spec.ipv6 = self.family == Family::V6;
        let lab = Lab::up_with(spec, helper.clone())?;
        let case = CASES.iter().find(|case| self.causes && case.name == self.fault.name);
        let Some(case) = case else {
            let verdict = self.fault.verify(&lab, self.family)?;
            lab.down()?;
            return Ok(verdict);
        };
        self.fault.apply(&lab, self.family)?;
        let trace = Trace::start(&lab, case.name, &fill(case.flow, self.family), case.watch)?;
        let began = Instant::now();
        let mut verdict = self.fault.probed(&lab, self.family)?;
        thread::sleep(AFTER_PROBE);
        let found = trace.stop(case.name, began)?;
        let attempt = Attempt { case, family: self.family, backend: self.backend };
        verdict.wrong =
            verdict.wrong.map(|wrong| format!("the client to see {wrong}")).or_else(|| attempt.wrong(&found));
        verdict.causes = Some(found.to_string());
        if self.family == Family::V4 && !self.fault.is_control() {
            match mend_fault(&lab, self.fault, case)? {
                Mended::Yes => verdict.fix = Some("what it says to type mends it".to_owned()),
                Mended::NoCommands(why) => verdict.fix = Some(format!("not typed: {why}")),
                Mended::No(why) => verdict.wrong = verdict.wrong.or(Some(format!("a fix that mends: {why}"))),
            }
        }
        lab.down()?;
        Ok(verdict)
    }
}

/// Runs trials, `jobs` at a time, and hands each result to `each` as it comes.
pub fn run(trials: &[Trial], jobs: usize, helper: &Helper, each: impl FnMut(&Trial, Result<Verdict>) + Send) {
    let next = AtomicUsize::new(0);
    let each = Mutex::new(each);
    thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, trials.len().max(1)) {
            scope.spawn(|| {
                while let Some(trial) = trials.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = trial.run(helper);
                    let mut each = each.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    each(trial, result);
                }
            });
        }
    });
}
