// SPDX-License-Identifier: MIT OR Apache-2.0
//! Some bits of a field against a value, and halves of its range.

use super::comparison::{Bytes, Op, address, number, sided, state_of};
use super::field::Field;
use super::register::Value;
use crate::firewall::packet::CtState;
use crate::firewall::rule::{Criterion, IpRange, Match};
use crate::node::IpPrefix;

/// struct iphdr's fragment offset, without the flags.
const IP_OFFSET: [u8; 2] = 0x1fffu16.to_be_bytes();

/// `field & mask` against a value.
pub(super) fn masked(field: &Field, value: &Value, op: Op, mask: &[u8], bytes: &[u8]) -> Option<Match> {
    let negated = match op {
        Op::Eq => false,
        Op::Ne => true,
        _ => return None,
    };
    let zero = bytes.iter().all(|byte| *byte == 0);
    let is = |what| Some(Match { negated, what });
    // "Some of these bits": not equal to none of them.
    let some = |what| zero.then_some(Match { negated: !negated, what });
    match field {
        Field::Address(side, family) if value.length == mask.len() => {
            let ones: u32 = mask.iter().map(|byte| byte.count_ones()).sum();
            let leading = mask.iter().take_while(|byte| **byte == 0xff).count() * 8
                + mask.iter().find(|byte| **byte != 0xff).map_or(0, |byte| byte.leading_ones() as usize);
            let (address, _) = (address(bytes, *family)?, ());
            let prefix = IpPrefix::new(
                address,
                u8::try_from(ones).ok().filter(|ones| usize::from(*ones) == leading)?,
            )?;
            // Bits beyond the mask: it never holds.
            (prefix.address() == address).then_some(())?;
            is(sided(*side, vec![IpRange::from(prefix)], Criterion::Source, Criterion::Destination))
        }
        Field::Mark => is(Criterion::Mark { value: number(bytes, true)?, mask: number(mask, true)? }),
        Field::Connmark => is(Criterion::Connmark { value: number(bytes, true)?, mask: number(mask, true)? }),
        Field::State => {
            let bits = number(mask, true)?;
            let all = (0..32).map(|bit| 1u32 << bit).filter(|bit| bits & bit != 0);
            some(Criterion::CtState(all.map(state_of).collect::<Option<_>>()?))
        }
        Field::Status => {
            let states = match number(mask, true)? {
                0x10 => vec![CtState::Snat],
                0x20 => vec![CtState::Dnat],
                0x30 => vec![CtState::Snat, CtState::Dnat],
                _ => return None,
            };
            some(Criterion::CtState(states))
        }
        Field::TcpFlags => is(Criterion::TcpFlags { mask: *mask.first()?, value: *bytes.first()? }),
        Field::Fragment if mask == IP_OFFSET => some(Criterion::Fragment),
        _ => None,
    }
}

/// The range that `<`, `<=`, `>` or `>=` means.
pub(super) fn half(op: Op, bytes: &[u8], host: bool) -> Option<Bytes> {
    let mut number = bytes.to_vec();
    let big = host && cfg!(target_endian = "little");
    if big {
        number.reverse();
    }
    let step = |up: bool| {
        let mut out = number.clone();
        for byte in out.iter_mut().rev() {
            let (next, over) = if up { byte.overflowing_add(1) } else { byte.overflowing_sub(1) };
            *byte = next;
            if !over {
                return Some(out);
            }
        }
        None
    };
    let (least, most) = (vec![0; bytes.len()], vec![0xff; bytes.len()]);
    let (mut first, mut last) = match op {
        Op::Lt => (least, step(false)?),
        Op::Le => (least, number),
        Op::Gt => (step(true)?, most),
        Op::Ge => (number, most),
        Op::Eq | Op::Ne => return None,
    };
    if big {
        first.reverse();
        last.reverse();
    }
    Some((first, last))
}
