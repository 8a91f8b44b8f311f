// SPDX-License-Identifier: MIT OR Apache-2.0
//! How journeys end: which events are endings, what may follow, and which drops are harmless.

use super::addr::Ends;
use super::model::{Ending, Expected, Hop, Journey, Place};
use super::topology_index::{Places, Positions};
use crate::node::{Family, Hook, PathRole};

/// The end that this sighting is, if it is one.
pub(crate) fn ending_at(
    hops: &[Hop],
    family: Family,
    places: &Places,
    positions: &Positions,
) -> Option<Ending> {
    let hop = hops.last()?;
    let netns = hop.netns;
    match hop.place {
        Place::Device { ifindex, egress: true } => {
            let facts = places.device(netns, ifindex)?;
            let unwatched = Some(Ending::Unwatched { netns, ifindex });
            match facts.role? {
                PathRole::Uplink => Some(Ending::Left { netns, ifindex }),
                PathRole::Bridge if !facts.uplink_port && !to_pod(hop.ends, places) => unwatched,
                PathRole::Transit if facts.bridge && !facts.uplink_port && !to_pod(hop.ends, places) => {
                    unwatched
                }
                // Also a port of a watched bridge: the other end of a veth is another pod's.
                PathRole::Transit
                    if !facts.bridge && facts.peer.is_none() && (facts.veth || facts.master.is_none()) =>
                {
                    unwatched
                }
                PathRole::PodHost if facts.peer.is_none() => unwatched,
                PathRole::Tunnel if !facts.vxlan && hop.encap.is_none() => unwatched,
                _ => None,
            }
        }
        Place::Device { ifindex, egress: false } => {
            let facts = places.device(netns, ifindex)?;
            let foreign =
                |own: [u8; 6]| hop.macs.is_some_and(|m| m.destination != own && m.destination[0] & 1 == 0);
            if facts.lower.is_some_and(foreign) && !to_pod(hop.ends, places) {
                return Some(Ending::Unwatched { netns, ifindex });
            }
            (facts.role == Some(PathRole::Pod) && positions.last(netns, family, Hook::Input).is_none())
                .then_some(Ending::Delivered { netns })
        }
        // What is between two tables of the hook may still be dropped by the later one.
        Place::Hook { hook: Hook::Input, priority, .. } => {
            let last = positions.last(netns, family, Hook::Input);
            let passed = priority.zip(last).is_none_or(|(priority, last)| priority >= last);
            (hop.encap.is_none() && passed).then_some(Ending::Delivered { netns })
        }
        Place::Hook { hook: Hook::Postrouting, out_ifindex, .. } if out_ifindex != 0 => {
            let facts = places.device(netns, out_ifindex)?;
            let unseen = facts.role.is_none() && !facts.pod_ns;
            (unseen || (bridged(hops) && !to_pod(hop.ends, places)))
                .then_some(Ending::Unwatched { netns, ifindex: out_ifindex })
        }
        _ => None,
    }
}

fn to_pod(ends: Ends, places: &Places) -> bool {
    places.is_watched_pod(ends.dst.addr)
}

/// The packet crosses a bridge from port to port: FORWARD with the bridge on both sides.
fn bridged(hops: &[Hop]) -> bool {
    hops.iter().rev().any(|h| {
        matches!(h.place, Place::Hook { hook: Hook::Forward, ifindex, out_ifindex, .. }
            if ifindex == out_ifindex && ifindex != 0)
    })
}

/// Nothing more came: what should have.
pub(crate) fn vanished(
    journey: &Journey,
    family: Family,
    places: &Places,
    positions: &Positions,
) -> (Expected, Option<u32>) {
    let Some(hop) =
        journey.hops.iter().rev().find(|h| !matches!(h.place, Place::Route { reverse: true, .. }))
    else {
        return (Expected::Unknown, None);
    };
    let netns = hop.netns;
    let at_hook = |hook: Hook, otherwise: Expected| {
        if positions.last(netns, family, hook).is_some() { Expected::Hook { netns, hook } } else { otherwise }
    };
    let next = match hop.place {
        Place::Device { ifindex, egress: true } => match places.device(netns, ifindex) {
            Some(facts) if facts.loopback => Expected::Device { netns, ifindex, egress: false },
            Some(facts) => match facts.peer {
                Some((netns, ifindex)) => Expected::Device { netns, ifindex, egress: false },
                None if facts.vxlan => at_hook(Hook::Output, Expected::Unknown),
                None => Expected::Unknown,
            },
            None => Expected::Unknown,
        },
        Place::Device { ifindex, egress: false } => {
            let facts = places.device(netns, ifindex);
            if let Some(master) = facts.and_then(|f| f.master) {
                // With bridge-nf-call-iptables the hooks run first, else the bridge itself comes next.
                let bridge = Expected::Device { netns, ifindex: master, egress: false };
                return (bridge, facts.is_some_and(|f| f.bridge || !f.pod_ns).then_some(master));
            }
            let had_prerouting =
                journey.hops.iter().any(|h| matches!(h.place, Place::Hook { hook: Hook::Prerouting, .. }));
            if facts.is_some_and(|f| f.bridge) && had_prerouting {
                Expected::Routing { netns }
            } else {
                at_hook(Hook::Prerouting, Expected::Routing { netns })
            }
        }
        Place::Route { .. } => Expected::Routing { netns },
        Place::Hook { hook: Hook::Prerouting, ifindex, .. } => {
            let bridge = places.device(netns, ifindex).is_some_and(|f| f.bridge && f.role.is_some());
            let entered = journey.hops.iter().any(|h| {
                h.netns == netns
                    && matches!(h.place, Place::Device { ifindex: i, egress: false } if i == ifindex)
            });
            if bridge && !entered {
                Expected::Device { netns, ifindex, egress: false }
            } else {
                Expected::Routing { netns }
            }
        }
        Place::Hook { hook: Hook::Input, .. } => match hop.encap {
            Some(_) => Expected::Unknown,
            None => Expected::Hook { netns, hook: Hook::Input },
        },
        Place::Hook { hook: Hook::Forward | Hook::Output, out_ifindex, .. } => {
            at_hook(Hook::Postrouting, Expected::Device { netns, ifindex: out_ifindex, egress: true })
        }
        Place::Hook { hook: Hook::Postrouting, out_ifindex, .. } => {
            Expected::Device { netns, ifindex: out_ifindex, egress: true }
        }
    };
    (next, None)
}

/// What to make of a `kfree_skb`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The packet is lost.
    Dropped,
    /// Healthy, whatever happened before.
    Healthy,
    /// A queue was emptied: healthy unless it was that of an unresolved neighbour entry.
    Purged,
    /// Healthy when a socket's namespace had it already.
    HealthyIfDelivered,
    /// Healthy when the packet left another node, and a switch sent a copy of it here too.
    HealthyIfFlooded,
}

/// Frees that are part of healthy traffic: of queues when a socket closes, of packets that told the stack
/// something and are not needed any more.
pub(crate) fn verdict(reason: &str, symbol: &str) -> Verdict {
    match reason {
        "QUEUE_PURGE" => Verdict::Purged,
        "SKB_CONSUMED" | "CONSUMED" | "TCP_OFOMERGE" => Verdict::Healthy,
        "OTHERHOST" => Verdict::HealthyIfFlooded,
        "NO_SOCKET" if symbol == "ping_rcv" => Verdict::Healthy,
        "NOT_SPECIFIED" if symbol.starts_with("tcp_") || symbol == "ip6_mc_input" => Verdict::Healthy,
        "TCP_OLD_DATA" | "TCP_OLD_ACK" | "TCP_RESET" | "TCP_FASTOPEN" => Verdict::HealthyIfDelivered,
        "NOT_SPECIFIED" if symbol.starts_with("sk_") || symbol.starts_with("skb_") => {
            Verdict::HealthyIfDelivered
        }
        _ => Verdict::Dropped,
    }
}

/// The hook whose caller a function is: who called `nf_hook_slow`.
pub(crate) fn hook_of_caller(symbol: &str) -> Option<Hook> {
    let name = symbol.split(['.', '+']).next().unwrap_or(symbol);
    Some(match name {
        "ip_rcv"
        | "ipv6_rcv"
        | "ip_list_rcv"
        | "ipv6_list_rcv"
        | "ip_sublist_rcv"
        | "ip6_sublist_rcv"
        | "br_nf_pre_routing"
        | "br_nf_pre_routing_ipv6" => Hook::Prerouting,
        "ip_local_deliver" | "ip6_input" | "ip6_mc_input" => Hook::Input,
        "ip_forward" | "ip6_forward" | "br_nf_forward" | "br_nf_forward_ip" | "ip_mr_forward"
        | "ip6mr_forward2" => Hook::Forward,
        "__ip_local_out" | "__ip6_local_out" | "ip6_xmit" | "raw_send_hdrinc" | "rawv6_send_hdrinc"
        | "ndisc_send_skb" => Hook::Output,
        "ip_output" | "ip_mc_output" | "ip6_output" | "br_nf_post_routing" => Hook::Postrouting,
        _ => return None,
    })
}

/// Who calls hooks that are none of the five: of devices (ingress, egress) and of bridges.
pub(crate) fn is_of_other_hook(symbol: &str) -> bool {
    let name = symbol.split(['.', '+']).next().unwrap_or(symbol);
    matches!(
        name,
        "nft_do_chain_netdev"
            | "nft_do_chain_inet_ingress"
            | "nft_do_chain_bridge"
            | "ebt_do_table"
            | "__netif_receive_skb_core"
    )
}

/// Without a stack: the hook that a packet last seen here comes to next.
pub(crate) fn hook_after(hops: &[Hop]) -> Option<Hook> {
    let last = hops.iter().rev().find(|h| !matches!(h.place, Place::Route { .. }));
    Some(match last.map(|h| h.place) {
        None => Hook::Output,
        Some(Place::Device { egress: false, .. }) => {
            let had = hops.iter().any(|h| matches!(h.place, Place::Hook { hook: Hook::Prerouting, .. }));
            if had { Hook::Forward } else { Hook::Prerouting }
        }
        Some(Place::Hook { hook: Hook::Prerouting, .. }) => Hook::Forward,
        Some(Place::Hook { hook: Hook::Forward | Hook::Output, .. }) => Hook::Postrouting,
        Some(Place::Device { egress: true, .. }) => Hook::Output,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn healthy_frees() {
        assert_eq!(verdict("QUEUE_PURGE", "sk_stream_kill_queues"), Verdict::Purged);
        assert_eq!(verdict("NOT_SPECIFIED", "tcp_v4_rcv"), Verdict::Healthy);
        assert_eq!(verdict("NOT_SPECIFIED", "ip_error"), Verdict::Dropped);
        assert_eq!(verdict("NO_SOCKET", "ping_rcv"), Verdict::Healthy);
        assert_eq!(verdict("NO_SOCKET", "tcp_v4_rcv"), Verdict::Dropped);
        assert_eq!(verdict("NETFILTER_DROP", "nf_hook_slow"), Verdict::Dropped);
    }

    #[test]
    fn callers_tell_the_hook() {
        assert_eq!(hook_of_caller("ip_rcv"), Some(Hook::Prerouting));
        assert_eq!(hook_of_caller("br_nf_forward_ip.part.0"), Some(Hook::Forward));
        assert_eq!(hook_of_caller("__ip6_local_out+0x12"), Some(Hook::Output));
        assert_eq!(hook_of_caller("ip_local_out"), None);
    }
}
