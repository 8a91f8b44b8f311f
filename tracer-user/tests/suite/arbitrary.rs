// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whatever comes, the tracker stands, stays small, and counts every packet once.

use crate::world;

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use tracer_common::Event;
use tracer_user::flow::{News, Options, Scene, Tracker, Update};
use tracer_user::output::{Json, Output, Text, TextOptions};
use world::*;

const MAX_OPEN: usize = 16;

fn event() -> impl Strategy<Value = Event> {
    let ids =
        (1u8..=11, 0u64..12, 1u32..4, prop_oneof![Just(0u32), Just(POD), Just(NODE1), Just(NODE2), Just(9)]);
    let place = (0u8..6, 0u8..3, 0u32..10, 0u32..10, any::<u8>());
    let packet =
        (prop_oneof![Just(6u8), Just(17), Just(1), Just(58), any::<u8>()], 0u32..4, any::<u8>(), 0u16..3);
    let rest = (any::<[u8; 24]>(), 0u16..3, any::<bool>(), 0u32..3, 0u64..5_000_000);
    (ids, place, packet, rest).prop_map(|(ids, place, packet, rest)| {
        let mut e = Event {
            skb: ids.1,
            flow: ids.2,
            netns: ids.3,
            kind: ids.0,
            point: place.0,
            position: place.1,
            ifindex: place.2,
            flags: place.4 & 0x3f,
            proto: packet.0,
            l4a: packet.1 * 700,
            l4b: packet.1 * 1000,
            tcp_flags: packet.2,
            ip_id: packet.3,
            cpu: rest.1,
            dir: u8::from(rest.2),
            seq: rest.3,
            mark: rest.3,
            ts: rest.4,
            ttl: packet.2,
            gso_size: if packet.3 == 2 { 700 } else { 0 },
            sport: packet.3,
            ..Event::ZERO
        };
        e.src[15] = packet.3 as u8;
        e.detail = rest.0;
        if place.3 < 5 {
            e.set_out_ifindex(place.3);
            e.set_l3len(1400);
        }
        e
    })
}

fn run(events: Vec<Event>, options: Options) -> Result<(), TestCaseError> {
    let topology = Arc::new(topology(true));
    let mut tracker = Tracker::new(options, Arc::new(Kernel));
    tracker.set_topology(Arc::clone(&topology));
    tracker.set_positions(&standing(&topology));
    let scene = Scene::new(&topology, &Kernel);
    let mut text = Text::new(TextOptions { verbose: 2, color: true, ..TextOptions::default() });
    let mut out = Vec::new();
    let mut first: BTreeMap<u64, u32> = BTreeMap::new();
    let mut now = 0;
    let mut show = |news: &News<'_>| {
        out.clear();
        text.news(&mut out, &scene, news, None).expect("writes to memory");
        Json.news(&mut out, &scene, news, None).expect("writes to memory");
        *first.entry(news.journey.id).or_default() += u32::from(news.first);
    };
    for (i, mut event) in events.into_iter().enumerate() {
        now += event.ts;
        event.ts = now;
        tracker.push(&event);
        prop_assert!(tracker.under_way() <= MAX_OPEN);
        if i % 7 == 0 {
            tracker.advance(now, &mut |update| {
                if let Update::Journey(news) = update {
                    show(&news);
                }
            });
        }
    }
    let summary = tracker.finish(now, &mut |update| {
        if let Update::Journey(news) = update {
            show(&news);
        }
    });
    let ended = summary.left
        + summary.delivered
        + summary.unwatched
        + summary.merged
        + summary.cut_up
        + summary.copies
        + summary.dropped_total()
        + summary.vanished
        + summary.unclear
        + summary.under_way
        + summary.evicted;
    prop_assert_eq!(summary.packets, ended);
    prop_assert_eq!(tracker.under_way(), 0);
    prop_assert!(first.values().all(|&n| n <= 1), "shown as new more than once");
    if !options.drops_only {
        let shown = first.values().filter(|n| **n == 1).count() as u64;
        prop_assert!(shown + summary.evicted >= summary.packets && shown <= summary.packets);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_records(events in prop::collection::vec(event(), 0..400), mode in 0..3) {
        let options = Options {
            max_open: MAX_OPEN,
            max_hops: 40,
            whole: mode == 1,
            drops_only: mode == 2,
            ..Options::default()
        };
        run(events, options)?;
    }
}
