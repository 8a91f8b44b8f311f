// SPDX-License-Identifier: MIT OR Apache-2.0
//! A cause, what it rests on, and what to do.

use serde::{Deserialize, Serialize};

use super::catalogue::CauseKind;

/// How far the evidence goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Certainty {
    /// Nothing else explains what was seen.
    Certain,
    /// Other explanations are unusual.
    Likely,
    /// One of several.
    Possible,
}

/// What a cause rests on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    pub text: String,
    /// Shows the same; empty when only the trace shows it.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub check: String,
}

/// Where to look.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    pub netns: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub device: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hook: Option<String>,
    /// Table, chain, and number or handle.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rule: Option<String>,
}

/// A cause that was found. All text is safe to print.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable: see `docs/causes.md`.
    pub id: &'static str,
    /// One sentence that names the objects.
    pub title: String,
    pub certainty: Certainty,
    pub evidence: Vec<Fact>,
    /// A command, or what to change where.
    pub fix: String,
    #[serde(rename = "where")]
    pub place: Place,
    /// Tells faults of one kind at one place apart: a port, an address.
    #[serde(skip)]
    pub subject: String,
}

impl Certainty {
    /// What comes before the title on the screen.
    pub fn word(self) -> &'static str {
        match self {
            Self::Certain => "",
            Self::Likely => "likely: ",
            Self::Possible => "possibly: ",
        }
    }
}

impl Finding {
    /// Its row of the catalogue.
    pub(crate) fn kind(&self) -> &'static CauseKind {
        CauseKind::of(self.id)
    }

    /// It is reason enough for a connection not to work.
    pub(crate) fn breaks(&self) -> bool {
        !self.kind().harmless
    }

    pub(crate) fn new(kind: &CauseKind, certainty: Certainty, title: impl Into<String>) -> Self {
        Self {
            id: kind.id,
            title: title.into(),
            certainty,
            evidence: Vec::new(),
            fix: String::new(),
            place: Place::default(),
            subject: String::new(),
        }
    }

    /// Adds a fact that only the trace shows.
    pub(crate) fn fact(self, text: impl Into<String>) -> Self {
        self.checked(text, "")
    }

    /// Adds a fact with the command that shows it.
    pub(crate) fn checked(mut self, text: impl Into<String>, check: impl Into<String>) -> Self {
        self.evidence.push(Fact { text: text.into(), check: check.into() });
        self
    }

    pub(crate) fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }

    pub(crate) fn about(mut self, subject: impl ToString) -> Self {
        self.subject = subject.to_string();
        self
    }

    pub(crate) fn at(mut self, place: Place) -> Self {
        self.place = place;
        self
    }
}
