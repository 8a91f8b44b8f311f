// SPDX-License-Identifier: MIT OR Apache-2.0
//! One run: what is attached follows the node as it changes, records become journeys, journeys are printed.

mod attach;
mod counters;
mod debug;
mod evidence;
mod header;
mod names;
mod privileges;
mod run;

pub use privileges::{MissingPrivileges, check_privileges};
pub use run::{Outcome, TraceError, trace};
