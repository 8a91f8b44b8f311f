// SPDX-License-Identifier: MIT OR Apache-2.0
//! One packet through the rules of EgressGateway's nodes, as their tools printed them.
#![expect(clippy::unwrap_used, reason = "a test")]

use crate::listings;

use std::net::IpAddr;

use listings::parse_ipset_save;
use tracer_user::firewall::{
    Attribution, Backend, CtDirection, CtState, Miss, NatKind, NearMiss, PacketView, RuleRef, TableFamily,
    Verdict, attribute_drop, attribute_mark, attribute_nat, hides, iptables, near_misses, nearly_spared,
    walk,
};
use tracer_user::node::{Family, Hook, Interval};
use tracer_user::snapshot::NetnsEvidence;

const REQUEST: u32 = 0x26b7_b4e4;
const REPLY: u32 = 0x2698_ee37;
const DONE: u32 = 0x2600_0000;
const NODE1_MAC: [u8; 6] = [0x66, 0xc5, 0xd6, 0xcc, 0x29, 0x54];

fn node(rules: &str, sets: &str) -> NetnsEvidence {
    NetnsEvidence {
        rulesets: iptables::parse(rules, TableFamily::Ip, Backend::IptablesNft).tables.into(),
        sets: parse_ipset_save(sets).into(),
        ..NetnsEvidence::default()
    }
}

fn node1() -> NetnsEvidence {
    node(
        include_str!("../fixtures/firewall/node1.iptables"),
        include_str!("../fixtures/firewall/node1.ipset"),
    )
}

fn node2() -> NetnsEvidence {
    node(
        include_str!("../fixtures/firewall/node2.iptables"),
        include_str!("../fixtures/firewall/node2.ipset"),
    )
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The first packet of the pod's connection.
fn request() -> PacketView {
    PacketView::new(6, ip("10.200.0.22"), ip("172.16.25.183"))
        .ports(41234, 80)
        .mark(0)
        .conntrack(CtState::New, CtDirection::Original)
        .devices("cni0", "")
}

fn all_of(hook: Hook) -> Interval {
    Interval { netns: 1, family: Family::Ipv4, hook, after: i32::MIN, until: i32::MAX, learned: false }
}

fn names(found: &Attribution) -> Vec<String> {
    found.rules.iter().map(ToString::to_string).collect()
}

fn misses(near: &[NearMiss]) -> Vec<String> {
    let words = |near: &NearMiss| match &near.miss {
        Miss::Failed { why, .. } => format!("{}: {why}", near.rule),
        Miss::NotReached { by, .. } => format!("{}: {by} comes first", near.rule),
        Miss::NotEntered { jump, why, .. } => format!("{}: {jump}: {why}", near.rule),
    };
    near.iter().map(words).collect()
}

#[test]
fn the_mark_of_a_request_is_the_policys_rule() {
    let found = attribute_mark(&node1(), &all_of(Hook::Prerouting), &request(), 0, REQUEST);
    let rule = "mangle EGRESSGATEWAY-MARK-REQUEST rule 1 \"Set mark for EgressPolicy default-test\"";
    assert_eq!(names(&found), [rule]);
    assert!(found.certain && found.near.is_empty());
}

#[test]
fn the_mark_is_reset_in_forward() {
    let packet = request().mark(REQUEST).devices("cni0", "egress.vxlan");
    let found = attribute_mark(&node1(), &all_of(Hook::Forward), &packet, REQUEST, DONE);
    assert_eq!(
        names(&found),
        ["mangle FORWARD rule 1 \"Accept for egress traffic from pod going to EgressTunnel\""]
    );
    assert!(found.certain);
}

#[test]
fn a_pod_in_no_set_is_told() {
    let mut packet = request();
    packet.src = ip("10.200.0.33");
    let evidence = node1();
    let near = misses(&near_misses(&evidence, Hook::Prerouting, "mangle", &packet));
    let why = "source 10.200.0.33 is not in set egress-src-v4-738bb014438bdbfe7 (1 member)";
    assert!(near.iter().any(|line| line.contains("default-test") && line.ends_with(why)), "{near:#?}");
    let found = attribute_mark(&evidence, &all_of(Hook::Prerouting), &packet, 0, REQUEST);
    assert!(found.rules.is_empty() && misses(&found.near).iter().any(|line| line.ends_with(why)));
}

#[test]
fn the_gateway_marks_for_the_reply_and_then_for_itself() {
    let packet = request().mac(NODE1_MAC).devices("egress.vxlan", "");
    let evidence = node2();
    let found = attribute_mark(&evidence, &all_of(Hook::Prerouting), &packet, 0, DONE);
    assert_eq!(
        names(&found),
        [
            "mangle EGRESSGATEWAY-REPLY-ROUTING rule 3 \"EgressGateway reply datapath rule, rule is from the EgressGateway\""
        ]
    );
    let walk = walk(&evidence, "mangle", Hook::Prerouting, &packet);
    assert_eq!((walk.verdict, walk.mark), (Some(Verdict::Accept), Some(DONE)));
    assert_eq!(walk.decided_by.unwrap().name().number, 4);
    assert!(walk.effects.iter().all(|effect| effect.certain));
}

#[test]
fn another_mac_is_told() {
    let packet = request().mac([0x66, 0, 0, 0, 0, 1]).devices("egress.vxlan", "");
    let near = misses(&near_misses(&node2(), Hook::Prerouting, "mangle", &packet));
    let why = "rule wants MAC 66:c5:d6:cc:29:54, packet has MAC 66:00:00:00:00:01";
    assert!(near.iter().filter(|line| line.ends_with(why)).count() == 2, "{near:#?}");
}

#[test]
fn without_the_mac_both_ways_are_possible() {
    let packet = request().devices("egress.vxlan", "");
    let found = attribute_mark(&node2(), &all_of(Hook::Prerouting), &packet, 0, DONE);
    assert!(!found.certain && found.rules.len() == 1, "{found:#?}");
    assert!(found.undecided.iter().any(|(_, what)| what == "MAC 66:c5:d6:cc:29:54"), "{found:#?}");
}

#[test]
fn the_reply_takes_its_mark_from_the_connection() {
    let mut packet = PacketView::new(6, ip("172.16.25.183"), ip("172.16.25.189"))
        .ports(80, 41234)
        .mark(0)
        .conntrack(CtState::Established, CtDirection::Reply)
        .devices("eth0", "");
    packet.ct_mark = Some(REPLY);
    let found = attribute_mark(&node2(), &all_of(Hook::Prerouting), &packet, 0, REPLY);
    assert!(found.certain);
    assert!(names(&found)[0].starts_with("mangle EGRESSGATEWAY-REPLY-ROUTING rule 4"), "{found:#?}");
}

#[test]
fn source_translation_is_the_policys_on_the_gateway() {
    let packet = request().mark(DONE).devices("", "eth0");
    let to = Some((ip("172.16.25.189"), 41234));
    let found = attribute_nat(&node2(), &all_of(Hook::Postrouting), &packet, NatKind::Snat, to);
    assert_eq!(names(&found), ["nat EGRESSGATEWAY-SNAT-EIP rule 1 \"snat policy default-test\""]);
    assert!(found.certain);
    // To another address: it was not that rule.
    let to = Some((ip("172.16.25.12"), 41234));
    let found = attribute_nat(&node2(), &all_of(Hook::Postrouting), &packet, NatKind::Snat, to);
    assert!(!names(&found).iter().any(|name| name.contains("SNAT-EIP")), "{found:#?}");
    assert!(!found.certain);
    let reply = attribute_nat(&node2(), &all_of(Hook::Prerouting), &packet, NatKind::UnSnat, None);
    assert!(reply.by_conntrack && reply.rules.is_empty());
}

#[test]
fn a_service_is_translated_by_its_endpoints_rule() {
    let packet = {
        let mut packet = request();
        packet.dst = ip("10.96.100.100");
        packet
    };
    let to = Some((ip("10.200.1.22"), 80));
    let found = attribute_nat(&node1(), &all_of(Hook::Prerouting), &packet, NatKind::Dnat, to);
    assert_eq!(names(&found), ["nat KUBE-SEP-4QMHXJZBBJ65X7PD rule 2 \"default/nginx-expose\""]);
    assert!(found.certain, "{found:#?}");
}

#[test]
fn a_reject_is_named() {
    let mut packet = request().devices("cni0", "eth0");
    packet.dst = ip("10.96.100.200");
    let found = attribute_drop(&node1(), &all_of(Hook::Forward), &packet);
    assert_eq!(names(&found), ["filter KUBE-SERVICES rule 1 \"default/empty has no endpoints\""]);
    assert!(found.certain);
}

#[test]
fn a_rule_that_comes_first_is_told() {
    let calico = "*mangle\n:PREROUTING ACCEPT [0:0]\n:cali-PREROUTING - [0:0]\n\
        -A PREROUTING -m comment --comment \"cali:6gwbT8clXdHdC1b1\" -j cali-PREROUTING\n\
        -A PREROUTING -m set --match-set egress-src-v4-738bb014438bdbfe7 src -j MARK --set-xmark 0x26b7b4e4/0xffffffff\n\
        -A cali-PREROUTING -m comment --comment \"cali:6BJqBjBC7crtA-7-\" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n";
    let evidence = node(calico, include_str!("../fixtures/firewall/node1.ipset"));
    let packet = request().conntrack(CtState::Established, CtDirection::Original);
    let near = misses(&near_misses(&evidence, Hook::Prerouting, "mangle", &packet));
    assert_eq!(
        near,
        ["mangle PREROUTING rule 2: mangle cali-PREROUTING rule 1 \"cali:6BJqBjBC7crtA-7-\" comes first"]
    );
}

#[test]
fn a_policy_is_named() {
    let rules =
        include_str!("../fixtures/firewall/node1.iptables").replace(":FORWARD ACCEPT", ":FORWARD DROP");
    let evidence = node(&rules, "");
    let mut packet = request().devices("eth0", "nerdctl0");
    packet.src = ip("8.8.8.8");
    let interval = Interval { after: -1, until: 10, ..all_of(Hook::Forward) };
    let found = attribute_drop(&evidence, &interval, &packet);
    assert_eq!(names(&found), ["filter FORWARD policy"]);
    assert!(found.certain);
}

#[test]
fn what_is_not_understood_leaves_the_verdict_open() {
    let rules = "*filter\n:FORWARD ACCEPT [0:0]\n:X - [0:0]\n-A FORWARD -m geoip --source-country A -j X\n\
        -A FORWARD -s 10.200.0.22/32 -j RETURN\n-A FORWARD -j DROP\n-A X -j DROP\n";
    let evidence = node(rules, "");
    let found = attribute_drop(&evidence, &all_of(Hook::Forward), &request());
    assert_eq!(names(&found), ["filter X rule 1"]);
    assert!(!found.certain);
    assert_eq!(found.undecided[0].1, "-m geoip --source-country A");
    let walk = walk(&evidence, "filter", Hook::Forward, &request());
    assert_eq!(walk.verdict, None);
}

#[test]
fn chains_that_call_each_other_end() {
    let rules = "*filter\n:FORWARD ACCEPT [0:0]\n:A - [0:0]\n:B - [0:0]\n-A FORWARD -j A\n-A A -j B\n-A A -j B\n-A B -j A\n-A B -j A\n";
    let evidence = node(rules, "");
    let walk = walk(&evidence, "filter", Hook::Forward, &request());
    assert!(walk.cut && walk.verdict.is_none());
}

#[test]
fn evidence_survives_a_recording() {
    let evidence = node2();
    let text = serde_json::to_string(&evidence).unwrap();
    assert_eq!(serde_json::from_str::<NetnsEvidence>(&text).unwrap(), evidence);
}

#[test]
fn a_rule_that_was_left_behind_hides_the_one_for_the_same_port() {
    let node = node(
        "*nat\n:PREROUTING ACCEPT [0:0]\n:MAPPED - [0:0]\n:OLD - [0:0]\n:NEW - [0:0]\n-A PREROUTING -j MAPPED\n\
         -A MAPPED -p tcp -m multiport --dports 80 -j OLD\n-A MAPPED -p tcp -m multiport --dports 80 -j NEW\n\
         -A OLD -p tcp -j DNAT --to-destination 10.0.0.7:80\n-A NEW -p tcp -j DNAT --to-destination 10.0.0.8:80\nCOMMIT\n",
        "",
    );
    let old = attribute_nat(&node, &all_of(Hook::Prerouting), &request(), NatKind::Dnat, None);
    assert_eq!(names(&old), ["nat OLD rule 1"]);
    let hides = hides(&node, Hook::Prerouting, &request(), &old.rules[0]).unwrap();
    assert_eq!(
        (hides.rule.to_string(), hides.hidden.to_string()),
        ("nat MAPPED rule 1".into(), "nat NEW rule 1".into())
    );
    assert!(hides.to.contains("10.0.0.8"), "{}", hides.to);
    assert_eq!(hidden_by(&node, &hides.hidden), None);
}

/// What a rule hides that nothing comes after.
fn hidden_by(node: &NetnsEvidence, rule: &RuleRef) -> Option<String> {
    hides(node, Hook::Prerouting, &request(), rule).map(|hides| hides.to)
}

#[test]
fn a_set_that_lacks_the_source_is_why_a_rule_did_not_spare_it() {
    let node = node(
        "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -m set --match-set allowed src -j ACCEPT\n-A FORWARD -s 1.2.3.4/32 -j ACCEPT\n-A FORWARD -j DROP\nCOMMIT\n",
        "create allowed hash:net family inet\nadd allowed 10.200.0.99\n",
    );
    let packet = request().devices("cni0", "eth0");
    let dropped = attribute_drop(&node, &all_of(Hook::Forward), &packet);
    let near = nearly_spared(&node, &packet, &dropped.rules[0]);
    assert_eq!(near.len(), 1, "{near:?}");
    assert!(
        misses(&near)[0].starts_with("filter FORWARD rule 1: source 10.200.0.22 is not in"),
        "{:?}",
        misses(&near)
    );
}
