// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tunnel between the nodes, `egress.vxlan`.

use super::{AGENT, Expect, Fault};
use crate::{
    causes::{EGW, says},
    probe::Probe,
    topology::{self as t, Family, NODE2},
};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "vxlan-missing",
        about: "egress.vxlan was deleted on the pod's node",
        probe: Probe::Egw,
        expect: Expect::TimesOut,
        expect6: Some(Expect::TimesOut),
        says: says(EGW, &["fwmark-table-empty"]).by_hand(AGENT),
        apply: |lab, _| lab.sh("node1", "ip link del egress.vxlan").map(drop),
    },
    Fault {
        name: "vxlan-down-gw",
        about: "egress.vxlan is down on the gateway",
        probe: Probe::Egw,
        expect: Expect::TimesOut,
        expect6: Some(Expect::TimesOut),
        says: says(EGW, &["tunnel-not-listening"]),
        apply: |lab, _| lab.sh("node2", "ip link set egress.vxlan down").map(drop),
    },
    Fault {
        name: "vxlan-no-neigh",
        about: "the peer's neighbour entry is missing on egress.vxlan",
        probe: Probe::Egw,
        expect: Expect::TimesOutOrUnreachable,
        expect6: Some(Expect::TimesOutOrUnreachable),
        says: says(EGW, &["tunnel-neighbour-missing"]),
        apply: |lab, family| {
            let peer = t::of(&NODE2.tunnel_ip, family);
            lab.sh("node1", &format!("ip neigh del {peer} dev egress.vxlan")).map(drop)
        },
    },
    Fault {
        name: "vxlan-no-fdb",
        about: "the peer's forwarding entry is missing on egress.vxlan",
        probe: Probe::Egw,
        expect: Expect::TimesOut,
        expect6: Some(Expect::TimesOut),
        says: says(EGW, &["tunnel-peer-missing"]),
        apply: |lab, _| {
            let (mac, to) = (NODE2.tunnel_mac, NODE2.ip(Family::V4));
            lab.sh("node1", &format!("bridge fdb del {mac} dev egress.vxlan dst {to} self")).map(drop)
        },
    },
    Fault {
        name: "vxlan-wrong-mac",
        about: "the gateway's egress.vxlan has another MAC than its EgressTunnel says",
        probe: Probe::Egw,
        expect: Expect::TimesOut,
        expect6: Some(Expect::TimesOut),
        says: says(EGW, &["tunnel-wrong-mac"]).by_hand(AGENT),
        apply: |lab, _| lab.sh("node2", "ip link set egress.vxlan address 66:00:00:00:00:99").map(drop),
    },
    Fault {
        name: "underlay-block-vxlan",
        about: "the gateway's host firewall drops UDP 7789",
        probe: Probe::Egw,
        expect: Expect::TimesOut,
        expect6: Some(Expect::TimesOut),
        says: says(EGW, &["dropped-by-rule"]),
        apply: |lab, _| lab.iptables("node2", Family::V4, "-I INPUT -p udp --dport 7789 -j DROP").map(drop),
    },
    Fault {
        name: "ttl-loop",
        about: "the pod's node is an egress node too, with the rules of agents <= 0.6.5: replies loop",
        probe: Probe::Egw,
        expect: Expect::TimesOut,
        expect6: None,
        says: says(EGW, &["routing-loop"]).by_hand(AGENT),
        apply: |lab, _| {
            for place in ["node1", "node2"] {
                lab.ns(place)
                    .sysctl(&[("ipv4/conf/all/rp_filter", "0"), ("ipv4/conf/flannel.1/rp_filter", "0")])?;
            }
            let from_peer = format!("-i egress.vxlan -m mac --mac-source {}", NODE2.tunnel_mac);
            let mark = NODE2.mark;
            let own = "-A EGRESSGATEWAY-REPLY-ROUTING";
            let text = format!(
                "*mangle\n:EGRESSGATEWAY-REPLY-ROUTING - [0:0]\n-D PREROUTING 2\n\
                 {own} {from_peer} -m conntrack --ctdir ORIGINAL -j MARK --set-mark {mark:#x}\n\
                 {own} -m mark --mark {mark:#x} -j CONNMARK --save-mark\n\
                 {own} {from_peer} -j MARK --set-mark 0x26000000\n\
                 {own} -m conntrack --ctdir REPLY -j CONNMARK --restore-mark\n\
                 -A PREROUTING -j EGRESSGATEWAY-REPLY-ROUTING\n\
                 -A PREROUTING -m mark --mark 0x26000000/0xff000000 -j ACCEPT\nCOMMIT\n"
            );
            lab.iptables_restore("node1", Family::V4, &text)
        },
    },
    Fault {
        name: "rpf-gw",
        about: "egress.vxlan has rp_filter=1 on the gateway",
        probe: Probe::Egw,
        expect: Expect::TimesOut,
        expect6: None,
        says: says(EGW, &["reverse-path-filter"]),
        apply: |lab, _| lab.ns("node2").sysctl(&[("ipv4/conf/egress.vxlan/rp_filter", "1")]),
    },
];
