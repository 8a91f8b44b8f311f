// SPDX-License-Identifier: MIT OR Apache-2.0
//! Single values as typed: ports, protocols, counts, durations, pod names.

use std::time::Duration;

use super::error::CliError;
use crate::target::{PodName, Requirement, Selector};
use crate::text::quoted;

/// Longer than anyone traces; keeps arithmetic on deadlines from overflowing.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// 1 to 65535, digits only.
pub(super) fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|p| *p != 0 && text.bytes().all(|b| b.is_ascii_digit()))
}

pub(super) fn port_flag(flag: &'static str, text: &str) -> Result<u16, CliError> {
    port(text).ok_or_else(|| bad(flag, text, "not a port", "a number from 1 to 65535"))
}

/// IP protocol by name or number; 0 is what IPv6 calls hop-by-hop options and no protocol of a flow.
pub(super) fn protocol(text: &str) -> Result<u8, CliError> {
    Ok(match text.to_ascii_lowercase().as_str() {
        "tcp" => libc::IPPROTO_TCP as u8,
        "udp" => libc::IPPROTO_UDP as u8,
        "icmp" => libc::IPPROTO_ICMP as u8,
        "icmpv6" | "icmp6" => libc::IPPROTO_ICMPV6 as u8,
        "sctp" => libc::IPPROTO_SCTP as u8,
        number => {
            let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
            number.parse().ok().filter(|n| digits && *n != 0).ok_or_else(|| {
                bad(
                    "--proto",
                    text,
                    "not a protocol",
                    "tcp, udp, icmp, icmpv6, sctp, or a number from 1 to 255",
                )
            })?
        }
    })
}

/// Does the protocol have ports?
pub(super) fn has_ports(protocol: u8) -> bool {
    matches!(
        i32::from(protocol),
        libc::IPPROTO_TCP
            | libc::IPPROTO_UDP
            | libc::IPPROTO_SCTP
            | libc::IPPROTO_DCCP
            | libc::IPPROTO_UDPLITE
    )
}

pub(super) fn protocol_name(protocol: u8) -> String {
    match i32::from(protocol) {
        libc::IPPROTO_TCP => "tcp".into(),
        libc::IPPROTO_UDP => "udp".into(),
        libc::IPPROTO_ICMP => "icmp".into(),
        libc::IPPROTO_ICMPV6 => "icmpv6".into(),
        libc::IPPROTO_SCTP => "sctp".into(),
        other => other.to_string(),
    }
}

pub(super) fn count(text: &str) -> Result<u64, CliError> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u64>() {
        Ok(n) if digits && n > 0 => Ok(n),
        Ok(0) => Err(bad("--count", text, "would end before it begins", "a number of packets from 1")),
        _ => Err(bad("--count", text, "not a number of packets", "a whole number from 1")),
    }
}

/// A number, possibly with decimals, and its unit.
pub(super) fn duration(text: &str) -> Result<Duration, CliError> {
    const ACCEPTED: &str = "a time with its unit, such as 500ms, 10s, 2m, 1h; at most 366 days";
    let wrong = |problem| bad("--duration", text, problem, ACCEPTED);
    let at = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .ok_or_else(|| wrong(if text.is_empty() { "no time" } else { "no unit" }))?;
    let (number, unit) = text.split_at(at);
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong("not a time")),
    };
    let number: f64 = number.parse().map_err(|_| wrong("not a time"))?;
    let duration = Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong("too long"))?;
    match duration {
        Duration::ZERO => Err(wrong("would end before it begins")),
        long if long > LONGEST => Err(wrong("too long")),
        good => Ok(good),
    }
}

/// NAME or NS/NAME; `namespace` is where a bare NAME is looked for.
pub(super) fn pod_name(text: &str, namespace: Option<&str>) -> Result<PodName, CliError> {
    let wrong = || bad("--pod", text, "not the name of a pod", "NAME, or NAMESPACE/NAME");
    let (own, name) = match text.split_once('/') {
        Some((own, name)) => (Some(own), name),
        None => (None, text),
    };
    if name.is_empty() || name.contains('/') || own == Some("") || name.len() > 253 {
        return Err(wrong());
    }
    if let (Some(own), Some(namespace)) = (own, namespace)
        && own != namespace
    {
        return Err(CliError::Contradiction {
            first: format!("--pod {}", quoted(text)),
            second: format!("--namespace {}", quoted(namespace)),
            why: "a pod is in one namespace".into(),
        });
    }
    Ok(PodName { namespace: own.or(namespace).map(str::to_owned), name: name.to_owned() })
}

/// A label selector: `k=v`, `k==v`, `k!=v`, `k`, `!k`, separated by commas.
pub(super) fn selector(text: &str, namespace: Option<&str>) -> Result<Selector, CliError> {
    const ACCEPTED: &str = "KEY=VALUE, KEY!=VALUE, KEY or !KEY, several of them with commas between";
    let wrong = |problem: &str| bad("--selector", text, problem, ACCEPTED);
    if text.contains('(') {
        return Err(wrong("sets of values (in, notin) are not known here"));
    }
    let requirement = |part: &str| {
        let part = part.trim();
        let (key, value) = match part.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (part, None),
        };
        let (key, negated) = match (key.strip_suffix('!'), key.strip_prefix('!')) {
            (Some(key), _) if value.is_some() => (key, true),
            (_, Some(key)) if value.is_none() => (key, true),
            _ => (key, false),
        };
        // `==` is `=`.
        let value = value.map(|v| if negated { v } else { v.strip_prefix('=').unwrap_or(v) }.trim());
        let key = key.trim();
        let label = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
        if key.is_empty() || !key.chars().all(label) || !value.unwrap_or_default().chars().all(label) {
            return Err(wrong(if part.is_empty() { "no label" } else { "not a label" }));
        }
        let key = key.to_owned();
        Ok(match (value.map(str::to_owned), negated) {
            (Some(value), false) => Requirement::Is(key, value),
            (Some(value), true) => Requirement::IsNot(key, value),
            (None, false) => Requirement::Has(key),
            (None, true) => Requirement::HasNot(key),
        })
    };
    let requirements = text.split(',').map(requirement).collect::<Result<_, _>>()?;
    Ok(Selector { namespace: namespace.map(str::to_owned), requirements })
}

/// Kubernetes' namespace.
pub(super) fn namespace(text: &str) -> Result<&str, CliError> {
    if text.is_empty() || text.contains('/') || text.len() > 253 {
        return Err(bad("--namespace", text, "not a namespace", "the name of a namespace of Kubernetes'"));
    }
    Ok(text)
}

/// A container's name or id.
pub(super) fn container(text: &str) -> Result<String, CliError> {
    if text.is_empty() || text.len() > 1024 {
        return Err(bad(
            "--container",
            text,
            "not a container",
            "its name, or four and more digits of its id",
        ));
    }
    Ok(text.to_owned())
}

pub(super) fn pid(text: &str) -> Result<u32, CliError> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse::<i32>()
        .ok()
        .and_then(|n| u32::try_from(n).ok())
        .filter(|n| digits && *n > 0)
        .ok_or_else(|| bad("--pid", text, "not a process id", "the PID of a running process"))
}

fn bad(flag: &'static str, value: &str, problem: &str, accepted: &'static str) -> CliError {
    CliError::Value { flag, value: quoted(value), problem: problem.to_owned(), accepted }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in
            [("10s", 10_000), ("500ms", 500), ("2m", 120_000), ("1.5s", 1_500), ("1h", 3_600_000)]
        {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(millis), "{text}");
        }
        for (text, problem) in [
            ("", "no time"),
            ("10", "no unit"),
            ("0s", "would end before it begins"),
            ("-5s", "not a time"),
            ("1e9s", "not a time"),
            ("1.2.3s", "not a time"),
            ("s", "not a time"),
            ("10 s", "not a time"),
            ("99999999999999999999h", "too long"),
            ("9000h", "too long"),
        ] {
            let error = duration(text).unwrap_err().to_string();
            assert!(
                error.contains(problem) && error.contains("accepted: a time with its unit"),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn ports_protocols_counts_and_pids() {
        assert_eq!((port("1"), port("65535")), (Some(1), Some(65535)));
        for text in ["0", "65536", "70000", "+80", "-1", "", "8 0", "80x"] {
            assert_eq!(port(text), None, "{text}");
            assert!(port_flag("--dport", text).is_err());
        }
        assert_eq!(
            (protocol("TCP").unwrap(), protocol("132").unwrap(), protocol("icmp6").unwrap()),
            (6, 132, 58)
        );
        for text in ["", "0", "256", "tpc", "+6", "\x1b"] {
            assert!(protocol(text).is_err(), "{text}");
        }
        assert_eq!(count("7").unwrap(), 7);
        for text in ["0", "", "-1", "1.5", "18446744073709551616", "+3"] {
            assert!(count(text).is_err(), "{text}");
        }
        assert_eq!(pid("1").unwrap(), 1);
        for text in ["0", "", "-1", "4294967295", "abc"] {
            assert!(pid(text).is_err(), "{text}");
        }
    }

    #[test]
    fn pod_names() {
        let name = |text| pod_name(text, None).map(|p| (p.namespace, p.name)).ok();
        assert_eq!(name("default/visitor"), Some((Some("default".into()), "visitor".into())));
        assert_eq!(name("visitor"), Some((None, "visitor".into())));
        for text in ["", "/", "a/", "/b", "a/b/c"] {
            assert_eq!(name(text), None, "{text}");
        }
        assert_eq!(pod_name("web", Some("shop")).unwrap().to_string(), "shop/web");
        assert_eq!(pod_name("shop/web", Some("shop")).unwrap().to_string(), "shop/web");
        let error = pod_name("a/web", Some("b")).unwrap_err().to_string();
        assert!(error.starts_with("--pod \"a/web\" and --namespace \"b\" cannot both match"), "{error}");
    }

    #[test]
    fn selectors() {
        let is = |k: &str, v: &str| Requirement::Is(k.into(), v.into());
        let parsed = selector("app=web, tier!=cache,!old,example.com/x,a==b,empty=", Some("shop")).unwrap();
        assert_eq!(parsed.namespace.as_deref(), Some("shop"));
        assert_eq!(
            parsed.requirements,
            [
                is("app", "web"),
                Requirement::IsNot("tier".into(), "cache".into()),
                Requirement::HasNot("old".into()),
                Requirement::Has("example.com/x".into()),
                is("a", "b"),
                is("empty", ""),
            ]
        );
        for (text, problem) in [
            ("", "no label"),
            ("a=b,", "no label"),
            ("=x", "not a label"),
            ("a=b=c", "not a label"),
            ("a in (b,c)", "sets of values"),
            ("!a=b", "not a label"),
            ("a=\x1b", "not a label"),
        ] {
            let error = selector(text, None).unwrap_err().to_string();
            assert!(error.contains(problem) && error.contains("accepted: KEY=VALUE"), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn anything_typed_never_panics(text in ".{0,40}|[0-9.]{0,30}[a-z]{0,3}") {
            let _ = (port(&text), protocol(&text), count(&text), duration(&text), pid(&text));
            let _ = (pod_name(&text, None), selector(&text, None), container(&text).is_ok(), namespace(&text).is_ok());
        }
    }
}
