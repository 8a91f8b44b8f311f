// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rules: those in nf_tables as the kernel keeps them, those of ip_tables as `iptables-legacy-save` prints them.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use super::{nftables, tool};
use crate::firewall::iptables::{self, Saved};
use crate::firewall::{Backend, IpSet, Table, TableFamily};
use crate::snapshot::NetnsEvidence;

#[derive(Default)]
pub(super) struct Read {
    /// See [`NetnsEvidence::nft_generation`].
    pub(super) generation: Option<u32>,
    pub(super) tables: Arc<Vec<Table>>,
    pub(super) sets: BTreeMap<String, IpSet>,
    pub(super) unreadable: Vec<String>,
}

/// Reads all rules of the namespace of the calling thread. What was read before holds as long as nothing changed:
/// only the counters of its rules are old.
pub(super) fn read(netns: &str, before: Option<&NetnsEvidence>) -> Read {
    let legacy = ["ip_tables_names", "ip6_tables_names"].iter().any(|file| has_legacy(file));
    if let (false, Some(before)) = (legacy, before)
        && let Some(generation) = before.nft_generation
        && nftables::current_generation(netns) == Some(generation)
    {
        let native = before.sets.iter().filter(|(key, _)| key.contains(' '));
        return Read {
            generation: Some(generation),
            tables: before.rulesets.clone(),
            sets: native.map(|(key, set)| (key.clone(), set.clone())).collect(),
            unreadable: Vec::new(),
        };
    }
    let mut out = read_all(netns);
    // Neither counts what the other back end does.
    out.generation = out.generation.filter(|_| !legacy && out.unreadable.is_empty());
    out
}

fn has_legacy(file: &str) -> bool {
    fs::read_to_string(format!("/proc/thread-self/net/{file}")).is_ok_and(|names| !names.trim().is_empty())
}

fn read_all(netns: &str) -> Read {
    let mut out = Read::default();
    let legacy = [(TableFamily::Ip, "ip_tables_names"), (TableFamily::Ip6, "ip6_tables_names")];
    thread::scope(|scope| {
        let legacy = legacy.into_iter().filter(|(_, file)| has_legacy(file)).map(|(family, _)| family);
        let saves: Vec<_> =
            legacy.map(|family| scope.spawn(move || save(family, Backend::IptablesLegacy))).collect();
        match nftables::read(netns) {
            Ok(read) => out.take(read),
            Err(error) => out.unreadable.push(error.to_string()),
        }
        for save in saves {
            let saved = save.join();
            match saved.unwrap_or_else(|_| Err("reading rules failed; a bug in egwtrace".into())) {
                Ok(saved) => out.saved(saved),
                Err(error) => out.unreadable.push(error),
            }
        }
    });
    out
}

impl Read {
    /// Where iptables has rules with extensions of which only the name is understood, its own tool knows their options.
    fn take(&mut self, read: nftables::Read) {
        let ruleset = read.ruleset;
        self.generation = read.generation;
        self.tables = Arc::new(ruleset.tables);
        self.sets = ruleset.sets;
        if ruleset.cut > 0 {
            self.unreadable.push(format!("{} rules beyond the limit were not read", ruleset.cut));
        }
        for family in ruleset.opaque {
            // Without the tool there are the names.
            let Ok(mut saved) = save(family, Backend::IptablesNft) else { continue };
            Arc::make_mut(&mut self.tables).retain(|table| {
                let shown = |s: &Table| s.name == table.name;
                table.family != family
                    || table.backend != Backend::IptablesNft
                    || !saved.tables.iter().any(shown)
            });
            saved.incompatible.clear();
            self.saved(saved);
        }
    }

    fn saved(&mut self, saved: Saved) {
        if saved.cut > 0 {
            self.unreadable.push(format!("{} rules beyond the limit were not read", saved.cut));
        }
        Arc::make_mut(&mut self.tables).extend(saved.tables);
    }
}

fn save(family: TableFamily, backend: Backend) -> Result<Saved, String> {
    let what = format!(
        "{} rules of the {} back end",
        if family == TableFamily::Ip6 { "ip6tables" } else { "iptables" },
        if backend == Backend::IptablesNft { "nft" } else { "legacy" },
    );
    let Some(tool) = save_tool(family, backend) else {
        return Err(format!("{what} not read: no iptables-save of that kind; install iptables"));
    };
    let printed = tool::output(&tool, &["-c"]).map_err(|error| format!("{what} not read: {error}"))?;
    Ok(iptables::parse(&printed, family, backend))
}

/// By its full name, else the default one when it is of the wanted kind.
fn save_tool(family: TableFamily, backend: Backend) -> Option<PathBuf> {
    let program = if family == TableFamily::Ip6 { "ip6tables" } else { "iptables" };
    let kind = if backend == Backend::IptablesNft { "nft" } else { "legacy" };
    tool::find(&format!("{program}-{kind}-save")).or_else(|| {
        let default = tool::find(&format!("{program}-save"))?;
        let version = tool::output(&default, &["--version"]).ok()?;
        // Before 1.8 there was one back end and the version does not name it.
        (version.contains("nf_tables") == (backend == Backend::IptablesNft)).then_some(default)
    })
}
