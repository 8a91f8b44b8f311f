// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whose an address is. Services and nodes are few and watched; pods are many, so only those are asked for whose
//! addresses somebody wants to print, one at a time. Nobody who prints waits: a name is there with the next packet.
#![cfg_attr(
    all(not(feature = "kube"), not(test)),
    expect(dead_code, reason = "written by who asks the server")
)]

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::kinds::{Node, Pod, Service};
use super::object::Object as _;
use crate::text::printable;

/// A pod's address may be another's after a while.
const FRESH: Duration = Duration::from_secs(10);
/// An address that was nobody's may get someone.
const NOBODY: Duration = Duration::from_secs(30);
/// Addresses that are remembered, with and without a pod.
const MOST: usize = 4096;
/// Addresses that wait to be asked for; another one is asked for when it is printed again.
const WAITING: usize = 64;

/// Names of addresses.
#[derive(Debug, Default)]
pub struct Names {
    /// Of services and nodes.
    listed: RwLock<Arc<HashMap<IpAddr, String>>>,
    pods: RwLock<HashMap<IpAddr, SeenAddress>>,
    waiting: Mutex<VecDeque<IpAddr>>,
}

#[derive(Clone, Debug)]
struct SeenAddress {
    name: Option<String>,
    asked: Instant,
}

impl SeenAddress {
    fn is_old(&self, now: Instant) -> bool {
        now.duration_since(self.asked) > if self.name.is_some() { FRESH } else { NOBODY }
    }
}

impl Names {
    /// "pod shop/web-1 on node2", "service shop/web", "node node2"; safe to print. An address that is not known
    /// yet will be asked for.
    pub fn owner(&self, address: IpAddr) -> Option<String> {
        let listed = self.listed.read().unwrap_or_else(PoisonError::into_inner).get(&address).cloned();
        if listed.is_some() {
            return listed;
        }
        let seen = self.pods.read().unwrap_or_else(PoisonError::into_inner).get(&address).cloned();
        if seen.as_ref().is_none_or(|seen| seen.is_old(Instant::now())) {
            self.want(address);
        }
        seen?.name
    }

    /// To be asked for.
    pub fn want(&self, address: IpAddr) {
        // Whoever holds the lock is about to let go; the next packet asks too.
        if can_be_a_pods(address)
            && let Ok(mut waiting) = self.waiting.try_lock()
            && waiting.len() < WAITING
            && !waiting.contains(&address)
        {
            waiting.push_back(address);
        }
    }

    /// The next that somebody wants to know of.
    pub(super) fn next(&self) -> Option<IpAddr> {
        let listed = self.listed.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|address| !listed.contains_key(address));
        waiting.pop_front()
    }

    pub(super) fn set_listed(&self, services: &[Arc<Service>], nodes: &[Arc<Node>]) {
        let mut listed = HashMap::new();
        for service in services {
            let name = format!("service {}", service.shown());
            listed.extend(service.addresses().into_iter().map(|address| (address, name.clone())));
        }
        // A node's address may be an external one of services.
        for node in nodes {
            let name = format!("node {}", node.shown());
            listed.extend(node.addresses().into_iter().map(|address| (address, name.clone())));
        }
        *self.listed.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(listed);
    }

    /// The server has these pods at an address.
    pub(super) fn set_pods(&self, address: IpAddr, pods: &[Pod]) {
        let asked = Instant::now();
        let own: Vec<&Pod> = pods.iter().filter(|pod| !pod.is_over() && !pod.spec.host_network).collect();
        let mut seen = self.pods.write().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= MOST {
            seen.retain(|_, seen| !seen.is_old(asked));
        }
        if seen.len() >= MOST {
            seen.clear();
        }
        let Some(pod) = own.iter().find(|pod| pod.status.phase == "Running").or(own.first()) else {
            seen.insert(address, SeenAddress { name: None, asked });
            return;
        };
        let on = &pod.spec.node_name;
        let on = if on.is_empty() { String::new() } else { format!(" on {}", printable(on)) };
        let name = Some(format!("pod {}{on}", pod.shown()));
        // Its other family too.
        for own in pod.addresses().into_iter().chain([address]) {
            seen.insert(own, SeenAddress { name: name.clone(), asked });
        }
    }
}

fn can_be_a_pods(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => {
            !a.is_loopback()
                && !a.is_link_local()
                && !a.is_multicast()
                && !a.is_broadcast()
                && !a.is_unspecified()
        }
        IpAddr::V6(a) => {
            !a.is_loopback() && !a.is_unicast_link_local() && !a.is_multicast() && !a.is_unspecified()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(json: &str) -> Pod {
        serde_json::from_str(json).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_pod_is_asked_for_once_and_named_from_then_on() {
        let names = Names::default();
        assert_eq!(names.owner(ip("10.0.0.1")), None);
        assert_eq!(names.owner(ip("10.0.0.1")), None);
        assert_eq!((names.next(), names.next()), (Some(ip("10.0.0.1")), None));
        let web = pod(r#"{"metadata": {"namespace": "shop", "name": "web-1"}, "spec": {"nodeName": "node2"},
                "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}}"#);
        names.set_pods(ip("10.0.0.1"), &[web]);
        for address in ["10.0.0.1", "fd00::1"] {
            assert_eq!(names.owner(ip(address)).as_deref(), Some("pod shop/web-1 on node2"));
        }
        assert_eq!(names.next(), None);
    }

    #[test]
    fn pods_that_are_over_or_have_the_nodes_address_name_nothing() {
        let names = Names::default();
        let over =
            pod(r#"{"metadata": {"name": "a"}, "status": {"phase": "Succeeded", "podIP": "10.0.0.1"}}"#);
        let ending = pod(
            r#"{"metadata": {"name": "b", "deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Running"}}"#,
        );
        let host = pod(
            r#"{"metadata": {"name": "c"}, "spec": {"hostNetwork": true}, "status": {"phase": "Running"}}"#,
        );
        names.set_pods(ip("10.0.0.1"), &[over, ending, host]);
        assert_eq!(names.owner(ip("10.0.0.1")), None);
        assert_eq!(names.next(), None, "nobody's: not asked for again at once");
    }

    #[test]
    fn services_and_nodes_are_listed_and_not_asked_for() {
        let names = Names::default();
        let service: Service = serde_json::from_str(
            r#"{"metadata": {"namespace": "shop", "name": "w\u001b[2J"}, "spec": {"clusterIP": "10.96.0.1",
                "externalIPs": ["192.0.2.1"]}, "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.2"}, {"hostname": "x"}]}}}"#,
        )
        .unwrap();
        let node: Node = serde_json::from_str(
            r#"{"metadata": {"name": "node2"}, "status": {"addresses": [{"type": "Hostname", "address": "node2"},
                {"type": "InternalIP", "address": "192.0.2.1"}]}}"#,
        )
        .unwrap();
        names.set_listed(&[Arc::new(service)], &[Arc::new(node)]);
        for (address, name) in [
            ("10.96.0.1", Some("service shop/w\\x1b[2J")),
            ("192.0.2.1", Some("node node2")),
            ("192.0.2.2", Some("service shop/w\\x1b[2J")),
        ] {
            assert_eq!(names.owner(ip(address)).as_deref(), name);
        }
        for address in ["127.0.0.1", "::1", "fe80::1", "224.0.0.1", "0.0.0.0", "255.255.255.255"] {
            assert_eq!(names.owner(ip(address)), None);
        }
        assert_eq!(names.next(), None);
    }

    #[test]
    fn a_flood_of_addresses_is_bounded() {
        let names = Names::default();
        for number in 0..10_000u32 {
            let address = IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a00_0001 + number));
            names.owner(address);
            names.set_pods(address, &[]);
        }
        assert!(std::iter::from_fn(|| names.next()).count() <= WAITING);
        assert!(names.pods.read().unwrap().len() <= MOST);
    }
}
