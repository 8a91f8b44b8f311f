// SPDX-License-Identifier: MIT OR Apache-2.0
//! The node's pods, beside the event path: a thread asks the container runtime again and again. It gives addresses
//! their names, finds the pods at the ends of the flow, and with `--follow` the pods that take another's place.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::names::{KernelNames, Owners};
use crate::cli::Plan;
use crate::cluster::Cluster;
use crate::node::NetnsId;
use crate::target::cri::Cri;
use crate::target::{
    Backend, ClusterPods, Kind, Known, NamedNamespaces, Target, Wanted, at_home, fitting, own_addresses,
};

/// Between two rounds.
const PAUSE: Duration = Duration::from_secs(1);
/// The same while somebody waits for a pod to come back.
const PAUSE_FOLLOWING: Duration = Duration::from_millis(200);
/// After a runtime did not answer.
const PAUSE_TROUBLE: Duration = Duration::from_secs(5);
/// Addresses that have names, at most.
const OWNERS: usize = 20_000;

/// What the run has to know.
#[derive(Debug)]
pub(super) enum News {
    /// An end of the flow is a pod that runs here.
    End(Box<Target>),
    /// Of what is followed.
    Changed { gone: Vec<Held>, came: Vec<Target> },
    /// For the user.
    Said(String),
}

/// A pod that is followed. Does not keep its namespace.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) name: String,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) netns: Option<NetnsId>,
    id: String,
}

impl Held {
    fn of(target: &Target) -> Self {
        Self {
            name: target.name.clone(),
            addresses: target.addresses.clone(),
            netns: target.netns.as_ref().map(crate::node::Netns::id),
            id: target.known.as_ref().map_or_else(String::new, |known| known.id.clone()),
        }
    }
}

/// What the thread has found. The thread ends soon after this is dropped.
pub(super) struct PodWatch {
    news: UnboundedReceiver<News>,
    /// Looked at, and not yet for now.
    kept: VecDeque<News>,
    hosts: Arc<Mutex<Vec<IpAddr>>>,
}

impl PodWatch {
    pub(super) fn start(plan: &Plan, targets: &[Target], names: Arc<KernelNames>) -> Self {
        let (tell, news) = unbounded_channel();
        let mut hosts = plan.filter.hosts();
        hosts.retain(|host| targets.iter().all(|t| !t.addresses.contains(host)));
        let hosts = Arc::new(Mutex::new(hosts));
        if !plan.runtimes.is_empty() || !plan.follow.is_empty() {
            let watch = WatchThread {
                sockets: plan.runtimes.clone(),
                cluster: plan.reach.cluster().cloned().map(|cluster| (cluster, own_addresses(&plan.nodes))),
                follow: plan.follow.iter().map(|wanted| (wanted.clone(), Vec::new())).collect(),
                first: targets.iter().map(Held::of).collect(),
                hosts: hosts.clone(),
                addresses: HashMap::new(),
                ends: HashSet::new(),
                said: HashSet::new(),
                owners: Owners::new(),
                tell,
                names,
            };
            // Without a thread, pods have no names.
            let _ = thread::Builder::new().name("pods".into()).spawn(move || watch.run());
        }
        Self { news, kept: VecDeque::new(), hosts }
    }

    /// Waits for news; forever when there will be none.
    pub(super) async fn next(&mut self) -> News {
        if let Some(news) = self.kept.pop_front() {
            return news;
        }
        match self.news.recv().await {
            Some(news) => news,
            None => std::future::pending().await,
        }
    }

    /// More ends of the flow: behind a translation.
    pub(super) fn look_for(&self, ends: &[IpAddr]) {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let new: Vec<IpAddr> = ends.iter().filter(|end| !hosts.contains(end)).copied().collect();
        // Each is a pod of this node or not: a few thousand say more than anybody reads.
        if hosts.len() < 4096 {
            hosts.extend(new);
        }
    }

    /// To be given out by [`Self::next`].
    pub(super) fn put_back(&mut self, news: News) {
        self.kept.push_back(news);
    }

    /// What has come by now.
    pub(super) fn ready(&mut self) -> Option<News> {
        self.news.try_recv().ok()
    }
}

struct WatchThread {
    sockets: Vec<PathBuf>,
    /// For pods that are followed and run elsewhere; with the addresses of this node.
    cluster: Option<(Cluster, Vec<IpAddr>)>,
    /// What is followed, and the pods that are it now.
    follow: Vec<(Wanted, Vec<Held>)>,
    /// As found before the run; given to `follow` in the first round.
    first: Vec<Held>,
    /// Ends of the flow that are no targets.
    hosts: Arc<Mutex<Vec<IpAddr>>>,
    /// By sandbox; one does not change its addresses.
    addresses: HashMap<String, Vec<IpAddr>>,
    ends: HashSet<String>,
    /// Said once.
    said: HashSet<String>,
    owners: Owners,
    tell: UnboundedSender<News>,
    names: Arc<KernelNames>,
}

impl WatchThread {
    fn run(mut self) {
        let runtimes: Vec<Cri> = self.sockets.iter().filter_map(|s| Cri::new(s, Kind::Pods).ok()).collect();
        let cluster = self.cluster.take().map(|(cluster, here)| ClusterPods::new(cluster, here).following());
        while !self.tell.is_closed() {
            let trouble = self.round(&runtimes, cluster.as_ref());
            thread::sleep(match (trouble, self.follow.is_empty()) {
                (true, true) => PAUSE_TROUBLE,
                (_, false) => PAUSE_FOLLOWING,
                _ => PAUSE,
            });
        }
    }

    /// True when a runtime did not answer.
    fn round(&mut self, runtimes: &[Cri], cluster: Option<&ClusterPods>) -> bool {
        let mut trouble = false;
        let mut pods: Vec<(usize, Known)> = Vec::new();
        for (at, runtime) in runtimes.iter().enumerate() {
            match runtime.list() {
                Ok(list) => pods.extend(list.into_iter().map(|pod| (at, pod))),
                Err(error) => {
                    trouble = true;
                    // One that is no runtime of Kubernetes' has no pods: nothing is lost.
                    if !error.is_unimplemented() {
                        self.say(format!("pods have no names for now: {error}"));
                    }
                }
            }
        }
        pods.retain(|(_, pod)| !pod.stopped);
        self.learn(runtimes, &pods);
        self.find_ends(runtimes, &pods);
        if !self.follow.is_empty() && !trouble {
            self.look_for_followed(runtimes, cluster);
        }
        trouble
    }

    /// Asks for the addresses of those that are new, and publishes the names of all.
    fn learn(&mut self, runtimes: &[Cri], pods: &[(usize, Known)]) {
        self.addresses.retain(|id, _| pods.iter().any(|(_, pod)| pod.id == *id));
        for (at, runtime) in runtimes.iter().enumerate() {
            let new: Vec<&Known> = pods
                .iter()
                .filter(|(of, pod)| *of == at && !self.addresses.contains_key(&pod.id))
                .map(|(_, pod)| pod)
                .collect();
            if new.is_empty() {
                continue;
            }
            for (pod, addresses) in new.iter().zip(runtime.addresses(&new)) {
                // One that has none yet is asked for again.
                if let Some(addresses) = addresses {
                    self.addresses.insert(pod.id.clone(), addresses);
                }
            }
        }
        let owners: Owners = pods
            .iter()
            .flat_map(|(_, pod)| {
                let addresses = self.addresses.get(&pod.id).into_iter().flatten();
                addresses.map(|address| (*address, pod.shown()))
            })
            .take(OWNERS)
            .collect();
        if owners != self.owners {
            self.names.set_owners(owners.clone());
            self.owners = owners;
        }
    }

    fn find_ends(&mut self, runtimes: &[Cri], pods: &[(usize, Known)]) {
        let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (at, pod) in pods {
            let addresses = self.addresses.get(&pod.id).map_or(&[][..], Vec::as_slice);
            if !addresses.iter().any(|a| hosts.contains(a)) || !self.ends.insert(pod.id.clone()) {
                continue;
            }
            match at_home(&runtimes[*at], pod.clone()) {
                Ok(target) => self.send(News::End(Box::new(target))),
                Err(error) => self.say(format!("{}: its side is not watched: {error}", pod.shown())),
            }
        }
    }

    fn look_for_followed(&mut self, runtimes: &[Cri], cluster: Option<&ClusterPods>) {
        let mut backends: Vec<&dyn Backend> = runtimes.iter().map(|r| r as &dyn Backend).collect();
        backends.push(&NamedNamespaces);
        backends.extend(cluster.map(|cluster| cluster as &dyn Backend));
        let first = std::mem::take(&mut self.first);
        for at in 0..self.follow.len() {
            let (wanted, mut held) = self.follow[at].clone();
            let is_held = |known: &Known| held.iter().chain(&first).any(|h| h.id == known.id);
            let found = fitting(&wanted, &backends, is_held);
            if !first.is_empty() {
                held = first
                    .iter()
                    .filter(|h| found.iter().any(|(_, known)| known.id == h.id))
                    .cloned()
                    .collect();
                // One that ended since it was found: told with the first round that misses it.
                if let (true, Wanted::Pod(_)) = (held.is_empty(), &wanted) {
                    held = first.iter().take(1).cloned().collect();
                }
            }
            let (still, gone): (Vec<Held>, Vec<Held>) =
                held.into_iter().partition(|h| found.iter().any(|(_, known)| known.id == h.id));
            let mut new: Vec<&(usize, Known)> =
                found.iter().filter(|(_, known)| still.iter().all(|h| h.id != known.id)).collect();
            if matches!(wanted, Wanted::Pod(_)) {
                if !still.is_empty() {
                    new.clear();
                } else if new.len() > 1 {
                    let names: Vec<String> = new.iter().map(|(_, known)| known.shown()).collect();
                    self.say(format!("more than one pod could take its place: {}", names.join(", ")));
                    new.clear();
                }
            }
            let mut came = Vec::new();
            for (backend, known) in new {
                match at_home(backends[*backend], known.clone()) {
                    // Without an address it is still being made: the next round looks again.
                    Ok(target) if target.addresses.is_empty() => {}
                    Ok(target) => came.push(match &wanted {
                        Wanted::Pod(pod) => target.called(pod),
                        _ => target,
                    }),
                    Err(error) => self.say(format!("{} cannot be followed yet: {error}", known.shown())),
                }
            }
            self.follow[at].1 = still.into_iter().chain(came.iter().map(Held::of)).collect();
            if !gone.is_empty() || !came.is_empty() {
                self.send(News::Changed { gone, came });
            }
        }
    }

    fn say(&mut self, text: String) {
        if self.said.len() < 64 && self.said.insert(text.clone()) {
            self.send(News::Said(text));
        }
    }

    fn send(&self, news: News) {
        // Nobody listens any more: the next look at the channel ends the thread.
        let _ = self.tell.send(news);
    }
}

/// Addresses in a sentence.
pub(super) fn addresses_words(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
