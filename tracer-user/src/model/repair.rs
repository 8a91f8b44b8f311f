// SPDX-License-Identifier: MIT OR Apache-2.0
//! The smallest set of changes with which a flow that fails arrives, and its reply; none that cuts off a flow that
//! works now.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use super::peers;
use super::run::{Prediction, Start, Way, predict_from};
use super::standing::{ends, standing};
use super::walker::End;
use super::world::{Host, World};
use crate::cause::Certainty::Possible;
use crate::cause::Finding;
use crate::cluster::egress::Objects;
use crate::node::rtnl::{Link, RouteAnswer, RouteQuestion};
use crate::node::{NetnsId, Role};
use crate::snapshot::Change;

/// Changes of one repair: more is no advice.
const DEEPEST: usize = 3;
/// Walks with a change, over one search.
const MOST_TRIED: usize = 100;
/// Changes, in order, with the commands that make them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Repair {
    changes: Vec<(NetnsId, Change)>,
    commands: Vec<String>,
    /// Who may write again what is changed.
    owners: Vec<&'static str>,
}

/// What came of a search.
#[derive(Debug, Default)]
pub(crate) struct Searched {
    pub(crate) repair: Option<Repair>,
    /// Commands that do not suffice, and what has to be done besides.
    partial: Option<String>,
    /// Commands that do not suffice, and what is wrong with them.
    useless: Vec<(String, String)>,
    /// Changes that were tried.
    pub(crate) tried: u32,
}

impl Searched {
    /// The kernel would check less.
    pub(crate) fn loosens_a_check(&self) -> bool {
        let changes = self.repair.iter().flat_map(|repair| &repair.changes);
        changes.into_iter().any(|(_, change)| change.loosens_a_check())
    }

    /// Puts the repair into the finding that it is for. A command of which the model says that it does not repair the flow
    /// is not left as it stands.
    pub(crate) fn put_into(self, finding: &mut Finding) {
        finding.repairs_tried = self.tried;
        let Some(Repair { changes, commands, owners }) = self.repair else {
            finding.changes.clear();
            if let Some(partial) = self.partial {
                finding.fix = partial;
            } else if let Some((command, why)) =
                self.useless.iter().find(|(command, _)| finding.fix.starts_with(command))
            {
                finding.fix = format!("`{command}` is not enough: {why}");
            }
            return;
        };
        let lasting = std::mem::replace(&mut finding.fix, commands.join("; "));
        if !owners.is_empty() {
            // Writing to a String cannot fail.
            let _ = write!(finding.fix, " ({} wrote that, and may do so again)", owners.join(", "));
        }
        if !finding.besides.is_empty() {
            let _ = write!(finding.fix, "; {}", finding.besides);
        }
        let restored = changes.iter().any(|(_, change)| change.restores());
        if restored && !lasting.is_empty() && !is_command(&lasting) {
            let _ = write!(finding.fix, "; lasting: {lasting}");
        }
        finding.commands = commands;
        finding.changes = changes;
    }
}

/// It can be typed, at least its beginning.
fn is_command(fix: &str) -> bool {
    ["ip ", "bridge ", "sysctl ", "iptables", "ip6tables", "nft ", "conntrack "]
        .iter()
        .any(|tool| fix.starts_with(tool))
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
        if let Change::DeviceUp(ifindex) = change
            && let Some(link) = host.link(*ifindex)
        {
            self.carrier(&host, link);
        }
        self.hosts.insert(*id, Arc::new(host.with(after)));
        true
    }

    /// The other end of a veth has a carrier again, and its bridge lets it forward.
    fn carrier(&mut self, host: &Host, link: &Link) {
        let Some((there, ifindex)) = self.peer(host, link) else { return };
        let up = there.link(ifindex).filter(|port| port.is_up());
        if up.is_some_and(|port| port.port.is_some_and(|port| port.state == 0)) {
            let after = Change::ForwardAtPort(ifindex).apply(&there.evidence);
            self.hosts.insert(there.id, Arc::new(there.with(after)));
        }
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
    let known: Vec<_> = claims(prediction).filter(|f| f.breaks()).map(name).collect();
    // Where nothing is broken, what goes otherwise than it should has to be gone.
    let harmless: Vec<_> = if known.is_empty() { claims(prediction).map(name).collect() } else { Vec::new() };
    // Breadth first: all single changes before all pairs. What fails next leads to the next change.
    let mut todo: Vec<Vec<(NetnsId, Change)>> =
        candidates(world, prediction).into_iter().map(|change| vec![change]).collect();
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
            let more = candidates(&changed, &now);
            let hosts = changed.hosts;
            let gone = claims(&now).all(|claim| !harmless.contains(&name(claim)));
            if now.works() && gone {
                let Some(repair) = commands(world, &changes) else { continue };
                if !cuts_off(world, &hosts) {
                    searched.repair = Some(repair);
                    return searched;
                }
                let why = || "other flows, which work now, would be cut off".to_owned();
                searched.useless.extend(repair.commands.into_iter().map(|command| (command, why())));
                continue;
            }
            for next in more {
                // A check that is loosened to get further hides what the other change did not mend.
                if !changes.contains(&next) && !next.1.loosens_a_check() {
                    deeper.push(changes.iter().cloned().chain([next]).collect());
                }
            }
            let Some(repair) = commands(world, &changes) else { continue };
            let left = claims(&now).find(|claim| claim.breaks());
            let why = match left {
                Some(left) => left.title.clone(),
                None if now.is_open() => continue,
                None => "the answer does not come back to who asked".to_owned(),
            };
            searched.useless.extend(repair.commands.iter().map(|command| (command.clone(), why.clone())));
            let Some(left) = left else { continue };
            let loosens = left.changes.iter().any(|(_, change)| change.loosens_a_check());
            let further = !known.contains(&name(left)) && !left.fix.is_empty() && !loosens;
            if searched.partial.is_none() && further && !cuts_off(world, &hosts) {
                searched.partial = Some(format!("{}; then {}", repair.commands.join("; "), left.fix));
            }
        }
        todo = deeper;
    }
    searched
}

fn commands(world: &dyn World, changes: &[(NetnsId, Change)]) -> Option<Repair> {
    let mut repair = Repair { changes: changes.to_vec(), ..Repair::default() };
    for (id, change) in changes {
        let host = world.host(*id)?;
        repair.commands.push(host.command(change.command(&host.evidence)?));
        let owner = change.owner().filter(|owner| !repair.owners.contains(owner));
        repair.owners.extend(owner);
    }
    Some(repair)
}

/// What is wrong on the way, and more than possible.
fn claims(prediction: &Prediction) -> impl Iterator<Item = &Finding> {
    let found = prediction.ways.iter().flat_map(|way| &way.found).map(|found| &found.finding);
    found.filter(|finding| finding.certainty != Possible)
}

/// Tells faults apart.
fn name(finding: &Finding) -> (&'static str, &str, Option<&str>) {
    (finding.id, &finding.place.netns, finding.place.device.as_deref())
}

fn candidates(world: &dyn World, prediction: &Prediction) -> Vec<(NetnsId, Change)> {
    let mut out: Vec<(NetnsId, Change)> = Vec::new();
    let found = prediction.ways.iter().flat_map(|way| &way.found);
    let named = found.flat_map(|found| found.finding.changes.iter().cloned());
    // What leaves a node and is for a pod of another one lacks the route there.
    let runs =
        prediction.ways.iter().flat_map(|way| [Some(way.main()), way.later.as_ref(), way.reply.as_ref()]);
    let nodes = world.watched();
    let routes = runs.flatten().flat_map(|run| match &run.end {
        End::Left(host, _) if run.flight.inside.is_none() => {
            peers::route_to_pod(&nodes, host, run.flight.packet.dst)
        }
        _ => Vec::new(),
    });
    for change in named.chain(routes) {
        if !out.contains(&change) {
            out.push(change);
        }
    }
    out
}

/// A flow of the changed hosts that works now would no longer, or would leave elsewhere or with another source.
fn cuts_off(world: &mut dyn World, hosts: &BTreeMap<NetnsId, Arc<Host>>) -> bool {
    let mut others = world.watched();
    others.retain(|host| !hosts.contains_key(&host.id));
    let addresses: Vec<IpAddr> =
        others.iter().flat_map(|host| &host.evidence.addresses).map(|a| a.address).collect();
    let changed: Vec<Arc<Host>> = hosts.keys().filter_map(|id| world.host(*id)).collect();
    for host in changed.into_iter().chain(others) {
        for (start, packet) in standing(&host, &addresses) {
            let Some(before) = ends(world, start.clone(), &packet) else { continue };
            let mut after = Changed { world, hosts: hosts.clone() };
            let start = moved(&start, &after);
            if ends(&mut after, start, &packet).as_ref() != Some(&before) {
                return true;
            }
        }
    }
    false
}

impl Prediction {
    /// Somewhere the model does not know how it goes on.
    fn is_open(&self) -> bool {
        let runs =
            self.ways.iter().flat_map(|way| [Some(way.main()), way.later.as_ref(), way.reply.as_ref()]);
        runs.flatten().any(|run| matches!(run.end, End::Unknown(_)))
    }

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
            (End::Left(host, device), Start::Arrives(first, by)) => {
                let tunnel = reply.flight.inside.as_ref().map(|inside| &inside.device);
                host.id == first.id && (device == by || tunnel == first.link(*by).map(|link| &link.name))
            }
            _ => false,
        });
        there && back && !self.found.iter().any(wrong)
    }
}
