// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs faults, each in a fresh lab of its own: what the client sees, what egwtrace and its check say of it, and what
//! comes of typing the fix that they print.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use anyhow::Result;
use serde_json::Value;

use crate::{
    Lab,
    causes::{Attempt, Found, Trace, check_on, fill},
    helper::Helper,
    mend::{Mended, commands, mend},
    probe::Report,
};

/// One fault to try.
#[derive(Debug, Clone, Copy)]
pub struct Trial {
    pub attempt: Attempt,
    /// Also what egwtrace says, and its fix.
    pub causes: bool,
}

/// What came of a trial.
#[derive(Debug)]
pub struct Verdict {
    /// What the client saw.
    pub report: Report,
    /// The causes that the trace named, and that the check named before.
    pub said: Option<[String; 2]>,
    /// What came of the fixes of the trace and of the check; one where they are the same.
    pub fixes: Vec<(&'static str, Mended)>,
    /// What should have been otherwise.
    pub wrong: Vec<String>,
}

impl Trial {
    /// Puts a lab up, applies the fault, makes its traffic, types what is printed, and takes the lab down.
    ///
    /// # Errors
    /// When the lab cannot be put up or the fault not applied.
    pub fn run(&self, helper: &Helper) -> Result<Verdict> {
        let attempt = &self.attempt;
        let lab = attempt.up(Some(helper))?;
        let probe = attempt.apply(&lab)?;
        if !self.causes {
            let report = probe.run(&lab, attempt.family)?;
            let wrong = attempt.unexpected(&report).into_iter().collect();
            lab.down()?;
            return Ok(Verdict { report, said: None, fixes: Vec::new(), wrong });
        }
        let checked = self.check(&lab);
        let (report, traced) = self.trace(&lab)?;
        let mut wrong: Vec<String> = attempt.unexpected(&report).into_iter().collect();
        wrong.extend(attempt.wrong(&traced).map(|why| format!("trace: {why}")));
        wrong.extend(attempt.wrong_check(&checked).map(|why| format!("check: {why}")));
        let said = Some([traced.to_string(), titles(&checked)]);
        let mut fixes = Vec::new();
        if attempt.case.says.traced.is_empty() || probe.passes(&report, attempt.family) {
            fixes.push(("", Mended::NoCommands("the traffic passes all the same".to_owned())));
        } else {
            let bare = |lab: &Lab, causes: &[Value]| -> Vec<String> {
                let here = lab.spec().prefix();
                causes
                    .first()
                    .map(commands)
                    .unwrap_or_default()
                    .iter()
                    .map(|c| c.replace(&here, ""))
                    .collect()
            };
            let passes = |lab: &Lab| Ok(probe.passes(&probe.run(lab, attempt.family)?, attempt.family));
            let same = bare(&lab, &traced.whole) == bare(&lab, &checked);
            fixes.push((if same { "both" } else { "trace" }, mend(&lab, &traced.whole, &|| passes(&lab))?));
            lab.down()?;
            if !same {
                let lab = attempt.up(Some(helper))?;
                attempt.apply(&lab)?;
                let again = self.check(&lab);
                probe.run(&lab, attempt.family)?;
                fixes.push(("check", mend(&lab, &again, &|| passes(&lab))?));
                lab.down()?;
            }
        }
        let mended = fixes.iter().any(|(_, fix)| matches!(fix, Mended::Yes(_)));
        wrong.extend(attempt.case.says.fix.differs(mended));
        for (by, fix) in &fixes {
            if let Mended::No(why) = fix {
                wrong.push(format!("the fix of {by} to mend: {why}"));
            }
        }
        Ok(Verdict { report, said, fixes, wrong })
    }

    fn trace(&self, lab: &Lab) -> Result<(Report, Found)> {
        let Attempt { case, family, .. } = self.attempt;
        let name = self.attempt.name().replace(' ', "-");
        let trace = Trace::start(lab, &name, &fill(case.says.flow, family), case.watch)?;
        let began = Instant::now();
        let report = self.attempt.probe()?.run(lab, family)?;
        thread::sleep(self.attempt.patience());
        Ok((report, trace.stop(&name, began)?))
    }

    /// What the check says; nothing where it cannot be asked.
    fn check(&self, lab: &Lab) -> Vec<Value> {
        let packet = self.attempt.packet();
        let said = packet.and_then(|packet| check_on(lab, &packet, self.attempt.case.watch).ok());
        said.map(|(causes, _)| causes).unwrap_or_default()
    }
}

fn titles(causes: &[Value]) -> String {
    let text = |cause: &Value, name: &str| cause[name].as_str().unwrap_or_default().to_owned();
    let title =
        |cause| format!("{} [{}: {}]", text(cause, "id"), text(cause, "certainty"), text(cause, "title"));
    causes.iter().map(title).collect::<Vec<_>>().join("; ")
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
                    let mut each = each.lock().unwrap_or_else(PoisonError::into_inner);
                    each(trial, result);
                }
            });
        }
    });
}
