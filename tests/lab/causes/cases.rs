// SPDX-License-Identifier: MIT OR Apache-2.0
//! The catalogue's faults and the causes that are right for them.

use super::{Case, Watch, What};
use crate::{Backend, probe::Probe, topology::Family};

const EGW: &str = "--pod @visitor --dst {ext}";
const EGW2: &str = "--pod @visitor --dst {ext2}";
const POD2: &str = "--pod @visitor --dst {pod2}";
const SVC: &str = "--pod @visitor --dst {svc}";
const NODEPORT: &str = "--src {ext} --dst {node1}";
const MESH: &str = "--pod @mesh --dst {pod2}";

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
    }
}

/// Followed on both nodes.
pub const CASES: &[Case] = &[
    case("egw-agent-down", EGW, &["egress-not-handled"]),
    case("policy-src-miss", EGW, &["egress-pod-not-selected"]),
    case("policy-dst-miss", EGW, &["egress-destination-not-selected"]),
    case("eip-none", EGW, &["left-without-snat"]),
    case("snat-order", EGW, &["snat-to-another-address"]),
    case("nat-accept-missing", EGW, &["masqueraded-before-tunnel"]),
    case("rule-missing", EGW, &["fwmark-without-rule"]),
    case("mark-not-cleared", EGW, &["tunnel-into-itself"]),
    case("fwd-drop", EGW, &["dropped-by-policy"]),
    case("calico-insert", EGW, &["masqueraded-before-tunnel"]),
    case("calico-insert-nonat", EGW, &["only-first-packet-marked"]),
    case("calico-append", EGW, &[]),
    case("vxlan-missing", EGW, &["fwmark-table-empty"]),
    case("vxlan-down-gw", EGW, &["tunnel-not-listening"]),
    case("vxlan-no-neigh", EGW, &["tunnel-neighbour-missing"]),
    case("vxlan-no-fdb", EGW, &["tunnel-peer-missing"]),
    case("vxlan-wrong-mac", EGW, &["tunnel-wrong-mac"]),
    case("underlay-block-vxlan", EGW, &["dropped-by-rule"]),
    case("ttl-loop", EGW, &["routing-loop"]),
    case("rpf-gw", EGW, &["reverse-path-filter"]),
    case("eip-no-arp", EGW, &["source-unclaimed"]),
    case("gw-no-route", EGW2, &["no-route"]),
    case("eip-ports", EGW, &["no-snat-port"]),
    case("mtu-egress", EGW, &["packet-too-big"]),
    case("pmtu-blackhole", EGW, &["path-mtu-black-hole"]),
    case("pod-bad-gw", POD2, &["neighbour-silent"]),
    case("pod-no-route", POD2, &["no-route"]),
    case("veth-detached", POD2, &["port-not-in-bridge"]),
    case("flannel-down", POD2, &["tunnel-not-listening"]),
    case("route-missing", POD2, &["pod-route-missing"]),
    case("route-blackhole", POD2, &["route-blackhole"]),
    case("nic-queue", POD2, &["queue-full"]),
    case("latency", EGW, &["waits-in-queue"]),
    case("mtu-flannel", POD2, &["path-mtu-black-hole"]),
    case("br-fwd-drop", "--pod @visitor --dst {podb}", &["dropped-by-policy"]),
    case("fw-in", EGW, &["no-answer"]),
    case("fw-out", EGW, &["dropped-by-rule"]),
    case("fw-fwd", POD2, &["dropped-by-rule"]),
    case("netpol", POD2, &["dropped-by-rule"]),
    case("kube-invalid", POD2, &["conntrack-invalid"]),
    case("ct-full", POD2, &["conntrack-full"]),
    case("svc-no-kubeproxy", SVC, &["service-not-translated"]),
    case("svc-no-endpoints", "--pod @visitor --dst {empty}", &["rejected-by-rule"]),
    case("svc-targetport", SVC, &["port-closed"]),
    case("port-closed", POD2, &["port-closed"]),
    case("listen-overflow", POD2, &["accept-queue-full"]),
    case("nodeport-nomasq", NODEPORT, &["service-not-masqueraded"]),
    case("nodeport-local", NODEPORT, &["dropped-by-rule"]),
    case("nft-ok", SVC, &[]),
    case("nft-no-endpoints", "--pod @visitor --dst {empty}", &["rejected-by-rule"]),
    case("nft-no-port", SVC, &["rejected-by-rule"]),
    case("nft-source-ranges", SVC, &["dropped-by-rule"]),
    case("dns-down", POD2, &["port-closed"]),
    case("stale-udp", "--pod @visitor --dst 10.96.0.53", &["neighbour-silent"]),
    case("calico-overlap", "--pod @cpod --dst 10.96.0.1", &["pod-address-on-the-wire"]),
    case("ip-forward", EGW, &["forwarding-off"]),
    case("bridge-nf", "--pod @visitor --dst 10.96.100.101", &["reply-from-another-address"]),
    case("docker-ok", NODEPORT, &[]),
    case("docker-fwd-drop", NODEPORT, &["dropped-by-policy"]),
    case("mark-late", EGW, &["mark-after-routing", "egress-pod-not-selected"]),
    case("rpf-multinic", EGW2, &["reverse-path-filter"]),
    case("osm-ok", MESH, &[]),
    case("osm-envoy-down", MESH, &["redirected-to-nobody"]),
    case("osm-no-rules", MESH, &["sidecar-bypassed"]),
    case("osm-uid", MESH, &["redirect-loop"]),
    case("osm-port-excl", MESH, &["redirected-to-nobody"]),
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
