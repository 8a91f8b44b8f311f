// SPDX-License-Identifier: MIT OR Apache-2.0
//! The same causes elsewhere: other devices, hooks, tables, kinds of rules, families; two faults at once; one
//! node watched; and things that look odd and are healthy.

use super::{Case, Fix, Says, Watch};
use crate::{
    Backend,
    probe::Probe,
    topology::Family::{self, V4, V6},
};

/// What is done to a healthy lab.
#[derive(Clone, Copy, Debug)]
pub enum What {
    /// A fault of the catalogue, with its probe.
    Fault(&'static str),
    /// Faults of the catalogue, then lines in places. At the beginning `ipt`: the lab's iptables; `serve KIND …`: a
    /// server of the lab; `stop NAME`: one that runs.
    Lines {
        probe: Probe,
        faults: &'static [&'static str],
        lines: &'static [(&'static str, &'static str)],
        /// From the end of the probe to the end of the trace.
        wait_ms: u64,
    },
}

pub(crate) const EGW: &str = "--pod @visitor --dst {ext}";
pub(crate) const EGW2: &str = "--pod @visitor --dst {ext2}";
pub(crate) const POD2: &str = "--pod @visitor --dst {pod2}";
pub(crate) const PODB: &str = "--pod @visitor --dst {podb}";
pub(crate) const SVC: &str = "--pod @visitor --dst {svc}";
pub(crate) const NODEPORT: &str = "--src {ext} --dst {node1}";

pub(super) const NFT: &[Backend] = &[Backend::Nft];
pub(crate) const BOTH: &[Backend] = &[Backend::Nft, Backend::Legacy];
pub(crate) const FOUR: &[Family] = &[V4];
pub(crate) const EACH: &[Family] = &[V4, V6];

type Lines = &'static [(&'static str, &'static str)];

pub(super) const fn lines(
    name: &'static str,
    probe: Probe,
    flow: &'static str,
    lines: Lines,
    causes: &'static [&'static str],
) -> Case {
    Case {
        name,
        what: What::Lines { probe, faults: &[], lines, wait_ms: 400 },
        says: Says { flow, traced: causes, checked: None, checked6: None, fix: Fix::Any },
        watch: Watch::Both,
        families: FOUR,
        backends: NFT,
        all: false,
    }
}

impl Case {
    pub(super) const fn of(mut self, families: &'static [Family], backends: &'static [Backend]) -> Self {
        self.families = families;
        self.backends = backends;
        self
    }

    pub(super) const fn on(mut self, watch: Watch) -> Self {
        self.watch = watch;
        self
    }

    /// What a check names first.
    pub(super) const fn checked(mut self, causes: &'static [&'static str]) -> Self {
        self.says = self.says.checked(causes);
        self
    }

    /// The fix that is printed mends it.
    pub(super) const fn mends(mut self) -> Self {
        self.says.fix = Fix::Mends;
        self
    }

    /// All of the causes are to be named.
    pub(super) const fn all(mut self) -> Self {
        self.all = true;
        self
    }

    pub(super) const fn waiting(mut self, ms: u64) -> Self {
        if let What::Lines { probe, faults, lines, .. } = self.what {
            self.what = What::Lines { probe, faults, lines, wait_ms: ms };
        }
        self
    }

    pub(super) const fn after(mut self, names: &'static [&'static str]) -> Self {
        if let What::Lines { probe, lines, wait_ms, .. } = self.what {
            self.what = What::Lines { probe, faults: names, lines, wait_ms };
        }
        self
    }
}

const RULE: &[&str] = &["dropped-by-rule"];
const POLICY: &[&str] = &["dropped-by-policy"];
const REJECTED: &[&str] = &["rejected-by-rule"];

/// Tried by hand, and before a release.
pub const VARIANTS: &[Case] = &[
    // Drops by rules: other tables, hooks, kinds.
    lines("raw-drop", Probe::Egw, EGW, &[("node1", "ipt -t raw -I PREROUTING -s {visitor} -p tcp -j DROP")], RULE)
        .of(EACH, BOTH),
    lines("mangle-forward-drop", Probe::Egw, EGW, &[("node2", "ipt -t mangle -I FORWARD -d {ext} -j DROP")], RULE)
        .of(EACH, BOTH),
    lines("mangle-postrouting-drop", Probe::Pod2, POD2, &[("node1", "ipt -t mangle -I POSTROUTING -d {pod2} -j DROP")], RULE)
        .of(EACH, BOTH),
    lines("input-of-pod-drop", Probe::Podb, PODB, &[("podb", "ipt -I INPUT -p tcp --dport 80 -j DROP")], RULE)
        .of(FOUR, BOTH),
    lines("set-drop", Probe::Pod2, POD2, &[
        ("node1", "ipset create bad hash:ip family {inet}"),
        ("node1", "ipset add bad {pod2}"),
        ("node1", "ipt -I FORWARD -m set --match-set bad dst -j DROP"),
    ], RULE).of(EACH, BOTH),
    lines("chain-drop", Probe::Pod2, POD2, &[
        ("node2", "ipt -N guard"),
        ("node2", "ipt -A guard -p tcp -m multiport --dports 80,443 -m comment --comment guarded -j DROP"),
        ("node2", "ipt -I FORWARD -m conntrack --ctstate NEW -j guard"),
    ], RULE).of(EACH, BOTH),
    lines("reply-drop", Probe::Egw, EGW, &[("node2", "ipt -I FORWARD -s {ext} -j DROP")], RULE).of(EACH, BOTH),
    lines("limit-drop", Probe::Pod2, POD2, &[
        ("node1", "ipt -I FORWARD -d {pod2} -j DROP"),
        ("node1", "ipt -I FORWARD -d {pod2} -m limit --limit 1/h --limit-burst 1 -j ACCEPT"),
    ], RULE).of(FOUR, BOTH),
    lines("flannel-input-drop", Probe::Pod2, POD2, &[("node1", "ipt -I INPUT -p udp --dport 8472 -j DROP")], RULE)
        .of(FOUR, BOTH),
    lines("outer-output-drop", Probe::Egw, EGW, &[("node1", "ipt -I OUTPUT -p udp --dport 7789 -j DROP")], RULE)
        .of(FOUR, BOTH),
    lines("output-policy", Probe::Egw, EGW, &[("visitor", "ipt -P OUTPUT DROP")], POLICY).of(FOUR, BOTH),
    lines("forward-policy", Probe::Pod2, POD2, &[
        ("node2", "ipt -P FORWARD DROP"),
        ("node2", "ipt -F FORWARD"),
    ], POLICY).of(EACH, BOTH),
    lines("nft-forward-drop", Probe::Pod2, POD2, &[
        ("node1", "nft add table inet fw"),
        ("node1", "nft add chain inet fw forward { type filter hook forward priority 10 ; }"),
        ("node1", "nft add rule inet fw forward {nftip} daddr {pod2} tcp dport 80 counter drop"),
    ], RULE).of(EACH, BOTH),
    lines("nft-map-drop", Probe::Pod2, POD2, &[
        ("node1", "nft add table inet fw"),
        ("node1", "nft add chain inet fw guard"),
        ("node1", "nft add rule inet fw guard drop"),
        ("node1", "nft add chain inet fw forward { type filter hook forward priority 10 ; }"),
        ("node1", "nft add rule inet fw forward {nftip} daddr . tcp dport vmap { {pod2} . 80 : jump guard }"),
    ], RULE).of(EACH, NFT),
    lines("nft-chance-drop", Probe::Pod2, POD2, &[
        ("node1", "nft add table inet fw"),
        ("node1", "nft add chain inet fw forward { type filter hook forward priority 10 ; }"),
        ("node1", "nft add rule inet fw forward {nftip} daddr {pod2} numgen random mod 2 vmap { 0 : drop , 1 : drop }"),
    ], RULE).of(EACH, NFT),
    lines("nft-device-drop", Probe::Pod2, POD2, &[
        ("node2", "nft add table netdev nd"),
        ("node2", "nft add chain netdev nd in { type filter hook ingress device eth0 priority 0 ; }"),
        ("node2", "nft add rule netdev nd in udp dport 8472 drop"),
    ], RULE),
    lines("nft-bridge-drop", Probe::Podb, PODB, &[
        ("node1", "nft add table bridge br"),
        ("node1", "nft add chain bridge br f { type filter hook forward priority 0 ; }"),
        ("node1", "nft add rule bridge br f {nftip} daddr {podb} tcp dport 80 drop"),
    ], RULE).of(EACH, NFT),
    lines("queue-without-reader", Probe::Pod2, POD2, &[
        ("node2", "ipt -I FORWARD -d {pod2} -p tcp -j NFQUEUE --queue-num 9"),
    ], RULE).of(EACH, BOTH),
    lines("ttl-taken", Probe::Pod2, POD2, &[
        ("node2", "ipt -t mangle -I PREROUTING -d {pod2} -j TTL --ttl-set 1"),
    ], RULE).of(FOUR, BOTH),
    lines("length-drop", Probe::Pod2, POD2, &[
        ("node2", "ipt -I FORWARD -d {pod2} -p tcp -m length --length 0:100 -j DROP"),
    ], RULE).of(FOUR, NFT),
    lines("nft-input-policy", Probe::Egw, EGW, &[
        ("node2", "nft add table inet fw"),
        ("node2", "nft add chain inet fw in { type filter hook input priority 5 ; policy drop ; }"),
        ("node2", "nft add rule inet fw in ip protocol icmp accept"),
    ], POLICY),
    lines("nft-set-drop", Probe::Pod2, POD2, &[
        ("node2", "nft add table inet fw"),
        ("node2", "nft add set inet fw bad { type ipv4_addr ; flags interval ; }"),
        ("node2", "nft add element inet fw bad { 10.200.0.0/24 }"),
        ("node2", "nft add chain inet fw pre { type filter hook prerouting priority -160 ; }"),
        ("node2", "nft add rule inet fw pre ip saddr @bad tcp dport { 80, 443 } drop"),
    ], RULE),
    lines("nft-reject", Probe::Pod2, POD2, &[
        ("node1", "nft add table inet fw"),
        ("node1", "nft add chain inet fw forward { type filter hook forward priority 10 ; }"),
        ("node1", "nft add rule inet fw forward tcp dport 80 {nftip} daddr {pod2} reject with icmpx type admin-prohibited"),
    ], REJECTED).of(EACH, NFT),
    lines("reject-tcp-reset", Probe::Pod2, POD2, &[
        ("node1", "ipt -I FORWARD -d {pod2} -p tcp -j REJECT --reject-with tcp-reset"),
    ], REJECTED).of(EACH, BOTH),
    lines("reject-prohibited", Probe::Pod2, POD2, &[
        ("node2", "ipt -I FORWARD -d {pod2} -j REJECT --reject-with icmp-admin-prohibited"),
    ], REJECTED).of(FOUR, BOTH),
    // Routes.
    lines("route-unreachable", Probe::Pod2, POD2, &[
        ("node1", "{ip} route del {pods2}"),
        ("node1", "{ip} route add unreachable {pods2}"),
    ], &["route-unreachable"]).of(EACH, NFT),
    lines("route-prohibit", Probe::Pod2, POD2, &[
        ("node1", "{ip} route del {pods2}"),
        ("node1", "{ip} route add prohibit {pods2}"),
    ], &["route-prohibit"]).of(EACH, NFT),
    lines("gateway-blackhole", Probe::Egw2, EGW2, &[
        ("node1", "ipset del {src} {visitor}"),
        ("node1", "{ip} route add blackhole {ext2net}"),
    ], &["route-blackhole"]).of(EACH, NFT),
    lines("rule-unreachable", Probe::Egw2, EGW2, &[
        ("node1", "{ip} rule add from {visitor} to {ext2net} priority 50 unreachable"),
    ], &["route-unreachable", "no-route"]).of(FOUR, NFT),
    lines("wrong-gateway", Probe::Egw2, EGW2, &[("node1", "ip route replace 198.51.100.0/24 via 172.16.25.250")], &["neighbour-silent"])
        .waiting(3500),
    // Tunnels.
    lines("fdb-wrong-node", Probe::Egw, EGW, &[
        ("node1", "bridge fdb replace {mac2} dev egress.vxlan dst 172.16.25.99 self permanent"),
    ], &["tunnel-peer-wrong"]).waiting(3500),
    lines("neigh-wrong-mac", Probe::Egw, EGW, &[
        ("node1", "ip neigh replace {tunnel2} lladdr 66:00:00:00:00:01 dev egress.vxlan nud permanent"),
    ], &["tunnel-peer-missing"]).of(EACH, NFT),
    lines("vni-mismatch", Probe::Egw, EGW, &[
        ("node2", "ip link del egress.vxlan"),
        ("node2", "ip link add egress.vxlan type vxlan id 101 dstport 7789 local 172.16.25.12 dev eth0 nolearning"),
        ("node2", "ip link set egress.vxlan address {mac2} up"),
    ], &["tunnel-vni-unknown"]),
    lines("vxlan-port-mismatch", Probe::Egw, EGW, &[
        ("node2", "ip link del egress.vxlan"),
        ("node2", "ip link add egress.vxlan type vxlan id 100 dstport 7790 local 172.16.25.12 dev eth0 nolearning"),
        ("node2", "ip link set egress.vxlan address {mac2} up"),
    ], &["tunnel-not-listening"]),
    lines("egress-device-gone-gw", Probe::Egw, EGW, &[("node2", "ip link del egress.vxlan")], &["tunnel-not-listening"])
        .of(EACH, NFT),
    lines("rpf-all", Probe::Egw, EGW, &[
        ("node2", "sysctl -q -w net.ipv4.conf.egress/vxlan.rp_filter=0"),
        ("node2", "sysctl -q -w net.ipv4.conf.all.rp_filter=1"),
    ], &["reverse-path-filter"]),
    // Sysctls.
    lines("forwarding-of-device", Probe::Egw, EGW, &[("node1", "sysctl -q -w net.ipv4.conf.cni0.forwarding=0")], &["forwarding-off"]),
    lines("forwarding-gateway", Probe::Egw, EGW, &[("node2", "sysctl -q -w net.ipv4.ip_forward=0")], &["forwarding-off"]),
    // Sizes and queues.
    lines("small-bridge", Probe::UpPod2, POD2, &[("node2", "ip link set cni0 mtu 1300")], &["packet-too-big"]),
    lines("queue-of-bridge", Probe::Down, EGW, &[
        ("node1", "tc qdisc add dev vethpod root tbf rate 200kbit burst 1600 limit 3000"),
    ], &["queue-full"]),
    // Hosts beyond.
    lines("ext-port-closed", Probe::ExtClosed, EGW, &[], &["port-closed"]).of(EACH, NFT),
    lines("ext-rejects", Probe::Egw, EGW, &[("ext", "ipt -I INPUT -p tcp --dport 80 -j REJECT")], &["unreachable-beyond"])
        .of(EACH, NFT),
    lines("router-rejects", Probe::Egw2, EGW2, &[
        ("ul", "ipt -I FORWARD -p tcp -d {ext2} -j REJECT --reject-with icmp-host-prohibited"),
    ], &["unreachable-beyond", "no-answer"]),
    lines("ext-ignores-udp", Probe::Udp, EGW, &[("ext", "ipt -I INPUT -p udp --dport 7 -j DROP")], &["no-answer"])
        .of(EACH, NFT).waiting(1500),
    lines("ext-ignores-ping", Probe::Ping, EGW, &[("ext", "sysctl -q -w net.ipv4.icmp_echo_ignore_all=1")], &["no-answer"])
        .waiting(1500),
    // Services.
    lines("svc-rule-gone", Probe::Svc, SVC, &[("node1", "ipt -t nat -D KUBE-SERVICES 1")], &["service-not-translated"])
        .of(EACH, BOTH),
    lines("svc-jump-gone", Probe::Svc, SVC, &[
        ("node1", "ipt -t nat -F PREROUTING"),
    ], &["service-not-translated"]).of(FOUR, BOTH),
    lines("svc-accept-before", Probe::Svc, SVC, &[("node1", "ipt -t nat -I PREROUTING -s {visitor} -j ACCEPT")], &["service-not-translated"])
        .of(EACH, BOTH),
    lines("svc-untracked", Probe::Svc, SVC, &[("node1", "ipt -t raw -I PREROUTING -s {visitor} -j NOTRACK")], &["service-not-translated"])
        .of(FOUR, BOTH),
    lines("svc-dead-endpoint", Probe::Svc, SVC, &[
        ("node1", "ipt -t nat -I KUBE-SERVICES -d {svc} -p tcp -j DNAT --to-destination 10.200.1.77:80"),
    ], &["neighbour-silent"]).waiting(3500),
    // EgressGateway.
    lines("mark-replaced", Probe::Egw, EGW, &[
        ("node1", "ipt -t mangle -I PREROUTING 2 -s {visitor} -j MARK --set-mark 0x123"),
    ], &["egress-not-handled"]).of(FOUR, BOTH),
    lines("mark-rule-gone", Probe::Egw, EGW, &[("node1", "ipt -t mangle -F EGRESSGATEWAY-MARK-REQUEST")], &["egress-not-handled"])
        .of(EACH, BOTH),
    lines("accept-before-mark", Probe::Egw, EGW, &[("node1", "ipt -t mangle -I PREROUTING -s {visitor} -j ACCEPT")], &["egress-not-handled"])
        .of(EACH, BOTH),
    lines("accept-before-snat", Probe::Egw, EGW, &[("node2", "ipt -t nat -I POSTROUTING -d {ext} -j ACCEPT")], &["left-without-snat"])
        .of(EACH, BOTH),
    lines("other-snat-first", Probe::Egw, EGW, &[
        ("node2", "ipt -t nat -I POSTROUTING -d {ext} -j SNAT --to-source {node2}"),
    ], &["snat-to-another-address"]).of(EACH, BOTH),
    // Pods.
    lines("pod-no-route", Probe::Pod2, POD2, &[("visitor", "{ip} route del default")], &["no-route"])
        .of(EACH, NFT).waiting(1200),
    lines("veth-down", Probe::Podb, PODB, &[("node1", "ip link set vethpodb down")], &["neighbour-silent"]).waiting(3500),
    lines("gateway-wrong-mac", Probe::Pod2, POD2, &[
        ("visitor", "ip neigh replace {cni0} lladdr 02:00:00:00:00:99 dev eth0 nud permanent"),
    ], &["frame-for-another-host"]).waiting(1500),
    lines("eip-unclaimed", Probe::Egw, EGW, &[], &["source-unclaimed"]).of(EACH, NFT).after(&["eip-no-arp"]).on(Watch::Node2),
    lines("eip-unclaimed-udp", Probe::Udp, EGW, &[], &["source-unclaimed"]).after(&["eip-no-arp"]).waiting(2500),
    // Two at once.
    lines("order-and-size", Probe::Up, EGW, &[], &["snat-to-another-address", "packet-too-big"])
        .after(&["snat-order", "mtu-egress"]).all(),
    lines("unselected-and-refused", Probe::ExtClosed, EGW, &[], &["egress-pod-not-selected", "port-closed"])
        .after(&["policy-src-miss"]).all(),
    lines("two-rules", Probe::Pod2, POD2, &[
        ("node1", "ipt -I FORWARD -d {pod2} -p tcp --syn -m statistic --mode nth --every 2 --packet 0 -j DROP"),
        ("node2", "ipt -I FORWARD -d {pod2} -p tcp --syn -j DROP"),
    ], RULE),
    // One node.
    lines("fwd-drop", Probe::Egw, EGW, &[], &["dropped-by-policy"]).after(&["fwd-drop"]).on(Watch::Node2),
    lines("fwd-drop-elsewhere", Probe::Egw, EGW, &[], &["no-answer"]).after(&["fwd-drop"]).on(Watch::Node1),
    lines("eip-none", Probe::Egw, EGW, &[], &["left-without-snat"]).after(&["eip-none"]).on(Watch::Node2),
    lines("eip-none-elsewhere", Probe::Egw, EGW, &[], &["no-answer"]).after(&["eip-none"]).on(Watch::Node1),
    lines("rule-missing", Probe::Egw, EGW, &[], &["fwmark-without-rule"]).after(&["rule-missing"]).on(Watch::Node1),
    lines("vxlan-down-elsewhere", Probe::Egw, EGW, &[], &["no-answer", "tunnel-not-listening"])
        .after(&["vxlan-down-gw"]).on(Watch::Node1),
    lines("masqueraded-elsewhere", Probe::Egw, "--dst {ext}", &[], &["masqueraded-before-tunnel"])
        .after(&["nat-accept-missing"]).on(Watch::Node2),
    lines("src-miss-one-node", Probe::Egw, EGW, &[], &["egress-pod-not-selected"])
        .after(&["policy-src-miss"]).on(Watch::Node1),
    lines("route-missing-one-node", Probe::Pod2, POD2, &[], &["pod-route-missing"])
        .after(&["route-missing"]).on(Watch::Node1),
    // Healthy.
    lines("healthy-one-node", Probe::Egw, EGW, &[], &[]).of(EACH, BOTH).on(Watch::Node1).waiting(1500),
    lines("healthy-gateway", Probe::Egw, EGW, &[], &[]).of(EACH, BOTH).on(Watch::Node2).waiting(1500),
    lines("healthy-service-one-node", Probe::Svc, SVC, &[], &[]).of(EACH, BOTH).on(Watch::Node1),
    lines("healthy-pod-one-node", Probe::Pod2, POD2, &[], &[]).of(EACH, NFT).on(Watch::Node1).waiting(1500),
    lines("healthy-egress", Probe::Egw, EGW, &[], &[]).of(EACH, BOTH),
    lines("healthy-ping", Probe::Ping, EGW, &[], &[]).of(EACH, NFT).waiting(1500),
    lines("healthy-udp", Probe::Udp, EGW, &[], &[]).of(EACH, NFT).waiting(1500),
    lines("healthy-big", Probe::Up, EGW, &[], &[]).of(EACH, NFT),
    lines("healthy-unselected", Probe::PodbEgw, "--pod @podb --dst {ext}", &[], &[]).of(EACH, NFT),
    lines("healthy-log", Probe::OneWay, EGW, &[("ext", "ipt -I INPUT -p udp --dport 514 -j DROP")], &[]).waiting(1800),
    lines("healthy-rules", Probe::Egw, EGW, &[
        ("node1", "ipt -I FORWARD -s 192.0.2.0/24 -j DROP"),
        ("node1", "ipt -I FORWARD -m limit --limit 10/s -j LOG"),
        ("node2", "ipt -t raw -I PREROUTING -p udp --dport 4789 -j NOTRACK"),
        ("node2", "ipt -I INPUT -m conntrack --ctstate INVALID -j DROP"),
        ("node2", "nft add table inet fw"),
        ("node2", "nft add chain inet fw in { type filter hook input priority 5 ; policy accept ; }"),
    ], &[]).of(FOUR, BOTH),
];
