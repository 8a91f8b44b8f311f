// SPDX-License-Identifier: MIT OR Apache-2.0
//! The model of a node: the walk of one packet over a snapshot of it, out and back, and what is wrong with that way.
//! Pure: the snapshot is asked through [`World`].

mod bridge;
mod bridge_ports;
mod chance;
mod egress_sets;
mod follow_up;
mod gateway;
mod index;
mod input;
mod judge;
mod link;
mod nat;
mod neighbours;
mod packet_state;
mod peers;
mod preempted;
mod refused_source;
mod repair;
mod route_checks;
mod route_words;
mod routes;
mod rules;
mod run;
mod silence;
#[cfg(test)]
mod silence_tests;
mod silent_owner;
mod snapshot;
mod source_change;
mod standing;
mod start;
mod steps;
mod tunnel;
mod unexpected_exit;
mod walker;
mod world;
mod xfrm;

pub(crate) use egress_sets::policys_address;
pub(crate) use packet_state::{Flight, Mode};
pub(crate) use preempted::Preempted;
pub(crate) use repair::search;
pub use run::Question;
pub(crate) use run::{
    Prediction, Run, Start, Way, first_tuple, first_view, predict, predict_from, refused_at_home, shown,
};
pub(crate) use silence::SilentHop;
pub use snapshot::Snapshot;
pub(crate) use start::stranger;
pub use steps::{Direction, Encap, Ending, MarkChange, MarkOf, Place, Stage, Step, Translation};
pub(crate) use tunnel::taken_by;
pub(crate) use walker::{End, Found};
pub use world::{Host, World};
