// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rules as the kernel keeps them against what the tools print of them: many rules, made by iptables and nft in a
//! namespace, are read both ways and must say the same. Needs root and the tools; skips without.
#![expect(clippy::unwrap_used, reason = "a test")]

use crate::listings;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use listings::nft;
use tracer_user::firewall::{Backend, Criterion, Match, NatTo, Rule, Table, TableFamily, Target, iptables};
use tracer_user::node::Netns;
use tracer_user::snapshot::{Evidence, NetnsEvidence};

/// A namespace that is deleted with the guard.
struct Node(String);

impl Node {
    /// `None`, with the reason printed, when this cannot be done here.
    fn new(test: &str) -> Option<Self> {
        // SAFETY: no arguments, no memory.
        let root = unsafe { libc::geteuid() } == 0;
        let has = |tool: &str| {
            let found = Command::new("sh").args(["-c", &format!("command -v {tool}")]).output();
            found.is_ok_and(|found| found.status.success())
        };
        if !root || !["iptables-nft", "ip6tables-nft", "nft", "ipset"].into_iter().all(has) {
            println!("SKIP {test} needs root, iptables-nft, nft and ipset");
            return None;
        }
        let node = Self(format!("egwt-code-{}-{test}", std::process::id()));
        assert!(Command::new("ip").args(["netns", "add", &node.0]).status().unwrap().success());
        Some(node)
    }

    /// Its output; `None` when it fails: not every tool and kernel has every extension.
    fn run(&self, command: &str, input: &str) -> Option<String> {
        let mut child = Command::new("nsenter")
            .args([&format!("--net=/run/netns/{}", self.0), "sh", "-c", command])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        let out = child.wait_with_output().unwrap();
        if !out.status.success() {
            println!("not here: {command} {input}: {}", String::from_utf8_lossy(&out.stderr).trim());
        }
        out.status.success().then(|| String::from_utf8_lossy(&out.stdout).into_owned())
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

/// What both must agree on: conditions in any order, actions, comments.
fn meaning(rule: &Rule) -> (Vec<String>, Vec<Target>, Vec<String>) {
    let mut matches: Vec<_> = rule.matches.iter().cloned().map(plain).map(|m| format!("{m:?}")).collect();
    matches.sort();
    matches.dedup();
    let actions = rule.actions.iter().cloned().map(plain_action).collect();
    let mut comments = rule.comments.clone();
    comments.sort();
    (matches, actions, comments)
}

/// One way of writing where there are several.
fn plain(m: Match) -> Match {
    let what = match m.what {
        // What is by chance is told in words.
        Criterion::Statistic(_) => Criterion::Statistic("by chance".into()),
        Criterion::Icmp { kind, codes: None } => Criterion::IcmpTypes(vec![(kind, kind)]),
        Criterion::Input(names) => Criterion::Input(plain_names(names)),
        Criterion::Output(names) => Criterion::Output(plain_names(names)),
        Criterion::IcmpTypes(mut kinds) => {
            kinds.sort_unstable();
            Criterion::IcmpTypes(kinds)
        }
        Criterion::CtState(mut states) => {
            states.sort_by_key(|state| format!("{state:?}"));
            Criterion::CtState(states)
        }
        Criterion::SourcePort(mut all) => {
            all.sort_by_key(|range| range.first);
            Criterion::SourcePort(all)
        }
        Criterion::DestinationPort(mut all) => {
            all.sort_by_key(|range| range.first);
            Criterion::DestinationPort(all)
        }
        Criterion::Source(mut all) => {
            all.sort_by_key(|range| range.first);
            Criterion::Source(all)
        }
        Criterion::Protocol(mut all) => {
            all.sort_unstable();
            Criterion::Protocol(all)
        }
        Criterion::AddressType { side, types, limit_iface } => {
            let types = types.into_iter().map(|t| t.to_uppercase()).collect();
            Criterion::AddressType { side, types, limit_iface }
        }
        other => other,
    };
    Match { what, ..m }
}

fn plain_names(names: Vec<String>) -> Vec<String> {
    let mut names: Vec<_> = names.into_iter().map(|name| name.replace('+', "*")).collect();
    names.sort();
    names
}

fn plain_action(target: Target) -> Target {
    match target {
        Target::Log(_) => Target::Log(String::new()),
        Target::Queue(_) => Target::Queue(String::new()),
        Target::Tproxy(_) => Target::Tproxy(String::new()),
        Target::Ct(_) => Target::Ct(String::new()),
        Target::Reject { .. } => Target::Reject { with: String::new() },
        // iptables gives a port only where one is meant.
        Target::Dnat(NatTo { addresses, ports, .. }) => {
            Target::Dnat(NatTo { addresses, ports, ..NatTo::default() })
        }
        other => other,
    }
}

const MATCHES_V4: [&str; 64] = [
    "-p tcp --syn -m tcpmss --mss 100:1400",
    "-m physdev --physdev-is-bridged",
    "-s 10.1.2.3",
    "! -s 10.0.0.0/8",
    "-d 10.96.0.0/12",
    "-d 10.96.0.0/13 ! -s 192.168.7.0/24",
    "-i eth0",
    "-i cali+",
    "! -o veth+",
    "-o flannel.1",
    "-p tcp",
    "! -p udp",
    "-p icmp --icmp-type echo-request",
    "-p icmp --icmp-type 3/4",
    "-p icmp ! --icmp-type 8",
    "-p tcp --dport 80",
    "-p tcp ! --dport 80",
    "-p udp --sport 53",
    "-p udp --sport 1000:2000",
    "-p tcp --dport 30000:32767 --sport 1024:",
    "-p tcp --syn",
    "-p tcp ! --syn",
    "-p tcp --tcp-flags SYN,RST SYN",
    "-p tcp --tcp-flags ALL NONE",
    "-p tcp -m multiport --dports 80,443,8000:8010",
    "-p udp -m multiport ! --sports 53,123",
    "-p tcp -m multiport --ports 22",
    "-m mark --mark 0x4000/0x4000",
    "-m mark ! --mark 0x26b7b4e4",
    "-m connmark --mark 0x1/0x3",
    "-m connmark ! --mark 7",
    "-m conntrack --ctstate NEW",
    "-m conntrack --ctstate RELATED,ESTABLISHED",
    "-m conntrack ! --ctstate INVALID",
    "-m conntrack --ctstate DNAT",
    "-m conntrack --ctstate SNAT,UNTRACKED",
    "-m conntrack --ctdir ORIGINAL",
    "-m conntrack --ctdir REPLY --ctstate ESTABLISHED",
    "-m state --state NEW,UNTRACKED",
    "-m comment --comment plain",
    "-m comment --comment 'default/web:http cluster IP' -m comment --comment second",
    "-m addrtype --dst-type LOCAL",
    "-m addrtype ! --dst-type LOCAL",
    "-m addrtype --src-type LOCAL --limit-iface-out",
    "-m addrtype ! --src-type UNICAST,BROADCAST",
    "-m set --match-set pods src",
    "-m set ! --match-set pods dst",
    "-m set --match-set ports dst,dst",
    "-m set --match-set three src,dst,dst",
    "-m mac --mac-source 66:c5:d6:cc:29:54",
    "-m mac ! --mac-source 66:c5:d6:cc:29:54",
    "-m statistic --mode random --probability 0.5",
    "-m statistic --mode nth --every 3 --packet 0",
    "-m limit --limit 3/min",
    "-m hashlimit --hashlimit-above 3/sec --hashlimit-name h --hashlimit-mode srcip",
    "-m iprange --src-range 10.0.0.5-10.0.0.9",
    "-m iprange ! --dst-range 10.0.0.5-10.0.0.9",
    "-m physdev --physdev-in veth+",
    "-m physdev ! --physdev-in vethab",
    "-m recent --set --name r",
    "-m recent --rcheck --seconds 10800 --reap --name r",
    "-m ttl --ttl-gt 3",
    "-m length --length 100:200",
    "-f",
];

const MATCHES_V6: [&str; 10] = [
    "-s fd00::1",
    "! -d fd00:10:96::/112",
    "-d fe80::/10",
    "-p icmpv6 --icmpv6-type echo-request",
    "-p icmpv6 ! --icmpv6-type 2",
    "-p tcp --dport 443",
    "-m iprange --dst-range fd00::1-fd00::9",
    "-m set --match-set six src",
    "-m addrtype --dst-type LOCAL",
    "-m conntrack --ctstate NEW -m mark --mark 1",
];

/// Table, chain, target.
const TARGETS: [(&str, &str, &str); 32] = [
    ("raw", "PREROUTING", "-m rpfilter --loose --validmark --invert -j DROP"),
    ("mangle", "PREROUTING", "-p tcp -m socket --transparent -j ACCEPT"),
    ("filter", "FORWARD", "-j ACCEPT"),
    ("filter", "FORWARD", "-j DROP"),
    ("filter", "FORWARD", "-j RETURN"),
    ("filter", "FORWARD", "-j OWN"),
    ("filter", "FORWARD", "-g OWN"),
    ("filter", "FORWARD", ""),
    ("filter", "FORWARD", "-j REJECT"),
    ("filter", "FORWARD", "-p tcp -j REJECT --reject-with tcp-reset"),
    ("filter", "FORWARD", "-j LOG --log-prefix 'dropped: '"),
    ("filter", "FORWARD", "-j NFLOG --nflog-group 3"),
    ("filter", "FORWARD", "-j NFQUEUE --queue-num 3"),
    ("mangle", "PREROUTING", "-j MARK --set-mark 0x3/0x1"),
    ("mangle", "PREROUTING", "-j MARK --set-xmark 0x26b7b4e4/0xffffffff"),
    ("mangle", "PREROUTING", "-j MARK --and-mark 0xff"),
    ("mangle", "PREROUTING", "-j CONNMARK --save-mark --nfmask 0xff --ctmask 0xf0"),
    ("mangle", "PREROUTING", "-j CONNMARK --restore-mark"),
    ("mangle", "PREROUTING", "-j CONNMARK --set-mark 0x7/0xf"),
    ("mangle", "FORWARD", "-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu"),
    ("mangle", "FORWARD", "-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1400"),
    ("mangle", "PREROUTING", "-p tcp -j TPROXY --on-port 15001 --tproxy-mark 0x1/0x1"),
    ("mangle", "FORWARD", "-j CLASSIFY --set-class 1:1"),
    ("mangle", "FORWARD", "-j TOS --set-tos 0x10"),
    ("raw", "PREROUTING", "-j NOTRACK"),
    ("raw", "PREROUTING", "-j CT --zone 5"),
    ("nat", "PREROUTING", "-p tcp -j DNAT --to-destination ADDRESS"),
    ("nat", "PREROUTING", "-p tcp -j DNAT --to-destination PORTED:8080-8090"),
    ("nat", "PREROUTING", "-p tcp -j REDIRECT --to-ports 15001"),
    ("nat", "POSTROUTING", "-j SNAT --to-source ADDRESS"),
    ("nat", "POSTROUTING", "-p tcp -j MASQUERADE --to-ports 1024-65535"),
    ("nat", "POSTROUTING", "-j MASQUERADE --random-fully"),
];

#[test]
fn rules_of_iptables_are_read_as_its_own_tool_prints_them() {
    let Some(node) = Node::new("xt") else { return };
    for set in ["pods hash:net", "ports hash:ip,port", "three hash:ip,port,ip", "six hash:net family inet6"] {
        node.run(&format!("ipset create {set}"), "").unwrap();
    }
    for (tool, matches, family) in [
        ("iptables-nft", &MATCHES_V4[..], TableFamily::Ip),
        ("ip6tables-nft", &MATCHES_V6[..], TableFamily::Ip6),
    ] {
        node.run(&format!("{tool} -N OWN"), "").unwrap();
        let mut made = 0;
        for conditions in matches {
            made += usize::from(node.run(&format!("{tool} -A FORWARD {conditions} -j OWN"), "").is_some());
        }
        let six = family == TableFamily::Ip6;
        for (table, chain, target) in TARGETS {
            let target = if six {
                target.replace("ADDRESS", "fd00::7").replace("PORTED", "[fd00::7]")
            } else {
                target.replace("ADDRESS", "10.0.0.7").replace("PORTED", "10.0.0.7")
            };
            let command = format!("{tool} -t {table} -A {chain} -m mark --mark 9 {target}");
            made += usize::from(node.run(&command, "").is_some());
        }
        assert!(made * 10 >= (matches.len() + TARGETS.len()) * 8, "only {made} rules could be made");
        let printed = node.run(&format!("{tool}-save -c"), "").unwrap();
        let theirs = iptables::parse(&printed, family, Backend::IptablesNft).tables;
        let ours = native(&node, family);
        compare(&theirs, &ours, Backend::IptablesNft);
        // What we print of a rule is what it is.
        for (table, chain, rule) in all(&ours) {
            let chains: String =
                table.chains.iter().map(|chain| format!(":{} - [0:0]\n", chain.name)).collect();
            let text = format!("*{}\n{chains}{}\nCOMMIT\n", table.name, rule.text);
            let again = iptables::parse(&text, family, Backend::IptablesNft);
            let again = &again.tables[0].chain(chain).unwrap().rules[0];
            assert_eq!(meaning(again), meaning(rule), "{}", rule.text);
        }
    }
}

fn all(tables: &[Table]) -> impl Iterator<Item = (&Table, &str, &Rule)> {
    tables
        .iter()
        .flat_map(|t| t.chains.iter().map(move |c| (t, c)))
        .flat_map(|(t, c)| c.rules.iter().map(move |r| (t, c.name.as_str(), r)))
}

/// As the kernel's dump is understood: without the tools' help for what only they know.
fn native(node: &Node, family: TableFamily) -> Vec<Table> {
    let netns = Netns::open(&Path::new("/run/netns").join(&node.0), "node").unwrap();
    let read = tracer_user::snapshot::read_nftables(&netns).unwrap();
    read.tables.into_iter().filter(|table| table.family == family).collect()
}

/// Extensions of which only the name is known to the kernel's reader are compared by name.
fn compare(theirs: &[Table], ours: &[Table], backend: Backend) {
    let (mut count, mut wrong) = (0, String::new());
    for (table, chain, rule) in all(theirs) {
        let our_table = ours.iter().find(|t| t.name == table.name && t.family == table.family);
        let our_table = our_table.unwrap_or_else(|| panic!("{} is missing", table.name));
        assert_eq!(our_table.backend, backend);
        // What a map becomes has one number.
        let numbered = our_table.chain(chain).unwrap().rules.iter().filter(|r| r.number == rule.number);
        let by_name = |text: &String| {
            let name =
                text.split_once("Other(\"").map(|(_, rest)| rest.split(' ').take(2).collect::<Vec<_>>());
            name.map_or_else(
                || text.clone(),
                |name| name.join(" ").trim_end_matches(['"', ')', '}', ' ']).to_owned(),
            )
        };
        let named = |rule: &Rule| {
            let mut meaning = meaning(rule);
            // ICMP is IPv4's.
            let icmp = meaning.0.iter().any(|m| m.contains("Icmp"));
            meaning.0.retain(|m| !(icmp && m.contains("Family(")));
            meaning.0 = meaning.0.iter().map(by_name).collect();
            meaning
        };
        let ours: Vec<_> = numbered.map(named).collect();
        if !ours.contains(&named(rule)) {
            let place = format!("{} {chain} {}", table.name, rule.number);
            let _ = writeln!(wrong, "{place}: {}\n  {:?}\n  ours: {ours:?}", rule.text, named(rule));
        }
        count += 1;
    }
    println!("{count} rules agree");
    assert!(count > 0 && wrong.is_empty(), "{wrong}");
}

const NATIVE: &str = "
table inet fw {
	set bad { type ipv4_addr; flags interval; elements = { 9.0.0.0/8, 11.1.1.1, 12.0.0.5-12.0.0.9 }; }
	set pairs { type ipv4_addr . inet_service; elements = { 10.0.0.1 . 80, 10.0.0.2 . 443 }; }
	set wide { type ipv4_addr . inet_proto . inet_service; flags interval; elements = { 10.0.0.0/24 . tcp . 80-90 }; }
	set names { type ifname; elements = { \"eth0\", \"cni0\" }; }
	set marks { type mark; elements = { 0x1, 0x26b7b4e4 }; }
	chain own { accept; }
	chain forward {
		type filter hook forward priority 5; policy drop;
		RULES
	}
}
";

const NFT_RULES: [&str; 56] = [
    "ip saddr 10.1.2.3 drop",
    "ip saddr != 10.0.0.0/8 drop comment \"not ours\"",
    "ip daddr 10.96.0.0/13 accept",
    "ip6 daddr fd00::/64 drop",
    "ip6 saddr fd00::1 ip6 daddr fd00::2 accept",
    "ip saddr 10.0.0.1 ip daddr 10.0.0.2 accept",
    "ip saddr { 10.0.0.1, 10.0.1.0/24 } drop",
    "ip saddr != { 10.0.0.1, 10.0.0.9 } drop",
    "ip saddr 10.0.0.5-10.0.0.9 drop",
    "ip daddr @bad drop",
    "ip daddr != @bad drop",
    "ip daddr . tcp dport @pairs drop",
    "ip daddr . meta l4proto . th dport @wide drop",
    "iifname @names accept",
    "meta mark @marks accept",
    "iifname \"eth0\" accept",
    "iifname \"veth*\" drop",
    "oifname != \"cni0\" drop",
    "iifname { \"eth0\", \"eth1\" } drop",
    "iif \"lo\" accept",
    "tcp dport 80 drop",
    "tcp dport { 80, 443 } drop",
    "tcp dport != { 80, 443 } drop",
    "tcp dport 1000-2000 drop",
    "udp sport 53 accept",
    "th dport 53 accept",
    "meta l4proto { tcp, udp } th dport 53 accept",
    "meta l4proto tcp accept",
    "ip protocol icmp accept",
    "icmp type echo-request accept",
    "icmp type { echo-request, echo-reply } accept",
    "icmpv6 type nd-neighbor-solicit accept",
    "ct state established,related accept",
    "ct state invalid drop",
    "ct state new drop",
    "ct direction reply accept",
    "meta mark 0x1 drop",
    "meta mark & 0x4000 == 0x4000 accept",
    "meta mark and 0xff != 0x7 accept",
    "ct mark 0x7 accept",
    "meta nfproto ipv6 drop",
    "meta mark set 0x26b7b4e4",
    "meta mark set meta mark or 0x4000",
    "meta mark set meta mark and 0xffff00ff xor 0x100",
    "meta mark set ct mark",
    "ct mark set meta mark",
    "ct mark set 0x5",
    "limit rate 3/second accept",
    "counter jump own",
    "goto own",
    "fib daddr type local accept",
    "ether saddr 66:c5:d6:cc:29:54 drop",
    "tcp dport 81 reject with tcp reset",
    "reject with icmpx type admin-prohibited",
    "log prefix \"seen \" drop",
    "tcp dport vmap { 22: accept, 23: drop, 24: jump own }",
];

#[test]
fn rules_of_nft_are_read_as_its_own_tool_prints_them() {
    let Some(node) = Node::new("nft") else { return };
    node.run("nft -f -", &NATIVE.replace("RULES", "")).unwrap();
    let mut made = 0;
    for rule in NFT_RULES {
        made += usize::from(node.run("nft -f -", &format!("add rule inet fw forward {rule}\n")).is_some());
    }
    assert!(made >= NFT_RULES.len() - 3, "only {made} rules could be made");
    let json = node.run("nft -j list ruleset", "").unwrap();
    let listed = nft::parse(&json);
    let ours = native(&node, TableFamily::Inet);
    compare(&listed.tables, &ours, Backend::Nft);
    let evidence = node.evidence();
    for (name, set) in &listed.sets {
        // Sets within a rule have no name of their own.
        if !name.contains('#') {
            let members = |set: &tracer_user::firewall::IpSet| {
                let mut all: Vec<_> = set.members.iter().map(|m| format!("{m:?}")).collect();
                all.sort();
                all
            };
            assert_eq!(members(&evidence.sets[name]), members(set), "{name}");
        }
    }
}

/// Numbers that look random and are the same each time.
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % below
    }

    fn of<'t>(&mut self, all: &[&'t str]) -> &'t str {
        all[self.next(all.len())]
    }

    fn address(&mut self, six: bool) -> String {
        let length = [8, 13, 16, 20, 24, 31, 32][self.next(7)];
        if six {
            return format!("fd00:{:x}::{:x}/{}", self.next(65535), self.next(65535), length * 4);
        }
        format!("10.{}.{}.{}/{length}", self.next(256), self.next(256), self.next(256))
    }

    fn ports(&mut self) -> String {
        let first = self.next(60000);
        if self.next(2) == 0 { first.to_string() } else { format!("{first}:{}", first + 1 + self.next(5000)) }
    }
}

/// Conditions of several kinds at once, as one would combine them.
fn random_rule(random: &mut Random, six: bool) -> String {
    const NOT: [&str; 3] = ["", "", "! "];
    let mut out = String::new();
    for side in ["-s", "-d"] {
        if random.next(3) == 0 {
            let _ = write!(out, " {}{side} {}", random.of(&NOT), random.address(six));
        }
    }
    for device in ["-i", "-o"] {
        if random.next(4) == 0 {
            let _ = write!(
                out,
                " {}{device} {}",
                random.of(&NOT),
                random.of(&["eth0", "cali+", "v", "flannel.1"])
            );
        }
    }
    match random.next(4) {
        0 => {
            let _ = write!(out, " -p {}", random.of(&["tcp", "udp"]));
            // Not both negated: iptables-nft 1.8.9 makes one comparison of the two, which says "not both of them", and
            // prints them as two.
            for (port, not) in [("--sport", ""), ("--dport", random.of(&NOT))] {
                if random.next(2) == 0 {
                    let _ = write!(out, " {not}{port} {}", random.ports());
                }
            }
        }
        1 => {
            let many = [random.ports(), random.ports(), random.ports()].join(",");
            let which = random.of(&["--sports", "--dports", "--ports"]);
            let _ = write!(out, " -p tcp -m multiport {}{which} {many}", random.of(&NOT));
        }
        2 if !six => {
            let _ = write!(out, " -p icmp --icmp-type {}", random.next(19));
        }
        _ => {}
    }
    for words in ["a", "default/web:http -> 10.0.0.1:80", "it's \\\"quoted\\\""] {
        if random.next(5) == 0 {
            let _ = write!(out, " -m comment --comment \"{words}\"");
        }
    }
    if random.next(3) == 0 {
        let (value, mask) = (random.next(1 << 31), random.next(1 << 31));
        let kind = random.of(&["mark", "connmark"]);
        let _ = write!(out, " -m {kind} {}--mark {:#x}/{mask:#x}", random.of(&NOT), value & mask);
    }
    if random.next(4) == 0 {
        let states = random.of(&["NEW", "ESTABLISHED,RELATED", "INVALID", "DNAT", "UNTRACKED,NEW"]);
        let _ = write!(out, " -m conntrack {}--ctstate {states}", random.of(&NOT));
    }
    if random.next(6) == 0 {
        let _ = write!(out, " -m statistic --mode random --probability 0.{}", 1 + random.next(9));
    }
    let mark = format!("-j MARK --set-xmark {:#x}/{:#x}", random.next(1 << 31), random.next(1 << 31));
    out + " " + random.of(&["-j ACCEPT", "-j DROP", "-j RETURN", "-j OWN", "-g OWN", "", mark.as_str()])
}

#[test]
fn random_rules_of_iptables_are_read_alike() {
    let Some(node) = Node::new("random") else { return };
    for (tool, family) in [("iptables-nft", TableFamily::Ip), ("ip6tables-nft", TableFamily::Ip6)] {
        let mut random = Random(20_261_121);
        let mut text = String::from("*mangle\n:FORWARD ACCEPT [0:0]\n:OWN - [0:0]\n");
        for _ in 0..400 {
            let _ = writeln!(text, "-A FORWARD{}", random_rule(&mut random, family == TableFamily::Ip6));
        }
        text.push_str("COMMIT\n");
        node.run(&format!("{tool}-restore"), &text).unwrap();
        let printed = node.run(&format!("{tool}-save -c"), "").unwrap();
        let theirs = iptables::parse(&printed, family, Backend::IptablesNft).tables;
        compare(&theirs, &native(&node, family), Backend::IptablesNft);
    }
}
