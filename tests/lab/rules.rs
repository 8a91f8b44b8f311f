// SPDX-License-Identifier: MIT OR Apache-2.0
//! The firewall of the lab's nodes and of its sidecar pod, as text for `iptables-restore`.
//!
//! The texts are those which the programs write: EgressGateway's agent v0.6.9 (`egw:` is the
//! beginning of a sha224 chained over the rules before, so text and order are as in the original),
//! kube-proxy in iptables mode, flannel, Calico's Felix, and OSM's init container.

use std::fmt::Write as _;

use crate::{
    spec::Spec,
    topology::{self as t, Family, MARK_DONE, NODE_PORT, NODE1, NODE2, Node},
};

/// kube-proxy's chain of default/nginx-expose.
pub const KUBE_SVC: &str = "KUBE-SVC-VALHGL435SRXPHLE";
/// kube-proxy's chain for outside traffic to default/nginx-expose.
pub const KUBE_EXT: &str = "KUBE-EXT-VALHGL435SRXPHLE";
/// kube-proxy's chain of kube-system/kube-dns:dns.
pub const KUBE_SVC_DNS: &str = "KUBE-SVC-TCOU7JCQXEZGVUNU";

/// The comment of all of EgressGateway's "done, let it pass" rules.
const ACCEPT: &str = "Accept for egress traffic from pod going to EgressTunnel";
const DATAPATH: &str = "EgressGateway traffic accept datapath rule";
const REPLY: &str = "EgressGateway reply datapath rule, rule is from the EgressGateway";

/// Matches any mark of EgressGateway.
const ANY_MARK: &str = "-m mark --mark 0x26000000/0xff000000";
/// Matches the mark of packets it is done with.
const DONE: &str = "-m mark --mark 0x26000000/0xffffffff";

/// All rules of a node, in the order in which the programs arrive on it.
pub(crate) fn node(spec: &Spec, node: &Node, family: Family) -> String {
    let mut r = kube_proxy(family) + &flannel(node, family);
    if spec.egress {
        r.push_str(&egress_gateway(node, family));
    }
    r
}

/// kube-proxy's chain of the one endpoint of default/nginx-expose.
pub fn kube_sep(family: Family) -> &'static str {
    family.pick("KUBE-SEP-4QMHXJZBBJ65X7PD", "KUBE-SEP-5YGTUDNRHAKOANCA")
}

fn kube_proxy(family: Family) -> String {
    let (svc, ext, sep, dns) = (KUBE_SVC, KUBE_EXT, kube_sep(family), KUBE_SVC_DNS);
    let dns_sep = family.pick("KUBE-SEP-L4M7OANZH7LCWEMZ", "KUBE-SEP-MIJXNDOR2WQDLRTD");
    let (cluster, pod) = (t::cluster_cidr(family), t::pod2(family));
    let shown = family.pick(pod.to_string(), format!("[{pod}]"));
    let (nginx, empty, kube_dns) = (t::cluster_ip(family), t::empty_service(family), t::dns_service(family));
    format!(
        r#"*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
:{svc} - [0:0]
:{ext} - [0:0]
:{sep} - [0:0]
:{dns} - [0:0]
:{dns_sep} - [0:0]
-I PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-SERVICES -m comment --comment "default/nginx-expose cluster IP" -m tcp -p tcp -d {nginx} --dport 80 -j {svc}
-A KUBE-SERVICES -m comment --comment "kube-system/kube-dns:dns cluster IP" -m udp -p udp -d {kube_dns} --dport 53 -j {dns}
-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-NODEPORTS -m comment --comment "default/nginx-expose" -m tcp -p tcp --dport {NODE_PORT} -j {ext}
-A {ext} -m comment --comment "masquerade traffic for default/nginx-expose external destinations" -j KUBE-MARK-MASQ
-A {ext} -j {svc}
-A {svc} -m comment --comment "default/nginx-expose cluster IP" -m tcp -p tcp -d {nginx} --dport 80 ! -s {cluster} -j KUBE-MARK-MASQ
-A {svc} -m comment --comment "default/nginx-expose -> {shown}:80" -j {sep}
-A {sep} -m comment --comment "default/nginx-expose" -s {pod} -j KUBE-MARK-MASQ
-A {sep} -m comment --comment "default/nginx-expose" -m tcp -p tcp -j DNAT --to-destination {shown}:80
-A {dns} -m comment --comment "kube-system/kube-dns:dns -> {shown}:53" -j {dns_sep}
-A {dns_sep} -m comment --comment "kube-system/kube-dns:dns" -s {pod} -j KUBE-MARK-MASQ
-A {dns_sep} -m comment --comment "kube-system/kube-dns:dns" -m udp -p udp -j DNAT --to-destination {shown}:53
COMMIT
*filter
:KUBE-NODEPORTS - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FORWARD - [0:0]
-I INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
-I INPUT -m comment --comment "kubernetes health check service ports" -j KUBE-NODEPORTS
-I FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
-I FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-I OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A KUBE-SERVICES -m comment --comment "default/empty has no endpoints" -m tcp -p tcp -d {empty} --dport 80 -j REJECT
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
"#
    )
}

fn flannel(node: &Node, family: Family) -> String {
    let own = family.pick(node.pod_cidr[0], node.pod_cidr[1]);
    let all = t::cluster_cidr(family);
    let multicast = family.pick("224.0.0.0/4", "ff00::/8");
    format!(
        r#"*nat
:FLANNEL-POSTRTG - [0:0]
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s {own} -d {all} -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s {all} -d {own} -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG ! -s {all} -d {own} -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s {all} ! -d {multicast} -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s {all} -d {all} -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
COMMIT
*filter
:FLANNEL-FWD - [0:0]
-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
-A FLANNEL-FWD -s {all} -m comment --comment "flanneld forward" -j ACCEPT
-A FLANNEL-FWD -d {all} -m comment --comment "flanneld forward" -j ACCEPT
COMMIT
"#
    )
}

/// node1 has pods only, node2 is in the EgressGateway's node list and has the policy's address.
fn egress_gateway(node: &Node, family: Family) -> String {
    let gateway = node.index == NODE2.index;
    let pod_node = &NODE1;
    let sets = format!(
        "-m set --match-set {} src -m set --match-set {} dst -m conntrack --ctdir ORIGINAL",
        t::src_set(family),
        t::dst_set(family)
    );
    let mut r = String::from("*mangle\n:EGRESSGATEWAY-MARK-REQUEST - [0:0]\n");
    if gateway {
        r.push_str(":EGRESSGATEWAY-REPLY-ROUTING - [0:0]\n");
        for (hash, matched, action) in [
            (
                "N5kMvayUA7-Yz2eS",
                format!(
                    "-i egress.vxlan -m mac --mac-source {} -m conntrack --ctdir ORIGINAL",
                    pod_node.tunnel_mac
                ),
                format!("MARK --set-mark {:#x}/0xffffffff", pod_node.mark),
            ),
            (
                "Txy12xS1O-do0ZFa",
                format!("-m mark --mark {:#x}/0xffffffff", pod_node.mark),
                "CONNMARK --save-mark --mask 0xffffffff".to_owned(),
            ),
            (
                "cV6_AHQpklygEbnM",
                format!("-i egress.vxlan -m mac --mac-source {}", pod_node.tunnel_mac),
                format!("MARK --set-mark {MARK_DONE:#x}/0xffffffff"),
            ),
            (
                "9Er_wX8u12WC9VTI",
                "-m conntrack --ctdir REPLY".to_owned(),
                "CONNMARK --restore-mark --mask 0xffffffff".to_owned(),
            ),
        ] {
            line!(r, "-A EGRESSGATEWAY-REPLY-ROUTING {} {matched} -j {action}", comments(hash, REPLY));
        }
    } else {
        line!(
            r,
            "-A EGRESSGATEWAY-MARK-REQUEST {} {sets} -j MARK --set-mark {:#x}/0xffffffff",
            comments(
                family.pick("c2Rxsf_p-hXQYsiG", "g0HvjcGDYM3I0tJe"),
                "Set mark for EgressPolicy default-test"
            ),
            node.peer().mark
        );
    }
    line!(
        r,
        "-I PREROUTING 1 {} -j EGRESSGATEWAY-MARK-REQUEST",
        comments("Lh98b3mb9WlZrgw7", "Checking for EgressPolicy matched traffic")
    );
    line!(r, "-I PREROUTING 2 {} {ANY_MARK} -j ACCEPT", comments("4vaggeYl6c-Gn0Yv", DATAPATH));
    line!(
        r,
        "-I FORWARD 1 {} {ANY_MARK} -j MARK --set-mark 0x26000000/0xffffffff",
        comments("QZatZARIgegXh8rb", ACCEPT)
    );
    line!(r, "-I POSTROUTING 1 {} {DONE} -j ACCEPT", comments("ymEAarDWTR9SHgDS", ACCEPT));
    if gateway {
        line!(r, "-I PREROUTING 3 {} -j EGRESSGATEWAY-REPLY-ROUTING", comments("2kqsECEMrvzlVMA3", REPLY));
        line!(r, "-I PREROUTING 4 {} {ANY_MARK} -j ACCEPT", comments("OmRHwNHpRbvgdaPu", REPLY));
        line!(
            r,
            "-I POSTROUTING 2 {} -m mark --mark 0x27/0xffffffff -j MARK --set-mark 0x0/0xffffffff",
            comments("AROneiv3FWSogWf-", REPLY)
        );
    }
    r.push_str("COMMIT\n*nat\n:EGRESSGATEWAY-SNAT-EIP - [0:0]\n");
    if gateway {
        line!(
            r,
            "-A EGRESSGATEWAY-SNAT-EIP {} {sets} -j SNAT --to-source {}",
            comments(family.pick("Jv9_F-2cYSllqljc", "r972Kw250Bzbu7Ga"), "snat policy default-test"),
            t::egress_ip(family)
        );
    }
    line!(r, "-I PREROUTING 1 {} {ANY_MARK} -j ACCEPT", comments("bx14gEwdI2z4JR7V", DATAPATH));
    line!(
        r,
        "-I POSTROUTING 1 {} -j EGRESSGATEWAY-SNAT-EIP",
        comments("x1tdBi75jif7GCxh", "SNAT for egress traffic")
    );
    line!(r, "-I POSTROUTING 2 {} {DONE} -j ACCEPT", comments("lefvkAAcigCbsdOb", ACCEPT));
    r.push_str("COMMIT\n*filter\n");
    line!(r, "-I FORWARD 1 {} {DONE} -j ACCEPT", comments("k9r8D6t2n2nfb88V", ACCEPT));
    line!(r, "-I OUTPUT 1 {} {DONE} -j ACCEPT", comments("1l0yvxSlKPV6W8en", ACCEPT));
    r.push_str("COMMIT\n");
    r
}

/// What OSM's init container writes into the pod.
pub(crate) fn sidecar() -> String {
    let mut r = String::from(
        "*nat\n:PROXY_INBOUND - [0:0]\n:PROXY_IN_REDIRECT - [0:0]\n:PROXY_OUTPUT - [0:0]\n\
         :PROXY_REDIRECT - [0:0]\n\
         -A PROXY_REDIRECT -p tcp -j REDIRECT --to-port 15001\n\
         -A PROXY_REDIRECT -p tcp --dport 15000 -j ACCEPT\n\
         -A OUTPUT -p tcp -j PROXY_OUTPUT\n\
         -A PROXY_OUTPUT -m owner --uid-owner 1500 -j RETURN\n\
         -A PROXY_OUTPUT -d 127.0.0.1/32 -j RETURN\n\
         -A PROXY_OUTPUT -j PROXY_REDIRECT\n\
         -A PROXY_IN_REDIRECT -p tcp -j REDIRECT --to-port 15003\n\
         -A PREROUTING -p tcp -j PROXY_INBOUND\n",
    );
    for port in [15010, 15901, 15902, 15903] {
        line!(r, "-A PROXY_INBOUND -p tcp --dport {port} -j RETURN");
    }
    r.push_str("-A PROXY_INBOUND -p tcp -j PROXY_IN_REDIRECT\nCOMMIT\n");
    r
}

/// Felix' rules on a node, at the end of the kernel's chains or (its default) on top of them.
pub(crate) fn calico(insert: bool) -> String {
    let op = if insert { "-I" } else { "-A" };
    format!(
        r#"*raw
:cali-PREROUTING - [0:0]
-A cali-PREROUTING -m comment --comment "cali:XFX5xbM8B9qR10JG" -j MARK --set-xmark 0x0/0xf0000
-A cali-PREROUTING -m comment --comment "cali:lV4V2MPoMBf0hl9T" -m mark --mark 0x10000/0x10000 -j ACCEPT
{op} PREROUTING -m comment --comment "cali:6gwbT8clXdHdC1b1" -j cali-PREROUTING
COMMIT
*mangle
:cali-PREROUTING - [0:0]
:cali-from-host-endpoint - [0:0]
-A cali-PREROUTING -m comment --comment "cali:6BJqBjBC7crtA-7-" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A cali-PREROUTING -m comment --comment "cali:KX7AGNd6rMcDUai6" -m mark --mark 0x10000/0x10000 -j ACCEPT
-A cali-PREROUTING -j cali-from-host-endpoint
{op} PREROUTING -m comment --comment "cali:6gwbT8clXdHdC1b1" -j cali-PREROUTING
COMMIT
*nat
:cali-POSTROUTING - [0:0]
:cali-nat-outgoing - [0:0]
-A cali-nat-outgoing -m comment --comment "cali:flqWnvo8yq4ULQLa" -m set --match-set cali40masq-ipam-pools src -m set ! --match-set cali40all-ipam-pools dst -j MASQUERADE --random-fully
-A cali-POSTROUTING -j cali-nat-outgoing
{op} POSTROUTING -m comment --comment "cali:O3lYWMrLQYEMJtB5" -j cali-POSTROUTING
COMMIT
*filter
:cali-FORWARD - [0:0]
-A cali-FORWARD -m comment --comment "cali:vjrMJCRpqwy5oRoX" -j MARK --set-xmark 0x0/0xe0000
{op} FORWARD -m comment --comment "cali:wUHhoiAYhphO9Mso" -j cali-FORWARD
-A FORWARD -m comment --comment "cali:S93hcgKJrXEqnTfs" -m comment --comment "Policy explicitly accepted packet." -m mark --mark 0x10000/0x10000 -j ACCEPT
-A FORWARD -m comment --comment "cali:mp77cMpurHhyjLrM" -j MARK --set-xmark 0x10000/0x10000
COMMIT
"#
    )
}

/// The two comments which EgressGateway puts first in each of its rules.
fn comments(hash: &str, text: &str) -> String {
    format!(r#"-m comment --comment "egw:{hash}" -m comment --comment "{text}""#)
}
