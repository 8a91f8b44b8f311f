// SPDX-License-Identifier: MIT OR Apache-2.0
//! Host names to addresses, within a time limit.

use std::net::{IpAddr, ToSocketAddrs};
use std::sync::mpsc;
use std::time::Duration;

use super::endpoint::{Named, NamedKind, Port};
use super::meaning::{Meaning, of_pod, of_service};
use crate::cluster::{ApiError, Cluster, Object, Reach};
use crate::text::{printable, quoted};

/// How long to wait for the system's resolver, which has no limit of its own.
const LIMIT: Duration = Duration::from_secs(3);

/// Endpoints of a service whose names are asked for at once.
const ENDPOINTS: usize = 8;

/// Whoever turns names into addresses.
pub trait Resolve {
    /// Every address of a name, without repetition. The error says why there is none.
    fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, String>;

    /// What an object of the cluster stands for; the error says why that cannot be known.
    fn object(&self, _: &Named, _: Option<&Port>) -> Result<Meaning, String> {
        Err("no API server is asked here".into())
    }
}

/// The system's: /etc/hosts, DNS, whatever nsswitch says.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        let (sender, receiver) = mpsc::channel();
        let question = (name.to_owned(), 0u16);
        // Not joined: a resolver that hangs is left behind.
        std::thread::Builder::new()
            .name("resolve".into())
            .spawn(move || {
                sender.send(question.to_socket_addrs().map(|found| found.map(|a| a.ip()).collect()))
            })
            .map_err(|e| e.to_string())?;
        let mut addresses: Vec<IpAddr> = receiver
            .recv_timeout(LIMIT)
            .map_err(|_| format!("no answer within {} s", LIMIT.as_secs()))?
            .map_err(|e: std::io::Error| {
                let text = printable(e.to_string());
                text.strip_prefix("failed to lookup address information: ")
                    .map_or(text.clone(), str::to_owned)
            })?;
        addresses.iter_mut().for_each(|a| *a = a.to_canonical());
        addresses.sort();
        addresses.dedup();
        if addresses.is_empty() { Err("the name has no address".into()) } else { Ok(addresses) }
    }
}

/// The system's, and the API server for what is the cluster's.
#[derive(Clone, Copy, Debug)]
pub struct ClusterResolver<'a>(pub &'a Reach);

impl Resolve for ClusterResolver<'_> {
    fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        SystemResolver.resolve(name)
    }

    fn object(&self, named: &Named, port: Option<&Port>) -> Result<Meaning, String> {
        let Some(cluster) = self.0.cluster() else {
            return Err(format!(
                "only Kubernetes' API server knows, and there is none to ask: {}; accepted: --kubeconfig FILE, or an address",
                self.0.why_not()
            ));
        };
        let namespace = named.namespace.as_deref();
        match named.kind {
            NamedKind::Service => {
                let service = only(named, cluster, cluster.services_called(namespace, &named.name))?;
                let meta = service.meta();
                let slices = cluster.endpoints(&meta.namespace, &meta.name);
                // They will be at the other end of a translation: their names are there by then.
                for endpoint in slices.iter().flatten().flat_map(|slice| &slice.endpoints).take(ENDPOINTS) {
                    endpoint.addresses().into_iter().for_each(|address| cluster.known().names.want(address));
                }
                let why = slices.as_ref().err().map(ToString::to_string);
                let slices = slices.as_deref().map_err(|_| why.as_deref().unwrap_or_default());
                of_service(&service, slices, port)
            }
            NamedKind::Pod => {
                let mut pods = cluster.pods_called(namespace, &named.name);
                if let Ok(pods) = &mut pods
                    && pods.iter().any(|pod| !pod.is_over())
                {
                    pods.retain(|pod| !pod.is_over());
                }
                of_pod(&only(named, cluster, pods)?, port)
            }
        }
    }
}

/// The one that is meant, or why there is none.
fn only<K: Object>(named: &Named, cluster: &Cluster, found: Result<Vec<K>, ApiError>) -> Result<K, String> {
    const LISTED: usize = 12;
    let server = cluster.known().server();
    let mut found = found.map_err(|error| format!("the API server at {server} cannot say: {error}"))?;
    let one = match named.kind {
        NamedKind::Service => "service",
        NamedKind::Pod => "pod",
    };
    match found.len() {
        0 => Err(format!(
            "no {one} {} in the cluster (asked: the API server at {server}); accepted: {named} as it is called there",
            match &named.namespace {
                Some(namespace) => quoted(format!("{namespace}/{}", named.name)),
                None => quoted(&named.name),
            }
        )),
        1 => Ok(found.remove(0)),
        many => {
            let mut names: Vec<String> = found.iter().take(LISTED).map(K::shown).collect();
            if many > LISTED {
                names.push(format!("and {} more", many - LISTED));
            }
            Err(format!(
                "fits {many} {one}s: {}; give one of them with its namespace, or --namespace",
                names.join(", ")
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_has_a_name() {
        let found = SystemResolver.resolve("localhost").unwrap();
        assert!(found.iter().all(IpAddr::is_loopback), "{found:?}");
    }

    #[test]
    fn a_name_that_cannot_exist() {
        let reason = SystemResolver.resolve("no-such-host.invalid").unwrap_err();
        assert!(!reason.is_empty() && !reason.contains("failed to lookup"), "{reason}");
    }
}
