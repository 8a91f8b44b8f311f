// SPDX-License-Identifier: MIT OR Apache-2.0
//! The JSON output against its schema, and against the text.

use crate::schema;
use crate::world;

use serde_json::Value;
use tracer_common::Kind;
use tracer_user::cause::{Certainty, Fact, Finding, Place};
use tracer_user::cluster::egress::PolicyLine;
use tracer_user::explain::Told;
use tracer_user::flow::{Notice, Options, Scene, Tracker, Update};
use tracer_user::node::Hook;
use tracer_user::output::{Explanation, Header, Json, Missing, Output};
use world::egress::{syn, syn_ack};
use world::*;

/// Runs the world's events through a JSON session.
fn session(feed: impl FnOnce(&mut World)) -> Vec<Value> {
    let mut w = World::with(true, Options { whole: true, ..Options::default() }, 0);
    let mut out = Vec::new();
    let header = Header {
        version: "0.1".to_owned(),
        attached: vec!["tc: tcx on 6 devices".to_owned()],
        missing: vec![Missing { what: "kprobe".to_owned(), ..Missing::default() }],
        policies: vec![PolicyLine {
            policy: Some("default/test".to_owned()),
            mark: Some("0x26b7b4e4".to_owned()),
            ..PolicyLine::default()
        }],
        ..Header::default()
    };
    let topology = w.topology.clone();
    let scene = Scene::new(&topology, &Kernel);
    Json.header(&mut out, &scene, &header).expect("writes");
    feed(&mut w);
    let now = w.now + 10_000_000_000;
    let finding = Finding {
        id: "port-closed",
        title: "because".to_owned(),
        certainty: Certainty::Certain,
        evidence: vec![Fact { text: "seen".to_owned(), check: "look".to_owned() }],
        fix: "this".to_owned(),
        place: Place { netns: "node1".to_owned(), ..Place::default() },
        ..Finding::default()
    };
    let told = Told { finding, count: 2 };
    let explanation = Explanation { causes: vec![told.clone()], ..Explanation::default() };
    let tracker: &mut Tracker = &mut w.tracker;
    let summary = tracker.finish(now, &mut |update| match update {
        Update::Journey(news) => {
            let explanation = news.journey.is_dropped().then_some(&explanation);
            Json.news(&mut out, &scene, &news, explanation).expect("writes");
        }
        Update::Notice(notice) => Json.notice(&mut out, &scene, &notice).expect("writes"),
        Update::Zoom(_) | Update::Unzoom(_) => {}
    });
    Json.notice(&mut out, &scene, &Notice::Text { ts: 1, text: "said".to_owned() }).expect("writes");
    Json.summary(&mut out, &scene, &summary, &[told]).expect("writes");
    let text = String::from_utf8(out).expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("an object per line")).collect()
}

fn everything(w: &mut World) {
    let mut p = syn();
    w.request_through_node1(&mut p);
    w.request_through_node2(&mut p);
    let mut r = syn_ack();
    w.reply_through_node2(&mut r);
    w.reply_through_node1(&mut r, 9000);
    w.remark(&r, Kind::ResetSend, POD, r.skb);
    w.drop(&r, POD, ETH0, ("NO_SOCKET", "tcp_v4_rcv"), &[]);
    let mut p = Pkt { id: 1, seq: 5000, gso: (1448, 20), len: 29012, flags: 0x18, skb: 0x51, ..syn() };
    w.request_to_bridge(&mut p);
    w.icmp_send(&p, NODE1, (3, 4));
    let calls = ["nft_do_chain_ipv4", "nf_hook_slow", "ip_forward"];
    w.drop(&p, NODE1, CNI0, ("NETFILTER_DROP", "nft_do_chain"), &calls);
    let mut ping = Pkt { skb: 0x52, flow: 2, ..Pkt::echo("10.200.0.22", "10.200.1.22", 77, 1) };
    w.flannel_out(&mut ping);
    let mut v6 = Pkt { skb: 0x53, flow: 3, ..Pkt::tcp("fd00::22", 1, "fd00:25::183", 80) };
    w.request_to_bridge(&mut v6);
    let frag =
        Pkt { skb: 0x54, flow: 4, frag: Some((185, false)), ..Pkt::udp("10.200.0.22", 0, "1.2.3.4", 0, 99) };
    w.tc(&frag, POD, ETH0, OUT, 100);
    let error = Pkt { skb: 0x55, flow: 5, quoted: Some((3, 4)), ack: 1400, reply: true, ..syn() };
    w.tc(&error, NODE1, ETH0, IN, 100);
    w.nf(&error, NODE1, Hook::Prerouting, (ETH0, 0), 100);
    w.remark(&Pkt { flow: 9, ..syn() }, Kind::ResetReceive, POD, 0);
    w.lose(2);
    w.tc(&Pkt { skb: 0x56, flow: 6, ..syn() }, POD, ETH0, OUT, 100);
}

#[test]
fn what_is_written_fits_the_schema() {
    let lines = session(everything);
    lines.iter().for_each(schema::assert_fits);
    let types: Vec<_> = lines.iter().filter_map(|l| l["type"].as_str()).collect();
    assert_eq!(types.iter().filter(|t| **t == "journey").count(), 8);
    assert_eq!((types[0], types[types.len() - 1]), ("header", "summary"));
}

#[test]
fn hops_are_all_there_with_their_names() {
    let lines = session(|w| {
        let mut p = syn();
        w.request_through_node1(&mut p);
        w.request_through_node2(&mut p);
    });
    let journey = &lines[1];
    let hops = journey["hops"].as_array().expect("hops");
    let spot = |hop: &Value| {
        let word = |key: &str| hop[key].as_str().unwrap_or("").to_owned();
        match hop["kind"].as_str() {
            Some("device") => format!("{}/{} {}", word("netns"), word("device"), word("direction")),
            Some("hook") => format!("{} {}", word("netns"), word("hook")),
            _ => format!("{} table {}", word("netns"), hop["table"]),
        }
    };
    let shown: Vec<_> = hops.iter().filter(|h| h["folded"] != true).map(spot).collect();
    assert_eq!(
        shown,
        [
            "visitor OUTPUT",
            "visitor POSTROUTING",
            "visitor/eth0 out",
            "node1/vethpod in",
            "node1 PREROUTING",
            "node1/cni0 in",
            "node1 table 649573604",
            "node1 FORWARD",
            "node1 POSTROUTING",
            "node1/egress.vxlan out",
            "node1 table 254",
            "node1 OUTPUT",
            "node1 POSTROUTING",
            "node1/eth0 out",
            "node2/eth0 in",
            "node2 PREROUTING",
            "node2 INPUT",
            "node2/egress.vxlan in",
            "node2 PREROUTING",
            "node2 table 254",
            "node2 FORWARD",
            "node2 POSTROUTING",
            "node2/eth0 out",
        ]
    );
    assert_eq!(hops.len(), shown.len() + 2);
    let nat = hops.iter().find(|h| h["nat"].is_object()).expect("translated");
    assert_eq!(nat["nat"]["type"], "SNAT");
    assert_eq!(nat["nat"]["to"]["src"], "172.16.25.189");
    assert_eq!(journey["conntrack"][0]["reply"]["dst"], "172.16.25.189");
    assert_eq!(journey["ending"]["kind"], "left");
}
