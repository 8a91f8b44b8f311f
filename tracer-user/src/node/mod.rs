// SPDX-License-Identifier: MIT OR Apache-2.0
//! The node as it is: namespaces, devices, hooks. Read-only.

pub(crate) mod bpf_query;
pub(crate) mod bpf_syscall;
mod hooks;
pub(crate) mod netlink;
mod netns;
mod observe;
mod path;
mod positions;
mod prefix;
pub mod processes;
pub mod rtnl;
mod sockets;
mod topology;
mod watch;

pub(crate) use hooks::nat_priority;
pub use hooks::{HookSource, Interval, Ruleset};
pub use netlink::NetlinkError;
pub use netns::{NAMED_DIRS, Netns, NetnsError, named};
pub use observe::{Observation, ObserveError, Observer};
pub use positions::{Placement, standing, standing_at, zoomed};
pub use prefix::IpPrefix;
pub use sockets::Socket;
pub(crate) use sockets::listening_sockets;
pub(crate) use topology::shares_lower_device;
pub use topology::{
    Device, DeviceKind, Family, Hook, HookEntry, HookOwner, Namespace, NetnsId, PathRole, Position, Role,
    Topology,
};
pub use watch::{Change, WatchError, Watcher};
