// SPDX-License-Identifier: MIT OR Apache-2.0
//! The node as it is: namespaces, devices, hooks. Read-only.

mod topology;

pub use topology::{
    Device, DeviceKind, Family, Hook, HookEntry, HookOwner, Namespace, NetnsId, PathRole, Position, Role,
    Topology,
};
