// SPDX-License-Identifier: MIT OR Apache-2.0
//! The order of the rooms (top modules of the library): data goes one way. Read from the paths in the sources.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// From the bottom up: a room may use those before it.
const ROOMS: [&str; 17] = [
    "text", "node", "bpf", "fib", "firewall", "cluster", "snapshot", "flow", "target", "cause", "model",
    "explain", "record", "cli", "check", "output", "trace",
];

/// Arrows up that there are all the same, each with its reason. One that is gone has to be taken from this list.
const ARROWS_UP: [(&str, &str, &str); 0] = [];

/// Room, modules, reason.
type Circle = (&'static str, &'static [&'static str], &'static str);

/// Modules of one room that use each other in a circle. A circle may lose members; it may not gain one, and one that is
/// gone has to be taken from this list.
const CIRCLES: &[Circle] = &[
    ("snapshot", &["connection", "model"], "a namespace's entries are looked up by methods of its evidence"),
    ("fib", &["flow", "ipv4", "tables"], "one type, the tables, answers for both families in several files"),
    ("firewall", &["bytecode", "xt"], "extensions are read by the decoder of rules, and write what it holds"),
    ("flow", &["discovered_ends", "loss", "reporting", "tracker"], "one type, the tracker, in several files"),
    ("target", &["backend", "error", "select", "wanted"], "errors quote what was wanted"),
    (
        "explain",
        &[
            "arp_watch",
            "delivered_unanswered",
            "drops",
            "explainer",
            "flow_history",
            "lost",
            "no_reply",
            "remote_errors",
        ],
        "causes of several packets call causes of one",
    ),
    ("model", &["egress_sets", "follow_up", "judge", "run", "start"], "the run's parts know the run"),
];

struct Source {
    /// Room, and the module in it (the file or directory directly in the room).
    room: String,
    module: String,
    file: PathBuf,
    /// Without comments and unit tests.
    text: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut todo, mut out) = (vec![root.clone()], Vec::new());
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(directory).expect("reads") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                todo.push(path);
                continue;
            }
            let inside = path.strip_prefix(&root).expect("is below").with_extension("");
            let mut parts = inside.iter().map(|part| part.to_str().expect("is UTF-8").to_owned());
            let (Some(room), module) = (parts.next(), parts.next().unwrap_or_default()) else { continue };
            if path.extension().is_none_or(|e| e != "rs") || room == "main" || room == "lib" {
                continue;
            }
            out.push(Source {
                room,
                module,
                text: code_of(&fs::read_to_string(&path).expect("is text")),
                file: path,
            });
        }
    }
    assert!(out.len() > 200, "only {} sources in {}", out.len(), root.display());
    out
}

fn code_of(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    code.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The names that follow `prefix` in paths: of `crate::a::b` and `use crate::{a, b::c};` these are `a` and `b`.
fn after<'t>(text: &'t str, prefix: &str) -> Vec<&'t str> {
    let mut out = Vec::new();
    for (at, _) in text.match_indices(prefix) {
        // `super::super::x` is no `super::x`, `mycrate::x` no `crate::x`.
        let before = text[..at].chars().next_back().unwrap_or(' ');
        if before.is_alphanumeric() || matches!(before, '_' | ':') {
            continue;
        }
        let rest = &text[at + prefix.len()..];
        match rest.strip_prefix('{') {
            Some(group) => {
                let (mut depth, mut begins) = (1, true);
                for (at, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        ',' => begins = depth == 1,
                        c if depth == 1 && begins && !c.is_whitespace() => {
                            out.push(name(&group[at..]));
                            begins = false;
                        }
                        _ => {}
                    }
                    if depth == 0 {
                        break;
                    }
                }
            }
            None => out.push(name(rest)),
        }
    }
    out
}

fn name(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()
}

#[test]
fn paths_are_found_in_code() {
    let text = "use crate::{a, b::{c, d},\n e as f};\nlet x = crate::g::h(); use super::super::i; mycrate::j";
    assert_eq!(after(text, "crate::"), ["a", "b", "e", "g"]);
    assert_eq!(after("super::super::i super::k::l", "super::"), ["super", "k"]);
    assert_eq!(code_of("a // b\nc\n#[cfg(test)]\nmod tests {}"), "a \nc");
}

#[test]
fn rooms_use_only_rooms_below_them() {
    let height = |room: &str| ROOMS.iter().position(|known| *known == room);
    let (mut wrong, mut used) = (Vec::new(), BTreeSet::new());
    for source in sources() {
        let own =
            height(&source.room).unwrap_or_else(|| panic!("{} is in no known room", source.file.display()));
        for to in after(&source.text, "crate::") {
            // A macro or a constant of the crate itself is no room.
            let Some(other) = height(to).filter(|other| *other > own) else { continue };
            let known = ARROWS_UP.iter().find(|(from, up, _)| *from == source.room && *up == ROOMS[other]);
            match known {
                Some((from, up, _)) => _ = used.insert((*from, *up)),
                None => wrong.push(format!("{}: {} is above {}", source.file.display(), to, source.room)),
            }
        }
    }
    assert!(wrong.is_empty(), "arrows up:\n{}", wrong.join("\n"));
    let gone = ARROWS_UP.iter().filter(|(from, up, _)| !used.contains(&(*from, *up))).collect::<Vec<_>>();
    assert!(gone.is_empty(), "no longer there, take them from ARROWS_UP: {gone:?}");
}

/// Which modules of their room the modules of a room use.
type Uses = BTreeMap<String, BTreeSet<String>>;

fn reaches(uses: &Uses, from: &str, to: &str) -> bool {
    let (mut todo, mut seen) = (vec![from], BTreeSet::new());
    while let Some(module) = todo.pop() {
        for next in uses.get(module).into_iter().flatten() {
            if next == to {
                return true;
            }
            if seen.insert(next.as_str()) {
                todo.push(next);
            }
        }
    }
    false
}

#[test]
fn modules_of_a_room_do_not_use_each_other_in_circles() {
    let sources = sources();
    let mut found = Vec::new();
    for room in ROOMS {
        let of_room: Vec<_> = sources.iter().filter(|s| s.room == room && s.module != "mod").collect();
        let modules: BTreeSet<&str> = of_room.iter().map(|s| s.module.as_str()).collect();
        let mut uses = Uses::new();
        for source in &of_room {
            let mut to = after(&source.text, &format!("crate::{room}::"));
            // `super` of a file in a directory of the room is that directory.
            if source.file.parent().is_some_and(|parent| parent.ends_with(room)) {
                to.extend(after(&source.text, "super::"));
            }
            let to = to.into_iter().filter(|to| modules.contains(to) && *to != source.module);
            uses.entry(source.module.clone()).or_default().extend(to.map(str::to_owned));
        }
        let mut left = modules;
        while let Some(first) = left.pop_first() {
            let circle: Vec<&str> = std::iter::once(first)
                .chain(left.iter().copied().filter(|m| reaches(&uses, first, m) && reaches(&uses, m, first)))
                .collect();
            left.retain(|module| !circle.contains(module));
            if circle.len() > 1 {
                found.push((room, circle.iter().map(|m| (*m).to_owned()).collect::<Vec<_>>()));
            }
        }
    }
    let within = |(room, circle): &(&str, Vec<String>), known: &Circle| {
        known.0 == *room && circle.iter().all(|module| known.1.contains(&module.as_str()))
    };
    let new: Vec<_> =
        found.iter().filter(|circle| !CIRCLES.iter().any(|known| within(circle, known))).collect();
    assert!(new.is_empty(), "circles: {new:?}");
    let gone: Vec<_> =
        CIRCLES.iter().filter(|known| !found.iter().any(|circle| within(circle, known))).collect();
    assert!(gone.is_empty(), "no longer there, take them from CIRCLES: {gone:?}");
}

/// Names that are given to more than one type, with the number of types. A name may lose types; it may not gain one, and
/// no name may be added.
const SHARED_NAMES: &[(&str, usize)] = &[
    ("Answer", 2),
    ("Askers", 2),
    ("At", 2),
    ("Backend", 2),
    ("Bytes", 2),
    ("Chain", 2),
    ("Change", 3),
    ("Changes", 2),
    ("Client", 2),
    ("Cluster", 2),
    ("Conditions", 2),
    ("Encap", 2),
    ("End", 3),
    ("Ending", 2),
    ("Endpoint", 4),
    ("EndpointSlice", 2),
    ("Entry", 2),
    ("Exit", 2),
    ("Expression", 2),
    ("Facts", 2),
    ("Filter", 2),
    ("Flow", 2),
    ("Found", 3),
    ("Hop", 2),
    ("Host", 2),
    ("Info", 4),
    ("Kind", 3),
    ("Known", 3),
    ("Line", 2),
    ("MarkChange", 2),
    ("Member", 2),
    ("Messages", 2),
    ("Missing", 2),
    ("Names", 2),
    ("Namespace", 3),
    ("Near", 2),
    ("News", 2),
    ("Outcome", 3),
    ("Place", 3),
    ("Pod", 2),
    ("PodIp", 2),
    ("Policy", 2),
    ("Port", 2),
    ("Ports", 2),
    ("Programs", 2),
    ("Question", 3),
    ("Read", 3),
    ("Reader", 2),
    ("Refusal", 2),
    ("Request", 2),
    ("Routed", 2),
    ("Rule", 2),
    ("Ruleset", 2),
    ("Run", 2),
    ("Selector", 2),
    ("Step", 2),
    ("Table", 2),
    ("Target", 3),
    ("Translation", 2),
    ("Verdict", 3),
    ("Way", 2),
];

/// The types that a file declares at its top level.
fn types_of(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let line = line.strip_prefix("pub").map_or(line, |rest| {
            let visible = rest.strip_prefix('(').and_then(|within| within.split_once(')'));
            visible.map_or(rest, |(_, rest)| rest).trim_start()
        });
        let (keyword, rest) = line.split_once(' ')?;
        matches!(keyword, "struct" | "enum" | "trait" | "type" | "union").then(|| name(rest))
    })
}

#[test]
fn a_type_has_a_name_of_its_own() {
    assert_eq!(types_of("pub(in a::b) struct X<T>;\nenum Y {\n    type Z;").collect::<Vec<_>>(), ["X", "Y"]);
    let sources = sources();
    let mut found = BTreeMap::<&str, BTreeSet<&Path>>::new();
    for source in &sources {
        // What stands in for the API server's client where it is not compiled in has the same names.
        let of_tests = source.file.ends_with("tests.rs") || source.file.ends_with("testing.rs");
        if of_tests || source.file.ends_with("cluster/off.rs") {
            continue;
        }
        for name in types_of(&source.text) {
            found.entry(name).or_default().insert(&source.file);
        }
    }
    found.retain(|_, files| files.len() > 1);
    let allowed: BTreeMap<&str, usize> = SHARED_NAMES.iter().copied().collect();
    let new: Vec<_> =
        found.iter().filter(|(name, files)| files.len() > *allowed.get(*name).unwrap_or(&1)).collect();
    assert!(new.is_empty(), "give the new type a name of its own: {new:#?}");
    let of = |name: &str| found.get(name).map_or(1, BTreeSet::len);
    let gone: Vec<_> = allowed.iter().filter(|(name, count)| of(name) < **count).collect();
    assert!(gone.is_empty(), "fewer types have these names now, change SHARED_NAMES: {gone:?}");
}
