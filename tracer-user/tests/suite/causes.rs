// SPDX-License-Identifier: MIT OR Apache-2.0
//! Causes from hand-made journeys: each is named for its kind of evidence, and nothing healthy has one.

use crate::world;

use std::sync::Arc;

use tracer_common::Kind;
use tracer_user::cause::{CATALOGUE, Certainty, markdown};
use tracer_user::explain::{Explainer, Told};
use tracer_user::node::Hook;
use tracer_user::node::rtnl::Neighbour;
use tracer_user::snapshot::{Evidence, NetnsEvidence};
use world::egress::{N1, N2, syn, syn_ack};
use world::*;

/// What is found for the journeys of a world, in order.
fn causes(w: &mut World) -> Vec<Told> {
    causes_with(w, None)
}

/// The same where the nodes were read too.
fn causes_with(w: &mut World, evidence: Option<&Evidence>) -> Vec<Told> {
    w.wait(4000);
    w.finish();
    let mut explainer = Explainer::default();
    w.journeys
        .values()
        .flat_map(|journey| explainer.observe(journey, &w.topology, &Kernel, evidence))
        .collect()
}

/// The one cause.
fn cause(w: &mut World) -> Told {
    let mut found = causes(w);
    assert_eq!(found.len(), 1, "{found:#?}\n{}", w.screen());
    found.remove(0)
}

#[test]
fn the_document_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/causes.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs")).expect("makes docs");
        std::fs::write(path, markdown()).expect("writes the document");
    }
    let stored = std::fs::read_to_string(path).unwrap_or_default();
    assert!(stored == markdown(), "docs/causes.md is old: UPDATE_DOCS=1 writes it again");
}

#[test]
fn ids_are_unique() {
    for (i, kind) in CATALOGUE.iter().enumerate() {
        assert!(CATALOGUE[..i].iter().all(|other| other.id != kind.id), "{}", kind.id);
    }
}

#[test]
fn the_healthy_egress_path_has_no_cause() {
    let mut w = World::new(true);
    let mut p = syn();
    w.request_through_node1(&mut p);
    w.request_through_node2(&mut p);
    let mut r = syn_ack();
    w.reply_through_node2(&mut r);
    w.reply_through_node1(&mut r, 20_000);
    assert_eq!(causes(&mut w), []);
}

#[test]
fn reverse_path_filter() {
    let mut w = World::new(true);
    let mut p = Pkt::tcp("198.51.100.10", 80, "10.200.0.22", 41234);
    p.reply = true;
    w.tc(&p, NODE1, ETH0, IN, 100);
    w.nf(&p, NODE1, Hook::Prerouting, (ETH0, 0), 1000);
    w.fib_reverse(&p, NODE1, 254, FLANNEL, 300);
    w.drop(&p, NODE1, ETH0, ("IP_RPFILTER", "ip_rcv_finish_core"), &["ip_rcv"]);
    let told = cause(&mut w);
    assert_eq!(told.finding.id, "dropped-in-kernel", "nothing was read of the node");
    assert!(told.finding.title.contains("the reverse path filter of eth0"), "{}", told.finding.title);
    assert!(told.finding.fix.contains("sysctl -w net.ipv4.conf.eth0.rp_filter=2"), "{}", told.finding.fix);
}

#[test]
fn a_rule_in_forward() {
    let mut w = World::new(false);
    w.zoom_in(NODE1, Hook::Forward, &[-149]);
    let mut p = syn();
    w.request_to_bridge(&mut p);
    w.nf_at(&p, NODE1, Hook::Forward, 1, (CNI0, EGRESS), 500);
    let calls = ["nft_do_chain_ipv4", "nf_hook_slow", "ip_forward"];
    w.drop(&p, NODE1, CNI0, ("NETFILTER_DROP", "nft_do_chain"), &calls);
    let told = cause(&mut w);
    assert_eq!((told.finding.id, told.finding.certainty), ("dropped-by-rule", Certainty::Certain));
    assert!(told.finding.title.contains("filter FORWARD of node1"), "{}", told.finding.title);
}

#[test]
fn frames_for_another_host() {
    let mut w = World::new(true);
    let mut p = syn();
    w.request_through_node1(&mut p);
    w.request_through_node2(&mut p);
    let answer = syn_ack();
    w.tc(&answer, NODE2, ETH0, IN, 90_000);
    w.drop(&answer, NODE2, ETH0, ("OTHERHOST", "ip_rcv_core"), &[]);
    let told = cause(&mut w);
    assert_eq!(told.finding.id, "frame-for-another-host");
    assert!(
        told.finding.title.starts_with("answers to 172.16.25.189 come to eth0"),
        "{}",
        told.finding.title
    );

    // What a switch floods to a node that has nothing to do with it is no fault.
    let mut w = World::new(false);
    let answer = syn_ack();
    w.tc(&answer, NODE1, ETH0, IN, 100);
    w.drop(&answer, NODE1, ETH0, ("OTHERHOST", "ip_rcv_core"), &[]);
    assert_eq!(causes(&mut w), []);
}

#[test]
fn reasons_that_say_it() {
    for (reason, symbol, device, id) in [
        ("IP_INNOROUTES", "ip_error", CNI0, "dropped-in-kernel"),
        ("NO_TX_TARGET", "vxlan_xmit", EGRESS, "dropped-in-kernel"),
        ("NEIGH_FAILED", "neigh_invalidate", EGRESS, "neighbour-silent"),
        ("NEIGH_FAILED", "neigh_invalidate", ETH0, "neighbour-silent"),
        ("PKT_TOO_BIG", "ip_forward", CNI0, "packet-too-big"),
        ("NOT_SPECIFIED", "veth_xdp_rcv_skb", CNI0, "dropped-by-program"),
        ("NOT_SPECIFIED", "do_xdp_generic", EGRESS, "dropped-by-program"),
        ("XDP", "veth_xdp_rcv_skb", CNI0, "dropped-by-program"),
        ("TC_INGRESS", "__netif_receive_skb_core", CNI0, "dropped-by-program"),
        ("TC_EGRESS", "__dev_queue_xmit", EGRESS, "dropped-by-program"),
        ("TCP_MD5NOTFOUND", "tcp_v4_rcv", CNI0, "dropped-in-kernel"),
        ("IP_LOCALNET", "ip_rcv_finish_core", CNI0, "dropped-in-kernel"),
    ] {
        let mut w = World::new(false);
        let mut p = syn();
        w.request_to_bridge(&mut p);
        w.drop(&p, NODE1, device, (reason, symbol), &[]);
        assert_eq!(cause(&mut w).finding.id, id, "{reason}");
    }
}

#[test]
fn who_has_to_send_smaller_packets() {
    let fix = |send: &dyn Fn(&mut World)| {
        let mut w = World::new(false);
        send(&mut w);
        let found = cause(&mut w).finding;
        assert_eq!(found.id, "packet-too-big");
        found.fix
    };
    let too_big = ("PKT_TOO_BIG", "ip_forward");
    let pod = fix(&|w| {
        let mut p = syn();
        w.request_to_bridge(&mut p);
        w.drop(&p, NODE1, CNI0, too_big, &[]);
    });
    assert!(pod.contains("sending pods"), "{pod}");
    // In the tunnel comes what a pod of another node sent.
    let tunnelled = fix(&|w| {
        let p = Pkt { outer: Some((N2, N1, 100)), ..world::egress::syn_ack() };
        w.tc(&p, NODE1, ETH0, IN, 1000);
        w.tc(&Pkt { outer: None, ..p }, NODE1, EGRESS, IN, 1000);
        w.drop(&Pkt { outer: None, ..p }, NODE1, EGRESS, too_big, &[]);
    });
    assert!(!tunnelled.contains("is no pod"), "{tunnelled}");
    let server = fix(&|w| {
        let p = world::egress::syn_ack();
        w.tc(&p, NODE1, ETH0, IN, 1000);
        w.nf(&p, NODE1, Hook::Prerouting, (ETH0, 0), 1000);
        w.drop(&p, NODE1, ETH0, too_big, &[]);
    });
    assert!(server.starts_with("172.16.25.183 is no pod") && !server.contains("CNI"), "{server}");
    let node = fix(&|w| {
        let p = Pkt { src: ip("172.16.25.11"), ..syn() };
        w.nf(&p, NODE1, Hook::Output, (0, ETH0), 1000);
        w.drop(&p, NODE1, ETH0, too_big, &[]);
    });
    assert!(node.contains("ip route replace 172.16.25.183") && !node.contains("pods"), "{node}");
}

#[test]
fn lookups_that_refuse() {
    for error in [-22, -13, -113] {
        let mut w = World::new(false);
        let mut p = syn();
        w.request_to_bridge(&mut p);
        w.fib(&p, NODE1, (254, error, None, 0), 400);
        w.drop(&p, NODE1, CNI0, ("NOT_SPECIFIED", "ip_error"), &[]);
        assert_eq!(cause(&mut w).finding.title, "routing in node1 refuses the packet", "{error}");
    }
}

#[test]
fn an_outer_packet_without_a_listener() {
    let mut w = World::new(false);
    let mut p = syn_ack();
    p.outer = Some((N2, N1, 100));
    w.change(|t| {
        let ns = t.namespaces.get_mut(&NODE1).expect("node 1");
        ns.devices.get_mut(&EGRESS).expect("egress.vxlan").up = false;
    });
    w.tc(&p, NODE1, ETH0, IN, 100);
    w.nf(&p, NODE1, Hook::Prerouting, (ETH0, 0), 900);
    w.nf(&p, NODE1, Hook::Input, (ETH0, 0), 900);
    w.drop(&p, NODE1, ETH0, ("NO_SOCKET", "__udp4_lib_rcv"), &[]);
    let told = cause(&mut w);
    assert_eq!(told.finding.title, "no socket of node1 takes the packet");
}

#[test]
fn an_answer_that_nobody_waits_for() {
    let mut w = World::new(false);
    let mut r = Pkt { dst: ip("10.200.0.22"), ..syn_ack() };
    w.reply_through_node1(&mut r, 1000);
    w.remark(&r, Kind::ResetSend, POD, r.skb);
    w.drop(&r, POD, ETH0, ("NO_SOCKET", "tcp_v4_rcv"), &[]);
    assert_eq!(cause(&mut w).finding.id, "reply-from-another-address");
}

#[test]
fn one_fault_is_one_cause() {
    let mut w = World::new(false);
    for id in 1..4 {
        let mut p = Pkt { id, ..syn() };
        w.request_to_bridge(&mut p);
        w.drop(&p, NODE1, CNI0, ("IP_INNOROUTES", "ip_error"), &[]);
        w.wait(100);
    }
    let found = causes(&mut w);
    assert_eq!(found.iter().map(|t| t.count).collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn a_packet_that_waits_for_a_mac() {
    let entry = |state| Neighbour { ifindex: ETH0, address: ip("172.16.25.183"), mac: Vec::new(), state };
    let evidence = |state| {
        let node = NetnsEvidence { neighbours: vec![entry(state)], ..NetnsEvidence::default() };
        Evidence { netns: [(NODE1, Arc::new(node))].into(), ..Evidence::default() }
    };
    let (incomplete, failed) = (evidence(0x01), evidence(0x20));
    let mut explainer = Explainer::default();
    let mut w = World::new(false);
    let p = syn();
    w.request_to_bridge(&mut p.clone());
    w.fib(&p, NODE1, (254, 0, None, ETH0), 900);
    w.nf(&p, NODE1, Hook::Forward, (CNI0, ETH0), 900);
    w.nf(&p, NODE1, Hook::Postrouting, (0, ETH0), 900);
    w.wait(900);
    assert_eq!(w.tracker.held(w.now, 1_000_000_000).count(), 0, "it may still come");
    w.wait(200);
    let held: Vec<_> = w.tracker.held(w.now, 1_000_000_000).cloned().collect();
    let [journey] = &held[..] else { panic!("{held:?}") };
    // Nobody asks any more: the drop tells.
    assert!(explainer.held(journey, &w.topology, &Kernel, Some(&failed)).is_none());
    assert!(explainer.held(journey, &w.topology, &Kernel, None).is_none());
    let told = explainer.held(journey, &w.topology, &Kernel, Some(&incomplete)).unwrap();
    assert_eq!((told.finding.id, told.finding.certainty), ("neighbour-silent", Certainty::Likely));
    assert!(explainer.is_explained(journey));

    w.drop(&p, NODE1, ETH0, ("NEIGH_FAILED", "neigh_invalidate"), &[]);
    w.wait(60);
    explainer.observe(&w.journeys[&1], &w.topology, &Kernel, Some(&failed));
    let causes = explainer.causes();
    assert_eq!(causes.len(), 1, "{causes:#?}");
    assert_eq!((causes[0].finding.certainty, causes[0].count), (Certainty::Likely, 1));
}
