// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every cause that can be named: stable ids, for programs and for `docs/causes.md`, which is made from this.

use std::fmt::Write as _;

/// A kind of cause.
#[derive(Debug)]
pub struct CauseKind {
    pub id: &'static str,
    /// What is wrong.
    pub means: &'static str,
    /// What it is told by.
    pub told_by: &'static str,
}

macro_rules! causes {
    ($($name:ident $id:literal $means:literal $told_by:literal)*) => {
        $(pub(super) const $name: CauseKind = CauseKind { id: $id, means: $means, told_by: $told_by };)*
        /// All of them, in the order of the document.
        pub const CATALOGUE: &[CauseKind] = &[$($name),*];
    };
}

causes! {
    REVERSE_PATH_FILTER "reverse-path-filter"
        "The kernel drops a packet because the way back to its source is by another device (rp_filter = 1)."
        "Drop reason IP_RPFILTER; the lookup of the way back, where it was seen."
    RULE "dropped-by-rule"
        "A firewall rule drops the packet."
        "Drop reason NETFILTER_DROP; hook and tables that stand between the positions before and after."
    POLICY "dropped-by-policy"
        "No rule accepts the packet and the chain's policy is DROP."
        "As dropped-by-rule; the only chains that can have done it have policy DROP, or the walk through the rules ends there."
    REJECTED "rejected-by-rule"
        "A firewall rule rejects the packet: the sender is told. kube-proxy does so for services without endpoints."
        "NETFILTER_DROP together with an ICMP error or RST sent for it at the same hook."
    CONNTRACK_FULL "conntrack-full"
        "The connection table is full: new connections are refused."
        "NETFILTER_DROP by conntrack itself at PREROUTING or OUTPUT; the table's count and limit."
    CONNTRACK_INVALID "conntrack-invalid"
        "A rule drops the packet because conntrack takes it for INVALID: it saw only part of the connection."
        "NETFILTER_DROP by a rule that matches state INVALID."
    NO_SNAT_PORT "no-snat-port"
        "No free port is left for SNAT to this address and destination."
        "NETFILTER_DROP by the NAT core at POSTROUTING."
    NO_ROUTE "no-route"
        "There is no route to the destination."
        "IP_INNOROUTES or IP_OUTNOROUTES; the lookups that failed."
    ROUTE_BLACKHOLE "route-blackhole"
        "A blackhole route swallows the packet."
        "The lookup ended with EINVAL; no ICMP was sent."
    ROUTE_PROHIBIT "route-prohibit"
        "A prohibit route refuses the packet."
        "The lookup ended with EACCES; ICMP administratively prohibited."
    ROUTE_UNREACHABLE "route-unreachable"
        "An unreachable route refuses the packet."
        "The lookup ended with EHOSTUNREACH; ICMP host unreachable."
    TUNNEL_INTO_ITSELF "tunnel-into-itself"
        "The encapsulated packet is routed into its own tunnel again: it kept the mark by which the inner one was."
        "Drop in the tunnel's transmit path for lack of a route, with a routing mark still set."
    FORWARDING_OFF "forwarding-off"
        "The node does not forward packets (net.ipv4.ip_forward or ipv6 forwarding is 0)."
        "IP_INADDRERRORS in the routing error path, or a free in ip6_forward, without any ICMP."
    NEIGHBOUR_SILENT "neighbour-silent"
        "Nobody answers for the next hop's (or the destination's) address on that network."
        "Drop reason NEIGH_FAILED; the lookup that named the next hop."
    TUNNEL_NEIGHBOUR_MISSING "tunnel-neighbour-missing"
        "The tunnel device has no neighbour entry for its peer."
        "NEIGH_FAILED on a vxlan device."
    TUNNEL_PEER_MISSING "tunnel-peer-missing"
        "The tunnel device does not know behind which node the peer's MAC is (no FDB entry)."
        "NO_TX_TARGET in the vxlan transmit path."
    TUNNEL_WRONG_MAC "tunnel-wrong-mac"
        "The inner frame is addressed to another MAC than the tunnel device has."
        "OTHERHOST on a vxlan device."
    TUNNEL_NOT_LISTENING "tunnel-not-listening"
        "Nothing takes the tunnel's outer packets: the vxlan device is down, missing, or on another port."
        "NO_SOCKET for an outer packet."
    TUNNEL_VNI "tunnel-vni-unknown"
        "No device of the node has this VNI."
        "Drop reason VXLAN_VNI_NOT_FOUND."
    PORT_NOT_IN_BRIDGE "port-not-in-bridge"
        "The host's end of the pod's veth is not in the bridge that the pod's gateway address is on."
        "OTHERHOST on a veth without a master."
    OTHER_HOST "frame-for-another-host"
        "The frame is addressed to another MAC: the sender has a stale or wrong neighbour entry."
        "OTHERHOST."
    PORT_CLOSED "port-closed"
        "Nothing listens on the port."
        "NO_SOCKET for the destination, RST or ICMP port unreachable sent."
    REDIRECTED_TO_NOBODY "redirected-to-nobody"
        "A rule redirects the connection to a local port on which nothing listens (the sidecar is not ready, or the port should be excluded)."
        "NO_SOCKET after a translation to the same host."
    REDIRECT_LOOP "redirect-loop"
        "The proxy's own connections are redirected to itself."
        "Many connections in a short time, redirected to one local port."
    SIDECAR_BYPASSED "sidecar-bypassed"
        "A proxy listens in the pod, but no rule redirects traffic to it."
        "Nothing was translated; a socket on a sidecar's port; no redirect rule."
    PACKET_TOO_BIG "packet-too-big"
        "The packet does not fit into the next device or route, and may not be fragmented; the sender was told."
        "PKT_TOO_BIG; MTU of the device; ICMP frag-needed or packet-too-big."
    PATH_MTU_BLACK_HOLE "path-mtu-black-hole"
        "Large packets are dropped and the ICMP message that would tell the sender does not reach it."
        "PKT_TOO_BIG, and a drop of the ICMP error about it."
    QUEUE_FULL "queue-full"
        "The queue of a device is full: it is slower than what is sent."
        "QDISC_DROP, or a drop in a qdisc's enqueue function."
    WAITS_IN_QUEUE "waits-in-queue"
        "Packets wait long in the queue of a device."
        "Time between the hop before and leaving by the device."
    SLOW_BETWEEN_NODES "slow-between-nodes"
        "Packets wait between two nodes: in the queue of the sending device, or in the network."
        "Time between leaving one node and arriving at the other."
    ROUTING_LOOP "routing-loop"
        "The packet goes round in circles until its TTL is used up."
        "Seen at the same place again with a smaller TTL; TTL exceeded."
    FWMARK_WITHOUT_RULE "fwmark-without-rule"
        "The packet was marked for a routing table, but no ip rule leads there."
        "A routing mark at the lookup; it was resolved in table main; the mark's table was never asked."
    FWMARK_RULE_PREEMPTED "fwmark-rule-preempted"
        "Another ip rule comes before the one of the packet's mark, and takes the packet."
        "As fwmark-without-rule; the mark's rule is there, and one of lower priority number fits the packet."
    FWMARK_TABLE_EMPTY "fwmark-table-empty"
        "The mark's routing table has no route: its device is missing or down."
        "The lookup in the mark's table failed, then table main was used."
    MARK_AFTER_ROUTING "mark-after-routing"
        "A mark is set in POSTROUTING, after the packet was routed: it cannot choose the route any more."
        "The mark changes at POSTROUTING; an ip rule matches it."
    ONLY_FIRST_MARKED "only-first-packet-marked"
        "Only the first packet of a connection is marked, the following ones take another way."
        "Packets of one connection and direction leave by different devices, the later ones unmarked."
    MASQUERADED_BEFORE_TUNNEL "masqueraded-before-tunnel"
        "The source was translated before the tunnel, so that the gateway does not recognise the pod."
        "SNAT on the way into the egress tunnel, or a tunnel address as source in it."
    UNTRACKED "egress-not-tracked"
        "An egress packet is not tracked by conntrack (NOTRACK), so that it cannot be given the egress IP."
        "As left-without-snat; no conntrack entry at POSTROUTING, and a rule that turns tracking off."
    LEFT_WITHOUT_SNAT "left-without-snat"
        "An egress packet left its gateway with the pod's own address: replies cannot come back."
        "Out of the egress tunnel, out of the uplink, source unchanged."
    POD_ADDRESS_ON_THE_WIRE "pod-address-on-the-wire"
        "The packet left the node with a pod's address and was not answered: no SNAT rule took it, or a tunnel route is missing."
        "Source unchanged at the uplink, outside any tunnel; no reply."
    POD_ROUTE_MISSING "pod-route-missing"
        "The node has no route to the network of another node's pods: packets for them go to the default gateway."
        "Source unchanged at the uplink, the default route at the lookup; a NAT rule that spares the destination as one of the cluster's; no reply."
    SNAT_TO_ANOTHER_ADDRESS "snat-to-another-address"
        "The packet was translated to another address than EgressGateway's rule says: an earlier rule took it."
        "SNAT seen against the rule in EGRESSGATEWAY-SNAT-EIP."
    EGRESS_NOT_HANDLED "egress-not-handled"
        "EgressGateway's sets name this pod and destination, but its rules, tunnel or ip rules are not on this node."
        "No mark; no EGRESSGATEWAY chain; the sets."
    EGRESS_POD_NOT_SELECTED "egress-pod-not-selected"
        "The destination is one of an EgressPolicy's, but the pod is in no set of its sources."
        "No mark; the members of egress-src-* and egress-dst-*."
    EGRESS_DESTINATION_NOT_SELECTED "egress-destination-not-selected"
        "The pod is selected by an EgressPolicy whose set of destinations is empty."
        "No mark; the members of egress-src-* and egress-dst-*."
    SERVICE_NOT_MASQUERADED "service-not-masqueraded"
        "Traffic from outside to a service is sent on to another node with the client's address: replies take another way."
        "DNAT without SNAT between an uplink and a tunnel; no reply."
    SERVICE_NOT_TRANSLATED "service-not-translated"
        "A service's address was not translated: kube-proxy has no rule for it."
        "The service's address is still the destination at the uplink; the KUBE-SERVICES chain."
    REPLY_FROM_ANOTHER_ADDRESS "reply-from-another-address"
        "The reply comes from the endpoint's own address, which the client did not ask: it crossed the bridge unseen by NAT."
        "NO_SOCKET and RST for a SYN-ACK or datagram at the client; the request was translated."
    ACCEPT_QUEUE_FULL "accept-queue-full"
        "The server does not accept connections fast enough: its queue is full and SYNs are ignored."
        "SYNs are delivered and nothing answers them; the listening socket's queue, TcpExt.ListenOverflows."
    UNREACHABLE_BEYOND "unreachable-beyond"
        "A router or host beyond the node says that the destination cannot be reached."
        "An ICMP error came in from there."
    NO_ANSWER "no-answer"
        "Packets leave the node as they should and nothing comes back."
        "Sent more than once; no reply, no drop, no ICMP error."
    SIMPLE "dropped-in-kernel"
        "The kernel dropped the packet for a reason that it states."
        "The drop reason."
}

/// `docs/causes.md`.
pub fn markdown() -> String {
    let mut text = String::from(
        "# Causes\n\nMade from `tracer-user/src/explain/catalogue.rs`; `UPDATE_DOCS=1 cargo test -p tracer-user --test causes` \
         writes it again.\n\nIds are stable. A cause is certain, likely or possible, depending on how far the evidence goes.\n\n\
         | id | what is wrong | told by |\n|---|---|---|\n",
    );
    for kind in CATALOGUE {
        let _ = writeln!(text, "| `{}` | {} | {} |", kind.id, kind.means, kind.told_by);
    }
    text
}
