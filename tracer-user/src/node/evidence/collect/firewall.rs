// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rules: iptables' of both back ends as its own tools print them (in nf_tables their matches are
//! opaque), native nftables as JSON.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::thread;

use super::tool;
use crate::node::evidence::iptables::{self, Saved};
use crate::node::evidence::model::NetnsEvidence;
use crate::node::evidence::nft;
use crate::node::evidence::rule::{Backend, Table, TableFamily};
use crate::node::evidence::set::IpSet;
use crate::node::netlink::{Netlink, Request, attributes, be32, text};

// include/uapi/linux/netfilter/nf_tables.h
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_GEN_ID: u16 = 1;

/// The tables that iptables knows.
const XTABLES: [&str; 5] = ["filter", "mangle", "nat", "raw", "security"];

const TABLES_AT_A_TIME: usize = 4;

#[derive(Default)]
pub(super) struct Read {
    /// See [`NetnsEvidence::nft_generation`].
    pub(super) generation: Option<u32>,
    pub(super) tables: Vec<Table>,
    pub(super) sets: BTreeMap<String, IpSet>,
    pub(super) unreadable: Vec<String>,
}

/// Reads all rules of the namespace of the calling thread. What was read before holds as long as nothing changed:
/// only the counters of its rules are old.
pub(super) fn read(netns: &str, before: Option<&NetnsEvidence>) -> Read {
    let generation = generation(netns);
    let legacy = ["ip_tables_names", "ip6_tables_names"].iter().any(|file| has_legacy(file));
    if let (false, Some(now), Some(before)) = (legacy, generation, before)
        && before.nft_generation == Some(now)
    {
        let native = before.sets.iter().filter(|(key, _)| key.contains(' '));
        return Read {
            generation,
            tables: before.rulesets.clone(),
            sets: native.map(|(key, set)| (key.clone(), set.clone())).collect(),
            unreadable: Vec::new(),
        };
    }
    let mut out = read_all(netns);
    let complete = !legacy && out.unreadable.is_empty();
    out.generation = generation.filter(|now| complete && self::generation(netns) == Some(*now));
    out
}

fn has_legacy(file: &str) -> bool {
    fs::read_to_string(format!("/proc/thread-self/net/{file}")).is_ok_and(|names| !names.trim().is_empty())
}

fn read_all(netns: &str) -> Read {
    let mut out = Read::default();
    let tables = nft_tables(netns).unwrap_or_else(|error| {
        out.unreadable.push(error);
        Vec::new()
    });
    let has = |family| tables.iter().any(|(f, name)| *f == family && XTABLES.contains(&name.as_str()));
    let wanted = [
        (TableFamily::Ip, Backend::IptablesNft, has(TableFamily::Ip)),
        (TableFamily::Ip6, Backend::IptablesNft, has(TableFamily::Ip6)),
        (TableFamily::Ip, Backend::IptablesLegacy, has_legacy("ip_tables_names")),
        (TableFamily::Ip6, Backend::IptablesLegacy, has_legacy("ip6_tables_names")),
    ];
    let saved: Vec<Result<Saved, String>> = thread::scope(|scope| {
        let wanted = wanted.into_iter().filter(|(.., wanted)| *wanted);
        let threads: Vec<_> =
            wanted.map(|(family, backend, _)| scope.spawn(move || save(family, backend))).collect();
        threads
            .into_iter()
            .map(|t| t.join().unwrap_or_else(|_| Err("reading rules failed; a bug in egwtrace".into())))
            .collect()
    });
    for saved in saved {
        match saved {
            Ok(saved) => {
                if saved.cut > 0 {
                    out.unreadable.push(format!("{} rules beyond the limit were not read", saved.cut));
                }
                out.tables.extend(saved.tables);
            }
            Err(error) => out.unreadable.push(error),
        }
    }
    read_native(&tables, &mut out);
    out
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

/// What iptables could not show is nft's.
fn read_native(tables: &[(TableFamily, String)], out: &mut Read) {
    let is_iptables = |(family, name): &&(TableFamily, String)| {
        let shown = |t: &Table| t.backend == Backend::IptablesNft && t.family == *family && t.name == *name;
        out.tables.iter().any(shown)
    };
    let native: Vec<_> = tables.iter().filter(|table| !is_iptables(table)).collect();
    if native.is_empty() {
        return;
    }
    let names: Vec<_> = native.iter().map(|(family, name)| format!("{family} {name}")).collect();
    let Some(tool) = tool::find("nft") else {
        let text = "nft not installed: native nftables rules not read";
        return out.unreadable.push(format!("{text} (tables {}); install nftables", names.join(", ")));
    };
    // What is handed to nft's own grammar must not be more than a name.
    let plain = |name: &&String| name.chars().all(|c| c.is_ascii_alphanumeric() || " _-./".contains(c));
    for strange in names.iter().filter(|name| !plain(name)) {
        out.unreadable.push(format!("table {strange} not read: its name cannot be handed to nft"));
    }
    // One run each: nft loads only what its first `list table` names.
    let names: Vec<_> = names.iter().filter(plain).collect();
    for some in names.chunks(TABLES_AT_A_TIME) {
        let listed: Vec<_> = thread::scope(|scope| {
            let list = |name: &&String| {
                let command = format!("list table {name}");
                let tool = &tool;
                scope.spawn(move || tool::output(tool, &["-j", &command]))
            };
            let threads: Vec<_> = some.iter().map(list).collect();
            threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
        });
        for json in listed {
            match json {
                Ok(json) => {
                    let mut read = nft::parse(&json);
                    out.tables.append(&mut read.tables);
                    out.sets.append(&mut read.sets);
                    out.unreadable.append(&mut read.problems);
                }
                Err(error) => out.unreadable.push(format!("native nftables rules not read: {error}")),
            }
        }
    }
}

/// The number of the last change of the rules.
fn generation(netns: &str) -> Option<u32> {
    let kind = |message: libc::c_int| (libc::NFNL_SUBSYS_NFTABLES << 8) as u16 | message as u16;
    let request = Request::one("nftables generation", kind(libc::NFT_MSG_GETGEN), &[0; 4]);
    let parse = |message: u16, payload: &[u8]| {
        let (_, rest) = payload.split_at_checked(4)?;
        let id = attributes(rest).find(|(kind, _)| *kind == NFTA_GEN_ID).and_then(|(_, v)| be32(v))?;
        (message == kind(libc::NFT_MSG_NEWGEN)).then_some(id)
    };
    Netlink::open(libc::NETLINK_NETFILTER, netns, &[]).ok()?.one(&request, parse).ok()?
}

/// Family and name of each table for IP.
fn nft_tables(netns: &str) -> Result<Vec<(TableFamily, String)>, String> {
    let kind = |message: libc::c_int| (libc::NFNL_SUBSYS_NFTABLES << 8) as u16 | message as u16;
    let request = Request::dump("nftables tables", kind(libc::NFT_MSG_GETTABLE), &[0; 4]);
    let parse = |message: u16, payload: &[u8]| {
        let (fixed, rest) = payload.split_at_checked(4)?;
        let family = match i32::from(fixed[0]) {
            libc::NFPROTO_IPV4 => TableFamily::Ip,
            libc::NFPROTO_IPV6 => TableFamily::Ip6,
            libc::NFPROTO_INET => TableFamily::Inet,
            _ => return None,
        };
        let name = attributes(rest).find(|(kind, _)| *kind == NFTA_TABLE_NAME).map(|(_, v)| text(v))?;
        (message == kind(libc::NFT_MSG_NEWTABLE)).then_some((family, name))
    };
    let dump = || Netlink::open(libc::NETLINK_NETFILTER, netns, &[])?.dump(&request, parse);
    match dump() {
        Ok(tables) => Ok(tables),
        Err(error) if error.is_unsupported() => Ok(Vec::new()),
        Err(error) => Err(error.to_string()),
    }
}
