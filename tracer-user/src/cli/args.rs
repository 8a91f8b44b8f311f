// SPDX-License-Identifier: MIT OR Apache-2.0
//! The flags as typed. Values are text here; what they mean is decided in [`super::plan`].

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use super::help;
use crate::cluster::Wish;

/// What a command line asks for. Flags without a subcommand trace.
#[derive(Clone, Debug)]
pub enum Invocation {
    Trace(TraceArgs),
    /// The flags of a trace that say what and where, and how to print.
    Check(TraceArgs),
    Explain(ExplainArgs),
    /// Nothing, until a signal.
    Wait,
}

#[derive(Clone, Debug, Parser)]
#[command(
    name = "egwtrace",
    bin_name = "egwtrace",
    version,
    disable_help_flag = true,
    disable_version_flag = true,
    about = help::ABOUT,
    long_about = help::LONG_ABOUT,
    after_help = help::AFTER,
    after_long_help = help::AFTER_LONG,
    max_term_width = 100,
    args_override_self = false,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    subcommand_help_heading = "Without packets"
)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Option<Command>,

    #[command(flatten)]
    pub(super) trace: TraceArgs,

    /// Help: short (-h), with examples (--help)
    #[arg(short, long, help_heading = "Other", action = ArgAction::Help)]
    help: Option<bool>,

    /// Version
    #[arg(short = 'V', long, help_heading = "Other", action = ArgAction::Version)]
    version: Option<bool>,
}

#[derive(Clone, Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one, and it is taken apart at once")]
pub(super) enum Command {
    /// Walk the path a packet would take and name the first thing that is wrong; nothing is sent
    #[command(long_about = help::CHECK, after_help = help::CHECK_AFTER, max_term_width = 100)]
    Check {
        #[command(flatten)]
        trace: TraceArgs,

        /// Help: short (-h), with all that flags mean (--help)
        #[arg(short, long, help_heading = "Other", action = ArgAction::Help)]
        help: Option<bool>,
    },
    /// Name causes from a recording (--record) of this or another machine
    #[command(long_about = help::EXPLAIN, after_help = help::EXPLAIN_AFTER, max_term_width = 100)]
    Explain(ExplainArgs),
    /// Do nothing until a signal: for a container in which traces are run by exec
    #[command(hide = true)]
    Wait,
}

/// What `check` has no use for.
pub(super) const NOT_OF_CHECK: [&str; 10] = [
    "follow",
    "positions",
    "tc",
    "count",
    "duration",
    "fail_on_drop",
    "drops",
    "time",
    "record",
    "debug_bpf",
];

/// Flags of `explain`.
#[derive(Args, Clone, Debug, Default)]
pub struct ExplainArgs {
    /// The recording; - reads standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// Form of the output
    #[arg(short, long, value_name = "FORMAT", help_heading = "Output", value_enum, default_value_t)]
    pub output: Format,

    /// Print the journeys too, with every position and lookup (-v), and TTL, length and mark at every hop (-vv)
    #[arg(short, long, help_heading = "Output", action = ArgAction::Count)]
    pub verbose: u8,

    /// When to use colours
    #[arg(long, value_name = "WHEN", help_heading = "Output", value_enum, default_value_t)]
    pub color: ColorChoice,

    /// How to print the time of a packet
    #[arg(long, value_name = "STYLE", help_heading = "Output", value_enum, default_value_t)]
    pub time: TimeStyle,

    /// Help
    #[arg(short, long, help_heading = "Other", action = ArgAction::Help)]
    help: Option<bool>,
}

/// Flags of a trace.
#[derive(Args, Clone, Debug, Default)]
pub struct TraceArgs {
    /// The command that checks the same path without packets; safe to print.
    #[arg(skip)]
    pub check: String,

    /// Follow a pod's packets; may be given again
    ///
    /// By name, NAMESPACE/NAME, or the beginning of a name that only one pod here has (shop/checkout-). Asked are the
    /// node's container runtime (containerd, CRI-O) and, by name only, the network namespaces under /run/netns; when
    /// none of them knows it, the API server: a pod of another node is followed here by its addresses. The pod's
    /// addresses are the source of the flow unless --src says otherwise, and its devices are watched too.
    #[arg(
        long, value_name = "[NS/]NAME", help_heading = "What to follow", action = ArgAction::Append,
        conflicts_with_all = ["netns", "pid", "container", "selector"]
    )]
    pub pod: Vec<String>,

    /// Follow the pods with these labels: app=web,tier!=cache
    #[arg(
        short = 'l', long, value_name = "LABELS", help_heading = "What to follow",
        conflicts_with_all = ["netns", "pid", "container"]
    )]
    pub selector: Option<String>,

    /// Kubernetes' namespace for --pod, --selector and svc/NAME [default: any]
    #[arg(short, long, value_name = "NS", help_heading = "What to follow")]
    pub namespace: Option<String>,

    /// Stay with the pod: when it is made again here, at its new addresses
    ///
    /// With the beginning of a name, the pod that takes the place of the one that ended; with --selector, every pod
    /// that comes to have these labels.
    #[arg(long, help_heading = "What to follow", conflicts_with_all = ["netns", "pid", "container"])]
    pub follow: bool,

    /// Follow the packets of a container, by name or the beginning of its id
    #[arg(long, value_name = "NAME|ID", help_heading = "What to follow", conflicts_with_all = ["netns", "pid"])]
    pub container: Option<String>,

    /// Follow the packets of a network namespace
    #[arg(long, value_name = "NAME|PATH", help_heading = "What to follow", conflicts_with = "pid")]
    pub netns: Option<String>,

    /// Follow the packets of the network namespace a process is in
    #[arg(long, value_name = "PID", help_heading = "What to follow")]
    pub pid: Option<String>,

    /// The source.
    #[arg(long, value_name = "ADDR", help_heading = "What to follow", help = help::SRC, long_help = help::SRC_LONG)]
    pub src: Option<String>,

    /// Destination, in the same forms as --src, or svc/NAME:PORT
    ///
    /// As the sender sees it: a service's address and not the one it is translated to. Translations are followed.
    /// Also svc/NAME:PORT (svc/web:80, svc/web.shop:http, svc/shop/web) and pod/NS/NAME:PORT, for which the API server
    /// is asked.
    #[arg(long, value_name = "ADDR", help_heading = "What to follow")]
    pub dst: Option<String>,

    /// Source port
    #[arg(long, value_name = "PORT", help_heading = "What to follow")]
    pub sport: Option<String>,

    /// Destination port
    #[arg(long, value_name = "PORT", help_heading = "What to follow")]
    pub dport: Option<String>,

    /// tcp, udp, icmp (ICMPv6 too), sctp or a number
    #[arg(long, value_name = "PROTO", help_heading = "What to follow")]
    pub proto: Option<String>,

    /// Network namespace of the node; may be given again for a second node [default: the current one]
    #[arg(long, value_name = "NAME|PATH", help_heading = "Where to look", action = ArgAction::Append)]
    pub node_netns: Vec<String>,

    /// Socket of the container runtime [default: the usual places]
    #[arg(long, value_name = "PATH", help_heading = "Where to look")]
    pub runtime_endpoint: Option<String>,

    /// Kubeconfig for the API server [default: as kubectl; a pod's service account; the kubelet's own]
    ///
    /// The API server is asked only for what the node does not know: pods of other nodes, services, names of addresses.
    /// Looked for are $KUBECONFIG, ~/.kube/config, the service account of the pod this runs in, and the kubelet's
    /// credentials. Without any, or when the server does not answer, everything else works.
    #[arg(long, value_name = "FILE", help_heading = "Where to look", conflicts_with = "no_api")]
    pub kubeconfig: Option<PathBuf>,

    /// Context of the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME", help_heading = "Where to look", conflicts_with = "no_api")]
    pub context: Option<String>,

    /// Ask no API server
    #[arg(long, help_heading = "Where to look")]
    pub no_api: bool,

    /// Where to stand at each netfilter hook
    #[arg(long, value_name = "WHICH", help_heading = "Where to look", value_enum, default_value_t)]
    pub positions: PositionChoice,

    /// How to watch devices
    #[arg(long, value_name = "HOW", help_heading = "Where to look", value_enum, default_value_t)]
    pub tc: TcChoice,

    /// Stop after this many packets (with --drops: after this many that did not arrive)
    #[arg(long, value_name = "N", help_heading = "When to stop")]
    pub count: Option<String>,

    /// Stop after this time: 500ms, 10s, 2m
    #[arg(long, value_name = "TIME", help_heading = "When to stop")]
    pub duration: Option<String>,

    /// Exit with 1 when a packet of the flow was dropped
    #[arg(long, help_heading = "When to stop")]
    pub fail_on_drop: bool,

    /// Show only packets that are dropped
    #[arg(long, help_heading = "Output")]
    pub drops: bool,

    /// Form of the output
    #[arg(short, long, value_name = "FORMAT", help_heading = "Output", value_enum, default_value_t)]
    pub output: Format,

    /// More: every position and lookup (-v); also TTL, length and mark at every hop (-vv)
    #[arg(short, long, help_heading = "Output", action = ArgAction::Count)]
    pub verbose: u8,

    /// When to use colours
    #[arg(long, value_name = "WHEN", help_heading = "Output", value_enum, default_value_t)]
    pub color: ColorChoice,

    /// How to print the time of a packet
    #[arg(long, value_name = "STYLE", help_heading = "Output", value_enum, default_value_t)]
    pub time: TimeStyle,

    /// Write packets and the node as it is into a file, for `egwtrace explain`
    ///
    /// The file must not exist. It holds addresses, ports, firewall rules, routes and names of the node, and no
    /// payload of any packet; only its owner may read it.
    #[arg(long, value_name = "FILE", help_heading = "Output", hide_short_help = true)]
    pub record: Option<PathBuf>,

    /// Print the programs' own debug messages
    #[arg(long, help_heading = "Output", hide_short_help = true)]
    pub debug_bpf: bool,
}

impl TraceArgs {
    /// What is said of the API server.
    pub fn wish(&self) -> Wish {
        Wish { kubeconfig: self.kubeconfig.clone(), context: self.context.clone(), none: self.no_api }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    #[default]
    /// For people
    Text,
    /// One object per packet's journey, one per line
    Json,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    #[default]
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Even into a file
    Always,
    /// Not at all
    Never,
}

impl ColorChoice {
    /// Whether to colour what goes to a stream. `no_color`: the variable NO_COLOR is set and not empty.
    pub fn enabled(self, is_terminal: bool, no_color: bool) -> bool {
        match self {
            Self::Auto => is_terminal && !no_color,
            Self::Always => true,
            Self::Never => false,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum TimeStyle {
    #[default]
    /// Time of day
    Wall,
    /// Seconds since the start
    Relative,
    /// Seconds since 1970
    Unix,
    /// Not at all
    None,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum PositionChoice {
    #[default]
    /// After the last table; between all of them for a moment when more than one could be the cause
    Auto,
    /// Between all tables, all the time
    All,
    /// After the last table only
    Last,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum TcChoice {
    #[default]
    /// With TCX links where the kernel has them (6.6), else with tracepoints
    Auto,
    /// With TCX links or not at all
    Tcx,
    /// With tracepoints: for kernels without TCX; every packet of the machine costs a look
    Tracepoints,
    /// Not at all
    Off,
}
