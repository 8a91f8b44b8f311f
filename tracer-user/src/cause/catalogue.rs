// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every cause that can be named: stable ids, for programs and for `docs/causes.md`, which is made from this.

use std::fmt::Write as _;

/// A kind of cause: one row of the catalogue.
#[derive(Debug)]
pub struct CauseKind {
    pub id: &'static str,
    /// What is wrong.
    pub means: &'static str,
    /// What it is told by.
    pub told_by: &'static str,
    /// Packets arrive and are answered, only not as they should; other causes break connections.
    pub harmless: bool,
    /// Said for want of better evidence: something surer about the same flow replaces it.
    pub guess: bool,
    /// May be the consequence of a wrong address or route, so that the cause of that is told instead.
    pub follows: bool,
    /// Sends packets along another route than theirs: a cause that `follows` is its consequence.
    pub reroutes: bool,
    /// Only packets above some size are lost: it is no cause of what happens to a small one.
    pub large_only: bool,
    /// The model of the node computes all that it depends on: where the model says that the packet passes, it is no
    /// longer certain.
    pub modelled: bool,
    /// Packets show it, and no state does: it stands beside what the model finds.
    pub observed: bool,
    /// Packets may be answered all the same: they do not go as a policy asks.
    pub intent: bool,
    /// Ids of causes of which this one says all, and more, when both have the same device or subject.
    pub covers: &'static [(Same, &'static str)],
}

/// What two causes must have in common for one to cover the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Same {
    Device,
    Subject,
}

impl CauseKind {
    /// What a row says that names no properties.
    const PLAIN: Self = Self {
        id: "",
        means: "",
        told_by: "",
        harmless: false,
        guess: false,
        follows: false,
        reroutes: false,
        large_only: false,
        modelled: false,
        observed: false,
        intent: false,
        covers: &[],
    };

    /// The row of an id.
    pub(crate) fn of(id: &str) -> &'static Self {
        CATALOGUE.iter().find(|kind| kind.id == id).unwrap_or(&Self::PLAIN)
    }
}

macro_rules! causes {
    ($($name:ident $id:literal $means:literal $told_by:literal $([$($property:ident: $value:expr),*])?)*) => {
        $(pub(crate) const $name: CauseKind = CauseKind {
            id: $id,
            means: $means,
            told_by: $told_by,
            $($($property: $value,)*)?
            ..CauseKind::PLAIN
        };)*
        /// All of them, in the order of the document.
        pub const CATALOGUE: &[CauseKind] = &[$($name),*];
    };
}

causes! {
    REVERSE_PATH_FILTER "reverse-path-filter"
        "The kernel drops a packet because the way back to its source is by another device (rp_filter = 1)."
        "Drop reason IP_RPFILTER; the lookup of the way back, where it was seen."
        [follows: true]
    RULE "dropped-by-rule"
        "A firewall rule drops the packet."
        "Drop reason NETFILTER_DROP; hook and tables that stand between the positions before and after."
        [observed: true]
    POLICY "dropped-by-policy"
        "No rule accepts the packet and the chain's policy is DROP."
        "As dropped-by-rule; the only chains that can have done it have policy DROP, or the walk through the rules ends there."
        [observed: true]
    REJECTED "rejected-by-rule"
        "A firewall rule rejects the packet: the sender is told. kube-proxy does so for services without endpoints."
        "NETFILTER_DROP together with an ICMP error or RST sent for it at the same hook."
        [observed: true]
    CONNTRACK_FULL "conntrack-full"
        "The connection table is full: new connections are refused."
        "NETFILTER_DROP by conntrack itself at PREROUTING or OUTPUT; the table's count and limit."
    CONNTRACK_INVALID "conntrack-invalid"
        "Conntrack takes the packet for INVALID: a rule drops it for that, or it passes without its translation and is reset."
        "Conntrack's state of the packet and its entry; its checksum as the kernel computed it; which directions were seen there, and when last; the window."
        [observed: true]
    NO_SNAT_PORT "no-snat-port"
        "No free port is left for SNAT to this address and destination."
        "NETFILTER_DROP behind all rules of POSTROUTING; the rule's range of ports, and as many entries that have them."
        [observed: true]
    INSERT_CLASH "conntrack-insert-clash"
        "Two connections got the same translated source, or two packets of one connection passed, at the same moment: the later one is dropped when its entry is inserted."
        "NETFILTER_DROP behind all rules of POSTROUTING, with free ports left; insert_failed; the entry that came first."
        [observed: true]
    IPSEC_POLICY "ipsec-policy"
        "An IPsec policy wants the packet encrypted and it is not, or there is no state to do it with; or it blocks the packet."
        "Drop reason XFRM_POLICY; the policies and states of the namespace."
        [modelled: true]
    MARKED_BEFORE_DNAT "marked-before-dnat"
        "A rule marks a packet for the destination that it has before DNAT, and the mark sends the translated packet by another route than that of its source."
        "The walk of PREROUTING with the destination before and after; the lookups with and without the mark."
        [reroutes: true]
    REDIRECT_WITHOUT_ADDRESS "redirect-without-address"
        "A REDIRECT rule takes what comes in by a device that has no address to redirect to."
        "The REDIRECT rule that the packet meets at PREROUTING; the addresses of the device that it came in by."
        [modelled: true]
    LOOPBACK_SOURCE "loopback-source"
        "A packet leaves the host with a loopback address as source, because nothing masquerades it (a node port asked by way of localhost)."
        "The source at the device that it leaves by; the drop at the next host."
        [modelled: true]
    NO_ROUTE "no-route"
        "There is no route to the destination."
        "IP_INNOROUTES or IP_OUTNOROUTES; the lookups that failed."
        [follows: true, modelled: true]
    ROUTE_BLACKHOLE "route-blackhole"
        "A blackhole route swallows the packet."
        "The lookup ended with EINVAL; no ICMP was sent."
        [follows: true]
    ROUTE_PROHIBIT "route-prohibit"
        "A prohibit route refuses the packet."
        "The lookup ended with EACCES; ICMP administratively prohibited."
        [follows: true]
    ROUTE_UNREACHABLE "route-unreachable"
        "An unreachable route refuses the packet."
        "The lookup ended with EHOSTUNREACH; ICMP host unreachable."
        [follows: true]
    TUNNEL_INTO_ITSELF "tunnel-into-itself"
        "The encapsulated packet is routed into its own tunnel again: it kept the mark by which the inner one was."
        "Drop in the tunnel's transmit path for lack of a route, with a routing mark still set."
    FORWARDING_OFF "forwarding-off"
        "The node does not forward packets (net.ipv4.ip_forward or ipv6 forwarding is 0)."
        "IP_INADDRERRORS in the routing error path, or a free in ip6_forward, without any ICMP."
        [modelled: true]
    NEIGHBOUR_SILENT "neighbour-silent"
        "Nobody answers for the next hop's (or the destination's) address on that network."
        "Drop reason NEIGH_FAILED; the lookup that named the next hop."
        [follows: true]
    ADDRESS_NOT_USED "address-not-used"
        "A host has an IPv6 address and does not use it: duplicate address detection failed or is not over."
        "The flags of the address (dadfailed, tentative)."
    DUPLICATE_ADDRESS "duplicate-address"
        "Two hosts have one address."
        "The address on two devices that are watched; a packet from the host's own address (IP_LOCAL_SOURCE); two MACs that answer for it."
    OWN_SOURCE "own-source-address"
        "A packet comes in whose source is an address of the host itself: it was sent back to where it came from, another host uses the address, or a translation gave it."
        "Drop reason IP_LOCAL_SOURCE; the address on a device of the host (accept_local is 0)."
    WRONG_ROUTE "wrong-route"
        "A route sends the packet where its destination is not: another one than the CNI's, one that takes a far network for the device's own, or one into the loopback."
        "The lookup, and the routes that fit; where the destination really is, when that is watched."
        [follows: true, covers: &[(Same::Subject, "wrong-route")]]
    ROUTE_PREEMPTED "route-preempted"
        "Another program's ip rule, the network of a bridge that nobody is behind, or a next hop told by an ICMP redirect comes before the route that would lead there."
        "The rule or route in use, and the one that applies without it; no answer."
        [reroutes: true]
    TRANSLATED_ASTRAY "translated-astray"
        "A NAT rule gives the packet another destination or source, and with that it does not get through. Rules of services, sidecars and the CNI are not meant."
        "The translation and its rule; the drop, the refusal or the silence after it."
    STALE_ENTRY "stale-connection-entry"
        "A conntrack entry goes on translating as a rule did that is gone, or that has changed since."
        "A translation that no rule makes any more; the drop, the refusal or the silence after it."
        [observed: true]
    REPLY_LOST "reply-lost"
        "Answers leave this node again and again, and whoever asked does not get them."
        "The same answer is sent several times and leaves the node each time."
        [guess: true]
    TUNNEL_NEIGHBOUR_MISSING "tunnel-neighbour-missing"
        "The tunnel device has no neighbour entry for its peer."
        "NEIGH_FAILED on a vxlan device."
        [follows: true, modelled: true]
    TUNNEL_PEER_MISSING "tunnel-peer-missing"
        "The tunnel device does not know behind which node the peer's MAC is (no FDB entry)."
        "NO_TX_TARGET in the vxlan transmit path."
        [modelled: true]
    TUNNEL_PEER_WRONG "tunnel-peer-wrong"
        "The tunnel device sends what is for its peer to another node (FDB entry)."
        "The outer destination; the node that has the peer's address."
    TUNNEL_WRONG_MAC "tunnel-wrong-mac"
        "The inner frame is addressed to another MAC than the tunnel device has."
        "OTHERHOST on a vxlan device."
        [modelled: true]
    TUNNEL_NOT_LISTENING "tunnel-not-listening"
        "Nothing takes the tunnel's outer packets: the vxlan device is down, missing, or on another port."
        "NO_SOCKET for an outer packet."
    TUNNEL_VNI "tunnel-vni-unknown"
        "No device of the node has this VNI."
        "Drop reason VXLAN_VNI_NOT_FOUND."
        [modelled: true]
    PORT_NOT_IN_BRIDGE "port-not-in-bridge"
        "The host's end of the pod's veth is not in the bridge that the pod's gateway address is on."
        "OTHERHOST on a veth without a master."
    PORT_BLOCKED "bridge-port-blocked"
        "A port of the bridge does not forward: its state is not \"forwarding\", both ends' ports are isolated, or questions for addresses are not flooded to it."
        "Who is asked for is on the same bridge and silent; the state and the flags of both ports."
    DEVICE_DOWN "device-down"
        "The pod's device is down: nothing can be sent."
        "No packet of the flow; the flags of the pod's devices."
    OTHER_HOST "frame-for-another-host"
        "The frame is addressed to another MAC: the sender has a stale or wrong neighbour entry."
        "OTHERHOST."
    PORT_CLOSED "port-closed"
        "Nothing listens on the port."
        "NO_SOCKET for the destination, RST or ICMP port unreachable sent."
        [follows: true]
    REDIRECTED_TO_NOBODY "redirected-to-nobody"
        "A rule redirects the connection to a local port on which nothing listens (the sidecar is not ready, or the port should be excluded)."
        "NO_SOCKET after a translation to the same host."
    REDIRECT_LOOP "redirect-loop"
        "The proxy's own connections are redirected to itself."
        "Many connections in a short time, redirected to one local port."
        [observed: true]
    SIDECAR_BYPASSED "sidecar-bypassed"
        "A proxy listens in the pod, but no rule redirects traffic to it."
        "Nothing was translated; a socket on a sidecar's port; no redirect rule."
        [harmless: true]
    PACKET_TOO_BIG "packet-too-big"
        "The packet does not fit into the next device or route, and may not be fragmented; the sender was told."
        "PKT_TOO_BIG; MTU of the device; ICMP frag-needed or packet-too-big."
        [large_only: true]
    PATH_MTU_BLACK_HOLE "path-mtu-black-hole"
        "Large packets are dropped and the ICMP message that would tell the sender does not reach it."
        "PKT_TOO_BIG, and a drop of the ICMP error about it."
        [large_only: true, covers: &[(Same::Subject, "packet-too-big")]]
    LARGE_LOST "large-packets-lost"
        "Large packets are lost in the network between two nodes, or beyond, and nobody says so: a link there takes only smaller ones."
        "Large segments are sent again and leave the node each time; smaller ones of the same connection are acknowledged; no ICMP error."
        [guess: true]
    QUEUE_FULL "queue-full"
        "The queue of a device is full: it is slower than what is sent."
        "QDISC_DROP, or a drop in a qdisc's enqueue function."
        [covers: &[(Same::Device, "waits-in-queue"), (Same::Device, "slow-between-nodes"), (Same::Device, "lost-between")], observed: true]
    WAITS_IN_QUEUE "waits-in-queue"
        "Packets wait long in the queue of a device."
        "Time between the hop before and leaving by the device."
        [harmless: true, covers: &[(Same::Device, "lost-between"), (Same::Device, "slow-between-nodes")]]
    SLOW_BETWEEN_NODES "slow-between-nodes"
        "Packets wait between two nodes: in the queue of the sending device, or in the network."
        "Time between leaving one node and arriving at the other."
        [harmless: true]
    ROUTING_LOOP "routing-loop"
        "The packet goes round in circles until its TTL is used up."
        "Seen at the same place again with a smaller TTL; TTL exceeded."
        [follows: true]
    FWMARK_WITHOUT_RULE "fwmark-without-rule"
        "The packet was marked for a routing table, but no ip rule leads there."
        "A routing mark at the lookup; it was resolved in table main; the mark's table was never asked."
        [reroutes: true, modelled: true, intent: true]
    FWMARK_RULE_PREEMPTED "fwmark-rule-preempted"
        "Another ip rule comes before the one of the packet's mark, and takes the packet."
        "As fwmark-without-rule; the mark's rule is there, and one of lower priority number fits the packet."
        [reroutes: true, intent: true]
    FWMARK_TABLE_EMPTY "fwmark-table-empty"
        "The mark's routing table has no route: its device is missing or down."
        "The lookup in the mark's table failed, then table main was used."
        [reroutes: true, modelled: true, intent: true]
    FWMARK_TABLE_WRONG "fwmark-table-wrong"
        "The mark's ip rule or its routing table does not lead into the egress tunnel."
        "A routing mark at the lookup, and the table and device that were chosen."
        [reroutes: true, modelled: true, intent: true]
    REPLY_NOT_MARKED "egress-reply-not-marked"
        "The gateway does not mark the answer, so that it takes another way to the pod's node than the tunnel, where it is refused or lost."
        "The request came by the egress tunnel; no routing mark at the answer's lookup; a drop of the answer, or its repetition."
        [reroutes: true, intent: true]
    MARK_AFTER_ROUTING "mark-after-routing"
        "A mark is set in POSTROUTING, after the packet was routed: it cannot choose the route any more."
        "The mark changes at POSTROUTING; an ip rule matches it."
        [harmless: true]
    ONLY_FIRST_MARKED "only-first-packet-marked"
        "Only the first packet of a connection is marked, the following ones take another way."
        "Packets of one connection and direction leave by different devices, the later ones unmarked."
        [covers: &[(Same::Device, "egress-not-handled")]]
    MASQUERADED_BEFORE_TUNNEL "masqueraded-before-tunnel"
        "The source was translated before the tunnel, so that the gateway does not recognise the pod."
        "SNAT on the way into the egress tunnel, or a tunnel address as source in it."
        [modelled: true, intent: true]
    UNTRACKED "egress-not-tracked"
        "An egress packet is not tracked by conntrack (NOTRACK), so that it cannot be given the egress IP."
        "As left-without-snat; no conntrack entry at POSTROUTING, and a rule that turns tracking off."
        [intent: true]
    LEFT_WITHOUT_SNAT "left-without-snat"
        "An egress packet left its gateway with the pod's own address: replies cannot come back."
        "Out of the egress tunnel, out of the uplink, source unchanged."
        [follows: true, intent: true]
    POD_ADDRESS_ON_THE_WIRE "pod-address-on-the-wire"
        "The packet left the node with a pod's address and was not answered: no SNAT rule took it, or a tunnel route is missing."
        "Source unchanged at the uplink, outside any tunnel; no reply."
        [guess: true, follows: true]
    POD_ROUTE_MISSING "pod-route-missing"
        "The node has no route to the network of another node's pods: packets for them go to the default gateway."
        "Source unchanged at the uplink, the default route at the lookup; a NAT rule that spares the destination as one of the cluster's; no reply."
        [follows: true]
    SNAT_TO_ANOTHER_ADDRESS "snat-to-another-address"
        "The packet was translated to another address than EgressGateway's rule says: an earlier rule took it."
        "SNAT seen against the rule in EGRESSGATEWAY-SNAT-EIP."
        [harmless: true]
    EGRESS_NOT_HANDLED "egress-not-handled"
        "A policy of EgressGateway selects this pod and destination, but its rules, tunnel or ip rules are not on this node, or the policy has no gateway or address."
        "No mark; the policy's objects where the API server tells them; no EGRESSGATEWAY chain; the sets."
        [harmless: true, reroutes: true]
    EGRESS_TAKES_CLUSTER "egress-takes-cluster-traffic"
        "EgressGateway sends what is for a service, pod or node of the cluster to the egress gateway: its set of the cluster's networks lacks this one, or a policy's destinations contain it."
        "The mark; the set that the policy's rule asks for; what the nodes' rules, routes and tunnels say of the address."
        [reroutes: true, intent: true]
    EGRESS_WRONG_GATEWAY "egress-wrong-gateway"
        "The packet is marked for another node than the one by which its policy leaves: EgressGateway's agent is behind."
        "The mark; the EgressTunnel of the policy's gateway."
        [harmless: true, intent: true]
    EGRESS_POD_NOT_SELECTED "egress-pod-not-selected"
        "The destination is one of an EgressPolicy's, but the pod is not one of its pods."
        "No mark; the policy's spec.appliedTo; the members of egress-src-* and egress-dst-*."
        [harmless: true]
    EGRESS_DESTINATION_NOT_SELECTED "egress-destination-not-selected"
        "The pod is selected by an EgressPolicy, but the destination is none of its destinations."
        "No mark; the policy's spec.destSubnet; the members of egress-src-* and egress-dst-*."
        [harmless: true]
    SERVICE_NOT_MASQUERADED "service-not-masqueraded"
        "Traffic from outside to a service is sent on to another node with the client's address: replies take another way."
        "DNAT without SNAT between an uplink and a tunnel; no reply."
    SERVICE_NOT_TRANSLATED "service-not-translated"
        "A service's address was not translated: kube-proxy has no rule for it."
        "The service's address is still the destination at the uplink; the KUBE-SERVICES chain."
        [follows: true]
    REPLY_FROM_ANOTHER_ADDRESS "reply-from-another-address"
        "The reply comes from the endpoint's own address, which the client did not ask: it crossed the bridge unseen by NAT."
        "NO_SOCKET and RST for a SYN-ACK or datagram at the client; the request was translated."
    ACCEPT_QUEUE_FULL "accept-queue-full"
        "The server does not accept connections fast enough: its queue is full and SYNs are ignored."
        "SYNs are delivered and nothing answers them; the listening socket's queue, TcpExt.ListenOverflows."
        [guess: true]
    SYN_QUEUE_FULL "syn-queue-full"
        "The server ignores SYNs because too many connections wait for their handshake's last ACK, and SYN cookies are off."
        "SYNs are delivered and nothing answers them; TcpExt.TCPReqQFullDrop; tcp_max_syn_backlog, tcp_syncookies."
        [observed: true]
    PINGS_IGNORED "pings-ignored"
        "A host is told not to answer pings (icmp_echo_ignore_all)."
        "Echo requests are delivered and nothing answers them; the sysctl."
    PORTS_USED_UP "source-ports-used-up"
        "All source ports that a pod or node may use for one destination are taken: new connections fail in connect(2)."
        "As many connections to one address and port as net.ipv4.ip_local_port_range has ports, within a minute."
        [harmless: true, observed: true]
    HAIRPIN_OFF "hairpin-off"
        "A pod asks for itself by a service's address, and its bridge port does not send frames back where they came from."
        "Freed in the bridge after a translation to the sender's own address."
    HAIRPIN_UNMASQUERADED "hairpin-not-masqueraded"
        "A pod asks for itself by a service's address, and the packet comes back to it with its own address as source."
        "IP_LOCAL_SOURCE after a translation to the sender's own address."
    FORGOTTEN "connection-forgotten"
        "One end does not know the connection any more, and resets it: it was restarted, or gave up without a word."
        "NO_SOCKET for a segment in the middle of a connection; no FIN or RST before."
        [observed: true]
    DOES_NOT_READ "receiver-does-not-read"
        "A program does not read from its connection: its receive buffer is full and it takes no more."
        "Its side says window 0 for a second and more."
        [observed: true]
    SLOW_ANSWER "slow-application"
        "A program takes long to answer; the network is not slow."
        "Time from the delivery of a request, acknowledged at once, to the first data of the answer."
        [harmless: true]
    LOST_BETWEEN "lost-between"
        "Packets are lost between two places, and the kernel reports no drop."
        "Seen at one device and not at the next, more than once, with no events lost."
        [guess: true]
    UNREACHABLE_BEYOND "unreachable-beyond"
        "A router or host beyond the node says that the destination cannot be reached."
        "An ICMP error came in from there."
        [guess: true, follows: true]
    SOURCE_UNCLAIMED "source-unclaimed"
        "Nobody answers for the address that a packet left with (an egress IP): its answers find no host."
        "ARP requests or neighbour solicitations for it again and again on the node's network; no answer to the packet."
        [follows: true]
    ANSWER_ELSEWHERE "answer-elsewhere"
        "The server answers from another port or address than the one that was asked: no conntrack entry and no connected socket takes it."
        "Packets from that host to the port that asked, heard after the request; ICMP port-unreachable for them."
        [follows: true, observed: true]
    NO_ANSWER "no-answer"
        "Packets leave the node as they should and nothing comes back."
        "Sent more than once; no reply, no drop, no ICMP error."
        [guess: true, follows: true]
    PROGRAM "dropped-by-program"
        "An XDP program, a tc filter or a BPF program at tc drops the packet on a device."
        "Drop reason XDP, TC_INGRESS or TC_EGRESS, or a free in the function that runs XDP programs; what is attached to the device."
        [observed: true]
    SIMPLE "dropped-in-kernel"
        "The kernel dropped the packet for a reason that it states."
        "The drop reason."
        [guess: true]
}

/// `docs/causes.md`.
pub fn markdown() -> String {
    let mut text = String::from(
        "# Causes\n\nMade from `tracer-user/src/cause/catalogue.rs`; `UPDATE_DOCS=1 cargo test -p tracer-user --test suite causes` \
         writes it again.\n\nIds are stable. A cause is certain, likely or possible, depending on how far the evidence goes.\n\n\
         | id | what is wrong | told by |\n|---|---|---|\n",
    );
    for kind in CATALOGUE {
        let _ = writeln!(text, "| `{}` | {} | {} |", kind.id, kind.means, kind.told_by);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_covered_is_in_the_catalogue() {
        for (_, id) in CATALOGUE.iter().flat_map(|kind| kind.covers) {
            assert_eq!(CauseKind::of(id).id, *id);
        }
    }
}
