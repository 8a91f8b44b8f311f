// SPDX-License-Identifier: MIT OR Apache-2.0
//! The text around and in journeys: header, rules, causes, colours, widths.

use crate::world;

use std::sync::Arc;

use tracer_common::Event;
use tracer_user::cause::{Certainty, Fact, Finding, Place};
use tracer_user::cluster::egress::PolicyLine;
use tracer_user::explain::{HopAuthors, Told};
use tracer_user::firewall::{Attribution, Backend, RuleRef, TableFamily};
use tracer_user::flow::{Notice, Options, Scene, Update, Zoom};
use tracer_user::node::{Family, Hook};
use tracer_user::output::{Explanation, Header, Missing, Output, Text, TextOptions, TimeFormat};
use world::egress::syn;
use world::*;

fn told() -> Told {
    let fact = |text: &str, check: &str| Fact { text: text.to_owned(), check: check.to_owned() };
    let finding = Finding {
        id: "packet-too-big",
        title: "1500 B do not fit into the tunnel's 1450".to_owned(),
        certainty: Certainty::Likely,
        evidence: vec![
            fact("dropped before egress.vxlan", "ip link show egress.vxlan"),
            fact("the sender was told", ""),
        ],
        fix: "set the pod MTU to 1450".to_owned(),
        place: Place {
            netns: "node1".to_owned(),
            device: Some("egress.vxlan".to_owned()),
            ..Place::default()
        },
        ..Finding::default()
    };
    Told { finding, count: 1 }
}

/// What set the mark.
fn marked() -> Attribution {
    let rule = RuleRef {
        family: TableFamily::Ip,
        backend: Backend::IptablesNft,
        table: "mangle".to_owned(),
        chain: "EGRESSGATEWAY-MARK-REQUEST".to_owned(),
        number: 1,
        handle: None,
        comment: Some("Set mark for EgressPolicy default-test".to_owned()),
        text: "-A EGRESSGATEWAY-MARK-REQUEST -j MARK".to_owned(),
    };
    Attribution { rules: vec![rule], certain: true, ..Attribution::default() }
}

fn dropped(options: TextOptions) -> String {
    let mut w = World::new(false);
    let mut p = Pkt { len: 1500, flags: 0x18, ..syn() };
    w.request_to_bridge(&mut p);
    w.icmp_send(&p, NODE1, (3, 4));
    w.drop(&p, NODE1, EGRESS, ("PKT_TOO_BIG", "ip_forward"), &["ip_forward", "ip_rcv"]);
    let mut text = Text::new(options);
    let mut out = Vec::new();
    let topology = w.topology.clone();
    let scene = Scene::new(&topology, &Kernel);
    let header = Header {
        version: "0.1".to_owned(),
        kernel: "6.18".to_owned(),
        attached: vec![
            "tc: tcx on 6 devices".to_owned(),
            "nf: 5 hooks, zooming".to_owned(),
            "drops: with reasons".to_owned(),
            "0 lost".to_owned(),
        ],
        target: vec!["pod default/visitor 10.200.0.22 (vethpod) → 172.16.25.183:80 tcp".to_owned()],
        policies: vec![PolicyLine {
            policy: Some("default/test".to_owned()),
            text: "default/test: gateway node2, no EIP, mark 0x26b7b4e4".to_owned(),
            troubles: vec![
                "EgressPolicy default/test has no egress IPv4 address: status.eip.ipv4 is empty".to_owned(),
            ],
            ..PolicyLine::default()
        }],
        missing: vec![Missing {
            what: "tcp_send_reset".to_owned(),
            why: "no such tracepoint on this kernel".to_owned(),
            hides: "who sent a RST".to_owned(),
        }],
    };
    text.header(&mut out, &scene, &header).expect("writes");
    let explanation = Explanation {
        authors: vec![HopAuthors { hop: 4, mark: Some(Arc::new(marked())), nat: None }],
        causes: vec![told()],
    };
    let now = w.now + 100_000_000;
    let summary = w.tracker.finish(now, &mut |update| match update {
        Update::Journey(news) => text.news(&mut out, &scene, &news, Some(&explanation)).expect("writes"),
        Update::Notice(notice) => text.notice(&mut out, &scene, &notice).expect("writes"),
        Update::Zoom(zoom) => {
            let notice = Notice::Zoomed { ts: now, zoom, on: true };
            text.notice(&mut out, &scene, &notice).expect("writes");
        }
        Update::Unzoom(_) => {}
    });
    text.summary(&mut out, &scene, &summary, &[told()]).expect("writes");
    String::from_utf8(out).expect("text")
}

#[test]
fn a_drop_explained() {
    let options = TextOptions { time: TimeFormat::Wall, ..TextOptions::default() };
    snapshot("explained.txt", &dropped(options));
}

#[test]
fn verbose() {
    let options = TextOptions { time: TimeFormat::None, verbose: 2, width: 140, ..TextOptions::default() };
    snapshot("verbose.txt", &dropped(options));
}

#[test]
fn colours_change_nothing_else() {
    let plain = dropped(TextOptions::default());
    let coloured = dropped(TextOptions { color: true, ..TextOptions::default() });
    assert!(coloured.contains("\x1b[1;31m✗ DROPPED"));
    let mut stripped = String::new();
    let mut rest = coloured.as_str();
    while let Some((before, after)) = rest.split_once('\x1b') {
        stripped.push_str(before);
        rest = after.split_once('m').map_or("", |(_, rest)| rest);
    }
    stripped.push_str(rest);
    let trim = |text: &str| text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
    assert_eq!(trim(&stripped), trim(&plain));
}

#[test]
fn a_narrow_screen_is_not_overrun_by_more_than_one_word_group() {
    let narrow = dropped(TextOptions { width: 80, ..TextOptions::default() });
    snapshot("narrow.txt", &narrow);
}

#[test]
fn device_and_zoom_notices() {
    let w = World::new(false);
    let scene = Scene::new(&w.topology, &Kernel);
    let zoom = Zoom { netns: NODE1, family: Family::Ipv4, hook: Hook::Forward };
    for (verbose, lines) in [(0, 1), (1, 2)] {
        let mut text = Text::new(TextOptions { verbose, ..TextOptions::default() });
        let mut out = Vec::new();
        let gone = Notice::Device {
            ts: 0,
            netns: "node1".to_owned(),
            device: "veth\u{7}1".to_owned(),
            appeared: false,
        };
        for notice in [gone, Notice::Zoomed { ts: 0, zoom, on: true }] {
            text.notice(&mut out, &scene, &notice).expect("writes");
        }
        let out = String::from_utf8(out).expect("text");
        assert_eq!(out.lines().filter(|l| !l.is_empty()).count(), lines, "{out}");
        assert!(out.contains("node1 veth\\x071 is gone"));
    }
}

#[test]
fn a_forwarded_packets_lookup_without_a_packet_is_its_own() {
    let mut w = World::with(false, Options::default(), 0);
    let mut p = syn();
    w.request_to_bridge(&mut p);
    w.fib(&Pkt { skb: 0, ..p }, NODE1, (649_573_604, 0, Some("192.200.201.40"), EGRESS), 300);
    w.tc(&p, NODE1, ETH0, OUT, 1000);
    w.wait(60);
    assert!(w.screen().contains("fwmark 0x26b7b4e4 → table 649573604"), "{}", w.screen());
    assert_eq!(Event::ZERO.kind(), None);
}

#[test]
fn an_older_kernel_frees_all_of_netfilters_drops_at_one_place() {
    let mut w = World::new(false);
    let mut p = syn();
    w.request_to_bridge(&mut p);
    w.drop(&p, NODE1, CNI0, ("NETFILTER_DROP", "nf_hook_slow"), &["nf_hook_slow", "ip_forward"]);
    w.wait(60);
    assert!(w.screen().contains("in node1 FORWARD by mangle or filter"), "{}", w.screen());
}

#[test]
fn the_sums_of_many_packets() {
    let mut w = World::new(false);
    for i in 0..200u32 {
        let mut p = Pkt { seq: 1000 + i, id: i as u16, flags: 0x18, ..syn() };
        w.nf(&p, POD, Hook::Output, (0, ETH0), 800);
        w.tc(&p, POD, ETH0, OUT, 700);
        // Two humps and a rare outlier.
        let jitter = u64::from(i * 37 % 90) * 10;
        let wait = if i == 77 {
            90_000
        } else if i % 3 == 0 {
            6_000 + jitter * 4
        } else {
            1_500 + jitter
        };
        w.tc(&p, NODE1, VETH, IN, wait);
        p.mark = REQUEST_MARK;
        w.nf(&p, NODE1, Hook::Prerouting, (CNI0, 0), 1400 + jitter);
        if i % 50 == 49 {
            w.drop(&p, NODE1, CNI0, ("NETFILTER_DROP", "nft_do_chain"), &["nf_hook_slow", "ip_forward"]);
        } else {
            w.tc(&p, NODE1, ETH0, OUT, 3000);
        }
    }
    w.wait(60);
    w.lose(5);
    w.tc(&Pkt { flow: 3, skb: 0x9, ..syn() }, POD, ETH0, OUT, 100);
    w.wait(1200);
    w.screen.clear();
    let summary = w.finish();
    assert_eq!((summary.left, summary.dropped_total(), summary.vanished), (196, 4, 1));
    snapshot("summary.txt", w.screen());
}
