// SPDX-License-Identifier: MIT OR Apache-2.0
//! From what was asked for to the namespaces and their addresses.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::backend::{Backend, Kind, Known, Located, NodeOf, Target};
use super::error::TargetError;
use super::select::{self, Fit, Selector};
use super::suggest::{closest, or_list};
use crate::node::rtnl::{Address, Link, Rtnl};
use crate::node::{NAMED_DIRS, Netns, named};
use crate::text::{printable, quoted};

/// Of what fits, as many are named in an error.
const NAMED: usize = 12;

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

/// One of the ways to name the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    Pod(PodName),
    /// As many as there are.
    Selector(Selector),
    /// Name or id.
    Container(String),
    /// Name or path.
    Netns(String),
    Pid(u32),
}

/// Finds what is wanted: one target, or with a selector one and more. All `backends` of the kind are asked.
pub fn find(wanted: &Wanted, backends: &[&dyn Backend]) -> Result<Vec<Target>, TargetError> {
    let found = match wanted {
        Wanted::Pod(pod) => find_pod(pod, backends)?,
        Wanted::Selector(selector) => return find_labelled(selector, backends),
        Wanted::Container(name) => find_container(name, backends)?,
        Wanted::Netns(name) => bare(find_netns(name)?)?,
        Wanted::Pid(pid) => bare(of_process(*pid)?)?,
    };
    Ok(vec![found])
}

fn bare(netns: Netns) -> Result<Target, TargetError> {
    let addresses = addresses(&netns)?;
    Ok(Target {
        kind: Kind::Pods,
        name: netns.name().to_owned(),
        netns: Some(netns),
        addresses,
        host_network: false,
        known: None,
        remarks: Vec::new(),
    })
}

fn of_process(pid: u32) -> Result<Netns, TargetError> {
    if !Path::new(&format!("/proc/{pid}")).exists() {
        return Err(TargetError::NoProcess { pid });
    }
    let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
    let netns = Netns::open(&path, format!("pid {pid}"))?;
    Ok(match netns.known_as() {
        Some(name) => netns.with_name(name),
        None => netns,
    })
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

/// What fits and runs, with the backend that knows it: none, one or more. For looking again: who does not answer
/// knows nothing. `is_held`: what is followed by now stays what is meant.
pub fn fitting(
    wanted: &Wanted,
    backends: &[&dyn Backend],
    is_held: impl Fn(&Known) -> bool,
) -> Vec<(usize, Known)> {
    let of = |elsewhere: bool| {
        let lists = backends.iter().enumerate();
        let lists = lists.filter(|(_, b)| b.kind() == Kind::Pods && b.is_elsewhere() == elsewhere);
        lists.filter_map(|(at, backend)| Some((at, backend.list_for(wanted).ok()?))).collect::<Vec<_>>()
    };
    let (best, here) = fitting_of(wanted, &of(false));
    if best == Some(Fit::Exact) || here.iter().any(|(_, known)| is_held(known)) {
        return here;
    }
    // The exact name of a pod of another node comes before the beginning of a name here.
    let (best, elsewhere) = fitting_of(wanted, &of(true));
    if here.is_empty() || best == Some(Fit::Exact) { elsewhere } else { here }
}

fn fitting_of(wanted: &Wanted, lists: &[(usize, Vec<Known>)]) -> (Option<Fit>, Vec<(usize, Known)>) {
    let mut out: Vec<(usize, Known, Fit)> = Vec::new();
    for (at, list) in lists {
        match wanted {
            Wanted::Pod(pod) => {
                out.extend(select::by_name(pod, list).into_iter().map(|(known, fit)| (*at, known, fit)));
            }
            Wanted::Selector(selector) => {
                out.extend(
                    select::by_labels(selector, list).into_iter().map(|known| (*at, known, Fit::Exact)),
                );
            }
            Wanted::Container(_) | Wanted::Netns(_) | Wanted::Pid(_) => {}
        }
    }
    out.retain(|(_, known, _)| !known.stopped);
    let best = out.iter().map(|(.., fit)| *fit).min();
    let fits = out.into_iter().filter(|(.., fit)| Some(*fit) == best);
    (best, fits.map(|(at, known, _)| (at, known)).collect())
}

/// What the backends of one kind know, and why some of them could not say.
struct AskedBackends<'a> {
    backends: Vec<&'a dyn Backend>,
    known: Vec<(usize, Vec<Known>)>,
    failures: Vec<TargetError>,
}

impl<'a> AskedBackends<'a> {
    /// Whoever runs things here.
    fn of(kind: Kind, wanted: &Wanted, all: &[&'a dyn Backend]) -> Self {
        let mut asked = Self { backends: Vec::new(), known: Vec::new(), failures: Vec::new() };
        asked.ask(wanted, all.iter().copied().filter(|b| b.kind() == kind && !b.is_elsewhere()));
        asked
    }

    /// Those too who know of other nodes. True when there is one.
    fn ask_elsewhere(&mut self, kind: Kind, wanted: &Wanted, all: &[&'a dyn Backend]) -> bool {
        let before = self.backends.len();
        self.ask(wanted, all.iter().copied().filter(|b| b.kind() == kind && b.is_elsewhere()));
        self.backends.len() > before
    }

    fn ask(&mut self, wanted: &Wanted, backends: impl Iterator<Item = &'a dyn Backend>) {
        for backend in backends {
            match backend.list_for(wanted) {
                Ok(list) => self.known.push((self.backends.len(), list)),
                Err(error) => self.failures.push(error),
            }
            self.backends.push(backend);
        }
    }

    /// The pods that fit best.
    fn fits(&self, pod: &PodName) -> Vec<(usize, Known, Fit)> {
        let fits = |(at, list): &(usize, Vec<Known>)| {
            let at = *at;
            select::by_name(pod, list).into_iter().map(move |(known, fit)| (at, known, fit))
        };
        let mut fits: Vec<(usize, Known, Fit)> = self.known.iter().flat_map(fits).collect();
        let best = fits.iter().map(|(.., fit)| *fit).min();
        fits.retain(|(.., fit)| Some(*fit) == best);
        fits
    }

    /// Nothing fits: because one that might have known did not answer, or because there is no such thing.
    fn nothing(mut self, kind: Kind, name: &str, accepted: &'static str) -> TargetError {
        // Of a node's sockets not each is spoken to by every tool: who answered in another tongue is no loss.
        let foreign = |error: &TargetError| kind == Kind::Containers && error.is_another_tongue();
        let loss = self.failures.iter().position(|error| !foreign(error));
        if let Some(at) = loss.or((self.known.is_empty() && !self.failures.is_empty()).then_some(0)) {
            return self.failures.swap_remove(at);
        }
        let running = || self.known.iter().flat_map(|(_, list)| list).filter(|k| !k.stopped);
        // The right name in the wrong namespace is the likeliest slip.
        let own_name = name.rsplit_once('/').map_or(name, |(_, own)| own);
        let same: Vec<String> =
            running().filter(|k| k.name == own_name).take(3).map(|k| quoted(k.shown())).collect();
        let names: Vec<String> = running().map(Known::shown).collect();
        let suggestion = match same.is_empty() {
            false => format!(" (did you mean {}?)", or_list(&same)),
            true => suggestion(name, names.iter().map(String::as_str)),
        };
        TargetError::NotFound {
            kind,
            name: if name.is_empty() { "with these labels".into() } else { quoted(name) },
            suggestion,
            asked: self.backends.iter().map(|b| b.describe()).collect::<Vec<_>>().join(", "),
            accepted,
        }
    }
}

fn find_pod(pod: &PodName, backends: &[&dyn Backend]) -> Result<Target, TargetError> {
    let wanted = Wanted::Pod(pod.clone());
    let mut asked = AskedBackends::of(Kind::Pods, &wanted, backends);
    let mut fits = asked.fits(pod);
    let only_names = asked.backends.len() <= 1 && asked.failures.is_empty();
    // The exact name of a pod of another node comes before the beginning of a name here.
    let exact = fits.first().is_some_and(|(.., fit)| *fit == Fit::Exact);
    let elsewhere = !exact && asked.ask_elsewhere(Kind::Pods, &wanted, backends);
    if elsewhere {
        let all = asked.fits(pod);
        if fits.is_empty() || all.first().is_some_and(|(.., fit)| *fit == Fit::Exact) {
            fits = all;
        }
    }
    let Some(best) = fits.first().map(|(.., fit)| *fit) else {
        if only_names && !elsewhere {
            let names: Vec<String> = asked.known.iter().flat_map(|(_, l)| l).map(Known::shown).collect();
            let suggestion = suggestion(&pod.name, names.iter().map(String::as_str));
            return Err(TargetError::NoRuntime { pod: quoted(pod.to_string()), suggestion });
        }
        return Err(asked.nothing(
            Kind::Pods,
            &pod.to_string(),
            "NAME, NAMESPACE/NAME, the beginning of a name, or --src with the address of a pod that runs elsewhere",
        ));
    };
    let fits: Vec<(usize, Known)> = fits.into_iter().map(|(at, known, _)| (at, known)).collect();
    let (at, known) = only(fits, &format!("--pod {}", quoted(pod.to_string())), Kind::Pods)?;
    let of_cluster = asked.backends[at].is_elsewhere();
    let mut target = at_home(asked.backends[at], known)?.called(pod);
    if best == Fit::Prefix {
        target.remarks.push(format!(
            "{} is the only pod {} whose name begins with {}",
            target.name,
            if of_cluster { "of the cluster" } else { "here" },
            quoted(pod.to_string())
        ));
    }
    Ok(target)
}

fn find_labelled(selector: &Selector, backends: &[&dyn Backend]) -> Result<Vec<Target>, TargetError> {
    let wanted = Wanted::Selector(selector.clone());
    let mut asked = AskedBackends::of(Kind::Pods, &wanted, backends);
    let labelled = |asked: &AskedBackends<'_>| -> Result<Vec<Target>, TargetError> {
        let mut out = Vec::new();
        for (at, list) in &asked.known {
            for known in select::by_labels(selector, list) {
                out.push(at_home(asked.backends[*at], known)?);
            }
        }
        Ok(out)
    };
    let mut out = labelled(&asked)?;
    if out.is_empty() && asked.ask_elsewhere(Kind::Pods, &wanted, backends) {
        out = labelled(&asked)?;
        // One that waits for its address sends nothing.
        if out.iter().any(|target| !target.addresses.is_empty()) {
            out.retain(|target| !target.addresses.is_empty());
        }
    }
    if out.is_empty() {
        return Err(asked.nothing(
            Kind::Pods,
            "",
            "--selector KEY=VALUE of a pod that runs on this node, with -n NAMESPACE where it is not to be any",
        ));
    }
    Ok(out)
}

fn find_container(name: &str, backends: &[&dyn Backend]) -> Result<Target, TargetError> {
    let asked = AskedBackends::of(Kind::Containers, &Wanted::Container(name.to_owned()), backends);
    if asked.backends.is_empty() {
        return Err(TargetError::NoContainerRuntime { name: quoted(name) });
    }
    let mut fits: Vec<(usize, Known)> = asked
        .known
        .iter()
        .flat_map(|(at, list)| select::containers(name, list).into_iter().map(|known| (*at, known)))
        .collect();
    // One container may be known to two: to containerd and to who runs it.
    let mut seen = std::collections::HashSet::new();
    fits.retain(|(_, known)| seen.insert(known.id.clone()));
    if fits.is_empty() {
        return Err(asked.nothing(
            Kind::Containers,
            name,
            "the name of a container, or four and more digits of its id",
        ));
    }
    let (at, known) = only(fits, &format!("--container {}", quoted(name)), Kind::Containers)?;
    at_home(asked.backends[at], known)
}

/// The one that fits, or the list of those that do.
fn only(mut fits: Vec<(usize, Known)>, what: &str, kind: Kind) -> Result<(usize, Known), TargetError> {
    if fits.len() == 1 {
        return Ok(fits.remove(0));
    }
    let mut names: Vec<String> = fits
        .iter()
        .take(NAMED)
        .map(|(_, known)| match kind {
            Kind::Pods => known.shown(),
            Kind::Containers => {
                format!("{} ({})", known.shown(), printable(known.id.chars().take(12).collect::<String>()))
            }
        })
        .collect();
    if fits.len() > NAMED {
        names.push(format!("and {} more", fits.len() - NAMED));
    }
    let advice = match kind {
        Kind::Pods if fits.iter().any(|(_, known)| known.namespace.is_none()) => "say which one with --netns",
        Kind::Pods => {
            "give one of them as NAMESPACE/NAME, several with --pod for each, or labels with --selector"
        }
        Kind::Containers => "give the id of one of them",
    };
    let (count, fits) = (fits.len(), names.join(", "));
    Err(TargetError::Ambiguous { what: what.to_owned(), count, kind, fits, advice })
}

/// Where a pod or container is, and under which addresses its packets leave.
pub fn at_home(backend: &dyn Backend, known: Known) -> Result<Target, TargetError> {
    let name = known.shown();
    if known.stopped {
        let why = match backend.kind() {
            Kind::Pods if !backend.is_elsewhere() => {
                "its sandbox is not ready; it may be starting, or have ended"
            }
            Kind::Pods | Kind::Containers => "it has ended",
        };
        return Err(TargetError::Stopped { kind: backend.kind(), name: quoted(&name), why });
    }
    let Located { netns, host_network, addresses: told, node } = backend.locate(&known)?;
    let mut remarks = Vec::new();
    let addresses = match &netns {
        Some(netns) => addresses(netns)?,
        None => told,
    };
    if netns.is_none() {
        remarks.push(match node {
            Some(NodeOf::Other(node)) => {
                format!("{name} runs on node {}: followed here by its address", printable(node))
            }
            Some(NodeOf::This(node)) => format!(
                "{name} runs on this node ({}), but no container runtime here knows it: followed by its address, its \
                 own devices are not watched",
                printable(node)
            ),
            None => format!("{name} runs on another node: followed here by its address"),
        });
    }
    Ok(Target { name, kind: backend.kind(), netns, addresses, host_network, known: Some(known), remarks })
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
pub(super) fn addresses(netns: &Netns) -> Result<Vec<IpAddr>, TargetError> {
    let mut rtnl = netns.run(|| Rtnl::open(netns.name()))??;
    // What hangs on a device that is down is no source: kube-proxy keeps services' addresses so (kube-ipvs0).
    let (up, down): (Vec<_>, Vec<_>) = rtnl.links()?.into_iter().partition(Link::is_up);
    let all = rtnl.addresses()?;
    let of = |links: &[Link]| {
        let on = |a: &&Address| links.iter().any(|link| link.ifindex == a.ifindex);
        let mut out: Vec<IpAddr> = all.iter().filter(on).map(|a| a.address).collect();
        out.retain(|a| match a {
            IpAddr::V4(a) => !a.is_loopback() && !a.is_link_local(),
            IpAddr::V6(a) => !a.is_loopback() && !a.is_unicast_link_local(),
        });
        out
    };
    let mut out = of(&up);
    if out.is_empty() {
        // All is down: that is worth looking at.
        out = of(&down);
    }
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
        fn list(&self) -> Result<Vec<Known>, TargetError> {
            let known = |name: &str| Known { name: name.into(), ..Known::default() };
            Ok(vec![known("visitor"), known("node1")])
        }
        fn locate(&self, known: &Known) -> Result<Located, TargetError> {
            let netns = Some(Netns::current()?.with_name(known.shown()));
            Ok(Located { netns, host_network: false, addresses: Vec::new(), node: None })
        }
    }

    #[test]
    fn an_unknown_pod_says_what_is_accepted() {
        let pod = PodName { namespace: Some("default".into()), name: "vistor\x1b".into() };
        let error = find(&Wanted::Pod(pod), &[&Nothing]).unwrap_err().to_string();
        assert_eq!(
            error,
            "no container runtime found, and no network namespace is called \"default/vistor\\x1b\"; accepted: \
             --pod with the name of a namespace under /run/netns (did you mean \"visitor\"?), \
             --netns NAME|PATH, --pid PID of a process in the pod, \
             or --runtime-endpoint PATH of containerd's or CRI-O's socket"
        );
    }

    /// Pods by name, here or of the whole cluster.
    struct Pods(&'static str, bool);
    impl Backend for Pods {
        fn describe(&self) -> String {
            "pods".into()
        }
        fn is_elsewhere(&self) -> bool {
            self.1
        }
        fn list(&self) -> Result<Vec<Known>, TargetError> {
            let namespace = Some("default".to_owned());
            Ok(vec![Known { namespace, name: self.0.into(), id: self.0.into(), ..Known::default() }])
        }
        fn locate(&self, _: &Known) -> Result<Located, TargetError> {
            Ok(Located { netns: None, host_network: false, addresses: Vec::new(), node: None })
        }
    }

    #[test]
    fn a_pod_of_another_node_is_not_taken_for_one_here_whose_name_begins_so() {
        let pod = PodName { namespace: Some("default".into()), name: "client".into() };
        let name = |elsewhere| {
            let found = find(&Wanted::Pod(pod.clone()), &[&Pods("client2", false), &Pods(elsewhere, true)]);
            found.unwrap()[0].name.clone()
        };
        assert_eq!(name("client"), "default/client");
        // Nobody is called just so.
        assert_eq!(name("client3"), "default/client2");
    }

    #[test]
    fn a_followed_name_is_not_replaced_by_a_longer_one_here() {
        let wanted = Wanted::Pod(PodName { namespace: Some("default".into()), name: "client".into() });
        let name = |elsewhere, held: &str| {
            let (here, there) = (Pods("client2", false), Pods(elsewhere, true));
            fitting(&wanted, &[&here, &there], |known| known.id == held)[0].1.name.clone()
        };
        assert_eq!(name("client", ""), "client");
        assert_eq!(name("client3", ""), "client2");
        assert_eq!(name("client", "client2"), "client2");
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
        let own = find(&Wanted::Pid(std::process::id()), &[]).unwrap().remove(0);
        assert_eq!(own.netns, Some(Netns::current().unwrap()));
        assert!(own.addresses.iter().all(|a| !a.is_loopback()));
    }
}
