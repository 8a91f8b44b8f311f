// SPDX-License-Identifier: MIT OR Apache-2.0
//! The sysctls that decide what becomes of a packet.

use std::collections::BTreeMap;
use std::fs;

use crate::text::printable;

const SINGLE: [&str; 45] = [
    "net/bridge/bridge-nf-call-arptables",
    "net/bridge/bridge-nf-call-ip6tables",
    "net/bridge/bridge-nf-call-iptables",
    "net/core/netdev_max_backlog",
    "net/core/rmem_default",
    "net/core/rmem_max",
    "net/core/somaxconn",
    "net/ipv4/fib_multipath_hash_policy",
    "net/ipv4/fib_multipath_use_neigh",
    "net/ipv4/fwmark_reflect",
    "net/ipv4/icmp_echo_ignore_all",
    "net/ipv4/icmp_ratelimit",
    "net/ipv4/ip_default_ttl",
    "net/ipv4/ip_forward",
    "net/ipv4/ip_forward_use_pmtu",
    "net/ipv4/ip_local_port_range",
    "net/ipv4/ip_local_reserved_ports",
    "net/ipv4/ip_no_pmtu_disc",
    "net/ipv4/ip_nonlocal_bind",
    "net/ipv4/ipfrag_high_thresh",
    "net/ipv4/ipfrag_time",
    "net/ipv4/neigh/default/gc_thresh3",
    "net/ipv4/route/min_pmtu",
    "net/ipv4/tcp_abort_on_overflow",
    "net/ipv4/tcp_fwmark_accept",
    "net/ipv4/tcp_max_syn_backlog",
    "net/ipv4/tcp_mtu_probing",
    "net/ipv4/tcp_syn_retries",
    "net/ipv4/tcp_syncookies",
    "net/ipv4/tcp_timestamps",
    "net/ipv4/tcp_tw_reuse",
    "net/ipv6/fib_multipath_hash_policy",
    "net/ipv6/icmp/echo_ignore_all",
    "net/ipv6/ip6frag_high_thresh",
    "net/ipv6/neigh/default/gc_thresh3",
    "net/netfilter/nf_conntrack_acct",
    "net/netfilter/nf_conntrack_buckets",
    "net/netfilter/nf_conntrack_checksum",
    "net/netfilter/nf_conntrack_count",
    "net/netfilter/nf_conntrack_max",
    "net/netfilter/nf_conntrack_tcp_be_liberal",
    "net/netfilter/nf_conntrack_tcp_loose",
    "net/netfilter/nf_conntrack_tcp_timeout_established",
    "net/netfilter/nf_conntrack_udp_timeout",
    "net/netfilter/nf_conntrack_udp_timeout_stream",
];

const PER_DEVICE_V4: [&str; 14] = [
    "accept_local",
    "arp_announce",
    "arp_filter",
    "arp_ignore",
    "bc_forwarding",
    "disable_policy",
    "disable_xfrm",
    "forwarding",
    "ignore_routes_with_linkdown",
    "proxy_arp",
    "route_localnet",
    "rp_filter",
    "send_redirects",
    "src_valid_mark",
];
const PER_DEVICE_V6: [&str; 8] = [
    "accept_ra",
    "disable_ipv6",
    "disable_policy",
    "forwarding",
    "ignore_routes_with_linkdown",
    "proxy_ndp",
    "use_oif_addrs_only",
    "use_tempaddr",
];

/// Of the calling thread's namespace, by path under /proc/sys. What the kernel does not have is left out.
pub(super) fn read<'a>(devices: impl Iterator<Item = &'a str>) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let mut read = |path: String| {
        if let Ok(value) = fs::read(format!("/proc/sys/{path}")) {
            let value = printable(value.trim_ascii_end()).replace("\\x09", " ");
            out.insert(path, value);
        }
    };
    for path in SINGLE {
        read(path.to_owned());
    }
    // A name that is a path would lead elsewhere; the kernel allows none, and what we print has escapes.
    let plain = devices.filter(|name| !name.contains(['/', '\\']) && !name.starts_with('.'));
    for device in ["all", "default"].into_iter().chain(plain) {
        for name in PER_DEVICE_V4 {
            read(format!("net/ipv4/conf/{device}/{name}"));
        }
        for name in PER_DEVICE_V6 {
            read(format!("net/ipv6/conf/{device}/{name}"));
        }
    }
    out
}
