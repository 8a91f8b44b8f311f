// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fragments on the way: put together by conntrack, cut up anew, waiting for the rest.

use crate::world;

use tracer_user::flow::{Ending, NoteKind};
use tracer_user::node::Hook;
use world::*;

/// The fragments of `whole`, `size` bytes of payload each, at consecutive addresses from `skb` on.
fn cut(whole: &Pkt, size: u16, skb: u64, id: u16) -> Vec<Pkt> {
    let header = if whole.src.is_ipv6() { 40 } else { 20 };
    let extra = if whole.src.is_ipv6() { 8 } else { 0 };
    let payload = whole.len - header;
    (0..payload.div_ceil(size))
        .map(|i| {
            let part = size.min(payload - i * size);
            let more = payload - i * size > size;
            let frag = Some((i * size / 8, more));
            let piece =
                Pkt { skb: skb + u64::from(i) * 0x100, len: part + header + extra, frag, id, ..*whole };
            if i == 0 { piece } else { Pkt { seq: 0, sport: 0, dport: 0, flags: 0, ..piece } }
        })
        .collect()
}

fn merged_into(w: &World, id: u64) -> Option<u64> {
    match w.ending(id) {
        Ending::Merged { into } => Some(into),
        _ => None,
    }
}

fn part_of(w: &World, id: u64) -> Option<u64> {
    w.journeys[&id].notes.iter().find_map(|note| match note.what {
        NoteKind::PartOf { of } => Some(of),
        _ => None,
    })
}

/// In from the pod in fragments; on as one packet at `skb`, through to POSTROUTING of `eth0`.
fn through_conntrack(w: &mut World, whole: &Pkt, pieces: &[Pkt], skb: u64) {
    for piece in pieces {
        w.tc(piece, NODE1, VETH, IN, 1000);
    }
    let joined = Pkt { skb, ..*whole };
    w.nf(&joined, NODE1, Hook::Prerouting, (CNI0, 0), 2000);
    w.tc(&joined, NODE1, CNI0, IN, 1000);
    w.nf(&joined, NODE1, Hook::Forward, (CNI0, ETH0), 1000);
    w.nf(&joined, NODE1, Hook::Postrouting, (0, ETH0), 1000);
}

#[test]
fn a_whole_that_is_cut_into_new_fragments_goes_on_as_these() {
    let mut w = World::new(false);
    let whole = Pkt { len: 4028, id: 7, ..Pkt::echo("10.200.0.22", "10.200.1.22", 77, 1) };
    let pieces = cut(&whole, 1424, 0xa000, 7);
    through_conntrack(&mut w, &whole, &pieces, pieces[2].skb);
    for piece in cut(&whole, 1424, 0xb000, 7) {
        w.tc(&piece, NODE1, ETH0, OUT, 1000);
    }
    // The answer comes in fragments too, and is given to the pod as a whole.
    let answer = Pkt { reply: true, flags: 0, ..Pkt::echo("10.200.1.22", "10.200.0.22", 77, 1) };
    let answer = Pkt { len: 4028, id: 9, ..answer };
    let pieces = cut(&answer, 1424, 0xc000, 9);
    for piece in &pieces {
        w.tc(piece, NODE1, ETH0, IN, 1000);
    }
    let joined = Pkt { skb: pieces[2].skb, ..answer };
    w.nf(&joined, NODE1, Hook::Prerouting, (ETH0, 0), 1000);
    w.nf(&joined, POD, Hook::Input, (ETH0, 0), 1000);
    w.wait(1200);
    let summary = w.finish();
    assert_eq!((merged_into(&w, 1), merged_into(&w, 2)), (Some(3), Some(3)));
    assert_eq!(w.ending(3), Ending::CutUp { first: 4, last: 6, packets: 3 });
    for piece in 4..=6 {
        assert_eq!(part_of(&w, piece), Some(3));
        assert_eq!(w.ending(piece), Ending::Left { netns: NODE1, ifindex: ETH0 });
    }
    assert_eq!((merged_into(&w, 7), merged_into(&w, 8)), (Some(9), Some(9)));
    // One request, from the first fragment of it to the last sight of the whole answer.
    let trip = w.journeys[&9].round_trip.expect("an answer");
    assert_eq!((trip.request, trip.ambiguous, trip.beyond_ns), (1, false, Some(3000)));
    assert_eq!(trip.total_ns, w.journeys[&9].end_ns - w.journeys[&1].start_ns);
    assert!(w.journeys[&7].round_trip.is_none());
    assert_eq!((summary.packets, summary.merged, summary.cut_up, summary.vanished), (9, 4, 1, 0));
    snapshot("cut_up.txt", w.screen());
}

#[test]
fn an_ipv6_whole_is_known_at_another_address_and_under_a_new_identification() {
    let mut w = World::new(false);
    let whole = Pkt { len: 4048, id: 0, ..Pkt::echo("fd00::22", "fd00:1::22", 77, 1) };
    let pieces = cut(&whole, 1400, 0xa000, 0x1111);
    // A socket that listens on the device makes the kernel copy what comes in.
    through_conntrack(&mut w, &whole, &pieces, 0xf000);
    for piece in cut(&whole, 1400, 0xb000, 0x2222) {
        w.tc(&piece, NODE1, ETH0, OUT, 1000);
    }
    w.wait(1200);
    let summary = w.finish();
    assert_eq!((merged_into(&w, 1), merged_into(&w, 2)), (Some(3), Some(3)));
    assert_eq!(w.ending(3), Ending::CutUp { first: 4, last: 6, packets: 3 });
    assert_eq!((summary.packets, summary.left, summary.vanished), (6, 3, 0));
}

#[test]
fn fragments_of_two_packets_are_not_mixed() {
    let mut w = World::new(false);
    let one = Pkt { len: 2828, id: 0, ..Pkt::echo("fd00::22", "fd00:1::22", 77, 1) };
    let two = Pkt { len: 2836, seq: 2, ..one };
    let (ones, twos) = (cut(&one, 1400, 0xa000, 0x1111), cut(&two, 1400, 0xb000, 0x2222));
    for piece in ones.iter().chain(&twos) {
        w.tc(piece, NODE1, VETH, IN, 1000);
    }
    for (whole, skb) in [(&two, 0xf000), (&one, 0xf100)] {
        w.nf(&Pkt { skb, ..*whole }, NODE1, Hook::Prerouting, (CNI0, 0), 1000);
    }
    w.wait(100);
    let _ = w.finish();
    assert_eq!((merged_into(&w, 1), merged_into(&w, 3)), (Some(2), Some(4)));
}

#[test]
fn the_largest_packet_there_is_is_one_packet_again() {
    let mut w = World::new(false);
    let whole = Pkt { len: 65_535, id: 7, ..Pkt::echo("10.200.0.22", "10.200.1.22", 77, 1) };
    let pieces = cut(&whole, 1424, 0xa000, 7);
    through_conntrack(&mut w, &whole, &pieces, pieces[pieces.len() - 1].skb);
    w.wait(100);
    assert_eq!(w.finish().merged, pieces.len() as u64 - 1);
}

#[test]
fn a_fragment_whose_rest_does_not_come_waits_as_long_as_the_kernel_does() {
    let mut w = World::new(false);
    let whole = Pkt { len: 4028, id: 7, ..Pkt::echo("10.200.0.22", "10.200.1.22", 77, 1) };
    let pieces = cut(&whole, 1424, 0xa000, 7);
    let first = pieces[0];
    w.tc(&first, NODE1, VETH, IN, 1000);
    w.tc(&pieces[1], NODE1, VETH, IN, 1000);
    w.wait(5000);
    assert_eq!(w.ending(1), Ending::Open, "it has not vanished: the kernel holds it");
    w.wait(25_000);
    w.drop(&first, NODE1, 0, ("FRAG_REASM_TIMEOUT", "ip_frag_free"), &[]);
    w.wait(100);
    assert!(w.journeys[&1].is_dropped());
    assert_eq!(merged_into(&w, 2), Some(1), "the kernel tells of one fragment for all");
    let mut w = World::new(false);
    w.tc(&first, NODE1, VETH, IN, 1000);
    w.wait(37_000);
    assert!(matches!(w.ending(1), Ending::Vanished { .. }));
}

#[test]
fn a_copy_that_a_switch_sent_to_another_node_too_is_no_drop() {
    let mut w = World::new(true);
    let syn = Pkt::tcp("172.16.25.189", 41234, "172.16.25.183", 80);
    w.tc(&syn, NODE1, ETH0, OUT, 1000);
    w.tc(&Pkt { skb: 0xf000, ..syn }, NODE2, ETH0, IN, 1000);
    w.drop(&Pkt { skb: 0xf000, ..syn }, NODE2, ETH0, ("OTHERHOST", "ip_rcv_core"), &[]);
    w.wait(500);
    let summary = w.finish();
    assert_eq!(w.ending(1), Ending::Left { netns: NODE1, ifindex: ETH0 });
    assert_eq!((w.journeys[&1].hops.len(), summary.dropped_total()), (1, 0));
}
