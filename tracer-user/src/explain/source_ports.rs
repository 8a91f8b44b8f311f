// SPDX-License-Identifier: MIT OR Apache-2.0
//! Source ports in use towards one destination.

use std::collections::HashMap;
use std::net::IpAddr;

use super::context::View;
use crate::cause::Certainty::Likely;
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::flow::Endpoint;

const RANGE: &str = "net/ipv4/ip_local_port_range";
/// TIME_WAIT: who closes first keeps its port for so long.
const KEPT_NS: u64 = 60_000_000_000;
/// Ports that are remembered, over all places.
const PORTS: usize = 65_536;

/// When each source port was last used, by source and destination.
#[derive(Debug, Default)]
pub(super) struct Ports {
    taken: HashMap<(IpAddr, Endpoint), HashMap<u16, u64>>,
    count: usize,
}

impl Ports {
    /// Looks at a SYN: is its port the last one?
    pub(super) fn observe(&mut self, view: &View<'_>) -> Option<Finding> {
        let journey = view.journey;
        if journey.reply || !view.is_syn() {
            return None;
        }
        let sender = journey.hops.first()?.netns;
        let Endpoint { addr, port } = journey.packet.ends.src;
        // Only the sender's own range says anything.
        view.owner(addr.ip()).filter(|(ns, _)| ns.id == sender)?;
        let (low, high) = range(view.of(sender)?.sysctls.get(RANGE)?)?;
        if !(low..=high).contains(&port) {
            return None;
        }
        if self.count >= PORTS {
            *self = Self::default();
        }
        let to = journey.packet.ends.dst;
        let taken = self.taken.entry((addr.ip(), to)).or_default();
        let all = usize::from(high - low) + 1;
        self.count += usize::from(taken.insert(port, journey.start_ns).is_none());
        if taken.len() < all {
            return None;
        }
        let before = taken.len();
        taken.retain(|_, last| journey.start_ns.saturating_sub(*last) < KEPT_NS);
        self.count -= before - taken.len();
        (taken.len() == all).then(|| say(view, sender, to, all, (low, high)))
    }
}

fn say(view: &View<'_>, netns: u32, to: Endpoint, all: usize, (low, high): (u16, u16)) -> Finding {
    let name = view.netns(netns);
    Finding::new(
        &c::PORTS_USED_UP,
        Likely,
        format!("all {all} source ports of {name} for {to} are taken: further connections fail with \"Cannot assign requested address\", and no packet is sent"),
    )
    .checked(
        format!("{all} connections to {to} within a minute; ip_local_port_range is {low} to {high}"),
        view.command(netns, format!("sysctl net.ipv4.ip_local_port_range; ss -tan dst {}", to.addr)),
    )
    .fix(format!(
        "keep connections open and use them again; {}",
        view.command(netns, "sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\" net.ipv4.tcp_tw_reuse=1")
    ))
    .about(to)
    .at(view.place(netns, 0))
}

/// "32768 60999"
fn range(text: &str) -> Option<(u16, u16)> {
    let mut numbers = text.split_whitespace().map(str::parse);
    let (low, high) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    (low <= high).then_some((low, high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range() {
        assert_eq!(range("32768 60999"), Some((32_768, 60_999)));
        for text in ["", "1", "5 4", "a b", "1 70000"] {
            assert_eq!(range(text), None, "{text}");
        }
    }
}
