// SPDX-License-Identifier: MIT OR Apache-2.0
//! Drop reasons that need no further evidence.

use super::context::View;
use crate::cause::Certainty::Certain;
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::flow::DropSite;

/// What stands for kernels that give no reason there.
pub(super) const ROUTING: &str = "ip_error";

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
    (
        "ICMP_CSUM",
        "the ICMP checksum of what comes in is wrong",
        "nstat -az IcmpInCsumErrors",
        "look for a broken link or a device that rewrites packets",
    ),
    (
        "SKB_CSUM",
        "the checksum of what comes in by {dev} is wrong",
        "ethtool -S {dev}",
        "switch checksum offload of the sending device off: ethtool -K {dev} tx off",
    ),
    (
        "TCP_MD5NOTFOUND",
        "{ns} expects TCP MD5 signatures from this peer, and the segment has none",
        "nstat -az TcpExtTCPMD5NotFound",
        "give both ends the same TCP MD5 password (BGP: the neighbour's password), or neither",
    ),
    (
        "TCP_MD5UNEXPECTED",
        "the segment has a TCP MD5 signature, and {ns} has no key for this peer",
        "nstat -az TcpExtTCPMD5Unexpected",
        "give both ends the same TCP MD5 password (BGP: the neighbour's password), or neither",
    ),
    (
        "TCP_MD5FAILURE",
        "the segment's TCP MD5 signature is wrong: the two ends have different passwords, or an address or port was translated",
        "nstat -az TcpExtTCPMD5Failure",
        "give both ends the same TCP MD5 password, and do not translate the connection",
    ),
    (
        "TCP_AONOTFOUND",
        "{ns} expects TCP-AO from this peer, and the segment has none",
        "nstat -az TcpExtTCPAORequired",
        "give both ends the same TCP-AO keys, or neither",
    ),
    (
        "TCP_AOUNEXPECTED",
        "the segment has a TCP-AO option, and {ns} has no key for this peer",
        "nstat -az TcpExtTCPAOKeyNotFound",
        "give both ends the same TCP-AO keys, or neither",
    ),
    (
        "TCP_AOKEYNOTFOUND",
        "{ns} has no TCP-AO key with the segment's id",
        "nstat -az TcpExtTCPAOKeyNotFound",
        "give both ends the same TCP-AO keys",
    ),
    (
        "TCP_AOFAILURE",
        "the segment's TCP-AO signature is wrong: different keys, or an address or port was translated",
        "nstat -az TcpExtTCPAOBad",
        "give both ends the same TCP-AO keys, and do not translate the connection",
    ),
    (
        "TCP_RFC7323_PAWS",
        "the segment's timestamp is older than the one before (PAWS): several hosts behind one address, or a clock that jumped",
        "nstat -az TcpExtPAWSEstab TcpExtPAWSActive",
        "give each host an address of its own, or sysctl -w net.ipv4.tcp_timestamps=0 on the sender",
    ),
    (
        "TCP_RFC7323_TW_PAWS",
        "a new connection's timestamp is older than that of the one before on the same ports (PAWS)",
        "nstat -az TcpExtPAWSTimewait",
        "give each host behind that address ports or an address of its own, or sysctl -w net.ipv4.tcp_timestamps=0 on them",
    ),
    (
        "TCP_LISTEN_OVERFLOW",
        "the accept queue of the listening socket in {ns} is full: the server does not accept",
        "nstat -az TcpExtListenOverflows",
        "let the server accept faster, or enlarge its listen backlog and net.core.somaxconn",
    ),
    (
        "TCP_MINTTL",
        "the segment's TTL is smaller than its socket in {ns} accepts (IP_MINTTL, as BGP's TTL security sets it)",
        "nstat -az TcpExtTCPMinTTLDrop",
        "take the hops between the two away, or lower the socket's minimum TTL",
    ),
    (
        "IPV6DISABLED",
        "IPv6 is switched off on {dev} of {ns}",
        "sysctl net.ipv6.conf.{key}.disable_ipv6",
        "sysctl -w net.ipv6.conf.{key}.disable_ipv6=0",
    ),
    (
        "IP_RPFILTER",
        "the reverse path filter of {dev} refuses the packet's source: the way back to it is not by {dev}",
        "sysctl net.ipv4.conf.{key}.rp_filter",
        "let the way back lead by {dev}, or loosen its filter: sysctl -w net.ipv4.conf.{key}.rp_filter=2",
    ),
    (
        "IP_INNOROUTES",
        "{ns} has no route for the packet",
        "ip route show table all",
        "add a route for its destination, or correct the rule that chooses the table",
    ),
    (
        "IP_OUTNOROUTES",
        "{ns} has no route for the packet",
        "ip route show table all",
        "add a route for its destination, or correct the rule that chooses the table",
    ),
    (
        "IP_INADDRERRORS",
        "{ns} does not take or forward what comes in by {dev} for this address",
        "sysctl net.ipv4.ip_forward",
        "see whether {ns} forwards, and whose address that is",
    ),
    (
        ROUTING,
        "routing in {ns} refuses the packet",
        "ip route show table all",
        "see which route or ip rule refuses it, or whether {ns} forwards at all",
    ),
    (
        "NO_TX_TARGET",
        "{dev} does not know which node to send the frame to",
        "bridge fdb show dev {dev}",
        "restart the agent that writes the entries of {dev}",
    ),
    (
        "VXLAN_NO_REMOTE",
        "{dev} does not know which node to send the frame to",
        "bridge fdb show dev {dev}",
        "restart the agent that writes the entries of {dev}",
    ),
    (
        "VXLAN_VNI_NOT_FOUND",
        "no tunnel device of {ns} has the packet's VNI",
        "ip -d link show type vxlan",
        "give both ends of the tunnel the same VNI",
    ),
    (
        "XFRM_POLICY",
        "an IPsec policy of {ns} refuses the packet",
        "ip xfrm policy",
        "correct that policy, or let the sender encrypt",
    ),
    (
        "NO_SOCKET",
        "no socket of {ns} takes the packet",
        "ss -lntu",
        "start the server there, or correct the address and port",
    ),
    (
        "IP_LOCALNET",
        "a packet from or for a loopback address came in by {dev} of {ns}, where such addresses are not routed",
        "sysctl net.ipv4.conf.{key}.route_localnet",
        "translate to an address of the node instead of 127.0.0.0/8, or: sysctl -w net.ipv4.conf.{key}.route_localnet=1",
    ),
    (
        "RECURSION_LIMIT",
        "{dev} sends to itself again and again: tunnels or bridges that lead into each other",
        "ip -d link show {dev}",
        "correct the route or the bridge port that leads {dev} back into itself",
    ),
    (
        "QUEUE_PURGE",
        "a queue of {dev} was emptied while packets waited in it",
        "tc -s qdisc show dev {dev}",
        "see what replaces the qdisc of {dev} or takes it down",
    ),
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
    // sysctl(8) swaps dots and slashes.
    let key = device.replace('.', "/");
    let fill = |text: &str| text.replace("{dev}", &device).replace("{ns}", &name).replace("{key}", &key);
    Some(
        Finding::new(&c::SIMPLE, Certain, fill(title))
            .checked(format!("the kernel's reason: {reason}"), view.command(site.netns, fill(check)))
            .fix(in_place(view, site, &fill(fix)))
            .at(view.place(site.netns, site.ifindex)),
    )
}

/// A command is told as it has to be typed for the namespace.
fn in_place(view: &View<'_>, site: &DropSite, fix: &str) -> String {
    match fix.split_once("sysctl -w ") {
        Some((before, command)) => {
            format!("{before}{}", view.command(site.netns, format!("sysctl -w {command}")))
        }
        None => fix.to_owned(),
    }
}
