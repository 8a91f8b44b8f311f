// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the BPF object in the binary promises, checked in its instructions.
#![cfg(target_endian = "little")]

mod code;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd as _;

use code::{At, Call, Code, Function};
use object::build::elf::Builder;
use object::{Object as _, ObjectSection as _};
use tracer_common::{Config, Event, Fields};
use tracer_user::bpf::btf::KernelBtf;
use tracer_user::bpf::{ProgramKind, Programs, prog_stats};
use values::Value;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/egwtrace.bpf"));

/// What a program may ask of the kernel; numbers of `enum bpf_func_id`, include/uapi/linux/bpf.h. None of these
/// changes a packet, its mark, or anything else outside our maps.
const HELPERS: [(i32, &str); 14] = [
    (1, "map_lookup_elem"),
    (2, "map_update_elem"),
    (3, "map_delete_elem"),
    (5, "ktime_get_ns"),
    (8, "get_smp_processor_id"),
    (26, "skb_load_bytes"),
    (12, "tail_call"),
    (67, "get_stack"),
    (113, "probe_read_kernel"),
    (130, "ringbuf_output"),
    (RINGBUF_RESERVE, "ringbuf_reserve"),
    (132, "ringbuf_submit"),
    (133, "ringbuf_discard"),
    // In its place comes a function of the kernel that changes the type of a pointer, for the verifier alone.
    (tracer_common::RDONLY_CAST, "bpf_rdonly_cast"),
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
        name if name.starts_with("raw_tp/nf_") => 1,
        // Ignored.
        name if name.starts_with("tp_btf/") => 0,
        name => panic!("what do programs in section {name} return?"),
    }
}

#[test]
fn every_packet_goes_on() {
    let code = Code::parse(OBJECT).unwrap();
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
    // One for each position and for each way through a device, and what they go on in.
    assert_eq!(kinds.get(&1), Some(&(tracer_common::NF_POSITIONS + 1)));
    assert_eq!(kinds.get(&0xffff_ffff), Some(&5));
}

#[test]
fn programs_ask_the_kernel_for_nothing_but_to_look() {
    for function in running(&Code::parse(OBJECT).unwrap()).values() {
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

#[test]
fn what_stands_at_devices_and_hooks_writes_to_no_packet() {
    let code = Code::parse(OBJECT).unwrap();
    let mut entries = 0;
    for (at, program) in code.programs() {
        // What they go on in is looked at otherwise, below; where types are known, packets cannot be written to.
        if program.section != "classifier" || program.name == "tc_main" {
            continue;
        }
        entries += 1;
        for function in code.reachable(at).into_iter().map(|at| &code.functions[&at]) {
            let stores = values::stores_elsewhere(function);
            assert!(stores.is_empty(), "{}, for {}: instructions {stores:?}", function.name, program.name);
        }
    }
    assert_eq!(entries, 4);
}

/// A socket filter may read what `tc_main` may, but the verifier lets it write to no field of the packet besides
/// `cb`.
#[test]
fn the_verifier_takes_tc_main_for_a_socket_filter() {
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
    let mut programs = loader.override_global("FIELDS", fields.bytes(), true).load(&object).unwrap();
    let program: &mut aya::programs::SocketFilter =
        programs.program_mut("tc_main").unwrap().try_into().unwrap();
    program.load().unwrap_or_else(|error| panic!("{error:?}"));
}

#[test]
fn programs_neither_panic_nor_copy_byte_by_byte() {
    for function in running(&Code::parse(OBJECT).unwrap()).values() {
        let name = &function.name;
        for unwanted in ["panic", "unwind", "memcpy", "memset", "memmove", "memcmp", "bcmp"] {
            assert!(!name.contains(unwanted), "something calls {name}");
        }
        // The one loop of the source reads a header in each round; others would be the compiler's. aya-log rounds
        // the size of a message up in one.
        assert!(is_message(function) || !function.has_a_loop_without_calls(), "{name} has a loop");
    }
}

#[test]
fn the_stack_suffices_for_every_chain_of_calls() {
    let code = Code::parse(OBJECT).unwrap();
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
    let mut reserved = BTreeSet::new();
    for function in running(&Code::parse(OBJECT).unwrap()).values() {
        if is_message(function) {
            continue;
        }
        let before = values::before_each(function);
        for (at, _) in function.calls().filter(|(_, call)| *call == Call::Helper(RINGBUF_RESERVE)) {
            let Some(registers) = before[at] else { continue };
            reserved.insert(format!("{:?}", registers[2]));
        }
    }
    assert_eq!(reserved, ["Const(128)".to_owned()].into());
    assert_eq!(size_of::<Event>(), 128);
}

/// Sends a message of `--debug-bpf`.
fn is_message(function: &Function) -> bool {
    function.name.contains("debug")
}

/// The constant is read where a message could be sent; nothing of the message is walked through.
#[test]
fn without_debugging_the_verifier_takes_the_messages_out() {
    let btf = match KernelBtf::load() {
        Ok(btf) if is_root() => btf,
        Ok(_) => return println!("SKIP needs root"),
        Err(error) => return println!("SKIP {error}"),
    };
    let (fields, _) = btf.resolve_fields();
    let programs = |debug: u32| {
        let config = Config { debug, kfree_skb_args: 2, ..Config::default() };
        Programs::new(OBJECT, &[("FIELDS", fields.bytes()), ("CONFIG", config.bytes())], &[]).unwrap()
    };
    let (without, with) = (programs(0), programs(1));
    let drops = btf.tracepoint_id("kfree_skb").map(|btf_id| ProgramKind::Tracepoint { btf_id });
    let kinds =
        [("tc_main", Some(ProgramKind::Tc)), ("nf_main", Some(ProgramKind::Netfilter)), ("kfree_skb", drops)];
    for (name, kind) in kinds {
        let Some(kind) = kind else { continue };
        let verified = |programs: &Programs| match programs.load(name, kind) {
            Ok(program) => Some(prog_stats(program.as_fd()).unwrap().verified_insns),
            Err(error) if error.is_unsupported() => None,
            Err(error) => panic!("{error}"),
        };
        let (Some(without), Some(with)) = (verified(&without), verified(&with)) else { continue };
        println!("{name}: {without} instructions verified, {with} with debugging");
        // Kernels before 5.16 count none.
        assert!(
            without < with || with == 0,
            "{name}: {without} instructions verified, {with} with debugging"
        );
    }
}

#[test]
fn the_verifier_takes_programs_whose_addresses_may_change() {
    let btf = match KernelBtf::load() {
        Ok(btf) if is_root() => btf,
        Ok(_) => return println!("SKIP needs root"),
        Err(error) => return println!("SKIP {error}"),
    };
    let (fields, _) = btf.resolve_fields();
    for follow in [tracer_common::FOLLOW_SRC, tracer_common::FOLLOW_DST] {
        let config = Config { follow, dport: 80, ..Config::default() };
        let globals: [(&str, &[u8]); 2] = [("FIELDS", fields.bytes()), ("CONFIG", config.bytes())];
        let programs = Programs::new(OBJECT, &globals, &[]).unwrap();
        for (name, kind) in [
            ("tc_ingress", ProgramKind::Tc),
            ("tc_main", ProgramKind::Tc),
            ("nf_pos0", ProgramKind::Netfilter),
            ("nf_main", ProgramKind::Netfilter),
        ] {
            match programs.load(name, kind) {
                Ok(program) => println!("{name}: {:?}", prog_stats(program.as_fd()).unwrap().verified_insns),
                Err(error) => assert!(error.is_unsupported(), "{name}, {follow}: {error}"),
            }
        }
    }
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

/// Structures of integers without padding.
trait Plain: Sized {
    fn bytes(&self) -> &[u8] {
        // SAFETY: every byte of such a structure is initialised; the slice borrows it.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }
}
impl Plain for Fields {}
impl Plain for Config {}

fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() == 0 }
}
