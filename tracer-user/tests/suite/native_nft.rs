// SPDX-License-Identifier: MIT OR Apache-2.0
//! One packet through native nftables rules: kube-proxy's way with verdict maps, and a filter of both families.
#![expect(clippy::unwrap_used, reason = "a test")]

use crate::listings;

use std::net::IpAddr;

use listings::{nft, parse_ipset_save};
use proptest::prelude::*;
use tracer_user::firewall::{
    Backend, CtDirection, CtState, NatKind, PacketView, TableFamily, attribute_drop, attribute_mark,
    attribute_nat, iptables,
};
use tracer_user::node::{Family, Hook, Interval};
use tracer_user::snapshot::NetnsEvidence;

const TEXT: &str = include_str!("../fixtures/firewall/native.nft.json");

fn node() -> NetnsEvidence {
    let listed = nft::parse(TEXT);
    assert_eq!(listed.problems, Vec::<String>::new());
    NetnsEvidence { rulesets: listed.tables.into(), sets: listed.sets.into(), ..NetnsEvidence::default() }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn packet(dst: &str, port: u16) -> PacketView {
    PacketView::new(6, ip("10.200.0.22"), ip(dst))
        .ports(41234, port)
        .mark(0)
        .conntrack(CtState::New, CtDirection::Original)
        .devices("cni0", "eth9")
}

fn at(hook: Hook, family: Family) -> Interval {
    Interval { netns: 1, family, hook, after: i32::MIN, until: i32::MAX, learned: false }
}

#[test]
fn a_service_leads_through_a_map_to_its_endpoint() {
    let node = node();
    let to = Some((ip("10.200.1.22"), 80));
    let found = attribute_nat(
        &node,
        &at(Hook::Prerouting, Family::Ipv4),
        &packet("10.96.100.100", 80),
        NatKind::Dnat,
        to,
    );
    assert_eq!(found.rules.len(), 1, "{found:#?}");
    let name = found.rules[0].to_string();
    assert!(
        name.starts_with("ip kube-proxy ep-a handle ") && name.ends_with(" \"default/nginx-expose\""),
        "{name}"
    );
    // Which endpoint was by chance.
    assert!(!found.certain && !found.undecided.is_empty());
    let other = attribute_nat(
        &node,
        &at(Hook::Prerouting, Family::Ipv4),
        &packet("10.96.100.100", 81),
        NatKind::Dnat,
        to,
    );
    assert!(!other.certain);
}

#[test]
fn a_set_of_pairs_drops() {
    let found = attribute_drop(&node(), &at(Hook::Forward, Family::Ipv4), &packet("9.9.9.9", 85));
    assert!(found.certain, "{found:#?}");
    assert_eq!(found.rules[0].comment.as_deref(), Some("bad ports"));
}

#[test]
fn a_set_within_a_rule_accepts_and_the_policy_drops_the_rest() {
    let node = node();
    let accepted = attribute_drop(&node, &at(Hook::Forward, Family::Ipv4), &packet("1.1.1.1", 443));
    assert!(accepted.rules.iter().all(|rule| rule.number != 0), "{accepted:#?}");
    let dropped = attribute_drop(&node, &at(Hook::Forward, Family::Ipv4), &packet("1.1.1.1", 444));
    assert_eq!(dropped.rules[0].to_string(), "inet filter2 forward policy");
    assert!(dropped.certain);
}

#[test]
fn the_other_family_has_its_own_rules() {
    let packet =
        PacketView::new(6, ip("fd00::1"), ip("fd01::1")).ports(1, 85).mark(0).devices("eth1", "eth9");
    let found = attribute_drop(&node(), &at(Hook::Forward, Family::Ipv6), &packet);
    assert!(found.certain && found.rules[0].number > 1, "{found:#?}");
    assert!(found.rules[0].text.contains("REJECT with icmpv6 admin-prohibited"), "{found:#?}");
}

#[test]
fn a_mark_bit_is_taken_away() {
    let packet = packet("10.200.1.22", 80).mark(0x4007);
    let found = attribute_mark(&node(), &at(Hook::Postrouting, Family::Ipv4), &packet, 0x4007, 7);
    assert!(found.certain && found.rules[0].chain == "postrouting", "{found:#?}");
}

proptest! {
    #[test]
    fn a_damaged_listing_never_panics(at in 0usize..TEXT.len(), insert in "[\\[\\]{}\",:0-9a-z]{0,4}", cut: usize) {
        let mut text: String = TEXT.chars().take(TEXT.len() - cut % 200).collect();
        let at = at.min(text.len());
        text.replace_range(at..(at + insert.len() / 2).min(text.len()), &insert);
        let _ = nft::parse(&text);
    }

    #[test]
    fn arbitrary_text_never_panics(text in ".{0,80}") {
        let _ = nft::parse(&text);
    }
}

/// One byte or word of the tools' output is damaged: what is understood of it is walked, and nothing panics.
fn walk_all(evidence: &NetnsEvidence) {
    for hook in Hook::ALL {
        for packet in [packet("10.96.100.100", 80), packet("172.16.25.183", 443)] {
            let _ = attribute_drop(evidence, &at(hook, Family::Ipv4), &packet);
            let _ = attribute_mark(evidence, &at(hook, Family::Ipv4), &packet, 0, 5);
            let _ = attribute_nat(evidence, &at(hook, Family::Ipv4), &packet, NatKind::Both, None);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn damaged_listings_never_panic(at in 0..TEXT.len(), with in "[ -~]{0,3}", length in 0usize..4) {
        let mut text = TEXT.as_bytes().to_vec();
        let end = (at + length).min(text.len());
        text.splice(at..end, with.bytes());
        let listed = nft::parse(&String::from_utf8_lossy(&text));
        walk_all(&NetnsEvidence { rulesets: listed.tables.into(), sets: listed.sets.into(), ..NetnsEvidence::default() });
    }

    #[test]
    fn damaged_rules_never_panic(at in 0usize..8000, with in "[ -~\n]{0,3}", length in 0usize..4) {
        let whole = include_str!("../fixtures/firewall/node2.iptables");
        let sets = include_str!("../fixtures/firewall/node2.ipset");
        let mut text = whole.as_bytes().to_vec();
        let at = at % text.len();
        let end = (at + length).min(text.len());
        text.splice(at..end, with.bytes());
        let text = String::from_utf8_lossy(&text);
        let mut sets = sets.as_bytes().to_vec();
        let at = at % sets.len();
        let end = (at + length).min(sets.len());
        sets.splice(at..end, with.bytes());
        walk_all(&NetnsEvidence {
            rulesets: iptables::parse(&text, TableFamily::Ip, Backend::IptablesNft).tables.into(),
            sets: parse_ipset_save(&String::from_utf8_lossy(&sets)).into(),
            ..NetnsEvidence::default()
        });
    }
}
