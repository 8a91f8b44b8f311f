// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is printed to be typed does no harm: the changes of every fix of every recording are laid over the snapshot that
//! it was found in, and each flow of a list that passed before must pass then, to the same end.

use std::fs;
use std::io::BufReader;
use std::net::IpAddr;
use std::path::Path;

use tracer_user::cause::Finding;
use tracer_user::check::{Path as CheckPath, check};
use tracer_user::firewall::Criterion;
use tracer_user::model::{Ending, Host, Question, Snapshot, World as _};
use tracer_user::node::{IpPrefix, Role, Topology};
use tracer_user::record::{Reader, replay};
use tracer_user::snapshot::Evidence;

use crate::explain_text::{Unpacked, names_in};

/// Destinations of one sender that are tried.
const EACH: usize = 8;
/// For documentation only (RFC 5737, RFC 3849): it is by the default route.
const FAR: [&str; 2] = ["203.0.113.7", "2001:db8::7"];

/// The fixes that can be typed, with the snapshot they are for.
fn fixes(file: &Path) -> Vec<(Finding, Evidence, Topology)> {
    let mut reader =
        Reader::new(BufReader::new(fs::File::open(file).expect("opens"))).expect("is a recording");
    let mut last = None;
    let mut out: Vec<(Finding, Evidence, Topology)> = Vec::new();
    let replayed = replay(&mut reader, &mut |retold| {
        let Some(evidence) = retold.evidence else { return };
        for told in retold.causes.iter().filter(|told| !told.finding.commands.is_empty()) {
            if !out.iter().any(|(known, ..)| known.commands == told.finding.commands) {
                out.push((told.finding.clone(), evidence.clone(), retold.topology.clone()));
            }
        }
        last = Some((evidence.clone(), retold.topology.clone()));
    })
    .expect("is whole");
    // What no packet shows is told later.
    for told in replayed.causes.into_iter().filter(|told| !told.finding.commands.is_empty()) {
        if let Some((evidence, topology)) = &last
            && !out.iter().any(|(known, ..)| known.commands == told.finding.commands)
        {
            out.push((told.finding, evidence.clone(), topology.clone()));
        }
    }
    out
}

fn question(source: IpAddr, destination: IpAddr, port: Option<u16>) -> Question {
    let ping = if destination.is_ipv4() { 1 } else { 58 };
    Question {
        source: Some(source),
        sport: port.map(|_| 40_000),
        destination,
        dport: port,
        protocol: if port.is_some() { 6 } else { ping },
        pod: None,
        assumed: Vec::new(),
    }
}

/// Of each host and of each pod that a node knows: pings to the gateways, beyond them, to the other hosts and their pods,
/// and connections to services.
fn standing(snapshot: &Snapshot) -> Vec<Question> {
    let hosts = snapshot.watched();
    let global = |address: &IpAddr| {
        !address.is_loopback()
            && !address.is_multicast()
            && !matches!(address, IpAddr::V6(six) if six.is_unicast_link_local())
    };
    let nodes = || hosts.iter().filter(|host| host.role == Role::Node);
    let own = hosts.iter().flat_map(|host| host.evidence.addresses.iter().map(|a| a.address));
    let known = nodes().flat_map(|host| host.evidence.neighbours.iter().filter(|n| !n.mac.is_empty()));
    let mut members: Vec<IpAddr> = own.chain(known.map(|n| n.address)).filter(global).collect();
    members.sort_unstable();
    members.dedup();
    let gateways = hosts.iter().flat_map(|host| host.evidence.routes.iter());
    let gateways = gateways.flat_map(|route| &route.next_hops).filter_map(|hop| hop.gateway);
    let far = FAR.iter().filter_map(|address| address.parse::<IpAddr>().ok());
    let mut to: Vec<(IpAddr, Option<u16>)> =
        gateways.chain(far).filter(global).map(|to| (to, None)).collect();
    to.extend(nodes().flat_map(|host| services(host)).map(|(to, port)| (to, Some(port))));
    to.extend(members.iter().map(|to| (*to, None)));
    let mut seen = std::collections::BTreeSet::new();
    to.retain(|one| seen.insert(*one));
    let of = |source: IpAddr| {
        let fits = move |(to, _): &&(IpAddr, Option<u16>)| to.is_ipv4() == source.is_ipv4() && *to != source;
        to.iter().filter(fits).take(EACH).map(move |(to, port)| question(source, *to, *port))
    };
    let senders = hosts.iter().flat_map(|host| {
        let by = |ipv4: bool| {
            let own = host.evidence.addresses.iter().filter(move |a| a.address.is_ipv4() == ipv4);
            let out = own.filter(|a| host.role == Role::Pod || host.uplinks.contains(&a.ifindex));
            out.map(|a| a.address).find(global)
        };
        [by(true), by(false)].into_iter().flatten()
    });
    let pods = nodes().flat_map(|host| {
        let inside = |ifindex: u32| !host.uplinks.contains(&ifindex);
        let bridge = move |ifindex: u32| host.link(ifindex).is_some_and(|link| link.vxlan.is_none());
        let known = host.evidence.neighbours.iter().filter(|n| !n.mac.is_empty());
        known.filter(move |n| inside(n.ifindex) && bridge(n.ifindex)).map(|n| n.address)
    });
    let mut senders: Vec<IpAddr> = senders.chain(pods).filter(global).collect();
    senders.sort_unstable();
    senders.dedup();
    senders.into_iter().flat_map(of).collect()
}

/// What rules translate: an address and a port.
fn services(host: &Host) -> Vec<(IpAddr, u16)> {
    let rules = host.evidence.rulesets.iter().flat_map(|t| &t.chains).flat_map(|c| c.rules.iter());
    let mut out: Vec<(IpAddr, u16)> = rules
        .filter_map(|rule| {
            let to = rule.matches.iter().find_map(|m| match &m.what {
                Criterion::Destination(all) if !m.negated => {
                    all.first().filter(|one| one.first == one.last).map(|one| one.first)
                }
                _ => None,
            })?;
            let port = rule.matches.iter().find_map(|m| match &m.what {
                Criterion::DestinationPort(all) if !m.negated => all.first().map(|one| one.first),
                _ => None,
            })?;
            Some((to, port))
        })
        .collect();
    out.sort_unstable();
    out.dedup();
    out
}

/// Where the request ends, where it and the reply do and nothing is wrong.
fn passes(snapshot: &mut Snapshot, question: &Question) -> Option<Ending> {
    let report = check(snapshot, question);
    let hosts = snapshot.watched();
    // What is for a host that is known has arrived there, or nowhere.
    let owner = |address: IpAddr| hosts.iter().find(|host| host.owns(address)).map(|host| host.name());
    // A pod that is not watched is behind the bridge that has its network.
    let behind = |address: IpAddr| {
        let bridge = |host: &Host| {
            host.evidence.addresses.iter().any(|a| {
                let network = IpPrefix::new(a.address, a.prefix_len);
                host.link(a.ifindex).is_some_and(|link| link.is_kind("bridge"))
                    && network.is_some_and(|network| network.contains(address))
            })
        };
        hosts.iter().find(|host| host.role == Role::Node && bridge(host)).map(|host| host.name())
    };
    let arrives = |path: &CheckPath| {
        let to = path.steps.last().and_then(|step| step.dst.parse::<std::net::SocketAddr>().ok());
        let to = to.map(|to| to.ip()).or_else(|| path.steps.last()?.dst.parse().ok());
        match (&path.ending, to.and_then(owner)) {
            (Ending::Delivered { netns }, Some(owner)) => *netns == owner,
            (Ending::Left { netns, .. }, None) => to.and_then(behind).is_none_or(|node| *netns == node),
            (Ending::Delivered { .. }, None) => true,
            _ => false,
        }
    };
    let whole = report.paths.len() > 1 || matches!(report.paths.first()?.ending, Ending::Left { .. });
    (whole && report.paths.iter().all(arrives) && !report.is_wrong())
        .then(|| report.paths.first().map(|path| path.ending.clone()))?
}

#[test]
fn no_fix_of_a_recording_cuts_off_a_flow_that_passes() {
    let (mut tried, mut flows, mut lost) = (0, 0, Vec::new());
    for archive in ["recordings", "ends"] {
        let Some(unpacked) = Unpacked::new(archive) else { return };
        for name in names_in(&unpacked.0, "rec") {
            for (finding, evidence, topology) in fixes(&unpacked.0.join(&name).with_extension("rec")) {
                let mut before = Snapshot::new(&evidence, &topology, &|_| None);
                let mut after = before.clone();
                assert!(
                    !finding.changes.is_empty(),
                    "{name}: commands without changes: {:?}",
                    finding.commands
                );
                for (netns, change) in &finding.changes {
                    after = after.with(*netns, |evidence| *evidence = change.apply(evidence));
                }
                tried += 1;
                for question in standing(&before) {
                    let Some(ending) = passes(&mut before, &question) else { continue };
                    flows += 1;
                    let now = passes(&mut after, &question);
                    if now.as_ref() != Some(&ending) {
                        lost.push(format!(
                            "{name}: {}: {question:?}: {ending:?}, then {now:?}",
                            finding.commands.join("; ")
                        ));
                    }
                }
            }
        }
    }
    assert!(lost.is_empty(), "{} of {flows} flows:\n{}", lost.len(), lost.join("\n"));
    println!("{tried} fixes, {flows} flows that pass before and after");
    assert!(tried >= 30 && flows >= 500, "{tried} fixes, {flows} flows");
}
