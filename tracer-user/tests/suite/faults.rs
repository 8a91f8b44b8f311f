// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets that die: by drop at every hook, by vanishing; what is healthy; what was lost of the trace itself.

use crate::world;

use tracer_common::Kind;
use tracer_user::flow::{Deed, Ending, Expected, NoteKind, Options, tables};
use tracer_user::node::Hook;
use world::egress::{N1, N2, syn, syn_ack};
use world::*;

fn site(w: &World, id: u64) -> tracer_user::flow::DropSite {
    match w.ending(id) {
        Ending::Dropped(site) => site,
        other => panic!("not dropped: {other:?}\n{}", w.screen()),
    }
}

#[test]
fn dropped_in_forward_by_a_rule() {
    let mut w = World::new(false);
    let mut p = syn();
    w.request_to_bridge(&mut p);
    w.fib(&p, NODE1, (649_573_604, 0, Some("192.200.201.40"), EGRESS), 400);
    let calls = ["nft_do_chain_ipv4", "nf_hook_slow", "ip_forward", "ip_rcv"];
    w.drop(&p, NODE1, CNI0, ("NETFILTER_DROP", "nft_do_chain"), &calls);
    w.wait(60);
    let summary = w.finish();
    assert_eq!((summary.dropped_total(), summary.vanished), (1, 0));
    let at = site(&w, 1).interval.expect("in a hook");
    assert_eq!((at.hook, at.after, at.until), (Hook::Forward, i32::MIN, 1));
    assert_eq!(tables(&w.topology, &at, Deed::DropByNft), ["mangle", "filter"]);
    assert!(w.zooms.iter().any(|(z, on)| z.hook == Hook::Forward && *on));
    snapshot("drop_forward.txt", w.screen());
}

#[test]
fn zoomed_in_the_drop_has_one_author() {
    let mut w = World::new(false);
    w.zoom_in(NODE1, Hook::Forward, &[-149]);
    let mut p = syn();
    w.request_to_bridge(&mut p);
    w.nf_at(&p, NODE1, Hook::Forward, 1, (CNI0, EGRESS), 500);
    let calls = ["nft_do_chain_ipv4", "nf_hook_slow", "ip_forward"];
    w.drop(&p, NODE1, CNI0, ("NETFILTER_DROP", "nft_do_chain"), &calls);
    w.wait(60);
    let at = site(&w, 1).interval.expect("in a hook");
    assert_eq!(tables(&w.topology, &at, Deed::DropByNft), ["filter"]);
    assert!(w.screen().contains("in node1 FORWARD filter"), "{}", w.screen());
}

#[test]
fn dropped_at_each_hook() {
    let cases = [
        (Hook::Prerouting, "br_nf_pre_routing"),
        (Hook::Prerouting, "ip_rcv"),
        (Hook::Input, "ip_local_deliver"),
        (Hook::Forward, "ip_forward"),
        (Hook::Output, "__ip_local_out"),
        (Hook::Postrouting, "ip_output"),
    ];
    for (hook, caller) in cases {
        let mut w = World::new(false);
        let p = syn();
        w.tc(&p, NODE1, VETH, IN, 100);
        let calls = ["ipt_do_table", "nf_hook_slow", caller];
        w.drop(&p, NODE1, CNI0, ("NETFILTER_DROP", "nf_hook_slow"), &calls);
        w.wait(60);
        assert_eq!(site(&w, 1).interval.expect("in a hook").hook, hook, "{caller}");
    }
}

#[test]
fn a_packet_dropped_in_output_is_seen_nowhere_else() {
    let mut w = World::new(false);
    let calls = ["nft_do_chain_ipv4", "nf_hook_slow", "__ip_local_out"];
    w.drop(&syn(), POD, 0, ("NETFILTER_DROP", "nft_do_chain"), &calls);
    w.wait(60);
    let summary = w.finish();
    assert_eq!((summary.packets, summary.dropped_total()), (1, 1));
    snapshot("drop_output.txt", w.screen());
}

#[test]
fn no_socket_after_delivery_is_a_drop() {
    let mut w = World::new(false);
    let mut r = Pkt { dst: ip("10.200.0.22"), ..syn_ack() };
    w.reply_through_node1(&mut r, 1000);
    w.remark(&r, Kind::ResetSend, POD, r.skb);
    w.drop(&r, POD, ETH0, ("NO_SOCKET", "tcp_v4_rcv"), &[]);
    w.wait(60);
    let summary = w.finish();
    assert_eq!((summary.delivered, summary.dropped_total()), (0, 1));
    assert!(site(&w, 1).delivered);
    assert!(w.screen().contains("RST sent back by visitor: NO_SOCKET"), "{}", w.screen());
    assert!(w.screen().contains("after it had passed INPUT"), "{}", w.screen());
}

#[test]
fn healthy_frees_are_no_drops() {
    for (why, symbol) in
        [("QUEUE_PURGE", "sk_stream_kill_queues"), ("NOT_SPECIFIED", "tcp_v4_rcv"), ("NO_SOCKET", "ping_rcv")]
    {
        for verbose in [0, 1] {
            let mut w = World::with(false, Options::default(), verbose);
            let mut r = Pkt { dst: ip("10.200.0.22"), ..syn_ack() };
            w.reply_through_node1(&mut r, 1000);
            w.drop(&r, POD, 0, (why, symbol), &[]);
            w.wait(60);
            let summary = w.finish();
            assert_eq!((summary.delivered, summary.dropped_total(), summary.healthy_frees), (1, 0, 1));
            assert_eq!(w.screen().contains("freed, as it should be"), verbose == 1, "{}", w.screen());
            assert!(!w.screen().contains('✗'));
        }
    }
    // Of a packet that was never seen: nothing to say.
    let mut w = World::new(false);
    w.drop(&syn(), POD, 0, ("QUEUE_PURGE", "sk_stream_kill_queues"), &[]);
    assert_eq!(w.finish().packets, 0);
}

#[test]
fn the_nat_core_drops_icmp_redirects() {
    let mut w = World::new(false);
    let p = Pkt { quoted: Some((5, 1)), reply: true, ..syn() };
    let calls = ["nf_hook_slow", "__ip_local_out"];
    w.drop(&p, NODE1, 0, ("NETFILTER_DROP", "nf_hook_slow"), &calls);
    assert_eq!(w.finish().packets, 0);
}

#[test]
fn reverse_path_filter_shows_the_way_back() {
    let mut w = World::new(false);
    let mut p = Pkt::tcp("198.51.100.10", 80, "10.200.0.22", 41234);
    p.reply = true;
    w.tc(&p, NODE1, ETH0, IN, 100);
    w.nf(&p, NODE1, Hook::Prerouting, (ETH0, 0), 1000);
    w.fib_reverse(&p, NODE1, 254, FLANNEL, 300);
    w.drop(&p, NODE1, ETH0, ("IP_RPFILTER", "ip_rcv_finish_core"), &["ip_rcv"]);
    w.wait(60);
    assert!(site(&w, 1).interval.is_none());
    snapshot("rpfilter.txt", w.screen());
}

#[test]
fn too_big_and_said_so() {
    let mut w = World::new(false);
    let mut p = Pkt { len: 1500, flags: 0x18, ..syn() };
    w.request_to_bridge(&mut p);
    w.icmp_send(&p, NODE1, (3, 4));
    w.drop(&p, NODE1, CNI0, ("PKT_TOO_BIG", "ip_forward"), &[]);
    w.wait(60);
    assert!(w.screen().contains("ICMP frag-needed sent back by node1"), "{}", w.screen());
    assert!(w.screen().contains("✗ DROPPED  PKT_TOO_BIG"), "{}", w.screen());
}

#[test]
fn the_neighbour_never_answered() {
    let mut w = World::new(false);
    let mut p = syn();
    w.request_to_bridge(&mut p);
    w.nf(&p, NODE1, Hook::Forward, (CNI0, EGRESS), 900);
    w.nf(&p, NODE1, Hook::Postrouting, (0, EGRESS), 900);
    w.wait(3000);
    assert_eq!(w.shown, [(1, true)]);
    w.icmp_send(&p, NODE1, (3, 1));
    w.drop(&p, NODE1, EGRESS, ("NEIGH_FAILED", "neigh_invalidate"), &[]);
    w.wait(60);
    assert_eq!(w.shown, [(1, true), (1, false)]);
    let summary = w.finish();
    assert_eq!((summary.vanished, summary.dropped_total()), (0, 1));
    assert!(w.screen().contains("ICMP host-unreachable sent back"), "{}", w.screen());
}

#[test]
fn a_late_drop_corrects_what_was_counted() {
    let mut w = World::new(false);
    let mut r = Pkt { dst: ip("10.200.0.22"), ..syn_ack() };
    w.reply_through_node1(&mut r, 1000);
    w.wait(200);
    w.drop(&r, POD, 0, ("NO_SOCKET", "tcp_v4_rcv"), &[]);
    w.wait(60);
    let summary = w.finish();
    assert_eq!((summary.packets, summary.delivered, summary.dropped_total()), (1, 0, 1));
    assert!(w.screen().contains("(continued)"), "{}", w.screen());
}

#[test]
fn outer_packet_without_a_listener() {
    let mut w = World::new(false);
    let mut p = syn_ack();
    p.outer = Some((N2, N1, 100));
    w.tc(&p, NODE1, ETH0, IN, 100);
    w.nf(&p, NODE1, Hook::Prerouting, (ETH0, 0), 900);
    w.nf(&p, NODE1, Hook::Input, (ETH0, 0), 900);
    w.drop(&p, NODE1, ETH0, ("NO_SOCKET", "__udp4_lib_rcv"), &[]);
    w.wait(60);
    assert!(!site(&w, 1).delivered, "INPUT of the outer packet is no delivery");
    assert!(w.screen().contains("NO_SOCKET"), "{}", w.screen());
}

#[test]
fn a_vanished_packet_is_told_with_what_was_expected() {
    let mut w = World::new(false);
    let mut p = syn();
    w.request_to_bridge(&mut p);
    w.wait(1200);
    assert_eq!(w.ending(1), Ending::Vanished { next: Expected::Routing { netns: NODE1 }, bridge: None });
    let summary = w.finish();
    assert_eq!(summary.vanished, 1);
    snapshot("vanished.txt", w.screen());
}

#[test]
fn nothing_is_claimed_when_events_were_lost() {
    let mut w = World::new(false);
    let mut p = syn();
    w.request_to_bridge(&mut p);
    w.lose(3);
    w.tc(&Pkt { flow: 2, skb: 0x88, ..syn() }, POD, ETH0, OUT, 100);
    w.wait(1200);
    assert_eq!(w.ending(1), Ending::Unclear { lost: 3 });
    assert!(matches!(w.ending(2), Ending::Vanished { .. }), "it came after the loss");
    assert_eq!(w.lost, 3);
    let summary = w.finish();
    assert_eq!((summary.events_lost, summary.lost_by_cpu.clone()), (3, vec![(0, 3)]));
    snapshot("lost.txt", w.screen());
}

#[test]
fn nothing_has_vanished_before_the_losses_are_counted() {
    let mut w = World::new(false);
    w.tracker.lost_in_kernel(&[0], w.now);
    w.tc(&egress::syn(), POD, ETH0, OUT, 1000);
    // The records of the next hops found no room, and nothing has come since that would show the gap.
    w.wait(1500);
    assert_eq!(w.ending(1), Ending::Open, "{}", w.screen());
    w.tracker.lost_in_kernel(&[7], w.now);
    w.wait(20);
    assert_eq!(w.ending(1), Ending::Unclear { lost: 7 });
}

#[test]
fn the_bridge_may_have_taken_it_elsewhere() {
    let mut w = World::new(false);
    let p = Pkt::tcp("10.200.0.22", 41234, "10.200.0.23", 80);
    w.tc(&p, POD, ETH0, OUT, 100);
    w.tc(&p, NODE1, VETH, IN, 2500);
    w.wait(1200);
    assert!(w.screen().contains("unless cni0 passed it to a port that is not watched"), "{}", w.screen());
}

#[test]
fn only_drops() {
    let mut w = World::with(false, Options { drops_only: true, ..Options::default() }, 0);
    let mut p = syn();
    w.request_through_node1(&mut p);
    let mut p = Pkt { id: 9, ..syn() };
    w.request_to_bridge(&mut p);
    w.drop(&p, NODE1, CNI0, ("IP_INNOROUTES", "ip_error"), &[]);
    w.wait(60);
    assert_eq!(w.shown, [(2, true)]);
    assert_eq!(w.finish().packets, 2);
}

#[test]
fn a_loop_is_one_journey() {
    let mut w = World::new(false);
    let mut p = Pkt { ttl: 36, ..syn() };
    for ttl in (30..36).rev() {
        w.tc(&p, NODE1, EGRESS, IN, 100);
        w.nf(&p, NODE1, Hook::Prerouting, (EGRESS, 0), 100);
        w.nf(&p, NODE1, Hook::Forward, (EGRESS, FLANNEL), 100);
        p.ttl = ttl;
    }
    w.wait(60);
    assert_eq!(w.journeys.len(), 1);
    assert!(w.journeys[&1].notes.iter().any(|n| matches!(n.what, NoteKind::Looped { .. })));
    assert!(w.screen().contains("routing loop"), "{}", w.screen());
}

#[test]
fn a_loop_over_another_node_is_one_journey() {
    // Out by one tunnel, back by the other, two hops less to live each time.
    let mut w = World::new(false);
    let mut r = Pkt { ttl: 60, dst: ip("10.200.0.22"), ..syn_ack() };
    for _ in 0..5 {
        r.outer = Some((N2, N1, 1));
        w.tc(&r, NODE1, ETH0, IN, 20_000);
        r.outer = None;
        w.tc(&r, NODE1, FLANNEL, IN, 1000);
        r.ttl -= 1;
        w.tc(&r, NODE1, EGRESS, OUT, 3000);
        r.outer = Some((N1, N2, 100));
        w.tc(&r, NODE1, ETH0, OUT, 1000);
        r.ttl -= 1;
    }
    w.wait(60);
    assert_eq!(w.finish().packets, 1);
    assert!(w.screen().contains("routing loop"), "{}", w.screen());
}

#[test]
fn names_from_outside_cannot_control_the_terminal() {
    let mut w = World::new(false);
    w.change(|t| {
        let ns = t.namespaces.get_mut(&NODE1).expect("node 1");
        ns.name = "no\u{1b}[2Jde".to_owned();
        ns.devices.get_mut(&ETH0).expect("eth0").name = "e\nth0".to_owned();
    });
    w.tc(&syn(), NODE1, ETH0, IN, 100);
    w.wait(1200);
    assert!(!w.screen().contains('\u{1b}'));
    assert!(w.screen().contains("e\\x0ath0"), "{}", w.screen());
}
