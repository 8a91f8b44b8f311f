// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names for numbers of the kernel.

use std::borrow::Cow;
use std::net::IpAddr;

use crate::node::NetnsId;

/// Names that depend on the running kernel. Implemented over BTF and kallsyms; by a table in tests.
pub trait Names: Send + Sync {
    /// `enum skb_drop_reason` as the kernel prints it, without its prefix ("NETFILTER_DROP"). `None`: unknown.
    fn drop_reason(&self, reason: u32) -> Option<Cow<'_, str>>;
    /// `enum sk_rst_reason`, without its prefix.
    fn reset_reason(&self, reason: u32) -> Option<Cow<'_, str>>;
    /// The function that holds a kernel address, without offset.
    fn symbol(&self, address: u64) -> Option<Cow<'_, str>>;
    /// CLOCK_MONOTONIC (ns) to ns since the Unix epoch; one fixed difference for the whole run.
    fn unix_ns(&self, monotonic_ns: u64) -> u64;
    /// Who has an address now: a pod, a service ("shop/web"); not yet made safe to print.
    fn owner(&self, _: IpAddr) -> Option<Cow<'_, str>> {
        None
    }
    /// The process that takes what is delivered in a namespace to this address and port: name and pid.
    fn taker(&self, _: NetnsId, _protocol: u8, _: IpAddr, _port: u16) -> Option<(Cow<'_, str>, u32)> {
        None
    }
    /// What to put in front of a command so that it runs in a namespace. `None`: by its name.
    fn entry(&self, _: NetnsId) -> Option<Cow<'_, str>> {
        None
    }
    /// Seconds that local time is ahead of UTC.
    fn utc_offset_s(&self) -> i32 {
        0
    }
}

/// Knows nothing: numbers stay numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNames;

impl Names for NoNames {
    fn drop_reason(&self, _: u32) -> Option<Cow<'_, str>> {
        None
    }
    fn reset_reason(&self, _: u32) -> Option<Cow<'_, str>> {
        None
    }
    fn symbol(&self, _: u64) -> Option<Cow<'_, str>> {
        None
    }
    fn unix_ns(&self, monotonic_ns: u64) -> u64 {
        monotonic_ns
    }
}
