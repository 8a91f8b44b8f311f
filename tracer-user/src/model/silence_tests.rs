// SPDX-License-Identifier: MIT OR Apache-2.0
use std::collections::BTreeMap;

use std::net::IpAddr;
use std::sync::Arc;

use super::silence::{IFA_F_DADFAILED, IFA_F_TENTATIVE, SilentHop, no_usable_address};
use super::world::{Host, World};
use crate::node::rtnl::{Address, Link, Port};
use crate::node::{NetnsId, Role};
use crate::snapshot::NetnsEvidence;

const UP: u32 = 0x1_0001;

/// Two namespaces: 1 has eth0 (2), whose other end or lower device is `(2, 12)`.
struct Two {
    hosts: BTreeMap<NetnsId, Arc<Host>>,
    /// Behind device 13 of namespace 2.
    behind: Vec<IpAddr>,
}

impl World for Two {
    fn watched(&self) -> Vec<Arc<Host>> {
        self.hosts.values().cloned().collect()
    }

    fn host(&self, id: NetnsId) -> Option<Arc<Host>> {
        self.hosts.get(&id).cloned()
    }

    fn peer(&mut self, host: &Host, link: &Link) -> Option<(Arc<Host>, u32)> {
        (host.id == 1 && link.is_veth()).then(|| (self.hosts[&2].clone(), 12))
    }

    fn lower(&mut self, host: &Host, link: &Link) -> Option<(Arc<Host>, u32)> {
        (host.id == 1 && !link.is_veth()).then(|| (self.hosts[&2].clone(), 12))
    }

    fn peer_addresses(&mut self, _: &Host, link: &Link) -> Option<Vec<IpAddr>> {
        (link.ifindex == 13).then(|| self.behind.clone())
    }

    fn listeners(&mut self, _: &Host, _: u8, _: u16) -> Vec<u32> {
        Vec::new()
    }
}

fn link(ifindex: u32, name: &str, kind: &str) -> Link {
    let kind = Some(kind.to_owned()).filter(|kind| !kind.is_empty());
    Link { ifindex, name: name.to_owned(), kind, hardware: libc::ARPHRD_ETHER, flags: UP, ..Link::default() }
}

fn address(ifindex: u32, text: &str) -> Address {
    let (address, length) = text.split_once('/').unwrap();
    Address {
        ifindex,
        address: address.parse().unwrap(),
        prefix_len: length.parse().unwrap(),
        ..Address::default()
    }
}

fn host(id: NetnsId, name: &str, links: Vec<Link>, addresses: Vec<Address>) -> Host {
    let evidence = NetnsEvidence { name: name.to_owned(), links, addresses, ..NetnsEvidence::default() };
    let role = if id == 1 { Role::Pod } else { Role::Node };
    Host::new(id, role, None, Arc::new(evidence), [].into())
}

fn reason(pod: Host, node: Host, wanted: &str, is_gateway: bool) -> Option<String> {
    let source = pod.evidence.addresses[0].address;
    let behind = vec!["10.0.0.23".parse().unwrap(), "fd00::23".parse().unwrap()];
    let mut world = Two { hosts: [(1, Arc::new(pod)), (2, Arc::new(node))].into(), behind };
    let address = wanted.parse().unwrap();
    let asked = SilentHop { asker: world.hosts[&1].clone(), ifindex: 2, address, source, is_gateway };
    if let Some(found) = asked.reason(&mut world) {
        return Some(format!("{} {}\n{}", found.id, found.title, found.fix));
    }
    let text = asked.unexplained(&mut world);
    assert!(text.title.contains("not explained") && !text.fix.contains("start "), "{text:?}");
    None
}

fn pod(kind: &str) -> Host {
    host(1, "pod", vec![link(2, "eth0", kind)], vec![address(2, "10.0.0.22/24")])
}

/// vethpod (12) and vethpodb (13) in cni0 (11), which has 10.0.0.1.
fn bridged(port: Port) -> Host {
    let in_bridge = |l: Link, port| Link { master: Some(11), port: Some(port), ..l };
    let whole = Port { state: 3, ..Port::default() };
    let links = vec![
        link(11, "cni0", "bridge"),
        in_bridge(link(12, "vethpod", "veth"), whole),
        in_bridge(link(13, "vethpodb", "veth"), port),
    ];
    host(2, "node", links, vec![address(11, "10.0.0.1/24")])
}

#[test]
fn a_macvlan_pod_does_not_reach_the_host_of_its_parent() {
    let node = host(2, "node", vec![link(12, "eth0", "")], vec![address(12, "10.0.0.11/24")]);
    let text = reason(pod("macvlan"), node.clone(), "10.0.0.11", false).unwrap();
    assert!(text.contains("eth0 of pod is a macvlan device on eth0 of node"), "{text}");
    assert!(text.contains("ip route add 10.0.0.22 dev mvhost"), "{text}");
    assert_eq!(reason(pod("macvlan"), node, "10.0.0.12", false), None, "another host");
}

#[test]
fn proxy_arp_needs_a_route_by_another_device() {
    let mut node = host(2, "node", vec![link(12, "cali1", "veth"), link(2, "eth0", "")], Vec::new());
    let off = reason(pod("veth"), node.clone(), "169.254.1.1", true).unwrap();
    assert!(off.contains("proxy_arp is 0"), "{off}");
    let evidence = Arc::make_mut(&mut node.evidence);
    for (key, value) in [("cali1/proxy_arp", "1"), ("cali1/forwarding", "1")] {
        Arc::make_mut(&mut evidence.sysctls).insert(format!("net/ipv4/conf/{key}"), value.to_owned());
    }
    let text = reason(pod("veth"), node, "169.254.1.1", true).unwrap();
    assert!(text.contains("node has no route to 169.254.1.1"), "{text}");
    assert!(text.contains("ip addr add 169.254.1.1/32 dev cali1"), "{text}");
}

#[test]
fn a_port_that_gets_no_broadcasts_does_not_hear_the_question() {
    let deaf = Port { state: 3, no_broadcast: true, ..Port::default() };
    let text = reason(pod("veth"), bridged(deaf), "10.0.0.23", false).unwrap();
    assert!(text.contains("does not hand broadcasts to vethpodb, behind which 10.0.0.23 is"), "{text}");
    assert!(text.contains("bridge link set dev vethpodb bcast_flood on"), "{text}");
    let whole = Port { state: 3, ..Port::default() };
    assert_eq!(reason(pod("veth"), bridged(whole), "10.0.0.23", false), None);
    // Only multicast is kept from it.
    let snooped = Port { no_multicast: true, ..whole };
    assert_eq!(reason(pod("veth"), bridged(snooped), "10.0.0.23", false), None);
}

#[test]
fn a_pods_mask_is_wider_than_its_network() {
    let whole = Port { state: 3, ..Port::default() };
    let mut wide = pod("veth");
    Arc::make_mut(&mut wide.evidence).addresses = vec![address(2, "10.0.0.22/16")];
    let text = reason(wide, bridged(whole), "10.0.9.9", false).unwrap();
    assert!(text.contains("ip addr add 10.0.0.22/24 dev eth0; ip addr del 10.0.0.22/16 dev eth0"), "{text}");
}

#[test]
fn a_gateway_that_nobody_has_is_the_bridges_address_by_right() {
    let whole = Port { state: 3, ..Port::default() };
    let text = reason(pod("veth"), bridged(whole), "10.0.0.254", true).unwrap();
    assert!(text.contains("cni0 of node, has 10.0.0.1"), "{text}");
}

#[test]
fn an_address_whose_duplicate_detection_failed_is_not_used() {
    let mut only = host(1, "pod", vec![link(2, "eth0", "veth")], vec![address(2, "fd00::22/64")]);
    let to = "fd01::1".parse().unwrap();
    assert_eq!(no_usable_address(&only, to), None);
    Arc::make_mut(&mut only.evidence).addresses[0].flags = IFA_F_DADFAILED | IFA_F_TENTATIVE;
    let found = no_usable_address(&only, to).unwrap();
    assert!(found.title.contains("fd00::22") && found.title.contains("dadfailed"), "{found:?}");
    assert_eq!(no_usable_address(&only, "192.0.2.1".parse().unwrap()), None);
    Arc::make_mut(&mut only.evidence).addresses.push(address(2, "fd00::23/64"));
    assert_eq!(no_usable_address(&only, to), None, "another one is used");
}
