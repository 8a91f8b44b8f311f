// SPDX-License-Identifier: MIT OR Apache-2.0
//! Firewalls, network policy and the connection table.

use super::{BEYOND, Expect, Fault, OBJECT, PASSING};
use crate::{
    causes::{EGW, POD2, says},
    conntrack,
    probe::Probe,
    topology::{self as t, Family},
};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "fw-in",
        about: "the destination's own firewall drops what comes in",
        probe: Probe::Egw,
        expect: Expect::TimesOut,
        expect6: Some(Expect::TimesOut),
        says: says(EGW, &["no-answer"]).checked(&[]).by_hand(BEYOND),
        apply: |lab, family| lab.iptables("ext", family, "-I INPUT -p tcp --dport 80 -j DROP").map(drop),
    },
    Fault {
        name: "fw-out",
        about: "the pod's own firewall drops what goes out",
        probe: Probe::Egw,
        expect: Expect::TimesOut,
        expect6: Some(Expect::TimesOut),
        says: says(EGW, &["dropped-by-rule"]),
        apply: |lab, family| {
            lab.iptables("visitor", family, &format!("-I OUTPUT -d {} -j DROP", t::ext(family))).map(drop)
        },
    },
    Fault {
        name: "fw-fwd",
        about: "the node's firewall drops what it forwards",
        probe: Probe::Pod2,
        expect: Expect::TimesOut,
        expect6: Some(Expect::TimesOut),
        says: says(POD2, &["dropped-by-rule"]),
        apply: |lab, family| {
            lab.iptables("node1", family, &format!("-I FORWARD -d {} -j DROP", t::pod2(family))).map(drop)
        },
    },
    Fault {
        name: "netpol",
        about: "no network policy allows it at the destination pod's node",
        probe: Probe::Pod2,
        expect: Expect::TimesOut,
        expect6: Some(Expect::TimesOut),
        says: says(POD2, &["dropped-by-rule"]).by_hand(OBJECT),
        apply: |lab, family| {
            let text = format!(
                "*filter\n:cali-tw-vethpod2 - [0:0]\n\
                 -A cali-tw-vethpod2 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
                 -A cali-tw-vethpod2 -m conntrack --ctstate INVALID -j DROP\n\
                 -A cali-tw-vethpod2 -m comment --comment \"cali:Dtc1mwJnpHw1pWzo\" \
                 -m comment --comment \"Drop if no policies passed packet\" -j DROP\n\
                 -I FORWARD -o cni0 -d {} -j cali-tw-vethpod2\nCOMMIT\n",
                t::pod2(family)
            );
            lab.iptables_restore("node2", family, &text)
        },
    },
    Fault {
        name: "kube-invalid",
        about: "kube-proxy drops packets which conntrack takes for INVALID",
        probe: Probe::KeepPod2,
        expect: Expect::TimesOut,
        expect6: Some(Expect::TimesOut),
        says: says(POD2, &["conntrack-invalid"]).checked(&[]).by_hand(PASSING),
        apply: |lab, _| lab.ns("node1").sysctl(&[("netfilter/nf_conntrack_tcp_loose", "0")]),
    },
    Fault {
        name: "ct-full",
        about: "the connection table of the pod's node is full",
        probe: Probe::Pod2,
        expect: Expect::TimesOut,
        expect6: None,
        says: says(POD2, &["conntrack-full"]).any_fix(),
        apply: |lab, _| {
            // The sets and rules of a fresh lab make conntrack count in this namespace already.
            lab.iptables("node1", Family::V4, "-t raw -L")?;
            conntrack::fill(&lab.ns("node1"))
        },
    },
];
