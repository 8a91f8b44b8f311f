// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a flow leads: lookups before there is a packet, translations, routes.

use crate::world;

use tracer_user::node::Hook;
use world::*;

#[test]
fn a_lookup_without_a_source_belongs_to_the_packet_that_follows() {
    let mut w = World::new(false);
    let syn = Pkt::tcp("fd00::22", 41234, "fd00:1::80", 80);
    let nameless = Pkt { flow: 0, src: ip("::"), sport: 0, skb: 0, ..syn };
    w.fib(&nameless, POD, (254, 0, Some("fd00::1"), ETH0), 1000);
    w.fib(&Pkt { dport: 81, ..nameless }, POD, (254, 0, Some("fd00::1"), ETH0), 1000);
    w.nf(&syn, POD, Hook::Output, (0, ETH0), 1000);
    // A packet much later is another's.
    w.nf(&Pkt { skb: 0xa1, seq: 9, dport: 81, flow: 2, ..syn }, POD, Hook::Output, (0, ETH0), 20_000_000);
    w.wait(60);
    let routes = |id: u64| {
        let hops = &w.journeys[&id].hops;
        hops.iter().filter(|hop| matches!(hop.place, tracer_user::flow::Place::Route { .. })).count()
    };
    assert_eq!((routes(1), routes(2)), (1, 0));
}

#[test]
fn translations_and_routes_lead_to_what_is_not_watched_yet() {
    let mut w = World::new(false);
    let syn = Pkt::tcp("10.200.0.22", 41234, "10.96.0.10", 53);
    let reply = Pkt::tcp("10.200.0.77", 53, "10.200.0.22", 41234);
    let tracked = Pkt { ct: (0xc1, 0, 2), ..syn };
    for _ in 0..2 {
        w.conntrack(&tracked, &syn, &reply);
    }
    w.nf(&tracked, NODE1, Hook::Prerouting, (CNI0, 0), 100);
    w.fib(&syn, NODE1, (254, 0, None, LO), 100);
    let leads = w.tracker.leads();
    assert_eq!((leads.ends, leads.devices), (vec![ip("10.200.0.77")], vec![]));
    assert!(w.tracker.leads().is_empty());
}
