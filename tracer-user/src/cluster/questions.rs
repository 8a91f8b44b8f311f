// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the command line wants to know of the cluster, asked once: the named pod, the pods with these labels, a service
//! and its endpoints. Each question has a time limit, however many answers it takes.

use std::time::Duration;

use super::api::{Api, ApiError, Query};
use super::kinds::{EndpointSlice, Pod, Service};
use super::object::{Kind, Meta, Object};
use super::thread::Cluster;

/// Whoever asks waits for it.
const LIMIT: Duration = Duration::from_secs(8);
/// Of the pods whose names begin alike, as many are looked at: enough to list them.
const ALIKE: usize = 16;

/// A pod's name and nothing else, which is what a list of thousands is read for.
#[derive(Clone, Debug, serde::Deserialize)]
struct PodMeta {
    #[serde(default)]
    metadata: Meta,
}

impl Object for PodMeta {
    const KIND: Kind = Pod::KIND;

    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl Cluster {
    /// The pods of this name, else those whose names begin so.
    pub fn pods_called(&self, namespace: Option<&str>, name: &str) -> Result<Vec<Pod>, ApiError> {
        let (namespace, name) = (namespace.map(str::to_owned), name.to_owned());
        self.ask(LIMIT, move |api| async move { called(&api, namespace, &name).await })
    }

    /// The pods with these labels ("app=web,tier!=cache").
    pub fn pods_labelled(&self, namespace: Option<&str>, labels: &str) -> Result<Vec<Pod>, ApiError> {
        let query =
            Query { labels: labels.to_owned(), namespace: namespace.map(str::to_owned), ..Query::default() };
        self.ask(LIMIT, move |api| async move { Ok(api.list(&query).await?.objects) })
    }

    /// The services of this name, in one namespace or in all.
    pub fn services_called(&self, namespace: Option<&str>, name: &str) -> Result<Vec<Service>, ApiError> {
        let (namespace, name) = (namespace.map(str::to_owned), name.to_owned());
        self.ask(LIMIT, move |api| async move { exactly(&api, namespace.as_deref(), &name).await })
    }

    /// Where a service leads.
    pub fn endpoints(&self, namespace: &str, service: &str) -> Result<Vec<EndpointSlice>, ApiError> {
        let query = Query {
            labels: format!("kubernetes.io/service-name={service}"),
            namespace: Some(namespace.to_owned()),
            ..Query::default()
        };
        self.ask(LIMIT, move |api| async move { Ok(api.list(&query).await?.objects) })
    }
}

async fn exactly<K: Object>(api: &Api, namespace: Option<&str>, name: &str) -> Result<Vec<K>, ApiError> {
    match namespace {
        Some(namespace) => Ok(api.get(namespace, name).await?.into_iter().collect()),
        None => Ok(api.list(&Query::fields(format!("metadata.name={name}"))).await?.objects),
    }
}

async fn called(api: &Api, namespace: Option<String>, name: &str) -> Result<Vec<Pod>, ApiError> {
    let exact: Vec<Pod> = exactly(api, namespace.as_deref(), name).await?;
    if !exact.is_empty() {
        return Ok(exact);
    }
    let query = Query { namespace, only_metadata: true, ..Query::default() };
    let alike = api.list::<PodMeta>(&query).await?.objects.into_iter().map(|pod| pod.metadata);
    let mut out = Vec::new();
    for meta in alike.filter(|meta| meta.name.starts_with(name)).take(ALIKE) {
        // One may have ended since.
        out.extend(api.get::<Pod>(&meta.namespace, &meta.name).await?);
    }
    Ok(out)
}
