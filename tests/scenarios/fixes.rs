// SPDX-License-Identifier: MIT OR Apache-2.0
//! The fixes that are printed, typed as they stand: one fault at least of each kind of change that the model makes.
//! `cargo xtask lab verify` does the same for every fault.
//!
//! `EGWT_ONLY=a,b` tries these faults only.

use std::{collections::BTreeSet, env};

use anyhow::Result;
use tests::{
    Backend,
    causes::{self, Attempt, Case, GAPS},
    helper::Helper,
    mend::Mended,
    skip_unless_able,
    topology::Family,
    verify::{self, Trial},
};
use tracer_user::snapshot::Change;

/// Faults whose fix is typed with each run of the tests.
const TYPED: &[&str] = &[
    "route-blackhole",
    "rule-missing",
    "rule-blackhole",
    "vxlan-no-fdb",
    "vxlan-down-gw",
    "ip-forward",
    "rpf-gw",
    "fw-fwd",
    "snat-order",
    "veth-detached",
    "fwd-drop",
    "pod-wrong-mac",
    "destination-on-the-node",
    "isolated-ports",
    "port-disabled",
    "hairpin-off-masqueraded",
];

/// A kind of change, and a command that makes it, with `*` for any word.
const fn kind(change: &Change) -> (&'static str, &'static str) {
    match change {
        Change::DeviceUp(_) => ("DeviceUp", "ip link set * up"),
        Change::JoinBridge { .. } => ("JoinBridge", "ip link set * master *"),
        Change::ForwardAtPort(_) => ("ForwardAtPort", "bridge link set dev * state 3"),
        Change::HairpinOn(_) => ("HairpinOn", "bridge link set dev * hairpin on"),
        Change::EndIsolation(_) => ("EndIsolation", "bridge link set dev * isolated off"),
        Change::Sysctl { .. } => ("Sysctl", "sysctl -w"),
        Change::DeleteNeighbour { .. } => ("DeleteNeighbour", "ip neigh del"),
        Change::DeleteAddress { .. } => ("DeleteAddress", "ip addr del"),
        Change::SetNeighbour { .. } => ("SetNeighbour", "ip neigh replace"),
        Change::SetForwarding { .. } => ("SetForwarding", "bridge fdb replace"),
        Change::AddRoute(_) => ("AddRoute", "ip route add"),
        Change::DeleteRoute(_) => ("DeleteRoute", "ip route del"),
        Change::AddRoutingRule(_) => ("AddRoutingRule", "ip rule add"),
        Change::DeleteRoutingRule(_) => ("DeleteRoutingRule", "ip rule del"),
        Change::DeleteRule(_) => ("DeleteRule", "iptables-nft -t * -D"),
        Change::InsertRule { .. } => ("InsertRule", "iptables-nft -t * -"),
    }
}

/// One of each kind; a kind that is missing here is missing in `kind` too, which does not compile then.
fn kinds() -> Vec<(&'static str, &'static str)> {
    let reference = || tracer_user::firewall::RuleRef {
        family: tracer_user::firewall::TableFamily::Ip,
        backend: tracer_user::firewall::Backend::IptablesNft,
        table: String::new(),
        chain: String::new(),
        number: 0,
        handle: None,
        comment: None,
        text: String::new(),
    };
    let address = std::net::IpAddr::from([0; 4]);
    let all = [
        Change::DeviceUp(0),
        Change::JoinBridge { port: 0, bridge: 0 },
        Change::ForwardAtPort(0),
        Change::HairpinOn(0),
        Change::EndIsolation(0),
        Change::Sysctl { path: String::new(), value: 0 },
        Change::DeleteNeighbour { ifindex: 0, address },
        Change::DeleteAddress { ifindex: 0, address },
        Change::SetNeighbour { ifindex: 0, address, mac: Vec::new() },
        Change::SetForwarding { ifindex: 0, mac: Vec::new(), remote: address },
        Change::AddRoute(tracer_user::node::rtnl::Route::default()),
        Change::DeleteRoute(tracer_user::node::rtnl::Route::default()),
        Change::AddRoutingRule(tracer_user::node::rtnl::Rule::default()),
        Change::DeleteRoutingRule(tracer_user::node::rtnl::Rule::default()),
        Change::DeleteRule(reference()),
        Change::InsertRule { place: reference(), rule: Box::default() },
    ];
    all.iter().map(kind).collect()
}

/// The words of the pattern, one after the other.
fn fits(command: &str, pattern: &str) -> bool {
    let here = command.strip_prefix("ip netns exec ").and_then(|rest| rest.split_once(' '));
    let mut words = here.map_or(command, |(_, rest)| rest).split(' ');
    pattern.split(' ').all(|wanted| match words.next() {
        // `-A` and `-I` both put a rule in.
        Some(word) if wanted == "-" => matches!(word, "-A" | "-I"),
        Some(word) => wanted == "*" || word == wanted,
        None => false,
    })
}

fn trial(case: Case, strict: bool) -> Trial {
    Trial { attempt: Attempt { case, family: Family::V4, backend: Backend::Nft, strict }, causes: true }
}

#[test]
fn a_fix_of_each_kind_mends_as_it_is_typed() -> Result<()> {
    skip_unless_able!();
    let only = env::var("EGWT_ONLY").ok();
    let wanted = |name: &str| only.as_ref().is_none_or(|only| only.split(',').any(|word| word == name));
    let cases = causes::all().filter(|case| TYPED.contains(&case.name) && wanted(case.name));
    // Every other one with strict reverse path filters.
    let trials: Vec<Trial> = cases.enumerate().map(|(at, case)| trial(case, at % 2 == 1)).collect();
    let (mut wrong, mut typed) = (Vec::new(), BTreeSet::new());
    verify::run(&trials, 2, &Helper::find()?, |trial, result| {
        let name = trial.attempt.name();
        match result {
            Ok(verdict) => {
                println!("{name:21} {:?}", verdict.fixes);
                for (_, fix) in &verdict.fixes {
                    if let Mended::Yes(commands) = fix {
                        typed.extend(commands.clone());
                    }
                }
                wrong.extend(verdict.wrong.into_iter().map(|why| format!("{name}: {why}")));
            }
            Err(error) => wrong.push(format!("{name}: {error:#}")),
        }
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
    let untyped: Vec<&str> = kinds()
        .into_iter()
        .filter(|(_, pattern)| !typed.iter().any(|command| fits(command, pattern)))
        .map(|(name, _)| name)
        .collect();
    assert!(only.is_some() || untyped.is_empty(), "kinds of change that no fault here needs: {untyped:?}");
    Ok(())
}

#[test]
fn what_is_typed_is_in_the_lab() {
    for name in TYPED {
        assert!(causes::all().any(|case| case.name == *name), "{name}");
    }
}

#[test]
fn each_known_gap_is_one_still() -> Result<()> {
    skip_unless_able!();
    let gap = |case: &Case| GAPS.iter().any(|(name, _)| *name == case.name);
    let trials: Vec<Trial> = causes::all().filter(gap).map(|case| trial(case, false)).collect();
    let mut closed = Vec::new();
    verify::run(&trials, 2, &Helper::find()?, |trial, result| {
        if result.is_ok_and(|verdict| verdict.wrong.is_empty()) {
            closed.push(trial.attempt.case.name);
        }
    });
    assert!(closed.is_empty(), "right by now, take them out of GAPS: {closed:?}");
    Ok(())
}
