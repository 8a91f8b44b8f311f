// SPDX-License-Identifier: MIT OR Apache-2.0
//! Translations: by rules for the first packet, by the connection for all others; and packets that rules end.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::packet_state::{Flight, Mode, Tuple};
use super::source_change::SourceChange;
use super::steps::{AtHook, Stage, Translation};
use super::walker::{Next, Walker};
use super::world::Host;
use crate::cause::Certainty::Certain;
use crate::cause::Finding;
use crate::cause::Place as At;
use crate::cause::catalogue as c;
use crate::cause::diversion::{Diversion, hides_another, is_ordinary, removal};
use crate::cause::{kube_proxy, nat_addresses, spared};
use crate::firewall::{Backend, PacketView, RuleRef, TableFamily, Target};
use crate::node::Hook;
use crate::snapshot::{Change, accepting};

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
        host: &Arc<Host>,
        at: AtHook<'_>,
        flight: &mut Flight,
        target: &Target,
        rule: &RuleRef,
        step: usize,
    ) -> Result<(), Next> {
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
                let Some(here) = here else {
                    let (name, device) = (host.name(), host.device(at.input));
                    let command = |command: String| host.command(command);
                    let list = host.command(list(rule, !ipv4));
                    let asked = tuple.dst.0;
                    let finding = nat_addresses::redirect((&name, &device), rule, asked, list, &command);
                    let stage = self.stage(host, Stage::Passing, flight);
                    let place = At {
                        hook: Some(at.hook.name().to_owned()),
                        rule: Some(rule.place()),
                        ..Self::place(host, at.input)
                    };
                    return Err(self.stop(host, stage, finding.at(place)));
                };
                ("DNAT", Tuple { dst: (here, port(*ports, tuple.dst.1)), ..tuple })
            }
            Target::Snat(to) => {
                let address = to.addresses.map_or(tuple.src.0, |range| range.first);
                ("SNAT", Tuple { src: (address, port(to.ports, tuple.src.1)), ..tuple })
            }
            Target::Masquerade { ports, .. } => {
                let hop = flight.next_hop.unwrap_or(tuple.dst.0);
                let Some(address) = host.address_on(at.output, hop) else {
                    let device = host.device(at.output);
                    self.open(format!(
                        "the source that {rule} gives: {device} of {} has no address",
                        host.name()
                    ));
                    return Ok(());
                };
                ("SNAT", Tuple { src: (address, port(*ports, tuple.src.1)), ..tuple })
            }
            _ => return Ok(()),
        };
        let before = (to != tuple).then(|| flight.packet.clone());
        let packet = &mut flight.packet;
        if kind == "DNAT" {
            packet.ct_dnat = Some(true);
        } else {
            packet.ct_snat = Some(true);
        }
        if to != tuple {
            self.translate(flight, to, kind, rule.to_string(), step);
            self.note_diversion(host, at.hook, kind, rule, (tuple, to), before.as_ref());
            if to.src.0 != tuple.src.0 {
                let sources = (tuple.src.0, to.src.0);
                self.sources.push(SourceChange::new(host, at.hook.name(), rule, sources, &self.steps));
            }
        }
        if let Some(entry) = flight.entries.get_mut(&host.id) {
            entry.after = to;
        }
        Ok(())
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
        before: Option<&PacketView>,
    ) {
        if self.diverted.is_some() || (kind == "SNAT" && host.owns(to.src.0)) {
            return;
        }
        let hides = before
            .filter(|_| kind != "SNAT")
            .and_then(|packet| hides_another(&*host.evidence, hook, packet, rule));
        if is_ordinary(rule) && hides.is_none() {
            return;
        }
        let ipv6 = from.src.0.is_ipv6();
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
            id: host.id,
            netns: host.name(),
            hook: hook.name(),
            what,
            from: before,
            to: after,
            list: host.command(list(rule, from.src.addr.ip().is_ipv6())),
            forget: host.command(format!("conntrack -D {which}")),
            hides: hides.map(|hides| (host.command(removal(&hides.rule, ipv6)), hides)),
        };
        self.diverted = Some((diversion, self.found.len()));
    }
}

/// The command that lists the chain of a rule.
pub(super) fn list(rule: &RuleRef, ipv6: bool) -> String {
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
    let what = if flight.inside.is_some() {
        format!("UDP {} from {}", flight.packet.dst_port.unwrap_or(0), flight.packet.src)
    } else {
        flight.tuple().ends().to_string()
    };
    let list = list(rule, flight.packet.src.is_ipv6());
    let invalid = rule.text.to_ascii_uppercase().contains("INVALID");
    let marking = kube_proxy::marked(&host.evidence, hook, &flight.packet, rule);
    let (kind, title) = match rule {
        _ if marking.is_some() => (&c::RULE, {
            let by = marking.as_ref().map_or(rule, kube_proxy::Marking::reason);
            format!("{by} on {} marks {whose} to be dropped", host.name())
        }),
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
    let asked = marking.as_ref().map_or((rule, led_by), |m| (&m.rule, m.led_by.as_ref()));
    let fix = if let Some(fix) = kube_proxy::fix(asked.0, asked.1, &host.name()) {
        fix
    } else if let Some(marking) = &marking {
        format!("correct {}, or accept {what} before it", marking.reason())
    } else if spared::is_network_policy(rule) {
        format!("let a NetworkPolicy allow {what}")
    } else if kind.id == c::POLICY.id {
        format!("accept {what} in {} {}, or set its policy to ACCEPT", rule.table, rule.chain)
    } else {
        format!("remove or correct that rule, or accept {what} before it")
    };
    // A rule of a NetworkPolicy or a service does what it is for.
    let deletable = rule.number != 0 && fix.starts_with("remove");
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
        _ if marking.is_some() => finding.fact(format!("{rule} drops it for that mark")),
        Some(led_by) => finding.fact(format!("{} is reached by {led_by}", rule.chain)),
        None => finding,
    };
    let finding = finding.fix(&fix).at(At {
        netns: host.name(),
        hook: Some(hook.name().to_owned()),
        rule: Some(rule.place()),
        ..At::default()
    });
    if invalid {
        return finding;
    }
    let finding =
        spared::tell(finding, &*host.evidence, &flight.packet, rule, &|command| host.command(command));
    // Where something else spares the packet, the rule is to stay.
    if kind.id == c::POLICY.id {
        return finding.change(host.id, accept_at_policy(rule, flight));
    }
    if deletable && finding.fix == fix {
        finding.change(host.id, Change::DeleteRule(rule.clone()))
    } else {
        finding
    }
}

/// The flow's direction, accepted behind all rules of the chain.
fn accept_at_policy(policy: &RuleRef, flight: &Flight) -> Change {
    let packet = &flight.packet;
    let ports =
        if flight.inner().mode == Mode::Reply { (packet.src_port, None) } else { (None, packet.dst_port) };
    let rule = accepting(policy.backend, (packet.src, packet.dst), packet.proto, ports);
    Change::InsertRule { place: policy.clone(), rule: Box::new(rule) }
}
