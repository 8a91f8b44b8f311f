// SPDX-License-Identifier: MIT OR Apache-2.0
//! Recordings: they say what the run said, and whatever else they hold, they do no harm.

use crate::schema;
use crate::world;

use std::io::Cursor;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;
use serde_json::Value;
use tracer_user::explain::{Explainer, Told};
use tracer_user::flow::{ConntrackEntry, Ending, Note, NoteKind};
use tracer_user::node::Hook;
use tracer_user::record::{Begin, Reader, Recorder, Replayed, SCHEMA, replay};
use tracer_user::snapshot::{Evidence, NetnsEvidence};
use world::*;

/// A world with a drop, a loop of marks and silence, after its end.
fn eventful() -> World {
    let mut w = World::new(true);
    let mut p = Pkt::tcp("198.51.100.10", 80, "10.200.0.22", 41234);
    p.reply = true;
    w.tc(&p, NODE1, ETH0, IN, 100);
    w.nf(&p, NODE1, Hook::Prerouting, (ETH0, 0), 1000);
    w.fib_reverse(&p, NODE1, 254, FLANNEL, 300);
    w.drop(&p, NODE1, ETH0, ("IP_RPFILTER", "ip_rcv_finish_core"), &["ip_rcv"]);
    let mut r = world::egress::syn();
    w.request_through_node1(&mut r);
    w.request_through_node2(&mut r);
    w.wait(4000);
    w.finish();
    w
}

fn evidence() -> Arc<Evidence> {
    let mut evidence = Evidence::default();
    for (id, name) in [(NODE1, "node1"), (NODE2, "node2")] {
        let mut netns = NetnsEvidence { name: name.to_owned(), ..NetnsEvidence::default() };
        Arc::make_mut(&mut netns.sysctls).insert("net/ipv4/conf/eth0/rp_filter".to_owned(), "1".to_owned());
        evidence.netns.insert(id, netns.into());
    }
    Arc::new(evidence)
}

fn path() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("egwtrace-recording-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    std::env::temp_dir().join(name)
}

/// The recording of a world, and what was found live.
fn record(w: &World) -> (Vec<u8>, Vec<Told>) {
    let path = path();
    let mut recorder = Recorder::create(&path).expect("makes the file");
    let begin = Begin { schema: SCHEMA.to_owned(), version: "0.1.0".to_owned(), ..Begin::default() };
    recorder.begin(begin).expect("writes");
    let (topology, evidence) = (Arc::new((*w.topology).clone()), evidence());
    let mut explainer = Explainer::default();
    for journey in w.journeys.values() {
        recorder.journey(journey, true, &topology, &Kernel, Some(&evidence)).expect("writes");
        explainer.observe(journey, &topology, &Kernel, Some(&evidence));
    }
    recorder.end(w.journeys.len() as u64, 0).expect("writes");
    let bytes = std::fs::read(&path).expect("reads");
    assert!(Recorder::create(&path).is_err(), "a file that exists is left alone");
    std::fs::remove_file(path).expect("removes");
    (bytes, explainer.causes())
}

fn read(bytes: &[u8]) -> Result<(Replayed, Option<u64>), String> {
    let mut reader = Reader::new(Cursor::new(bytes)).map_err(|e| e.to_string())?;
    let replayed = replay(&mut reader, &mut |_| {}).map_err(|e| e.to_string())?;
    Ok((replayed, reader.cut_at()))
}

#[test]
fn a_recording_says_what_the_run_said() {
    let (bytes, live) = record(&eventful());
    assert!(live.iter().any(|told| told.finding.title.contains("reverse path filter")), "{live:#?}");
    let (replayed, cut) = read(&bytes).expect("reads");
    assert_eq!(replayed.causes, live);
    assert_eq!((replayed.packets_of_run, cut), (Some(replayed.packets), None));
    assert_eq!(replayed.namespaces, ["node1", "node2"]);
    let mut line = Vec::new();
    tracer_user::output::write_causes(&mut line, &replayed).expect("writes");
    schema::assert_fits(&serde_json::from_slice(&line).expect("JSON"));
}

#[test]
fn every_line_fits_the_schema() {
    let root: Value =
        serde_json::from_str(include_str!("../../schema/recording.schema.json")).expect("a schema");
    let (bytes, _) = record(&eventful());
    for (at, line) in bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty()).enumerate() {
        let value: Value = serde_json::from_slice(line).expect("JSON");
        schema::check(&root, &root, &value, "").unwrap_or_else(|error| panic!("line {}: {error}", at + 1));
    }
}

#[test]
fn no_kernel_address_is_in_it() {
    const ADDRESS: u64 = 0xffff_ffff_8123_4567;
    let mut w = eventful();
    for journey in w.journeys.values_mut() {
        if let Ending::Dropped(site) = &mut journey.ending {
            (site.location, site.stack[0]) = (ADDRESS, ADDRESS + 1);
        }
        let freed = NoteKind::Freed { reason: 2, location: ADDRESS + 2 };
        journey.notes.push(Note { ts: 1, netns: NODE1, after: 0, what: freed });
        let (original, reply) = (journey.packet.ends, journey.packet.ends.reversed());
        journey.conntrack.push(ConntrackEntry { id: ADDRESS + 3, original, reply, status: 0, mark: 0 });
    }
    let (bytes, _) = record(&w);
    let text = String::from_utf8(bytes).expect("text");
    for at in 0..4 {
        assert!(!text.contains(&(ADDRESS + at).to_string()), "{at}");
    }
    let (bytes, _) = record(&eventful());
    assert!(String::from_utf8(bytes).expect("text").contains("ip_rcv_finish_core"), "functions have names");
}

#[test]
fn one_that_is_cut_off_is_read_up_to_there() {
    let (bytes, live) = record(&eventful());
    let lines = bytes.iter().filter(|b| **b == b'\n').count();
    // In the middle of the last line but one, which is a packet.
    let cut = bytes.len() - 100;
    let (replayed, at) = read(&bytes[..cut]).expect("reads");
    assert_eq!((replayed.packets_of_run, at), (None, Some(lines as u64 - 1)));
    assert!(replayed.causes.len() <= live.len());
}

#[test]
fn refusals_name_the_line_and_what_is_accepted() {
    let (bytes, _) = record(&eventful());
    let text = String::from_utf8(bytes).expect("text");
    let (first, rest) = text.split_once('\n').expect("lines");
    let deep = format!("{first}\n{{\"topology\":{}1{}}}\n", "[".repeat(5000), "]".repeat(5000));
    for (text, expected) in [
        (String::new(), "the recording is empty;"),
        (
            "root:x:0:0\n".to_owned(),
            "line 1 is not the beginning of a recording (it begins with \"root:x:0:0\")",
        ),
        ("\u{1b}[31m\n".to_owned(), "line 1 is not the beginning of a recording (it begins with \""),
        (
            "{\"schema\":\"egwtrace/1\",\"type\":\"header\"}\n".to_owned(),
            "line 1 is not the beginning of a recording (it is the output of -o json, which lacks the node",
        ),
        (rest.to_owned(), "line 1 is not the beginning of a recording (it has no \"begin\")"),
        (
            first.replace("recording/1", "recording/9"),
            "line 1: this is a recording of version \"egwtrace-recording/9\"; accepted: egwtrace-recording/1",
        ),
        (format!("{first}\nnonsense\n{rest}"), "line 2 of the recording is damaged: "),
        (format!("{first}\n{{\"else\":1}}\n"), "line 2 of the recording is damaged: unknown variant"),
        (
            format!("{first}\n{first}\n"),
            "line 2 of the recording is damaged: a recording begins in the middle of it",
        ),
        (deep, "line 2 of the recording is damaged: "),
    ] {
        let error = read(text.as_bytes()).expect_err("is refused");
        assert!(error.starts_with(expected), "{error}\n{expected}");
        assert!(error.contains("accepted: ") && !error.contains(char::is_control), "{error}");
    }
    let binary = [first.as_bytes(), b"\n\xff\xfe\n"].concat();
    assert!(read(&binary).expect_err("is refused").starts_with("line 2 is not text"));
}

#[test]
fn text_of_a_hostile_recording_cannot_drive_the_terminal() {
    let (bytes, _) = record(&eventful());
    let text = String::from_utf8(bytes).expect("text");
    let hostile = text.replace("node1", "n\\u001b[2J\u{202e}").replace("ip_rcv", "\\u0007x");
    let (replayed, _) = read(hostile.as_bytes()).expect("reads");
    let shown =
        format!("{:?}", replayed.namespaces) + &serde_json::to_string(&replayed.causes).expect("JSON");
    assert!(!shown.contains(['\u{1b}', '\u{202e}', '\u{7}']) && !shown.contains("\\u001b"), "{shown}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn damaged_recordings_never_panic(edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), cut: prop::sample::Index) {
        let (mut bytes, _) = record(&eventful());
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            // Numbers into other numbers get furthest.
            bytes[at] = if bytes[at].is_ascii_digit() { b'0' + byte % 10 } else { byte };
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        if let Err(error) = read(&bytes) {
            prop_assert!(!error.contains(char::is_control), "{error:?}");
        }
    }

    #[test]
    fn numbers_of_any_size_never_panic(number: u64, at: prop::sample::Index) {
        let (bytes, _) = record(&eventful());
        let text = String::from_utf8(bytes).expect("text");
        let starts: Vec<usize> = text.match_indices(':').map(|(i, _)| i + 1).filter(|i| text.as_bytes()[*i].is_ascii_digit()).collect();
        let start = starts[at.index(starts.len())];
        let end = start + text[start..].find(|c: char| !c.is_ascii_digit()).unwrap_or(0);
        let _ = read(format!("{}{number}{}", &text[..start], &text[end..]).as_bytes());
    }
}
