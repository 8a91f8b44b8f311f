// SPDX-License-Identifier: MIT OR Apache-2.0
//! From the command line to a validated [`Plan`]: flags as typed, then what they mean.

mod args;
mod endpoint;
mod error;
mod filter;
mod help;
mod meaning;
mod parse;
mod plan;
mod question;
mod resolve;
mod values;

pub use args::{
    ColorChoice, ExplainArgs, Format, Invocation, PositionChoice, TcChoice, TimeStyle, TraceArgs,
};
pub use endpoint::{Endpoint, Host, Named, NamedKind, Port};
pub use error::{CliError, EXIT_DROP_SEEN, EXIT_TRACED, EXIT_USAGE};
pub use filter::{End, Filter};
pub use meaning::Meaning;
pub use parse::{Parsed, command, parse};
pub use plan::{Plan, nodes};
pub use question::questions;
pub use resolve::{ClusterResolver, Resolve, SystemResolver};
