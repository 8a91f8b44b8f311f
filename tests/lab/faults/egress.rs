// SPDX-License-Identifier: MIT OR Apache-2.0
//! EgressGateway's objects and rules, and Calico's beside them.

use anyhow::Result;

use super::{AGENT, CNI, Expect, Fault, PASSES, Seen};
use crate::{
    Lab,
    causes::{EGW, says},
    probe::Probe,
    topology::{self as t, Family, NODE2},
};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "egw-agent-down",
        about: "the agent never ran on the pod's node: no rules, no tunnel",
        probe: Probe::Egw,
        expect: Expect::SeenAs(Seen::Node1),
        expect6: Some(Expect::SeenAs(Seen::Node1)),
        says: says(EGW, &["egress-not-handled"]).by_hand(AGENT),
        apply: |lab, family| {
            for table in ["mangle", "nat", "filter"] {
                lab.iptables_without("node1", family, table, |line| {
                    line.contains("egw:") || line.contains("EGRESSGATEWAY")
                })?;
            }
            lab.sh("node1", &format!("{} rule del fwmark {:#x}", ip(family), NODE2.mark))?;
            lab.sh("node1", "ip link del egress.vxlan").map(drop)
        },
    },
    Fault {
        name: "policy-src-miss",
        about: "the pod's IP is not in the policy's set of sources",
        probe: Probe::Egw,
        expect: Expect::SeenAs(Seen::Node1),
        expect6: Some(Expect::SeenAs(Seen::Node1)),
        says: says(EGW, &["egress-pod-not-selected"]).by_hand(AGENT),
        apply: |lab, family| forget_source(lab, family),
    },
    Fault {
        name: "policy-dst-miss",
        about: "the destination is not in the policy's set of destinations",
        probe: Probe::Egw,
        expect: Expect::SeenAs(Seen::Node1),
        expect6: Some(Expect::SeenAs(Seen::Node1)),
        says: says(EGW, &["egress-destination-not-selected"]).by_hand(AGENT),
        apply: |lab, family| {
            lab.sh("node1", &format!("ipset del {} {}", t::dst_set(family), t::ext(family))).map(drop)
        },
    },
    Fault {
        name: "eip-none",
        about: "the gateway has no SNAT rule: no egress IP allocated",
        probe: Probe::Egw,
        expect: Expect::TimesOut,
        expect6: Some(Expect::TimesOut),
        says: says(EGW, &["left-without-snat"]).by_hand(AGENT),
        apply: |lab, family| lab.iptables("node2", family, "-t nat -F EGRESSGATEWAY-SNAT-EIP").map(drop),
    },
    Fault {
        name: "snat-order",
        about: "another MASQUERADE stands before EGRESSGATEWAY-SNAT-EIP on the gateway",
        probe: Probe::Egw,
        expect: Expect::SeenAs(Seen::Node2),
        expect6: Some(Expect::SeenAs(Seen::Node2)),
        says: says(EGW, &["snat-to-another-address"]),
        apply: |lab, family| {
            lab.iptables("node2", family, "-t nat -I POSTROUTING -o eth0 -j MASQUERADE").map(drop)
        },
    },
    Fault {
        name: "nat-accept-missing",
        about: "no ACCEPT of mark 0x26000000 in nat POSTROUTING on the pod's node: flannel masquerades",
        probe: Probe::Egw,
        expect: Expect::TimesOut,
        expect6: Some(Expect::TimesOut),
        says: says(EGW, &["masqueraded-before-tunnel"]),
        apply: |lab, family| lab.iptables("node1", family, "-t nat -D POSTROUTING 2").map(drop),
    },
    Fault {
        name: "rule-missing",
        about: "no ip rule for the gateway's mark",
        probe: Probe::Egw,
        expect: Expect::TimesOut,
        expect6: Some(Expect::TimesOut),
        says: says(EGW, &["fwmark-without-rule"]),
        apply: |lab, family| {
            lab.sh("node1", &format!("{} rule del fwmark {:#x}", ip(family), NODE2.mark)).map(drop)
        },
    },
    Fault {
        name: "mark-not-cleared",
        about: "mangle FORWARD does not reset the mark: the outer packet goes into the tunnel again",
        probe: Probe::Egw,
        expect: Expect::TimesOut,
        expect6: Some(Expect::TimesOut),
        says: says(EGW, &["tunnel-into-itself"]),
        apply: |lab, family| lab.iptables("node1", family, "-t mangle -F FORWARD").map(drop),
    },
    Fault {
        name: "fwd-drop",
        about: "FORWARD has policy DROP on the gateway and EgressGateway's ACCEPT is gone",
        probe: Probe::Egw,
        expect: Expect::TimesOut,
        expect6: Some(Expect::TimesOut),
        says: says(EGW, &["dropped-by-policy"]),
        apply: |lab, family| {
            lab.iptables("node2", family, "-P FORWARD DROP")?;
            lab.iptables("node2", family, "-D FORWARD 1")?;
            lab.iptables("node2", family, "-F FLANNEL-FWD").map(drop)
        },
    },
    Fault {
        name: "calico-insert",
        about: "Calico inserts its chains on top, with natOutgoing: it masquerades first",
        probe: Probe::Egw,
        expect: Expect::TimesOut,
        expect6: None,
        says: says(EGW, &["masqueraded-before-tunnel"]).by_hand(CNI),
        apply: |lab, _| lab.add_calico_rules(true, true),
    },
    Fault {
        name: "calico-insert-nonat",
        about: "Calico inserts its chains on top, without natOutgoing: only first packets are marked",
        probe: Probe::Egw,
        expect: Expect::TimesOut,
        expect6: None,
        says: says(EGW, &["only-first-packet-marked"]).by_hand(CNI),
        apply: |lab, _| lab.add_calico_rules(true, false),
    },
    Fault {
        name: "calico-append",
        about: "control: Calico appends its chains, and all is well",
        probe: Probe::Egw,
        expect: Expect::SeenAs(Seen::EgressIp),
        expect6: None,
        says: says(EGW, &[]).by_hand(PASSES),
        apply: |lab, _| lab.add_calico_rules(false, true),
    },
];

/// `ip` of a family.
pub(super) fn ip(family: Family) -> &'static str {
    family.pick("ip -4", "ip -6")
}

/// The pod leaves the policy on its own node.
pub(super) fn forget_source(lab: &Lab, family: Family) -> Result<()> {
    lab.sh("node1", &format!("ipset del {} {}", t::src_set(family), t::visitor(family))).map(drop)
}
