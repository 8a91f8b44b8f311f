// SPDX-License-Identifier: MIT OR Apache-2.0
//! The thread that talks to the API server. It ends soon after the last [`Cluster`] is dropped.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::access::{Access, AccessError};
use super::api::{Api, ApiError, Query};
use super::client::Client;
use super::known::Known;
use super::object::Object;
use super::store::Store;
use super::{look_up, watch};

/// Between two tries to get credentials that work.
const AGAIN: Duration = Duration::from_secs(30);

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

enum Job {
    /// Somebody waits for an answer.
    Ask(Box<dyn FnOnce(Result<Api, ApiError>) -> Work + Send>),
    /// Keep up with the cluster from now on.
    Watch,
}

/// The cluster. Clones share it; everything it says is without waiting, but for [`Cluster::ask`].
#[derive(Clone, Debug)]
pub struct Cluster {
    jobs: UnboundedSender<Job>,
    known: Arc<Known>,
}

impl Cluster {
    /// Starts the thread. Nobody is asked yet.
    pub fn start(access: Access) -> Result<Self, AccessError> {
        let (jobs, queue) = unbounded_channel();
        let known = Arc::new(Known::at(access.server(), access.namespace()));
        let cannot = access.unusable("no thread for it");
        let of_thread = known.clone();
        std::thread::Builder::new()
            .name("api".into())
            .spawn(move || run(access, &of_thread, queue))
            .map_err(|_| cannot)?;
        Ok(Self { jobs, known })
    }

    /// Watches what names come from; what it finds is in [`Cluster::known`].
    pub fn watch(&self) {
        // Without a thread nothing is known, which it says.
        let _ = self.jobs.send(Job::Watch);
    }

    /// What is known by now.
    pub fn known(&self) -> &Arc<Known> {
        &self.known
    }

    /// Asks, and waits for the answer at most this long.
    pub fn ask<T, F>(
        &self,
        limit: Duration,
        question: impl FnOnce(Api) -> F + Send + 'static,
    ) -> Result<T, ApiError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ApiError>> + Send + 'static,
    {
        let (tell, answer) = mpsc::channel();
        let job = move |api: Result<Api, ApiError>| -> Work {
            Box::pin(async move {
                let told = match api {
                    Ok(api) => question(api).await,
                    Err(error) => Err(error),
                };
                // Who asked may have given up.
                let _ = tell.send(told);
            })
        };
        let _ = self.jobs.send(Job::Ask(Box::new(job)));
        match answer.recv_timeout(limit) {
            Ok(told) => told,
            Err(mpsc::RecvTimeoutError::Timeout) => Err(ApiError::Timeout(limit)),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(ApiError::Connect("its thread ended".into())),
        }
    }
}

fn run(access: Access, known: &Arc<Known>, mut queue: UnboundedReceiver<Job>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return known.set_trouble(Some(error.to_string())),
    };
    runtime.block_on(async {
        let mut connected: Option<Api> = None;
        let (mut wanted, mut watching) = (false, false);
        loop {
            // Jobs that come while there are no credentials are told why, and the next one tries again.
            let retry = wanted && connected.is_none();
            let job = tokio::select! {
                job = queue.recv() => match job {
                    Some(job) => job,
                    None => return,
                },
                () = tokio::time::sleep(AGAIN), if retry => Job::Watch,
            };
            let api = match &connected {
                Some(api) => Ok(api.clone()),
                None => connect(&access).await,
            };
            known.set_trouble(api.as_ref().err().map(ToString::to_string));
            connected = api.as_ref().ok().cloned();
            wanted |= matches!(job, Job::Watch);
            if let (true, false, Ok(api)) = (wanted, watching, &api) {
                watching = true;
                watch_all(api, known);
            }
            if let Job::Ask(question) = job {
                drop(tokio::spawn(question(api)));
            }
        }
    });
}

/// Every kind that is kept up with.
fn watch_all(api: &Api, known: &Arc<Known>) {
    keep(api, &known.services);
    keep(api, &known.nodes);
    let egress = &known.egress;
    keep(api, &egress.policies);
    keep(api, &egress.cluster_policies);
    keep(api, &egress.gateways);
    keep(api, &egress.tunnels);
    keep(api, &egress.infos);
    keep(api, &egress.slices);
    keep(api, &egress.cluster_slices);
    keep(api, &egress.namespaces);
    drop(tokio::spawn(look_up::list_names(known.clone())));
    drop(tokio::spawn(look_up::pods(api.clone(), known.clone())));
    drop(tokio::spawn(look_up::subjects(api.clone(), known.clone())));
}

fn keep<K: Object>(api: &Api, store: &Arc<Store<K>>) {
    drop(tokio::spawn(watch::keep(api.clone(), Query::default(), store.clone())));
}

async fn connect(access: &Access) -> Result<Api, ApiError> {
    let server = access.server();
    let again = access.clone();
    // Blocks while a program gives credentials out.
    let make = move || {
        let access = again.again().map_err(|error| ApiError::Credentials(error.to_string()))?;
        let unusable = |problem: String| ApiError::Credentials(again.unusable(problem).to_string());
        Client::new(access).map_err(unusable)
    };
    Api::new(&server, Arc::new(make)).await
}
