// SPDX-License-Identifier: MIT OR Apache-2.0
//! Translations: by rules for the first packet, by the connection for all others; and packets that rules end.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::packet_state::{Flight, Mode, Tuple};
use super::rules::AtHook;
use super::steps::Translation;
use super::walker::Walker;
use super::world::Host;
use crate::cause::Certainty::Certain;
use crate::cause::Finding;
use crate::cause::Place as At;
use crate::cause::catalogue as c;
use crate::cause::diversion::{Diversion, is_ordinary};
use crate::cause::kube_proxy;
use crate::firewall::{Backend, RuleRef, TableFamily, Target};
use crate::node::Hook;

impl Walker<'_> {
    /// Translations that a connection has from its first packet.
    pub(crate) fn by_entry(&mut self, host: &Host, hook: Hook, flight: &mut Flight, step: usize) {
        let Some(entry) = flight.entries.get(&host.id).copied() else { return };
        let tuple = flight.tuple();
        let destination = matches!(hook, Hook::Prerouting | Hook::Output);
        let (kind, to) = match (flight.mode, destination) {
            (Mode::First, _) => return,
            (Mode::Later, true) if entry.before.fits(tuple) => {
                ("DNAT", Tuple { dst: entry.after.dst, ..tuple })
            }
            (Mode::Later, false) if entry.before.src == tuple.src => {
                ("SNAT", Tuple { src: entry.after.src, ..tuple })
            }
            (Mode::Reply, true) if entry.after.reversed().fits(tuple) => {
                ("un-SNAT", Tuple { dst: entry.before.src, ..tuple })
            }
            (Mode::Reply, false) if entry.after.dst.0 == tuple.src.0 && entry.before.src.0 == tuple.dst.0 => {
                ("un-DNAT", Tuple { src: entry.before.dst, ..tuple })
            }
            _ => return,
        };
        if to == tuple {
            return;
        }
        self.translate(flight, to, kind, String::new(), step);
    }

    pub(crate) fn translate(
        &mut self,
        flight: &mut Flight,
        to: Tuple,
        kind: &'static str,
        rule: String,
        step: usize,
    ) {
        let from = flight.tuple().ends();
        let packet = &mut flight.packet;
        (packet.src, packet.src_port) = to.src;
        (packet.dst, packet.dst_port) = to.dst;
        let ends = to.ends();
        let (from, to) = if kind.ends_with("DNAT") == kind.starts_with("un-") {
            (from.src, ends.src)
        } else {
            (from.dst, ends.dst)
        };
        if let Some(step) = self.steps.get_mut(step) {
            step.nat.push(Translation { kind, from: from.to_string(), to: to.to_string(), rule });
        }
    }

    pub(crate) fn by_rule(
        &mut self,
        host: &Host,
        at: AtHook<'_>,
        flight: &mut Flight,
        target: &Target,
        rule: &RuleRef,
        step: usize,
    ) {
        let tuple = flight.tuple();
        let ipv4 = tuple.src.0.is_ipv4();
        let port = |to: Option<crate::firewall::PortRange>, own: Option<u16>| match to {
            Some(range) if range.first == range.last => Some(range.first),
            Some(_) => None,
            None => own,
        };
        let (kind, to) = match target {
            Target::Dnat(to) => {
                let address = to.addresses.map_or(tuple.dst.0, |range| range.first);
                if to.addresses.is_some_and(|range| range.first != range.last) {
                    self.open(format!("which address of its range {rule} of {} gives", host.name()));
                }
                ("DNAT", Tuple { dst: (address, port(to.ports, tuple.dst.1)), ..tuple })
            }
            Target::Redirect { ports, .. } => {
                let here: Option<IpAddr> = match at.hook {
                    Hook::Output if ipv4 => Some(Ipv4Addr::LOCALHOST.into()),
                    Hook::Output => Some(Ipv6Addr::LOCALHOST.into()),
                    _ => host.address_on(at.input, tuple.dst.0),
                };
                ("DNAT", Tuple { dst: (here.unwrap_or(tuple.dst.0), port(*ports, tuple.dst.1)), ..tuple })
            }
            Target::Snat(to) => {
                let address = to.addresses.map_or(tuple.src.0, |range| range.first);
                ("SNAT", Tuple { src: (address, port(to.ports, tuple.src.1)), ..tuple })
            }
            Target::Masquerade { ports, .. } => {
                let hop = flight.next_hop.unwrap_or(tuple.dst.0);
                let Some(address) = host.address_on(at.output, hop) else {
                    let device = host.device(at.output);
                    return self.open(format!(
                        "the source that {rule} gives: {device} of {} has no address",
                        host.name()
                    ));
                };
                ("SNAT", Tuple { src: (address, port(*ports, tuple.src.1)), ..tuple })
            }
            _ => return,
        };
        let packet = &mut flight.packet;
        if kind == "DNAT" {
            packet.ct_dnat = Some(true);
        } else {
            packet.ct_snat = Some(true);
        }
        if to != tuple {
            self.translate(flight, to, kind, rule.to_string(), step);
            self.note_diversion(host, at.hook, kind, rule, (tuple, to));
        }
        if let Some(entry) = flight.entries.get_mut(&host.id) {
            entry.after = to;
        }
    }
}

impl Walker<'_> {
    /// Not those of services, sidecars and the like, and not to an address that the host has itself.
    fn note_diversion(
        &mut self,
        host: &Host,
        hook: Hook,
        kind: &str,
        rule: &RuleRef,
        (from, to): (Tuple, Tuple),
    ) {
        if self.diverted.is_some() || is_ordinary(rule) || (kind == "SNAT" && host.owns(to.src.0)) {
            return;
        }
        let (from, to) = (from.ends(), to.ends());
        let (what, before, after, which) = match kind {
            "SNAT" => (
                "source",
                from.src.addr.to_string(),
                to.src.addr.to_string(),
                format!("-s {}", from.src.addr),
            ),
            _ => ("destination", from.dst.to_string(), to.dst.to_string(), format!("-d {}", from.dst.addr)),
        };
        let diversion = Diversion {
            rule: rule.clone(),
            netns: host.name(),
            hook: hook.name(),
            what,
            from: before,
            to: after,
            list: host.command(list(rule, from.src.addr.ip().is_ipv6())),
            forget: host.command(format!("conntrack -D {which}")),
        };
        self.diverted = Some((diversion, self.found.len()));
    }
}

/// The command that lists the chain of a rule.
fn list(rule: &RuleRef, ipv6: bool) -> String {
    let tool = if ipv6 { "ip6tables" } else { "iptables" };
    match rule.backend {
        Backend::Nft => format!("nft -a list chain {} {} {}", rule.family, rule.table, rule.chain),
        Backend::IptablesNft => format!("{tool} -t {} -vnL {} --line-numbers", rule.table, rule.chain),
        Backend::IptablesLegacy => {
            format!("{tool}-legacy -t {} -vnL {} --line-numbers", rule.table, rule.chain)
        }
    }
}

/// A rule or policy that ends the packet.
/// `led_by`: the rule that leads to its chain.
pub(crate) fn dropped(
    host: &Host,
    hook: Hook,
    (rule, led_by): (&RuleRef, Option<&RuleRef>),
    rejects: bool,
    flight: &Flight,
) -> Finding {
    let whose = if flight.inside.is_some() { "the tunnel's outer packet" } else { "the packet" };
    let comment = rule.comment.as_deref().unwrap_or_default();
    let what = if flight.inside.is_some() {
        format!("UDP {} from {}", flight.packet.dst_port.unwrap_or(0), flight.packet.src)
    } else {
        flight.tuple().ends().to_string()
    };
    let list = list(rule, flight.packet.src.is_ipv6());
    let invalid = rule.text.to_ascii_uppercase().contains("INVALID");
    let (kind, title) = match rule {
        _ if rejects => (&c::REJECTED, format!("{rule} on {} rejects {whose}", host.name())),
        rule if rule.number == 0 => {
            (&c::POLICY, format!("{rule} on {} drops {whose}: no rule before accepts it", host.name()))
        }
        _ if invalid => (
            &c::CONNTRACK_INVALID,
            format!(
                "{rule} on {} drops {whose}: conntrack there has not seen the connection begin",
                host.name()
            ),
        ),
        _ => (&c::RULE, format!("{rule} on {} drops {whose}", host.name())),
    };
    let fix = if let Some(fix) = kube_proxy::fix(rule, led_by) {
        fix
    } else if rule.chain.starts_with("cali-") || comment.contains("polic") {
        format!("let a NetworkPolicy allow {what}")
    } else if kind.id == c::POLICY.id {
        format!("accept {what} in {} {}, or set its policy to ACCEPT", rule.table, rule.chain)
    } else {
        format!("remove or correct that rule, or accept {what} before it")
    };
    let hook_name = match (rule.family, hook) {
        (TableFamily::Netdev, Hook::Postrouting) => "the device's egress",
        (TableFamily::Netdev, _) => "the device's ingress",
        _ => hook.name(),
    };
    let finding = Finding::new(kind, Certain, title)
        .checked(format!("{hook_name} of {} ends there for it", host.name()), host.command(list));
    let finding =
        if rule.text.is_empty() { finding } else { finding.fact(format!("the rule: {}", rule.text)) };
    let finding = match led_by {
        Some(led_by) => finding.fact(format!("{} is reached by {led_by}", rule.chain)),
        None => finding,
    };
    finding.fix(fix).at(At {
        netns: host.name(),
        hook: Some(hook.name().to_owned()),
        rule: Some(rule.place()),
        ..At::default()
    })
}
