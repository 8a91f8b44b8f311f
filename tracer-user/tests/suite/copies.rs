// SPDX-License-Identifier: MIT OR Apache-2.0
//! One packet several times, without its sender having sent it again; and one that is cut up below the hooks.

use crate::world;

use tracer_user::flow::{Ending, NoteKind};
use tracer_user::node::Hook;
use world::egress::{N1, N2, syn, syn_ack};
use world::*;

fn copy_of(w: &World, id: u64) -> Option<u64> {
    w.journeys[&id].notes.iter().find_map(|note| match note.what {
        NoteKind::Copy { of, .. } => Some(of),
        NoteKind::Retransmission { .. } => panic!("#{id} was not sent again:\n{}", w.screen()),
        _ => None,
    })
}

#[test]
fn a_switch_sends_an_answer_to_two_nodes() {
    let mut w = World::new(true);
    let mut answer = syn_ack();
    w.tc(&answer, NODE2, ETH0, IN, 1000);
    let copy = Pkt { skb: 0xf000, ..answer };
    w.tc(&copy, NODE1, ETH0, IN, 39_000);
    w.drop(&copy, NODE1, ETH0, ("OTHERHOST", "ip_rcv_core"), &[]);
    answer.dst = ip("10.200.0.22");
    w.nf(&answer, NODE2, Hook::Prerouting, (ETH0, 0), 1000);
    w.nf(&answer, NODE2, Hook::Input, (ETH0, 0), 1000);
    w.wait(1200);
    let summary = w.finish();
    assert_eq!((copy_of(&w, 1), copy_of(&w, 2)), (None, Some(1)));
    assert_eq!(w.ending(1), Ending::Delivered { netns: NODE2 });
    assert_eq!(w.ending(2), Ending::Copy { of: 1 });
    assert_eq!((summary.copies, summary.dropped_total(), summary.vanished), (1, 0, 0));
    assert!(w.screen().contains("copy of #1, 39.0 µs later"), "{}", w.screen());
}

#[test]
fn a_copy_that_is_for_this_node_and_dies_is_dropped() {
    let mut w = World::new(true);
    w.change(|topology| {
        let node = topology.namespaces.get_mut(&NODE1).expect("the node");
        node.devices.get_mut(&ETH0).expect("the uplink").addresses.push(ip("172.16.25.11"));
    });
    let answer = Pkt { dst: ip("172.16.25.11"), ..syn_ack() };
    w.tc(&answer, NODE2, ETH0, IN, 1000);
    let copy = Pkt { skb: 0xf000, ..answer };
    w.tc(&copy, NODE1, ETH0, IN, 39_000);
    w.drop(&copy, NODE1, ETH0, ("OTHERHOST", "ip_rcv_core"), &[]);
    w.wait(1200);
    assert!(matches!(w.ending(2), Ending::Dropped(_)), "{}", w.screen());
}

#[test]
fn a_packet_that_a_queue_doubles_is_missed_once() {
    let mut w = World::new(false);
    let p = syn();
    w.tc(&p, POD, ETH0, OUT, 1000);
    w.tc(&p, NODE1, VETH, IN, 1000);
    w.tc(&Pkt { skb: 0xf000, ..p }, NODE1, VETH, IN, 1000);
    w.wait(1200);
    let summary = w.finish();
    assert_eq!(copy_of(&w, 2), Some(1));
    assert_eq!((w.ending(2), summary.vanished), (Ending::Copy { of: 1 }, 1));
}

#[test]
fn what_a_bridge_sends_to_all_ports_is_one_packet() {
    let mut w = World::new(false);
    let p = Pkt { dst: ip("10.200.0.23"), ..syn() };
    w.tc(&p, POD, ETH0, OUT, 1000);
    w.tc(&p, NODE1, VETH, IN, 1000);
    // The copy for each port goes through the hooks of its own.
    for skb in [0xe000, 0xf000] {
        w.nf(&Pkt { skb, ..p }, NODE1, Hook::Forward, (CNI0, CNI0), 1000);
        w.nf(&Pkt { skb, ..p }, NODE1, Hook::Postrouting, (0, CNI0), 1000);
    }
    w.tc(&Pkt { skb: 0xf000, ..p }, NODE1, ETH0, OUT, 1000);
    w.wait(5000);
    assert_eq!((copy_of(&w, 1), copy_of(&w, 2)), (None, Some(1)));
    assert_eq!(w.ending(1), Ending::Unwatched { netns: NODE1, ifindex: CNI0 });
    assert_eq!(w.ending(2), Ending::Left { netns: NODE1, ifindex: ETH0 });
    assert_eq!(w.finish().vanished, 0);
}

#[test]
fn the_same_numbers_under_another_identification_were_sent_again() {
    let mut w = World::new(false);
    let p = Pkt { flags: 0x18, len: 1000, id: 7, ..syn() };
    for (id, skb) in [(7, 0xa000), (8, 0xb000)] {
        let p = Pkt { id, skb, ..p };
        w.tc(&p, POD, ETH0, OUT, 1000);
        w.tc(&p, NODE1, VETH, IN, 1000);
    }
    w.wait(1200);
    let again = |n: &tracer_user::flow::Note| matches!(n.what, NoteKind::Retransmission { of: Some(1), .. });
    assert!(w.journeys[&2].notes.iter().any(again), "{}", w.screen());
    assert_eq!(w.finish().vanished, 2);
}

#[test]
fn a_large_packet_that_is_cut_up_below_the_hooks_goes_on_as_its_pieces() {
    let mut w = World::new(false);
    let whole = Pkt { flags: 0x18, len: 4096, gso: (1348, 3), outer: Some((N1, N2, 100)), ..syn() };
    w.tc(&Pkt { outer: None, ..whole }, NODE1, EGRESS, OUT, 1000);
    w.nf(&whole, NODE1, Hook::Output, (0, ETH0), 1000);
    w.nf(&whole, NODE1, Hook::Postrouting, (EGRESS, ETH0), 1000);
    for i in 0..3u16 {
        let piece = Pkt {
            seq: whole.seq + 1348 * u32::from(i),
            len: 1400,
            gso: (0, 0),
            id: whole.id + i,
            skb: 0xf000 + u64::from(i),
            ..whole
        };
        w.tc(&piece, NODE1, ETH0, OUT, 1000);
    }
    w.wait(5000);
    let summary = w.finish();
    assert_eq!(w.ending(1), Ending::CutUp { first: 2, last: 4, packets: 3 });
    for piece in 2..=4 {
        assert_eq!(copy_of(&w, piece), None);
        assert_eq!(w.ending(piece), Ending::Left { netns: NODE1, ifindex: ETH0 });
    }
    assert_eq!((summary.cut_up, summary.left, summary.vanished), (1, 3, 0));
}
