// SPDX-License-Identifier: MIT OR Apache-2.0
//! What EgressGateway puts into the kernel: facts of that product (charts' defaults, agent/pkg/...).

use crate::node::rtnl::Link;

/// `feature.mark`: the prefix of every node's mark; alone, of packets that are done with.
pub(crate) const MARK_DONE: u32 = 0x2600_0000;
const MARK_MASK: u32 = 0xff00_0000;
pub(crate) const DEVICE: &str = "egress.vxlan";
pub(crate) const VNI: u32 = 100;
pub(crate) const PORT: u16 = 7789;
/// Chain that marks what policies select.
pub(crate) const REQUEST_CHAIN: &str = "EGRESSGATEWAY-MARK-REQUEST";
/// Chain that marks replies on the gateway.
pub(crate) const REPLY_CHAIN: &str = "EGRESSGATEWAY-REPLY-ROUTING";
/// Chain with the egress addresses.
pub(crate) const SNAT_CHAIN: &str = "EGRESSGATEWAY-SNAT-EIP";

/// The mark of a node: its routing table has the same number.
pub(crate) fn is_node_mark(mark: u32) -> bool {
    mark & MARK_MASK == MARK_DONE && mark != MARK_DONE
}

/// EgressGateway's tunnel device.
pub(crate) fn is_egress_tunnel(link: &Link) -> bool {
    link.vxlan.as_ref().is_some_and(|v| link.name == DEVICE || (v.vni == VNI && v.port == PORT))
}
