// SPDX-License-Identifier: MIT OR Apache-2.0
//! Large packets that leave and do not arrive, where small ones of the same connection do.

use super::context::View;
use crate::cause::Certainty::Likely;
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::flow::{Ending, NoteKind, Place as At};

/// Less fits into every network (RFC 8200, section 5); and what is dropped for its size is larger.
const SMALL: u32 = 1280;
/// Sent again so often, over this time.
const TIMES: u32 = 2;
const PATIENCE_NS: u64 = 900_000_000;
const ETHERNET_AND_IP: u32 = 50;

/// What is sent again of one direction of a TCP connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LargePackets {
    seq: u32,
    first_ns: u64,
    times: u32,
    /// The largest packet that was acknowledged, and the ones not yet acknowledged, as far as that is known.
    passed: u32,
    last: Option<(u32, u32)>,
}

/// `large`: of the journey's direction.
pub(super) fn observe(view: &View<'_>, large: &mut LargePackets) -> Option<Finding> {
    let journey = view.journey;
    let packet = &journey.packet;
    if !packet.is_tcp() {
        return None;
    }
    let acked = view.tracking.acked(!journey.reply)?;
    if let Some((end, size)) = large.last
        && acked.wrapping_sub(end) as i32 >= 0
    {
        large.passed = large.passed.max(size);
        large.last = None;
    }
    let size = if packet.gso_size == 0 { packet.l3len } else { u32::from(packet.gso_size) + 40 };
    let again = journey.notes.iter().any(|n| matches!(n.what, NoteKind::Retransmission { .. }));
    let missing = acked.wrapping_sub(packet.seq) as i32 <= 0;
    if !again {
        large.last = Some((packet.seq.wrapping_add(1), size));
    }
    if size <= SMALL || !missing || !again {
        return None;
    }
    let Ending::Left { netns, ifindex } = journey.ending else { return None };
    if large.times == 0 || large.seq != packet.seq {
        (large.seq, large.first_ns, large.times) = (packet.seq, journey.start_ns, 0);
    }
    large.times += 1;
    if large.times < TIMES
        || journey.start_ns.saturating_sub(large.first_ns) < PATIENCE_NS
        || large.passed >= size
    {
        return None;
    }
    let last = journey.hops.iter().rev().find(|h| matches!(h.place, At::Device { egress: true, .. }))?;
    let outer = last.encap.and_then(|i| journey.encaps.get(usize::from(i)));
    let (to, whole) = outer.map_or((last.ends.dst.addr, size), |o| (o.dst.addr, size + ETHERNET_AND_IP));
    let (device, name) = (view.device_name(netns, ifindex), view.netns(netns));
    let in_tunnel = if outer.is_some() { " (with the tunnel's headers)" } else { "" };
    let (headers, ping) = if to.ip().is_ipv4() { (28, "ping") } else { (48, "ping -6") };
    let try_it = view.command(netns, format!("{ping} -M do -c 3 -s {} {to}", whole.saturating_sub(headers)));
    Some(
        Finding::new(
            &c::LARGE_LOST,
            Likely,
            format!("packets of {whole} B{in_tunnel} leave {device} of {name} for {to} and are not acknowledged, smaller ones of the same connection are: a link on the way takes only smaller packets, and nobody says so"),
        )
        .checked(format!("sent again {} times, and left {device} each time; no ICMP \"too big\" came back", large.times), try_it)
        .fact(match large.passed {
            0 => "what was acknowledged has no data, or little".to_owned(),
            passed => format!("the largest packet that was acknowledged has {passed} B"),
        })
        .fix(format!(
            "find the size that passes (lower the -s of that ping), and set the MTU of {device}, of its tunnels and of the pods to it; or repair the link that takes less than {whole} B"
        ))
        .about(to)
        .at(view.place(netns, ifindex)),
    )
}
