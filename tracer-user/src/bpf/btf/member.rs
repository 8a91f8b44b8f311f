// SPDX-License-Identifier: MIT OR Apache-2.0
//! From `nd_net.net` to an offset: members, anonymous ones looked through, and the sizes of types.

use super::blob::{Graph, Kind, Type};

/// Links followed from one type to the next (typedef, const, array ...) before giving up.
const MAX_LINKS: usize = 32;
/// Anonymous structures within each other.
const MAX_NESTING: usize = 16;
/// Members looked at for one path. `struct task_struct` has some 300; a loop made on purpose has no end.
const MAX_MEMBERS: u32 = 100_000;

/// Where a field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// From the start of the structure, in bytes.
    pub offset_bytes: u32,
    /// Size in bytes; of an array: all of it.
    pub size: u32,
}

/// Why a field cannot be read on this kernel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    #[error("no structure `{container}` in the kernel's BTF, nor in that of the modules looked at")]
    NoContainer { container: String },
    #[error("no member `{member}` in `{container}`")]
    NoMember { container: String, member: String },
    #[error("`{member}` of `{container}` is a bit field")]
    BitField { container: String, member: String },
    #[error("`{member}` of `{container}` has no size that BTF tells")]
    NoSize { container: String, member: String },
    #[error("`{container}` is defined more than once, and `{member}` is not the same in each")]
    Ambiguous { container: String, member: String },
    #[error("`{container}` is nested too deep in BTF, or refers to itself")]
    TooDeep { container: String },
    #[error("it has {size} bytes here; {expected} can be read")]
    WrongSize { size: u32, expected: String },
}

/// What a member is, before its size is known.
struct FoundMember {
    bits: u64,
    type_id: u32,
    bit_field: bool,
}

/// `Err` only when the budget or the nesting ran out.
struct Exhausted;

impl Graph<'_> {
    /// Follows `path` (members, dots between levels) from structure `container`.
    pub(super) fn member(&self, container: (u32, &str), path: &str) -> Result<Member, FieldError> {
        let FoundMember { bits, type_id, bit_field } = self.follow(container, path)?;
        let (container, member) = (container.1.to_owned(), path.to_owned());
        if bit_field || !bits.is_multiple_of(8) {
            return Err(FieldError::BitField { container, member });
        }
        match (u32::try_from(bits / 8).ok(), self.size_of(type_id)) {
            (Some(offset_bytes), Some(size)) => Ok(Member { offset_bytes, size }),
            _ => Err(FieldError::NoSize { container, member }),
        }
    }

    /// The offset in bits of a bit field.
    pub(super) fn bit(&self, container: (u32, &str), path: &str) -> Result<u32, FieldError> {
        let found = self.follow(container, path)?;
        let (container, member) = (container.1.to_owned(), path.to_owned());
        let offset = u32::try_from(found.bits).ok().filter(|_| found.bit_field);
        offset.ok_or(FieldError::NoSize { container, member })
    }

    fn follow(&self, (mut id, container): (u32, &str), path: &str) -> Result<FoundMember, FieldError> {
        let mut budget = MAX_MEMBERS;
        let mut at = FoundMember { bits: 0, type_id: id, bit_field: false };
        for part in path.split('.') {
            let found = self
                .direct_member(id, part.as_bytes(), MAX_NESTING, &mut budget)
                .map_err(|Exhausted| FieldError::TooDeep { container: container.to_owned() })?
                .ok_or_else(|| FieldError::NoMember {
                    container: container.to_owned(),
                    member: path.to_owned(),
                })?;
            id = found.type_id;
            at = FoundMember { bits: at.bits + found.bits, ..found };
        }
        Ok(at)
    }

    fn direct_member(
        &self,
        id: u32,
        name: &[u8],
        nesting: usize,
        budget: &mut u32,
    ) -> Result<Option<FoundMember>, Exhausted> {
        let Some(ty) = self.resolve(id) else { return Ok(None) };
        if !matches!(ty.kind, Kind::Struct | Kind::Union) {
            return Ok(None);
        }
        for [member_name, type_id, offset] in ty.elements::<3>() {
            *budget = budget.checked_sub(1).ok_or(Exhausted)?;
            let (bits, width) = if ty.kind_flag { (offset & 0xff_ffff, offset >> 24) } else { (offset, 0) };
            let bits = u64::from(bits);
            if member_name == 0 {
                let below = nesting.checked_sub(1).ok_or(Exhausted)?;
                if let Some(found) = self.direct_member(type_id, name, below, budget)? {
                    return Ok(Some(FoundMember { bits: bits + found.bits, ..found }));
                }
            } else if self.name(member_name) == Some(name) {
                let bit_field = width != 0 || self.is_bit_field(type_id);
                return Ok(Some(FoundMember { bits, type_id, bit_field }));
            }
        }
        Ok(None)
    }

    /// The type behind typedefs and qualifiers.
    pub(super) fn resolve(&self, mut id: u32) -> Option<Type<'_>> {
        for _ in 0..MAX_LINKS {
            let ty = self.ty(id)?;
            match ty.kind {
                Kind::Typedef | Kind::Volatile | Kind::Const | Kind::Restrict | Kind::TypeTag => {
                    id = ty.size_or_type;
                }
                _ => return Some(ty),
            }
        }
        None
    }

    /// Older encoding: the width of a bit field is in its integer type.
    fn is_bit_field(&self, id: u32) -> bool {
        self.resolve(id).is_some_and(|ty| {
            ty.kind == Kind::Int
                && ty.elements::<1>().any(|[info]| {
                    let (offset, bits) = (info >> 16 & 0xff, info & 0xff);
                    offset != 0 || bits != ty.size_or_type.saturating_mul(8)
                })
        })
    }

    /// Size in bytes; `None` for functions, forward declarations and broken types.
    pub(super) fn size_of(&self, mut id: u32) -> Option<u32> {
        let mut count = 1u32;
        for _ in 0..MAX_LINKS {
            let ty = self.resolve(id)?;
            let size = match ty.kind {
                Kind::Array => {
                    let [element, _, length] = ty.elements::<3>().next()?;
                    count = count.checked_mul(length)?;
                    id = element;
                    continue;
                }
                Kind::Ptr => size_of::<usize>() as u32,
                Kind::Int | Kind::Struct | Kind::Union | Kind::Enum | Kind::Enum64 | Kind::Float => {
                    ty.size_or_type
                }
                _ => return None,
            };
            return size.checked_mul(count);
        }
        None
    }
}
