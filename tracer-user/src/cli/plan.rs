// SPDX-License-Identifier: MIT OR Apache-2.0
//! The validated command line.

use std::path::PathBuf;
use std::time::Duration;

use tracer_common::Config;

use super::args::{ColorChoice, Format, PositionChoice, TcChoice, TimeStyle, TraceArgs};
use super::error::CliError;
use super::filter::{Filter, Typed};
use super::resolve::Resolve;
use super::values::{count, duration, pid, pod_name};
use crate::node::Netns;
use crate::target::{Backend, Target, Wanted, find, find_netns};

/// What will be done. Everything named exists, and the filter can match.
#[derive(Clone, Debug)]
pub struct Plan {
    pub filter: Filter,
    /// Whose packets are followed, when that was said with --pod, --netns or --pid.
    pub target: Option<Target>,
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
        let wanted = wanted(args)?;
        let count = args.count.as_deref().map(count).transpose()?;
        let duration = args.duration.as_deref().map(duration).transpose()?;
        if wanted.is_none() && !typed.has_address() {
            return Err(CliError::Nothing);
        }
        let target = wanted.map(|w| find(&w, backends)).transpose()?;
        let nodes = nodes(&args.node_netns)?;
        let mut notices = Vec::new();
        let filter = typed.resolve(target.as_ref(), resolver, &mut notices)?;
        Ok(Self {
            filter,
            target,
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
        })
    }

    /// The programs' constants, as far as the command line decides them.
    pub fn config(&self) -> Config {
        Config { debug: self.debug_bpf.into(), ..self.filter.config() }
    }

    /// The target's namespace, when it is not a node's own (a host-network pod).
    pub fn pod_netns(&self) -> Option<&Netns> {
        self.target.as_ref().map(|t| &t.netns).filter(|n| !self.nodes.contains(n))
    }
}

fn wanted(args: &TraceArgs) -> Result<Option<Wanted>, CliError> {
    Ok(match (&args.pod, &args.netns, &args.pid) {
        (Some(pod), ..) => Some(Wanted::Pod(pod_name(pod)?)),
        (_, Some(netns), _) => Some(Wanted::Netns(netns.clone())),
        (.., Some(text)) => Some(Wanted::Pid(pid(text)?)),
        _ => None,
    })
}

fn nodes(names: &[String]) -> Result<Vec<Netns>, CliError> {
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
        assert!(plan.target.is_none() && plan.pod_netns().is_none());
    }

    #[test]
    fn refusals_are_one_clear_line() {
        for (line, expected) in [
            (
                "",
                "nothing to follow; accepted: --pod NAME, --netns NAME, --pid PID, --src ADDR or --dst ADDR",
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
        assert!(plan.target.is_some() && plan.pod_netns().is_none());
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
