// SPDX-License-Identifier: MIT OR Apache-2.0
//! Other paths through a node: services, sidecars, ping, fragments, merged and split segments.

use crate::world;

use tracer_common::Kind;
use tracer_user::firewall::NatKind;
use tracer_user::flow::{Ending, NoteKind, Options};
use tracer_user::node::Hook;
use world::egress::{N1, N2, syn};
use world::*;

fn nats(w: &World, id: u64) -> Vec<NatKind> {
    w.journeys[&id].hops.iter().filter_map(|h| h.nat.map(|n| n.kind)).collect()
}

#[test]
fn cluster_ip_is_translated_and_back() {
    let mut w = World::new(false);
    let mut p = Pkt::tcp("10.200.0.22", 41234, "10.96.100.100", 80);
    w.tc(&p, POD, ETH0, OUT, 1000);
    w.tc(&p, NODE1, VETH, IN, 2500);
    let original = p;
    (p.dst, p.ct) = (ip("10.200.1.22"), (0xc5, 0, 2));
    w.nf(&p, NODE1, Hook::Prerouting, (CNI0, 0), 1400);
    let back = Pkt::tcp("10.200.1.22", 80, "10.200.0.22", 41234);
    w.conntrack(&p, &original, &back);
    w.tc(&p, NODE1, CNI0, IN, 800);
    w.fib(&p, NODE1, (254, 0, Some("10.200.1.0"), FLANNEL), 400);
    w.nf(&p, NODE1, Hook::Forward, (CNI0, FLANNEL), 900);
    w.nf(&p, NODE1, Hook::Postrouting, (0, FLANNEL), 800);
    w.tc(&p, NODE1, FLANNEL, OUT, 900);
    p.outer = Some((N1, N2, 1));
    w.tc(&p, NODE1, ETH0, OUT, 2000);

    let mut r = Pkt { reply: true, flags: 0x12, seq: 1, ack: 1001, skb: 0x77, ..back };
    r.outer = Some((N2, N1, 1));
    w.tc(&r, NODE1, ETH0, IN, 100_000);
    r.outer = None;
    w.tc(&r, NODE1, FLANNEL, IN, 2000);
    (r.src, r.ct) = (ip("10.96.100.100"), (0xc5, 0, 3));
    w.nf(&r, NODE1, Hook::Prerouting, (FLANNEL, 0), 1400);
    w.tc(&r, NODE1, CNI0, OUT, 3000);
    w.tc(&r, NODE1, VETH, OUT, 800);
    w.tc(&r, POD, ETH0, IN, 2500);
    w.nf(&r, POD, Hook::Input, (ETH0, 0), 800);
    w.wait(60);
    w.finish();
    assert_eq!(nats(&w, 1), [NatKind::Dnat]);
    assert_eq!(nats(&w, 2), [NatKind::UnDnat]);
    assert!(w.journeys[&1].conntrack[0].translates());
    snapshot("cluster_ip.txt", w.screen());
}

#[test]
fn conntrack_is_told_where_it_translates_whatever_comes_first() {
    for entry_first in [true, false] {
        let mut w = World::new(false);
        let original = Pkt::tcp("10.200.0.22", 41234, "10.96.100.100", 80);
        let back = Pkt::tcp("10.200.1.22", 80, "10.200.0.22", 41234);
        let mut p = original;
        p.ct = (0xc5, 0, 2);
        w.tc(&p, POD, ETH0, OUT, 1000);
        w.tc(&p, NODE1, VETH, IN, 2500);
        p.dst = ip("10.200.1.22");
        if entry_first {
            w.conntrack(&p, &original, &back);
        }
        w.nf(&p, NODE1, Hook::Prerouting, (CNI0, 0), 1400);
        if !entry_first {
            w.conntrack(&p, &original, &back);
        }
        w.tc(&p, NODE1, CNI0, IN, 800);
        w.wait(60);
        let told: Vec<_> = w.journeys[&1].hops.iter().map(|h| h.conntrack.is_some()).collect();
        assert_eq!(told, [false, false, true, false], "entry first: {entry_first}");
    }
}

#[test]
fn node_port_with_masquerade() {
    let mut w = World::new(false);
    let mut p = Pkt::tcp("172.16.25.183", 50000, "172.16.25.11", 30897);
    w.tc(&p, NODE1, ETH0, IN, 0);
    (p.dst, p.dport, p.mark, p.ct) = (ip("10.200.1.22"), 80, 0x4000, (0xc6, 0, 2));
    w.nf(&p, NODE1, Hook::Prerouting, (ETH0, 0), 1500);
    w.fib(&p, NODE1, (254, 0, Some("10.200.1.0"), FLANNEL), 400);
    w.nf(&p, NODE1, Hook::Forward, (ETH0, FLANNEL), 900);
    (p.src, p.sport, p.mark) = (ip("10.200.0.0"), 33333, 0);
    w.nf(&p, NODE1, Hook::Postrouting, (0, FLANNEL), 900);
    w.tc(&p, NODE1, FLANNEL, OUT, 900);
    p.outer = Some((N1, N2, 1));
    w.tc(&p, NODE1, ETH0, OUT, 1900);
    w.wait(60);
    w.finish();
    assert_eq!(nats(&w, 1), [NatKind::Dnat, NatKind::Snat]);
    assert_eq!(w.ending(1), Ending::Left { netns: NODE1, ifindex: ETH0 });
    snapshot("node_port.txt", w.screen());
}

#[test]
fn a_sidecar_takes_the_packet_over_the_loopback() {
    let mut w = World::new(false);
    let mut p = Pkt::tcp("10.200.0.22", 41234, "10.200.1.22", 80);
    p.ct = (0xc7, 0, 2);
    (p.dst, p.dport) = (ip("127.0.0.1"), 15001);
    w.nf(&p, POD, Hook::Output, (0, LO), 100);
    w.nf(&p, POD, Hook::Postrouting, (0, LO), 400);
    w.tc(&p, POD, LO, OUT, 500);
    w.tc(&p, POD, LO, IN, 900);
    w.nf(&p, POD, Hook::Prerouting, (LO, 0), 400);
    w.nf(&p, POD, Hook::Input, (LO, 0), 400);
    w.wait(60);
    w.finish();
    assert_eq!(w.ending(1), Ending::Delivered { netns: POD });
    assert_eq!(w.journeys.len(), 1);
}

#[test]
fn ping_pairs_by_number() {
    let mut w = World::new(false);
    for seq in 1..=3 {
        let mut p = Pkt { id: seq as u16, ..Pkt::echo("10.200.0.22", "10.200.1.22", 77, seq) };
        w.flannel_out(&mut p);
        let echo = Pkt::echo("10.200.1.22", "10.200.0.22", 77, seq);
        let mut r = Pkt { reply: true, skb: 0x99, flags: 0, ..echo };
        r.id = 100 + seq as u16;
        w.reply_through_node1(&mut r, 200_000);
    }
    w.wait(60);
    let summary = w.finish();
    assert_eq!((summary.packets, summary.left, summary.delivered, summary.round_trip.count), (6, 3, 3, 3));
    assert_eq!(w.journeys[&4].round_trip.map(|rt| (rt.request, rt.beyond_ns)), Some((3, Some(200_000))));
    assert!(w.screen().contains("ICMP echo reply seq 3"), "{}", w.screen());
}

#[test]
fn fragments_are_put_together_by_conntrack_and_split_again() {
    let mut w = World::new(false);
    let whole = Pkt { len: 2008, ..Pkt::echo("10.200.0.22", "10.200.1.22", 77, 1) };
    let first = Pkt { skb: 0xa1, len: 1500, frag: Some((0, true)), ..whole };
    let second = Pkt { skb: 0xa2, len: 528, frag: Some((185, false)), seq: 0, sport: 0, dport: 0, ..whole };
    w.tc(&first, POD, ETH0, OUT, 100);
    w.tc(&first, NODE1, VETH, IN, 100);
    w.tc(&second, POD, ETH0, OUT, 100);
    w.tc(&second, NODE1, VETH, IN, 100);
    // The last to come carries on.
    let joined = Pkt { skb: 0xa2, ..whole };
    w.nf(&joined, NODE1, Hook::Prerouting, (CNI0, 0), 2000);
    w.tc(&joined, NODE1, CNI0, IN, 100);
    w.nf(&joined, NODE1, Hook::Forward, (CNI0, ETH0), 100);
    w.nf(&joined, NODE1, Hook::Postrouting, (0, ETH0), 100);
    w.tc(&Pkt { skb: 0xa2, ..first }, NODE1, ETH0, OUT, 100);
    w.tc(&Pkt { skb: 0xa3, ..second }, NODE1, ETH0, OUT, 100);
    w.wait(60);
    let summary = w.finish();
    assert_eq!(w.ending(1), Ending::Merged { into: 2 });
    assert_eq!(w.ending(2), Ending::Left { netns: NODE1, ifindex: ETH0 });
    assert_eq!(w.ending(3), Ending::Left { netns: NODE1, ifindex: ETH0 });
    assert!(w.journeys[&3].notes.iter().any(|n| n.what == NoteKind::PartOf { of: 2 }));
    assert_eq!((summary.packets, summary.merged, summary.vanished), (3, 1, 0));
    snapshot("fragments.txt", w.screen());
}

#[test]
fn segments_merged_on_the_way_are_not_lost() {
    let mut w = World::new(false);
    let data = |seq: u32, skb| Pkt {
        reply: true,
        skb,
        flags: 0x10,
        seq,
        ack: 5,
        id: seq as u16,
        len: 1500,
        ..Pkt::tcp("172.16.25.183", 80, "10.200.0.22", 41234)
    };
    let mut segments = [data(1000, 0xb1), data(2448, 0xb2), data(3896, 0xb3)];
    for p in &mut segments {
        p.outer = Some((N2, N1, 100));
        w.tc(p, NODE1, ETH0, IN, 500);
        w.nf(p, NODE1, Hook::Input, (ETH0, 0), 500);
    }
    let merged = Pkt { outer: None, len: 4396, gso: (1448, 3), flags: 0x18, ..segments[0] };
    w.tc(&merged, NODE1, EGRESS, IN, 3000);
    w.tc(&merged, NODE1, CNI0, OUT, 3000);
    w.tc(&merged, NODE1, VETH, OUT, 1000);
    w.tc(&merged, POD, ETH0, IN, 1000);
    w.nf(&merged, POD, Hook::Input, (ETH0, 0), 1000);
    w.wait(60);
    w.wait(1500);
    let summary = w.finish();
    assert_eq!((summary.packets, summary.delivered, summary.merged, summary.vanished), (3, 1, 2, 0));
    assert!(w.journeys[&1].notes.iter().any(|n| n.what == NoteKind::Absorbed { packets: 2 }));
}

#[test]
fn the_same_memory_holds_another_packet() {
    let mut w = World::new(false);
    for (seq, id) in [(1000, 1), (1001, 2), (2449, 3)] {
        let mut p = Pkt { seq, id, flags: 0x10, ..syn() };
        w.request_through_node1(&mut p);
    }
    w.wait(60);
    assert_eq!(w.finish().left, 3);
}

#[test]
fn an_equal_packet_at_the_same_address_is_another_one() {
    // A repeated SYN-ACK has no identification and equal numbers.
    let mut w = World::new(false);
    for _ in 0..2 {
        let mut r = Pkt { dst: ip("10.200.0.22"), ..world::egress::syn_ack() };
        w.reply_through_node1(&mut r, 1_000_000_000);
    }
    w.wait(60);
    assert_eq!(w.finish().delivered, 2);
    assert!(
        w.journeys[&2].notes.iter().any(|n| matches!(n.what, NoteKind::Retransmission { of: Some(1), .. }))
    );
}

#[test]
fn a_copy_continues_the_journey() {
    let mut w = World::new(false);
    let mut p = syn();
    w.tc(&p, POD, ETH0, OUT, 100);
    w.tc(&p, NODE1, VETH, IN, 2500);
    p.skb = 0xdead;
    w.nf(&p, NODE1, Hook::Prerouting, (CNI0, 0), 1400);
    w.tc(&p, NODE1, CNI0, IN, 900);
    w.tc(&p, NODE1, ETH0, OUT, 900);
    w.wait(60);
    assert_eq!(w.finish().packets, 1);
}

#[test]
fn equal_packets_are_told_apart_by_their_order() {
    let mut w = World::new(false);
    let p = Pkt::udp("10.200.0.22", 5000, "172.16.25.183", 53, 60);
    let (a, b) = (Pkt { skb: 0xa, ..p }, Pkt { skb: 0xb, ..p });
    w.tc(&a, POD, ETH0, OUT, 100);
    w.tc(&b, POD, ETH0, OUT, 100);
    // Copied on the way: nothing but the order is left.
    for skb in [0xc, 0xd] {
        w.tc(&Pkt { skb, ..p }, NODE1, VETH, IN, 100);
        w.tc(&Pkt { skb, ..p }, NODE1, ETH0, OUT, 100);
    }
    w.wait(60);
    let summary = w.finish();
    assert_eq!((summary.packets, summary.left), (2, 2));
    assert_eq!(w.journeys[&1].hops.len(), 3);
}

#[test]
fn two_flows_at_once_stay_apart() {
    let mut w = World::new(false);
    let mut a = syn();
    let mut b = Pkt { flow: 2, skb: 0x5000, sport: 41235, seq: 1000, ..syn() };
    w.tc(&a, POD, ETH0, OUT, 100);
    w.tc(&b, POD, ETH0, OUT, 100);
    w.tc(&b, NODE1, VETH, IN, 2000);
    w.tc(&a, NODE1, VETH, IN, 100);
    for p in [&mut a, &mut b] {
        p.mark = REQUEST_MARK;
        w.nf(p, NODE1, Hook::Prerouting, (CNI0, 0), 1000);
        w.tc(p, NODE1, ETH0, OUT, 3000);
    }
    w.wait(60);
    let summary = w.finish();
    assert_eq!((summary.packets, summary.left), (2, 2));
    for id in [1, 2] {
        let journey = &w.journeys[&id];
        assert_eq!((journey.flow, journey.hops.len()), (id as u32, 4));
    }
}

#[test]
fn lookups_before_the_packet_exists_belong_to_it() {
    let mut w = World::new(false);
    let p = syn();
    w.fib(&Pkt { skb: 0, ..p }, POD, (254, 0, Some("10.200.0.1"), ETH0), 100);
    w.nf(&p, POD, Hook::Output, (0, ETH0), 5000);
    w.tc(&p, POD, ETH0, OUT, 500);
    w.wait(1200);
    assert!(
        w.screen().contains("route                 table main → via 10.200.0.1 dev eth0"),
        "{}",
        w.screen()
    );
}

#[test]
fn marks_of_another_namespace_are_scrubbed_not_changed() {
    let mut w = World::new(false);
    let mut p = Pkt { mark: 0x10, ..syn() };
    w.tc(&p, POD, ETH0, OUT, 100);
    p.mark = 0;
    w.tc(&p, NODE1, VETH, IN, 2500);
    w.tc(&p, NODE1, ETH0, OUT, 2500);
    w.wait(60);
    assert!(w.screen().contains("mark 0x10\n") || w.screen().contains("out     mark 0x10"), "{}", w.screen());
    assert!(w.screen().contains("mark 0x10 scrubbed"), "{}", w.screen());
    assert!(w.zooms.is_empty());
}

#[test]
fn a_slow_journey_is_shown_in_time_and_continued() {
    let mut w = World::new(false);
    let mut p = syn();
    w.request_to_bridge(&mut p);
    w.tc(&p, NODE1, EGRESS, OUT, 1000);
    w.wait(50);
    assert_eq!(w.shown, [(1, true)], "within 50 ms");
    assert!(w.screen().contains("… under way"));
    // A slow qdisc.
    p.outer = Some((N1, N2, 100));
    w.tc(&p, NODE1, ETH0, OUT, 60_000_000);
    w.wait(60);
    assert_eq!(w.shown, [(1, true), (1, false)]);
    snapshot("continued.txt", w.screen());
    assert_eq!(w.finish().left, 1);
}

#[test]
fn whole_journeys_are_shown_once() {
    let mut w = World::with(false, Options { whole: true, ..Options::default() }, 0);
    let mut p = syn();
    w.request_to_bridge(&mut p);
    w.wait(100);
    assert!(w.shown.is_empty());
    w.tc(&p, NODE1, ETH0, OUT, 1000);
    w.wait(60);
    assert_eq!(w.shown, [(1, true)]);
}

#[test]
fn retransmission_is_told_with_the_packet() {
    let mut w = World::new(false);
    let mut p = syn();
    w.request_through_node1(&mut p);
    w.wait(1000);
    let mut again = syn();
    w.request_through_node1(&mut again);
    w.remark(&syn(), Kind::Retransmit, POD, 0);
    w.wait(60);
    assert_eq!(w.screen().matches("retransmission of #1, 1.00 s later").count(), 1, "{}", w.screen());
}

#[test]
fn a_local_pod_that_is_not_watched_takes_it() {
    let mut w = World::new(false);
    let mut p = Pkt::tcp("10.200.0.22", 41234, "10.200.0.23", 80);
    w.request_to_bridge(&mut p);
    w.nf(&p, NODE1, Hook::Forward, (CNI0, CNI0), 900);
    w.nf(&p, NODE1, Hook::Postrouting, (0, CNI0), 900);
    w.wait(60);
    assert_eq!(w.ending(1), Ending::Unwatched { netns: NODE1, ifindex: CNI0 });
}
