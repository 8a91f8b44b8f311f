// SPDX-License-Identifier: MIT OR Apache-2.0
//! Services, node ports, DNS, and the application itself.

use std::net::SocketAddr;

use anyhow::Result;

use super::{Expect, Fault, KUBE_PROXY, OBJECT, PASSES, SERVER};
use crate::{
    Lab,
    causes::{NODEPORT, POD2, SVC, says},
    probe::Probe,
    rules::KUBE_EXT,
    topology::{self as t, Family, NODE_PORT},
};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "svc-no-kubeproxy",
        about: "kube-proxy wrote no rules",
        probe: Probe::Svc,
        expect: Expect::Unreachable,
        expect6: Some(Expect::Unreachable),
        says: says(SVC, &["service-not-translated"]).by_hand(KUBE_PROXY),
        apply: |lab, family| lab.iptables("node1", family, "-t nat -F KUBE-SERVICES").map(drop),
    },
    Fault {
        name: "svc-no-endpoints",
        about: "the service has no endpoints",
        probe: Probe::SvcEmpty,
        expect: Expect::Refused,
        expect6: Some(Expect::Refused),
        says: says("--pod @visitor --dst {empty}", &["rejected-by-rule"]).by_hand(SERVER),
        apply: |_, _| Ok(()),
    },
    Fault {
        name: "svc-targetport",
        about: "the service's targetPort is not the one the container listens on",
        probe: Probe::Svc,
        expect: Expect::Refused,
        expect6: Some(Expect::Refused),
        says: says(SVC, &["port-closed"]).by_hand(SERVER),
        apply: |lab, _| {
            lab.stop("http-pod2")?;
            serve_pod2(lab, "http-pod2", "http", 82, "pod2")
        },
    },
    Fault {
        name: "port-closed",
        about: "nothing listens on the port",
        probe: Probe::Closed,
        expect: Expect::Refused,
        expect6: Some(Expect::Refused),
        says: says(POD2, &["port-closed"]).by_hand(SERVER),
        apply: |_, _| Ok(()),
    },
    Fault {
        name: "listen-overflow",
        about: "the server does not accept: its queue is full",
        probe: Probe::Overflow,
        expect: Expect::OnlyFirst(2),
        expect6: Some(Expect::OnlyFirst(2)),
        says: says(POD2, &["accept-queue-full"]).checked(&[]).by_hand(SERVER),
        apply: |lab, _| serve_pod2(lab, "hold", "hold", 90, ""),
    },
    Fault {
        name: "nodeport-nomasq",
        about: "traffic of the node port is not masqueraded: no mark 0x4000",
        probe: Probe::Nodeport,
        expect: Expect::TimesOut,
        expect6: Some(Expect::TimesOut),
        says: says(NODEPORT, &["service-not-masqueraded"]).by_hand(KUBE_PROXY),
        apply: |lab, family| {
            lab.iptables("node1", family, &format!("-t nat -D {KUBE_EXT} 1"))?;
            lab.iptables("node1", family, "-t nat -D FLANNEL-POSTRTG 6").map(drop)
        },
    },
    Fault {
        name: "nodeport-local",
        about: "externalTrafficPolicy is Local and this node has no endpoint",
        probe: Probe::Nodeport,
        expect: Expect::TimesOut,
        expect6: Some(Expect::TimesOut),
        says: says(NODEPORT, &["dropped-by-rule"]).by_hand(OBJECT),
        apply: |lab, family| {
            let text = format!(
                "*nat\n-F {KUBE_EXT}\nCOMMIT\n*filter\n\
                 -A KUBE-EXTERNAL-SERVICES -m comment --comment \"default/nginx-expose has no local endpoints\" \
                 -m addrtype --dst-type LOCAL -m tcp -p tcp --dport {NODE_PORT} -j DROP\nCOMMIT\n"
            );
            lab.iptables_restore("node1", family, &text)
        },
    },
    Fault {
        name: "nft-ok",
        about: "control: kube-proxy in nftables mode",
        probe: Probe::Svc,
        expect: Expect::Answer,
        expect6: Some(Expect::Answer),
        says: says(SVC, &[]).by_hand(PASSES),
        apply: |lab, family| lab.use_nftables_kube_proxy(family),
    },
    Fault {
        name: "nft-no-endpoints",
        about: "kube-proxy in nftables mode: the service has no endpoints",
        probe: Probe::SvcEmpty,
        expect: Expect::Refused,
        expect6: Some(Expect::Refused),
        says: says("--pod @visitor --dst {empty}", &["rejected-by-rule"]).by_hand(SERVER),
        apply: |lab, family| lab.use_nftables_kube_proxy(family),
    },
    Fault {
        name: "nft-no-port",
        about: "kube-proxy in nftables mode: the service has no such port",
        probe: Probe::Svc,
        expect: Expect::Refused,
        expect6: Some(Expect::Refused),
        says: says(SVC, &["rejected-by-rule"]).by_hand(OBJECT),
        apply: |lab, family| {
            lab.use_nftables_kube_proxy(family)?;
            let element = format!("service-ips {{ {} . tcp . 80 }}", t::cluster_ip(family));
            nft(lab, &format!("delete element {} kube-proxy {element}", family.pick("ip", "ip6")))
        },
    },
    Fault {
        name: "nft-source-ranges",
        about: "kube-proxy in nftables mode: loadBalancerSourceRanges leave the client out",
        probe: Probe::Svc,
        expect: Expect::TimesOut,
        expect6: Some(Expect::TimesOut),
        says: says(SVC, &["dropped-by-rule"]).by_hand(OBJECT),
        apply: |lab, family| {
            lab.use_nftables_kube_proxy(family)?;
            let (ip, others) = (family.pick("ip", "ip6"), family.pick("203.0.113.0/25", "2001:db8::/64"));
            let chain = format!("{ip} kube-proxy firewall-VALHGL43-default/nginx-expose/tcp/");
            nft(
                lab,
                &format!(
                    "add chain {chain}\nadd rule {chain} {ip} saddr != {{ {others} }} drop\n\
                     add element {ip} kube-proxy firewall-ips {{ {} . tcp . 80 comment \"default/nginx-expose\" : goto {} }}",
                    t::cluster_ip(family),
                    chain.rsplit(' ').next().unwrap_or_default()
                ),
            )
        },
    },
    Fault {
        name: "dns-down",
        about: "the DNS pod does not listen",
        probe: Probe::Dns,
        expect: Expect::Refused,
        expect6: Some(Expect::Refused),
        says: says(POD2, &["port-closed"]).by_hand(SERVER),
        apply: |lab, _| lab.stop("dns"),
    },
    Fault {
        name: "stale-udp",
        about: "a conntrack entry of UDP still names an endpoint that is gone",
        probe: Probe::StaleUdp,
        expect: Expect::TimesOutOrUnreachable,
        expect6: None,
        says: says("--pod @visitor --dst 10.96.0.53", &["stale-connection-entry", "neighbour-silent"])
            .checked(&["neighbour-silent"])
            .any_fix(),
        apply: |lab, _| {
            lab.iptables(
                "node1",
                Family::V4,
                "-t nat -I KUBE-SERVICES -d 10.96.0.53 -p udp --dport 53 -j DNAT --to-destination 10.200.1.99:53",
            )
            .map(drop)
        },
    },
];

/// To node1's nftables.
fn nft(lab: &Lab, text: &str) -> Result<()> {
    lab.ns("node1").exec(&["nft", "-f", "-"], Some(&format!("{text}\n"))).map(drop)
}

/// A server on all of pod2's addresses.
pub(super) fn serve_pod2(lab: &Lab, name: &str, kind: &str, port: u16, label: &str) -> Result<()> {
    let listen: Vec<String> = lab
        .spec()
        .families()
        .map(|family| format!("--listen {}", SocketAddr::new(t::pod2(family), port)))
        .collect();
    let label = if label.is_empty() { String::new() } else { format!("--label {label}") };
    lab.serve(name, "pod2", &format!("{kind} {} {label}", listen.join(" ")))
}
