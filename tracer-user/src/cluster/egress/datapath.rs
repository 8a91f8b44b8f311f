// SPDX-License-Identifier: MIT OR Apache-2.0
//! What EgressGateway puts into the kernel: facts of that product (charts' defaults, agent/pkg/...).

use crate::node::rtnl::Link;

/// `feature.mark`: the prefix of every node's mark; alone, of packets that are done with.
pub(crate) const MARK_DONE: u32 = 0x2600_0000;
pub(crate) const MARK_MASK: u32 = 0xff00_0000;
pub(crate) const DEVICE: &str = "egress.vxlan";
pub(crate) const VNI: u32 = 100;
pub(crate) const PORT: u16 = 7789;
/// All its chains begin so.
pub(crate) const CHAIN_PREFIX: &str = "EGRESSGATEWAY-";
/// Chain that marks what policies select.
pub(crate) const REQUEST_CHAIN: &str = "EGRESSGATEWAY-MARK-REQUEST";
/// Chain that marks replies on the gateway.
pub(crate) const REPLY_CHAIN: &str = "EGRESSGATEWAY-REPLY-ROUTING";
/// Chain with the egress addresses.
pub(crate) const SNAT_CHAIN: &str = "EGRESSGATEWAY-SNAT-EIP";

/// A policy has a set of sources and one of destinations for each family, which end alike.
pub(crate) const SOURCE_SETS: &str = "egress-src-";
const DESTINATION_SETS: &str = "egress-dst-";

/// What names of a policy's sets of sources begin with.
pub(crate) fn source_sets(ipv6: bool) -> String {
    format!("{SOURCE_SETS}{}-", if ipv6 { "v6" } else { "v4" })
}

/// The set of destinations of the policy that has this set of sources.
pub(crate) fn destination_set(sources: &str) -> String {
    sources.replacen(SOURCE_SETS, DESTINATION_SETS, 1)
}

/// What has to be first in nat POSTROUTING, in words.
pub(crate) fn expected_first() -> String {
    format!(
        "EgressGateway expects {SNAT_CHAIN} and the ACCEPT of mark {MARK_DONE:#x} before every other rule there"
    )
}

/// Marked by EgressGateway: for a node, or as done with.
pub(crate) fn is_marked(mark: u32) -> bool {
    mark & MARK_MASK == MARK_DONE
}

/// The mark of a node: its routing table has the same number.
pub(crate) fn is_node_mark(mark: u32) -> bool {
    is_marked(mark) && mark != MARK_DONE
}

/// EgressGateway's tunnel device.
pub(crate) fn is_egress_tunnel(link: &Link) -> bool {
    link.vxlan.as_ref().is_some_and(|v| link.name == DEVICE || (v.vni == VNI && v.port == PORT))
}

/// The set of the cluster's own networks, which policies without destinations leave alone.
pub(crate) fn cluster_set(ipv6: bool) -> &'static str {
    if ipv6 { "egress-cluster-cidr-ipv6" } else { "egress-cluster-cidr-ipv4" }
}
