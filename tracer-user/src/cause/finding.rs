// SPDX-License-Identifier: MIT OR Apache-2.0
//! A cause, what it rests on, and what to do.

use serde::{Deserialize, Serialize};

use super::catalogue::CauseKind;
use crate::node::NetnsId;
use crate::snapshot::Change;

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// How far the evidence goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Certainty {
    /// Nothing else explains what was seen.
    Certain,
    /// Other explanations are unusual.
    Likely,
    /// One of several.
    #[default]
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable: see `docs/causes.md`.
    pub id: &'static str,
    /// One sentence that names the objects.
    pub title: String,
    pub certainty: Certainty,
    /// Nothing is broken, and it may well be meant so: worth a word, no fault.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub note: bool,
    pub evidence: Vec<Fact>,
    /// A command, or what to change where.
    pub fix: String,
    #[serde(rename = "where")]
    pub place: Place,
    /// The fix as commands, in order: the model has it that with them the flow works, and no other one that works now is
    /// cut off. Empty: none was found, or nothing can be typed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<String>,
    /// Places on the packet's way that were held against those of the model's journey, and agree.
    #[serde(skip_serializing_if = "is_zero")]
    pub compared: u32,
    /// Changes that the model was walked with to find them.
    #[serde(skip_serializing_if = "is_zero")]
    pub repairs_tried: u32,
    /// What else could be the cause by what was seen, and is not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ruled_out: Vec<String>,
    /// Changes that may repair it; the model says which do: with `commands`, those that they make.
    #[serde(skip)]
    pub changes: Vec<(NetnsId, Change)>,
    /// The model's: it is why this rule ends the packet (namespace, and the rule's place).
    #[serde(skip)]
    pub explains: Option<(String, String)>,
    /// What to know or do besides a repair by commands.
    #[serde(skip)]
    pub besides: String,
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

    /// Nothing is broken, and it may well be meant so: worth a word, no fault.
    pub fn is_note(&self) -> bool {
        self.note
    }

    pub(crate) fn new(kind: &CauseKind, certainty: Certainty, title: impl Into<String>) -> Self {
        Self {
            id: kind.id,
            title: title.into(),
            certainty,
            note: certainty == Certainty::Possible && kind.harmless,
            evidence: Vec::new(),
            fix: String::new(),
            place: Place::default(),
            commands: Vec::new(),
            compared: 0,
            repairs_tried: 0,
            ruled_out: Vec::new(),
            changes: Vec::new(),
            explains: None,
            besides: String::new(),
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

    /// A change that may repair it.
    pub(crate) fn change(mut self, netns: NetnsId, change: Change) -> Self {
        self.changes.push((netns, change));
        self
    }

    /// The same, where there is one.
    pub(crate) fn may_repair(self, netns: NetnsId, change: Option<Change>) -> Self {
        match change {
            Some(change) => self.change(netns, change),
            None => self,
        }
    }

    /// A repair is looked for once for each fault: what was found for it before holds for it again.
    pub(crate) fn or_repaired_as(mut self, before: &Self) -> Self {
        if self.compared == 0 {
            self.compared = before.compared;
        }
        if self.repairs_tried == 0 && before.repairs_tried > 0 {
            self.repairs_tried = before.repairs_tried;
            if !before.commands.is_empty() {
                (self.fix, self.commands) = (before.fix.clone(), before.commands.clone());
                self.changes.clone_from(&before.changes);
            }
        }
        self
    }

    pub(crate) fn rules_out(mut self, text: impl Into<String>) -> Self {
        self.ruled_out.push(text.into());
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
