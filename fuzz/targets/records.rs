// SPDX-License-Identifier: MIT OR Apache-2.0
//! Records as they come from the ring buffer, through the tracker and onto the screen.
#![no_main]

#[path = "../../tracer-user/tests/world/mod.rs"]
mod world;

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use tracer_common::Event;
use tracer_user::flow::{Options, Tracker, Update};
use tracer_user::output::{Json, Output, Scene, Text, TextOptions};
use world::{Kernel, NODE1, NODE2, POD, standing, topology};

const MAX_OPEN: usize = 16;

fuzz_target!(|bytes: &[u8]| {
    let topology = Arc::new(topology(true));
    let options = Options { max_open: MAX_OPEN, max_hops: 40, ..Options::default() };
    let mut tracker = Tracker::new(options, Arc::new(Kernel));
    tracker.set_topology(Arc::clone(&topology));
    tracker.set_positions(&standing(&topology));
    let scene = Scene::new(&topology, &Kernel);
    let mut text = Text::new(TextOptions { verbose: 2, color: true, ..TextOptions::default() });
    let mut out = Vec::new();
    let mut show = |update: Update<'_>| {
        if let Update::Journey(news) = update {
            out.clear();
            text.news(&mut out, &scene, &news, None).expect("writes to memory");
            Json.news(&mut out, &scene, &news, None).expect("writes to memory");
        }
    };
    let mut now = 0;
    for record in bytes.chunks(size_of::<Event>()) {
        let Some(mut event) = Event::parse(record) else { continue };
        // Few of each, so that records have to do with each other; the kernel's clock does not go back.
        now += event.ts % 5_000_000;
        event.ts = now;
        event.skb %= 8;
        event.flow = event.flow % 3 + 1;
        event.netns = [0, POD, NODE1, NODE2][event.netns as usize % 4];
        event.ifindex %= 10;
        event.cpu %= 4;
        tracker.push(&event);
        assert!(tracker.under_way() <= MAX_OPEN);
        tracker.advance(now, &mut show);
    }
    tracker.finish(now, &mut show);
    assert_eq!(tracker.under_way(), 0);
});
