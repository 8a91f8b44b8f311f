// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pods that come and go during a run.

use std::net::IpAddr;

use super::{TraceError, TraceRun};
use crate::cli::Plan;
use crate::node::{Namespace, Observer, PathRole, Topology};
use crate::target::Target;
use crate::trace::pods::{Held, News, addresses_words};

impl TraceRun<'_> {
    /// Something changed with the pods; true when the set of namespaces did.
    pub(super) fn pods_changed(&mut self, news: News) -> Result<bool, TraceError> {
        match news {
            News::Said(text) => {
                self.say(text);
                self.screen.flush();
                Ok(false)
            }
            News::End(target) => {
                let remark = add_end(&mut self.observer, &target)?;
                let added = remark.is_some();
                if let Some(remark) = remark {
                    self.look_again(true)?;
                    self.say(remark);
                    self.screen.flush();
                }
                Ok(added)
            }
            News::Changed { gone, came } => {
                self.follow(&gone, &came)?;
                Ok(true)
            }
        }
    }

    /// A pod that is followed ended, or another one took its place.
    fn follow(&mut self, gone: &[Held], came: &[Target]) -> Result<(), TraceError> {
        let addresses =
            |of: &mut dyn Iterator<Item = &Vec<IpAddr>>| -> Vec<IpAddr> { of.flatten().copied().collect() };
        let (old, new) = (
            addresses(&mut gone.iter().map(|g| &g.addresses)),
            addresses(&mut came.iter().map(|c| &c.addresses)),
        );
        self.filter.follow_to(&old, &new);
        // Nobody else may be followed by an address that is free again.
        let beyond = self.attachments.tracer().set_followed(&self.filter.followed())?;
        for id in gone.iter().filter_map(|held| held.netns) {
            if self.plan.nodes.iter().all(|node| node.id() != id) {
                self.forget(id);
            }
        }
        for netns in came.iter().filter_map(|target| target.netns.as_ref()) {
            if !self.plan.nodes.contains(netns) {
                self.observer.add_pod(netns)?;
            }
        }
        self.look_again(true)?;
        // Said when it is so: who reads it may send the next packet.
        for held in gone.iter().filter(|_| came.is_empty()) {
            self.say(format!("{} is gone: what takes its place will be followed", held.name));
        }
        for target in came {
            let addresses = addresses_words(&target.addresses);
            self.say(match gone.first() {
                Some(held) => {
                    format!("{} took the place of {}: followed at {addresses}", target.name, held.name)
                }
                None => format!("{} is there: followed at {addresses}", target.name),
            });
            for remark in target.remarks.iter().filter(|_| target.netns.is_none()) {
                self.say(remark.clone());
            }
        }
        if let Some(words) = followed_words(beyond) {
            self.say(words);
        }
        self.screen.flush();
        Ok(())
    }
}

/// Where no container runtime tells which pods run here: watches those at the ends of the flow too, by their addresses,
/// and says so.
pub(super) fn add_found_ends(
    plan: &Plan,
    observer: &mut Observer,
    topology: &Topology,
    addresses: &[IpAddr],
) -> Vec<String> {
    // Without a pod as target, on a node only: what nothing leads out of is an end itself.
    let leads_out = |ns: &Namespace| ns.devices.values().any(|d| d.watched == Some(PathRole::Uplink));
    if !plan.runtimes.is_empty() || !(observer.has_pods() || topology.namespaces.values().any(leads_out)) {
        return Vec::new();
    }
    let found = observer.find_ends(topology, addresses);
    let added = found.into_iter().filter(|netns| observer.add_pod(netns).unwrap_or(false));
    added
        .map(|netns| format!("{}, an end of the flow, is here: its side is watched too", netns.name()))
        .collect()
}

/// Watches the pod at an end of the flow too, and says so; `None`: it is watched already.
pub(super) fn add_end(observer: &mut Observer, target: &Target) -> Result<Option<String>, TraceError> {
    let Some(netns) = &target.netns else { return Ok(None) };
    // A pod that has just ended is no reason to end.
    let added = observer.add_pod(netns).unwrap_or(false);
    Ok(added.then(|| {
        let addresses = addresses_words(&target.addresses);
        format!("{} ({addresses}), an end of the flow, runs here: its side is watched too", target.name)
    }))
}

/// `beyond`: addresses for which there is no room.
pub(super) fn followed_words(beyond: usize) -> Option<String> {
    (beyond > 0)
        .then(|| format!("{beyond} addresses of what is followed are too many: their packets are not seen"))
}
