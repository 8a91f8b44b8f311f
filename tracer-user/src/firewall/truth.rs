// SPDX-License-Identifier: MIT OR Apache-2.0
//! Yes, no, or unknown.

/// What is known of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    Yes,
    No,
    Unknown,
}

impl Truth {
    pub(super) fn of(value: bool) -> Self {
        if value { Self::Yes } else { Self::No }
    }

    pub(super) fn of_known(value: Option<bool>) -> Self {
        value.map_or(Self::Unknown, Self::of)
    }

    pub(super) fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Yes, _) | (_, Self::Yes) => Self::Yes,
            (Self::No, Self::No) => Self::No,
            _ => Self::Unknown,
        }
    }

    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Yes, Self::Yes) => Self::Yes,
            _ => Self::Unknown,
        }
    }
}

impl std::ops::Not for Truth {
    type Output = Self;

    fn not(self) -> Self {
        match self {
            Self::Yes => Self::No,
            Self::No => Self::Yes,
            Self::Unknown => Self::Unknown,
        }
    }
}

/// `+` (iptables) and `*` (nft) at the end stand for any rest. No device has the empty name.
pub(super) fn device(names: &[String], device: Option<&str>) -> Truth {
    let Some(device) = device else { return Truth::Unknown };
    let is = |name: &String| match name.strip_suffix(['+', '*']) {
        Some(start) => device.starts_with(start),
        None => device == name,
    };
    Truth::of(names.iter().any(is))
}
