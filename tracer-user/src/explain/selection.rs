// SPDX-License-Identifier: MIT OR Apache-2.0
//! EgressGateway's rules and sets against what the packet met: packets that were not taken into the tunnel,
//! or got another source than the policy's.

use super::catalogue as c;
use super::finding::Certainty::{Certain, Likely, Possible};
use super::finding::Finding;
use super::view::View;
use crate::flow::{NatKind, Place as At};
use crate::node::Hook;
use crate::node::evidence::{Criterion, IpRange, MemberField, NetnsEvidence, Rule, Target};

const REQUEST_CHAIN: &str = "EGRESSGATEWAY-MARK-REQUEST";
const SNAT_CHAIN: &str = "EGRESSGATEWAY-SNAT-EIP";

/// The prefix of a policy's set; its sets of sources and of destinations end alike.
fn set_prefix(source: bool, ipv6: bool) -> &'static str {
    match (source, ipv6) {
        (true, false) => "egress-src-v4-",
        (true, true) => "egress-src-v6-",
        (false, false) => "egress-dst-v4-",
        (false, true) => "egress-dst-v6-",
    }
}

pub(super) fn explain(view: &View<'_>) -> Option<Finding> {
    let journey = view.journey;
    if journey.reply || journey.packet.icmp_error.is_some() {
        return None;
    }
    other_source(view).or_else(|| not_selected(view))
}

fn contains(evidence: &NetnsEvidence, set: &str, address: std::net::IpAddr) -> bool {
    evidence.sets.get(set).is_some_and(|set| {
        set.members.iter().any(|m| {
            !m.nomatch
                && matches!(m.fields.first(), Some(MemberField::Address(range)) if range.contains(address))
        })
    })
}

fn chain_rules<'e>(evidence: &'e NetnsEvidence, table: &'e str, chain: &'e str) -> Option<Vec<&'e Rule>> {
    let chains: Vec<_> = evidence.tables(table).filter_map(|t| t.chain(chain)).collect();
    (!chains.is_empty()).then(|| chains.iter().flat_map(|c| &c.rules).collect())
}

/// Left a node unmarked and untunnelled, with sets of a policy that name its ends.
fn not_selected(view: &View<'_>) -> Option<Finding> {
    let journey = view.journey;
    let exit = view.bare_exit()?;
    let first =
        journey.hops.iter().find(|h| h.netns == exit.netns && !matches!(h.place, At::Route { .. }))?;
    let marked = journey.hops.iter().any(|h| h.netns == exit.netns && (h.mark >> 24 == 0x26));
    let translated = journey.hops.iter().any(|h| h.nat.is_some_and(|n| n.kind == NatKind::Dnat));
    if marked || translated {
        return None;
    }
    let evidence = view.of(exit.netns)?;
    let ipv6 = journey.packet.ipv6;
    let (source, destination) = (first.ends.src.addr.ip(), first.ends.dst.addr.ip());
    let (src, dst) = (set_prefix(true, ipv6), set_prefix(false, ipv6));
    let name = view.netns(exit.netns);
    let place = view.place(exit.netns, 0);
    let rules = chain_rules(evidence, "mangle", REQUEST_CHAIN);
    for set in evidence.sets.keys().filter(|name| name.starts_with(src)) {
        let hash = &set[src.len()..];
        let other = format!("{dst}{hash}");
        let (from, to) = (contains(evidence, set, source), contains(evidence, &other, destination));
        let empty = evidence.sets.get(&other).is_some_and(|s| s.members.is_empty());
        let used = rules.as_ref().is_some_and(|rules| {
            rules.iter().any(|r| {
                r.matches.iter().any(|m| matches!(&m.what, Criterion::Set { name, .. } if name == set))
            })
        });
        let list = |set: &str| view.command(exit.netns, format!("ipset list {set}"));
        if from && to && !used {
            return Some(
                Finding::new(
                    &c::EGRESS_NOT_HANDLED,
                    Certain,
                    format!("a policy of EgressGateway selects {source} and {destination}, but {name} has no rule that marks them: the packet left as {}", exit.ends.src.addr),
                )
                .checked(format!("{set} and {other} contain them"), list(set))
                .checked(
                    format!("no rule of mangle {REQUEST_CHAIN} uses these sets"),
                    view.command(exit.netns, format!("{} -t mangle -S {REQUEST_CHAIN}", view.iptables())),
                )
                .fix(format!("start (or restart) the egressgateway agent on {name}; read its log"))
                .at(place),
            );
        }
        if used && to && !from {
            return Some(
                Finding::new(
                    &c::EGRESS_POD_NOT_SELECTED,
                    Possible,
                    format!("{destination} is a destination of an EgressPolicy, but {source} is not in its set of pods: the packet left as {}", exit.ends.src.addr),
                )
                .checked(format!("{set} does not contain {source}"), list(set))
                .checked(format!("{other} contains {destination}"), list(&other))
                .fix("if the policy should select this pod: correct its spec.appliedTo.podSelector, or see why the agent is behind (EgressEndpointSlice)")
                .at(place),
            );
        }
        if used && from && empty {
            return Some(
                Finding::new(
                    &c::EGRESS_DESTINATION_NOT_SELECTED,
                    Likely,
                    format!("an EgressPolicy selects {source}, but its set of destinations is empty: {destination} was left alone"),
                )
                .checked(format!("{other} is empty"), list(&other))
                .fix(format!("add {destination} to the policy's spec.destSubnet"))
                .at(place),
            );
        }
    }
    None
}

/// On the gateway: SNAT gave another address than the policy's rule.
fn other_source(view: &View<'_>) -> Option<Finding> {
    let hop = view.journey.hops.iter().find(|h| {
        matches!(h.place, At::Hook { hook: Hook::Postrouting, .. })
            && h.encap.is_none()
            && h.nat.is_some_and(|n| n.kind == NatKind::Snat)
    })?;
    let evidence = view.of(hop.netns)?;
    let (before, after) = (hop.nat?.from.src.addr.ip(), hop.ends.src.addr.ip());
    let destination = hop.ends.dst.addr.ip();
    let ipv6 = view.journey.packet.ipv6;
    let rules = chain_rules(evidence, "nat", SNAT_CHAIN)?;
    let (wanted, set): (IpRange, &str) = rules.iter().find_map(|rule| {
        let mut fits = false;
        let mut named = "";
        for m in rule.matches.iter().filter(|m| !m.negated) {
            if let Criterion::Set { name, .. } = &m.what {
                let address = if name.starts_with(set_prefix(true, ipv6)) { before } else { destination };
                if !contains(evidence, name, address) {
                    return None;
                }
                named = name;
                fits = true;
            }
        }
        match rule.target() {
            Some(Target::Snat(to)) if fits => Some((to.addresses?, named)),
            _ => None,
        }
    })?;
    if wanted.contains(after) {
        return None;
    }
    Some(
        Finding::new(
            &c::SNAT_TO_ANOTHER_ADDRESS,
            Certain,
            format!("{} translated the source to {after}, the policy's egress IP is {wanted}: another rule came first", view.netns(hop.netns)),
        )
        .checked(
            format!("{SNAT_CHAIN} would give {wanted} ({set} matches)"),
            view.command(hop.netns, format!("{} -t nat -S {SNAT_CHAIN}", view.iptables())),
        )
        .checked(
            "what stands before it in nat POSTROUTING",
            view.command(hop.netns, format!("{} -t nat -vnL POSTROUTING --line-numbers", view.iptables())),
        )
        .fix(format!("let the jump to {SNAT_CHAIN} be the first rule of nat POSTROUTING (restart the egressgateway agent), or remove the rule before it"))
        .at(view.place(hop.netns, 0)),
    )
}

/// A proxy listens in the pod, and nothing is redirected to it.
pub(super) fn sidecar_bypassed(view: &View<'_>) -> Option<Finding> {
    const PROXY_PORTS: [u16; 3] = [15001, 15003, 15006];
    let journey = view.journey;
    let first = journey.hops.iter().find(|h| !matches!(h.place, At::Route { .. }))?;
    if journey.reply || !view.is_syn() || !view.scene().is_pod(first.netns) {
        return None;
    }
    if journey.conntrack.iter().any(|e| e.translates()) || journey.hops.iter().any(|h| h.nat.is_some()) {
        return None;
    }
    let evidence = view.of(first.netns)?;
    let proxy = evidence.sockets.iter().find(|s| s.proto == 6 && PROXY_PORTS.contains(&s.local.port()))?;
    if evidence
        .tables("nat")
        .flat_map(|t| &t.chains)
        .flat_map(|c| &c.rules)
        .any(|r| matches!(r.target(), Some(Target::Redirect { .. } | Target::Dnat(_) | Target::Tproxy(_))))
    {
        return None;
    }
    let name = view.netns(first.netns);
    let port = proxy.local.port();
    Some(
        Finding::new(
            &c::SIDECAR_BYPASSED,
            Likely,
            format!("traffic of {name} bypasses its sidecar: the proxy listens on {port}, but no rule redirects to it"),
        )
        .checked("no REDIRECT rule in its nat table", view.command(first.netns, "iptables -t nat -S"))
        .checked(format!("a proxy listens on {port}"), view.command(first.netns, "ss -tlnp"))
        .fix("see whether the init container that writes the rules ran and ended with 0; restart the pod")
        .at(view.place(first.netns, 0)),
    )
}
