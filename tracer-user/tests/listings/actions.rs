// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a statement does.

use serde_json::Value;

use super::values::{addresses, each, number, ports, short};
use tracer_user::firewall::{ConnmarkOp, NatTo, Target};
use tracer_user::text::printable;

/// `None`: nothing that matters to the walk.
pub(crate) fn action(kind: &str, value: &Value) -> Option<Target> {
    let target = || value.get("target").and_then(Value::as_str).map(printable);
    let text = || format!("{kind} {}", short(value));
    Some(match kind {
        "accept" => Target::Accept,
        "drop" => Target::Drop,
        "return" => Target::Return,
        "continue" => return None,
        "jump" => target().map_or_else(|| Target::Other(text()), Target::Jump),
        "goto" => target().map_or_else(|| Target::Other(text()), Target::Goto),
        "reject" => {
            let with =
                ["type", "expr"].map(|name| value.get(name).and_then(Value::as_str).unwrap_or_default());
            Target::Reject { with: printable(with.join(" ").trim()) }
        }
        "mangle" => mangle(value).unwrap_or_else(|| Target::Log(text())),
        "snat" => Target::Snat(nat(value)),
        "dnat" => Target::Dnat(nat(value)),
        "masquerade" => {
            Target::Masquerade { ports: value.get("port").and_then(ports), random: nat(value).random }
        }
        "redirect" => {
            Target::Redirect { ports: value.get("port").and_then(ports), random: nat(value).random }
        }
        "notrack" => Target::Notrack,
        "tproxy" => Target::Tproxy(text()),
        "queue" => Target::Queue(text()),
        "ct helper" | "ct timeout" | "ct expectation" => Target::Ct(text()),
        "log" | "set" | "map" | "meter" | "dup" | "flow" | "last" => Target::Log(text()),
        _ => Target::Other(text()),
    })
}

fn nat(value: &Value) -> NatTo {
    let has = |wanted: &str| {
        value.get("flags").is_some_and(|flags| each(flags).any(|f| f.as_str().is_some_and(|f| f == wanted)))
    };
    NatTo {
        addresses: value.get("addr").and_then(addresses),
        ports: value.get("port").and_then(ports),
        random: has("random") || has("fully-random"),
        persistent: has("persistent"),
    }
}

/// A mark is set. `None`: something else is, or in a way that is not understood.
fn mangle(value: &Value) -> Option<Target> {
    let key = Mark::of(value.get("key")?)?;
    let from = value.get("value")?;
    let (source, and, xor) = combined(from)?;
    Some(match (key, source) {
        // new = (old & and) ^ xor, with or-ed bits already taken out of `and`.
        (Mark::Packet, None) => Target::Mark { value: xor, mask: u32::MAX },
        (Mark::Packet, Some(Mark::Packet)) => Target::Mark { value: xor, mask: !and },
        (Mark::Packet, Some(Mark::Connection)) if xor == 0 => {
            Target::Connmark(ConnmarkOp::Restore { ct_mask: and, mask: u32::MAX })
        }
        (Mark::Connection, Some(Mark::Packet)) if xor == 0 => {
            Target::Connmark(ConnmarkOp::Save { ct_mask: u32::MAX, mask: and })
        }
        (Mark::Connection, None) => Target::Connmark(ConnmarkOp::Set { value: xor, mask: u32::MAX }),
        (Mark::Connection, Some(Mark::Connection)) => {
            Target::Connmark(ConnmarkOp::Set { value: xor, mask: !and })
        }
        _ => Target::Other(format!("mark set {}", short(from))),
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Packet,
    Connection,
}

impl Mark {
    fn of(expression: &Value) -> Option<Self> {
        let is_mark = |kind| expression.get(kind).and_then(|e| e.get("key")).is_some_and(|key| key == "mark");
        if is_mark("meta") { Some(Self::Packet) } else { is_mark("ct").then_some(Self::Connection) }
    }
}

/// `(source & and) ^ xor`. nft nests as deep as it is written; more than this is not.
fn combined(expression: &Value) -> Option<(Option<Mark>, u32, u32)> {
    fn at(expression: &Value, depth: u8) -> Option<(Option<Mark>, u32, u32)> {
        if let Some(value) = number(expression) {
            return Some((None, 0, value));
        }
        if let Some(mark) = Mark::of(expression) {
            return Some((Some(mark), u32::MAX, 0));
        }
        if depth == 8 {
            return None;
        }
        let (op, both) = expression.as_object()?.iter().next()?;
        let (source, and, xor) = at(both.get(0)?, depth + 1)?;
        let operand = number(both.get(1)?)?;
        Some(match op.as_str() {
            "&" => (source, and & operand, xor & operand),
            "|" => (source, and & !operand, xor & !operand | operand),
            "^" => (source, and, xor ^ operand),
            _ => return None,
        })
    }
    at(expression, 0)
}
