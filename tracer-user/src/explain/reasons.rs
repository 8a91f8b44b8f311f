// SPDX-License-Identifier: MIT OR Apache-2.0
//! Drop reasons that say all there is to say.

use super::catalogue as c;
use super::finding::Certainty::Certain;
use super::finding::Finding;
use super::view::View;
use crate::flow::DropSite;

/// Reason, what it means (`{dev}`, `{ns}`), command that shows it, fix.
const SIMPLE: &[(&str, &str, &str, &str)] = &[
    (
        "CPU_BACKLOG",
        "the CPU's backlog queue in {ns} is full",
        "cat /proc/net/softnet_stat",
        "sysctl -w net.core.netdev_max_backlog=10000, or spread interrupts over more CPUs",
    ),
    ("FULL_RING", "the receive ring of {dev} is full", "ethtool -S {dev}", "ethtool -G {dev} rx 4096"),
    (
        "SECURITY_HOOK",
        "a security module (SELinux, AppArmor) refuses the packet",
        "ausearch -m avc -ts recent",
        "allow it in the security module's policy",
    ),
    (
        "SOCKET_FILTER",
        "a filter on the receiving socket refuses the packet",
        "ss -nab",
        "correct the program's socket filter",
    ),
    (
        "SOCKET_RCVBUFF",
        "the receiving socket's buffer in {ns} is full: the program reads too slowly",
        "ss -nm",
        "read faster, or enlarge net.core.rmem_max and the socket's buffer",
    ),
    (
        "SOCKET_BACKLOG",
        "the receiving socket's backlog in {ns} is full: the program reads too slowly",
        "ss -nm",
        "read faster, or enlarge net.core.rmem_max and the socket's buffer",
    ),
    (
        "PROTO_MEM",
        "the memory for this protocol is used up",
        "cat /proc/net/sockstat",
        "raise net.ipv4.tcp_mem or udp_mem, or close sockets",
    ),
    (
        "TC_INGRESS",
        "a tc filter or BPF program on {dev} drops what comes in",
        "tc filter show dev {dev} ingress; bpftool net show dev {dev}",
        "correct that filter",
    ),
    (
        "TC_EGRESS",
        "a tc filter or BPF program on {dev} drops what goes out",
        "tc filter show dev {dev} egress; bpftool net show dev {dev}",
        "correct that filter",
    ),
    (
        "TC_INGRESS_HOOK",
        "a tc filter or BPF program on {dev} drops what comes in",
        "tc filter show dev {dev} ingress; bpftool net show dev {dev}",
        "correct that filter",
    ),
    ("XDP", "an XDP program on {dev} drops the packet", "bpftool net show dev {dev}", "correct that program"),
    (
        "BPF_CGROUP_EGRESS",
        "a BPF program on the sender's cgroup drops the packet",
        "bpftool cgroup tree",
        "correct that program",
    ),
    ("DEV_READY", "{dev} is not up", "ip link show {dev}", "ip link set {dev} up"),
    ("DEV_HDR", "{dev} cannot make a link-layer header", "ip link show {dev}", "recreate {dev}"),
    (
        "IP_CSUM",
        "the IP checksum of what comes in by {dev} is wrong",
        "nstat -az IpInCsumErrors",
        "look for a broken link or a device that rewrites packets",
    ),
    (
        "TCP_CSUM",
        "the TCP checksum of what comes in is wrong",
        "nstat -az TcpInCsumErrors",
        "switch checksum offload of the sending device off: ethtool -K {dev} tx off",
    ),
    (
        "UDP_CSUM",
        "the UDP checksum of what comes in is wrong",
        "nstat -az UdpInCsumErrors",
        "switch checksum offload of the sending device off: ethtool -K {dev} tx off",
    ),
    ("XFRM_POLICY", "an IPsec policy refuses the packet", "ip xfrm policy", "correct the IPsec policy"),
    (
        "UNICAST_IN_L2_MULTICAST",
        "a packet for one host came in a link-layer multicast frame",
        "ip neigh",
        "correct the neighbour entry of the sender",
    ),
    (
        "BRIDGE_INGRESS_STP_STATE",
        "the bridge port {dev} does not forward (spanning tree)",
        "bridge link show dev {dev}",
        "wait for the spanning tree, or switch it off: ip link set BRIDGE type bridge stp_state 0",
    ),
    ("DUP_FRAG", "a fragment came twice", "nstat -az IpReasmFails", "look for duplicated packets on the way"),
    (
        "FRAG_REASM_TIMEOUT",
        "fragments are missing: the packet could not be put together in time",
        "nstat -az IpReasmTimeout",
        "let no fragments be needed: lower the MTU of the sender",
    ),
    ("NOMEM", "the kernel has no memory for the packet", "free -m; dmesg | tail", "free memory on the node"),
    (
        "IP_INNOPROTO",
        "{ns} does not speak the packet's protocol",
        "nstat -az IpInUnknownProtos",
        "load the protocol's module on the receiver",
    ),
];

pub(super) fn explain(view: &View<'_>, site: &DropSite, reason: &str) -> Option<Finding> {
    let (_, title, check, fix) = SIMPLE.iter().find(|(name, ..)| *name == reason)?;
    let device = view.device_name(site.netns, site.ifindex);
    let name = view.netns(site.netns);
    let fill = |text: &str| text.replace("{dev}", &device).replace("{ns}", &name);
    Some(
        Finding::new(&c::SIMPLE, Certain, fill(title))
            .checked(format!("the kernel's reason: {reason}"), view.command(site.netns, fill(check)))
            .fix(fill(fix))
            .at(view.place(site.netns, site.ifindex)),
    )
}
