// SPDX-License-Identifier: MIT OR Apache-2.0
//! The functions of a BPF object: instructions, and which function calls which.
//! (The instruction set: RFC 9669; the numbers of calls' kinds: include/uapi/linux/bpf.h.)

use std::collections::{BTreeMap, BTreeSet};

use object::{Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionKind, SymbolKind};

const LD_IMM64: u8 = 0x18;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const JUMP: u8 = 0x05;
const JUMP32: u8 = 0x06;
const PSEUDO_CALL: u8 = 1;
/// In `src` of a [`LD_IMM64`]: the address of a function, for a helper that calls it.
const PSEUDO_FUNC: u8 = 4;

/// Section index and offset in it: what identifies a function.
pub(crate) type At = (usize, u64);

#[derive(Clone, Copy, Debug)]
pub(crate) struct Insn {
    pub(crate) op: u8,
    pub(crate) dst: usize,
    pub(crate) src: usize,
    pub(crate) off: i16,
    pub(crate) imm: i32,
    pub(crate) call: Option<Call>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// By its number in `enum bpf_func_id`.
    Helper(i32),
    /// A function of the object, called or handed to a helper.
    Function(At),
    /// Anything else: functions of the kernel, calls through a register.
    Other,
}

#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) section: String,
    pub(crate) code: Vec<Insn>,
}

pub(crate) struct Code {
    pub(crate) functions: BTreeMap<At, Function>,
}

impl Code {
    pub(crate) fn parse(elf: &[u8]) -> Result<Self, Box<dyn std::error::Error>> {
        let elf = object::File::parse(elf)?;
        let mut functions = BTreeMap::new();
        for symbol in elf.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text) {
            let section = elf.section_by_index(symbol.section_index().ok_or("a function in no section")?)?;
            assert_eq!(section.kind(), SectionKind::Text);
            let (start, end) = (symbol.address(), symbol.address() + symbol.size());
            let bytes = &section.data()?[start as usize..end as usize];
            let mut code: Vec<Insn> = bytes.as_chunks().0.iter().map(|bytes| Insn::parse(*bytes)).collect();
            for (at, relocation) in section.relocations().filter(|(at, _)| (start..end).contains(at)) {
                let insn = &mut code[((at - start) / 8) as usize];
                let RelocationTarget::Symbol(to) = relocation.target() else { panic!("relocation at {at}") };
                let to = elf.symbol_by_index(to)?;
                if !insn.names_a_function() {
                    continue;
                }
                // The number in the instruction counts from the section's symbol, not from a function's.
                let addend = match (to.kind(), insn.op) {
                    (SymbolKind::Section, CALL) => (insn.imm + 1) as u64 * 8,
                    (SymbolKind::Section, _) => insn.imm as u64,
                    _ => 0,
                };
                let section = to.section_index().ok_or("a call out of the object")?;
                insn.call = Some(Call::Function((section.0, to.address() + addend)));
            }
            let at = (section.index().0, start);
            for (index, insn) in code.iter_mut().enumerate() {
                if insn.names_a_function() && insn.call.is_none() {
                    let target = (index as i64 + 1 + i64::from(insn.imm)) * 8 + start as i64;
                    insn.call = Some(Call::Function((at.0, target as u64)));
                }
            }
            let name = symbol.name()?.to_owned();
            functions.insert(at, Function { name, section: section.name()?.to_owned(), code });
        }
        Ok(Self { functions })
    }

    /// Functions that the kernel runs by themselves, with their address.
    pub(crate) fn programs(&self) -> impl Iterator<Item = (At, &Function)> {
        self.functions.iter().filter(|(_, function)| function.section != ".text").map(|(at, f)| (*at, f))
    }

    /// `from` and all that it calls, directly or not.
    pub(crate) fn reachable(&self, from: At) -> BTreeSet<At> {
        let mut seen = BTreeSet::new();
        let mut todo = vec![from];
        while let Some(at) = todo.pop() {
            if seen.insert(at) {
                let function = self.functions.get(&at).unwrap_or_else(|| panic!("no function at {at:?}"));
                todo.extend(function.calls().filter_map(|(_, call)| match call {
                    Call::Function(to) => Some(to),
                    _ => None,
                }));
            }
        }
        seen
    }
}

impl Function {
    /// Goes in a circle somewhere without asking the kernel anything on the way.
    pub(crate) fn has_a_loop_without_calls(&self) -> bool {
        // Takes away, again and again, what nothing leads to, or what is a call: what stays is on a loop.
        let mut left: Vec<bool> = self.code.iter().map(|insn| !insn.is_call()).collect();
        loop {
            let mut led_to = vec![false; self.code.len()];
            for at in (0..self.code.len()).filter(|at| left[*at]) {
                self.successors(at).into_iter().for_each(|next| led_to[next] = true);
            }
            let before = left.clone();
            left.iter_mut().zip(led_to).for_each(|(left, led_to)| *left &= led_to);
            if left == before {
                return left.contains(&true);
            }
        }
    }

    /// Calls, with the index of their instruction.
    pub(crate) fn calls(&self) -> impl Iterator<Item = (usize, Call)> {
        self.code.iter().enumerate().filter_map(|(at, insn)| Some((at, insn.call?)))
    }

    /// Where execution may go after the instruction at `at`.
    pub(crate) fn successors(&self, at: usize) -> Vec<usize> {
        let insn = &self.code[at];
        let to = |distance: i32| at.strict_add_signed(1 + distance as isize);
        match insn.op {
            EXIT => vec![],
            // Two instructions long.
            LD_IMM64 => vec![at + 2],
            op if insn.is_jump() => match op {
                JUMP => vec![to(insn.off.into())],
                // The 32-bit one has a longer way to go.
                op if op == JUMP32 => vec![to(insn.imm)],
                _ => vec![at + 1, to(insn.off.into())],
            },
            _ => vec![at + 1],
        }
    }
}

impl Insn {
    fn parse([op, registers, off0, off1, imm @ ..]: [u8; 8]) -> Self {
        let (dst, src) = (registers & 15, registers >> 4);
        let imm = i32::from_le_bytes(imm);
        let call = match (op, src) {
            (CALL, 0) => Some(Call::Helper(imm)),
            (CALL, PSEUDO_CALL) | (LD_IMM64, PSEUDO_FUNC) => None,
            // By register (`callx`), or a function of the kernel.
            (CALL, _) | (0x8d, _) => Some(Call::Other),
            _ => None,
        };
        let off = i16::from_le_bytes([off0, off1]);
        Self { op, dst: dst.into(), src: src.into(), off, imm, call }
    }

    /// An instruction whose function is found through its relocation, or beside it.
    fn names_a_function(&self) -> bool {
        matches!((self.op, self.src as u8), (CALL, PSEUDO_CALL) | (LD_IMM64, PSEUDO_FUNC))
    }

    pub(crate) fn class(&self) -> u8 {
        self.op & 7
    }

    pub(crate) fn is_exit(&self) -> bool {
        self.op == EXIT
    }

    pub(crate) fn is_call(&self) -> bool {
        self.op == CALL || self.op == 0x8d
    }

    pub(crate) fn is_jump(&self) -> bool {
        matches!(self.class(), JUMP | JUMP32) && !self.is_exit() && !self.is_call()
    }
}
