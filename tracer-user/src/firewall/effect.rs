// SPDX-License-Identifier: MIT OR Apache-2.0
//! What rules do to a packet.

use super::at::At;
use super::packet::PacketView;
use super::rule::{ConnmarkOp, Target};

/// Something a rule did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effect<'e> {
    pub at: At<'e>,
    pub done: Done<'e>,
    /// False: it is not certain that the rule was reached and matched.
    pub certain: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done<'e> {
    /// The packet's mark; `None`: not known.
    Mark {
        from: Option<u32>,
        to: Option<u32>,
    },
    /// The connection's mark.
    Connmark {
        from: Option<u32>,
        to: Option<u32>,
    },
    /// Snat, Dnat, Masquerade or Redirect.
    Nat(&'e Target),
    Notrack,
    TcpMss(Option<u16>),
    Tproxy(&'e Target),
    /// A target that is not understood.
    Unknown(&'e Target),
}

impl Effect<'_> {
    pub fn is_nat(&self) -> bool {
        matches!(self.done, Done::Nat(_))
    }

    /// It may have left the mark at `to`.
    pub fn may_mark(&self, to: u32) -> bool {
        match self.done {
            Done::Mark { from, to: set } => set.is_none_or(|set| set == to) && (from != set || set.is_none()),
            _ => false,
        }
    }
}

impl<'e> Done<'e> {
    /// Does it to the packet. When it is not certain, what it would change is not known afterwards.
    pub(super) fn of(target: &'e Target, packet: &mut PacketView, certain: bool) -> Option<Self> {
        let keep = |from: Option<u32>, to: Option<u32>| if certain || from == to { to } else { None };
        Some(match target {
            Target::Mark { value, mask } => {
                let from = packet.mark;
                let to = apply(from, *value, *mask);
                packet.mark = keep(from, to);
                Self::Mark { from, to }
            }
            Target::Connmark(ConnmarkOp::Restore { ct_mask, mask }) => {
                let from = packet.mark;
                let to = packet.ct_mark.and_then(|ct| apply(from, ct & ct_mask, *mask));
                packet.mark = keep(from, to);
                Self::Mark { from, to }
            }
            Target::Connmark(ConnmarkOp::Save { ct_mask, mask }) => {
                let from = packet.ct_mark;
                let to = packet.mark.and_then(|mark| apply(from, mark & mask, *ct_mask));
                packet.ct_mark = keep(from, to);
                Self::Connmark { from, to }
            }
            Target::Connmark(ConnmarkOp::Set { value, mask }) => {
                let from = packet.ct_mark;
                let to = apply(from, *value, *mask);
                packet.ct_mark = keep(from, to);
                Self::Connmark { from, to }
            }
            Target::Dnat(_) | Target::Snat(_) | Target::Masquerade { .. } | Target::Redirect { .. } => {
                Self::Nat(target)
            }
            Target::Notrack => Self::Notrack,
            Target::TcpMss(mss) => Self::TcpMss(*mss),
            Target::Tproxy(_) => Self::Tproxy(target),
            Target::Other(_) => {
                packet.mark = None;
                Self::Unknown(target)
            }
            _ => return None,
        })
    }
}

/// `(old & !mask) ^ value`; known without the old one when the mask covers all.
fn apply(old: Option<u32>, value: u32, mask: u32) -> Option<u32> {
    match old {
        Some(old) => Some((old & !mask) ^ value),
        None if mask == u32::MAX => Some(value),
        None => None,
    }
}
