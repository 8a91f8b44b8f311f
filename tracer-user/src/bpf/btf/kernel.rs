// SPDX-License-Identifier: MIT OR Apache-2.0
//! The running kernel's types: `vmlinux` and the modules whose structures and enumerations we read.

use std::fmt;
use std::path::Path;

use tracer_common::{FieldSpec, Fields};

use super::blob::{Blob, BtfError, Graph, Kind};
use super::bytes::Bytes;
use super::member::{FieldError, Member};
use super::reasons::Reasons;

const DIRECTORY: &str = "/sys/kernel/btf";

/// Modules that declare what we read, on kernels where these are modules. In order: a structure that
/// several of them carry a copy of is taken from the first.
const MODULES: &[&str] = &["nf_conntrack", "ipv6", "nf_tables", "openvswitch", "mac80211"];

/// A field of the table that cannot be read on this kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    pub spec: &'static FieldSpec,
    pub why: FieldError,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { spec, why } = self;
        write!(f, "{}.{}: {why}", spec.container, spec.path)
    }
}

/// Type information of the running kernel. Meant to be asked at start and dropped: it holds an index of
/// less than a megabyte, and on kernels before 6.16 a copy of the BTF itself (5 to 10 MB).
pub struct KernelBtf {
    base: Blob,
    modules: Vec<(String, Blob)>,
    module_errors: Vec<(String, BtfError)>,
}

impl KernelBtf {
    /// Reads `/sys/kernel/btf`. Modules without BTF are left out; those with BTF that cannot be read are
    /// told by [`Self::module_errors`].
    ///
    /// # Errors
    /// When `vmlinux` cannot be read or is malformed.
    pub fn load() -> Result<Self, BtfError> {
        let directory = Path::new(DIRECTORY);
        let mut btf = Self::with_base(open(&directory.join("vmlinux"))?)?;
        for module in MODULES {
            let path = directory.join(module);
            if path.exists() {
                match open(&path).and_then(|bytes| Blob::parse(bytes, Some(&btf.base))) {
                    Ok(blob) => btf.modules.push(((*module).to_owned(), blob)),
                    Err(error) => btf.module_errors.push(((*module).to_owned(), error)),
                }
            }
        }
        Ok(btf)
    }

    /// From stored BTF: a kernel's, and one module's.
    ///
    /// # Errors
    /// When either is malformed.
    pub fn from_bytes(base: Vec<u8>, split: Option<Vec<u8>>) -> Result<Self, BtfError> {
        let mut btf = Self::with_base(Bytes::Owned(base))?;
        if let Some(split) = split {
            let blob = Blob::parse(Bytes::Owned(split), Some(&btf.base))?;
            btf.modules.push((String::from("module"), blob));
        }
        Ok(btf)
    }

    fn with_base(bytes: Bytes) -> Result<Self, BtfError> {
        Ok(Self { base: Blob::parse(bytes, None)?, modules: Vec::new(), module_errors: Vec::new() })
    }

    /// Modules whose BTF is there but could not be used.
    pub fn module_errors(&self) -> &[(String, BtfError)] {
        &self.module_errors
    }

    /// Where `path` is within structure `container`. See [`Self::try_field`].
    pub fn field(&self, container: &str, path: &str) -> Option<Member> {
        self.try_field(container, path).ok()
    }

    /// Where `path` (members, dots between levels) is within structure, union or typedef `container`.
    /// Anonymous members, typedefs and qualifiers are looked through; pointers are not followed.
    ///
    /// # Errors
    /// Says what is not there.
    pub fn try_field(&self, container: &str, path: &str) -> Result<Member, FieldError> {
        self.unanimous(container, path, |graph, id| graph.member((id, container), path))
    }

    /// Size in bytes of structure, union or typedef `container`.
    ///
    /// # Errors
    /// Says what is not there.
    pub fn struct_size(&self, container: &str) -> Result<u32, FieldError> {
        let no_size =
            || FieldError::NoSize { container: container.to_owned(), member: String::from("(all)") };
        self.unanimous(container, "(all)", |graph, id| graph.size_of(id).ok_or_else(no_size))
    }

    /// What `ask` finds in the definitions of `container`: in the kernel, else in the first module that has
    /// it. Definitions that answer differently are an error.
    fn unanimous<T: PartialEq>(
        &self,
        container: &str,
        member: &str,
        ask: impl Fn(Graph<'_>, u32) -> Result<T, FieldError>,
    ) -> Result<T, FieldError> {
        let mut why = FieldError::NoContainer { container: container.to_owned() };
        for graph in self.graphs() {
            let mut found: Option<T> = None;
            for (id, ty) in graph.named(container) {
                if !matches!(ty.kind, Kind::Struct | Kind::Union | Kind::Typedef) {
                    continue;
                }
                match ask(graph, id) {
                    Ok(answer) if found.as_ref().is_some_and(|other| *other != answer) => {
                        let (container, member) = (container.to_owned(), member.to_owned());
                        return Err(FieldError::Ambiguous { container, member });
                    }
                    Ok(answer) => found = Some(answer),
                    Err(error) => why = error,
                }
            }
            if let Some(answer) = found {
                return Ok(answer);
            }
        }
        Err(why)
    }

    /// Offsets of all fields of the table, and those that cannot be read, with the reason. A field whose
    /// size is not one that the programs can read counts as absent: its offset would load something else.
    pub fn resolve_fields(&self) -> (Fields, Vec<Missing>) {
        let mut missing = Vec::new();
        let fields = Fields::resolve(|spec| match self.resolve_field(spec) {
            Ok(offset) => Some(offset),
            Err(why) => {
                missing.push(Missing { spec, why });
                None
            }
        });
        (fields, missing)
    }

    /// What the table wants of one field: its offset, or where it names no member the structure's size.
    pub(super) fn resolve_field(&self, spec: &FieldSpec) -> Result<u32, FieldError> {
        if spec.path.is_empty() {
            return self.struct_size(spec.container);
        }
        if spec.sizes == [0] {
            return self.unanimous(spec.container, spec.path, |graph, id| {
                graph.bit((id, spec.container), spec.path)
            });
        }
        let member = self.try_field(spec.container, spec.path)?;
        if spec.sizes.is_empty() || spec.sizes.contains(&member.size) {
            return Ok(member.offset_bytes);
        }
        let expected: Vec<_> = spec.sizes.iter().map(u32::to_string).collect();
        Err(FieldError::WrongSize { size: member.size, expected: expected.join(" or ") })
    }

    /// Names and values of enumeration `name`; empty when there is none. Values beyond 32 bits are left out.
    pub fn enum_values(&self, name: &str) -> Vec<(String, u32)> {
        let mut values = Vec::new();
        for graph in self.graphs() {
            for (_, ty) in graph.named(name) {
                let text = |offset| graph.name(offset).map(|n| String::from_utf8_lossy(n).into_owned());
                match ty.kind {
                    Kind::Enum => values
                        .extend(ty.elements::<2>().filter_map(|[name, value]| Some((text(name)?, value)))),
                    Kind::Enum64 => values.extend(ty.elements::<3>().filter_map(|[name, low, high]| {
                        (high == 0).then_some(())?;
                        Some((text(name)?, low))
                    })),
                    _ => {}
                }
                if !values.is_empty() {
                    return values;
                }
            }
        }
        values
    }

    /// Drop and reset reasons by number.
    pub fn reasons(&self) -> Reasons {
        Reasons::new(self)
    }

    /// Arguments of tracepoint `name` (what its program is called with): those of `btf_trace_<name>` less
    /// the leading pointer that is the kernel's own. `None`: this kernel has no such tracepoint.
    pub fn tracepoint_args(&self, name: &str) -> Option<u32> {
        self.graphs().find_map(|graph| tracepoint(graph, name).map(|(_, args)| args))
    }

    /// The BTF id of tracepoint `name` in vmlinux. `None`: it is not there (tracepoints of modules are not
    /// looked for).
    pub fn tracepoint_id(&self, name: &str) -> Option<u32> {
        self.graphs().next().and_then(|graph| tracepoint(graph, name)).map(|(id, _)| id)
    }

    /// The BTF id of function `name` in vmlinux.
    pub fn function_id(&self, name: &str) -> Option<u32> {
        self.base.function_id(name)
    }

    /// The BTF id of structure `name` in vmlinux.
    pub fn struct_id(&self, name: &str) -> Option<u32> {
        self.graphs().next()?.named(name).find_map(|(id, ty)| (ty.kind == Kind::Struct).then_some(id))
    }

    /// The kernel, then each module on top of it.
    fn graphs(&self) -> impl Iterator<Item = Graph<'_>> {
        let base = &self.base;
        let modules = self.modules.iter().map(move |(_, blob)| Graph { base, split: Some(blob) });
        std::iter::once(Graph { base, split: None }).chain(modules)
    }
}

impl fmt::Debug for KernelBtf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let modules: Vec<_> = self.modules.iter().map(|(name, _)| name).collect();
        f.debug_struct("KernelBtf").field("modules", &modules).finish_non_exhaustive()
    }
}

/// Type id and number of arguments.
fn tracepoint(graph: Graph<'_>, name: &str) -> Option<(u32, u32)> {
    let typedef = format!("btf_trace_{name}");
    graph.named(&typedef).filter(|(_, ty)| ty.kind == Kind::Typedef).find_map(|(id, _)| {
        let pointer = graph.resolve(id)?;
        let function = (pointer.kind == Kind::Ptr).then(|| graph.resolve(pointer.size_or_type))??;
        (function.kind == Kind::FuncProto)
            .then(|| u32::from(function.vlen).checked_sub(1))
            .flatten()
            .map(|n| (id, n))
    })
}

fn open(path: &Path) -> Result<Bytes, BtfError> {
    Bytes::open(path).map_err(|source| BtfError::Read { path: path.to_owned(), source })
}
