// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a service or pod of the cluster stands for as an end of a flow. Pure.

use std::net::IpAddr;

use super::endpoint::Port;
use crate::cluster::Object as _;
use crate::cluster::kinds::{EndpointSlice, Pod, Service, ServicePort};
use crate::text::{printable, quoted};

/// Endpoints that are named.
const NAMED: usize = 4;

/// What a [`super::Named`] stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meaning {
    pub addresses: Vec<IpAddr>,
    /// To be resolved in place of addresses.
    pub other_name: Option<String>,
    pub port: Option<u16>,
    /// Said by the name of a port.
    pub protocol: Option<u8>,
    /// Ports and protocols that it has, where none was asked for.
    pub ports: Vec<(u16, u8)>,
    /// For the user; safe to print.
    pub notices: Vec<String>,
}

/// Where a client of a service sends to.
///
/// `slices`: the error says why they are not known.
pub(super) fn of_service(
    service: &Service,
    slices: Result<&[EndpointSlice], &str>,
    port: Option<&Port>,
) -> Result<Meaning, String> {
    let name = format!("service {}", service.shown());
    if service.spec.kind == "ExternalName" {
        return of_external_name(service, &name, port);
    }
    let headless = service.cluster_ips().is_empty();
    let (slices, unknown) = match slices {
        Ok(slices) => (slices, None),
        Err(why) if headless => {
            return Err(format!(
                "{name} is headless, and its endpoints, which are all it has, are not known: {why}"
            ));
        }
        Err(why) => (&[][..], Some(why)),
    };
    let chosen = match port {
        None => None,
        Some(port) => chosen(service, port).map_err(|problem| format!("{name} {problem}"))?,
    };
    let mut meaning = Meaning {
        addresses: service.cluster_ips(),
        port: match (port, &chosen) {
            (Some(Port::Number(number)), _) => Some(*number),
            (_, Some(chosen)) => Some(chosen.port),
            _ => None,
        },
        protocol: chosen.as_ref().filter(|_| matches!(port, Some(Port::Name(_)))).map(|c| c.protocol),
        ports: if port.is_none() { ports(service, slices) } else { Vec::new() },
        ..Meaning::default()
    };
    let ready = endpoints(slices, chosen.as_ref().map(|chosen| chosen.name.as_str()));
    if headless {
        // A client takes an address of these from DNS, and nothing is translated.
        if let (Some(Port::Name(_)), Some(first)) = (port, ready.first()) {
            meaning.port = first.port.or(meaning.port);
        }
        for address in ready.iter().map(|endpoint| endpoint.address) {
            if !meaning.addresses.contains(&address) {
                meaning.addresses.push(address);
            }
        }
        if meaning.addresses.is_empty() {
            return Err(format!(
                "{name} is headless and has no ready endpoint, so there is no address to send to"
            ));
        }
    }
    if let (Some(Port::Number(number)), None) = (port, &chosen)
        && !headless
    {
        let known = ports_words(service);
        meaning.notices.push(format!(
            "{name} has no port {number} (it has {known}): nothing translates connections to that"
        ));
    }
    if let Some(why) = unknown {
        meaning.notices.push(format!("endpoints of {name} are not known: {why}"));
        return Ok(meaning);
    }
    meaning.notices.push(match ready.len() {
        0 if service.spec.selector.is_empty() && slices.is_empty() => {
            format!("{name} has no endpoint, and no selector that would find one")
        }
        0 => format!("{name} has no ready endpoint: connections to it lead nowhere"),
        many => {
            let kind = if headless { "headless, " } else { "" };
            let s = if many == 1 { "" } else { "s" };
            let mut names: Vec<String> = ready.iter().take(NAMED).map(Ready::shown).collect();
            if many > NAMED {
                names.push(format!("and {} more", many - NAMED));
            }
            format!("{name}: {kind}{many} ready endpoint{s}: {}", names.join(", "))
        }
    });
    Ok(meaning)
}

fn of_external_name(service: &Service, name: &str, port: Option<&Port>) -> Result<Meaning, String> {
    let stands_for = &service.spec.external_name;
    let port = match port {
        Some(Port::Name(port)) => {
            let found = service.spec.ports.iter().find(|p| p.name == *port);
            Some(found.ok_or_else(|| format!("{name} has no port {}", quoted(port)))?.port)
        }
        Some(Port::Number(number)) => Some(*number),
        None => None,
    };
    if let Ok(address) = stands_for.parse::<IpAddr>() {
        return Err(format!(
            "{name} stands for the host name {}, which looks like an address and is none for DNS; give --dst {address}",
            quoted(stands_for)
        ));
    }
    Ok(Meaning {
        other_name: Some(stands_for.clone()),
        port,
        notices: vec![format!(
            "{name} is another name for {}, resolved here as this node resolves it",
            printable(stands_for)
        )],
        ..Meaning::default()
    })
}

/// A pod's addresses.
pub(super) fn of_pod(pod: &Pod, port: Option<&Port>) -> Result<Meaning, String> {
    let name = format!("pod {}", pod.shown());
    let addresses = pod.addresses();
    if addresses.is_empty() {
        return Err(format!("{name} has no address (it is {})", printable(&pod.status.phase)));
    }
    let port = match port {
        Some(Port::Number(number)) => Some(*number),
        _ => None,
    };
    let node = printable(&pod.spec.node_name);
    let mut notices = vec![format!("{name} runs on node {node}")];
    if pod.is_over() {
        notices.push(format!("{name} has ended or is ending: its address may be another's"));
    }
    if pod.spec.host_network {
        notices.push(format!("{name} is on the network of its node: its address is the node's"));
    }
    Ok(Meaning { addresses, port, notices, ..Meaning::default() })
}

struct ChosenPort {
    name: String,
    port: u16,
    protocol: u8,
}

/// The port that is meant; `None`: the number is not among the service's.
fn chosen(service: &Service, port: &Port) -> Result<Option<ChosenPort>, String> {
    let found = service.spec.ports.iter().find(|known| match port {
        Port::Number(number) => known.port == *number,
        Port::Name(name) => known.name == *name,
    });
    if let (None, Port::Name(name)) = (found, port) {
        return Err(format!("has no port {} (it has {})", quoted(name), ports_words(service)));
    }
    Ok(found.map(|known| ChosenPort { name: known.name.clone(), port: known.port, protocol: number(known) }))
}

fn number(port: &ServicePort) -> u8 {
    match port.protocol.as_str() {
        "UDP" => 17,
        "SCTP" => 132,
        _ => 6,
    }
}

/// Where a client may send to: a headless service's are its endpoints'.
fn ports(service: &Service, slices: &[EndpointSlice]) -> Vec<(u16, u8)> {
    let headless = service.cluster_ips().is_empty();
    let of_endpoints = |name: &str| {
        let named = slices.iter().flat_map(|slice| &slice.ports).find(|p| p.name == name);
        named.and_then(|p| p.port).filter(|_| headless)
    };
    let each = service.spec.ports.iter();
    each.map(|port| (of_endpoints(&port.name).unwrap_or(port.port), number(port))).collect()
}

/// `80 http, 443 https`.
fn ports_words(service: &Service) -> String {
    let words = |port: &ServicePort| {
        let udp = if port.protocol.is_empty() || port.protocol == "TCP" { "" } else { &port.protocol };
        printable([&port.port.to_string(), udp, &port.name].map(str::trim).join(" ").replace("  ", " "))
            .trim()
            .to_owned()
    };
    match service.spec.ports.len() {
        0 => "none".into(),
        _ => service.spec.ports.iter().take(8).map(words).collect::<Vec<_>>().join(", "),
    }
}

struct Ready {
    address: IpAddr,
    port: Option<u16>,
    pod: String,
    node: String,
}

impl Ready {
    /// `shop/web-1 10.200.1.5:8080 on node2`.
    fn shown(&self) -> String {
        let address = match self.port {
            Some(port) => std::net::SocketAddr::new(self.address, port).to_string(),
            None => self.address.to_string(),
        };
        let on = if self.node.is_empty() { String::new() } else { format!(" on {}", self.node) };
        format!("{}{}{address}{on}", self.pod, if self.pod.is_empty() { "" } else { " " })
    }
}

/// Those that connections are sent to; `port`: the name of the service's port.
fn endpoints(slices: &[EndpointSlice], port: Option<&str>) -> Vec<Ready> {
    let mut out: Vec<Ready> = Vec::new();
    for slice in slices {
        let of_port = slice.ports.iter().find(|p| port.is_none_or(|name| p.name == name));
        for endpoint in slice.endpoints.iter().filter(|endpoint| endpoint.is_ready()) {
            let target = &endpoint.target_ref;
            let pod = if target.kind == "Pod" {
                printable(format!("{}/{}", target.namespace, target.name))
            } else {
                String::new()
            };
            out.extend(endpoint.addresses().into_iter().map(|address| Ready {
                address,
                port: of_port.and_then(|p| p.port),
                pod: pod.clone(),
                node: printable(&endpoint.node_name),
            }));
        }
    }
    out.sort_by_key(|ready| ready.address);
    out.dedup_by_key(|ready| ready.address);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(json: &str) -> Service {
        let mut service: Service = serde_json::from_str(json).unwrap();
        service.metadata.namespace = "shop".into();
        service.metadata.name = "web".into();
        service
    }

    fn web() -> Service {
        service(
            r#"{"spec": {"type": "ClusterIP", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9", "fd00:96::9"],
                "selector": {"app": "web"}, "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]}}"#,
        )
    }

    fn slices() -> Vec<EndpointSlice> {
        let json = r#"[{"ports": [{"name": "http", "port": 8080}, {"name": "dns", "port": 5353}], "endpoints": [
            {"addresses": ["10.0.1.5"], "conditions": {"ready": true}, "nodeName": "node2",
             "targetRef": {"kind": "Pod", "namespace": "shop", "name": "web-1"}},
            {"addresses": ["10.0.1.6"], "conditions": {"ready": false}},
            {"addresses": ["10.0.1.4"], "conditions": null, "nodeName": null, "targetRef": null}]}]"#;
        serde_json::from_str(json).unwrap()
    }

    fn name(text: &str) -> Port {
        Port::Name(text.into())
    }

    #[test]
    fn a_service_is_its_addresses_and_says_where_it_leads() {
        let meaning = of_service(&web(), Ok(&slices()), Some(&Port::Number(80))).unwrap();
        assert_eq!(meaning.addresses.len(), 2);
        assert_eq!((meaning.port, meaning.protocol), (Some(80), None));
        assert_eq!(
            meaning.notices,
            ["service shop/web: 2 ready endpoints: 10.0.1.4:8080, shop/web-1 10.0.1.5:8080 on node2"]
        );
    }

    #[test]
    fn ports_by_name_and_ports_that_are_not_there() {
        let meaning = of_service(&web(), Ok(&slices()), Some(&name("dns"))).unwrap();
        assert_eq!((meaning.port, meaning.protocol), (Some(53), Some(17)));
        assert!(meaning.notices[0].contains("10.0.1.5:5353"), "{:?}", meaning.notices);
        assert_eq!(
            of_service(&web(), Ok(&slices()), Some(&name("https"))).unwrap_err(),
            "service shop/web has no port \"https\" (it has 80 http, 53 UDP dns)"
        );
        let meaning = of_service(&web(), Ok(&slices()), Some(&Port::Number(81))).unwrap();
        assert_eq!(meaning.port, Some(81));
        assert_eq!(
            meaning.notices[0],
            "service shop/web has no port 81 (it has 80 http, 53 UDP dns): nothing translates connections to that"
        );
    }

    #[test]
    fn a_headless_service_is_its_endpoints() {
        let headless = service(
            r#"{"spec": {"clusterIP": "None", "clusterIPs": ["None"], "selector": {"a": "b"}, "ports": [{"name": "http", "port": 80}]}}"#,
        );
        let meaning = of_service(&headless, Ok(&slices()), Some(&name("http"))).unwrap();
        assert_eq!(meaning.addresses, ["10.0.1.4", "10.0.1.5"].map(|a| a.parse::<IpAddr>().unwrap()));
        assert_eq!(meaning.port, Some(8080));
        assert!(
            of_service(&headless, Ok(&[]), None).unwrap_err().contains("headless and has no ready endpoint")
        );
    }

    #[test]
    fn endpoints_that_may_not_be_read_are_not_called_missing() {
        let headless = service(r#"{"spec": {"clusterIP": "None", "ports": [{"port": 80}]}}"#);
        let refused = "403 Forbidden";
        let error = of_service(&headless, Err(refused), None).unwrap_err();
        assert!(
            error.contains("not known: 403 Forbidden") && !error.contains("no ready endpoint"),
            "{error}"
        );
        let meaning = of_service(&web(), Err(refused), Some(&Port::Number(80))).unwrap();
        assert_eq!(meaning.notices, ["endpoints of service shop/web are not known: 403 Forbidden"]);
        assert_eq!(meaning.addresses.len(), 2);
    }

    #[test]
    fn without_a_port_all_ports_of_a_service_are_known() {
        assert_eq!(of_service(&web(), Ok(&slices()), None).unwrap().ports, [(80, 6), (53, 17)]);
        let headless = service(
            r#"{"spec": {"clusterIP": "None", "selector": {"a": "b"}, "ports": [{"name": "http", "port": 80}]}}"#,
        );
        assert_eq!(of_service(&headless, Ok(&slices()), None).unwrap().ports, [(8080, 6)]);
        assert!(of_service(&web(), Ok(&slices()), Some(&Port::Number(80))).unwrap().ports.is_empty());
    }

    #[test]
    fn no_endpoint_is_said() {
        let meaning = of_service(&web(), Ok(&[]), None).unwrap();
        assert_eq!(
            meaning.notices,
            ["service shop/web has no ready endpoint: connections to it lead nowhere"]
        );
    }

    #[test]
    fn another_name_is_resolved() {
        let external = service(r#"{"spec": {"type": "ExternalName", "externalName": "db.example.com"}}"#);
        let meaning = of_service(&external, Ok(&[]), Some(&Port::Number(5432))).unwrap();
        assert_eq!((meaning.other_name.as_deref(), meaning.port), (Some("db.example.com"), Some(5432)));
        let address = service(r#"{"spec": {"type": "ExternalName", "externalName": "192.0.2.1"}}"#);
        assert!(of_service(&address, Ok(&[]), None).unwrap_err().contains("give --dst 192.0.2.1"));
    }

    #[test]
    fn a_pod_without_an_address() {
        let pod: Pod = serde_json::from_str(
            r#"{"metadata": {"namespace": "shop", "name": "new"}, "status": {"phase": "Pending"}}"#,
        )
        .unwrap();
        assert_eq!(of_pod(&pod, None).unwrap_err(), "pod shop/new has no address (it is Pending)");
    }
}
