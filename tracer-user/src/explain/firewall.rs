// SPDX-License-Identifier: MIT OR Apache-2.0
//! Drops by netfilter: a rule, a policy, a REJECT, conntrack itself, NAT itself.

use super::context::View;
use super::other_hooks::{self, what};
use super::packet;
use super::{confirm, invalid};
use crate::cause::Certainty::{Certain, Likely};
use crate::cause::catalogue as c;
use crate::cause::{Finding, Place};
use crate::cause::{kube_proxy, nat_addresses, spared};
use crate::firewall::{Backend, Done, RuleRef, Target, attribute_drop, walk_hook};
use crate::flow::{DropSite, Place as At, candidates};
use crate::node::{Hook, HookEntry, HookOwner, Interval};

pub(super) fn dropped(view: &View<'_>, site: &DropSite) -> Option<Finding> {
    let Some(at) = site.interval else { return other_hooks::dropped(view, site) };
    let place = Place { hook: Some(at.hook.name().to_owned()), ..view.place(site.netns, site.ifindex) };
    // What an equal packet showed need not hold for this one.
    let whole = Interval { after: i32::MIN, until: i32::MAX, ..at };
    let first = if at.learned { whole } else { at };
    let by_rule = by_rule(view, site, &first).or_else(|| by_rule(view, site, &whole));
    let by_kernel =
        || redirect_without_address(view, site, &whole).or_else(|| by_the_kernel(view, site, &at));
    let found = match by_rule {
        Some(finding) if finding.certainty == Certain => Some(finding),
        Some(finding) => by_kernel().or(Some(finding)),
        None => by_kernel(),
    };
    if let Some(finding) = found {
        let place = Place { rule: finding.place.rule.clone(), ..place };
        return Some(finding.at(place));
    }
    let suspects: Vec<&HookEntry> = candidates(view.topology, &at, site.deed)
        .into_iter()
        .filter(|entry| entry.owner.can_mark())
        .collect();
    let mut tables: Vec<String> = Vec::new();
    for entry in &suspects {
        let label = entry.owner.label();
        if !tables.contains(&label) {
            tables.push(label);
        }
    }
    if tables.is_empty() {
        return other_hooks::dropped(view, site);
    }
    // Where the rules were read and none of them did it, they changed, or the interval is wrong.
    let sure = if tables.len() == 1 && view.of(site.netns).is_none() { Certain } else { Likely };
    let whose = if site.encap.is_some() { "the tunnel's outer packet" } else { "the packet" };
    let name = view.netns(site.netns);
    let hook = at.hook.name();
    let table = tables.join(" or ");
    let rejected = view.icmp_sent().is_some_and(is_reject) || view.was_reset();
    let list = list(view, site, &suspects, hook);
    if rejected {
        return Some(
            Finding::new(&c::REJECTED, sure, format!("a rule in {table} {hook} of {name} rejects {whose}"))
                .checked("NETFILTER_DROP, and the sender was told at once", list)
                .fact("kube-proxy rejects so what goes to a service without endpoints")
                .fix(format!("for a service: check its selector and that its pods are ready; else remove the REJECT rule in {table} {hook}"))
                .at(place),
        );
    }
    let policies =
        suspects.iter().filter(|e| matches!(e.owner, HookOwner::Nft { policy_drop: true, .. })).count();
    let finding = if policies > 0 && policies == suspects.len() {
        Finding::new(
            &c::POLICY,
            Likely,
            format!("{table} {hook} of {name} drops {whose}: its policy is DROP, and no rule accepts it"),
        )
    } else if policies > 0 {
        // One chain of several has policy DROP; which of them did it is not known yet.
        Finding::new(
            &c::POLICY,
            Likely,
            format!("{hook} of {name} drops {whose}: a chain there has policy DROP and no rule accepts it"),
        )
    } else {
        Finding::new(&c::RULE, sure, format!("a rule in {table} {hook} of {name} drops {whose}"))
    };
    Some(
        finding
            .checked(format!("NETFILTER_DROP in {hook}"), list)
            .fix(format!("remove or correct that rule, or accept {} before it", what(view, site)))
            .at(place),
    )
}

fn is_reject((icmp_type, code): (u8, u8)) -> bool {
    matches!((icmp_type, code), (3, 0..=3 | 9 | 10 | 13) | (1, 0..=6))
}

fn list(view: &View<'_>, site: &DropSite, suspects: &[&HookEntry], hook: &str) -> String {
    let command = match suspects.first().map(|e| &e.owner) {
        Some(HookOwner::Iptables { table }) => format!("{}-legacy -t {table} -vnL {hook}", view.iptables()),
        Some(HookOwner::Nft { family, table, chain, .. }) if chain != hook => {
            format!("nft list chain {family} {table} {chain}")
        }
        Some(HookOwner::Nft { table, .. }) => {
            format!("{} -t {table} -vnL {hook} --line-numbers", view.iptables())
        }
        _ => "nft list ruleset".to_owned(),
    };
    view.command(site.netns, command)
}

/// Conntrack and NAT drop by themselves: at PREROUTING and OUTPUT when the table is full, at POSTROUTING when
/// no port is free. Where they can be told from rules, or what was read says so.
fn by_the_kernel(view: &View<'_>, site: &DropSite, at: &Interval) -> Option<Finding> {
    // A drop at a place without a name may as well be a rule's.
    if matches!(view.symbol(site).as_str(), "nft_do_chain" | "") {
        return None;
    }
    let entries = candidates(view.topology, at, site.deed);
    let legacy = entries.iter().any(|e| matches!(e.owner, HookOwner::Iptables { .. }));
    let has = |word: &str| {
        entries.iter().any(|e| matches!(&e.owner, HookOwner::Kernel { name } if name.contains(word)))
    };
    let table = view.of(site.netns).map(|e| e.conntrack).unwrap_or_default();
    let full = table.count.zip(table.max).map(|(count, max)| (count + count / 50 >= max, count, max));
    match at.hook {
        Hook::Prerouting | Hook::Output if has("conntrack") || full.is_some_and(|f| f.0) => {
            let sure = match full {
                Some((true, ..)) => Certain,
                Some((false, ..)) => return None,
                None if legacy => return None,
                None => Likely,
            };
            let numbers =
                full.map(|(_, count, max)| format!(" ({count} of {max} entries)")).unwrap_or_default();
            Some(
                Finding::new(&c::CONNTRACK_FULL, sure, format!("the connection table of {} is full{numbers}", view.netns(site.netns)))
                    .checked(
                        "conntrack refused the packet: NETFILTER_DROP without a rule",
                        view.command(site.netns, "sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max"),
                    )
                    .fix("sysctl -w net.netfilter.nf_conntrack_max=524288 (kube-proxy: --conntrack-min), or find who opens so many connections"),
            )
        }
        Hook::Postrouting if has("nat") || !legacy => confirm::refused(view, site),
        _ => None,
    }
}

/// A REDIRECT rule that the packet meets, on a device without an address.
fn redirect_without_address(view: &View<'_>, site: &DropSite, at: &Interval) -> Option<Finding> {
    if at.hook != Hook::Prerouting || site.encap.is_some() {
        return None;
    }
    let evidence = view.of(site.netns)?;
    let packet = super::attribution::first_packet(&packet::at_drop(view, site, at));
    let walk = walk_hook(evidence, Hook::Prerouting, i32::MIN..i32::MAX, &packet);
    let effect =
        walk.effects.iter().find(|effect| matches!(effect.done, Done::Nat(Target::Redirect { .. })))?;
    let device = packet.input.as_deref()?;
    let ifindex = evidence.link(device)?.ifindex;
    let has =
        |a: &crate::node::rtnl::Address| a.ifindex == ifindex && a.address.is_ipv4() == packet.dst.is_ipv4();
    if evidence.addresses.iter().any(has) {
        return None;
    }
    let rule = effect.at.name();
    let list = view.command(site.netns, list_of(view, &rule));
    let command = |text: String| view.command(site.netns, text);
    let found = nat_addresses::redirect((&view.netns(site.netns), device), &rule, packet.dst, list, &command);
    Some(found.at(Place { rule: Some(rule.place()), ..Place::default() }))
}

/// The rule by name, from the walk of this packet through what was read.
fn by_rule(view: &View<'_>, site: &DropSite, at: &Interval) -> Option<Finding> {
    let evidence = view.of(site.netns)?;
    let packet = packet::at_drop(view, site, at);
    let found = attribute_drop(evidence, at, &packet);
    let rule = found.rules.first()?;
    let whose = if site.encap.is_some() { "the tunnel's outer packet" } else { "the packet" };
    let name = view.netns(site.netns);
    // It was dropped by a rule, and there is but one that can have done it.
    let by_elimination = found.alone && view.symbol(site) == "nft_do_chain";
    let sure = if found.rules.len() == 1 && (found.certain || by_elimination) { Certain } else { Likely };
    let (kind, verb) = match rule {
        rule if rule.number == 0 => (&c::POLICY, "drops"),
        rule if rule.text.contains("REJECT") || rule.text.contains("reject") => (&c::REJECTED, "rejects"),
        rule if rule.text.to_ascii_uppercase().contains("INVALID") => (&c::CONNTRACK_INVALID, "drops"),
        _ => (&c::RULE, "drops"),
    };
    let why = (kind.id == c::CONNTRACK_INVALID.id).then(|| invalid::why(view, site.netns));
    let mut title = format!("{rule} on {name} {verb} {whose}");
    if kind.id == c::POLICY.id {
        title.push_str(": no rule before accepts it");
    } else if kind.id == c::CONNTRACK_INVALID.id {
        title.push_str(": conntrack takes it for INVALID: ");
        title.push_str(why.as_ref().map_or("", |why| &why.text));
    }
    let tool = list_of(view, rule);
    if let Some((dropped, all)) = view.odds.of(view.journey, site, at.hook).filter(|_| by_chance(&rule.text))
    {
        title.push_str(&format!(" by chance: {dropped} of {all} so far"));
    }
    let mut finding = Finding::new(kind, sure, title)
        .checked(format!("NETFILTER_DROP in {}", at.hook.name()), view.command(site.netns, tool));
    if !rule.text.is_empty() {
        finding = finding.fact(format!("the rule: {}", rule.text));
    }
    if let Some(led_by) = &found.led_by {
        finding = finding.fact(format!("{} is reached by {led_by}", rule.chain));
    }
    if found.rules.len() > 1 {
        let others: Vec<String> = found.rules[1..].iter().take(3).map(ToString::to_string).collect();
        finding = finding.fact(format!("or it was {}", others.join(" or ")));
    }
    let unknown = if sure == Certain { 0 } else { 1 };
    for (at, what) in found.undecided.iter().take(unknown) {
        finding = finding.fact(format!("not decided: {what} of {at}"));
    }
    let marking = kube_proxy::marked(evidence, at.hook, &packet, rule);
    if let Some(marking) = &marking {
        finding.title = format!("{} on {name} marks {whose} to be dropped", marking.reason());
        finding = finding.fact(format!("{rule} drops it for that mark"));
    }
    let asked = marking.as_ref().map_or((rule, found.led_by.as_ref()), |m| (&m.rule, m.led_by.as_ref()));
    let fix = if let Some(fix) = kube_proxy::fix(asked.0, asked.1, &name) {
        fix
    } else if let Some(marking) = &marking {
        format!("correct {}, or accept {} before it", marking.reason(), what(view, site))
    } else if spared::is_network_policy(rule) {
        format!("let a NetworkPolicy allow {}", what(view, site))
    } else if kind.id == c::POLICY.id {
        format!("accept {} in {} {}, or set its policy to ACCEPT", what(view, site), rule.table, rule.chain)
    } else {
        format!("remove or correct that rule, or accept {} before it", what(view, site))
    };
    let place = Place { rule: Some(rule.place()), ..Place::default() };
    let finding = finding.fix(fix).about(rule.place()).at(place);
    Some(match why {
        Some(why) => why.tell(finding),
        None => spared::tell(finding, evidence, &packet, rule, &|text| view.command(site.netns, text)),
    })
}

/// A rule that takes some packets and leaves others that are alike.
fn by_chance(text: &str) -> bool {
    ["statistic", "numgen", "limit"].iter().any(|word| text.contains(word))
}

/// A rule that is not asked at a hook of IPv4 or IPv6: nft's families netdev and bridge, ebtables.
pub(super) fn elsewhere(view: &View<'_>, site: &DropSite) -> Option<Finding> {
    let calls = view.calls(site);
    let through = |part: &str| calls.iter().any(|name| name.contains(part));
    let device = view.device(site.netns, site.ifindex)?;
    let last = view.journey.hops.iter().rev().find(|h| !matches!(h.place, At::Route { .. }))?;
    let at_device = matches!(last.place, At::Device { ifindex, .. } if ifindex == site.ifindex);
    let (family, hook) = if through("br_") || (device.master.is_some() && !at_device) {
        ("bridge", "the bridge")
    } else if at_device {
        let out = matches!(last.place, At::Device { egress: true, .. });
        ("netdev", if out { "egress" } else { "ingress" })
    } else {
        return None;
    };
    let (name, on) = (view.netns(site.netns), view.device_name(site.netns, site.ifindex));
    let whose = if site.encap.is_some() { "the tunnel's outer packet" } else { "the packet" };
    let tool = if family == "bridge" {
        "nft -a list ruleset bridge; ebtables -L --Lc"
    } else {
        "nft -a list ruleset netdev"
    };
    Some(
        Finding::new(
            &c::RULE,
            Likely,
            format!("a rule of nft's {family} family drops {whose} on {name}, at {hook} of {on}: iptables does not show it"),
        )
        .checked("NETFILTER_DROP, and no hook of IPv4 or IPv6 was entered there", view.command(site.netns, tool))
        .fix(format!("remove or correct that rule, or accept {} before it", what(view, site)))
        .at(Place { hook: Some(hook.to_owned()), ..view.place(site.netns, site.ifindex) }),
    )
}

/// The command that lists the chain of a rule.
pub(super) fn list_of(view: &View<'_>, rule: &RuleRef) -> String {
    match rule.backend {
        Backend::Nft => format!("nft -a list chain {} {} {}", rule.family, rule.table, rule.chain),
        Backend::IptablesNft => {
            format!("{} -t {} -vnL {} --line-numbers", view.iptables(), rule.table, rule.chain)
        }
        Backend::IptablesLegacy => {
            format!("{}-legacy -t {} -vnL {} --line-numbers", view.iptables(), rule.table, rule.chain)
        }
    }
}
