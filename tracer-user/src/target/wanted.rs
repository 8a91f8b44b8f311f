// SPDX-License-Identifier: MIT OR Apache-2.0
//! From what was asked for to the namespace and its addresses.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::backend::{Backend, Target, TargetError};
use super::suggest::{closest, or_list};
use crate::node::rtnl::Rtnl;
use crate::node::{NAMED_DIRS, Netns, named, quoted};

/// A pod as the user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodName {
    pub namespace: Option<String>,
    pub name: String,
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(&self.name)
    }
}

/// One of the three ways to name the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    Pod(PodName),
    /// Name or path.
    Netns(String),
    Pid(u32),
}

/// Finds the target. `backends` are asked in turn for pods.
pub fn find(wanted: &Wanted, backends: &[&dyn Backend]) -> Result<Target, TargetError> {
    let netns = match wanted {
        Wanted::Pod(pod) => find_pod(pod, backends)?,
        Wanted::Netns(name) => find_netns(name)?,
        Wanted::Pid(pid) => {
            let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
            if !Path::new(&format!("/proc/{pid}")).exists() {
                return Err(TargetError::NoProcess { pid: *pid });
            }
            let netns = Netns::open(&path, format!("pid {pid}"))?;
            match netns.known_as() {
                Some(name) => netns.with_name(name),
                None => netns,
            }
        }
    };
    let addresses = addresses(&netns)?;
    Ok(Target { name: netns.name().to_owned(), netns, addresses })
}

/// A namespace by its name under /run/netns, or by path.
pub fn find_netns(name: &str) -> Result<Netns, TargetError> {
    if name.contains('/') {
        let netns = Netns::open(Path::new(name), "")?;
        let own_name = || Path::new(name).file_name().map_or(name.into(), |n| n.to_string_lossy());
        let shown = netns.known_as().unwrap_or_else(|| own_name().into_owned());
        return Ok(netns.with_name(shown));
    }
    let known = named();
    if let Some((_, _, path)) = known.iter().find(|(n, ..)| n == name) {
        return Ok(Netns::open(path, name)?);
    }
    // The name may be odd (printable form differs) or a left-over file.
    let file = NAMED_DIRS.map(|dir| Path::new(dir).join(name)).into_iter().find(|p| p.is_file());
    match file {
        Some(path) if !matches!(name, "" | "." | "..") => Netns::open(&path, name).map_err(|_| {
            TargetError::LeftOver { what: quoted(path.as_os_str().as_encoded_bytes()), name: quoted(name) }
        }),
        _ => Err(TargetError::NoNetns {
            name: quoted(name),
            suggestion: suggestion(name, known.iter().map(|(n, ..)| n.as_str())),
        }),
    }
}

fn find_pod(pod: &PodName, backends: &[&dyn Backend]) -> Result<Netns, TargetError> {
    for backend in backends {
        if let Some(netns) = backend.resolve(pod)? {
            return Ok(netns);
        }
    }
    let names: Vec<String> = backends.iter().flat_map(|b| b.names()).collect();
    Err(TargetError::NoPod {
        pod: quoted(&pod.name),
        suggestion: suggestion(&pod.name, names.iter().map(String::as_str)),
    })
}

/// ` (did you mean "a" or "b"?)`, or how many there are to choose from, or nothing.
fn suggestion<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    let close: Vec<String> = closest(wanted, names.iter().copied()).into_iter().map(quoted).collect();
    match (close.is_empty(), names.len()) {
        (false, _) => format!(" (did you mean {}?)", or_list(&close)),
        (true, 0) => " (there are none)".into(),
        (true, 1..=5) => format!(" ({})", names.join(", ")),
        (true, _) => String::new(),
    }
}

/// The addresses under which packets leave the namespace.
fn addresses(netns: &Netns) -> Result<Vec<IpAddr>, TargetError> {
    let mut rtnl = netns.run(|| Rtnl::open(netns.name()))??;
    let mut out: Vec<IpAddr> = rtnl.addresses()?.into_iter().map(|a| a.address).collect();
    out.retain(|a| match a {
        IpAddr::V4(a) => !a.is_loopback() && !a.is_link_local(),
        IpAddr::V6(a) => !a.is_loopback() && !a.is_unicast_link_local(),
    });
    out.sort();
    out.dedup();
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;
    impl Backend for Nothing {
        fn describe(&self) -> String {
            "nothing".into()
        }
        fn resolve(&self, _: &PodName) -> Result<Option<Netns>, TargetError> {
            Ok(None)
        }
        fn names(&self) -> Vec<String> {
            vec!["visitor".into(), "node1".into()]
        }
    }

    #[test]
    fn an_unknown_pod_says_what_is_accepted() {
        let pod = PodName { namespace: Some("default".into()), name: "vistor\x1b".into() };
        let error = find(&Wanted::Pod(pod), &[&Nothing]).unwrap_err().to_string();
        assert_eq!(
            error,
            "no container runtime found, and no network namespace is called \"vistor\\x1b\"; accepted: \
             --pod with the name of a namespace under /run/netns (did you mean \"visitor\"?), \
             --netns NAME|PATH, or --pid PID of a process in the pod"
        );
    }

    #[test]
    fn unknown_namespaces_and_processes() {
        for (name, expected) in [
            ("no-such-netns", "no network namespace \"no-such-netns\"; accepted: a name under /run/netns"),
            ("..", "no network namespace \"..\""),
            ("", "no network namespace \"\""),
            ("/nowhere/x", "cannot open network namespace \"/nowhere/x\": No such file"),
            ("/etc/passwd", "\"/etc/passwd\" is not a network namespace"),
            ("./..", "\"./..\" is not a network namespace"),
        ] {
            let error = find(&Wanted::Netns(name.into()), &[]).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{name}: {error}");
        }
        let error = find(&Wanted::Pid(u32::MAX), &[]).unwrap_err().to_string();
        assert!(error.starts_with("no process 4294967295"), "{error}");
    }

    #[test]
    fn a_process_of_our_own() {
        let own = find(&Wanted::Pid(std::process::id()), &[]).unwrap();
        assert_eq!(own.netns, Netns::current().unwrap());
        assert!(own.addresses.iter().all(|a| !a.is_loopback()));
    }
}
