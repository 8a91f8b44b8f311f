// SPDX-License-Identifier: MIT OR Apache-2.0
//! The egress IP, the way out of the gateway, and the size of packets on it.

use anyhow::Result;

use super::{AGENT, Expect, FIREWALL, Fault, OBJECT, PASSES, Seen, egress::ip};
use crate::{
    Lab,
    causes::{EGW, EGW2, says},
    probe::Probe,
    topology::{self as t, Family},
};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "eip-no-arp",
        about: "nobody answers for the egress IP",
        probe: Probe::Egw,
        expect: Expect::TimesOut,
        expect6: Some(Expect::TimesOut),
        says: says(EGW, &["source-unclaimed"]).checked6(&[]).by_hand(AGENT),
        apply: |lab, family| {
            lab.stop("eip")?;
            lab.sh("ext", &format!("{} neigh flush dev eth0", ip(family))).map(drop)
        },
    },
    Fault {
        name: "gw-no-route",
        about: "the gateway has no route to the destination",
        probe: Probe::Egw2,
        expect: Expect::Unreachable,
        expect6: Some(Expect::Unreachable),
        says: says(EGW2, &["no-route"]),
        apply: |lab, family| {
            for place in ["node1", "node2"] {
                lab.sh(place, &format!("ipset add {} {}", t::dst_set(family), t::ext2(family)))?;
            }
            lab.sh("node2", &format!("{} route del default", ip(family))).map(drop)
        },
    },
    Fault {
        name: "eip-ports",
        about: "the egress IP has no free port left for this destination",
        probe: Probe::ManyEgw,
        expect: Expect::OnlyFirst(2),
        expect6: Some(Expect::OnlyFirst(2)),
        says: says(EGW, &["no-snat-port"]).checked(&[]).by_hand(OBJECT),
        apply: |lab, family| {
            let eip = t::egress_ip(family);
            let eip = family.pick(eip.to_string(), format!("[{eip}]"));
            let chain = "EGRESSGATEWAY-SNAT-EIP";
            lab.iptables("node2", family, &format!("-t nat -F {chain}"))?;
            let rule = format!(
                "-t nat -A {chain} -p tcp -m set --match-set {} src -j SNAT --to-source {eip}:50000-50001",
                t::src_set(family)
            );
            lab.iptables("node2", family, &rule).map(drop)
        },
    },
    Fault {
        name: "mtu-egress",
        about: "the pod's MTU is 1500, egress.vxlan's 1450; path MTU discovery works",
        probe: Probe::Up,
        expect: Expect::SeenAs(Seen::EgressIp),
        expect6: Some(Expect::SeenAs(Seen::EgressIp)),
        says: says(EGW, &["packet-too-big"]).by_hand(PASSES),
        apply: |lab, _| lab.raise_pod_mtu(),
    },
    Fault {
        name: "pmtu-blackhole",
        about: "the same, and the ICMP message that would tell the pod is filtered",
        probe: Probe::Up,
        expect: Expect::TimesOut,
        expect6: Some(Expect::TimesOut),
        says: says(EGW, &["path-mtu-black-hole"]).by_hand(FIREWALL),
        apply: |lab, family| {
            lab.raise_pod_mtu()?;
            drop_too_big(lab, family)
        },
    },
];

/// node1 does not say that a packet is too big.
pub(super) fn drop_too_big(lab: &Lab, family: Family) -> Result<()> {
    let what =
        family.pick("-p icmp --icmp-type fragmentation-needed", "-p icmpv6 --icmpv6-type packet-too-big");
    lab.iptables("node1", family, &format!("-I OUTPUT {what} -j DROP")).map(drop)
}
