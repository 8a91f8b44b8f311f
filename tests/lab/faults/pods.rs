// SPDX-License-Identifier: MIT OR Apache-2.0
//! The pod network: veth, bridge, flannel, the node's NIC.

use super::{Expect, FIREWALL, Fault, PASSES, RATE, egress::ip, exit::drop_too_big};
use crate::{
    causes::{EGW, POD2, PODB, says},
    client,
    probe::Probe,
    topology::{self as t, Family, NODE2},
};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "pod-bad-gw",
        about: "the pod's default gateway does not exist",
        probe: Probe::Pod2,
        expect: Expect::TimesOutOrUnreachable,
        expect6: Some(Expect::TimesOutOrUnreachable),
        says: says(POD2, &["neighbour-silent"]),
        apply: |lab, family| {
            let gateway = family.pick("10.200.0.254", "fd00:200:1::fe");
            lab.sh("visitor", &format!("{} route replace default via {gateway}", ip(family))).map(drop)
        },
    },
    Fault {
        name: "pod-no-route",
        about: "the pod has no default route",
        probe: Probe::Pod2,
        expect: Expect::Unreachable,
        expect6: Some(Expect::Unreachable),
        says: says(POD2, &["no-route"]),
        apply: |lab, family| lab.sh("visitor", &format!("{} route del default", ip(family))).map(drop),
    },
    Fault {
        name: "veth-detached",
        about: "the pod's veth is not in cni0",
        probe: Probe::Pod2,
        expect: Expect::TimesOutOrUnreachable,
        expect6: Some(Expect::TimesOutOrUnreachable),
        says: says(POD2, &["port-not-in-bridge"]),
        apply: |lab, family| {
            // The pod knows its gateway's MAC from before.
            client::ping(&lab.ns("visitor"), t::pod2(family), 1, 56, true)?;
            lab.sh("node1", "ip link set vethpod nomaster").map(drop)
        },
    },
    Fault {
        name: "flannel-down",
        about: "flannel.1 is down on the other node",
        probe: Probe::Pod2,
        expect: Expect::TimesOut,
        expect6: None,
        says: says(POD2, &["tunnel-not-listening"]),
        apply: |lab, _| lab.sh("node2", "ip link set flannel.1 down").map(drop),
    },
    Fault {
        name: "route-missing",
        about: "the node has no route to the other node's pods",
        probe: Probe::Pod2,
        expect: Expect::TimesOut,
        expect6: Some(Expect::TimesOut),
        says: says(POD2, &["pod-route-missing"]),
        apply: |lab, family| {
            let pods = family.pick(NODE2.pod_cidr[0], NODE2.pod_cidr[1]);
            lab.sh("node1", &format!("ip route del {pods}")).map(drop)
        },
    },
    Fault {
        name: "route-blackhole",
        about: "a blackhole route to the other node's pods",
        probe: Probe::Pod2,
        expect: Expect::TimesOut,
        expect6: Some(Expect::TimesOut),
        says: says(POD2, &["route-blackhole"]),
        apply: |lab, family| {
            let pods = family.pick(NODE2.pod_cidr[0], NODE2.pod_cidr[1]);
            lab.sh("node1", &format!("ip route del {pods}"))?;
            lab.sh("node1", &format!("{} route add blackhole {pods}", ip(family))).map(drop)
        },
    },
    Fault {
        name: "nic-queue",
        about: "the queue of the node's NIC is too small",
        probe: Probe::UpPod2,
        expect: Expect::TimesOut,
        expect6: Some(Expect::TimesOut),
        says: says(POD2, &["queue-full"]).checked(&[]).by_hand(RATE),
        apply: |lab, _| {
            lab.sh("node1", "tc qdisc replace dev eth0 root tbf rate 400kbit burst 3000 limit 6000").map(drop)
        },
    },
    Fault {
        name: "latency",
        about: "the underlay is slow: packets wait in the NIC's queue",
        probe: Probe::Latency,
        expect: Expect::SlowAnswer(150),
        expect6: Some(Expect::SlowAnswer(150)),
        says: says(EGW, &["waits-in-queue"]).checked(&[]).by_hand(PASSES),
        apply: |lab, _| {
            lab.sh("node1", "tc qdisc replace dev eth0 root tbf rate 200kbit burst 1600 limit 60000")
                .map(drop)
        },
    },
    Fault {
        name: "mtu-flannel",
        about: "the pods' MTU is 1500, flannel.1's 1450, and ICMP is filtered",
        probe: Probe::UpPod2,
        expect: Expect::TimesOut,
        expect6: None,
        says: says(POD2, &["path-mtu-black-hole"]).by_hand(FIREWALL),
        apply: |lab, _| {
            lab.raise_pod_mtu()?;
            lab.sh("node2", "ip link set cni0 mtu 1500")?;
            lab.sh("node2", "ip link set vethpod2 mtu 1500")?;
            lab.sh("pod2", "ip link set eth0 mtu 1500")?;
            drop_too_big(lab, Family::V4)
        },
    },
    Fault {
        name: "br-fwd-drop",
        about: "FORWARD has policy DROP and iptables sees bridged frames: pods of one node are cut off",
        probe: Probe::Podb,
        expect: Expect::TimesOut,
        // Over IPv6 the neighbour solicitations are dropped too.
        expect6: Some(Expect::TimesOutOrUnreachable),
        says: says(PODB, &["dropped-by-policy"]),
        apply: |lab, family| {
            lab.iptables("node1", family, "-P FORWARD DROP")?;
            lab.iptables("node1", family, "-F FLANNEL-FWD").map(drop)
        },
    },
];
