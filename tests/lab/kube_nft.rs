// SPDX-License-Identifier: MIT OR Apache-2.0
//! kube-proxy in nftables mode, as text for `nft -f`: the tables, chains, maps and rules that it writes (Kubernetes 1.31
//! on), for the lab's services.

use std::fmt::Write as _;

use crate::topology::{self as t, Family, NODE_PORT};

/// Of both nodes; default/empty has no endpoints.
pub fn text(family: Family) -> String {
    let ip = family.pick("ip", "ip6");
    let address = family.pick("ipv4_addr", "ipv6_addr");
    let own = format!("{ip} kube-proxy");
    let mut out = String::new();
    line!(out, "add table {own} {{ comment \"rules for kube-proxy\" ; }}");
    line!(out, "add set {own} cluster-ips {{ type {address} ; comment \"Active ClusterIPs\" ; }}");
    line!(
        out,
        "add set {own} nodeport-ips {{ type {address} ; comment \"IPs that accept NodePort traffic\" ; }}"
    );
    for map in ["firewall-ips", "no-endpoint-services", "service-ips"] {
        line!(out, "add map {own} {map} {{ type {address} . inet_proto . inet_service : verdict ; }}");
    }
    for map in ["no-endpoint-nodeports", "service-nodeports"] {
        line!(out, "add map {own} {map} {{ type inet_proto . inet_service : verdict ; }}");
    }
    for (chain, kind, hook, priority) in [
        ("filter-prerouting-pre-dnat", "filter", "prerouting", -110),
        ("filter-output-pre-dnat", "filter", "output", -110),
        ("filter-forward", "filter", "forward", 0),
        ("filter-input", "filter", "input", 0),
        ("filter-output", "filter", "output", 0),
        ("nat-prerouting", "nat", "prerouting", -100),
        ("nat-output", "nat", "output", -100),
        ("nat-postrouting", "nat", "postrouting", 100),
    ] {
        line!(out, "add chain {own} {chain} {{ type {kind} hook {hook} priority {priority} ; }}");
    }
    let chains = [
        "cluster-ips-check",
        "firewall-check",
        "mark-for-masquerade",
        "masquerading",
        "nodeport-endpoints-check",
        "reject-chain",
        "services",
        "service-endpoints-check",
    ];
    for chain in chains {
        line!(out, "add chain {own} {chain}");
    }
    let key = format!("{ip} daddr . meta l4proto . th dport");
    let services = family.pick("10.96.0.0/12", "fd00:96::/112");
    for (chain, rule) in [
        (
            "cluster-ips-check",
            format!(
                "{ip} daddr @cluster-ips reject comment \"Reject traffic to invalid ports of ClusterIPs\""
            ),
        ),
        (
            "cluster-ips-check",
            format!("{ip} daddr {{ {services} }} drop comment \"Drop traffic to unallocated ClusterIPs\""),
        ),
        ("filter-prerouting-pre-dnat", "ct state new jump firewall-check".into()),
        ("filter-forward", "ct state new jump service-endpoints-check".into()),
        ("filter-forward", "ct state new jump cluster-ips-check".into()),
        ("filter-input", "ct state new jump nodeport-endpoints-check".into()),
        ("filter-input", "ct state new jump service-endpoints-check".into()),
        ("filter-output", "ct state new jump service-endpoints-check".into()),
        ("filter-output-pre-dnat", "ct state new jump firewall-check".into()),
        ("filter-output", "ct state new jump cluster-ips-check".into()),
        ("firewall-check", format!("{key} vmap @firewall-ips")),
        ("mark-for-masquerade", "meta mark set meta mark or 0x4000".into()),
        ("masquerading", "meta mark and 0x4000 == 0 return".into()),
        ("masquerading", "meta mark set meta mark xor 0x4000".into()),
        ("masquerading", "masquerade fully-random".into()),
        ("nat-output", "jump services".into()),
        ("nat-postrouting", "jump masquerading".into()),
        ("nat-prerouting", "jump services".into()),
        (
            "nodeport-endpoints-check",
            format!("{ip} daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports"),
        ),
        ("reject-chain", "reject".into()),
        ("services", format!("{key} vmap @service-ips")),
        ("services", format!("{ip} daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports")),
        ("service-endpoints-check", format!("{key} vmap @no-endpoint-services")),
    ] {
        line!(out, "add rule {own} {chain} {rule}");
    }
    for node in [&t::NODE1, &t::NODE2] {
        line!(out, "add element {own} nodeport-ips {{ {} }}", node.ip(family));
    }
    service(
        &mut out,
        family,
        ("VALHGL43-default/nginx-expose/tcp/", "4QMHXJZB"),
        (t::cluster_ip(family), 80),
        "tcp",
    );
    service(
        &mut out,
        family,
        ("TCOU7JCQ-kube-system/kube-dns/udp/dns", "L4M7OANZ"),
        (t::dns_service(family), 53),
        "udp",
    );
    let (svc, external) =
        ("service-VALHGL43-default/nginx-expose/tcp/", "external-VALHGL43-default/nginx-expose/tcp/");
    line!(out, "add chain {own} {external}");
    line!(out, "add rule {own} {external} jump mark-for-masquerade");
    line!(out, "add rule {own} {external} goto {svc}");
    line!(out, "add element {own} service-nodeports {{ tcp . {NODE_PORT} : goto {external} }}");
    let empty = t::empty_service(family);
    line!(out, "add element {own} cluster-ips {{ {empty} }}");
    line!(
        out,
        "add element {own} no-endpoint-services {{ {empty} . tcp . 80 comment \"default/empty\" : goto reject-chain }}"
    );
    out
}

/// One with a single endpoint, pod2.
fn service(
    out: &mut String,
    family: Family,
    (name, hash): (&str, &str),
    (address, port): (std::net::IpAddr, u16),
    proto: &str,
) {
    let ip = family.pick("ip", "ip6");
    let own = format!("{ip} kube-proxy");
    let (pod, pods) = (t::pod2(family), t::cluster_cidr(family));
    let shown = family.pick(pod.to_string(), format!("[{pod}]"));
    // nft takes no colon in a chain's name.
    let dotted = pod.to_string().replace(':', ".");
    let endpoint =
        format!("endpoint-{hash}-{}__{dotted}/{port}", name.split_once('-').map_or(name, |(_, name)| name));
    let service = format!("service-{name}");
    line!(out, "add chain {own} {endpoint}");
    line!(out, "add rule {own} {endpoint} {ip} saddr {pod} jump mark-for-masquerade");
    line!(out, "add rule {own} {endpoint} meta l4proto {proto} dnat to {shown}:{port}");
    line!(out, "add chain {own} {service}");
    line!(out, "add rule {own} {service} {ip} daddr {address} {ip} saddr != {pods} jump mark-for-masquerade");
    line!(out, "add rule {own} {service} numgen random mod 1 vmap {{ 0 : goto {endpoint} }}");
    line!(out, "add element {own} cluster-ips {{ {address} }}");
    line!(out, "add element {own} service-ips {{ {address} . {proto} . {port} : goto {service} }}");
}
