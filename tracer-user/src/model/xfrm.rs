// SPDX-License-Identifier: MIT OR Apache-2.0
//! IPsec policies on a packet's way. The packets that are walked are never encrypted themselves.

use std::sync::Arc;

use super::packet_state::Flight;
use super::steps::Stage;
use super::walker::{End, Next, Walker};
use super::world::Host;
use crate::cause::Finding;
use crate::cause::ipsec::{self, NodeState};
use crate::snapshot::XfrmDirection;

impl Walker<'_> {
    /// What came in by a device (xfrm_policy_check).
    pub(crate) fn xfrm_in(
        &mut self,
        host: &Arc<Host>,
        direction: XfrmDirection,
        flight: &Flight,
        device: u32,
    ) -> Result<(), Next> {
        if is_exempt(host, device, "disable_policy", flight) {
            return Ok(());
        }
        let found = with_node(host, |node| ipsec::refuses(node, direction, &flight.packet, Some(device)));
        found.map_or(Ok(()), |finding| Err(self.refused_by_policy(host, flight, device, finding)))
    }

    /// What goes out by a device (xfrm_lookup).
    pub(crate) fn xfrm_out(&mut self, host: &Arc<Host>, flight: &Flight, device: u32) -> Result<(), Next> {
        if is_exempt(host, device, "disable_xfrm", flight) {
            return Ok(());
        }
        match with_node(host, |node| ipsec::no_state(node, &flight.packet, Some(device))) {
            Ok(None) => Ok(()),
            Ok(Some(finding)) => Err(self.refused_by_policy(host, flight, device, finding)),
            Err(why) => Err(Next::End(End::Unknown(why))),
        }
    }

    fn refused_by_policy(
        &mut self,
        host: &Arc<Host>,
        flight: &Flight,
        device: u32,
        finding: Finding,
    ) -> Next {
        let stage = self.stage(host, Stage::Passing, flight);
        self.stop(host, stage, finding.at(Self::place(host, device)))
    }
}

fn with_node<T>(host: &Host, ask: impl Fn(&NodeState<'_>) -> T) -> T {
    let name = host.name();
    ask(&NodeState { evidence: &host.evidence, name: &name, command: &|command| host.command(command) })
}

/// The loopback has no IPsec, and a device may be told to do without.
fn is_exempt(host: &Host, device: u32, key: &str, flight: &Flight) -> bool {
    if host.evidence.xfrm_policies.is_empty() {
        return true;
    }
    let Some(link) = host.link(device) else { return true };
    let family = if flight.packet.src.is_ipv4() { "ipv4" } else { "ipv6" };
    let set = |name: &str| host.sysctl(&format!("net/{family}/conf/{name}/{key}")).unwrap_or(0) != 0;
    link.is_loopback() || set("all") || set(&link.name)
}
