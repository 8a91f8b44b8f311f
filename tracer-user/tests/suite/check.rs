// SPDX-License-Identifier: MIT OR Apache-2.0
//! The walk of `check` on hand-made nodes: rules as iptables-save prints them, routes by a lookup as the kernel's.

use crate::listings;
use crate::schema;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use listings::parse_ipset_save;
use proptest::prelude::*;
use tracer_user::check::{Report, Verdict, check};
use tracer_user::firewall::{Backend, Base, Chain, Policy, Table, TableFamily, iptables};
use tracer_user::model::{Ending, Host, Place, Question, Stage, World};
use tracer_user::node::rtnl::{Address, FdbEntry, Link, Neighbour, NextHop, Port, Route, Rule, Vxlan};
use tracer_user::node::{Hook, NetnsId, Role, Socket};
use tracer_user::snapshot::NetnsEvidence;

const POD: NetnsId = 1;
const NODE: NetnsId = 2;
const OTHER: NetnsId = 3;

const MARKS: &str = "*mangle\n:PREROUTING ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:EGRESSGATEWAY-MARK-REQUEST - [0:0]\n\
    -A PREROUTING -j EGRESSGATEWAY-MARK-REQUEST\n-A PREROUTING -m mark --mark 0x26000000/0xff000000 -j ACCEPT\n\
    -A FORWARD -m mark --mark 0x26000000/0xff000000 -j MARK --set-xmark 0x26000000/0xffffffff\n\
    -A EGRESSGATEWAY-MARK-REQUEST -m set --match-set egress-src-v4-x src -m set --match-set egress-dst-v4-x dst \
    -m conntrack --ctdir ORIGINAL -m comment --comment \"Set mark for EgressPolicy default-test\" \
    -j MARK --set-xmark 0x26b7b4e4/0xffffffff\nCOMMIT\n";
const SERVICE: &str = "*nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-SVC-A - [0:0]\n:KUBE-SEP-1 - [0:0]\n:KUBE-SEP-2 - [0:0]\n\
    -A PREROUTING -d 10.96.0.1/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-A\n\
    -A KUBE-SVC-A -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-1\n-A KUBE-SVC-A -j KUBE-SEP-2\n\
    -A KUBE-SEP-1 -p tcp -m tcp -j DNAT --to-destination 10.200.0.23:80\n\
    -A KUBE-SEP-2 -p tcp -m tcp -j DNAT --to-destination 10.200.0.23:81\nCOMMIT\n";

/// A pod, its node with a bridge and EgressGateway's tunnel, another pod on the bridge.
struct Machine {
    hosts: BTreeMap<NetnsId, Host>,
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn link(ifindex: u32, name: &str, kind: Option<&str>, mtu: u32) -> Link {
    Link {
        ifindex,
        name: name.to_owned(),
        kind: kind.map(str::to_owned),
        hardware: 1,
        flags: 1,
        mtu,
        mac: vec![2, 0, 0, 0, 0, ifindex as u8],
        ..Link::default()
    }
}

fn lo() -> Link {
    Link { flags: 9, hardware: 772, ..link(1, "lo", None, 65_536) }
}

fn route(table: u32, to: &str, kind: u8, device: u32, via: Option<&str>) -> Route {
    Route {
        destination: to.parse().expect("a prefix"),
        table,
        kind,
        next_hops: vec![NextHop { ifindex: device, gateway: via.map(ip), ..NextHop::default() }],
        ..Route::default()
    }
}

fn host(id: NetnsId, name: &str, role: Role, links: Vec<Link>, addresses: &[(u32, &str, u8)]) -> Host {
    let mut evidence = NetnsEvidence {
        name: name.to_owned(),
        links,
        packet_sockets: Some(Vec::new()),
        ..NetnsEvidence::default()
    };
    for (ifindex, address, prefix_len) in addresses {
        let address = ip(address);
        evidence.addresses.push(Address {
            ifindex: *ifindex,
            address,
            prefix_len: *prefix_len,
            ..Address::default()
        });
        Arc::make_mut(&mut evidence.routes).push(route(255, &format!("{address}/32"), 2, *ifindex, None));
        if *prefix_len < 32 {
            let net = tracer_user::node::IpPrefix::new(address, *prefix_len).expect("a prefix");
            Arc::make_mut(&mut evidence.routes).push(route(254, &net.to_string(), 1, *ifindex, None));
        }
    }
    let rule = |priority, table| Rule { priority, table, action: 1, ..Rule::default() };
    evidence.rules = vec![rule(0, 255), rule(32_766, 254)];
    for (path, value) in [("net/ipv4/ip_forward", "1"), ("net/bridge/bridge-nf-call-iptables", "1")] {
        Arc::make_mut(&mut evidence.sysctls).insert(path.to_owned(), value.to_owned());
    }
    let uplinks = BTreeSet::new();
    Host::new(id, role, None, evidence.into(), uplinks)
}

fn listens(port: u16) -> Socket {
    let local = format!("0.0.0.0:{port}").parse().expect("an address");
    Socket { proto: 6, local, dual: false, uid: 0, queued: 0, backlog: 128, ifindex: 0 }
}

impl Machine {
    fn new() -> Self {
        let pod_links = |peer| {
            vec![lo(), Link { link: Some(peer), link_nsid: Some(0), ..link(2, "eth0", Some("veth"), 1450) }]
        };
        let mut pod =
            host(POD, "visitor", Role::Pod, pod_links(4), &[(1, "127.0.0.1", 8), (2, "10.200.0.22", 24)]);
        let mut other =
            host(OTHER, "podb", Role::Pod, pod_links(5), &[(1, "127.0.0.1", 8), (2, "10.200.0.23", 24)]);
        for pod in [&mut pod, &mut other] {
            Arc::make_mut(&mut Arc::make_mut(&mut pod.evidence).routes).push(route(
                254,
                "0.0.0.0/0",
                1,
                2,
                Some("10.200.0.1"),
            ));
        }
        Arc::make_mut(&mut other.evidence).sockets.push(listens(80));
        let port = |i, name: &str, nsid| Link {
            master: Some(3),
            link: Some(2),
            link_nsid: Some(nsid),
            ..link(i, name, Some("veth"), 1450)
        };
        let vxlan = Vxlan { vni: 100, port: 7789, local: Some(ip("172.16.25.11")), link: Some(2) };
        let links = vec![
            lo(),
            link(2, "eth0", None, 1500),
            link(3, "cni0", Some("bridge"), 1450),
            port(4, "vetha", 1),
            port(5, "vethb", 2),
            Link { vxlan: Some(vxlan), ..link(6, "egress.vxlan", Some("vxlan"), 1450) },
        ];
        let addresses =
            [(1, "127.0.0.1", 8), (2, "172.16.25.11", 24), (3, "10.200.0.1", 24), (6, "192.200.0.1", 16)];
        let mut node = host(NODE, "node1", Role::Node, links, &addresses);
        node.uplinks.insert(2);
        let evidence = Arc::make_mut(&mut node.evidence);
        Arc::make_mut(&mut evidence.routes).push(route(254, "0.0.0.0/0", 1, 2, Some("172.16.25.1")));
        Arc::make_mut(&mut evidence.routes).push(route(0x26b7_b4e4, "0.0.0.0/0", 1, 6, Some("192.200.0.2")));
        let mark = Rule {
            priority: 99,
            mark: 0x26b7_b4e4,
            mask: u32::MAX,
            table: 0x26b7_b4e4,
            action: 1,
            ..Rule::default()
        };
        evidence.rules.insert(1, mark);
        let mac = vec![0x66, 0, 0, 0, 0, 2];
        evidence.neighbours.push(Neighbour {
            ifindex: 6,
            address: ip("192.200.0.2"),
            mac: mac.clone(),
            state: 0x80,
        });
        let remote = Some(ip("172.16.25.12"));
        evidence.fdb.push(FdbEntry {
            ifindex: 6,
            master: None,
            mac,
            vlan: None,
            remote,
            own: true,
            state: 0x80,
        });
        evidence.sets = parse_ipset_save(
            "create egress-src-v4-x hash:net family inet\nadd egress-src-v4-x 10.200.0.22\n\
             create egress-dst-v4-x hash:net family inet\nadd egress-dst-v4-x 172.16.25.183\n",
        )
        .into();
        Self { hosts: [(POD, pod), (NODE, node), (OTHER, other)].into() }
    }

    fn rules(mut self, id: NetnsId, text: &str) -> Self {
        let saved = iptables::parse(text, TableFamily::Ip, Backend::IptablesNft);
        Arc::make_mut(&mut self.evidence(id).rulesets).extend(saved.tables);
        self
    }

    fn evidence(&mut self, id: NetnsId) -> &mut NetnsEvidence {
        Arc::make_mut(&mut self.hosts.get_mut(&id).expect("a host").evidence)
    }

    fn ask(&mut self, destination: &str, port: u16) -> Report {
        let question = Question {
            source: None,
            sport: None,
            destination: ip(destination),
            dport: Some(port),
            protocol: 6,
            pod: Some(POD),
            assumed: Vec::new(),
        };
        check(self, &question)
    }

    fn behind(&self, host: &Host, link: &Link) -> Option<(NetnsId, u32)> {
        match (host.id, link.link_nsid?) {
            (POD, _) => Some((NODE, 4)),
            (OTHER, _) => Some((NODE, 5)),
            (NODE, 1) => Some((POD, 2)),
            (NODE, 2) => Some((OTHER, 2)),
            _ => None,
        }
    }
}

impl World for Machine {
    fn watched(&self) -> Vec<Arc<Host>> {
        [NODE, POD].iter().filter_map(|id| self.host(*id)).collect()
    }

    fn host(&self, id: NetnsId) -> Option<Arc<Host>> {
        self.hosts.get(&id).cloned().map(Arc::new)
    }

    fn peer(&mut self, host: &Host, link: &Link) -> Option<(Arc<Host>, u32)> {
        let (id, ifindex) = self.behind(host, link)?;
        Some((self.host(id)?, ifindex))
    }

    fn peer_addresses(&mut self, host: &Host, link: &Link) -> Option<Vec<IpAddr>> {
        let (id, _) = self.behind(host, link)?;
        Some(self.hosts[&id].evidence.addresses.iter().map(|a| a.address).collect())
    }

    fn listeners(&mut self, _: &Host, _: u8, _: u16) -> Vec<u32> {
        Vec::new()
    }
}

fn ids(report: &Report) -> Vec<&str> {
    report.causes.iter().map(|cause| cause.id).collect()
}

fn verdict(report: &Report, stage: Stage) -> Verdict {
    report.stages.iter().find(|s| s.stage == stage).expect("a stage").verdict
}

#[test]
fn the_egress_path_of_a_node() {
    let report = Machine::new().rules(NODE, MARKS).ask("172.16.25.183", 80);
    assert_eq!(ids(&report), Vec::<&str>::new(), "{report:#?}");
    let path = &report.paths[0];
    let marks: Vec<_> = path.steps.iter().flat_map(|s| &s.marks).map(|m| m.to.expect("known")).collect();
    assert_eq!(marks, [0x26b7_b4e4, 0x2600_0000]);
    let tables: Vec<_> = path
        .steps
        .iter()
        .filter_map(|s| match s.place {
            Place::Route { table, .. } => Some(table),
            _ => None,
        })
        .collect();
    assert_eq!(tables, [254, 0x26b7_b4e4, 254]);
    let last = path.steps.last().expect("steps");
    assert_eq!(last.encap.as_ref().map(|e| (e.dst.as_str(), e.vni)), Some(("172.16.25.12", 100)));
    assert_eq!(path.ending, Ending::Left { netns: "node1".to_owned(), device: "eth0".to_owned() });
    assert_eq!(verdict(&report, Stage::OtherNode), Verdict::NotKnown);
    assert!(report.unknown.iter().any(|u| u.contains("172.16.25.12")), "{:?}", report.unknown);
}

#[test]
fn the_first_thing_that_is_wrong_comes_first() {
    let mut machine = Machine::new().rules(NODE, MARKS);
    machine.evidence(NODE).rules.remove(1);
    let report = machine.ask("172.16.25.183", 80);
    assert_eq!(ids(&report)[0], "fwmark-without-rule", "{report:#?}");
    assert_eq!(verdict(&report, Stage::Marking), Verdict::Passed);
    assert_eq!(verdict(&report, Stage::Routing), Verdict::Failed);
    assert_eq!(verdict(&report, Stage::Returning), Verdict::NotReached);
    assert!(report.is_wrong());
}

#[test]
fn another_ip_rule_comes_before_the_one_of_the_mark() {
    let mut machine = Machine::new().rules(NODE, MARKS);
    let rules = &mut machine.evidence(NODE).rules;
    let main = rules.iter().find(|rule| rule.table == 254).expect("main").clone();
    let source = Some("10.200.0.0/24".parse().expect("a prefix"));
    rules.insert(1, Rule { priority: 10, source, ..main });
    let report = machine.ask("172.16.25.183", 80);
    assert_eq!(ids(&report)[0], "fwmark-rule-preempted", "{report:#?}");
    assert!(
        report.causes[0].title.starts_with("ip rule 10 (from 10.200.0.0/24)"),
        "{}",
        report.causes[0].title
    );
}

#[test]
fn a_rule_that_is_no_services_leads_astray() {
    let astray = "*nat\n:PREROUTING ACCEPT [0:0]\n\
        -A PREROUTING -d 10.96.0.1/32 -p tcp -j DNAT --to-destination 10.200.0.23:81\nCOMMIT\n";
    let report = Machine::new().rules(NODE, astray).ask("10.96.0.1", 80);
    assert_eq!(ids(&report), ["translated-astray"], "{report:#?}");
    assert!(report.causes[0].title.contains("10.96.0.1:80 to 10.200.0.23:81"), "{}", report.causes[0].title);
}

#[test]
fn every_choice_of_chance_is_walked() {
    let report = Machine::new().rules(NODE, SERVICE).ask("10.96.0.1", 80);
    // One endpoint listens, the other does not.
    assert_eq!(ids(&report), ["port-closed"], "{report:#?}");
    let facts: Vec<&str> = report.causes[0].evidence.iter().map(|f| f.text.as_str()).collect();
    assert!(facts.iter().any(|f| f.contains("1 of 2 ways")), "{facts:?}");
    assert_eq!(report.paths[0].alternatives, ["10.200.0.23:80", "10.200.0.23:81"]);
    let mut machine = Machine::new().rules(NODE, SERVICE);
    machine.evidence(OTHER).sockets.push(listens(81));
    let report = machine.ask("10.96.0.1", 80);
    assert_eq!(ids(&report), Vec::<&str>::new(), "{report:#?}");
    assert_eq!(report.paths.last().expect("a reply").packet, "reply");
    let back = report
        .paths
        .last()
        .and_then(|p| p.steps.iter().flat_map(|s| &s.nat).next_back())
        .expect("translated back");
    assert_eq!((back.kind, back.to.as_str()), ("un-DNAT", "10.96.0.1:80"));
}

#[test]
fn a_condition_that_is_not_known_is_no_cause() {
    let limited = "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -m strange --thing 3 -j DROP\nCOMMIT\n";
    let report = Machine::new().rules(NODE, limited).ask("10.200.0.23", 80);
    assert_eq!(ids(&report), Vec::<&str>::new(), "{report:#?}");
    assert!(
        report.unknown.iter().any(|u| u.contains("FORWARD rule 1") && u.contains("drops it")),
        "{:?}",
        report.unknown
    );
}

#[test]
fn later_packets_may_go_another_way() {
    let early = MARKS.replace(
        "-A PREROUTING -j EGRESS",
        "-A PREROUTING -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A PREROUTING -j EGRESS",
    );
    let report = Machine::new().rules(NODE, &early).ask("172.16.25.183", 80);
    assert_eq!(ids(&report), ["only-first-packet-marked"], "{report:#?}");
    assert_eq!(report.paths[1].packet, "later packets");
}

#[test]
fn what_is_too_large_is_found_without_a_large_packet() {
    let mut machine = Machine::new().rules(NODE, MARKS);
    machine.evidence(POD).links[1].mtu = 1500;
    assert_eq!(ids(&machine.ask("172.16.25.183", 80)), ["packet-too-big"]);
    let silent = "*filter\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -p icmp -m icmp --icmp-type 3/4 -j DROP\nCOMMIT\n";
    let report = machine.rules(NODE, silent).ask("172.16.25.183", 80);
    assert_eq!(ids(&report), ["path-mtu-black-hole"], "{report:#?}");
}

#[test]
fn nobody_has_the_address() {
    let report = Machine::new().ask("10.200.0.77", 80);
    assert_eq!(ids(&report), ["neighbour-silent"], "{report:#?}");
    assert_eq!(ids(&Machine::new().rules(NODE, MARKS).ask("10.200.0.23", 81)), ["port-closed"]);
}

#[test]
fn reports_fit_the_schema() {
    let root: serde_json::Value =
        serde_json::from_str(include_str!("../../schema/check.schema.json")).expect("a schema");
    let mut missing = Machine::new().rules(NODE, MARKS);
    missing.evidence(NODE).fdb.clear();
    for report in [
        Machine::new().rules(NODE, MARKS).ask("172.16.25.183", 80),
        Machine::new().rules(NODE, SERVICE).ask("10.96.0.1", 80),
        Machine::new().ask("10.200.0.77", 80),
        missing.ask("172.16.25.183", 80),
    ] {
        let mut line = Vec::new();
        tracer_user::output::write_check(&mut line, &report).expect("writes");
        let value = serde_json::from_slice(&line).expect("JSON");
        schema::check(&root, &root, &value, "").expect("fits");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Nodes with pieces missing and rules in any order give a report, and text of it.
    #[test]
    fn broken_nodes_never_panic(
        lines in proptest::collection::vec(0usize..9, 0..12),
        cut in proptest::collection::vec(0usize..6, 0..4),
        port: u16,
        last: u8,
    ) {
        const RULES: [&str; 9] = [
            "-A PREROUTING -j A", "-A A -j B", "-A B -j A", "-A A -m statistic --mode random --probability 0.3 -j B",
            "-A B -p tcp -j DNAT --to-destination 10.200.0.23:80", "-A PREROUTING -j DNAT --to-destination 172.16.25.11-172.16.25.20",
            "-A POSTROUTING -j MASQUERADE", "-A POSTROUTING -s 10.200.0.0/16 -j SNAT --to-source 1.2.3.4:1-9", "-A OUTPUT -j REDIRECT",
        ];
        let text: String = lines.iter().map(|i| format!("{}\n", RULES[*i])).collect();
        let text = format!("*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n:A - [0:0]\n:B - [0:0]\n{text}COMMIT\n");
        let mut machine = Machine::new().rules(NODE, &text).rules(NODE, MARKS).rules(POD, &text);
        for what in cut {
            let evidence = machine.evidence(NODE);
            match what {
                0 => evidence.links.clear(),
                1 => evidence.addresses.clear(),
                2 => { evidence.links.pop(); }
                3 => evidence.routes = Arc::default(),
                4 => evidence.fdb.clear(),
                _ => evidence.rules.clear(),
            }
        }
        let report = machine.ask(&format!("10.200.0.{last}"), port);
        let mut out = Vec::new();
        tracer_user::output::CheckText::new(tracer_user::output::TextOptions::default())
            .report(&mut out, &report, "node1")
            .expect("writes");
    }
}

#[test]
fn a_repair_is_one_command_that_the_model_tried() {
    let mut machine = Machine::new();
    Arc::make_mut(&mut machine.evidence(NODE).sysctls)
        .insert("net/ipv4/ip_forward".to_owned(), "0".to_owned());
    let report = machine.ask("172.16.25.183", 80);
    assert_eq!(report.causes[0].commands, ["sysctl -w net.ipv4.ip_forward=1"], "{report:#?}");
    assert_eq!(report.causes[0].fix, "sysctl -w net.ipv4.ip_forward=1");
    assert_eq!(report.causes[0].repairs_tried, 1);
}

#[test]
fn two_faults_on_the_way_are_repaired_in_order() {
    let drops = "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -p tcp -j DROP\nCOMMIT\n";
    let mut machine = Machine::new().rules(NODE, drops);
    Arc::make_mut(&mut machine.evidence(NODE).sysctls)
        .insert("net/ipv4/ip_forward".to_owned(), "0".to_owned());
    let commands = machine.ask("172.16.25.183", 80).causes[0].commands.clone();
    assert_eq!(commands, ["sysctl -w net.ipv4.ip_forward=1", "iptables-nft -t filter -D FORWARD 1"]);
}

#[test]
fn a_command_that_cuts_off_other_flows_is_no_repair() {
    // The node has the address of the other pod, on its uplink.
    let taken = |prefix_len: u8, network: &str| {
        let mut machine = Machine::new();
        let node = machine.evidence(NODE);
        node.addresses.push(Address {
            ifindex: 2,
            address: ip("10.200.0.23"),
            prefix_len,
            ..Address::default()
        });
        Arc::make_mut(&mut node.routes).push(route(255, "10.200.0.23/32", 2, 2, None));
        Arc::make_mut(&mut node.routes).push(Route { protocol: 2, ..route(254, network, 1, 2, None) });
        let (address, mac) = (ip("10.200.9.9"), vec![2, 0, 0, 0, 9, 9]);
        node.neighbours.push(Neighbour { ifindex: 2, address, mac, state: 2 });
        machine.ask("10.200.0.23", 80).causes[0].clone()
    };
    assert_eq!(taken(32, "10.200.0.23/32").commands, ["ip addr del 10.200.0.23/32 dev eth0"]);
    // With this one goes the route to a neighbour that can be reached now.
    let kept = taken(16, "10.200.0.0/16");
    assert_eq!(kept.commands, Vec::<String>::new(), "{kept:#?}");
    assert!(kept.repairs_tried > 0);
}

fn table(family: TableFamily, hook: Hook, devices: &[&str]) -> Table {
    let base = Base {
        hook,
        priority: 0,
        kind: "filter".to_owned(),
        policy: Policy::Drop,
        devices: devices.iter().map(|name| (*name).to_owned()).collect(),
    };
    let chain = Chain { name: "own".to_owned(), base: Some(base), ..Chain::default() };
    Table { family, backend: Backend::Nft, name: "t".to_owned(), chains: vec![chain] }
}

#[test]
fn a_pod_that_a_service_sends_to_itself_needs_hairpin() {
    let own = SERVICE.replace("10.200.0.23", "10.200.0.22");
    for (hairpin, expected) in [(Some(false), vec!["hairpin-off"]), (Some(true), vec![]), (None, vec![])] {
        let mut machine = Machine::new().rules(NODE, &own);
        for port in [80, 81] {
            machine.evidence(POD).sockets.push(listens(port));
        }
        machine.evidence(NODE).links[3].port = Some(Port { state: 3, hairpin, ..Port::default() });
        let report = machine.ask("10.96.0.1", 80);
        // What comes back to the pod has its own address as source; that is another cause.
        let found: Vec<&str> = ids(&report).into_iter().filter(|id| *id == "hairpin-off").collect();
        assert_eq!(found, expected, "{report:#?}");
    }
}

#[test]
fn chains_of_devices_and_bridges_are_walked_too() {
    for (family, hook, devices) in [
        (TableFamily::Bridge, Hook::Forward, &[][..]),
        (TableFamily::Bridge, Hook::Prerouting, &[]),
        (TableFamily::Bridge, Hook::Postrouting, &[]),
        (TableFamily::Netdev, Hook::Prerouting, &["vetha"]),
        (TableFamily::Netdev, Hook::Postrouting, &["vethb"]),
        (TableFamily::Inet, Hook::Prerouting, &["vetha"]),
    ] {
        let mut machine = Machine::new();
        Arc::make_mut(&mut machine.evidence(NODE).rulesets).push(table(family, hook, devices));
        let report = machine.ask("10.200.0.23", 80);
        assert_eq!(ids(&report), ["dropped-by-policy"], "{family:?} {hook:?}: {report:#?}");
    }
    // Those of other devices, and of what the packet does not cross.
    for (family, hook, devices) in [
        (TableFamily::Bridge, Hook::Output, &[][..]),
        (TableFamily::Netdev, Hook::Prerouting, &["eth0"]),
        (TableFamily::Netdev, Hook::Prerouting, &["vethb"]),
    ] {
        let mut machine = Machine::new();
        Arc::make_mut(&mut machine.evidence(NODE).rulesets).push(table(family, hook, devices));
        let report = machine.ask("10.200.0.23", 80);
        let request = &report.paths[0];
        assert!(matches!(request.ending, Ending::Delivered { .. }), "{family:?} {hook:?}: {report:#?}");
    }
}

#[test]
fn a_service_of_a_pod_on_the_same_bridge_stays_on_the_bridge() {
    let mut machine = Machine::new().rules(NODE, SERVICE);
    machine.evidence(OTHER).sockets.push(listens(81));
    let report = machine.ask("10.96.0.1", 80);
    // Whoever the frame was addressed to: the bridge itself does not take it.
    let taken = report.paths[0].steps.iter().any(
        |step| matches!(&step.place, Place::Device { device, .. } if step.netns == "node1" && device == "cni0"),
    );
    assert!(!taken, "{report:#?}");
}

#[test]
fn nobody_knows_how_an_answer_comes_but_by_an_uplink() {
    let mut machine = Machine::new();
    machine.hosts.get_mut(&NODE).expect("the node").uplinks.clear();
    let report = machine.ask("172.16.25.183", 80);
    assert!(report.paths.iter().all(|path| path.packet != "reply"), "{report:#?}");
    assert_eq!(verdict(&report, Stage::Returning), Verdict::NotKnown);
}

#[test]
fn who_gets_a_broadcast_is_not_known() {
    let mut machine = Machine::new();
    Arc::make_mut(&mut machine.evidence(POD).routes).push(route(255, "10.200.0.255/32", 3, 2, None));
    let report = machine.ask("10.200.0.255", 80);
    assert_eq!(ids(&report), Vec::<&str>::new(), "{report:#?}");
    assert!(report.unknown.iter().any(|u| u.contains("is a group")), "{:?}", report.unknown);
}
