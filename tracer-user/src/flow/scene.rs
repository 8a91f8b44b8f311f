// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names for the ids in a journey, made safe to print.

use std::borrow::Cow;

use crate::flow::{Addr, Deed, Ends, Journey, Names, tables};
use crate::node::{Interval, NetnsId, Role, Topology};
use crate::text::escape;

/// What the ids in journeys mean.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    pub topology: &'a Topology,
    pub names: &'a dyn Names,
}

impl<'a> Scene<'a> {
    pub fn new(topology: &'a Topology, names: &'a dyn Names) -> Self {
        Self { topology, names }
    }

    pub(crate) fn netns(&self, id: NetnsId) -> Cow<'a, str> {
        match self.topology.namespaces.get(&id) {
            Some(ns) => escape(&ns.name),
            None if id == 0 => Cow::Borrowed("?"),
            None => Cow::Owned(format!("netns:{id}")),
        }
    }

    pub(crate) fn is_pod(&self, id: NetnsId) -> bool {
        self.topology.namespaces.get(&id).is_some_and(|ns| ns.role == Role::Pod)
    }

    pub(crate) fn device(&self, netns: NetnsId, ifindex: u32) -> Cow<'a, str> {
        let device = self.topology.namespaces.get(&netns).and_then(|ns| ns.devices.get(&ifindex));
        match device {
            Some(device) => escape(&device.name),
            None if ifindex == 0 => Cow::Borrowed("?"),
            None => Cow::Owned(format!("if{ifindex}")),
        }
    }

    /// `enum skb_drop_reason`; `None` where the kernel gives none.
    pub(crate) fn drop_reason(&self, reason: u32) -> Option<Cow<'a, str>> {
        if reason == u32::MAX {
            return None;
        }
        Some(match self.names.drop_reason(reason) {
            Some(name) => Cow::Owned(escape(&name).into_owned()),
            None => Cow::Owned(format!("reason {reason}")),
        })
    }

    pub(crate) fn reset_reason(&self, reason: u32) -> Option<Cow<'a, str>> {
        let name = self.names.reset_reason(reason)?;
        Some(Cow::Owned(escape(&name).into_owned()))
    }

    pub(crate) fn symbol(&self, address: u64) -> String {
        match self.names.symbol(address) {
            Some(name) => escape(&name).into_owned(),
            None => format!("{address:#x}"),
        }
    }

    /// Who has an address, as the runtime or the cluster says; safe to print.
    pub(crate) fn owner(&self, address: Addr) -> Option<Cow<'a, str>> {
        let name = self.names.owner(address.ip())?;
        Some(Cow::Owned(escape(&name).into_owned()))
    }

    /// Names of the two ends, where one of them has one: "shop/client → shop/web". A node's is told only next to
    /// another's.
    pub(crate) fn owners(&self, ends: Ends) -> Option<[Option<Cow<'a, str>>; 2]> {
        let found = [ends.src, ends.dst].map(|end| self.owner(end.addr));
        if found.iter().all(Option::is_none) {
            return None;
        }
        let [src, dst] = found;
        Some([src.or_else(|| self.node(ends.src.addr)), dst.or_else(|| self.node(ends.dst.addr))])
    }

    fn node(&self, address: Addr) -> Option<Cow<'a, str>> {
        let mut nodes = self.topology.namespaces.values().filter(|ns| ns.role == Role::Node);
        let found = nodes.find(|ns| ns.devices.values().any(|d| d.addresses.contains(&address.ip())))?;
        Some(Cow::Owned(format!("node {}", escape(&found.name))))
    }

    /// The process that took what was delivered: its name, safe to print, and pid.
    pub(crate) fn taker(&self, journey: &Journey, netns: NetnsId) -> Option<(Cow<'a, str>, u32, u16)> {
        let last = journey.hops.iter().rev().find(|h| h.netns == netns && h.encap.is_none())?;
        let to = last.ends.dst;
        let (name, pid) = self.names.taker(netns, journey.packet.proto, to.addr.ip(), to.port)?;
        Some((Cow::Owned(escape(&name).into_owned()), pid, to.port))
    }

    pub(crate) fn tables(&self, at: &Interval, deed: Deed) -> Vec<String> {
        tables(self.topology, at, deed).iter().map(|name| escape(name).into_owned()).collect()
    }
}
