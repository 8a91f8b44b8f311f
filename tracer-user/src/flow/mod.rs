// SPDX-License-Identifier: MIT OR Apache-2.0
//! Records of the kernel side become journeys of packets: pure, synchronous, no I/O, time is an argument.
//!
//! ```
//! use std::io::Write as _;
//! use std::sync::Arc;
//! use tracer_user::flow::{NoNames, Options, Scene, Tracker, Update};
//! use tracer_user::node::Topology;
//! use tracer_user::output::{Output as _, Text, TextOptions};
//!
//! # fn main() -> std::io::Result<()> {
//! let topology = Arc::new(Topology::default());
//! let mut tracker = Tracker::new(Options::default(), Arc::new(NoNames));
//! tracker.set_topology(Arc::clone(&topology));
//! tracker.set_positions(&[]);
//! let mut text = Text::new(TextOptions::default());
//! let mut out = Vec::new();
//!
//! // Every 10 ms or so: the records of the ring buffer, sorted by time, then what is due.
//! let (records, now_ns) = (Vec::new(), 0);
//! for record in &records {
//!     tracker.push(record);
//! }
//! let scene = Scene::new(&topology, &NoNames);
//! let mut result = Ok(());
//! let mut zooms = Vec::new();
//! tracker.advance(now_ns, &mut |update| {
//!     let written = match update {
//!         Update::Journey(news) => text.news(&mut out, &scene, &news, None),
//!         Update::Notice(notice) => text.notice(&mut out, &scene, &notice),
//!         Update::Zoom(zoom) => Ok(zooms.push((zoom, true))),
//!         Update::Unzoom(zoom) => Ok(zooms.push((zoom, false))),
//!     };
//!     if result.is_ok() {
//!         result = written;
//!     }
//! });
//! result?;
//! std::io::stdout().write_all(&out)?;
//! // Attach or detach what `zooms` asks for, then tell where positions stand now: `set_positions`.
//! # Ok(())
//! # }
//! ```

mod addr;
mod author;
mod bounded_map;
mod change;
mod copies;
mod discovered_ends;
mod display_fold;
mod ending;
mod fingerprint;
mod fragments;
mod freed;
mod lookup;
mod loss;
mod model;
mod names;
mod nat;
mod pairing;
mod parts;
mod reporting;
mod scene;
mod sighting;
mod slots;
mod stats;
mod topology_history;
mod topology_index;
mod tracker;
mod zoom;

pub use addr::{Addr, Endpoint, Ends};
pub use author::{Deed, candidates, tables};
pub use discovered_ends::Leads;
pub use display_fold::is_folded;
pub use model::{
    Cause, ConntrackEntry, DropSite, Encap, Ending, Expected, Hop, Journey, Macs, MarkChange, Nat, Note,
    NoteKind, Packet, Place, RoundTrip, Tracking,
};
pub use names::{Names, NoNames};
pub use reporting::{News, Notice, Update};
pub use scene::Scene;
pub use stats::{BARS, EdgeTimes, PlaceKey, Summary, Times};
pub use tracker::{Options, Tracker};
pub use zoom::Zoom;
