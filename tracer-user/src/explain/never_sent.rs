// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pods that cannot send: there is no packet to see, so the model is asked.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::context::View;
use crate::cause::Certainty::{Certain, Possible};
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::model::{Question, Snapshot, predict, refused_at_home, search};
use crate::node::{NetnsId, Role};

/// TCP: what most programs ask with.
const TCP: u8 = 6;

fn question(netns: NetnsId, to: IpAddr) -> Question {
    Question {
        source: None,
        sport: None,
        destination: to,
        dport: None,
        protocol: TCP,
        pod: Some(netns),
        assumed: Vec::new(),
    }
}

fn world(view: &View<'_>) -> Option<Snapshot> {
    Some(Snapshot::new(view.evidence?, view.topology, &|netns| view.prefix(netns)))
}

/// Pods whose own state refuses the destination: connecting fails at once, no packet is sent and no counter moves.
pub(super) fn refused_at_once(view: &View<'_>, to: IpAddr) -> Vec<(NetnsId, Finding)> {
    let Some(mut world) = world(view) else { return Vec::new() };
    let pods = view.topology.namespaces.values().filter(|ns| ns.role == Role::Pod);
    let found = pods.filter_map(|ns| Some((ns.id, refused_at_home(&mut world, &question(ns.id, to))?)));
    // Of that a counter tells.
    let found = found.filter(|(_, found)| found.id != c::NO_ROUTE.id);
    found.map(|(netns, found)| (netns, silent(found))).collect()
}

/// With what repairs it by the model: worth its time where it is told for the first time.
pub(super) fn repaired(view: &View<'_>, netns: NetnsId, to: IpAddr, mut found: Finding) -> Finding {
    let Some(mut world) = world(view) else { return found };
    if let Ok(prediction) = predict(&mut world, &question(netns, to)) {
        search(&mut world, &prediction).put_into(&mut found);
    }
    found
}

fn silent(mut found: Finding) -> Finding {
    found.title.push_str(": connecting fails at once, and no packet is sent");
    found
}

/// Counters of connections and datagrams that found no route: there is no packet to see.
const NOWHERE: [&str; 2] = ["Ip.OutNoRoutes", "Ip6.OutNoRoutes"];

/// A namespace that sends has no route to the destination, and something in it just tried in vain.
pub(super) fn nowhere_to_go(
    view: &View<'_>,
    netns: NetnsId,
    destination: IpAddr,
    risen: &BTreeMap<String, u64>,
) -> Option<Finding> {
    let counter = NOWHERE[usize::from(destination.is_ipv6())];
    let times = *risen.get(counter)?;
    let name = view.namespace(netns).filter(|ns| ns.role == Role::Pod).map(|ns| view.netns(ns.id))?;
    let found = refused_at_home(&mut world(view)?, &question(netns, destination));
    let mut found = found.filter(|found| found.id == c::NO_ROUTE.id)?;
    found.certainty = if found.certainty == Possible { Possible } else { Certain };
    Some(silent(found).checked(
        format!("{counter} rose by {times}: something in {name} tried in vain just now"),
        view.command(netns, "nstat -az IpOutNoRoutes Ip6OutNoRoutes"),
    ))
}
