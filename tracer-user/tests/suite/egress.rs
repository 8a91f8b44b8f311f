// SPDX-License-Identifier: MIT OR Apache-2.0
//! The egress path on one node and on two, as a user sees it.

use crate::world;

use tracer_user::firewall::NatKind;
use tracer_user::flow::{Cause, Ending, Options, Place};
use tracer_user::node::Hook;
use world::egress::{syn, syn_ack};
use world::*;

#[test]
fn one_node_request_and_reply() {
    let mut w = World::new(false);
    let mut p = syn();
    w.request_through_node1(&mut p);
    let mut r = Pkt { dst: ip("10.200.0.22"), ..syn_ack() };
    w.reply_through_node1(&mut r, 380_000);
    w.wait(60);
    let summary = w.finish();
    assert_eq!((summary.packets, summary.left, summary.delivered), (2, 1, 1));
    assert_eq!(w.ending(1), Ending::Left { netns: NODE1, ifindex: ETH0 });
    assert_eq!(w.ending(2), Ending::Delivered { netns: POD });
    let rt = w.journeys[&2].round_trip.expect("the SYN-ACK answers the SYN");
    assert_eq!((rt.request, rt.beyond_ns), (1, Some(380_000)));
    snapshot("egress_one_node.txt", w.screen());
}

#[test]
fn two_nodes_are_one_journey() {
    let mut w = World::new(true);
    let mut p = syn();
    w.request_through_node1(&mut p);
    // On the other machine it is other memory.
    p.skb = 0xffff_9990_0000_7000;
    w.request_through_node2(&mut p);
    let mut r = syn_ack();
    w.reply_through_node2(&mut r);
    r.skb = 0xffff_8880_0000_3000;
    w.reply_through_node1(&mut r, 9_000);
    w.wait(60);
    w.wait(1200);
    let summary = w.finish();
    assert_eq!((summary.packets, summary.left, summary.delivered), (2, 1, 1));
    let request = &w.journeys[&1];
    let snat = request.hops.iter().find_map(|h| h.nat).expect("translated");
    assert_eq!(snat.kind, NatKind::Snat);
    let reply = &w.journeys[&2];
    assert_eq!(reply.hops.iter().find_map(|h| h.nat).map(|n| n.kind), Some(NatKind::UnSnat));
    snapshot("egress_two_nodes.txt", w.screen());
}

#[test]
fn two_nodes_in_one_kernel_share_the_address() {
    let mut w = World::new(true);
    let mut p = syn();
    w.request_through_node1(&mut p);
    w.request_through_node2(&mut p);
    w.wait(1200);
    assert_eq!(w.finish().packets, 1);
    assert_eq!(w.ending(1), Ending::Left { netns: NODE2, ifindex: ETH0 });
}

#[test]
fn the_address_means_nothing_beyond_the_uplink() {
    let mut w = World::new(true);
    let mut p = syn();
    w.request_through_node1(&mut p);
    // Another packet of the flow comes in at the same address.
    let mut other = Pkt { seq: 77, id: 5, flags: 0x10, ..p };
    w.request_through_node2(&mut other);
    w.wait(1200);
    assert_eq!(w.finish().packets, 2);
}

#[test]
fn a_change_with_several_possible_authors_is_looked_at_closely() {
    let mut w = World::new(false);
    let mut p = syn();
    w.request_through_node1(&mut p);
    w.wait(60);
    // PREROUTING: raw, mangle or nat. FORWARD: mangle or filter.
    let asked: Vec<_> = w.zooms.iter().map(|(z, on)| (z.hook, *on)).collect();
    assert_eq!(asked, [(Hook::Prerouting, true), (Hook::Forward, true)]);
    assert!(w.screen().contains("by one of raw, mangle, nat"), "{}", w.screen());

    w.zoom_in(NODE1, Hook::Prerouting, &[-299, -149]);
    let mut p = Pkt { seq: 2000, flags: 0x18, id: 7, ..syn() };
    w.nf(&p, POD, Hook::Output, (0, ETH0), 800);
    w.tc(&p, POD, ETH0, OUT, 700);
    w.tc(&p, NODE1, VETH, IN, 2900);
    w.nf_at(&p, NODE1, Hook::Prerouting, 1, (CNI0, 0), 500);
    p.mark = REQUEST_MARK;
    w.nf_at(&p, NODE1, Hook::Prerouting, 2, (CNI0, 0), 500);
    w.nf(&p, NODE1, Hook::Prerouting, (CNI0, 0), 500);
    w.tc(&p, NODE1, CNI0, IN, 800);
    w.wait(60);
    let changed: Vec<_> = w.journeys[&2].hops.iter().filter_map(|h| h.mark_change).collect();
    let [change] = changed[..] else { panic!("one change, not {changed:?}") };
    let Cause::Hook(at) = change.cause else { panic!("a table did it") };
    assert_eq!((at.after, at.until), (-299, -149));
    assert_eq!(w.zooms.last().map(|(z, on)| (z.hook, *on)), Some((Hook::Prerouting, false)));

    // Back at the standing positions, the same change is known, and not asked for again.
    let positions = standing(&w.topology);
    w.tracker.set_positions(&positions);
    w.zooms.clear();
    w.screen.clear();
    let mut p = Pkt { seq: 3000, id: 8, ..syn() };
    w.request_to_bridge(&mut p);
    w.wait(60);
    assert!(w.zooms.is_empty());
    assert!(
        w.screen().contains("mangle   mark 0x0 → 0x26b7b4e4") || w.screen().contains("mangle  mark 0x0"),
        "{}",
        w.screen()
    );
}

#[test]
fn positions_of_a_hook_fold_into_one_line() {
    for (verbose, lines) in [(0, 1), (1, 3)] {
        let mut w = World::with(false, Options::default(), verbose);
        w.zoom_in(NODE1, Hook::Forward, &[-149, 0]);
        let p = syn();
        w.tc(&p, NODE1, CNI0, IN, 100);
        w.nf_at(&p, NODE1, Hook::Forward, 1, (CNI0, EGRESS), 100);
        w.nf_at(&p, NODE1, Hook::Forward, 2, (CNI0, EGRESS), 100);
        w.nf(&p, NODE1, Hook::Forward, (CNI0, EGRESS), 100);
        w.wait(60);
        assert_eq!(w.screen().matches("  FORWARD").count(), lines, "{}", w.screen());
        assert_eq!(w.journeys[&1].hops.len(), 4);
    }
}

#[test]
fn ipv6_is_equal() {
    let mut w = World::new(false);
    let mut p = Pkt::tcp("fd00::22", 41234, "fd00:25::183", 80);
    w.request_to_bridge(&mut p);
    w.fib(&p, NODE1, (649_573_604, 0, Some("fd11::1"), EGRESS), 400);
    p.mark = DONE_MARK;
    w.nf(&p, NODE1, Hook::Forward, (CNI0, EGRESS), 900);
    w.nf(&p, NODE1, Hook::Postrouting, (0, EGRESS), 800);
    w.tc(&p, NODE1, EGRESS, OUT, 900);
    p.outer = Some((world::egress::N1, world::egress::N2, 100));
    w.nf(&p, NODE1, Hook::Output, (0, ETH0), 700);
    w.nf(&p, NODE1, Hook::Postrouting, (EGRESS, ETH0), 600);
    w.tc(&p, NODE1, ETH0, OUT, 900);
    w.wait(60);
    w.finish();
    assert_eq!(w.ending(1), Ending::Left { netns: NODE1, ifindex: ETH0 });
    // The hooks of the outer packet are those of IPv4: its positions are found there.
    let outer = w.journeys[&1].hops.iter().filter(|h| h.encap.is_some());
    let priorities: Vec<_> = outer
        .filter_map(|h| match h.place {
            Place::Hook { priority, .. } => Some(priority),
            _ => None,
        })
        .collect();
    assert_eq!(priorities, [Some(1), Some(101)]);
    assert!(w.screen().contains("[fd00::22]:41234 → [fd00:25::183]:80"));
}
