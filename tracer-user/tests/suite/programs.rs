// SPDX-License-Identifier: MIT OR Apache-2.0
//! Loading and attaching on the running kernel, as root, with an object made by hand.
#![cfg(all(target_os = "linux", target_endian = "little"))]

use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::Command;
use std::thread;

use aya::maps::{Array, HashMap, MapData};
use object::write::{Object, Relocation, StandardSection, Symbol, SymbolId, SymbolSection};
use object::{
    Architecture, BinaryFormat, Endianness, RelocationFlags, SectionKind, SymbolFlags, SymbolKind,
    SymbolScope,
};
use tracer_user::bpf::{
    LoadError, ProgramKind, Programs, TcDirection, TcOrder, enable_stats, link_netfilter, link_tcx,
    prog_stats,
};
use tracer_user::node::{Family, Hook};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const R_BPF_64_64: u32 = 1;

/// `return VERDICT;`, where VERDICT is in `.rodata`: the verifier wants 0 or 1 from a netfilter program, so
/// it accepts this one only when it folds the constant.
const RETURN_VERDICT: [[u8; 8]; 4] = [
    [0x18, 0x01, 0, 0, 0, 0, 0, 0], // r1 = &VERDICT ll
    [0; 8],
    [0x61, 0x10, 0, 0, 0, 0, 0, 0], // r0 = *(u32 *)(r1 + 0)
    [0x95, 0, 0, 0, 0, 0, 0, 0],    // exit
];

/// `return TCX_NEXT;`
const RETURN_NEXT: [[u8; 8]; 2] = [
    [0xb7, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], // r0 = -1
    [0x95, 0, 0, 0, 0, 0, 0, 0],             // exit
];

fn bpf_object() -> Result<Vec<u8>> {
    let mut elf = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let rodata = elf.section_id(StandardSection::ReadOnlyData);
    // Not a verdict: to be overridden.
    let at = elf.append_section_data(rodata, &7u32.to_le_bytes(), 8);
    let verdict = symbol(&mut elf, "VERDICT", at, 4, SymbolKind::Data, rodata);
    for position in ["nf_pos0", "nf_pos1"] {
        let code = function(&mut elf, &format!("raw_tp/{position}"), position, &RETURN_VERDICT);
        let flags = RelocationFlags::Elf { r_type: R_BPF_64_64 };
        elf.add_relocation(code, Relocation { offset: 0, symbol: verdict, addend: 0, flags })?;
    }
    function(&mut elf, "classifier", "tc_next", &RETURN_NEXT);
    Ok(elf.write()?)
}

fn function(elf: &mut Object<'_>, section: &str, name: &str, code: &[[u8; 8]]) -> object::write::SectionId {
    let section = elf.add_section(Vec::new(), section.into(), SectionKind::Text);
    let at = elf.append_section_data(section, code.as_flattened(), 8);
    symbol(elf, name, at, code.as_flattened().len() as u64, SymbolKind::Text, section);
    section
}

fn symbol(
    elf: &mut Object<'_>,
    name: &str,
    value: u64,
    size: u64,
    kind: SymbolKind,
    section: object::write::SectionId,
) -> SymbolId {
    elf.add_symbol(Symbol {
        name: name.into(),
        value,
        size,
        kind,
        scope: SymbolScope::Dynamic,
        weak: false,
        section: SymbolSection::Section(section),
        flags: SymbolFlags::None,
    })
}

fn programs(verdict: u32) -> Result<Programs> {
    Ok(Programs::new(&bpf_object()?, &[("VERDICT", &verdict.to_ne_bytes())], &[])?)
}

/// Runs `test` in a thread with a network namespace of its own; says so when that is not allowed.
fn alone(test: impl FnOnce() -> Result + Send + 'static) -> Result {
    let thread = thread::spawn(move || {
        // SAFETY: moves this thread only, which ends with the test.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            println!("SKIP needs root: {}", io::Error::last_os_error());
            return Ok(());
        }
        test()
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// `None`, said aloud, on kernels before 6.4.
fn load_position(programs: &Programs, name: &str) -> Result<Option<OwnedFd>> {
    match programs.load(name, ProgramKind::Netfilter) {
        Err(error) if error.is_unsupported() => {
            println!("SKIP {error}");
            Ok(None)
        }
        result => Ok(Some(result?)),
    }
}

#[test]
fn constants_are_folded_in_netfilter_programs() -> Result {
    alone(|| {
        let accepting = programs(1)?;
        assert_eq!(accepting.names().collect::<Vec<_>>(), ["nf_pos0", "nf_pos1", "tc_next"]);
        if load_position(&accepting, "nf_pos0")?.is_none() {
            return Ok(());
        }
        let error = programs(7)?.load("nf_pos0", ProgramKind::Netfilter).err().ok_or("7 is no verdict")?;
        assert!(error.to_string().contains("R0"), "{error}");
        assert!(error.log().is_some_and(|log| log.contains("exit")));
        Ok(())
    })
}

#[test]
fn constants_are_frozen() -> Result {
    alone(|| {
        let mut rodata: Array<MapData, u32> = programs(1)?.take_map(".rodata")?;
        assert_eq!(rodata.get(&0, 0)?, 1);
        assert!(rodata.set(0, 0, 0).is_err(), "whoever runs the tracer can change its programs' constants");
        Ok(())
    })
}

#[test]
fn unknown_functions_and_maps_are_named() -> Result {
    alone(|| {
        let mut programs = programs(1)?;
        let function = programs.load("nf_pos9", ProgramKind::Netfilter);
        assert!(matches!(function, Err(LoadError::NoFunction(name)) if name == "nf_pos9"));
        let map = programs.take_map::<Array<MapData, u32>>("NO_SUCH_MAP");
        assert!(map.is_err_and(|e| e.to_string().contains("NO_SUCH_MAP")));
        let map = programs.take_map::<HashMap<MapData, u32, u32>>(".rodata");
        assert!(map.is_err_and(|e| e.to_string().contains(".rodata")), "an array is no hash map");
        Ok(())
    })
}

#[test]
fn programs_find_their_maps_when_those_were_taken_and_closed() -> Result {
    alone(|| {
        let mut programs = programs(1)?;
        drop(programs.take_map::<Array<MapData, u32>>(".rodata")?);
        load_position(&programs, "nf_pos1").map(drop)
    })
}

#[test]
fn positions_are_free_again_when_their_link_is_closed() -> Result {
    alone(|| {
        let programs = programs(1)?;
        let Some(program) = load_position(&programs, "nf_pos0")? else { return Ok(()) };
        for family in [Family::Ipv4, Family::Ipv6] {
            for hook in Hook::ALL {
                let attach = |priority| link_netfilter(program.as_fd(), family, hook, priority);
                let first = attach(-151)?;
                let beside = attach(-149)?;
                let error = attach(-151).err().ok_or("one priority holds one program")?;
                assert!(error.is_busy() && error.to_string().contains(hook.name()), "{error}");
                drop((first, beside));
                drop(attach(-151)?);
                assert!(attach(i32::MIN).is_err_and(|e| e.to_string().contains("the kernel's own")));
            }
        }
        Ok(())
    })
}

#[test]
fn tc_programs_stand_at_either_end_of_a_device() -> Result {
    alone(|| {
        let program = programs(1)?.load("tc_next", ProgramKind::Tc)?;
        let attach = |ifindex, direction, order| link_tcx(program.as_fd(), ifindex, direction, order);
        // Device 1 is the loopback device of every network namespace.
        let ingress = match attach(1, TcDirection::Ingress, TcOrder::First) {
            Err(error) if error.is_unsupported() => {
                println!("SKIP {error}");
                return Ok(());
            }
            result => result?,
        };
        let _egress = attach(1, TcDirection::Egress, TcOrder::Last)?;
        let twice = attach(1, TcDirection::Ingress, TcOrder::Last);
        assert!(twice.is_err_and(|e| e.to_string().contains("there already")));
        drop(ingress);
        attach(1, TcDirection::Ingress, TcOrder::Last)?;
        assert!(
            attach(4242, TcDirection::Egress, TcOrder::Last).is_err_and(|e| e.to_string().contains("4242"))
        );
        Ok(())
    })
}

#[test]
fn runs_are_counted_while_statistics_are_enabled() -> Result {
    alone(|| {
        let programs = programs(1)?;
        let Some(program) = load_position(&programs, "nf_pos0")? else { return Ok(()) };
        let _link = link_netfilter(program.as_fd(), Family::Ipv4, Hook::Output, -1)?;
        // The child has the namespace of this thread.
        if !Command::new("ip").args(["link", "set", "lo", "up"]).status().is_ok_and(|s| s.success()) {
            println!("SKIP needs ip(8)");
            return Ok(());
        }
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        let send = || socket.send_to(b"x", socket.local_addr()?);
        let _statistics = enable_stats()?;
        let before = prog_stats(program.as_fd())?.run_cnt;
        send()?;
        send()?;
        let stats = prog_stats(program.as_fd())?;
        assert_eq!((stats.run_cnt - before, stats.recursion_misses), (2, 0));
        assert!(stats.run_time_ns > 0);
        assert_ne!(prog_stats(program.as_fd())?.id, 0);
        Ok(())
    })
}
