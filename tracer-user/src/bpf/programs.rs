// SPDX-License-Identifier: MIT OR Apache-2.0
//! From the BPF object to maps and loaded programs.
//!
//! aya parses, binds and relocates the object (`aya-obj`) and owns the maps. Loading is done here: aya knows no
//! netfilter programs, and its loader parses all of the kernel's BTF (22 MB) to find a tracepoint's type, which
//! [`super::btf`] finds in a millisecond. Programs are loaded one by one, when they are needed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use aya::maps::{Map, MapData};
use aya_obj::generated::{
    BPF_CALL, BPF_JMP, BPF_PSEUDO_KFUNC_CALL, bpf_attach_type, bpf_insn, bpf_prog_type,
};
use aya_obj::{EbpfSectionKind, Object};

use super::sys::{self, Info, Program};
use crate::node::bpf_query::OWN_PREFIX;

const LOG_LEN: usize = 16 << 20;

/// Why a program could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("the BPF object cannot be used: {0}; it and egwtrace must be of the same build")]
    Object(String),
    #[error("the BPF object has no function `{0}`; it and egwtrace must be of the same build")]
    NoFunction(String),
    #[error("cannot create BPF map `{name}`: {source}")]
    Map { name: String, source: io::Error },
    #[error("the kernel refuses BPF program `{name}`: {}", .refusal.summary())]
    Refused { name: String, refusal: Box<Refusal> },
}

impl LoadError {
    /// This kernel has no netfilter programs at all.
    pub fn is_unsupported(&self) -> bool {
        matches!(self, Self::Refused { refusal, .. } if refusal.is_unsupported())
    }

    /// All that the verifier said.
    pub fn log(&self) -> Option<&str> {
        match self {
            Self::Refused { refusal, .. } => Some(&refusal.log),
            _ => None,
        }
    }
}

/// What the kernel says of a program that it does not load.
#[derive(Debug)]
pub struct Refusal {
    pub error: io::Error,
    /// The verifier's whole log; empty when it was not asked.
    pub log: String,
}

impl Refusal {
    /// The verifier's last word, else what the error means.
    pub fn summary(&self) -> String {
        if let Some(line) = last_meaningful_line(&self.log) {
            return format!("{line} ({})", self.error);
        }
        let hint = match self.error.raw_os_error() {
            Some(libc::EPERM) => {
                " (needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, or root; a container also a seccomp profile \
                 that allows bpf(2))"
            }
            _ if self.is_unsupported() => " (needs Linux 6.4 with CONFIG_NETFILTER_BPF_LINK)",
            _ => "",
        };
        format!("{}{hint}", self.error)
    }

    fn is_unsupported(&self) -> bool {
        self.error.raw_os_error() == Some(libc::EINVAL) && self.log.is_empty()
    }
}

/// What a function of the object is loaded as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgramKind {
    Netfilter,
    Tc,
    /// A tracepoint with typed arguments: the BTF id of its `btf_trace_<name>` in vmlinux.
    Tracepoint {
        btf_id: u32,
    },
}

/// The functions of an object, ready to be loaded one by one, and its maps.
pub struct Programs {
    functions: BTreeMap<String, ObjectFunction>,
    btf: Option<OwnedFd>,
    maps: HashMap<String, MapData>,
    /// The instructions hold the numbers of these descriptors: they stay open whatever becomes of `maps`.
    _descriptors: Vec<OwnedFd>,
}

struct ObjectFunction {
    instructions: Vec<bpf_insn>,
    license: CString,
    func_info: Info,
    line_info: Info,
}

impl Programs {
    /// Creates the maps of `object`, its constants replaced by `globals` and frozen, those in `sizes` as large as
    /// said there. Loads no program yet.
    ///
    /// # Errors
    /// When the object cannot be parsed, or a map not created.
    pub fn new(object: &[u8], globals: &[(&str, &[u8])], sizes: &[(&str, u32)]) -> Result<Self, LoadError> {
        let features = aya::features();
        let mut object = Object::parse(object).map_err(unusable)?;
        let globals = globals.iter().map(|(name, bytes)| (*name, (*bytes, true))).collect();
        object.patch_map_data(globals).map_err(unusable)?;

        // Without BTF a program still loads, unless it passes functions to helpers.
        let btf = match features.btf() {
            Some(features) => {
                object.fixup_and_sanitize_btf(features).map_err(unusable)?.map(aya_obj::btf::Btf::to_bytes)
            }
            None => None,
        };
        // A kernel that does not take it loses the names in the verifier's words.
        let btf = btf.and_then(|btf| sys::btf_load(&btf).ok());

        let mut definitions = std::mem::take(&mut object.maps);
        for (name, size) in sizes {
            let map = definitions.get_mut(*name);
            map.ok_or_else(|| LoadError::Object(format!("map `{name}`: there is none")))?
                .set_max_entries(*size);
        }
        let mut maps = HashMap::new();
        let mut descriptors = Vec::new();
        for (name, definition) in &definitions {
            let data = create_map(name, definition)?;
            descriptors.push((
                name.as_str(),
                data.fd()
                    .as_fd()
                    .try_clone_to_owned()
                    .map_err(|source| LoadError::Map { name: name.clone(), source })?,
                definition,
            ));
            maps.insert(name.clone(), data);
        }
        let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
        let bound = descriptors.iter().map(|(name, fd, definition)| (*name, fd.as_raw_fd(), *definition));
        object.relocate_maps(bound, &sections).map_err(unusable)?;
        object.relocate_calls(&sections).map_err(unusable)?;
        object.sanitize_functions(features);

        let mut functions = BTreeMap::new();
        for (name, program) in std::mem::take(&mut object.programs) {
            if let Some(function) = object.functions.remove(&program.function_key()) {
                functions.insert(name, ObjectFunction::new(function, program.license));
            }
        }
        let descriptors = descriptors.into_iter().map(|(_, fd, _)| fd).collect();
        Ok(Self { functions, btf, maps, _descriptors: descriptors })
    }

    /// Takes a map out, to be used as `T`.
    ///
    /// # Errors
    /// When the object has no such map, or it is of another type.
    pub fn take_map<T: TryFrom<Map, Error = aya::maps::MapError>>(
        &mut self,
        name: &str,
    ) -> Result<T, LoadError> {
        let unusable = |why: String| LoadError::Object(format!("map `{name}`: {why}"));
        let data = self.maps.remove(name).ok_or_else(|| unusable("there is none".into()))?;
        Map::from_map_data(data).and_then(T::try_from).map_err(|e| unusable(e.to_string()))
    }

    /// Puts a loaded program into the program array `map`, at index 0.
    ///
    /// # Errors
    /// When there is no such map, or the kernel refuses.
    pub fn put_program(&self, map: &str, program: BorrowedFd<'_>) -> Result<(), LoadError> {
        let data =
            self.maps.get(map).ok_or_else(|| LoadError::Object(format!("map `{map}`: there is none")))?;
        sys::map_update(data.fd().as_fd(), &0u32.to_ne_bytes(), &program.as_raw_fd().to_ne_bytes())
            .map_err(|source| LoadError::Map { name: map.to_owned(), source })
    }

    /// Has calls of `helper`, a number that no helper has, go to the function of the kernel with this BTF id. Where
    /// it is not done, no program may come by such a call.
    pub fn call_kernel(&mut self, helper: i32, btf_id: u32) {
        const CALL: u8 = (BPF_JMP | BPF_CALL) as u8;
        for insn in self.functions.values_mut().flat_map(|function| &mut function.instructions) {
            if insn.code == CALL && insn.src_reg() == 0 && insn.imm == helper {
                insn.set_src_reg(BPF_PSEUDO_KFUNC_CALL as u8);
                insn.imm = btf_id as i32;
            }
        }
    }

    /// Functions that can be loaded.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.functions.keys().map(String::as_str)
    }

    /// Loads function `name`. Each call loads it anew. May be called from several threads at once.
    ///
    /// # Errors
    /// [`LoadError::Refused`] with the verifier's words.
    pub fn load(&self, name: &str, kind: ProgramKind) -> Result<OwnedFd, LoadError> {
        let function = self.functions.get(name).ok_or_else(|| LoadError::NoFunction(name.to_owned()))?;
        let btf = self.btf.as_ref().map(|btf| (btf.as_fd(), &function.func_info, &function.line_info));
        let (prog_type, expected_attach_type, attach_btf_id) = match kind {
            ProgramKind::Netfilter => {
                (bpf_prog_type::BPF_PROG_TYPE_NETFILTER, bpf_attach_type::BPF_NETFILTER as u32, 0)
            }
            ProgramKind::Tc => (bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS, 0, 0),
            ProgramKind::Tracepoint { btf_id } => {
                (bpf_prog_type::BPF_PROG_TYPE_TRACING, bpf_attach_type::BPF_TRACE_RAW_TP as u32, btf_id)
            }
        };
        let shown = format!("{OWN_PREFIX}{name}");
        let program = Program {
            name: &shown,
            prog_type: prog_type as u32,
            expected_attach_type,
            attach_btf_id,
            instructions: &function.instructions,
            license: &function.license,
            btf,
        };
        load_explained(&program)
            .map_err(|refusal| LoadError::Refused { name: name.to_owned(), refusal: Box::new(refusal) })
    }
}

/// Creates a map; one with initial data (`.rodata`) is filled and, when it is read-only, frozen.
fn create_map(name: &str, definition: &aya_obj::Map) -> Result<MapData, LoadError> {
    let is_constant = definition.section_kind() == EbpfSectionKind::Rodata;
    let data = MapData::create(definition.clone(), name, None)
        .map_err(|e| LoadError::Map { name: name.to_owned(), source: io::Error::other(chain(&e)) })?;
    if !definition.data().is_empty() && definition.section_kind() != EbpfSectionKind::Bss {
        let failed = |source| LoadError::Map { name: name.to_owned(), source };
        sys::map_update(data.fd().as_fd(), &0u32.to_ne_bytes(), definition.data()).map_err(failed)?;
        if is_constant {
            sys::map_freeze(data.fd().as_fd()).map_err(failed)?;
        }
    }
    Ok(data)
}

impl ObjectFunction {
    fn new(function: aya_obj::Function, license: CString) -> Self {
        let (functions, lines) = (&function.func_info, &function.line_info);
        Self {
            func_info: Info::new(functions.func_info_bytes(), functions.len()),
            line_info: Info::new(lines.line_info_bytes(), lines.len()),
            instructions: function.instructions,
            license,
        }
    }
}

/// Loads quietly; when that fails, once more for the verifier's words.
fn load_explained(program: &Program<'_>) -> Result<OwnedFd, Refusal> {
    let mut error = match sys::prog_load(program, None) {
        Ok(fd) => return Ok(fd),
        Err(error) => error,
    };
    let mut log = vec![0; LOG_LEN];
    match sys::prog_load(program, Some(&mut log)) {
        // It was something passing.
        Ok(fd) => return Ok(fd),
        // Too much was said: every kernel that has netfilter programs keeps the end of it.
        Err(again) if again.raw_os_error() == Some(libc::ENOSPC) => {}
        Err(again) => error = again,
    }
    let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
    log.truncate(end);
    log.shrink_to_fit();
    // Without a copy: it may be 16 MiB. The verifier writes ASCII.
    let log = String::from_utf8(log).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned());
    Err(Refusal { error, log })
}

/// The complaint: what precedes the statistics that every log ends with.
fn last_meaningful_line(log: &str) -> Option<&str> {
    const STATISTICS: &[&str] = &["processed ", "verification time ", "stack depth ", "insns processed "];
    log.lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty() && !STATISTICS.iter().any(|prefix| line.starts_with(prefix)))
}

fn unusable(error: impl std::error::Error) -> LoadError {
    LoadError::Object(chain(&error))
}

/// An error with its causes, on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(errno: i32, log: &str) -> String {
        Refusal { error: io::Error::from_raw_os_error(errno), log: log.into() }.summary()
    }

    #[test]
    fn the_verifiers_complaint_is_told_not_its_statistics() {
        let log = "0: R1=ctx() R10=fp0\n; let x = *ctx; @ main.rs:50\n0: (79) r1 = *(u64 *)(r1 +72)\n\
                   invalid bpf_context access off=72 size=8\nverification time 25 usec\nstack depth 0\n\
                   processed 1 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0\n\n";
        let text = refusal(libc::EACCES, log);
        assert!(text.starts_with("invalid bpf_context access off=72 size=8 ("), "{text}");
    }

    #[test]
    fn without_a_log_the_error_is_explained() {
        assert!(refusal(libc::EPERM, "").contains("CAP_BPF"));
        assert!(refusal(libc::EINVAL, "").contains("Linux 6.4"));
        assert!(!refusal(libc::EINVAL, "R0 invalid").contains("Linux 6.4"));
        assert!(refusal(libc::E2BIG, "processed 1 insns").contains("too long"));
    }
}
