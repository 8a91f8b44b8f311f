// SPDX-License-Identifier: MIT OR Apache-2.0
//! The validated command line.

use std::path::PathBuf;
use std::time::Duration;

use tracer_common::Config;

use super::args::{ColorChoice, Format, PositionChoice, TcChoice, TimeStyle, TraceArgs};
use super::error::CliError;
use super::filter::{Filter, Typed};
use super::resolve::Resolve;
use super::values::{container, count, duration, namespace, pid, pod_name, selector};
use crate::cluster::Reach;
use crate::node::Netns;
use crate::target::{Backend, Target, Wanted, find, find_netns};
use crate::text::quoted;

/// What will be done. Everything named exists, and the filter can match.
#[derive(Clone, Debug)]
pub struct Plan {
    pub filter: Filter,
    /// Whose packets are followed, when that was said with --pod, --selector, --container, --netns or --pid.
    pub targets: Vec<Target>,
    /// What `targets` came from, with --follow: to be looked for again and again.
    pub follow: Vec<Wanted>,
    /// Sockets of container runtimes, to be asked for names.
    pub runtimes: Vec<PathBuf>,
    /// The API server, to be asked for names too.
    pub reach: Reach,
    /// The nodes' namespaces, at least one, none twice.
    pub nodes: Vec<Netns>,
    /// Packets after which to stop.
    pub count: Option<u64>,
    pub duration: Option<Duration>,
    /// Show only journeys that end in a drop.
    pub drops_only: bool,
    /// Exit with [`super::EXIT_DROP_SEEN`] when a drop was seen.
    pub fail_on_drop: bool,
    pub format: Format,
    pub verbosity: u8,
    pub color: ColorChoice,
    pub time: TimeStyle,
    pub positions: PositionChoice,
    pub tc: TcChoice,
    pub debug_bpf: bool,
    /// Where to record to.
    pub record: Option<PathBuf>,
    /// What the user should know of how the flags were understood; one line each, safe to print.
    pub notices: Vec<String>,
    /// The command that checks the same path without packets; safe to print.
    pub check: String,
}

impl Plan {
    /// Validates. What is wrong in itself is found first; then the namespaces are looked up, then names
    /// are resolved.
    pub fn new(
        args: &TraceArgs,
        backends: &[&dyn Backend],
        resolver: &dyn Resolve,
    ) -> Result<Self, CliError> {
        let typed = Typed::parse(args)?;
        let wanted = wanted(args, typed.has_object())?;
        let count = args.count.as_deref().map(count).transpose()?;
        let duration = args.duration.as_deref().map(duration).transpose()?;
        if args.follow && wanted.is_empty() {
            return Err(CliError::NothingToStayWith);
        }
        if wanted.is_empty() && !typed.has_address() {
            return Err(CliError::Nothing);
        }
        let mut targets: Vec<Target> = Vec::new();
        for wanted in &wanted {
            for target in find(wanted, backends)? {
                if !targets.iter().any(|t| t.name == target.name && t.netns == target.netns) {
                    targets.push(target);
                }
            }
        }
        let nodes = nodes(args)?;
        let mut notices: Vec<String> = targets.iter().flat_map(|t| t.remarks.clone()).collect();
        for host in targets.iter().filter(|t| t.host_network) {
            if typed.is_open() {
                return Err(CliError::HostNetwork { pod: quoted(&host.name) });
            }
            let whose = if host.netns.is_some() { "this node" } else { "its node" };
            notices.push(format!(
                "{} is on the host's network: it has no network namespace of its own, and what others on {whose} \
                 send from the node's addresses is followed too",
                host.name
            ));
        }
        let filter = typed.resolve(&targets, resolver, &mut notices)?;
        Ok(Self {
            filter,
            targets,
            runtimes: Vec::new(),
            reach: Reach::default(),
            follow: if args.follow { wanted } else { Vec::new() },
            nodes,
            count,
            duration,
            drops_only: args.drops,
            fail_on_drop: args.fail_on_drop,
            format: args.output,
            verbosity: args.verbose,
            color: args.color,
            time: args.time,
            positions: args.positions,
            tc: args.tc,
            debug_bpf: args.debug_bpf,
            record: args.record.clone(),
            notices,
            check: args.check.clone(),
        })
    }

    /// The programs' constants, as far as the command line decides them.
    pub fn config(&self) -> Config {
        Config { debug: self.debug_bpf.into(), ..self.filter.config() }
    }

    /// The targets' namespaces, without those of the nodes (host-network pods), each once.
    pub fn pod_netns(&self) -> Vec<Netns> {
        self.own_netns(&self.targets)
    }

    /// The same of these targets.
    pub fn own_netns(&self, targets: &[Target]) -> Vec<Netns> {
        let mut out: Vec<Netns> = Vec::new();
        for netns in targets.iter().filter_map(|t| t.netns.as_ref()) {
            if !self.nodes.contains(netns) && !out.contains(netns) {
                out.push(netns.clone());
            }
        }
        out
    }
}

/// Everything that is to be found; clap lets only one kind through.
fn wanted(args: &TraceArgs, object: bool) -> Result<Vec<Wanted>, CliError> {
    let space = args.namespace.as_deref().map(namespace).transpose()?;
    if space.is_some() && args.pod.is_empty() && args.selector.is_none() && !object {
        return Err(CliError::LoneNamespace);
    }
    let mut out = Vec::new();
    for pod in &args.pod {
        out.push(Wanted::Pod(pod_name(pod, space)?));
    }
    if let Some(text) = &args.selector {
        out.push(Wanted::Selector(selector(text, space)?));
    }
    if let Some(text) = &args.container {
        out.push(Wanted::Container(container(text)?));
    }
    out.extend(args.netns.clone().map(Wanted::Netns));
    if let Some(text) = &args.pid {
        out.push(Wanted::Pid(pid(text)?));
    }
    Ok(out)
}

/// The nodes' namespaces, at least one, none twice.
pub fn nodes(args: &TraceArgs) -> Result<Vec<Netns>, CliError> {
    let names = &args.node_netns;
    if names.is_empty() {
        return Ok(vec![Netns::current()?]);
    }
    let mut out: Vec<Netns> = Vec::new();
    for name in names {
        let netns = find_netns(name)?;
        if !out.contains(&netns) {
            out.push(netns);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Invocation, Parsed, SystemResolver, parse};
    use crate::target::NamedNamespaces;

    fn plan(line: &str) -> Result<Plan, String> {
        let words = std::iter::once("egwtrace").chain(line.split_whitespace());
        match parse(words) {
            Ok(Parsed::Run(Invocation::Trace(args))) => {
                Plan::new(&args, &[&NamedNamespaces], &SystemResolver).map_err(|e| e.to_string())
            }
            Ok(Parsed::Run(other)) => Err(format!("{other:?}")),
            Ok(Parsed::Print(text)) => Err(text.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn every_flag_reaches_the_plan() {
        let plan = plan(
            "--dst 192.0.2.1:80 --proto tcp --count 3 --duration 500ms --drops --fail-on-drop -o json -v \
             --color never --time unix --positions all --tc off --debug-bpf",
        )
        .unwrap();
        assert_eq!(plan.filter.to_string(), "any → 192.0.2.1:80 tcp");
        assert_eq!((plan.count, plan.duration), (Some(3), Some(Duration::from_millis(500))));
        assert!(plan.drops_only && plan.fail_on_drop && plan.debug_bpf && plan.verbosity == 1);
        assert_eq!((plan.format, plan.color, plan.time), (Format::Json, ColorChoice::Never, TimeStyle::Unix));
        assert_eq!((plan.positions, plan.tc), (PositionChoice::All, TcChoice::Off));
        assert_eq!(plan.nodes, [Netns::current().unwrap()]);
        assert_eq!((plan.config().debug, plan.config().dport), (1, 80));
        assert!(plan.targets.is_empty() && plan.pod_netns().is_empty());
    }

    #[test]
    fn refusals_are_one_clear_line() {
        for (line, expected) in [
            (
                "",
                "nothing to follow; accepted: --pod NAME, --selector LABELS, --container NAME, --netns NAME, --pid PID",
            ),
            ("--dport 80 --proto tcp", "nothing to follow;"),
            ("--dst 1.2.3.4 --count 0", "--count \"0\": would end before it begins;"),
            ("--dst 1.2.3.4 --duration 10", "--duration \"10\": no unit; accepted: a time with its unit"),
            ("--dst 1.2.3.4:70000", "--dst \"1.2.3.4:70000\": \"70000\" is not a port;"),
            ("--pod a/b/c", "--pod \"a/b/c\": not the name of a pod; accepted: NAME, or NAMESPACE/NAME"),
            (
                "--pod no-such-pod-here",
                "no container runtime found, and no network namespace is called \"no-such-pod-here\";",
            ),
            ("--netns no-such-netns", "no network namespace \"no-such-netns\";"),
            ("--dst 1.2.3.4 --node-netns no-such-node", "no network namespace \"no-such-node\";"),
            ("-n shop --dst 1.2.3.4", "--namespace says where --pod, --selector and svc/NAME look;"),
            ("--container x", "nothing that runs containers was found for --container \"x\""),
            ("--pid 0", "--pid \"0\": not a process id;"),
            ("--dst no-such-host.invalid", "--dst \"no-such-host.invalid\": no address found ("),
            // What is wrong in itself comes before what has to be looked up.
            ("--pod no-such-pod --dport x", "--dport \"x\": not a port;"),
        ] {
            let error = plan(line).unwrap_err();
            assert!(error.starts_with(expected), "{line}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn a_process_of_the_node_is_no_pod() {
        let plan =
            plan(&format!("--pid {} --dst 198.51.100.1 --src 198.51.100.2", std::process::id())).unwrap();
        assert!(plan.targets.len() == 1 && plan.pod_netns().is_empty());
        assert_eq!(plan.notices.len(), 1);
    }

    #[test]
    fn a_node_given_twice_is_one_node() {
        let plan =
            plan("--dst 192.0.2.1 --node-netns /proc/self/ns/net --node-netns /proc/thread-self/ns/net")
                .unwrap();
        assert_eq!(plan.nodes.len(), 1);
    }
}
