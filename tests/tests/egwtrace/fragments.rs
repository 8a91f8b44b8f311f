// SPDX-License-Identifier: MIT OR Apache-2.0
//! A packet that is larger than the links: in fragments out of the pod, put together for conntrack, cut up anew.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::Result;
use tests::{
    Lab, Spec, client,
    topology::{self as t, Family},
};

use crate::{
    journey::Journey,
    running::{Running, Traced, skip_unless_able, trace},
};

/// Each fragment is joined to a packet, is a part of one, or both; nothing is lost on the way.
#[track_caller]
fn assert_linked(traced: &Traced) {
    for what in ["vanished", "dropped", "unclear", "under_way"] {
        assert_eq!(traced.count(what), 0, "{what}:\n{}", traced.list());
    }
    let by_id: BTreeMap<u64, &Journey> = traced.journeys.iter().map(|j| (j.id(), j)).collect();
    for journey in &traced.journeys {
        let ending = &journey.value["ending"];
        let linked = |id: &serde_json::Value| by_id.contains_key(&id.as_u64().expect("a number"));
        match ending["kind"].as_str() {
            Some("merged") => assert!(linked(&ending["into"]), "{}", journey.title()),
            Some("cut-up") => {
                assert!(linked(&ending["first"]) && linked(&ending["last"]), "{}", journey.title());
                let of_it = traced.journeys.iter().filter(|piece| part_of(piece) == Some(journey.id()));
                assert_eq!(Some(of_it.count() as u64), ending["packets"].as_u64(), "{}", traced.list());
            }
            _ => {}
        }
    }
}

fn part_of(journey: &Journey) -> Option<u64> {
    let notes = journey.value["notes"].as_array()?;
    notes.iter().find(|note| note["kind"] == "part-of")?["of"].as_u64()
}

/// The answer to the ping, as told by the last packet of it.
fn answered(all: &[Journey]) -> Option<&Journey> {
    all.iter().find(|journey| journey.is_reply() && journey.value.get("round_trip").is_some())
}

fn ping(lab: &Lab, mut trace: Running, to: IpAddr) -> Result<Traced> {
    client::ping(&lab.ns("visitor"), to, 1, 4000, true)?;
    trace.until_journeys(|all| answered(all).is_some())?;
    trace.stop()?.clean()
}

#[test]
fn a_ping_in_fragments_is_followed_from_fragment_to_fragment() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh().with_ipv6())?;
    let both = "--node-netns @node1 --node-netns @node2";
    for family in [Family::V4, Family::V6] {
        let to = t::ext(family);
        if family == Family::V6 {
            // The first answer is too big for the tunnel, and the server told so.
            client::ping(&lab.ns("visitor"), to, 2, 4000, true)?;
        }
        for nodes in ["", both] {
            let line = format!("--pod @visitor --dst {to} --proto icmp {nodes}");
            let traced = ping(&lab, trace(&lab, "node1", &line)?, to)?;
            assert_linked(&traced);
            let request = traced.journeys.iter().find(|journey| !journey.is_reply()).expect("a request");
            let trip = &answered(&traced.journeys).expect("an answer").value["round_trip"];
            assert_eq!(
                (&trip["request"], &trip["ambiguous"]),
                (&request.id().into(), &false.into()),
                "{trip}"
            );
            // Put together on the pod's node, and cut into three again for the tunnel.
            let whole = traced.journeys.iter().find(|j| j.ending() == "cut-up" && !j.is_reply());
            let whole = whole.unwrap_or_else(|| panic!("nothing is cut up in\n{}", traced.list()));
            assert_eq!(whole.value["ending"]["packets"], 3, "{}", traced.list());
            assert!(whole.hops().iter().any(|hop| hop.starts_with("node1 FORWARD")), "{:#?}", whole.hops());
            let places = |journey: &Journey| journey.places().into_iter().next().unwrap_or_default();
            for piece in traced.journeys.iter().filter(|piece| part_of(piece) == Some(whole.id())) {
                assert_eq!(places(piece), "node1 egress.vxlan out", "{}", traced.list());
            }
        }
    }
    Ok(())
}

#[test]
fn what_is_dropped_before_the_first_hook_is_not_put_down_to_a_table_of_it() -> Result<()> {
    skip_unless_able!();
    let lab = Lab::up(Spec::unique().without_mesh())?;
    // One fragment of three, so that the others wait for it.
    let chain =
        "chain c { type filter hook ingress device vethpod priority 0; ip frag-off & 0x1fff == 178 drop; };";
    lab.ns("node1").exec(&["nft", "-f", "-"], Some(&format!("table netdev early {{ {chain} }}\n")))?;
    let mut trace = trace(&lab, "node1", "--pod @visitor --dst 172.16.25.183 --proto icmp")?;
    client::ping(&lab.ns("visitor"), t::ext(Family::V4), 1, 4000, true)?;
    trace.until_journeys(|all| all.iter().any(Journey::is_dropped))?;
    let traced = trace.stop()?.clean()?;
    let dropped = traced.journeys.iter().find(|journey| journey.is_dropped()).expect("a drop");
    assert_eq!(dropped.ending(), "dropped NETFILTER_DROP at nft_do_chain in node1 (vethpod)");
    // The kernel holds them: they have not vanished.
    assert_eq!((traced.count("vanished"), traced.count("under_way")), (0, 2), "{}", traced.list());
    Ok(())
}
