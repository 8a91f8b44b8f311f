// SPDX-License-Identifier: MIT OR Apache-2.0
//! The catalogue's faults, and for each the causes that are right: of the trace of its traffic, and of a check before
//! any traffic.

use super::{Asked, Case, Watch, What};
use crate::{Backend, probe::Probe, topology::Family};

const EGW: &str = "--pod @visitor --dst {ext}";
const EGW2: &str = "--pod @visitor --dst {ext2}";
const POD2: &str = "--pod @visitor --dst {pod2}";
const SVC: &str = "--pod @visitor --dst {svc}";
const NODEPORT: &str = "--src {ext} --dst {node1}";
const MESH: &str = "--pod @mesh --dst {pod2}";

const EGW_PACKET: &str = "--pod @visitor --dst 172.16.25.183:80";
const EGW2_PACKET: &str = "--pod @visitor --dst 198.51.100.10:80";
const POD2_PACKET: &str = "--pod @visitor --dst 10.200.1.22:80";
const SVC_PACKET: &str = "--pod @visitor --dst 10.96.100.100:80";
const NODEPORT_PACKET: &str = "--src 172.16.25.183 --dst 172.16.25.11:30897";
const MESH_PACKET: &str = "--pod @mesh --dst 10.200.1.22:80";

const fn case(name: &'static str, flow: &'static str, causes: &'static [&'static str]) -> Case {
    Case {
        name,
        what: What::Fault(name),
        flow,
        watch: Watch::Both,
        families: &[Family::V4],
        backends: &[Backend::Nft],
        causes,
        all: false,
        asked: None,
    }
}

impl Case {
    const fn asked(mut self, packet: &'static str, causes: &'static [&'static str]) -> Self {
        self.asked = Some(Asked { packet, causes });
        self
    }
}

/// Followed on both nodes, and asked with both. What only traffic shows is found by nobody who asks before it: ports
/// that are used up, queues and delays, what a host beyond the nodes does, an accept queue that is still empty, a
/// connection that is yet to be.
pub const CASES: &[Case] = &[
    case("egw-agent-down", EGW, &["egress-not-handled"]).asked(EGW_PACKET, &["egress-not-handled"]),
    case("policy-src-miss", EGW, &["egress-pod-not-selected"])
        .asked(EGW_PACKET, &["egress-pod-not-selected"]),
    case("policy-dst-miss", EGW, &["egress-destination-not-selected"])
        .asked(EGW_PACKET, &["egress-destination-not-selected"]),
    case("eip-none", EGW, &["left-without-snat"]).asked(EGW_PACKET, &["left-without-snat"]),
    case("snat-order", EGW, &["snat-to-another-address"]).asked(EGW_PACKET, &["snat-to-another-address"]),
    case("nat-accept-missing", EGW, &["masqueraded-before-tunnel"])
        .asked(EGW_PACKET, &["masqueraded-before-tunnel"]),
    case("rule-missing", EGW, &["fwmark-without-rule"]).asked(EGW_PACKET, &["fwmark-without-rule"]),
    case("mark-not-cleared", EGW, &["tunnel-into-itself"]).asked(EGW_PACKET, &["tunnel-into-itself"]),
    case("fwd-drop", EGW, &["dropped-by-policy"]).asked(EGW_PACKET, &["dropped-by-policy"]),
    case("calico-insert", EGW, &["masqueraded-before-tunnel"])
        .asked(EGW_PACKET, &["masqueraded-before-tunnel"]),
    case("calico-insert-nonat", EGW, &["only-first-packet-marked"])
        .asked(EGW_PACKET, &["only-first-packet-marked"]),
    case("calico-append", EGW, &[]).asked(EGW_PACKET, &[]),
    case("vxlan-missing", EGW, &["fwmark-table-empty"]).asked(EGW_PACKET, &["fwmark-table-empty"]),
    case("vxlan-down-gw", EGW, &["tunnel-not-listening"]).asked(EGW_PACKET, &["tunnel-not-listening"]),
    case("vxlan-no-neigh", EGW, &["tunnel-neighbour-missing"])
        .asked(EGW_PACKET, &["tunnel-neighbour-missing"]),
    case("vxlan-no-fdb", EGW, &["tunnel-peer-missing"]).asked(EGW_PACKET, &["tunnel-peer-missing"]),
    case("vxlan-wrong-mac", EGW, &["tunnel-wrong-mac"]).asked(EGW_PACKET, &["tunnel-wrong-mac"]),
    case("underlay-block-vxlan", EGW, &["dropped-by-rule"]).asked(EGW_PACKET, &["dropped-by-rule"]),
    case("ttl-loop", EGW, &["routing-loop"]).asked(EGW_PACKET, &["routing-loop"]),
    case("rpf-gw", EGW, &["reverse-path-filter"]).asked(EGW_PACKET, &["reverse-path-filter"]),
    case("eip-no-arp", EGW, &["source-unclaimed"]).asked(EGW_PACKET, &["source-unclaimed"]),
    case("gw-no-route", EGW2, &["no-route"]).asked(EGW2_PACKET, &["no-route"]),
    case("eip-ports", EGW, &["no-snat-port"]).asked(EGW_PACKET, &[]),
    case("mtu-egress", EGW, &["packet-too-big"]).asked(EGW_PACKET, &["packet-too-big"]),
    case("pmtu-blackhole", EGW, &["path-mtu-black-hole"]).asked(EGW_PACKET, &["path-mtu-black-hole"]),
    case("pod-bad-gw", POD2, &["neighbour-silent"]).asked(POD2_PACKET, &["neighbour-silent"]),
    case("pod-no-route", POD2, &["no-route"]).asked(POD2_PACKET, &["no-route"]),
    case("veth-detached", POD2, &["port-not-in-bridge"]).asked(POD2_PACKET, &["port-not-in-bridge"]),
    case("flannel-down", POD2, &["tunnel-not-listening"]).asked(POD2_PACKET, &["tunnel-not-listening"]),
    case("route-missing", POD2, &["pod-route-missing"]).asked(POD2_PACKET, &["pod-address-on-the-wire"]),
    case("route-blackhole", POD2, &["route-blackhole"]).asked(POD2_PACKET, &["route-blackhole"]),
    case("nic-queue", POD2, &["queue-full"]).asked(POD2_PACKET, &[]),
    case("latency", EGW, &["waits-in-queue"]).asked(EGW_PACKET, &[]),
    case("mtu-flannel", POD2, &["path-mtu-black-hole"]).asked(POD2_PACKET, &["path-mtu-black-hole"]),
    case("br-fwd-drop", "--pod @visitor --dst {podb}", &["dropped-by-policy"])
        .asked("--pod @visitor --dst 10.200.0.23:80", &["dropped-by-policy"]),
    case("fw-in", EGW, &["no-answer"]).asked(EGW_PACKET, &[]),
    case("fw-out", EGW, &["dropped-by-rule"]).asked(EGW_PACKET, &["dropped-by-rule"]),
    case("fw-fwd", POD2, &["dropped-by-rule"]).asked(POD2_PACKET, &["dropped-by-rule"]),
    case("netpol", POD2, &["dropped-by-rule"]).asked(POD2_PACKET, &["dropped-by-rule"]),
    case("kube-invalid", POD2, &["conntrack-invalid"]).asked(POD2_PACKET, &[]),
    case("ct-full", POD2, &["conntrack-full"]).asked(POD2_PACKET, &["conntrack-full"]),
    case("svc-no-kubeproxy", SVC, &["service-not-translated"]).asked(SVC_PACKET, &["service-not-translated"]),
    case("svc-no-endpoints", "--pod @visitor --dst {empty}", &["rejected-by-rule"])
        .asked("--pod @visitor --dst 10.96.100.200:80", &["rejected-by-rule"]),
    case("svc-targetport", SVC, &["port-closed"]).asked(SVC_PACKET, &["port-closed"]),
    case("port-closed", POD2, &["port-closed"])
        .asked("--pod @visitor --dst 10.200.1.22:81", &["port-closed"]),
    case("listen-overflow", POD2, &["accept-queue-full"]).asked("--pod @visitor --dst 10.200.1.22:90", &[]),
    case("nodeport-nomasq", NODEPORT, &["service-not-masqueraded"])
        .asked(NODEPORT_PACKET, &["service-not-masqueraded"]),
    case("nodeport-local", NODEPORT, &["dropped-by-rule"]).asked(NODEPORT_PACKET, &["dropped-by-rule"]),
    case("nft-ok", SVC, &[]).asked(SVC_PACKET, &[]),
    case("nft-no-endpoints", "--pod @visitor --dst {empty}", &["rejected-by-rule"])
        .asked("--pod @visitor --dst 10.96.100.200:80", &["rejected-by-rule"]),
    case("nft-no-port", SVC, &["rejected-by-rule"]).asked(SVC_PACKET, &["rejected-by-rule"]),
    case("nft-source-ranges", SVC, &["dropped-by-rule"]).asked(SVC_PACKET, &["dropped-by-rule"]),
    case("dns-down", POD2, &["port-closed"])
        .asked("--pod @visitor --dst 10.200.1.22:53 --proto udp", &["port-closed"]),
    case("stale-udp", "--pod @visitor --dst 10.96.0.53", &["stale-connection-entry"])
        .asked("--pod @visitor --dst 10.96.0.53:53 --proto udp", &["neighbour-silent"]),
    case("calico-overlap", "--pod @cpod --dst 10.96.0.1", &["pod-address-on-the-wire"])
        .asked("--pod @cpod --dst 10.96.0.1:443", &["pod-address-on-the-wire"]),
    case("ip-forward", EGW, &["forwarding-off"]).asked(EGW_PACKET, &["forwarding-off"]),
    case("bridge-nf", "--pod @visitor --dst 10.96.100.101", &["reply-from-another-address"])
        .asked("--pod @visitor --dst 10.96.100.101:80", &["reply-from-another-address"]),
    case("docker-ok", NODEPORT, &[]).asked("--src 172.16.25.183 --dst 172.16.25.11:443", &[]),
    case("docker-fwd-drop", NODEPORT, &["dropped-by-policy"])
        .asked("--src 172.16.25.183 --dst 172.16.25.11:443", &["dropped-by-policy"]),
    case("mark-late", EGW, &["mark-after-routing", "egress-pod-not-selected"])
        .asked(EGW_PACKET, &["mark-after-routing"]),
    case("rpf-multinic", EGW2, &["reverse-path-filter"]).asked(EGW2_PACKET, &[]),
    case("osm-ok", MESH, &[]).asked(MESH_PACKET, &[]),
    case("osm-envoy-down", MESH, &["redirected-to-nobody"]).asked(MESH_PACKET, &["redirected-to-nobody"]),
    case("osm-no-rules", MESH, &["sidecar-bypassed"]).asked(MESH_PACKET, &["sidecar-bypassed"]),
    case("osm-uid", MESH, &["redirect-loop"]).asked(MESH_PACKET, &["redirect-loop"]),
    case("osm-port-excl", MESH, &["redirected-to-nobody"])
        .asked("--pod @mesh --dst 10.200.1.22:6379", &["redirected-to-nobody"]),
];

/// Probes in a healthy lab, and the flow to follow.
pub const HEALTHY: &[(Probe, &str)] = &[
    (Probe::Egw, EGW),
    (Probe::Egw2, EGW2),
    (Probe::Udp, EGW),
    (Probe::Down, EGW),
    (Probe::Ping, EGW),
    (Probe::PingBig, EGW),
    (Probe::Pod2, POD2),
    (Probe::UpPod2, POD2),
    (Probe::PingPod2, POD2),
    (Probe::Podb, "--pod @visitor --dst {podb}"),
    (Probe::Svc, SVC),
    (Probe::DnsSvc, "--pod @visitor --dst {dns}"),
    (Probe::Nodeport, NODEPORT),
    (Probe::MeshOut, MESH),
];

/// In a healthy lab nothing is wrong with these, in both families where they exist.
pub const HEALTHY_PACKETS: &[(&str, &str)] = &[
    (EGW_PACKET, "--pod @visitor --dst [fd00:172::183]:80"),
    (EGW2_PACKET, ""),
    ("--pod @visitor --dst 172.16.25.183:7 --proto udp", ""),
    ("--pod @visitor --dst 172.16.25.183 --proto icmp", "--pod @visitor --dst fd00:172::183 --proto icmp"),
    (POD2_PACKET, "--pod @visitor --dst [fd00:200:2::22]:80"),
    ("--pod @visitor --dst 10.200.0.23:80", "--pod @visitor --dst [fd00:200:1::23]:80"),
    (SVC_PACKET, ""),
    ("--pod @visitor --dst 10.96.0.10:53 --proto udp", ""),
    (NODEPORT_PACKET, ""),
    (MESH_PACKET, ""),
    ("--pod @visitor --dst 10.200.0.33:80", ""),
];
