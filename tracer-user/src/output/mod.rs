// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the user sees: one file per format behind one trait.

mod format;
mod json;
mod json_interval;
mod json_model;
mod line;
mod text;
mod text_cause;
mod text_check;
mod text_hop;
mod text_policy;
mod text_replay;
mod text_state;
mod text_summary;
mod time;
mod words;

pub use format::{Explanation, Header, Missing, Output};
pub use json::{Json, write_causes, write_check};
pub use text_check::CheckText;
pub use text_replay::ReplayText;
pub use text_state::{Text, TextOptions};
pub use time::TimeFormat;
