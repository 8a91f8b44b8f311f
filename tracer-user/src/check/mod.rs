// SPDX-License-Identifier: MIT OR Apache-2.0
//! `egwtrace check`: the model's prediction for one packet, and the first thing that is wrong with it, without any
//! traffic. Pure but for [`Machine`], which reads.

mod conclude;
mod machine;
mod report;
mod run;

pub use machine::{CheckError, Machine};
pub use report::{Path, Report, StageResult, Verdict};
pub use run::check;
