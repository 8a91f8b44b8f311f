// SPDX-License-Identifier: MIT OR Apache-2.0
//! The path that a packet would take, and the first thing that is wrong with it, without any packet: routes from the
//! kernel's own lookup, rules by the walk of [`crate::firewall`], everything else as it stands. Pure but for
//! [`Machine`], which reads.

mod arrive;
mod astray;
mod bridge;
mod chance;
mod conclude;
mod flight;
mod follow_up;
mod gateway;
mod machine;
mod macs;
mod nat;
mod policy;
mod programs;
mod report;
mod routes;
mod rules;
mod run;
mod sets;
mod start;
mod tunnel;
mod walker;
mod ways;
mod wire;
mod world;

pub use machine::{CheckError, Machine};
pub use report::{
    Direction, Encap, Ending, MarkChange, MarkOf, Path, Place, Report, Stage, StageResult, Step, Translation,
    Verdict,
};
pub use run::{Question, check};
pub use world::{Host, World};
