// SPDX-License-Identifier: MIT OR Apache-2.0
//! What EgressGateway does to a packet, and where it first did something else.

use super::context::{Entry, View, is_tunnel};
use crate::cluster::egress::datapath::is_node_mark;
use crate::flow::{Addr, Endpoint, Hop, Packet, Place as At};

/// Where the packet came in by an egress tunnel.
pub(super) fn came_by_tunnel(view: &View<'_>) -> Option<Entry> {
    view.journey.hops.iter().find_map(|h| match h.place {
        At::Device { ifindex, egress: false } if h.encap.is_none() && is_tunnel(view, h.netns, ifindex) => {
            Some(Entry { netns: h.netns, ifindex })
        }
        _ => None,
    })
}

/// What the model is asked about, though nothing bad was seen yet: a packet with an EgressGateway mark or in its tunnel may
/// take the wrong way and still be answered.
pub(super) fn path(view: &View<'_>) -> Option<EgressPath> {
    let handled = |h: &Hop| {
        is_node_mark(h.mark)
            || matches!(h.place, At::Device { ifindex, .. } if is_tunnel(view, h.netns, ifindex))
    };
    let Packet { ends, proto, .. } = view.journey.packet;
    let asked = view.is_opening() && view.journey.hops.iter().any(handled);
    asked.then_some((proto, ends.src.addr, ends.dst, view.journey.reply))
}

/// Protocol, source, destination, and whether it is an answer.
pub(super) type EgressPath = (u8, Addr, Endpoint, bool);
