// SPDX-License-Identifier: MIT OR Apache-2.0
//! The host: Calico's address pools, docker and nerdctl, sysctls, and the order of routing.

use super::{CNI, Expect, Fault, INTENT, PASSES, Seen, egress::forget_source};
use crate::{
    causes::{EGW, EGW2, NODEPORT, says},
    client,
    probe::Probe,
    topology::{self as t, Family},
};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "calico-overlap",
        about: "Calico's address pool contains the nodes: traffic to them is not translated",
        probe: Probe::Overlap,
        expect: Expect::TimesOut,
        expect6: None,
        says: says("--pod @cpod --dst 10.96.0.1", &["pod-address-on-the-wire"]).by_hand(CNI),
        apply: |lab, _| lab.add_calico_pod("192.168.0.0/16"),
    },
    Fault {
        name: "ip-forward",
        about: "the pod's node does not forward",
        probe: Probe::Egw,
        expect: Expect::TimesOut,
        expect6: Some(Expect::TimesOut),
        says: says(EGW, &["forwarding-off"]),
        apply: |lab, family| {
            let key = family.pick("ipv4/ip_forward", "ipv6/conf/all/forwarding");
            lab.ns("node1").sysctl(&[(key, "0")])
        },
    },
    Fault {
        name: "bridge-nf",
        about: "iptables does not see bridged frames, and the service's endpoint is on the same node",
        probe: Probe::SvcLocal,
        expect: Expect::TimesOut,
        expect6: None,
        says: says("--pod @visitor --dst 10.96.100.101", &["reply-from-another-address"]),
        apply: |lab, _| {
            lab.ns("node1").sysctl(&[("bridge/bridge-nf-call-iptables", "0")])?;
            lab.iptables(
                "node1",
                Family::V4,
                "-t nat -I KUBE-SERVICES -d 10.96.100.101 -p tcp --dport 80 -j DNAT --to-destination 10.200.0.23:80",
            )?;
            // The two pods know each other: replies go straight.
            client::ping(&lab.ns("visitor"), t::PODS[1].ip[0], 1, 56, true).map(drop)
        },
    },
    Fault {
        name: "docker-ok",
        about: "control: a port mapped to a container by nerdctl works",
        probe: Probe::Docker,
        expect: Expect::SeenAs(Seen::Ext),
        expect6: None,
        says: says(NODEPORT, &[]).by_hand(PASSES),
        apply: |lab, _| lab.add_container(),
    },
    Fault {
        name: "docker-fwd-drop",
        about: "docker sets FORWARD to policy DROP, nerdctl's bridge has no ACCEPT",
        probe: Probe::Docker,
        expect: Expect::TimesOut,
        expect6: None,
        says: says(NODEPORT, &["dropped-by-policy"]),
        apply: |lab, _| {
            lab.add_container()?;
            lab.iptables("node1", Family::V4, "-P FORWARD DROP").map(drop)
        },
    },
    Fault {
        name: "mark-late",
        about: "a mark set in POSTROUTING does not change the route",
        probe: Probe::Egw,
        expect: Expect::SeenAs(Seen::Node1),
        expect6: None,
        says: says(EGW, &["mark-after-routing", "egress-pod-not-selected"])
            .checked(&["mark-after-routing"])
            .by_hand(INTENT),
        apply: |lab, family| {
            // The wish: packets of the pod use table 6, which is a dead end.
            lab.sh("node1", "ip route add unreachable default table 6")?;
            lab.sh("node1", "ip rule add fwmark 0x6 lookup 6 priority 90")?;
            lab.iptables("node1", family, "-t mangle -I POSTROUTING -s 10.200.0.22 -j MARK --set-mark 0x6")?;
            forget_source(lab, family)
        },
    },
    Fault {
        name: "rpf-multinic",
        about: "replies come in by a second NIC, which has rp_filter=1",
        probe: Probe::Egw2,
        expect: Expect::TimesOut,
        expect6: None,
        says: says(EGW2, &["reverse-path-filter"]).checked(&[]),
        apply: |lab, _| lab.add_second_nic(),
    },
];
