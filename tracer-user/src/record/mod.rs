// SPDX-License-Identifier: MIT OR Apache-2.0
//! Recordings: what causes are found from, in a file, so that they can be found again elsewhere.
//!
//! One JSON object per line (`schema/recording.schema.json`). The order is that of the run: a snapshot of the node
//! comes before the packets that are explained with it. Packets have no payload; kernel addresses are replaced by
//! numbers. A recording may come from anyone: lines are bounded, text in it is made safe to print.

mod format;
mod reader;
mod replay;
mod sanitize;
mod writer;

pub use format::{Begin, SCHEMA};
pub use reader::{Reader, RecordError};
pub use replay::{Replayed, Retold, replay};
pub use writer::{Recorder, StoppedBecause};
