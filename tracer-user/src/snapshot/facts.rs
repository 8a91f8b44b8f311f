// SPDX-License-Identifier: MIT OR Apache-2.0
//! A namespace's answers to its firewall rules.

use std::net::IpAddr;

use super::model::NetnsEvidence;
use super::xfrm::{XfrmDirection, XfrmPolicy, XfrmState, XfrmTemplate};
use crate::fib::{Fib, Question, ReversePath, Sources};
use crate::firewall::{IpSet, NodeFacts, PacketView, Table};
use crate::node::rtnl::{Route, Rule};

impl NetnsEvidence {
    /// Routing of this namespace, to be asked as the kernel is. Sorts all routes once: keep it for further questions.
    pub fn fib(&self) -> Fib<'_> {
        Fib::new(self.routing())
    }

    /// The same for questions about these addresses only, sources and destinations: quick to make.
    pub fn fib_about(&self, addresses: &[IpAddr]) -> Fib<'_> {
        Fib::about(self.routing(), addresses)
    }

    /// The same with other rules and routes than those that were read.
    pub fn fib_with<'e>(&'e self, rules: &'e [Rule], routes: &'e [Route], addresses: &[IpAddr]) -> Fib<'e> {
        Fib::about(Sources { rules, routes, ..self.routing() }, addresses)
    }

    /// What routing is decided from.
    pub fn routing(&self) -> Sources<'_> {
        Sources {
            rules: &self.rules,
            routes: &self.routes,
            exceptions: &self.exceptions,
            nexthops: &self.nexthops,
            links: &self.links,
            addresses: &self.addresses,
            neighbours: &self.neighbours,
            sysctls: &self.sysctls,
        }
    }

    pub(crate) fn address_type_by(
        &self,
        fib: &Fib<'_>,
        address: IpAddr,
        device: Option<u32>,
    ) -> Option<&'static str> {
        if self.routes.is_empty() {
            return None;
        }
        Some(match fib.address_type(address, device)? {
            libc::RTN_LOCAL => "LOCAL",
            libc::RTN_BROADCAST => "BROADCAST",
            libc::RTN_ANYCAST => "ANYCAST",
            libc::RTN_MULTICAST => "MULTICAST",
            libc::RTN_UNREACHABLE => "UNREACHABLE",
            _ => "UNICAST",
        })
    }

    pub(crate) fn reverse_path_by(
        &self,
        fib: &Fib<'_>,
        packet: &PacketView,
        how: ReversePath,
    ) -> Option<bool> {
        let input = self.ifindex(packet.input.as_deref()?)?;
        if self.routes.is_empty() {
            return None;
        }
        let question = Question {
            mark: packet.mark,
            tos: None,
            protocol: Some(packet.proto),
            source_port: packet.src_port,
            destination_port: packet.dst_port,
            ..Question::to(packet.dst).from(packet.src)
        };
        fib.reverse_path(&question, input, how)
    }
}

impl NodeFacts for NetnsEvidence {
    fn rulesets(&self) -> &[Table] {
        &self.rulesets
    }

    fn set(&self, name: &str) -> Option<&IpSet> {
        self.sets.get(name)
    }

    fn ifindex(&self, device: &str) -> Option<u32> {
        self.link(device).map(|link| link.ifindex)
    }

    fn address_type(&self, address: IpAddr, device: Option<u32>) -> Option<&'static str> {
        self.address_type_by(&self.fib_about(&[address]), address, device)
    }

    fn reverse_path(&self, packet: &PacketView, how: ReversePath) -> Option<bool> {
        self.reverse_path_by(&self.fib_about(&[packet.src, packet.dst]), packet, how)
    }

    fn has_socket(&self, proto: u8, port: Option<u16>) -> bool {
        self.sockets.iter().any(|s| s.proto == proto && port.is_none_or(|port| s.local.port() == port))
    }
}

impl NetnsEvidence {
    /// The policy that a packet meets; `Err`: one before it may be, but that is not known.
    pub fn xfrm_policy(
        &self,
        direction: XfrmDirection,
        packet: &PacketView,
        ifindex: Option<u32>,
    ) -> Result<Option<&XfrmPolicy>, &XfrmPolicy> {
        let mut fitting: Vec<&XfrmPolicy> =
            self.xfrm_policies.iter().filter(|policy| policy.direction == direction).collect();
        fitting.sort_by_key(|policy| policy.priority);
        for policy in fitting {
            match policy.selects(packet, ifindex) {
                Some(true) => return Ok(Some(policy)),
                Some(false) => {}
                None => return Err(policy),
            }
        }
        Ok(None)
    }

    /// A state that a template can use.
    pub fn xfrm_state(&self, template: &XfrmTemplate) -> Option<&XfrmState> {
        let fits = |wanted: IpAddr, has: IpAddr| wanted.is_unspecified() || wanted == has;
        self.xfrm_states.iter().find(|state| {
            state.proto == template.proto
                && fits(template.src, state.src)
                && fits(template.dst, state.dst)
                && (template.reqid == 0 || template.reqid == state.reqid)
        })
    }
}
