// SPDX-License-Identifier: MIT OR Apache-2.0
//! Flows and packets of a healthy lab: of none of them is there a cause.

use super::{EGW, EGW2, NODEPORT, POD2, SVC};
use crate::{faults::MESH, probe::Probe};

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
    ("--pod @visitor --dst 172.16.25.183:80", "--pod @visitor --dst [fd00:172::183]:80"),
    ("--pod @visitor --dst 198.51.100.10:80", ""),
    ("--pod @visitor --dst 172.16.25.183:7 --proto udp", ""),
    ("--pod @visitor --dst 172.16.25.183 --proto icmp", "--pod @visitor --dst fd00:172::183 --proto icmp"),
    ("--pod @visitor --dst 10.200.1.22:80", "--pod @visitor --dst [fd00:200:2::22]:80"),
    ("--pod @visitor --dst 10.200.0.23:80", "--pod @visitor --dst [fd00:200:1::23]:80"),
    ("--pod @visitor --dst 10.96.100.100:80", ""),
    ("--pod @visitor --dst 10.96.0.10:53 --proto udp", ""),
    ("--src 172.16.25.183 --dst 172.16.25.11:30897", ""),
    ("--pod @mesh --dst 10.200.1.22:80", ""),
    ("--pod @visitor --dst 10.200.0.33:80", ""),
];
