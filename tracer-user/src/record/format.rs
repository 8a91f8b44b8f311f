// SPDX-License-Identifier: MIT OR Apache-2.0
//! The lines of a recording.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::cluster::egress::{Objects, PolicyLine};
use crate::explain::{Answered, Asked, Heard};
use crate::flow::{Journey, Names};
use crate::node::{NetnsId, Topology};
use crate::snapshot::Evidence;

/// Version of the format, in the first line.
pub const SCHEMA: &str = "egwtrace-recording/1";

/// One line. Not tagged inside: maps with numbers as keys would not survive it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
#[expect(clippy::large_enum_variant, reason = "one at a time, and taken apart at once")]
pub(super) enum Line {
    /// The first line.
    Begin(Begin),
    /// Names of numbers that come in later lines.
    Names(KnownNames),
    /// Namespaces, devices, hooks from here on.
    Topology(Topology),
    /// The node as it is from here on.
    Evidence(Evidence),
    /// EgressGateway's objects from here on, as the API server has them.
    Policies(Objects),
    /// A packet whose ending is known; again when more of it is.
    Journey(JourneyLine),
    /// Time that passed.
    Tick(TickLine),
    /// The last line.
    End(End),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    pub schema: String,
    /// Of the egwtrace that wrote it.
    pub version: String,
    pub kernel: String,
    /// ns since 1970 at CLOCK_MONOTONIC 0.
    pub offset_ns: u64,
    pub utc_offset_s: i32,
    /// What was followed, as on the screen.
    pub target: Vec<String>,
    /// What EgressGateway's objects said of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<PolicyLine>,
}

/// Numbers of the kernel by name: drop reasons and reset reasons as the kernel numbers them, functions as this
/// recording does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct KnownNames {
    pub(super) drops: BTreeMap<u32, String>,
    pub(super) resets: BTreeMap<u32, String>,
    pub(super) symbols: BTreeMap<u64, String>,
    #[serde(skip)]
    pub(super) offset_ns: u64,
    #[serde(skip)]
    pub(super) utc_offset_s: i32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct JourneyLine {
    /// It was not told before.
    pub(super) first: bool,
    /// It will not be told again.
    pub(super) last: bool,
    pub(super) journey: Journey,
}

/// [`crate::explain::Tick`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct TickLine {
    pub(super) now_ns: u64,
    pub(super) counters: Vec<(NetnsId, BTreeMap<String, u64>)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) asked: Vec<Asked>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) answered: Vec<Answered>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) heard: Vec<Heard>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) lost: u64,
    pub(super) destinations: Vec<IpAddr>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct End {
    /// Packets of the run, also those of which nothing was recorded.
    pub(super) packets: u64,
    pub(super) events_lost: u64,
}

impl Names for KnownNames {
    fn drop_reason(&self, reason: u32) -> Option<Cow<'_, str>> {
        self.drops.get(&reason).map(|name| Cow::Borrowed(name.as_str()))
    }
    fn reset_reason(&self, reason: u32) -> Option<Cow<'_, str>> {
        self.resets.get(&reason).map(|name| Cow::Borrowed(name.as_str()))
    }
    fn symbol(&self, address: u64) -> Option<Cow<'_, str>> {
        self.symbols.get(&address).map(|name| Cow::Borrowed(name.as_str()))
    }
    fn unix_ns(&self, monotonic_ns: u64) -> u64 {
        monotonic_ns.saturating_add(self.offset_ns)
    }
    fn utc_offset_s(&self) -> i32 {
        self.utc_offset_s
    }
}

impl KnownNames {
    /// Names in one recording: more than any kernel has of reasons, and of places that drop.
    const MAX: usize = 65_536;

    pub(super) fn is_empty(&self) -> bool {
        self.drops.is_empty() && self.resets.is_empty() && self.symbols.is_empty()
    }

    /// Takes in more names; false when there are too many.
    pub(super) fn extend(&mut self, more: Self) -> bool {
        self.drops.extend(more.drops);
        self.resets.extend(more.resets);
        self.symbols.extend(more.symbols);
        self.drops.len().max(self.resets.len()).max(self.symbols.len()) <= Self::MAX
    }
}
