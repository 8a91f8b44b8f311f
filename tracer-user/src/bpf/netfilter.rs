// SPDX-License-Identifier: MIT OR Apache-2.0
//! Loading netfilter programs, which aya does not know.
//!
//! They stand in the same object as the others, in sections that aya takes for raw tracepoints and is never
//! asked to load. The object is parsed a second time and bound to the maps that aya made, `.rodata` with its
//! frozen constants among them: so both halves share every map, and the verifier folds the constants here too.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use aya::maps::Map;
use aya_obj::generated::{bpf_attach_type, bpf_insn, bpf_prog_type};
use aya_obj::{Object, ProgramSection};

use super::sys::{self, Info, Program};

/// Asked for only when a program was refused, and resident only as far as the verifier writes.
const LOG_LEN: usize = 16 << 20;

/// Why a program could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("the BPF object cannot be used: {0}; it and egwtrace must be of the same build")]
    Object(String),
    #[error("the BPF object has no netfilter function `{0}`; it and egwtrace must be of the same build")]
    NoFunction(String),
    #[error("cannot keep BPF map `{name}` open: {source}")]
    Map { name: String, source: io::Error },
    #[error("the kernel refuses netfilter program `{name}`: {}", .refusal.summary())]
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

/// The netfilter functions of an object, ready to be loaded one by one.
pub struct NetfilterLoader {
    functions: BTreeMap<String, Function>,
    btf: Option<OwnedFd>,
    /// The instructions hold the numbers of these descriptors: they stay open whatever becomes of aya's.
    _maps: Vec<OwnedFd>,
}

struct Function {
    instructions: Vec<bpf_insn>,
    license: CString,
    func_info: Info,
    line_info: Info,
}

impl NetfilterLoader {
    /// Prepares the netfilter functions of `object`, which `ebpf` was loaded from. Call it before maps are
    /// taken out of `ebpf`. Loads no program yet.
    ///
    /// # Errors
    /// When the object cannot be parsed or bound to the maps: not the kernel's doing.
    pub fn new(object: &[u8], ebpf: &aya::Ebpf) -> Result<Self, LoadError> {
        let features = aya::features();
        let mut object = Object::parse(object).map_err(unusable)?;

        // Without BTF a program still loads, unless it passes functions to helpers.
        let btf = match features.btf() {
            Some(features) => {
                object.fixup_and_sanitize_btf(features).map_err(unusable)?.map(aya_obj::btf::Btf::to_bytes)
            }
            None => None,
        };
        let btf = btf.and_then(|btf| {
            sys::btf_load(&btf)
                .inspect_err(|error| log::warn!("the kernel refuses the BPF object's own BTF: {error}"))
                .ok()
        });

        let mut maps: HashMap<String, OwnedFd> = HashMap::new();
        for (name, map) in ebpf.maps() {
            let fd = map_fd(map)
                .try_clone_to_owned()
                .map_err(|source| LoadError::Map { name: name.to_owned(), source })?;
            maps.insert(name.to_owned(), fd);
        }

        let definitions = std::mem::take(&mut object.maps);
        let bound = definitions
            .iter()
            .filter_map(|(name, map)| Some((name.as_str(), maps.get(name)?.as_raw_fd(), map)));
        let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
        object.relocate_maps(bound, &sections).map_err(unusable)?;
        object.relocate_calls(&sections).map_err(unusable)?;
        object.sanitize_functions(features);

        let mut functions = BTreeMap::new();
        for (name, program) in std::mem::take(&mut object.programs) {
            if matches!(program.section, ProgramSection::RawTracePoint)
                && let Some(function) = object.functions.remove(&program.function_key())
            {
                functions.insert(name, Function::new(function, program.license));
            }
        }
        Ok(Self { functions, btf, _maps: maps.into_values().collect() })
    }

    /// Functions that can be loaded: all in sections `raw_tp/...`.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.functions.keys().map(String::as_str)
    }

    /// Loads function `name` as a netfilter program. Each call loads it anew.
    ///
    /// # Errors
    /// [`LoadError::Refused`] with the verifier's words.
    pub fn load(&self, name: &str) -> Result<OwnedFd, LoadError> {
        let function = self.functions.get(name).ok_or_else(|| LoadError::NoFunction(name.to_owned()))?;
        let btf = self.btf.as_ref().map(|btf| (btf.as_fd(), &function.func_info, &function.line_info));
        let program = Program {
            name,
            prog_type: bpf_prog_type::BPF_PROG_TYPE_NETFILTER as u32,
            expected_attach_type: bpf_attach_type::BPF_NETFILTER as u32,
            instructions: &function.instructions,
            license: &function.license,
            btf,
        };
        load_explained(&program)
            .map_err(|refusal| LoadError::Refused { name: name.to_owned(), refusal: Box::new(refusal) })
    }
}

impl Function {
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
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    LoadError::Object(text)
}

fn map_fd(map: &Map) -> BorrowedFd<'_> {
    let (Map::Array(data)
    | Map::ArrayOfMaps(data)
    | Map::BloomFilter(data)
    | Map::CgroupArray(data)
    | Map::CgroupStorage(data)
    | Map::CgrpStorage(data)
    | Map::CpuMap(data)
    | Map::DevMap(data)
    | Map::DevMapHash(data)
    | Map::HashMap(data)
    | Map::HashOfMaps(data)
    | Map::InodeStorage(data)
    | Map::LpmTrie(data)
    | Map::LruHashMap(data)
    | Map::PerCpuArray(data)
    | Map::PerCpuCgroupStorage(data)
    | Map::PerCpuHashMap(data)
    | Map::PerCpuLruHashMap(data)
    | Map::PerfEventArray(data)
    | Map::ProgramArray(data)
    | Map::Queue(data)
    | Map::ReusePortSockArray(data)
    | Map::RingBuf(data)
    | Map::SkStorage(data)
    | Map::SockHash(data)
    | Map::SockMap(data)
    | Map::Stack(data)
    | Map::StackTraceMap(data)
    | Map::Unsupported(data)
    | Map::XskMap(data)) = map;
    data.fd().as_fd()
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
