// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is reported when no packet of the flow is seen: whether the pod sends at all, and how to look without packets.

use std::collections::BTreeMap;

use crate::node::{NetnsId, Role, Topology};
use crate::text::escape;

/// Silence that is remarked on, ns.
const PATIENCE_NS: u64 = 3_000_000_000;

/// Watches for the first packet.
#[derive(Debug, Default)]
pub(super) struct Nothing {
    risen: BTreeMap<NetnsId, Sent>,
    /// Before all programs were attached: what was sent then need not have been seen.
    attaching: BTreeMap<NetnsId, Sent>,
    said: bool,
}

/// What a namespace sent since the start, by its counters.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    packets: u64,
    connections: u64,
    failed: u64,
}

impl Nothing {
    /// By how much counters rose, as [`crate::snapshot::CounterFiles::risen`] names them.
    pub(super) fn count(&mut self, counters: &[(NetnsId, BTreeMap<String, u64>)]) {
        add(&mut self.risen, counters);
    }

    /// The same, of the time before all programs were attached.
    pub(super) fn count_attaching(&mut self, counters: &[(NetnsId, BTreeMap<String, u64>)]) {
        add(&mut self.attaching, counters);
    }

    /// What to say, once. `since_ns`: how long nothing has come; `ends`: the run is over. `check`: the command that
    /// looks at the same path without packets.
    pub(super) fn remark(
        &mut self,
        since_ns: u64,
        ends: bool,
        topology: &Topology,
        pods: &[NetnsId],
        check: &str,
    ) -> Vec<String> {
        if self.said || (since_ns < PATIENCE_NS && !ends) {
            return Vec::new();
        }
        self.said = true;
        let seconds = since_ns / 1_000_000_000;
        let time = if seconds == 0 { String::new() } else { format!(" for {seconds} s") };
        let mut lines = vec![format!("nothing of this flow was seen{time}")];
        for netns in pods {
            let Some(ns) = topology.namespaces.get(netns).filter(|ns| ns.role == Role::Pod) else { continue };
            let name = escape(&ns.name);
            let sent = self.risen.get(netns).copied().unwrap_or_default();
            let before = self.attaching.get(netns).copied().unwrap_or_default();
            let down: Vec<_> = ns.devices.values().filter(|d| !d.up && !d.mac.is_empty()).collect();
            lines.push(match sent {
                _ if !down.is_empty() => format!("{} of {name} is down", escape(&down[0].name)),
                Sent { packets: 0, connections: 0, .. } if before.packets > 0 => {
                    format!("{name} sent {} IP packet{} while the programs were being attached, too early to be seen, and none since: send again", before.packets, if before.packets == 1 { "" } else { "s" })
                }
                Sent { packets: 0, connections: 0, .. } => {
                    format!("{name} sent no IP packet at all meanwhile: its program did not try, or failed before (its own name lookup, its ip rules)")
                }
                Sent { packets, connections, failed } => {
                    let opened = match (connections, failed) {
                        (0, _) => String::new(),
                        (n, 0) => format!(", began {n} TCP connection{}", if n == 1 { "" } else { "s" }),
                        (n, f) => format!(", began {n} TCP connection{} ({f} failed)", if n == 1 { "" } else { "s" }),
                    };
                    format!("{name} sent {packets} IP packet{}{opened} meanwhile, none of this flow: is it another address (a service's?), port or protocol? Without --dst and --dport all of its packets show", if packets == 1 { "" } else { "s" })
                }
            });
        }
        lines.push(format!("the path without packets: {check}"));
        lines
    }
}

fn add(to: &mut BTreeMap<NetnsId, Sent>, counters: &[(NetnsId, BTreeMap<String, u64>)]) {
    for (netns, risen) in counters {
        let of = |names: &[&str]| names.iter().filter_map(|name| risen.get(*name)).sum::<u64>();
        let sent = to.entry(*netns).or_default();
        sent.packets += of(&["Ip.OutRequests", "Ip6.OutRequests"]);
        sent.connections += of(&["Tcp.ActiveOpens"]);
        sent.failed += of(&["Tcp.AttemptFails"]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Namespace;

    fn said(counters: &[(&str, u64)]) -> Vec<String> {
        said_after(&[], counters)
    }

    fn said_after(attaching: &[(&str, u64)], counters: &[(&str, u64)]) -> Vec<String> {
        let mut topology = Topology::default();
        let pod = Namespace {
            id: 7,
            name: "web".into(),
            role: Role::Pod,
            devices: BTreeMap::new(),
            hooks: Vec::new(),
            hooks_exact: true,
        };
        topology.namespaces.insert(7, pod);
        let mut nothing = Nothing::default();
        let risen =
            |counters: &[(&str, u64)]| counters.iter().map(|(name, by)| ((*name).to_owned(), *by)).collect();
        nothing.count_attaching(&[(7, risen(attaching))]);
        nothing.count(&[(7, risen(counters))]);
        let early = nothing.remark(PATIENCE_NS - 1, false, &topology, &[7], "egwtrace check --pod web");
        assert!(early.is_empty(), "{early:?}");
        let said = nothing.remark(PATIENCE_NS, false, &topology, &[7], "egwtrace check --pod web");
        assert!(nothing.remark(PATIENCE_NS, true, &topology, &[7], "").is_empty(), "only once");
        said
    }

    #[test]
    fn a_pod_that_sends_nothing() {
        let said = said(&[]);
        assert!(said[1].starts_with("web sent no IP packet at all"), "{said:?}");
        assert_eq!(said[2], "the path without packets: egwtrace check --pod web");
    }

    #[test]
    fn a_pod_that_sends_elsewhere() {
        let said = said(&[("Ip.OutRequests", 5), ("Tcp.ActiveOpens", 1)]);
        assert!(
            said[1].starts_with("web sent 5 IP packets, began 1 TCP connection meanwhile, none of"),
            "{said:?}"
        );
    }

    #[test]
    fn packets_sent_while_attaching_are_not_said_to_be_of_another_flow() {
        let said = said_after(&[("Ip.OutRequests", 2)], &[]);
        assert!(
            said[1].starts_with("web sent 2 IP packets while the programs were being attached"),
            "{said:?}"
        );
    }
}
