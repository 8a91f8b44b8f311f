// SPDX-License-Identifier: MIT OR Apache-2.0
//! The smallest set of changes with which a flow that fails arrives, and its reply; none that cuts off a flow that
//! works now.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use super::run::{Prediction, Start, Way, predict_from};
use super::walker::End;
use super::world::{Host, World};
use crate::cause::Certainty::Possible;
use crate::cause::Finding;
use crate::cluster::egress::Objects;
use crate::firewall::PacketView;
use crate::node::rtnl::{Link, RouteAnswer, RouteQuestion};
use crate::node::{NetnsId, Role};
use crate::snapshot::Change;

/// Changes of one repair: more is no advice.
const DEEPEST: usize = 3;
/// Walks with a change, over one search.
const MOST_TRIED: usize = 100;
/// Of each host, flows that work now and have to work still.
const STANDING: usize = 24;
/// Somewhere on the Internet, for the default route. It is looked up and never sent to.
const ANYWHERE: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(9, 9, 9, 9)),
    IpAddr::V6(std::net::Ipv6Addr::new(0x2620, 0xfe, 0, 0, 0, 0, 0, 0xfe)),
];

/// Changes, in order, with the commands that make them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Repair {
    commands: Vec<String>,
    /// Who may write again what is changed.
    owners: Vec<&'static str>,
}

/// What came of a search.
#[derive(Debug, Default)]
pub(crate) struct Searched {
    pub(crate) repair: Option<Repair>,
    /// Changes that were tried.
    pub(crate) tried: u32,
}

impl Searched {
    /// Puts the repair into the finding that it is for.
    pub(crate) fn put_into(self, finding: &mut Finding) {
        finding.repairs_tried = self.tried;
        let Some(Repair { commands, owners }) = self.repair else { return };
        finding.fix = commands.join("; ");
        if !owners.is_empty() {
            // Writing to a String cannot fail.
            let _ = write!(finding.fix, " ({} wrote that, and may do so again)", owners.join(", "));
        }
        if !finding.besides.is_empty() {
            let _ = write!(finding.fix, "; {}", finding.besides);
        }
        finding.commands = commands;
    }
}

/// A world with something else in it.
struct Changed<'w> {
    world: &'w mut dyn World,
    hosts: BTreeMap<NetnsId, Arc<Host>>,
}

impl Changed<'_> {
    fn now(&self, host: Arc<Host>) -> Arc<Host> {
        self.hosts.get(&host.id).cloned().unwrap_or(host)
    }

    fn apply(&mut self, (id, change): &(NetnsId, Change)) -> bool {
        let Some(host) = self.host(*id) else { return false };
        let after = change.apply(&host.evidence);
        if after == *host.evidence {
            return false;
        }
        self.hosts.insert(*id, Arc::new(host.with(after)));
        true
    }
}

impl World for Changed<'_> {
    fn watched(&self) -> Vec<Arc<Host>> {
        self.world.watched().into_iter().map(|host| self.now(host)).collect()
    }

    fn host(&self, id: NetnsId) -> Option<Arc<Host>> {
        self.hosts.get(&id).cloned().or_else(|| self.world.host(id))
    }

    fn peer(&mut self, host: &Host, link: &Link) -> Option<(Arc<Host>, u32)> {
        let (peer, ifindex) = self.world.peer(host, link)?;
        Some((self.now(peer), ifindex))
    }

    fn peer_addresses(&mut self, host: &Host, link: &Link) -> Option<Vec<IpAddr>> {
        self.world.peer_addresses(host, link)
    }

    fn listeners(&mut self, host: &Host, protocol: u8, port: u16) -> Vec<u32> {
        self.world.listeners(host, protocol, port)
    }

    fn policies(&self) -> Option<Arc<Objects>> {
        self.world.policies()
    }

    /// The machine is not asked about what it is not.
    fn kernel_route(&mut self, _: &Host, _: &RouteQuestion) -> Option<RouteAnswer> {
        None
    }
}

fn moved(start: &Start, world: &Changed<'_>) -> Start {
    match start {
        Start::Sent(host) => Start::Sent(world.now(host.clone())),
        Start::Arrives(host, device) => Start::Arrives(world.now(host.clone()), *device),
    }
}

/// Looks for what repairs a flow that fails in this world.
pub(crate) fn search(world: &mut dyn World, prediction: &Prediction) -> Searched {
    let Prediction { start, packet, .. } = prediction;
    let mut searched = Searched::default();
    // Breadth first: all single changes before all pairs. What fails next leads to the next change.
    let mut todo: Vec<Vec<(NetnsId, Change)>> =
        candidates(prediction).into_iter().map(|change| vec![change]).collect();
    for _ in 0..DEEPEST {
        let mut deeper = Vec::new();
        for changes in todo {
            if searched.tried as usize >= MOST_TRIED {
                return searched;
            }
            let mut changed = Changed { world, hosts: BTreeMap::new() };
            if !changes.iter().all(|change| changed.apply(change)) {
                continue;
            }
            searched.tried += 1;
            let start = moved(start, &changed);
            let now = predict_from(&mut changed, start, packet.clone(), Vec::new());
            if now.works() {
                let hosts = changed.hosts;
                if let Some(repair) = commands(world, &changes)
                    && !cuts_off(world, &hosts)
                {
                    searched.repair = Some(repair);
                    return searched;
                }
                continue;
            }
            for next in candidates(&now) {
                // A check that is loosened to get further hides what the other change did not mend.
                if !changes.contains(&next) && !next.1.loosens_a_check() {
                    deeper.push(changes.iter().cloned().chain([next]).collect());
                }
            }
        }
        todo = deeper;
    }
    searched
}

fn commands(world: &dyn World, changes: &[(NetnsId, Change)]) -> Option<Repair> {
    let mut repair = Repair::default();
    for (id, change) in changes {
        let host = world.host(*id)?;
        repair.commands.push(host.command(change.command(&host.evidence)?));
        let owner = change.owner().filter(|owner| !repair.owners.contains(owner));
        repair.owners.extend(owner);
    }
    Some(repair)
}

fn candidates(prediction: &Prediction) -> Vec<(NetnsId, Change)> {
    let mut out: Vec<(NetnsId, Change)> = Vec::new();
    for found in prediction.ways.iter().flat_map(|way| &way.found) {
        for change in &found.finding.changes {
            if !out.contains(change) {
                out.push(change.clone());
            }
        }
    }
    out
}

/// A flow of the changed hosts that works now would no longer, or would leave elsewhere.
fn cuts_off(world: &mut dyn World, hosts: &BTreeMap<NetnsId, Arc<Host>>) -> bool {
    let mut others = world.watched();
    others.retain(|host| !hosts.contains_key(&host.id));
    let addresses: Vec<IpAddr> =
        others.iter().flat_map(|host| &host.evidence.addresses).map(|a| a.address).collect();
    let changed: Vec<Arc<Host>> = hosts.keys().filter_map(|id| world.host(*id)).collect();
    for host in changed.into_iter().chain(others) {
        for packet in standing(&host, &addresses) {
            let before = ends(world, &host, &packet);
            let Some(before) = before else { continue };
            let mut after = Changed { world, hosts: hosts.clone() };
            let host = after.now(host.clone());
            if ends(&mut after, &host, &packet).as_ref() != Some(&before) {
                return true;
            }
        }
    }
    false
}

/// Pings to the host's neighbours and gateways, to the other hosts, and to somewhere far away.
fn standing(host: &Host, others: &[IpAddr]) -> Vec<PacketView> {
    let gateways = host.evidence.routes.iter().flat_map(|r| &r.next_hops).filter_map(|hop| hop.gateway);
    let neighbours = host.evidence.neighbours.iter().filter(|n| !n.mac.is_empty()).map(|n| n.address);
    let all = ANYWHERE.into_iter().chain(gateways).chain(others.iter().copied()).chain(neighbours);
    let all = all.filter(|to| !to.is_loopback() && !to.is_multicast() && !host.owns(*to));
    let mut seen = BTreeSet::new();
    all.filter(|to| seen.insert(*to))
        .take(STANDING)
        .map(|to| {
            let (proto, kind) = if to.is_ipv4() { (1, 8) } else { (58, 128) };
            let mut packet = PacketView::new(proto, super::run::unspecified(to), to).mark(0);
            packet.icmp = Some((kind, 0));
            packet
        })
        .collect()
}

/// Where a packet that is sent here ends well: namespace, device, next hop; `None`: it does not.
fn ends(
    world: &mut dyn World,
    host: &Arc<Host>,
    packet: &PacketView,
) -> Option<(NetnsId, u32, Option<IpAddr>)> {
    let prediction = predict_from(world, Start::Sent(host.clone()), packet.clone(), Vec::new());
    if !prediction.works() {
        return None;
    }
    let run = prediction.ways.first()?.main();
    match &run.end {
        End::Left(host, device) => Some((host.id, *device, run.flight.next_hop)),
        End::Delivered(host) => Some((host.id, 0, None)),
        End::Stopped(_) | End::Unknown(_) => None,
    }
}

impl Prediction {
    /// The request arrives or leaves for another machine, the reply comes back, and nothing is wrong on the way.
    pub(crate) fn works(&self) -> bool {
        !self.ways.is_empty() && self.ways.iter().all(|way| way.works(&self.start))
    }
}

impl Way {
    fn works(&self, start: &Start) -> bool {
        let wrong = |found: &super::walker::Found| {
            let finding = &found.finding;
            !finding.kind().harmless && finding.certainty != Possible
        };
        let main = self.main();
        let there = match &main.end {
            End::Delivered(_) => true,
            // Out of a pod it has to come to somebody.
            End::Left(host, device) => host.role == Role::Node || host.uplinks.contains(device),
            End::Stopped(_) | End::Unknown(_) => false,
        };
        let back = self.reply.as_ref().is_none_or(|reply| match (&reply.end, start) {
            (End::Delivered(host), Start::Sent(client)) => host.id == client.id,
            (End::Left(host, device), Start::Arrives(first, by)) => host.id == first.id && device == by,
            _ => false,
        });
        there && back && !self.found.iter().any(wrong)
    }
}
