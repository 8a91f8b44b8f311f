// SPDX-License-Identifier: MIT OR Apache-2.0
//! A recording from anyone: read, explained, and what it says written down.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use tracer_user::flow::News;
use tracer_user::output::{Output, ReplayText, Scene, Text, TextOptions, write_causes};
use tracer_user::record::{Reader, SCHEMA, replay};

fuzz_target!(|bytes: &[u8]| {
    // What the fuzzer would have to guess first.
    let begin = format!(
        "{{\"begin\":{{\"schema\":\"{SCHEMA}\",\"version\":\"0\",\"kernel\":\"6\",\"offset_ns\":0,\"utc_offset_s\":0,\"target\":[]}}}}\n"
    );
    let whole = [begin.as_bytes(), bytes].concat();
    let Ok(mut reader) = Reader::new(Cursor::new(whole)) else { return };
    let mut text = Text::new(TextOptions { verbose: 2, ..TextOptions::default() });
    let mut out = Vec::new();
    let replayed = replay(&mut reader, &mut |retold| {
        let news = News { journey: retold.journey, first: true, last: true, from_hop: 0, from_note: 0 };
        let _ = text.news(&mut out, &Scene::new(retold.topology, retold.names), &news, None);
        out.clear();
    });
    let _ = Reader::new(Cursor::new(bytes));
    if let Ok(replayed) = replayed {
        let mut out = Vec::new();
        let _ = ReplayText::new(TextOptions::default()).causes(&mut out, &replayed);
        let _ = write_causes(&mut out, &replayed);
        let said = String::from_utf8(out).expect("text");
        assert!(!said.contains(|c: char| c.is_control() && c != '\n'));
    }
});
