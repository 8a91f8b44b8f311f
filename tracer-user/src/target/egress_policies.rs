// SPDX-License-Identifier: MIT OR Apache-2.0
//! EgressGateway's objects during a run: lines of the status header, names of its addresses, and what causes are told
//! with. Kept current from what the API thread knows; nothing here waits but the status header, and not long.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::Target;
use crate::cluster::egress::{Objects, Pod, PolicyLine, Subject, lines, owners};
use crate::cluster::{Known, Reach};
use crate::node::IpPrefix;

/// How long the status header waits for the pods' own labels.
const WAIT: Duration = Duration::from_millis(300);
const PAUSE: Duration = Duration::from_millis(5);
/// Gateways tell every few seconds that they live, and a large cluster has many.
const BETWEEN: Duration = Duration::from_secs(2);

/// What is known by now.
#[derive(Default)]
pub(crate) struct Policies {
    known: Option<Arc<Known>>,
    destinations: Vec<IpPrefix>,
    seen: Option<u64>,
    looked: Option<Instant>,
    objects: Option<Arc<Objects>>,
    said: Vec<PolicyLine>,
}

impl Policies {
    /// For these pods, or where none is named for those that have the sources.
    pub(crate) fn of(
        reach: &Reach,
        targets: &[Target],
        sources: &[IpPrefix],
        destinations: &[IpPrefix],
    ) -> Self {
        let known = reach.cluster().map(|cluster| cluster.known().clone());
        if let Some(known) = &known {
            let mut named = Vec::new();
            for target in targets {
                if let Some(pod) = as_pod(target) {
                    let subject = Subject::Named { namespace: pod.namespace.clone(), name: pod.name.clone() };
                    named.extend(target.addresses.iter().copied());
                    known.egress.subjects.want(subject, Some(pod));
                }
            }
            let sources = sources.iter().filter(|p| p.is_host()).map(IpPrefix::address);
            for address in sources.filter(|address| !named.contains(address)) {
                known.egress.subjects.want(Subject::At(address), None);
            }
        }
        Self { known, destinations: destinations.to_vec(), ..Self::default() }
    }

    /// Waits for first answers, and not long. Policies that are not known are none to wait for.
    pub(crate) fn wait(&mut self, limit: Duration) {
        let Some(known) = &self.known else { return };
        let end = Instant::now() + limit;
        let stores = &known.egress;
        while Instant::now() < end
            && known.trouble().is_none()
            && !(stores.is_settled() && (stores.subjects.are_answered() || !stores.are_there()))
        {
            thread::sleep(PAUSE);
        }
    }

    /// As [`Self::wait`], for the status header.
    pub(crate) fn first(&mut self) -> Vec<PolicyLine> {
        // A server that has not answered by now was waited for long enough.
        if self.known.as_ref().is_some_and(|known| known.egress.is_settled()) {
            self.wait(WAIT);
        }
        self.look();
        self.said = self.lines();
        self.said.clone()
    }

    /// Looks again, but not often; true when something changed.
    pub(crate) fn refresh(&mut self) -> bool {
        if self.looked.is_some_and(|looked| looked.elapsed() < BETWEEN) {
            return false;
        }
        self.look()
    }

    /// True when something changed.
    pub(crate) fn look(&mut self) -> bool {
        let Some(known) = &self.known else { return false };
        let stores = &known.egress;
        let now = stores.changes();
        if self.seen == Some(now) {
            return false;
        }
        self.seen = Some(now);
        self.looked = Some(Instant::now());
        let objects = stores.objects(&stores.subjects.pods());
        if self.objects.as_deref() == objects.as_ref() {
            return false;
        }
        self.objects = objects.map(Arc::new);
        true
    }

    pub(crate) fn objects(&self) -> Option<&Arc<Objects>> {
        self.objects.as_ref()
    }

    pub(crate) fn owners(&self) -> HashMap<IpAddr, String> {
        self.objects.as_deref().map(owners).unwrap_or_default().into_iter().collect()
    }

    pub(crate) fn lines(&self) -> Vec<PolicyLine> {
        self.objects.as_deref().map(|o| lines(o, &o.pods, &self.destinations)).unwrap_or_default()
    }

    /// What the status header would say by now and did not.
    pub(crate) fn news(&mut self) -> Vec<String> {
        let now = self.lines();
        let new: Vec<String> = now
            .iter()
            .filter(|line| !self.said.contains(line))
            .map(|line| {
                format!("policy {}", [std::slice::from_ref(&line.text), &line.troubles].concat().join("; "))
            })
            .collect();
        self.said = now;
        new
    }
}

/// A pod of Kubernetes' as its runtime has it: with the labels that it was made with.
fn as_pod(target: &Target) -> Option<Pod> {
    let known = target.known.as_ref()?;
    let namespace = known.namespace.clone()?;
    Some(Pod {
        namespace,
        name: known.name.clone(),
        labels: known
            .labels
            .iter()
            .filter(|(key, _)| !key.starts_with("io.kubernetes."))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect(),
        addresses: target.addresses.clone(),
        host_network: target.host_network,
        ..Pod::default()
    })
}
