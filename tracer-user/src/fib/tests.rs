// SPDX-License-Identifier: MIT OR Apache-2.0
//! Each condition of a rule, and what the random comparison with the kernel does not reach: VRF, exceptions, what is
//! not known.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::node::rtnl::{Address, Conditions, Link, NextHop, Nexthop, Ports, Route, Rule};

#[derive(Default)]
struct Node {
    rules: Vec<Rule>,
    routes: Vec<Route>,
    exceptions: Vec<Route>,
    nexthops: Vec<Nexthop>,
    links: Vec<Link>,
    addresses: Vec<Address>,
    sysctls: BTreeMap<String, String>,
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn link(ifindex: u32, name: &str) -> Link {
    Link { ifindex, name: name.to_owned(), flags: 0x1_0001, ..Link::default() }
}

fn route(table: u32, to: &str, ifindex: u32) -> Route {
    let next_hops = vec![NextHop { ifindex, ..NextHop::default() }];
    Route { destination: to.parse().unwrap(), table, next_hops, ..Route::default() }
}

impl Node {
    /// Two devices; table 7 leads to the second, main to the first.
    fn new(rule: Rule) -> Self {
        let rule = Rule { priority: 10, action: 1, table: 7, ..rule };
        let main = Rule { priority: 32766, action: 1, table: 254, ipv6: rule.ipv6, ..Rule::default() };
        let all = if rule.ipv6 { "::/0" } else { "0.0.0.0/0" };
        let lo = Link { flags: 0x1_0009, ..link(1, "lo") };
        Self {
            rules: vec![rule, main],
            routes: vec![route(254, all, 2), route(7, all, 3)],
            links: vec![lo, link(2, "eth0"), link(3, "eth1")],
            ..Self::default()
        }
    }

    fn fib(&self) -> Fib<'_> {
        Fib::new(Sources {
            rules: &self.rules,
            routes: &self.routes,
            exceptions: &self.exceptions,
            nexthops: &self.nexthops,
            links: &self.links,
            addresses: &self.addresses,
            neighbours: &[],
            sysctls: &self.sysctls,
        })
    }

    /// Whether the rule applies; `None`: it is not known.
    fn applies(&self, question: &Question) -> Option<bool> {
        let fib = self.fib();
        let answer = fib.lookup_unchecked(question);
        answer.routed().map(|routed| routed.table == 7)
    }
}

fn to() -> Question {
    Question { uid: Some(0), ..Question::to(ip("10.9.9.9")).ports(6, Some(1000), Some(80)) }
}

fn with(conditions: Conditions) -> Rule {
    Rule { conditions, ..Rule::default() }
}

#[test]
fn each_selector_takes_some_and_leaves_others() {
    let yes = to().from(ip("10.1.2.3")).mark(0x15);
    let other =
        Question { uid: Some(5), protocol: Some(17), tos: Some(0), ..to() }.from(ip("10.2.2.3")).mark(0x25);
    let other =
        Question { source_port: Some(9), destination_port: Some(9), destination: ip("11.1.1.1"), ..other };
    let yes = Question { tos: Some(0x10), input: Some(2), ..yes };
    let other = Question { input: None, ..other };
    let ports = |first, last| Some(Ports { first, last, mask: 0 });
    for rule in [
        Rule { source: Some("10.1.0.0/16".parse().unwrap()), ..Rule::default() },
        Rule { destination: Some("10.9.0.0/16".parse().unwrap()), ..Rule::default() },
        Rule { mark: 0x10, mask: 0xf0, ..Rule::default() },
        Rule { input: Some("eth0".to_owned()), ..Rule::default() },
        with(Conditions { users: Some((0, 0)), ..Conditions::default() }),
        with(Conditions { ip_proto: Some(6), ..Conditions::default() }),
        with(Conditions { source_ports: ports(900, 1100), ..Conditions::default() }),
        with(Conditions { destination_ports: ports(80, 80), ..Conditions::default() }),
        with(Conditions {
            destination_ports: Some(Ports { first: 64, last: 64, mask: 64 }),
            ..Conditions::default()
        }),
        with(Conditions { tos: 0x10, ..Conditions::default() }),
        with(Conditions { dscp: Some((4, 0x3f)), ..Conditions::default() }),
    ] {
        let node = Node::new(rule.clone());
        assert_eq!(node.applies(&yes), Some(true), "{}", rule.selector());
        assert_eq!(node.applies(&other), Some(false), "{}", rule.selector());
        let inverted = Node::new(Rule { inverted: true, ..rule.clone() });
        assert_eq!(inverted.applies(&yes), Some(false), "not {}", rule.selector());
        assert_eq!(inverted.applies(&other), Some(true), "not {}", rule.selector());
    }
    let bound = Node::new(Rule { output: Some("eth1".to_owned()), ..Rule::default() });
    assert_eq!(bound.applies(&Question { output: Some(3), ..to() }), Some(true));
    assert_eq!(bound.applies(&to()), Some(false));
}

#[test]
fn a_rule_that_nearly_matched_says_what_it_lacked() {
    let node = Node::new(Rule { mark: 1, mask: u32::MAX, ..Rule::default() });
    let fib = node.fib();
    let answer = fib.lookup(&to());
    let [passed] = answer.certain().unwrap().passed.as_slice() else { panic!("{answer:?}") };
    match passed.why {
        Why::Selectors(failed) => assert_eq!(failed.single(), Some(Selector::Mark)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_not_known_gives_both_outcomes() {
    let unknown = Conditions { unknown: vec![99], ..Conditions::default() };
    for rule in [
        with(Conditions { users: Some((0, 0)), ..Conditions::default() }),
        with(unknown),
        // A recording of a program that had the words only.
        Rule { more: "ipproto 6".to_owned(), ..Rule::default() },
    ] {
        let node = Node::new(rule);
        let fib = node.fib();
        let answer = fib.lookup(&Question { uid: None, ..to() });
        assert_eq!(answer.outcomes.len(), 2);
        assert!(answer.certain().is_none() && answer.outcomes.iter().all(|o| o.assumes.len() == 1));
    }
}

#[test]
fn the_vrf_of_a_port_has_its_own_table() {
    let mut node = Node::new(with(Conditions { l3mdev: true, ..Conditions::default() }));
    node.rules[0].table = 0;
    let vrf = Link { kind: Some("vrf".to_owned()), vrf_table: Some(7), ..link(4, "red") };
    node.links.push(vrf);
    node.links[2].master = Some(4);
    assert_eq!(node.applies(&Question { output: Some(3), ..to() }), Some(true));
    assert_eq!(node.applies(&Question { input: Some(3), ..to() }), Some(true));
    assert_eq!(node.applies(&Question { input: Some(2), ..to() }), Some(false));
}

#[test]
fn an_exception_changes_the_next_hop_and_the_mtu() {
    let mut node = Node::new(Rule { mark: 1, mask: 1, ..Rule::default() });
    let learned = NextHop { ifindex: 2, gateway: Some(ip("10.0.0.77")), ..NextHop::default() };
    let exception = Route { mtu: 1280, cached: true, next_hops: vec![learned], ..route(254, "10.9.9.9", 2) };
    node.exceptions.push(exception);
    let fib = node.fib();
    let answer = fib.lookup(&to());
    let hop = answer.routed().unwrap().hops[0];
    assert_eq!((hop.gateway, hop.mtu, hop.exception.is_some()), (Some(ip("10.0.0.77")), 1280, true));
}

#[test]
fn a_group_of_next_hops_is_all_of_them_and_one_that_was_not_read_is_unknown() {
    let mut node = Node::new(Rule { mark: 1, mask: 1, ..Rule::default() });
    let single =
        |id, ifindex| Nexthop { id, hop: NextHop { ifindex, ..NextHop::default() }, ..Nexthop::default() };
    node.nexthops = vec![
        single(1, 2),
        single(2, 3),
        Nexthop { id: 9, group: vec![(1, 0), (2, 2)], ..Nexthop::default() },
    ];
    node.routes[0] = Route { nexthop_id: Some(9), next_hops: Vec::new(), ..node.routes[0].clone() };
    let weights: Vec<_> =
        node.fib().lookup(&to()).routed().unwrap().hops.iter().map(|hop| (hop.ifindex, hop.weight)).collect();
    assert_eq!(weights, [(2, 1), (3, 3)]);
    node.routes[0].nexthop_id = Some(10);
    assert!(node.fib().lookup(&to()).unknown().unwrap().contains("next hop object 10"));
}

#[test]
fn addresses_that_are_not_usable_are_no_sources() {
    let mut node = Node::new(Rule { ipv6: true, mark: 1, mask: 1, ..Rule::default() });
    let own = |address, flags| Address {
        ifindex: 2,
        address: ip(address),
        prefix_len: 64,
        flags,
        ..Address::default()
    };
    node.addresses = vec![
        own("fd00::1", libc::IFA_F_TENTATIVE),
        own("fd00::2", libc::IFA_F_TENTATIVE | libc::IFA_F_DADFAILED),
        own("fd00::3", libc::IFA_F_DEPRECATED),
        own("fd00::4", 0),
    ];
    let source = |node: &Node| {
        let fib = node.fib();
        fib.lookup(&Question { uid: Some(0), ..Question::to(ip("fd99::1")) }).routed().unwrap().hops[0].source
    };
    assert_eq!(source(&node), Some(ip("fd00::4")));
    node.addresses.pop();
    assert_eq!(source(&node), Some(ip("fd00::3")));
}

#[test]
fn a_source_whose_way_back_is_another_device_is_refused_by_a_strict_filter_only() {
    let mut node = Node::new(Rule { destination: Some("10.5.0.0/16".parse().unwrap()), ..Rule::default() });
    node.addresses = vec![Address { ifindex: 2, address: ip("10.0.0.1"), ..Address::default() }];
    let asked = Question { protocol: Some(6), ..Question::to(ip("10.9.9.9")).from(ip("10.5.1.1")) };
    for (filter, martian) in [("0", false), ("1", true), ("2", false)] {
        node.sysctls.insert("net/ipv4/conf/eth0/rp_filter".to_owned(), filter.to_owned());
        let fib = node.fib();
        let [verdict] = &fib.validate_source(&asked, 2)[..] else { panic!("one verdict") };
        let is = matches!(verdict.verdict, Validity::Martian(Martian::OtherDevice { .. }));
        assert_eq!(is, martian, "rp_filter {filter}");
        let strict = fib.reverse_path(&asked, 2, ReversePath::default());
        let loose = fib.reverse_path(&asked, 2, ReversePath { loose: true, ..ReversePath::default() });
        assert_eq!((strict, loose), (Some(false), Some(true)));
    }
}

#[test]
fn a_lookup_among_many_routes_looks_at_few() {
    let mut node = Node::new(Rule { mark: 1, mask: 1, ..Rule::default() });
    node.routes.extend((0..10_000u32).map(|n| {
        let net = std::net::Ipv4Addr::from_bits(0x0b00_0000 | n << 8);
        route(254, &format!("{net}/24"), 3)
    }));
    node.rules.extend((0..200).map(|n| Rule {
        priority: 100 + n,
        action: 1,
        table: 7,
        mark: n + 2,
        mask: u32::MAX,
        ..Rule::default()
    }));
    let started = std::time::Instant::now();
    let fib = node.fib();
    let built = started.elapsed();
    let started = std::time::Instant::now();
    let rounds = 10_000u32;
    for n in 0..rounds {
        let asked =
            Question { destination: std::net::Ipv4Addr::from_bits(0x0b00_0001 | n << 8).into(), ..to() };
        assert_eq!(fib.lookup(&asked).routed().map(|routed| routed.hops[0].ifindex), Some(3));
    }
    println!("built in {built:?}, {:?} a lookup", started.elapsed() / rounds);
}

proptest! {
    #[test]
    fn any_routes_and_rules_never_panic(
        routes in proptest::collection::vec((any::<u8>(), any::<u32>(), 0u8..=32, 0u32..4, any::<u8>(), 0u32..4), 0..12),
        rules in proptest::collection::vec((0u32..5, any::<u8>(), 0u32..4, any::<bool>(), any::<u32>()), 0..12),
        destination: u32, source: u32, input in 0u32..5, device in 0u32..5,
    ) {
        let mut node = Node::new(Rule::default());
        node.routes.extend(routes.into_iter().map(|(kind, to, length, table, tos, ifindex)| Route {
            kind,
            tos,
            destination: crate::node::IpPrefix::new(std::net::Ipv4Addr::from_bits(to).into(), length).unwrap(),
            ..route(table, "0.0.0.0/0", ifindex)
        }));
        node.rules.extend(rules.into_iter().map(|(priority, action, table, inverted, mark)| Rule {
            priority, action, table, inverted, mark, mask: mark, goto: Some(table), ..Rule::default()
        }));
        let fib = node.fib();
        let mut asked = Question::to(std::net::Ipv4Addr::from_bits(destination).into());
        asked = asked.from(std::net::Ipv4Addr::from_bits(source).into());
        asked.output = (device != 0).then_some(device);
        prop_assert!(!fib.lookup(&asked).outcomes.is_empty());
        prop_assert!(!fib.lookup(&asked.clone().input(input)).outcomes.is_empty());
        let _ = fib.validate_source(&asked, input);
        let _ = fib.reverse_path(&asked, input, ReversePath::default());
        let _ = fib.address_type(asked.destination, Some(device));
    }
}
