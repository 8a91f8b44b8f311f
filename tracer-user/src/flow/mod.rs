// SPDX-License-Identifier: MIT OR Apache-2.0
//! Records of the kernel side become journeys of packets: pure, synchronous, no I/O, time is an argument.

mod addr;
mod author;
mod change;
mod dead;
mod emit;
mod ending;
mod fingerprint;
mod fold;
mod generations;
mod lookup;
mod loss;
mod model;
mod names;
mod nat;
mod pairing;
mod parts;
mod places;
mod sight;
mod slots;
mod stats;
mod tracker;
mod zoom;

pub use addr::{Addr, Endpoint, Ends};
pub use author::{Deed, candidates, tables};
pub use emit::{News, Notice, Update};
pub use fold::is_folded;
pub use model::{
    Cause, ConntrackEntry, DropSite, Encap, Ending, Expected, Hop, Interval, Journey, MarkChange, Nat,
    NatKind, Note, NoteKind, Packet, Place, RoundTrip,
};
pub use names::{Names, NoNames};
pub use stats::{BARS, EdgeTimes, PlaceKey, Summary, Times};
pub use tracker::{Options, Tracker};
pub use zoom::Zoom;
