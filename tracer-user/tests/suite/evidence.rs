// SPDX-License-Identifier: MIT OR Apache-2.0
//! Evidence read from real namespaces. Needs root; skips without.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tracer_user::firewall::{
    Backend, CtDirection, CtState, MemberField, NatKind, PacketView, Side, Truth, Verdict, attribute_drop,
    attribute_nat, in_set, near_misses, walk,
};
use tracer_user::node::{Family, Hook, Interval, Netns};
use tracer_user::snapshot::{Evidence, NetnsEvidence};

/// A namespace that is deleted with the guard.
struct Node(String);

impl Node {
    /// `None`, with the reason printed, when this cannot be done here.
    fn new(test: &str) -> Option<Self> {
        // SAFETY: no arguments, no memory.
        if unsafe { libc::geteuid() } != 0 {
            println!("SKIP {test} needs root");
            return None;
        }
        let node = Self(format!("egwt-evid-{}-{test}", std::process::id()));
        let status = Command::new("ip").args(["netns", "add", &node.0]).status().unwrap();
        assert!(status.success());
        Some(node)
    }

    fn run(&self, command: &str) {
        self.feed(command, "");
    }

    fn feed(&self, command: &str, input: &str) {
        let mut child = Command::new("nsenter")
            .args([&format!("--net=/run/netns/{}", self.0), "sh", "-c", command])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{command}");
    }

    fn has(tool: &str) -> bool {
        Command::new("sh").args(["-c", &format!("command -v {tool}")]).output().unwrap().status.success()
    }

    fn evidence(&self) -> NetnsEvidence {
        let netns = Netns::open(&Path::new("/run/netns").join(&self.0), "node").unwrap();
        let mut evidence = Evidence::collect(std::slice::from_ref(&netns));
        std::sync::Arc::unwrap_or_clone(evidence.netns.remove(&netns.id()).unwrap())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn all_of(hook: Hook) -> Interval {
    Interval { netns: 1, family: Family::Ipv4, hook, after: i32::MIN, until: i32::MAX, learned: false }
}

fn packet(dst: &str, port: u16) -> PacketView {
    PacketView::new(6, ip("10.200.0.22"), ip(dst))
        .ports(41234, port)
        .mark(0)
        .conntrack(CtState::New, CtDirection::Original)
        .devices("cni0", "eth0")
}

#[test]
fn an_empty_namespace_has_nothing_and_lacks_nothing() {
    let Some(node) = Node::new("empty") else { return };
    let evidence = node.evidence();
    assert_eq!(evidence.unreadable, Vec::<String>::new());
    assert!(evidence.rulesets.is_empty() && evidence.sets.is_empty());
    assert_eq!(evidence.sysctl("net/ipv4/ip_forward"), Some(0));
    assert_eq!(evidence.counter("TcpExt.ListenOverflows"), Some(0));
    assert!(evidence.link("lo").is_some() && !evidence.rules.is_empty());
}

#[test]
fn both_back_ends_sets_and_sysctls() {
    let Some(node) = Node::new("both") else { return };
    if !["iptables-nft", "iptables-legacy", "ipset"].iter().all(|tool| Node::has(tool)) {
        println!("SKIP both_back_ends_sets_and_sysctls: not all of iptables and ipset are installed");
        return;
    }
    for command in [
        "ip link set lo up",
        "ip link add br0 type bridge",
        "ip addr add 10.200.0.1/24 dev br0",
        "ip link set br0 up",
        "echo 1 > /proc/sys/net/ipv4/ip_forward",
        "echo 1 > /proc/sys/net/ipv4/conf/br0/rp_filter",
        "ipset create pods hash:net",
        "ipset add pods 10.200.0.0/24",
        "ipset add pods 10.200.0.22 nomatch",
        "ipset create wide hash:ip netmask 16",
        "ipset add wide 10.201.7.7",
        "ipset create ports hash:ip,port",
        "ipset add ports 10.96.0.1,udp:53",
        "iptables-nft -t mangle -A PREROUTING -m set --match-set pods src -j MARK --set-mark 7",
        "iptables-legacy -A FORWARD -p tcp --dport 80 -m comment --comment 'no web' -j DROP",
        "ip6tables-nft -A FORWARD -s fd00::/8 -j REJECT",
        "ip rule add fwmark 0x7 lookup 99 priority 50",
    ] {
        node.run(command);
    }
    let evidence = node.evidence();
    assert_eq!(evidence.unreadable, Vec::<String>::new());
    assert_eq!(evidence.sysctl("net/ipv4/ip_forward"), Some(1));
    assert_eq!(evidence.sysctl("net/ipv4/conf/br0/rp_filter"), Some(1));
    assert!(evidence.rules.iter().any(|rule| rule.mark == 7 && rule.table == 99));
    assert_eq!(evidence.sets["pods"].members.len(), 2);
    let wide = PacketView::new(6, ip("10.201.9.9"), ip("1.1.1.1"));
    assert_eq!(in_set(&evidence, "wide", &[Side::Source], &wide), Truth::Yes);
    let port = &evidence.sets["ports"].members[0].fields[1];
    assert!(matches!(port, MemberField::Port { proto: 17, .. }), "{port:?}");
    let backends: Vec<_> = evidence.rulesets.iter().map(|table| table.backend).collect();
    assert!(backends.contains(&Backend::IptablesLegacy) && backends.contains(&Backend::IptablesNft));

    let dropped = attribute_drop(&evidence, &all_of(Hook::Forward), &packet("1.1.1.1", 80));
    assert_eq!(dropped.rules[0].to_string(), "filter FORWARD rule 1 \"no web\"");
    assert!(dropped.certain);
    // The pod is the set's exception.
    let near = near_misses(&evidence, Hook::Prerouting, "mangle", &packet("1.1.1.1", 80));
    assert_eq!(near.len(), 1);
    let local = walk(&evidence, "mangle", Hook::Prerouting, &packet("1.1.1.1", 80));
    assert_eq!((local.verdict, local.mark), (Some(Verdict::Accept), Some(0)));
}

/// What kube-proxy writes for this many services of three endpoints each.
fn kube_proxy(services: u32) -> String {
    let mut text = String::from(
        "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n-A PREROUTING -j KUBE-SERVICES\n\
         -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n",
    );
    for service in 0..services {
        let (high, low) = (service / 250, service % 250 + 1);
        let address = format!("10.96.{high}.{low}");
        let comment = format!("-m comment --comment \"default/svc-{service} cluster IP\"");
        let _ = write!(
            text,
            ":KUBE-SVC-{service:016} - [0:0]\n\
             -A KUBE-SERVICES -d {address}/32 -p tcp {comment} -m tcp --dport 80 -j KUBE-SVC-{service:016}\n\
             -A KUBE-SVC-{service:016} ! -s 10.200.0.0/16 -d {address}/32 -p tcp {comment} -m tcp --dport 80 -j KUBE-MARK-MASQ\n"
        );
        for endpoint in 0..3 {
            let target = format!("10.200.{high}.{low}");
            let sep = format!("KUBE-SEP-{service:015}{endpoint}");
            let chance = [
                "-m statistic --mode random --probability 0.33333333349 ",
                "-m statistic --mode random --probability 0.5 ",
                "",
            ];
            let _ = write!(
                text,
                ":{sep} - [0:0]\n-A KUBE-SVC-{service:016} {comment} {}-j {sep}\n\
                 -A {sep} -s {target}/32 {comment} -j KUBE-MARK-MASQ\n\
                 -A {sep} -p tcp {comment} -m tcp -j DNAT --to-destination {target}:80{endpoint}\n",
                chance[endpoint]
            );
        }
    }
    text.push_str("COMMIT\n");
    text
}

/// `cargo test --release --test evidence -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn ten_thousand_rules_are_read_in_time() {
    for backend in ["nft", "legacy"] {
        let Some(node) = Node::new(&format!("big-{backend}")) else { return };
        node.feed(&format!("iptables-{backend}-restore --noflush"), &kube_proxy(909));
        let mut times: Vec<Duration> = Vec::new();
        let mut evidence = NetnsEvidence::default();
        for _ in 0..5 {
            let start = Instant::now();
            evidence = node.evidence();
            times.push(start.elapsed());
        }
        times.sort();
        let netns = Netns::open(&Path::new("/run/netns").join(&node.0), "node").unwrap();
        let first = Evidence::collect(std::slice::from_ref(&netns));
        let start = Instant::now();
        let second = Evidence::collect_again(std::slice::from_ref(&netns), Some(&first));
        println!("{backend}: read again, nothing having changed, in {:?}", start.elapsed());
        assert_eq!(second.of(netns.id()).unwrap().rulesets.len(), evidence.rulesets.len());
        let rules: usize =
            evidence.rulesets.iter().flat_map(|t| &t.chains).map(|chain| chain.rules.len()).sum();
        let start = Instant::now();
        let to = Some((ip("10.200.3.100"), 801));
        let packet = packet("10.96.3.100", 80);
        let found = attribute_nat(&evidence, &all_of(Hook::Prerouting), &packet, NatKind::Dnat, to);
        let walked = start.elapsed();
        let start = Instant::now();
        let near = near_misses(&evidence, Hook::Prerouting, "nat", &packet).len();
        println!(
            "{backend}: {rules} rules read in {:?} (median of 5, worst {:?}), attributed in {walked:?}, {near} near misses in {:?}",
            times[2],
            times[4],
            start.elapsed()
        );
        assert_eq!(evidence.unreadable, Vec::<String>::new());
        assert_eq!(found.rules.len(), 1, "{found:#?}");
        assert!(found.rules[0].text.contains("10.200.3.100:801"));
    }
}

#[test]
fn what_has_not_changed_is_not_read_again() {
    let Some(node) = Node::new("again") else { return };
    if !["iptables-nft", "nft"].iter().all(|tool| Node::has(tool)) {
        println!("SKIP what_has_not_changed_is_not_read_again: iptables or nft is not installed");
        return;
    }
    node.run("iptables-nft -A FORWARD -d 1.1.1.1 -j DROP");
    let netns = Netns::open(&Path::new("/run/netns").join(&node.0), "node").unwrap();
    let read = |before: Option<&Evidence>| Evidence::collect_again(std::slice::from_ref(&netns), before);
    let rules = |evidence: &Evidence| {
        let tables = &evidence.of(netns.id()).unwrap().rulesets;
        tables.iter().flat_map(|t| &t.chains).map(|c| c.rules.len()).sum::<usize>()
    };
    let first = read(None);
    assert!(first.of(netns.id()).unwrap().nft_generation.is_some());
    let mut edited = first.clone();
    let taken = std::sync::Arc::make_mut(edited.netns.get_mut(&netns.id()).unwrap());
    taken.rulesets = std::sync::Arc::default();
    assert_eq!((rules(&first), rules(&read(Some(&edited)))), (1, 0), "taken over");
    node.run("iptables-nft -A FORWARD -d 1.1.1.2 -j DROP");
    assert_eq!(rules(&read(Some(&edited))), 2, "read again");
}

#[test]
fn native_tables_beside_those_of_iptables() {
    let Some(node) = Node::new("native") else { return };
    if !["iptables-nft", "nft"].iter().all(|tool| Node::has(tool)) {
        println!("SKIP native_tables_beside_those_of_iptables: iptables or nft is not installed");
        return;
    }
    node.run("iptables-nft -A FORWARD -d 1.1.1.1 -j DROP");
    let rules = "table inet a { set bad { type ipv4_addr; flags interval; elements = { 9.0.0.0/8 }; }; chain f { type filter hook forward priority 5; ip daddr @bad drop comment \"bad\"; }; }\n\
                 table ip b { chain f { type filter hook forward priority 6; policy drop; }; }\n";
    node.feed("nft -f -", rules);
    let evidence = node.evidence();
    assert_eq!(evidence.unreadable, Vec::<String>::new());
    let dropped = |dst| {
        let found = attribute_drop(&evidence, &all_of(Hook::Forward), &packet(dst, 80));
        assert!(found.certain, "{found:#?}");
        found.rules[0].to_string()
    };
    assert_eq!(dropped("1.1.1.1"), "filter FORWARD rule 1");
    assert!(dropped("9.9.9.9").starts_with("inet a f handle ") && dropped("9.9.9.9").ends_with(" \"bad\""));
    assert_eq!(dropped("8.8.8.8"), "ip b f policy");
}
