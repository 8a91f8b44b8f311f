// SPDX-License-Identifier: MIT OR Apache-2.0
//! kube-proxy in nftables mode, from a dump of the kernel's: what becomes of packets for services. The dump is of
//! messages, each after a byte that says what it is and two of length, as the fuzz target `bytecode` takes it.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::net::IpAddr;

use proptest::prelude::*;
use tracer_user::firewall::bytecode::{Dump, Outside, Reader};
use tracer_user::firewall::{
    Backend, CtDirection, CtState, NatKind, PacketView, TableFamily, attribute_drop, attribute_mark,
    attribute_nat, iptables, walk_hook,
};
use tracer_user::node::{Family, Hook, Interval};
use tracer_user::snapshot::NetnsEvidence;

const DUMP: &[u8] = include_bytes!("../fixtures/firewall/kube-proxy.nftables");

fn node() -> NetnsEvidence {
    let evidence = read(DUMP);
    assert!(evidence.rulesets.iter().all(|table| table.backend == Backend::Nft));
    evidence
}

fn read(bytes: &[u8]) -> NetnsEvidence {
    let (mut dump, mut rules) = (Dump::default(), Vec::new());
    let mut rest = bytes;
    while let [kind, low, high, after @ ..] = rest {
        let (message, next) = after.split_at(usize::from(u16::from_le_bytes([*low, *high])).min(after.len()));
        match kind {
            0 => dump.chains.push(message.to_vec()),
            1 => dump.sets.push(message.to_vec()),
            2 => dump.elements.push(message.to_vec()),
            _ => rules.push(message),
        }
        rest = next;
    }
    let outside = Outside { device: &|_| None, ipset: &|_| None };
    let mut reader = Reader::new(&dump);
    for message in rules {
        reader.rule(message, &outside);
    }
    let ruleset = reader.finish();
    NetnsEvidence { rulesets: ruleset.tables.into(), sets: ruleset.sets.into(), ..NetnsEvidence::default() }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn packet(to: &str, port: u16) -> PacketView {
    PacketView::new(6, ip("10.200.0.22"), ip(to))
        .ports(41234, port)
        .mark(0)
        .conntrack(CtState::New, CtDirection::Original)
        .devices("cni0", "flannel.1")
}

fn all_of(hook: Hook) -> Interval {
    Interval { netns: 1, family: Family::Ipv4, hook, after: i32::MIN, until: i32::MAX, learned: false }
}

#[test]
fn a_service_leads_through_its_map_to_the_one_endpoint() {
    let to = Some((ip("10.200.1.22"), 80));
    let packet = packet("10.96.100.100", 80);
    let found = attribute_nat(&node(), &all_of(Hook::Prerouting), &packet, NatKind::Dnat, to);
    assert!(found.certain, "{found:#?}");
    assert_eq!(found.rules[0].chain, "endpoint-4QMHXJZB-default/nginx-expose/tcp/__10.200.1.22/80");
}

#[test]
fn of_two_endpoints_the_one_that_was_chosen_is_named() {
    for (endpoint, chain) in [("10.200.0.31", "endpoint-AAAAAAAA"), ("10.200.1.31", "endpoint-BBBBBBBB")] {
        let (packet, to) = (packet("10.96.100.202", 80), Some((ip(endpoint), 80)));
        let found = attribute_nat(&node(), &all_of(Hook::Prerouting), &packet, NatKind::Dnat, to);
        assert_eq!(found.rules.len(), 1);
        assert!(found.rules[0].chain.starts_with(chain), "{found:#?}");
    }
}

#[test]
fn a_node_port_is_marked_for_masquerading_and_translated() {
    let mut outside = packet("172.16.25.11", 30897);
    outside.src = ip("172.16.25.183");
    let found = attribute_mark(&node(), &all_of(Hook::Prerouting), &outside, 0, 0x4000);
    assert_eq!(found.rules[0].chain, "mark-for-masquerade", "{found:#?}");
    let evidence = node();
    let marked = packet("10.200.1.22", 80).mark(0x4000);
    let walk = walk_hook(&evidence, Hook::Postrouting, i32::MIN..i32::MAX, &marked);
    assert_eq!(walk.mark, Some(0), "the bit is taken away");
    let plain = packet("10.200.1.22", 80);
    let walk = walk_hook(&evidence, Hook::Postrouting, i32::MIN..i32::MAX, &plain);
    assert!(walk.effects.is_empty(), "{:#?}", walk.effects);
}

#[test]
fn a_service_without_endpoints_is_told_by_the_element_that_leads_to_the_reject() {
    let found = attribute_drop(&node(), &all_of(Hook::Forward), &packet("10.96.100.200", 80));
    assert!(found.certain, "{found:#?}");
    assert_eq!(found.rules[0].chain, "reject-chain");
    let led_by = found.led_by.unwrap();
    assert_eq!(led_by.comment.as_deref(), Some("default/empty"));
    assert!(led_by.text.ends_with("of map no-endpoint-services"), "{}", led_by.text);
}

#[test]
fn other_ports_and_addresses_of_services_end_there() {
    for (to, port, comment) in [
        ("10.96.100.100", 81, "Reject traffic to invalid ports of ClusterIPs"),
        ("10.96.7.7", 80, "Drop traffic to unallocated ClusterIPs"),
    ] {
        let found = attribute_drop(&node(), &all_of(Hook::Forward), &packet(to, port));
        assert!(found.certain, "{found:#?}");
        assert_eq!(found.rules[0].comment.as_deref(), Some(comment));
    }
}

#[test]
fn source_ranges_of_a_load_balancer_drop_before_the_translation() {
    let found = attribute_drop(&node(), &all_of(Hook::Prerouting), &packet("10.96.100.201", 80));
    assert!(found.certain, "{found:#?}");
    assert_eq!(found.led_by.unwrap().comment.as_deref(), Some("default/inner"));
    let mut inside = packet("10.96.100.201", 80);
    inside.src = ip("203.0.113.5");
    assert!(attribute_drop(&node(), &all_of(Hook::Prerouting), &inside).rules.is_empty());
}

/// An attribute as netlink has it.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut out = u16::try_from(value.len() + 4).unwrap().to_ne_bytes().to_vec();
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

fn string(kind: u16, text: &str) -> Vec<u8> {
    attribute(kind, format!("{text}\0").as_bytes())
}

proptest! {
    #[test]
    fn damaged_dumps_never_panic(
        changes in proptest::collection::vec((0..DUMP.len(), any::<u8>()), 1..40),
        cut in 0..DUMP.len() * 4,
    ) {
        let mut bytes = DUMP.to_vec();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        bytes.truncate(cut.max(64));
        let evidence = read(&bytes);
        for hook in Hook::ALL {
            let _ = walk_hook(&evidence, hook, i32::MIN..i32::MAX, &packet("10.96.100.202", 80));
        }
    }

    #[test]
    fn extensions_with_any_data_never_panic_and_are_printed_as_rules(
        name in proptest::sample::select(vec![
            "comment", "tcp", "udp", "icmp", "conntrack", "state", "mark", "connmark", "addrtype", "set", "mac", "multiport",
            "statistic", "owner", "iprange", "physdev", "recent", "length", "ttl", "string", "MARK", "CONNMARK", "DNAT",
            "SNAT", "MASQUERADE", "REDIRECT", "REJECT", "CT", "TCPMSS", "LOG", "TPROXY", "TTL", "NFQUEUE", "NETMAP",
        ]),
        six: bool,
        revision in 0u32..5,
        info in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let kind = if name.starts_with(char::is_uppercase) { "target" } else { "match" };
        let inner = [string(1, name), attribute(2, &revision.to_be_bytes()), attribute(3, &info)].concat();
        let one = attribute(1 | 0x8000, &[string(1, kind), attribute(2 | 0x8000, &inner)].concat());
        let fixed = [if six { 10 } else { 2 }, 0, 0, 0];
        let hook = [attribute(1, &2u32.to_be_bytes()), attribute(2, &0u32.to_be_bytes())].concat();
        let parts = [string(1, "filter"), string(3, "FORWARD"), attribute(4 | 0x8000, &hook), string(7, "filter")];
        let chain = [&fixed[..], &parts.concat()].concat();
        let parts = [string(1, "filter"), string(2, "FORWARD"), attribute(4 | 0x8000, &one)];
        let rule = [&fixed[..], &parts.concat()].concat();
        let mut reader = Reader::new(&Dump { chains: vec![chain], ..Dump::default() });
        reader.rule(&rule, &Outside { device: &|_| None, ipset: &|i| Some(format!("set{i}")) });
        let tables = reader.finish().tables;
        prop_assert_eq!(tables[0].backend, Backend::IptablesNft);
        let family = if six { TableFamily::Ip6 } else { TableFamily::Ip };
        let text = format!("*filter\n:FORWARD ACCEPT [0:0]\n{}\nCOMMIT\n", tables[0].chains[0].rules[0].text);
        let again = iptables::parse(&text, family, Backend::IptablesNft);
        prop_assert_eq!(again.tables[0].chains[0].rules.len(), 1, "{}", text);
    }
}
