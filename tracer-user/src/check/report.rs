// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a check found, as plain data. All text is safe to print.

use serde::Serialize;

use crate::cause::{Certainty, Finding};
use crate::cluster::egress::PolicyLine;
use crate::model::{Ending, Stage, Step};

/// The answer to one question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// "10.200.0.22 → 172.16.25.183:80 tcp".
    pub packet: String,
    /// What had to be assumed, one sentence each.
    pub assumed: Vec<String>,
    /// What EgressGateway's objects say of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<PolicyLine>,
    /// The request, later packets of it where they go another way, the reply.
    pub paths: Vec<Path>,
    pub stages: Vec<StageResult>,
    /// In the order in which a packet meets them: the first one is to be mended first.
    pub causes: Vec<Finding>,
    /// What cannot be known without traffic or from here, one sentence each.
    pub unknown: Vec<String>,
}

impl Report {
    /// Something is wrong, and not only possibly.
    pub fn is_wrong(&self) -> bool {
        self.causes.iter().any(|found| found.certainty != Certainty::Possible)
    }
}

/// The expected hops of one packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Path {
    /// "request", "later packets", "reply", "request by the proxy".
    pub packet: String,
    pub src: String,
    pub dst: String,
    pub steps: Vec<Step>,
    pub ending: Ending,
    /// Other ways that chance may choose, by their destination.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alternatives: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Passed,
    Failed,
    /// Before it something is wrong.
    NotReached,
    /// Not on the way of this packet.
    NotNeeded,
    /// It could not be looked at.
    NotKnown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct StageResult {
    pub stage: Stage,
    pub verdict: Verdict,
}
