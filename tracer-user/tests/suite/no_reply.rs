// SPDX-License-Identifier: MIT OR Apache-2.0
//! When it may be said that nothing came back.

use crate::world;

use std::net::SocketAddr;

use tracer_user::explain::{Explainer, Heard, HeardError, Tick, Told};
use tracer_user::firewall::{Backend, NatKind, TableFamily, iptables};
use tracer_user::flow::{Ending, Endpoint, Ends, Hop, Journey, Nat, Note, NoteKind, Packet, Place};
use tracer_user::node::{Family, Hook, Interval};
use tracer_user::snapshot::{ConnectionTuple, Evidence, NetnsEvidence, TrackedConnection};
use world::{CNI0, ETH0, Kernel, NODE1, Pkt, World, topology};

const SECOND: u64 = 1_000_000_000;
const SERVICE: &str = "10.96.0.7:80";

fn endpoint(text: &str) -> Endpoint {
    let at: SocketAddr = text.parse().expect("an address");
    Endpoint { addr: at.ip().into(), port: at.port() }
}

fn ends(src: &str, dst: &str) -> Ends {
    Ends { src: endpoint(src), dst: endpoint(dst) }
}

/// A packet as it was first seen and, translated, as it left.
fn journey(flow: u32, reply: bool, at: u64, (first, last): (Ends, Ends)) -> Journey {
    let hop = |ends| Hop {
        ts: at,
        netns: NODE1,
        place: Place::Device { ifindex: ETH0, egress: true },
        ends,
        mark: 0,
        len: 60,
        l3len: 60,
        ttl: 64,
        encap: None,
        conntrack: None,
        mark_change: None,
        ct_mark_change: None,
        nat: None,
        tracking: None,
        macs: None,
    };
    Journey {
        id: at / 1000 + u64::from(reply),
        flow,
        reply,
        start_ns: at,
        end_ns: at,
        packet: Packet {
            proto: 6,
            ends: first,
            tcp_flags: if reply { 0x12 } else { 0x02 },
            ..Packet::default()
        },
        hops: vec![hop(first), hop(last)],
        ending: Ending::Left { netns: NODE1, ifindex: ETH0 },
        ..Journey::default()
    }
}

fn syn(flow: u32, at: u64, to: &str) -> Journey {
    let client = format!("10.200.0.22:{}", 40_000 + flow);
    journey(flow, false, at, (ends(&client, SERVICE), ends(&client, to)))
}

fn syn_ack(flow: u32, at: u64, from: &str) -> Journey {
    let client = format!("10.200.0.22:{}", 40_000 + flow);
    journey(flow, true, at, (ends(from, &client), ends(SERVICE, &client)))
}

/// What a run says.
#[derive(Default)]
struct Run(Explainer);

impl Run {
    fn see(&mut self, journey: &Journey) -> Vec<Told> {
        self.0.observe(journey, &topology(false), &Kernel, None)
    }

    fn tick(&mut self, now_ns: u64, lost: u64) -> Vec<Told> {
        self.0.tick(&Tick { now_ns, lost, ..Tick::default() }, &topology(false), &Kernel, None)
    }
}

#[test]
fn one_request_a_second_to_a_service_is_answered_by_its_endpoint() {
    let mut run = Run::default();
    for n in 1..20 {
        let at = u64::from(n) * SECOND;
        let to = if n % 3 == 0 { "10.200.1.22:8080" } else { "10.200.0.23:8080" };
        assert_eq!(run.see(&syn(n, at, to)), [], "request {n}");
        assert_eq!(run.see(&syn_ack(n, at + 1000, to)), [], "reply {n}");
        assert_eq!(run.tick(at + SECOND / 2, 0), []);
    }
}

#[test]
fn one_of_two_endpoints_that_is_silent_is_not_hidden_by_the_other() {
    let mut run = Run::default();
    let (alive, silent) = ("10.200.0.23:8080", "10.200.1.22:8080");
    for n in 0..4 {
        let at = u64::from(n) * SECOND;
        assert_eq!(run.see(&syn(2 * n + 1, at, alive)), []);
        assert_eq!(run.see(&syn_ack(2 * n + 1, at + 1000, alive)), []);
        let told = run.see(&syn(2 * n + 2, at + 2000, silent));
        assert_eq!(!told.is_empty(), n > 0, "{n}: {told:?}");
    }
}

#[test]
fn an_answer_that_is_a_flow_of_its_own_for_the_filter_is_an_answer() {
    let mut run = Run::default();
    let endpoint = "10.200.0.23:8080";
    assert_eq!(run.see(&syn(1, SECOND, endpoint)), []);
    // The translation was not learned: another id, and the direction that the filter gives it.
    let reply = syn_ack(1, SECOND + 1000, endpoint);
    assert_eq!(run.see(&Journey { flow: 77, ..reply }), []);
    assert_eq!(run.tick(4 * SECOND, 0), []);
}

#[test]
fn nothing_is_said_of_silence_while_records_were_lost() {
    let mut run = Run::default();
    let endpoint = "10.200.0.23:8080";
    let again = |at| Journey {
        notes: vec![Note {
            ts: at,
            netns: NODE1,
            after: 0,
            what: NoteKind::Retransmission { of: None, after_ns: Some(SECOND) },
        }],
        ..syn(1, at, endpoint)
    };
    assert_eq!(run.see(&syn(1, SECOND, endpoint)), []);
    assert_eq!(run.tick(SECOND + SECOND / 2, 3), []);
    assert_eq!(run.see(&again(2 * SECOND)), []);
    assert_eq!(run.tick(3 * SECOND, 0), []);
    // A flow that began after it.
    assert_eq!(run.see(&syn(2, 4 * SECOND, "10.200.1.22:8080")), []);
    assert_eq!(run.tick(6 * SECOND, 0).len(), 1);
}

/// A SYN that waits at node1 for the MAC of its destination.
fn queued() -> (World, Pkt) {
    let mut w = World::new(false);
    let p = world::egress::syn();
    w.request_to_bridge(&mut p.clone());
    w.fib(&p, NODE1, (254, 0, None, ETH0), 900);
    w.nf(&p, NODE1, Hook::Forward, (CNI0, ETH0), 900);
    w.nf(&p, NODE1, Hook::Postrouting, (0, ETH0), 900);
    (w, p)
}

#[test]
fn a_packet_queued_at_an_unresolved_neighbour_has_not_vanished() {
    let (mut w, p) = queued();
    // Longer than resolution takes with the kernel's defaults: it is asked more often here.
    for _ in 0..6 {
        w.wait(1500);
        let held: Vec<u64> = w.tracker.held(w.now, SECOND).map(|journey| journey.id).collect();
        assert_eq!(held, [1], "at {} ms", w.now / 1_000_000);
        w.tracker.still_waiting(&held, w.now);
    }
    w.drop(&p, NODE1, ETH0, ("NEIGH_FAILED", "neigh_invalidate"), &[]);
    w.wait(60);
    assert!(matches!(w.ending(1), Ending::Dropped(_)), "{:?}", w.ending(1));

    let (mut w, _) = queued();
    w.wait(5000);
    assert!(matches!(w.ending(1), Ending::Vanished { .. }), "nobody knows of a neighbour");
}

#[test]
fn what_is_purged_from_a_neighbours_queue_was_not_delivered() {
    let (mut w, p) = queued();
    w.wait(2900);
    w.drop(&p, NODE1, ETH0, ("QUEUE_PURGE", "neigh_invalidate"), &[]);
    w.wait(60);
    assert!(matches!(w.ending(1), Ending::Dropped(_)), "{:?}", w.ending(1));
    let told = Explainer::default().observe(&w.journeys[&1], &w.topology, &Kernel, None);
    assert_eq!(told.iter().map(|t| t.finding.id).collect::<Vec<_>>(), ["neighbour-silent"]);
}

/// The node as it was read: one rule of the service, and the entry that the client's connection has.
fn node_with_entry() -> Evidence {
    let rule = "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -d 10.96.0.7/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.200.0.23:8080\nCOMMIT\n";
    let tuple = |src: &str, dst: &str| ConnectionTuple {
        proto: 6,
        src: src.parse().expect("an address"),
        dst: dst.parse().expect("an address"),
    };
    let entry = TrackedConnection {
        original: tuple("10.200.0.22:40001", SERVICE),
        reply: tuple("10.200.1.99:8080", "10.200.0.22:40001"),
        zone: 0,
        status: 0x1a8,
        mark: 0,
        timeout_s: 100,
        tcp_state: Some(1),
    };
    let node = NetnsEvidence {
        rulesets: iptables::parse(rule, TableFamily::Ip, Backend::IptablesNft).tables.into(),
        connections: vec![entry],
        ..NetnsEvidence::default()
    };
    Evidence { netns: [(NODE1, node.into())].into(), ..Evidence::default() }
}

#[test]
fn an_entry_that_still_translates_to_a_former_endpoint_is_named_beside_its_new_rule() {
    let gone = "10.200.1.99:8080";
    let mut packet = syn(1, SECOND, gone);
    let from = packet.packet.ends;
    packet.hops[0].place = Place::Device { ifindex: world::VETH, egress: false };
    packet.hops[1].place = Place::Hook {
        hook: Hook::Prerouting,
        ifindex: world::VETH,
        out_ifindex: 0,
        position: 0,
        priority: Some(-99),
    };
    let interval = Interval {
        netns: NODE1,
        family: Family::Ipv4,
        hook: Hook::Prerouting,
        after: i32::MIN,
        until: -99,
        learned: false,
    };
    packet.hops[1].nat = Some(Nat { kind: NatKind::Dnat, from, interval: Some(interval) });
    let evidence = node_with_entry();
    let (mut explainer, topology) = (Explainer::default(), topology(false));
    assert_eq!(explainer.observe(&packet, &topology, &Kernel, Some(&evidence)), []);
    let tick = Tick { now_ns: 4 * SECOND, ..Tick::default() };
    let told = explainer.tick(&tick, &topology, &Kernel, Some(&evidence));
    let [told] = &told[..] else { panic!("{told:?}") };
    assert_eq!(told.finding.id, "stale-connection-entry");
    assert_eq!(told.finding.fix, "conntrack -D -p tcp -s 10.200.0.22 -d 10.96.0.7 --sport 40001 --dport 80");
}

/// A datagram of a pod to 192.0.2.1:69, masqueraded as 172.16.25.11:5000.
fn tftp(at: u64) -> Journey {
    let ends = (ends("10.200.0.22:4000", "192.0.2.1:69"), ends("172.16.25.11:5000", "192.0.2.1:69"));
    let mut request = journey(1, false, at, ends);
    request.packet.proto = 17;
    request
}

fn from_another_port(netns: u32, to: &str) -> Heard {
    let ends = ends("192.0.2.1:7777", to);
    Heard { netns, ifindex: ETH0, outgoing: false, proto: 17, ends, error: None }
}

#[test]
fn an_answer_from_another_port_that_the_node_refuses_is_the_cause() {
    let mut run = Run::default();
    assert_eq!(run.see(&tftp(SECOND)), []);
    assert_eq!(run.0.unanswered(SECOND + SECOND / 10), []);
    assert_eq!(run.0.unanswered(SECOND + SECOND / 2).len(), 1);
    let answer = from_another_port(NODE1, "172.16.25.11:5000");
    let error = HeardError { from: endpoint("172.16.25.11:1").addr, icmp_type: 3, code: 3 };
    let heard = [answer, Heard { outgoing: true, error: Some(error), ..answer }];
    let tick = Tick { now_ns: 2 * SECOND, heard: &heard, ..Tick::default() };
    let told = run.0.tick(&tick, &topology(false), &Kernel, None);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].finding.id, "answer-elsewhere");
    assert!(told[0].finding.title.contains("from port 7777, not from port 69"), "{told:?}");
    // In place of "nothing came back".
    assert!(run.see(&tftp(3 * SECOND)).iter().all(|told| told.finding.id != "no-answer"));
    assert_eq!(run.0.causes().len(), 1);
}

#[test]
fn an_answer_from_another_port_that_its_receiver_gets_is_an_answer() {
    let mut run = Run::default();
    let mut request = tftp(SECOND);
    request.hops.truncate(1);
    assert_eq!(run.see(&request), []);
    let heard = [from_another_port(NODE1, "10.200.0.22:4000")];
    let tick = Tick { now_ns: 2 * SECOND, heard: &heard, ..Tick::default() };
    assert_eq!(run.0.tick(&tick, &topology(false), &Kernel, None), []);
    assert_eq!(run.tick(4 * SECOND, 0), []);
}
