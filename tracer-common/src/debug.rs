// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the programs say of themselves with `--debug-bpf`.

use crate::{Kind, Tuple};

/// What happened.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DebugCode {
    /// The packet is not of the flow. `arg`: address of the skb.
    Miss = 1,
    /// The packet is of the flow. `arg`: address of the skb.
    Hit = 2,
    /// The conntrack entry at `arg` has this tuple: it belongs to the flow, and so does its reverse.
    Followed = 3,
    /// The tuple was learned from a conntrack entry that has gone, not from the one at `arg`: forgotten.
    Forgotten = 4,
}

impl DebugCode {
    pub const fn parse(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Miss,
            2 => Self::Hit,
            3 => Self::Followed,
            4 => Self::Forgotten,
            _ => return None,
        })
    }
}

/// One message: 64 bytes, no holes, host order besides the addresses.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DebugRecord {
    /// CLOCK_MONOTONIC, ns.
    pub ts: u64,
    /// By code.
    pub arg: u64,
    /// Flow; 0 none.
    pub flow: u32,
    pub cpu: u16,
    /// A [`DebugCode`].
    pub code: u8,
    /// A [`Kind`]: which program says it; 0 where that is not known.
    pub kind: u8,
    /// All zero where there is none.
    pub tuple: Tuple,
}

const _: () = assert!(size_of::<DebugRecord>() == 64);

impl DebugRecord {
    /// Decodes a message from its ring buffer. `None` when the length or the code is not one of ours.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != size_of::<Self>() {
            return None;
        }
        // SAFETY: `repr(C)` without padding, made of integers only: every bit pattern is a valid value, and the
        // length was checked.
        let record = unsafe { core::ptr::read_unaligned(bytes.as_ptr().cast::<Self>()) };
        record.code().map(|_| record)
    }

    pub fn code(&self) -> Option<DebugCode> {
        DebugCode::parse(self.code)
    }

    pub fn kind(&self) -> Option<Kind> {
        Kind::parse(self.kind)
    }
}
