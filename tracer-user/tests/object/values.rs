// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is known of the registers at each instruction of a function: which are constants, which point into the
//! stack. A register that may be anything, or different things on different ways, is `Unknown`; so what is said
//! here holds on every way through the function.

use super::code::{Call, Function, Insn};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Unknown,
    Const(i64),
    /// This many bytes from the top of the function's stack, which is at 0 and grows down.
    Stack(i64),
    /// Points into what a map was found to have, or null.
    Lookup,
}
use Value::{Const, Lookup, Stack, Unknown};

pub(crate) type Registers = [Value; 11];

const LOAD: u8 = 1;
const STORE: u8 = 2;
const STORE_REGISTER: u8 = 3;
const ALU32: u8 = 4;
const ALU64: u8 = 7;
/// Helper.
const MAP_LOOKUP_ELEM: i32 = 1;
/// Mode of a [`STORE_REGISTER`].
const ATOMIC: u8 = 0xc0;
/// Operation of an atomic one.
const COMPARE_AND_EXCHANGE: i32 = 0xf1;

/// The registers before each instruction; `None` where it is never reached.
pub(crate) fn before_each(function: &Function) -> Vec<Option<Registers>> {
    let mut states: Vec<Option<Registers>> = vec![None; function.code.len()];
    let mut start = [Unknown; 11];
    start[10] = Stack(0);
    states[0] = Some(start);
    let mut todo = vec![0];
    while let Some(at) = todo.pop() {
        let Some(before) = states[at] else { continue };
        let after = step(&function.code[at], &before);
        for next in function.successors(at) {
            let merged = states[next].map_or(after, |known| merge(&known, &after));
            if states[next] != Some(merged) {
                states[next] = Some(merged);
                todo.push(next);
            }
        }
    }
    states
}

/// The lowest byte of the stack that the function names, as a size.
pub(crate) fn stack_size(function: &Function) -> i64 {
    let mut lowest = 0;
    for (insn, registers) in function.code.iter().zip(before_each(function)) {
        let Some(registers) = registers else { continue };
        let base = match insn.class() {
            LOAD => registers[insn.src],
            STORE | STORE_REGISTER => registers[insn.dst],
            _ => Unknown,
        };
        if let Stack(at) = base {
            lowest = lowest.min(at + i64::from(insn.off));
        }
        // Pointers that are made to be handed on.
        for value in step(insn, &registers) {
            if let Stack(at) = value {
                lowest = lowest.min(at);
            }
        }
    }
    -lowest
}

/// Instructions that store elsewhere than on the stack and in a map.
pub(crate) fn stores_elsewhere(function: &Function) -> Vec<usize> {
    let stores = |(at, (insn, registers)): (usize, (&Insn, Option<Registers>))| {
        let is_store = matches!(insn.class(), STORE | STORE_REGISTER);
        (is_store && !matches!(registers?[insn.dst], Stack(_) | Lookup)).then_some(at)
    };
    function.code.iter().zip(before_each(function)).enumerate().filter_map(stores).collect()
}

fn merge(a: &Registers, b: &Registers) -> Registers {
    std::array::from_fn(|r| if a[r] == b[r] { a[r] } else { Unknown })
}

fn step(insn: &Insn, before: &Registers) -> Registers {
    let mut registers = *before;
    if insn.is_call() {
        registers[..6].fill(Unknown);
        if insn.call == Some(Call::Helper(MAP_LOOKUP_ELEM)) {
            registers[0] = Lookup;
        }
        return registers;
    }
    match insn.class() {
        ALU32 | ALU64 => registers[insn.dst] = computed(insn, before),
        LOAD => registers[insn.dst] = Unknown,
        // Wide constants: addresses of maps, mostly.
        0 => registers[insn.dst] = Unknown,
        STORE_REGISTER if insn.op & 0xe0 == ATOMIC => {
            // Whether it fetches or not; compare-and-exchange answers in r0.
            registers[insn.src] = Unknown;
            if insn.imm == COMPARE_AND_EXCHANGE {
                registers[0] = Unknown;
            }
        }
        _ => {}
    }
    registers
}

fn computed(insn: &Insn, registers: &Registers) -> Value {
    let operand = if insn.op & 8 != 0 { registers[insn.src] } else { Const(insn.imm.into()) };
    let is_64 = insn.class() == ALU64;
    match (insn.op >> 4, registers[insn.dst], operand, insn.off) {
        // mov; with an offset it extends a sign.
        (0xb, _, Const(value), 0) => Const(if is_64 { value } else { i64::from(value as u32) }),
        (0xb, _, value, 0) if is_64 => value,
        (0, Stack(at), Const(by), _) if is_64 => Stack(at + by),
        (1, Stack(at), Const(by), _) if is_64 => Stack(at - by),
        (0, Lookup, Const(_), _) if is_64 => Lookup,
        _ => Unknown,
    }
}
