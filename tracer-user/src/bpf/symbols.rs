// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names of kernel functions by address, from `/proc/kallsyms`.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::sync::OnceLock;

const PATH: &str = "/proc/kallsyms";
/// No function is larger; an address further from the last symbol below it is in none.
const MAX_FUNCTION: u64 = 1 << 20;
/// Not functions of their own: the padding before each (`__pfx_`, `__cfi_`) doubles the table for nothing.
const PADDING: &[&[u8]] = &[b"__pfx_", b"__cfi_"];

/// Why addresses cannot be named.
#[derive(Debug, thiserror::Error)]
pub enum SymbolsError {
    #[error("cannot read {PATH}: {0}; kernel functions are shown as addresses")]
    Read(#[from] io::Error),
    #[error(
        "the kernel hides its addresses in {PATH}; kernel functions are shown as addresses \
         (run as root, or with CAP_SYSLOG, and with sysctl kernel.kptr_restrict below 2)"
    )]
    Hidden,
}

/// The kernel's functions, read when the first one is asked for.
///
/// Reading takes some 100 ms: call [`Self::load`] from a thread that may block before the first
/// [`Self::lookup`] on a path that may not.
#[derive(Debug, Default)]
pub struct Symbols(OnceLock<Result<SymbolTable, SymbolsError>>);

impl Symbols {
    /// Nothing read yet.
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// Reads the table, the first time it is called.
    ///
    /// # Errors
    /// Says why no address can be named.
    pub fn load(&self) -> Result<(), &SymbolsError> {
        self.table().map(|_| ())
    }

    /// Whether the kernel lets us have them, without reading them all.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn are_told() -> Result<(), SymbolsError> {
        let mut lines = BufReader::new(File::open(PATH)?).lines();
        // Some kernels begin with data, all at small addresses: one that is not zero will do.
        let told = |line: &String| !line.starts_with("0000000000000000 ");
        let told = lines.by_ref().take(64).map_while(Result::ok).any(|line| told(&line));
        if told { Ok(()) } else { Err(SymbolsError::Hidden) }
    }

    /// Function that `addr` is in, and how far from its start. `None` where there is none, or no table.
    pub fn lookup(&self, addr: u64) -> Option<(&str, u64)> {
        self.table().ok()?.lookup(addr)
    }

    fn table(&self) -> Result<&SymbolTable, &SymbolsError> {
        self.0
            .get_or_init(|| SymbolTable::read(BufReader::with_capacity(1 << 16, File::open(PATH)?)))
            .as_ref()
    }
}

/// Functions sorted by address; their names one after the other, each ended by a zero.
#[derive(Debug)]
struct SymbolTable {
    functions: Vec<(u64, u32)>,
    names: String,
}

impl SymbolTable {
    fn read(mut lines: impl BufRead) -> Result<Self, SymbolsError> {
        let mut functions = Vec::new();
        let mut names = String::new();
        let mut hidden = false;
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line)? != 0 {
            if let Some(KernelFunction { address, name }) = KernelFunction::parse(&line) {
                hidden |= address == 0;
                // Offsets are kept in 32 bits; the whole file is some 10 MB.
                if address != 0
                    && let Ok(at) = u32::try_from(names.len())
                {
                    functions.push((address, at));
                    names.push_str(name);
                    names.push('\0');
                }
            }
            line.clear();
        }
        if functions.is_empty() && hidden {
            return Err(SymbolsError::Hidden);
        }
        // Of several names for one address the first listed stays.
        functions.sort_unstable();
        functions.dedup_by_key(|(address, _)| *address);
        functions.shrink_to_fit();
        names.shrink_to_fit();
        Ok(Self { functions, names })
    }

    fn lookup(&self, addr: u64) -> Option<(&str, u64)> {
        let next = self.functions.partition_point(|&(address, _)| address <= addr);
        let (address, at) = *self.functions.get(next.checked_sub(1)?)?;
        let offset = addr - address;
        let name = self.names.get(at as usize..)?.split('\0').next()?;
        (offset < MAX_FUNCTION).then_some((name, offset))
    }
}

/// One line: `ffffffff81a1b2c0 T nf_hook_slow`, in modules followed by a tab and `[name]`.
struct KernelFunction<'a> {
    address: u64,
    name: &'a str,
}

impl<'a> KernelFunction<'a> {
    /// `None` for data, padding, and lines of another form.
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.split(u8::is_ascii_whitespace);
        let (address, kind, name) = (fields.next()?, fields.next()?, fields.next()?);
        if !matches!(kind, b"t" | b"T" | b"w" | b"W") || PADDING.iter().any(|p| name.starts_with(p)) {
            return None;
        }
        let name = str::from_utf8(name).ok().filter(|name| !name.is_empty() && !name.contains('\0'))?;
        Some(Self { address: u64::from_str_radix(str::from_utf8(address).ok()?, 16).ok()?, name })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LINES: &str = "\
0000000000000000 A fixed_percpu_data
ffffffff81000000 T _stext
ffffffff81000000 t alias_of_it
ffffffff81000ff0 t __pfx_kfree_skb
ffffffff81001000 T kfree_skb
ffffffff81000500 W weak_one
ffffffff82000000 D some_data
ffffffffc0000000 t nft_do_chain\t[nf_tables]
broken line
";

    fn read(text: &[u8]) -> Result<SymbolTable, SymbolsError> {
        SymbolTable::read(text)
    }

    #[test]
    fn names_the_function_an_address_is_in() -> Result<(), SymbolsError> {
        let table = read(LINES.as_bytes())?;
        assert_eq!(table.lookup(0xffff_ffff_8100_0000), Some(("_stext", 0)));
        assert_eq!(table.lookup(0xffff_ffff_8100_0510), Some(("weak_one", 0x10)));
        assert_eq!(table.lookup(0xffff_ffff_8100_1042), Some(("kfree_skb", 0x42)));
        assert_eq!(table.lookup(0xffff_ffff_c000_0001), Some(("nft_do_chain", 1)));
        Ok(())
    }

    #[test]
    fn addresses_in_no_function_have_no_name() -> Result<(), SymbolsError> {
        let table = read(LINES.as_bytes())?;
        for address in [0, 0x1000, 0xffff_ffff_80ff_ffff, 0xffff_ffff_8110_1000, u64::MAX] {
            assert_eq!(table.lookup(address), None, "{address:#x}");
        }
        assert_eq!(read(b"")?.lookup(1), None);
        Ok(())
    }

    #[test]
    fn hidden_addresses_are_said_to_be_hidden() {
        let error = read(b"0000000000000000 T _stext\n0000000000000000 t kfree_skb\n").err();
        assert!(error.is_some_and(|e| e.to_string().contains("kptr_restrict")));
    }

    #[test]
    fn this_kernel_has_functions() {
        let symbols = Symbols::new();
        match symbols.load() {
            Ok(()) => assert!(symbols.lookup(u64::MAX).is_none()),
            Err(error) => println!("SKIP {error}"),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn arbitrary_text_never_panics(
            text in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b' '), Just(b't'), Just(b'f'), any::<u8>()], 0..300),
            address in any::<u64>(),
        ) {
            if let Ok(table) = read(&text) {
                let _ = table.lookup(address);
            }
        }
    }
}
