// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel is never shown is taken out of the BPF object: DWARF, five sixths of it. The line numbers that
//! the verifier quotes are in `.BTF.ext`, which stays.

use anyhow::{Context as _, Result};
use object::build::elf::{Builder, SectionData};
use object::elf::SHT_STRTAB;

/// Relocations of BTF are for a linker that would merge it with others.
const UNUSED: [&[u8]; 3] = [b".debug_", b".rel.debug_", b".rel.BTF"];

/// The object without the sections that neither loader nor kernel read.
pub(crate) fn debug_sections(elf: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(elf).context("reading the BPF object")?;
    for section in &mut builder.sections {
        section.delete = UNUSED.iter().any(|prefix| section.name.as_slice().starts_with(prefix));
    }
    builder.delete_orphans();
    // LLVM keeps the names of sections with those of symbols; the writer wants them apart.
    if !builder.sections.iter().any(|section| matches!(section.data, SectionData::SectionString)) {
        let names = builder.sections.add();
        names.name = b".shstrtab"[..].into();
        names.sh_type = SHT_STRTAB;
        names.data = SectionData::SectionString;
    }
    let mut stripped = Vec::new();
    builder.write(&mut stripped).context("writing the BPF object")?;
    Ok(stripped)
}
