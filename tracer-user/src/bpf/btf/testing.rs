// SPDX-License-Identifier: MIT OR Apache-2.0
//! Builds small BTF blobs for the tests.

pub(super) const INT: u32 = 1;
pub(super) const PTR: u32 = 2;
pub(super) const ARRAY: u32 = 3;
pub(super) const STRUCT: u32 = 4;
pub(super) const UNION: u32 = 5;
pub(super) const ENUM: u32 = 6;
pub(super) const FWD: u32 = 7;
pub(super) const TYPEDEF: u32 = 8;
pub(super) const VOLATILE: u32 = 9;
pub(super) const CONST: u32 = 10;
pub(super) const FUNC_PROTO: u32 = 13;
pub(super) const TYPE_TAG: u32 = 18;
pub(super) const ENUM64: u32 = 19;

/// A member: name, type, offset in bits, width of a bit field (0: none).
pub(super) type MemberOf<'a> = (&'a str, u32, u32, u32);

#[derive(Clone)]
pub(super) struct Builder {
    types: Vec<u8>,
    strings: Vec<u8>,
    first_string: u32,
    next_id: u32,
}

impl Builder {
    pub(super) fn new() -> Self {
        Self { types: Vec::new(), strings: vec![0], first_string: 0, next_id: 1 }
    }

    /// A module's, on top of `base`.
    pub(super) fn on(base: &Self) -> Self {
        Self {
            types: Vec::new(),
            strings: Vec::new(),
            first_string: base.first_string + base.strings.len() as u32,
            next_id: base.next_id,
        }
    }

    pub(super) fn string(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let at = self.first_string + self.strings.len() as u32;
        self.strings.extend(text.bytes().chain([0]));
        at
    }

    pub(super) fn record(
        &mut self,
        kind: u32,
        name: u32,
        flag: bool,
        vlen: u32,
        size: u32,
        extra: &[u32],
    ) -> u32 {
        let info = u32::from(flag) << 31 | kind << 24 | vlen;
        for word in [name, info, size].iter().chain(extra) {
            self.types.extend(word.to_ne_bytes());
        }
        self.next_id += 1;
        self.next_id - 1
    }

    pub(super) fn int(&mut self, name: &str, bytes: u32) -> u32 {
        let name = self.string(name);
        self.record(INT, name, false, 0, bytes, &[bytes * 8])
    }

    /// Pointer, typedef or qualifier.
    pub(super) fn link(&mut self, kind: u32, name: &str, to: u32) -> u32 {
        let name = self.string(name);
        self.record(kind, name, false, 0, to, &[])
    }

    pub(super) fn array(&mut self, element: u32, length: u32) -> u32 {
        self.record(ARRAY, 0, false, 0, 0, &[element, element, length])
    }

    pub(super) fn composite(&mut self, kind: u32, name: &str, size: u32, members: &[MemberOf<'_>]) -> u32 {
        let name = self.string(name);
        self.composite_named(kind, name, size, members)
    }

    pub(super) fn composite_named(
        &mut self,
        kind: u32,
        name: u32,
        size: u32,
        members: &[MemberOf<'_>],
    ) -> u32 {
        let flag = members.iter().any(|member| member.3 != 0);
        let mut extra = Vec::new();
        for &(member, ty, bits, width) in members {
            extra.extend([self.string(member), ty, bits | width << 24]);
        }
        self.record(kind, name, flag, members.len() as u32, size, &extra)
    }

    pub(super) fn enumeration(&mut self, name: &str, values: &[(&str, u32)]) -> u32 {
        let name = self.string(name);
        let extra: Vec<u32> = values.iter().flat_map(|&(n, v)| [self.string(n), v]).collect();
        self.record(ENUM, name, false, values.len() as u32, 4, &extra)
    }

    pub(super) fn enumeration64(&mut self, name: &str, values: &[(&str, u64)]) -> u32 {
        let name = self.string(name);
        let extra: Vec<u32> =
            values.iter().flat_map(|&(n, v)| [self.string(n), v as u32, (v >> 32) as u32]).collect();
        self.record(ENUM64, name, false, values.len() as u32, 8, &extra)
    }

    /// Function type with parameters of type `void`.
    pub(super) fn proto(&mut self, params: u32) -> u32 {
        self.record(FUNC_PROTO, 0, false, params, 0, &vec![0; 2 * params as usize])
    }

    pub(super) fn build(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(0xeb9f_u16.to_ne_bytes());
        bytes.extend([1, 0]);
        let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
        for word in [24, 0, types, types, strings] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(&self.types);
        bytes.extend(&self.strings);
        bytes
    }
}
