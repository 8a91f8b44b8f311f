// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pods of all nodes, from the API server: asked only when nobody on this node knows what is wanted.

use std::cell::RefCell;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::backend::{Backend, Known, Located, NodeOf};
use super::error::TargetError;
use super::wanted::Wanted;
use crate::cluster::kinds::Pod;
use crate::cluster::{ApiError, Cluster, Object as _};

/// While a pod is followed: how often the server is asked again.
const AGAIN: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug)]
pub struct ClusterPods {
    cluster: Cluster,
    /// Addresses of this node.
    here: Vec<IpAddr>,
    /// What ends, or runs here, is left to who runs it.
    following: bool,
    answers: RefCell<Vec<PodsAnswer>>,
}

/// The last one to a question.
#[derive(Debug)]
struct PodsAnswer {
    to: Wanted,
    at: Instant,
    pods: Vec<Pod>,
}

impl ClusterPods {
    /// `here`: addresses of this node.
    pub fn new(cluster: Cluster, here: Vec<IpAddr>) -> Self {
        Self { cluster, here, following: false, answers: RefCell::default() }
    }

    /// To be asked again and again.
    #[must_use]
    pub fn following(mut self) -> Self {
        self.following = true;
        self
    }

    fn ask(&self, wanted: &Wanted) -> Result<Vec<Pod>, ApiError> {
        match wanted {
            Wanted::Pod(pod) => self.cluster.pods_called(pod.namespace.as_deref(), &pod.name),
            Wanted::Selector(selector) => {
                self.cluster.pods_labelled(selector.namespace.as_deref(), &selector.to_string())
            }
            Wanted::Container(_) | Wanted::Netns(_) | Wanted::Pid(_) => Ok(Vec::new()),
        }
    }

    /// While following, without those that end, that have no address yet, or that run here.
    fn living<'a>(&self, pods: &'a [Pod]) -> impl Iterator<Item = &'a Pod> {
        pods.iter().filter(|pod| {
            !self.following || !(pod.is_over() || self.is_here(pod) || pod.addresses().is_empty())
        })
    }

    fn is_here(&self, pod: &Pod) -> bool {
        pod.host_addresses().iter().any(|address| self.here.contains(address))
    }

    fn failed(&self, source: ApiError) -> TargetError {
        TargetError::Cluster { asked: self.describe(), source, hint: "; accepted: --src with its address" }
    }
}

impl Backend for ClusterPods {
    fn describe(&self) -> String {
        format!("the API server at {}", self.cluster.known().server())
    }

    fn is_elsewhere(&self) -> bool {
        true
    }

    fn list(&self) -> Result<Vec<Known>, TargetError> {
        Ok(Vec::new())
    }

    fn list_for(&self, wanted: &Wanted) -> Result<Vec<Known>, TargetError> {
        let mut answers = self.answers.borrow_mut();
        let last = answers.iter_mut().find(|answer| self.following && answer.to == *wanted);
        if let Some(last) = last {
            if last.at.elapsed() >= AGAIN {
                last.at = Instant::now();
                // A server that does not answer has not lost its pods.
                if let Ok(pods) = self.ask(wanted) {
                    last.pods = pods;
                }
            }
            return Ok(self.living(&last.pods).map(known).collect());
        }
        let pods = self.ask(wanted).map_err(|error| self.failed(error))?;
        let out = self.living(&pods).map(known).collect();
        answers.push(PodsAnswer { to: wanted.clone(), at: Instant::now(), pods });
        Ok(out)
    }

    fn locate(&self, known: &Known) -> Result<Located, TargetError> {
        let answers = self.answers.borrow();
        let pod = answers.iter().flat_map(|answer| &answer.pods).find(|pod| pod.metadata.uid == known.id);
        let pod = pod.cloned().unwrap_or_default();
        let name = pod.spec.node_name.clone();
        let node = (!name.is_empty()).then_some(name);
        let node = node.map(if self.is_here(&pod) { NodeOf::This } else { NodeOf::Other });
        Ok(Located { netns: None, host_network: pod.spec.host_network, addresses: pod.addresses(), node })
    }
}

fn known(pod: &Pod) -> Known {
    let meta = pod.meta();
    Known {
        namespace: Some(meta.namespace.clone()),
        name: meta.name.clone(),
        id: meta.uid.clone(),
        labels: meta.labels.clone(),
        created_ns: 0,
        stopped: matches!(pod.status.phase.as_str(), "Succeeded" | "Failed"),
    }
}
