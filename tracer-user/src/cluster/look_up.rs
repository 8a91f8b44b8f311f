// SPDX-License-Identifier: MIT OR Apache-2.0
//! What keeps the names of addresses current: services and nodes as they change, pods as they are wanted.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::api::{Api, Query};
use super::egress::Subject;
use super::kinds::Pod;
use super::known::Known;
use super::store::State;

/// How often is looked whether something changed or is wanted.
const PAUSE: Duration = Duration::from_millis(100);
/// After a question: no more than five a second.
const BETWEEN: Duration = Duration::from_millis(200);
/// After a refusal, or no answer.
const TROUBLE: Duration = Duration::from_secs(30);

/// Between two questions for the same pod.
const AGAIN: Duration = Duration::from_secs(10);

/// Runs until it is dropped.
pub(super) async fn list_names(known: Arc<Known>) {
    let mut seen = None;
    loop {
        let now = (known.services.changes(), known.nodes.changes());
        if seen != Some(now) {
            known.names.set_listed(&known.services.all(), &known.nodes.all());
            seen = Some(now);
        }
        sleep(PAUSE).await;
    }
}

/// Asks for one pod after the other.
pub(super) async fn pods(api: Api, known: Arc<Known>) {
    // What is a service's or a node's is no pod's.
    while known.services.state() == State::Asked || known.nodes.state() == State::Asked {
        sleep(PAUSE).await;
    }
    sleep(PAUSE).await;
    loop {
        let Some(address) = known.names.next() else {
            sleep(PAUSE).await;
            continue;
        };
        // Of two addresses only the first can be asked for: the server selects by that alone.
        match api.list::<Pod>(&Query::fields(format!("status.podIP={address}"))).await {
            Ok(list) => {
                known.set_pods(State::Known);
                known.names.set_pods(address, &list.objects);
                sleep(BETWEEN).await;
            }
            Err(error) => {
                known.set_pods(State::Failed(error.to_string()));
                sleep(TROUBLE).await;
            }
        }
    }
}

/// The pods that policies are judged for, again and again: labels change.
pub(super) async fn subjects(api: Api, known: Arc<Known>) {
    let subjects = &known.egress.subjects;
    let mut seen = Vec::new();
    loop {
        let mut trouble = false;
        let wanted = subjects.wanted();
        for subject in &wanted {
            let asked = match subject {
                Subject::Named { namespace, name } => api.get::<Pod>(namespace, name).await,
                Subject::At(address) => {
                    let list = api.list::<Pod>(&Query::fields(format!("status.podIP={address}"))).await;
                    // One of the node's network has an address that is not its own.
                    let own = |pod: &Pod| !pod.is_over() && !pod.spec.host_network;
                    list.map(|list| list.objects.into_iter().find(own))
                }
            };
            match asked {
                Ok(pod) => subjects.found(subject, pod.as_ref().map(Into::into)),
                Err(_) => {
                    // What the runtime says has to do.
                    subjects.found(subject, None);
                    trouble = true;
                }
            }
        }
        seen.clone_from(&wanted);
        let end = tokio::time::Instant::now() + if trouble { TROUBLE } else { AGAIN };
        while tokio::time::Instant::now() < end && subjects.wanted() == seen {
            sleep(PAUSE).await;
        }
    }
}
