// SPDX-License-Identifier: MIT OR Apache-2.0
//! The trait that the formats implement, and what they are given besides journeys.

use std::io;

use serde::{Deserialize, Serialize};

use crate::cluster::egress::PolicyLine;
use crate::explain::{HopAuthors, Told};
use crate::flow::{News, Notice, Scene, Summary};

/// A way to write the run down.
///
/// The caller decides where to (`out`), and flushes after each batch. An error of kind `BrokenPipe` means
/// that the reader has seen enough.
pub trait Output {
    fn header(&mut self, out: &mut dyn io::Write, scene: &Scene<'_>, header: &Header) -> io::Result<()>;

    /// A journey shown for the first time.
    fn journey(
        &mut self,
        out: &mut dyn io::Write,
        scene: &Scene<'_>,
        news: &News<'_>,
        explanation: Option<&Explanation>,
    ) -> io::Result<()>;

    /// What happened to a journey since it was shown.
    fn continuation(
        &mut self,
        out: &mut dyn io::Write,
        scene: &Scene<'_>,
        news: &News<'_>,
        explanation: Option<&Explanation>,
    ) -> io::Result<()>;

    fn notice(&mut self, out: &mut dyn io::Write, scene: &Scene<'_>, notice: &Notice) -> io::Result<()>;

    /// A cause that no journey shows by itself, or not any more.
    fn cause(&mut self, out: &mut dyn io::Write, scene: &Scene<'_>, told: &Told) -> io::Result<()>;

    /// The sums, and before them what was found to be wrong.
    fn summary(
        &mut self,
        out: &mut dyn io::Write,
        scene: &Scene<'_>,
        summary: &Summary,
        causes: &[Told],
    ) -> io::Result<()>;

    /// [`Output::journey`] or [`Output::continuation`].
    fn news(
        &mut self,
        out: &mut dyn io::Write,
        scene: &Scene<'_>,
        news: &News<'_>,
        explanation: Option<&Explanation>,
    ) -> io::Result<()> {
        if news.first {
            self.journey(out, scene, news, explanation)
        } else {
            self.continuation(out, scene, news, explanation)
        }
    }
}

/// The status line, and what is followed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    pub version: String,
    pub kernel: String,
    /// In the order shown: "tc: tcx on 6 devices", "nf: 5 hooks, zooming" ...
    pub attached: Vec<String>,
    /// "pod default/visitor 10.200.0.22 (veth7a1c31) → 172.16.25.183:80 tcp", more lines as needed.
    pub target: Vec<String>,
    /// What EgressGateway's objects say of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<PolicyLine>,
    pub missing: Vec<Missing>,
}

/// Something that could not be attached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    pub what: String,
    pub why: String,
    /// What will not be seen for lack of it.
    pub hides: String,
}

/// What was found by looking at a journey and at the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    /// The rules behind what happened at hops.
    pub authors: Vec<HopAuthors>,
    pub causes: Vec<Told>,
}
