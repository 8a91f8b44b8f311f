// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--src` and `--dst` as typed: what is before the port, and the port.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use super::error::CliError;
use super::values::port;
use crate::node::IpPrefix;
use crate::text::quoted;

const ACCEPTED: &str = "IP, CIDR, IP:PORT, [IPv6]:PORT, host name, HOST:PORT, svc/NAME:PORT, svc/NS/NAME:PORT or pod/NS/NAME:PORT";

/// One end of the flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub host: Host,
    pub port: Option<Port>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Port {
    Number(u16),
    /// Of a service.
    Name(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    Prefix(IpPrefix),
    /// Still to be resolved.
    Name(String),
    /// Of the cluster, still to be looked up.
    Object(Named),
}

/// An object of the cluster as typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub kind: NamedKind,
    pub namespace: Option<String>,
    pub name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamedKind {
    Service,
    Pod,
}

/// `svc/shop/web`.
impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            NamedKind::Service => "svc/",
            NamedKind::Pod => "pod/",
        })?;
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(&self.name)
    }
}

impl Endpoint {
    /// Parses the value of `flag`.
    pub fn parse(flag: &'static str, value: &str) -> Result<Self, CliError> {
        let bad = |problem: &str| CliError::Value {
            flag,
            value: quoted(value),
            problem: problem.to_owned(),
            accepted: ACCEPTED,
        };
        let (host, port_text) = split(value).ok_or_else(|| bad("brackets do not match"))?;
        let host = match object(host) {
            Some(named) => Host::Object(named.map_err(|problem| bad(&problem))?),
            None => parse_host(host).map_err(|problem| bad(&problem))?,
        };
        let names = matches!(&host, Host::Object(named) if named.kind == NamedKind::Service);
        let port = port_text
            .map(|text| match port(text) {
                Some(number) => Ok(Port::Number(number)),
                None if names && is_port_name(text) => Ok(Port::Name(text.to_owned())),
                None => Err(CliError::Value {
                    flag,
                    value: quoted(value),
                    problem: format!("{} is not a port", quoted(text)),
                    accepted: if names {
                        "a port from 1 to 65535 after the colon, or the name of one of the service's"
                    } else {
                        "a port from 1 to 65535 after the colon"
                    },
                }),
            })
            .transpose()?;
        Ok(Self { host, port })
    }
}

/// Host and port. A colon begins a port when it is the only one, or follows a bracket.
fn split(value: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = value.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        return match after.strip_prefix(':') {
            Some(port) => Some((host, Some(port))),
            None => after.is_empty().then_some((host, None)),
        };
    }
    match value.split_once(':') {
        Some((host, port)) if !port.contains(':') => Some((host, Some(port))),
        _ => Some((value, None)),
    }
}

/// `svc/NAME`, `svc/NAME.NS`, `svc/NS/NAME`, `pod/…`; `None`: it is something else.
fn object(text: &str) -> Option<Result<Named, String>> {
    let (kind, rest) = text.split_once('/')?;
    let kind = match kind {
        "svc" | "service" | "services" => NamedKind::Service,
        "pod" | "pods" | "po" => NamedKind::Pod,
        _ => return None,
    };
    let (namespace, name) = match rest.split_once('/') {
        Some((namespace, name)) => (Some(namespace), name),
        // A service has no dot in its name, a pod may.
        None if kind == NamedKind::Service => match rest.split_once('.') {
            Some((name, namespace)) => (Some(namespace.strip_suffix(".svc").unwrap_or(namespace)), name),
            None => (None, rest),
        },
        None => (None, rest),
    };
    let good = |part: &str| {
        (1..=253).contains(&part.len())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
            && !part.starts_with(['-', '.'])
    };
    Some(if good(name) && namespace.is_none_or(good) {
        Ok(Named { kind, namespace: namespace.map(str::to_owned), name: name.to_owned() })
    } else {
        Err("not the name of a service or pod".into())
    })
}

/// As Kubernetes allows for a port (IANA_SVC_NAME).
fn is_port_name(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && text.bytes().any(|b| b.is_ascii_alphabetic())
}

fn parse_host(text: &str) -> Result<Host, String> {
    if let Some((address, length)) = text.split_once('/') {
        let address: IpAddr =
            address.parse().map_err(|_| format!("{} is not an IP address", quoted(address)))?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = length
            .parse()
            .ok()
            .filter(|_| length.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|length| IpPrefix::new(address, length))
            .ok_or_else(|| format!("{} is not a prefix length from 0 to {most}", quoted(length)))?;
        return canonical(prefix);
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Host::Prefix(IpPrefix::host(address.to_canonical())));
    }
    if text.contains('%') && text.split('%').next().is_some_and(|a| a.parse::<Ipv6Addr>().is_ok()) {
        return Err("an address with a zone names a device, not a flow; leave the % part out".into());
    }
    if text.contains(':') {
        return Err("not an IPv6 address".into());
    }
    host_name(text).map(|name| Host::Name(name.to_owned()))
}

/// IPv4 mapped into IPv6 (`::ffff:0:0/96`) is meant as IPv4. The programs compare IPv4 in that form, so
/// that a shorter prefix around it would fit every IPv4 address.
fn canonical(prefix: IpPrefix) -> Result<Host, String> {
    let mapped = Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0);
    match (prefix.address().to_canonical(), prefix.len().checked_sub(96)) {
        (v4 @ IpAddr::V4(_), Some(length)) if prefix.is_ipv6() => {
            IpPrefix::new(v4, length).map(Host::Prefix).ok_or_else(|| "not a prefix".into())
        }
        (_, None) if !prefix.is_empty() && prefix.contains(mapped.into()) => {
            Err("this part of IPv6 holds all of IPv4 (::ffff:0:0/96)".into())
        }
        _ => Ok(Host::Prefix(prefix)),
    }
}

/// A name that may be asked for: what cannot be one is refused here, and what the C library would take for
/// an address in an ancient notation ("1.2", "0x7f000001", "300.1.1.1").
fn host_name(text: &str) -> Result<&str, String> {
    let labels = text.strip_suffix('.').unwrap_or(text);
    let good = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
    };
    let last = labels.rsplit('.').next().unwrap_or_default();
    let numeric = last.bytes().all(|b| b.is_ascii_digit()) || last.to_ascii_lowercase().starts_with("0x");
    match text {
        "" => Err("no address".into()),
        _ if labels.len() > 253 || !labels.split('.').all(good) => {
            Err("neither an address nor a host name".into())
        }
        _ if numeric => Err("not an IPv4 address".into()),
        _ => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(value: &str) -> String {
        let port = |port: Option<Port>| match port {
            Some(Port::Name(name)) => format!("port {name}"),
            Some(Port::Number(number)) => format!("{:?}", Some(number)),
            None => "None".into(),
        };
        match Endpoint::parse("--dst", value) {
            Ok(Endpoint { host: Host::Prefix(p), port: p2 }) => format!("{p} {}", port(p2)),
            Ok(Endpoint { host: Host::Name(n), port: p2 }) => format!("name {n} {}", port(p2)),
            Ok(Endpoint { host: Host::Object(n), port: p2 }) => format!("{n} {}", port(p2)),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn every_accepted_form() {
        for (value, expected) in [
            ("172.16.25.183", "172.16.25.183 None"),
            ("172.16.25.183:80", "172.16.25.183 Some(80)"),
            ("10.0.0.5/24", "10.0.0.0/24 None"),
            ("10.0.0.0/24:443", "10.0.0.0/24 Some(443)"),
            ("0.0.0.0/0", "0.0.0.0/0 None"),
            ("fd00::1", "fd00::1 None"),
            ("[fd00::1]", "fd00::1 None"),
            ("[fd00::1]:80", "fd00::1 Some(80)"),
            ("[fd00::/64]:80", "fd00::/64 Some(80)"),
            ("::ffff:10.0.0.1", "10.0.0.1 None"),
            ("::ffff:10.0.0.0/120", "10.0.0.0/24 None"),
            ("example.com", "name example.com None"),
            ("example.com.:443", "name example.com. Some(443)"),
            ("my_svc.ns.svc", "name my_svc.ns.svc None"),
            ("svc/web", "svc/web None"),
            ("svc/web:80", "svc/web Some(80)"),
            ("svc/web.shop:http", "svc/shop/web port http"),
            ("service/web.shop.svc:http-2", "svc/shop/web port http-2"),
            ("svc/shop/web:80", "svc/shop/web Some(80)"),
            ("pod/shop/web-1.a:80", "pod/shop/web-1.a Some(80)"),
            ("pod/web-1", "pod/web-1 None"),
        ] {
            assert_eq!(shown(value), expected, "{value}");
        }
    }

    #[test]
    fn every_refusal_names_the_value_and_what_is_accepted() {
        for (value, expected) in [
            ("", "--dst \"\": no address;"),
            (
                "1.2.3.4:70000",
                "--dst \"1.2.3.4:70000\": \"70000\" is not a port; accepted: a port from 1 to 65535",
            ),
            ("1.2.3.4:0", "--dst \"1.2.3.4:0\": \"0\" is not a port;"),
            ("1.2.3.4:", "--dst \"1.2.3.4:\": \"\" is not a port;"),
            ("1.2.3.4:http", "--dst \"1.2.3.4:http\": \"http\" is not a port;"),
            ("10.0.0.0/33", "--dst \"10.0.0.0/33\": \"33\" is not a prefix length from 0 to 32;"),
            ("fd00::/129", "--dst \"fd00::/129\": \"129\" is not a prefix length from 0 to 128;"),
            ("10.0.0.0/+8", "--dst \"10.0.0.0/+8\": \"+8\" is not a prefix length from 0 to 32;"),
            ("::ffff:0:0/90", "--dst \"::ffff:0:0/90\": this part of IPv6 holds all of IPv4"),
            ("10.0.0/8", "--dst \"10.0.0/8\": \"10.0.0\" is not an IP address;"),
            ("svc/", "--dst \"svc/\": not the name of a service or pod;"),
            ("svc/a/b/c", "--dst \"svc/a/b/c\": not the name of a service or pod;"),
            ("svc/../x", "--dst \"svc/../x\": not the name of a service or pod;"),
            ("svc/web:70000", "--dst \"svc/web:70000\": \"70000\" is not a port;"),
            (
                "svc/web:a_b",
                "--dst \"svc/web:a_b\": \"a_b\" is not a port; accepted: a port from 1 to 65535 after the colon, or",
            ),
            ("pod/a/web:http", "--dst \"pod/a/web:http\": \"http\" is not a port;"),
            ("a/b", "--dst \"a/b\": \"a\" is not an IP address;"),
            ("300.1.1.1", "--dst \"300.1.1.1\": not an IPv4 address;"),
            ("1.2", "--dst \"1.2\": not an IPv4 address;"),
            ("0x7f000001", "--dst \"0x7f000001\": not an IPv4 address;"),
            ("2130706433", "--dst \"2130706433\": not an IPv4 address;"),
            ("fd00::1::2", "--dst \"fd00::1::2\": not an IPv6 address;"),
            ("fe80::1%eth0", "--dst \"fe80::1%eth0\": an address with a zone"),
            ("[fd00::1", "--dst \"[fd00::1\": brackets do not match;"),
            ("[fd00::1]x", "--dst \"[fd00::1]x\": brackets do not match;"),
            ("a b", "--dst \"a b\": neither an address nor a host name;"),
            ("a..b", "--dst \"a..b\": neither an address nor a host name;"),
            ("a\x1b[31m\n", "--dst \"a\\x1b[31m\\x0a\": neither an address nor a host name;"),
        ] {
            let error = shown(value);
            assert!(error.starts_with(expected), "{value}: {error}");
            assert!(error.contains("; accepted: ") && !error.contains('\n'), "{error}");
        }
    }

    proptest! {
        #[test]
        fn anything_typed_is_taken_or_refused_in_one_line(value in "\\PC{0,60}|[0-9a-f:./\\[\\]%]{0,40}|.{0,20}|(svc|pod)/.{0,20}") {
            let text = shown(&value);
            prop_assert!(!text.chars().any(char::is_control), "{text:?}");
        }

        #[test]
        fn addresses_and_ports_survive(address: u32, port in 1u16.., six: u128) {
            let v4 = std::net::Ipv4Addr::from_bits(address);
            prop_assert_eq!(shown(&format!("{v4}:{port}")), format!("{v4} Some({port})"));
            let v6 = IpAddr::from(Ipv6Addr::from_bits(six));
            prop_assert_eq!(shown(&format!("[{v6}]:{port}")), format!("{} Some({port})", v6.to_canonical()));
        }
    }
}
