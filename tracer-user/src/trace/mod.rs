// SPDX-License-Identifier: MIT OR Apache-2.0
//! One run: what is attached follows the node as it changes, records become journeys, journeys are printed.

mod api;
mod arp_listener;
mod attach;
mod counters;
mod evidence;
mod header;
mod listeners;
mod names;
mod no_traffic;
mod packet_socket;
mod pods;
mod privileges;
mod recording;
mod reply_listener;
mod run;
mod terminal;

pub use privileges::{MissingPrivileges, check_privileges, check_read_privileges};
pub use run::{Outcome, TraceError, trace};
pub use terminal::{columns, text_options};
