// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why conntrack takes a packet for INVALID, from hand-made journeys.

use crate::world;

use std::sync::Arc;

use tracer_common::Kind;
use tracer_user::cause::Certainty;
use tracer_user::explain::{Explainer, Told};
use tracer_user::firewall::{Backend, TableFamily, iptables};
use tracer_user::node::Hook;
use tracer_user::snapshot::{Evidence, NetnsEvidence};
use world::*;

const ENTRY: u64 = 0xffff_8880_0000_c100;
const NEW: u8 = 2;
const ACK: u8 = 0x10;

/// A node whose only rule drops INVALID packets.
fn node() -> Evidence {
    let rules = "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -m conntrack --ctstate INVALID -j DROP\nCOMMIT\n";
    let mut node = NetnsEvidence {
        rulesets: iptables::parse(rules, TableFamily::Ip, Backend::IptablesNft).tables.into(),
        ..NetnsEvidence::default()
    };
    for (key, value) in [("tcp_timeout_established", "2"), ("tcp_be_liberal", "0"), ("tcp_loose", "0")] {
        Arc::make_mut(&mut node.sysctls)
            .insert(format!("net/netfilter/nf_conntrack_{key}"), value.to_owned());
    }
    let mut evidence = Evidence::default();
    evidence.netns.insert(NODE1, Arc::new(node));
    evidence
}

fn packet(number: u64, flags: u8, seq: u32) -> Pkt {
    let skb = 0xffff_8880_0000_1000 + number * 0x100;
    Pkt { skb, flags, seq, ack: 500, ..Pkt::tcp("10.200.0.22", 41234, "198.51.100.10", 80) }
}

fn to_node(w: &mut World, p: &Pkt) {
    w.tc(p, POD, ETH0, OUT, 1000);
    w.tc(p, NODE1, VETH, IN, 1000);
    w.nf(p, NODE1, Hook::Prerouting, (CNI0, 0), 1000);
    w.tc(p, NODE1, CNI0, IN, 1000);
}

/// With an entry, and out of the node.
fn passes(w: &mut World, p: Pkt, info: u8) {
    let p = Pkt { ct: (ENTRY, 0, info), ..p };
    to_node(w, &p);
    w.fib(&p, NODE1, (254, 0, None, ETH0), 1000);
    w.nf(&p, NODE1, Hook::Forward, (CNI0, ETH0), 1000);
    w.nf(&p, NODE1, Hook::Postrouting, (0, ETH0), 1000);
    w.tc(&p, NODE1, ETH0, OUT, 1000);
    w.wait(20);
}

/// The answer of the other end, which passes too.
fn answered(w: &mut World, number: u64, ack: u32) {
    let (src, dst) = ("198.51.100.10", "10.200.0.22");
    let p = Pkt {
        skb: 0xffff_8880_0000_8000 + number * 0x100,
        flags: ACK,
        seq: 500,
        ack,
        reply: true,
        ..Pkt::tcp(src, 80, dst, 41234)
    };
    let p = Pkt { ct: (ENTRY, 0, 3), ..p };
    w.tc(&p, NODE1, ETH0, IN, 1000);
    w.nf(&p, NODE1, Hook::Prerouting, (ETH0, 0), 1000);
    w.nf(&p, NODE1, Hook::Forward, (ETH0, CNI0), 1000);
    w.nf(&p, NODE1, Hook::Postrouting, (0, CNI0), 1000);
    w.tc(&p, NODE1, CNI0, OUT, 1000);
    w.tc(&p, NODE1, VETH, OUT, 1000);
    w.tc(&p, POD, ETH0, IN, 1000);
    w.nf(&p, POD, Hook::Input, (ETH0, 0), 1000);
    w.wait(20);
}

fn dropped(w: &mut World, p: &Pkt) {
    let calls = ["nft_do_chain_ipv4", "nf_hook_slow", "ip_forward"];
    w.drop(p, NODE1, CNI0, ("NETFILTER_DROP", "nft_do_chain"), &calls);
}

/// Without an entry, and dropped by the rule.
fn invalid(w: &mut World, p: Pkt) {
    let p = Pkt { ct: (0, 0, 0), ..p };
    to_node(w, &p);
    dropped(w, &p);
}

fn cause(w: &mut World) -> Told {
    w.wait(200);
    w.finish();
    let (mut explainer, evidence) = (Explainer::default(), node());
    let told = w.journeys.values().flat_map(|j| explainer.observe(j, &w.topology, &Kernel, Some(&evidence)));
    let mut told: Vec<Told> = told.filter(|told| told.finding.id == "conntrack-invalid").collect();
    assert_eq!(told.len(), 1, "{told:#?}\n{}", w.screen());
    told.remove(0)
}

fn assert_says(told: &Told, title: &str, fix: &str) {
    let finding = &told.finding;
    assert!(finding.title.contains(title), "{}", finding.title);
    assert!(finding.fix.contains(fix), "{}", finding.fix);
}

#[test]
fn a_wrong_checksum_is_not_a_matter_of_the_window() {
    let mut w = World::new(false);
    let p = Pkt { ct: (0, 0, 0), ..packet(1, 0x02, 1000) };
    w.tc(&p, POD, ETH0, OUT, 1000);
    w.tc(&p, NODE1, VETH, IN, 1000);
    let mut seen = p.event(Kind::Nf);
    (seen.netns, seen.point, seen.ifindex, seen.detail[21]) = (NODE1, Hook::Prerouting as u8, CNI0, 1);
    w.push(seen, 1000);
    dropped(&mut w, &p);
    let told = cause(&mut w);
    assert_eq!(told.finding.certainty, Certainty::Certain);
    assert_says(&told, "its TCP checksum is wrong", "checksum offload");
    assert!(!told.finding.fix.contains("be_liberal"));
}

#[test]
fn one_direction_is_not_a_matter_of_the_window() {
    let mut w = World::new(false);
    passes(&mut w, packet(1, 0x02, 1000), NEW);
    w.wait(200);
    invalid(&mut w, packet(2, ACK, 1001));
    let told = cause(&mut w);
    assert_eq!(told.finding.certainty, Certainty::Certain);
    assert_says(&told, "one direction of the connection only", "both directions");
    assert!(!told.finding.fix.contains("be_liberal"));
}

#[test]
fn an_idle_connection_whose_entry_timed_out() {
    let mut w = World::new(false);
    passes(&mut w, packet(1, 0x02, 1000), NEW);
    answered(&mut w, 1, 1001);
    w.wait(3000);
    invalid(&mut w, packet(2, ACK, 1001));
    let told = cause(&mut w);
    assert_eq!(told.finding.certainty, Certainty::Certain);
    assert_says(&told, "its entry timed out", "nf_conntrack_tcp_timeout_established=");
}

#[test]
fn out_of_the_window_is_what_be_liberal_is_for() {
    let mut w = World::new(false);
    passes(&mut w, packet(1, 0x02, 1000), NEW);
    answered(&mut w, 1, 1001);
    invalid(&mut w, packet(2, ACK, 60_001_001));
    let told = cause(&mut w);
    assert_eq!(told.finding.certainty, Certainty::Certain);
    assert_says(&told, "60000000 bytes beyond", "nf_conntrack_tcp_be_liberal=1");
}
