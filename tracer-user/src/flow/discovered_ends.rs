// SPDX-License-Identifier: MIT OR Apache-2.0
//! Endpoints and devices discovered from the traffic itself.

use std::net::IpAddr;

use rustc_hash::FxHashSet;
use tracer_common::{CT_TUPLE_REPLY, Event};

use super::addr::Addr;
use super::model::ConntrackEntry;
use super::tracker::Tracker;
use crate::node::NetnsId;

/// A flow that is scattered over more than this is not looked after further.
const MOST: usize = 64;

/// Addresses that packets were translated to, and devices that they were routed to and that are not watched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leads {
    pub ends: Vec<IpAddr>,
    pub devices: Vec<(NetnsId, u32)>,
}

impl Leads {
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty() && self.devices.is_empty()
    }
}

#[derive(Debug, Default)]
pub(crate) struct Known {
    ends: FxHashSet<Addr>,
    devices: FxHashSet<(NetnsId, u32)>,
    new: Leads,
}

impl Tracker {
    /// What has been learned since the last call. Each is told once.
    pub fn leads(&mut self) -> Leads {
        std::mem::take(&mut self.leads.new)
    }

    /// A translated connection is answered from where its packets went.
    pub(crate) fn lead_to_end(&mut self, e: &Event, entry: &ConntrackEntry) {
        let end = entry.reply.src.addr;
        let known = &mut self.leads;
        let translated = e.position == CT_TUPLE_REPLY && end != entry.original.dst.addr;
        if translated && known.ends.len() < MOST && known.ends.insert(end) {
            known.new.ends.push(end.ip());
        }
    }

    pub(crate) fn lead_to_device(&mut self, netns: NetnsId, ifindex: u32) {
        let unwatched = self.places.device(netns, ifindex).is_some_and(|d| d.role.is_none() && !d.loopback);
        let known = &mut self.leads;
        if unwatched && known.devices.len() < MOST && known.devices.insert((netns, ifindex)) {
            known.new.devices.push((netns, ifindex));
        }
    }
}
