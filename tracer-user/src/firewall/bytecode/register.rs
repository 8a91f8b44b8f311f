// SPDX-License-Identifier: MIT OR Apache-2.0
//! Registers: not what is in them, but where it comes from.

use crate::firewall::bytecode::wire;

/// Registers of 4 bytes; those of 16 are four of these.
const REGISTERS: usize = 20;
/// NFT_REG32_00: below it are registers of 16 bytes.
const FIRST_SHORT: u32 = 8;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Bytes of the packet, from a header's begin (NFT_PAYLOAD_*).
    Payload {
        base: u32,
        offset: u32,
    },
    /// NFT_META_*.
    Meta(u32),
    /// NFT_CT_*, and IP_CT_DIR_* where it asks for one.
    Ct {
        key: u32,
        direction: Option<u8>,
    },
    /// NFT_FIB_RESULT_*, NFTA_FIB_F_*.
    Fib {
        result: u32,
        flags: u32,
    },
    /// By chance or count: 0 to modulus.
    Chance {
        words: String,
        modulus: u32,
        offset: u32,
    },
    Constant(Vec<u8>),
    /// What the map gives for the key is not known: another field asks.
    Other(String),
}

/// `(source & and) ^ xor`, byte by byte as it lies in the register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) source: Source,
    pub(super) length: usize,
    /// Empty: all ones.
    pub(super) and: Vec<u8>,
    /// Empty: all zeros.
    pub(super) xor: Vec<u8>,
    /// Bytes of a number of the machine's order were put in network order.
    pub(super) swapped: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Registers(Vec<(usize, Value)>);

impl Registers {
    /// The values from a register on, `length` bytes in all when that is given. Each begins at a multiple of four.
    pub(super) fn load(&self, register: Option<u32>, length: Option<usize>) -> Vec<&Value> {
        let mut out = Vec::new();
        let Some(start) = register.and_then(place) else { return out };
        let mut at = start;
        while let Some((_, value)) = self.0.iter().find(|(place, _)| *place == at) {
            out.push(value);
            at += value.length.div_ceil(4).max(1);
            if length.is_none_or(|length| (at - start) * 4 >= length) {
                break;
            }
        }
        out
    }

    pub(super) fn one(&self, register: Option<u32>) -> Option<&Value> {
        self.load(register, None).first().copied()
    }

    pub(super) fn store(&mut self, register: Option<u32>, value: Value) {
        let Some(start) = register.and_then(place) else { return };
        let end = start + value.length.div_ceil(4).max(1);
        self.0.retain(|(at, old)| *at >= end || at + old.length.div_ceil(4).max(1) <= start);
        self.0.push((start, value));
    }
}

fn place(register: u32) -> Option<usize> {
    let at = match register {
        1..=4 => (register - 1) * 4,
        FIRST_SHORT.. => register - FIRST_SHORT,
        _ => return None,
    };
    usize::try_from(at).ok().filter(|at| *at < REGISTERS)
}

impl Value {
    pub(super) fn new(source: Source, length: usize) -> Self {
        Self { source, length, and: Vec::new(), xor: Vec::new(), swapped: false }
    }

    pub(super) fn constant(bytes: &[u8]) -> Self {
        Self::new(Source::Constant(bytes.to_vec()), bytes.len())
    }

    /// `(self & mask) ^ xor`.
    pub(super) fn masked(&self, mask: &[u8], xor: &[u8]) -> Self {
        let mut out = self.clone();
        let byte = |bytes: &[u8], at: usize, other| bytes.get(at).copied().unwrap_or(other);
        out.and = (0..self.length).map(|at| byte(&self.and, at, 0xff) & byte(mask, at, 0xff)).collect();
        out.xor = (0..self.length)
            .map(|at| byte(&self.xor, at, 0) & byte(mask, at, 0xff) ^ byte(xor, at, 0))
            .collect();
        if let Source::Constant(bytes) = &self.source {
            let value =
                bytes.iter().enumerate().map(|(at, b)| b & byte(&out.and, at, 0xff) ^ byte(&out.xor, at, 0));
            return Self::constant(&value.collect::<Vec<_>>());
        }
        out
    }

    /// The mask over all bytes; `None` when none is left out.
    pub(super) fn mask(&self) -> Option<&[u8]> {
        self.and.iter().any(|byte| *byte != 0xff).then_some(self.and.as_slice())
    }

    pub(super) fn is_xored(&self) -> bool {
        self.xor.iter().any(|byte| *byte != 0)
    }

    pub(super) fn as_constant(&self) -> Option<&[u8]> {
        match &self.source {
            Source::Constant(bytes) => Some(bytes),
            _ => None,
        }
    }
}

/// An immediate's value.
pub(super) fn immediate(nested: Option<&[u8]>) -> Option<Value> {
    wire::data(nested).map(Value::constant)
}
