// SPDX-License-Identifier: MIT OR Apache-2.0
//! Kinds of address translation.

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NatKind {
    #[serde(rename = "SNAT")]
    Snat,
    #[serde(rename = "DNAT")]
    Dnat,
    #[serde(rename = "SNAT+DNAT")]
    Both,
    #[serde(rename = "un-SNAT")]
    UnSnat,
    #[serde(rename = "un-DNAT")]
    UnDnat,
    #[serde(rename = "un-SNAT+DNAT")]
    UnBoth,
}

impl NatKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Snat => "SNAT",
            Self::Dnat => "DNAT",
            Self::Both => "SNAT+DNAT",
            Self::UnSnat => "un-SNAT",
            Self::UnDnat => "un-DNAT",
            Self::UnBoth => "un-SNAT+DNAT",
        }
    }
}
