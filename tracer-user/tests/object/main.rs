// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the BPF object in the binary promises, checked in its instructions.
#![cfg(target_endian = "little")]

mod code;
mod values;

use std::collections::{BTreeMap, BTreeSet};

use code::{At, Call, Code, Function};
use object::build::elf::Builder;
use object::{Object as _, ObjectSection as _};
use tracer_common::{Event, FIELD_SPECS, Fields};
use tracer_user::bpf::btf::KernelBtf;
use values::Value;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/egwtrace.bpf"));

/// What a program may ask of the kernel; numbers of `enum bpf_func_id`, include/uapi/linux/bpf.h. None of these
/// changes a packet, its mark, or anything else outside our maps.
const HELPERS: [(i32, &str); 12] = [
    (1, "map_lookup_elem"),
    (2, "map_update_elem"),
    (3, "map_delete_elem"),
    (5, "ktime_get_ns"),
    (8, "get_smp_processor_id"),
    (26, "skb_load_bytes"),
    (67, "get_stack"),
    (113, "probe_read_kernel"),
    (130, "ringbuf_output"),
    (RINGBUF_RESERVE, "ringbuf_reserve"),
    (132, "ringbuf_submit"),
    (133, "ringbuf_discard"),
];
const RINGBUF_RESERVE: i32 = 131;
/// MAX_BPF_STACK, and what kernels before 6.8 round each frame of a chain of calls up to (later ones: 16 where there
/// is a JIT; kernel/bpf/verifier.c).
const STACK: i64 = 512;
const FRAME: u64 = 32;

/// Functions that some program may run, with the address of each.
fn running(code: &Code) -> BTreeMap<At, &Function> {
    let all: BTreeSet<At> = code.programs().flat_map(|(at, _)| code.reachable(at)).collect();
    all.into_iter().map(|at| (at, &code.functions[&at])).collect()
}

/// What a program must return for its packet to go on as if it had not been there.
fn verdict(section: &str) -> i64 {
    match section {
        // TCX_NEXT, TC_ACT_UNSPEC: the return value is 32 bits wide.
        "classifier" => 0xffff_ffff,
        // NF_ACCEPT
        name if name.starts_with("raw_tp/nf_pos") => 1,
        // Ignored.
        name if name.starts_with("tp_btf/") => 0,
        name => panic!("what do programs in section {name} return?"),
    }
}

#[test]
fn every_packet_goes_on() {
    let code = Code::parse(OBJECT);
    let mut kinds = BTreeMap::<i64, usize>::new();
    for (_, program) in code.programs() {
        let verdict = verdict(&program.section);
        *kinds.entry(verdict).or_default() += 1;
        let before = values::before_each(program);
        let exits: Vec<Value> = program
            .code
            .iter()
            .zip(before)
            .filter_map(|(insn, registers)| insn.is_exit().then_some(registers?[0]))
            .collect();
        assert!(!exits.is_empty(), "{} has no end", program.name);
        for returned in exits {
            let Value::Const(returned) = returned else {
                panic!("{} may return anything: {returned:?}", program.name);
            };
            assert_eq!(returned & 0xffff_ffff, verdict, "{}", program.name);
        }
    }
    assert_eq!(kinds.get(&1), Some(&tracer_common::NF_POSITIONS));
    assert_eq!(kinds.get(&0xffff_ffff), Some(&4));
}

#[test]
fn programs_ask_the_kernel_for_nothing_but_to_look() {
    for function in running(&Code::parse(OBJECT)).values() {
        for (at, call) in function.calls() {
            match call {
                Call::Helper(number) => assert!(
                    HELPERS.iter().any(|(allowed, _)| *allowed == number),
                    "{} calls helper {number}",
                    function.name
                ),
                Call::Function(_) => {}
                Call::Other => panic!("{}, instruction {at}: calls something unknown", function.name),
            }
        }
    }
}

/// A socket filter may read what a tc program may, but the verifier lets it write to no field of the packet
/// besides `cb`.
#[test]
fn the_verifier_takes_tc_programs_for_socket_filters() {
    let btf = match KernelBtf::load() {
        Ok(btf) if is_root() => btf,
        Ok(_) => return println!("SKIP needs root"),
        Err(error) => return println!("SKIP {error}"),
    };
    let (fields, _) = btf.resolve_fields();
    let mut builder = Builder::read(OBJECT).unwrap();
    for section in &mut builder.sections {
        if section.name.as_slice() == b"classifier" {
            section.name = b"socket"[..].into();
        }
        // It knows the section by its other name.
        section.delete = section.name.as_slice().starts_with(b".BTF");
    }
    builder.delete_orphans();
    let mut object = Vec::new();
    builder.write(&mut object).unwrap();
    let mut loader = aya::EbpfLoader::new();
    let mut programs = loader.override_global("FIELDS", bytes_of(&fields), true).load(&object).unwrap();
    for name in ["tc_ingress", "tc_egress", "tc_ingress_l3", "tc_egress_l3"] {
        let program: &mut aya::programs::SocketFilter =
            programs.program_mut(name).unwrap().try_into().unwrap();
        program.load().unwrap_or_else(|error| panic!("{name}: {error:?}"));
    }
}

#[test]
fn programs_neither_panic_nor_copy_byte_by_byte() {
    for function in running(&Code::parse(OBJECT)).values() {
        let name = &function.name;
        for unwanted in ["panic", "unwind", "memcpy", "memset", "memmove", "memcmp", "bcmp"] {
            assert!(!name.contains(unwanted), "something calls {name}");
        }
        // The one loop of the source reads a header in each round; others would be the compiler's.
        assert!(!function.has_a_loop_without_calls(), "{name} has a loop");
    }
}

#[test]
fn the_stack_suffices_for_every_chain_of_calls() {
    let code = Code::parse(OBJECT);
    for (at, _) in code.programs() {
        let chain = deepest(&code, at);
        let depth: i64 = chain.iter().map(|(_, frame)| frame).sum();
        assert!(depth <= STACK, "{depth} bytes: {chain:?}");
    }
}

/// The chain of calls that takes most of the stack: functions and their frames. There is no recursion.
fn deepest(code: &Code, at: At) -> Vec<(&str, i64)> {
    let function = &code.functions[&at];
    let frame = (values::stack_size(function) as u64).max(1).next_multiple_of(FRAME) as i64;
    let below = function.calls().filter_map(|(_, call)| match call {
        Call::Function(to) => Some(deepest(code, to)),
        _ => None,
    });
    let below = below.max_by_key(|chain| chain.iter().map(|(_, frame)| frame).sum::<i64>());
    let own = (function.name.as_str(), frame);
    [own].into_iter().chain(below.into_iter().flatten()).collect()
}

#[test]
fn records_have_the_size_that_user_space_reads() {
    let mut reserved = 0;
    for function in running(&Code::parse(OBJECT)).values() {
        let before = values::before_each(function);
        for (at, _) in function.calls().filter(|(_, call)| *call == Call::Helper(RINGBUF_RESERVE)) {
            let Some(registers) = before[at] else { continue };
            assert_eq!(registers[2], Value::Const(size_of::<Event>() as i64), "{}", function.name);
            reserved += 1;
        }
    }
    assert_eq!(size_of::<Event>(), 128);
    assert!(reserved > 0);
}

#[test]
fn the_object_has_its_types_and_no_dwarf() {
    let elf = object::File::parse(OBJECT).unwrap();
    let names: Vec<String> = elf.sections().map(|section| section.name().unwrap().to_owned()).collect();
    for needed in [".BTF", ".BTF.ext", "license", "maps"] {
        assert!(names.iter().any(|name| name == needed), "no {needed} in {names:?}");
    }
    assert!(!names.iter().any(|name| name.contains("debug")), "{names:?}");
}

fn bytes_of(fields: &Fields) -> &[u8] {
    const { assert!(size_of::<Fields>() == FIELD_SPECS.len() * 4) };
    // SAFETY: a structure of `i32` only, by the assertion without padding; the slice borrows it.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(fields).cast(), size_of::<Fields>()) }
}

fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() == 0 }
}
