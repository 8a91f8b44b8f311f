// SPDX-License-Identifier: MIT OR Apache-2.0
//! Routes that another agent puts before those that would lead there: an ip rule with a table of its own, the network of
//! a bridge that nobody is behind, a next hop that a redirect told.

use super::route_words::{ip_command, words};
use super::world::Host;
use crate::cause::Certainty::{self, Likely, Possible};
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::cluster::egress::datapath::is_node_mark;
use crate::fib::{Answer, Decision, Outcome, Question, Routed};
use crate::node::IpPrefix;
use crate::node::rtnl::{Link, Route, Rule};
use crate::snapshot::Change;
use crate::text::table_name;

/// FR_ACT_TO_TBL
const TO_TABLE: u8 = 1;

/// What took a packet, and where it would go without that.
pub(crate) struct Preempted {
    by: By,
    /// The device that it goes out by.
    output: u32,
    /// The route in use, in words.
    used: String,
    /// The route that applies without it, and its device.
    instead: Route,
    instead_words: String,
    own_network: bool,
    by_default: bool,
    question: Question,
}

/// What the kernel adds by itself.
const RTPROT_KERNEL: u8 = 2;

enum By {
    /// A rule that leads to a table of its own. `all`: it takes whatever comes.
    Rule { rule: Box<Rule>, all: bool },
    /// The network of a bridge without ports.
    EmptyBridge { network: IpPrefix },
    /// A next hop that no table has.
    Redirect { to: String },
}

impl Preempted {
    /// Of a packet that is looked up like this; `None`: the route in use is the only one, or leads by the same device.
    pub(crate) fn find(host: &Host, question: &Question) -> Option<Self> {
        let addresses: Vec<_> = question.source.into_iter().chain([question.destination]).collect();
        let fib = host.evidence.fib_about(&addresses);
        let answer = fib.lookup_unchecked(question);
        Self::of(host, question, answer.certain()?)
    }

    /// The same of what a lookup said.
    pub(crate) fn of(host: &Host, question: &Question, outcome: &Outcome<'_>) -> Option<Self> {
        let evidence = &host.evidence;
        let addresses: Vec<_> = question.source.into_iter().chain([question.destination]).collect();
        let Decision::Routed(routed) = &outcome.decision else { return None };
        let (used, [hop]) = (routed.route?, routed.hops.as_slice()) else { return None };
        if routed.kind != libc::RTN_UNICAST {
            return None;
        }
        let found = |by, instead: Route| {
            let output = instead.next_hops.first().map_or(0, |hop| hop.ifindex);
            let own_network = instead.next_hops.iter().all(|hop| hop.gateway.is_none())
                && has_address_beside(host, output, question)
                && !has_address_beside(host, hop.ifindex, question);
            Self {
                by,
                output: hop.ifindex,
                used: words(host, used),
                instead_words: words(host, &instead),
                instead,
                own_network,
                by_default: used.destination.is_empty(),
                question: question.clone(),
            }
        };
        let table_gateway = used.next_hops.iter().find(|h| h.ifindex == hop.ifindex).and_then(|h| h.gateway);
        if let (Some(_), Some(to)) = (hop.exception, hop.gateway)
            && Some(to) != table_gateway
        {
            return Some(found(By::Redirect { to: to.to_string() }, used.clone()));
        }
        let elsewhere = |answer: &Answer<'_>| {
            let routed = answer.routed().filter(|routed| routed.kind == libc::RTN_UNICAST)?;
            goes_elsewhere(routed, hop.ifindex).then(|| routed.route.cloned()).flatten()
        };
        let own_table = |rule: &&Rule| {
            rule.action == TO_TABLE
                && !matches!(rule.table, 253..=255)
                && !rule.conditions.l3mdev
                && !is_node_mark(rule.mark)
        };
        if let Some(rule) = outcome.rule.filter(own_table) {
            let others: Vec<Rule> =
                evidence.rules.iter().filter(|r| r.table != rule.table || !own_table(r)).cloned().collect();
            let fib = evidence.fib_with(&others, &evidence.routes, &addresses);
            let instead = elsewhere(&fib.lookup_unchecked(question))?;
            return Some(found(By::Rule { rule: Box::new(rule.clone()), all: takes_all(rule) }, instead));
        }
        let link = host.link(hop.ifindex).filter(|link| link.is_kind("bridge"))?;
        if hop.gateway.is_some() || evidence.links.iter().any(|l| l.master == Some(link.ifindex)) {
            return None;
        }
        let others: Vec<Route> = evidence
            .routes
            .iter()
            .filter(|r| r.next_hops.iter().all(|h| h.ifindex != link.ifindex))
            .cloned()
            .collect();
        let fib = evidence.fib_with(&evidence.rules, &others, &addresses);
        let instead = elsewhere(&fib.lookup_unchecked(question))?;
        Some(found(By::EmptyBridge { network: used.destination }, instead))
    }

    /// It looks wrong before any packet was sent. A rule for some sources or marks is an ordinary thing, a VPN that
    /// takes all may be meant.
    pub(crate) fn suspicion(&self, host: &Host) -> Option<Certainty> {
        let vpn = host.link(self.output).is_some_and(crate::node::rtnl::Link::is_layer3);
        match self.by {
            By::EmptyBridge { .. } => Some(Likely),
            // One that only takes some sources by default is how a second NIC is used.
            By::Rule { all, .. } if self.own_network && (all || !self.by_default) => Some(Likely),
            By::Rule { all: true, .. } if vpn => Some(Possible),
            By::Redirect { .. } => Some(Possible),
            By::Rule { .. } => None,
        }
    }

    /// The same of a packet that nothing came back for.
    pub(crate) fn after_silence(&self, host: &Host) -> Certainty {
        match (&self.by, self.suspicion(host)) {
            (By::Rule { .. }, None) => Possible,
            _ => Likely,
        }
    }

    /// `seen`: what became of the packet; nothing in a prediction.
    pub(crate) fn say(&self, host: &Host, certainty: Certainty, seen: &str) -> Finding {
        let (name, to, out) = (host.name(), self.question.destination, host.device(self.output));
        let (ip, used, instead) = (ip_command(to), &self.used, &self.instead_words);
        let device = host.device(self.instead.next_hops.first().map_or(0, |hop| hop.ifindex));
        let seen = if seen.is_empty() { String::new() } else { format!("; {seen}") };
        let finding = match &self.by {
            By::Rule { rule, .. } => {
                let (priority, table) = (rule.priority, table_name(rule.table));
                let selector = rule.selector();
                let network = if self.own_network {
                    format!("{device} has an address of that network itself")
                } else {
                    format!("table {} would send it out of {device}", table_name(self.instead.table))
                };
                Finding::new(
                    &c::ROUTE_PREEMPTED,
                    certainty,
                    format!("ip rule {priority} of {name} ({selector} lookup {table}) sends {to} out of {out} by {used}, though {network}{seen}"),
                )
                .checked(
                    "the rule comes first, and its table has that route",
                    host.command(format!("{ip} rule show; {}", host.command(format!("{ip} route show table {table}")))),
                )
                .checked(
                    format!("without it: {instead}"),
                    host.command(format!("{ip} route show table {} match {to}", table_name(self.instead.table))),
                )
                .fix(match priority.checked_sub(1) {
                    Some(before) => format!(
                        "{} (the rule is another program's: its list of networks is to be corrected there)",
                        host.command(format!(
                            "{ip} rule add priority {before} to {} lookup {}",
                            self.reach(),
                            table_name(self.instead.table)
                        ))
                    ),
                    None => format!("correct the networks of table {table}: its owner writes them"),
                })
            }
            By::EmptyBridge { network } if let Some(port) = loose_ports(host).next() => {
                let port = host.device(port.ifindex);
                let finding = Finding::new(
                    &c::PORT_NOT_IN_BRIDGE,
                    Likely,
                    format!("{port} of {name} is not in {out}, which has the network {network} and no port: nobody is behind it who could be {to}{seen}"),
                )
                .checked(format!("{port} is in no bridge"), host.command(format!("ip -d link show {port}")))
                .checked(format!("no device is a port of {out}"), host.command(format!("ip link show master {out}")))
                .fix(host.command(format!("ip link set {port} master {out}")));
                loose_ports(host).fold(finding, |finding, port| {
                    let change = Change::JoinBridge { port: port.ifindex, bridge: self.output };
                    finding.change(host.id, change)
                })
            }
            By::EmptyBridge { network } => Finding::new(
                &c::ROUTE_PREEMPTED,
                certainty,
                format!("{out} of {name} has the network {network} and no port, so nobody is behind it: it takes packets to {to}, which would go by {instead} otherwise{seen}"),
            )
            .checked(format!("{used} is the more precise route"), host.command(format!("{ip} route show match {to}")))
            .checked(format!("no device is a port of {out}"), host.command(format!("ip link show master {out}")))
            .fix(format!(
                "{} (lasting: give {out} another network, in the configuration of its owner)",
                host.command(format!("{ip} route add {to} {}", by(host, &self.instead)))
            )),
            By::Redirect { to: gateway } => Finding::new(
                &c::ROUTE_PREEMPTED,
                certainty,
                format!("{name} sends {to} to {gateway} on {out}, which an ICMP redirect told it; its tables say {used}{seen}"),
            )
            .checked(
                format!("the redirected next hop is in no table, only in the cache of {name}"),
                host.command(format!("{ip} route get {to}")),
            )
            .fix(format!(
                "{} (lasting: {})",
                host.command(format!("{ip} route flush cache")),
                host.command(format!(
                    "sysctl -w net.{}.conf.{}.accept_redirects=0",
                    if to.is_ipv6() { "ipv6" } else { "ipv4" },
                    out.replace('.', "/")
                ))
            )),
        };
        finding.about(to).at(crate::cause::Place {
            netns: name,
            device: Some(out),
            ..crate::cause::Place::default()
        })
    }

    /// What a rule of its own has to name.
    fn reach(&self) -> String {
        if self.instead.destination.is_empty() {
            self.question.destination.to_string()
        } else {
            self.instead.destination.to_string()
        }
    }
}

/// It asks for nothing that only some packets have.
fn takes_all(rule: &Rule) -> bool {
    rule.inverted
        || (rule.source.is_none()
            && rule.destination.is_none()
            && rule.mask == 0
            && rule.input.is_none()
            && rule.output.is_none()
            && rule.more.is_empty())
}

fn goes_elsewhere(routed: &Routed<'_>, output: u32) -> bool {
    routed.hops.iter().all(|hop| hop.ifindex != output)
}

/// The device has an address of a network of which the destination is.
fn has_address_beside(host: &Host, ifindex: u32, question: &Question) -> bool {
    host.evidence.addresses.iter().filter(|a| a.ifindex == ifindex).any(|a| {
        IpPrefix::new(a.address, a.prefix_len)
            .is_some_and(|network| !network.is_empty() && network.contains(question.destination))
    })
}

/// `via 10.0.0.1 dev eth0`.
fn by(host: &Host, route: &Route) -> String {
    let hop = route.next_hops.first().copied().unwrap_or_default();
    let via = hop.gateway.map_or_else(String::new, |gateway| format!("via {gateway} "));
    format!("{via}dev {}", host.device(hop.ifindex))
}

/// Veths to pods that are in no bridge and have neither address nor route: what once was a port.
fn loose_ports(host: &Host) -> impl Iterator<Item = &Link> {
    let evidence = &host.evidence;
    evidence.links.iter().filter(move |link| {
        let own = evidence.addresses.iter().any(|a| a.ifindex == link.ifindex && a.scope == 0);
        let routed = evidence.routes.iter().any(|r| {
            r.kind == libc::RTN_UNICAST
                && r.protocol != RTPROT_KERNEL
                && r.next_hops.iter().any(|hop| hop.ifindex == link.ifindex)
        });
        link.is_kind("veth")
            && link.is_up()
            && link.master.is_none()
            && !host.uplinks.contains(&link.ifindex)
            && !own
            && !routed
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::node::Role;
    use crate::node::rtnl::{Address, Link, NextHop};
    use crate::snapshot::NetnsEvidence;

    fn link(ifindex: u32, name: &str, kind: Option<&str>, hardware: u16) -> Link {
        Link {
            ifindex,
            name: name.to_owned(),
            kind: kind.map(str::to_owned),
            hardware,
            flags: 0x1_0001,
            mtu: 1500,
            ..Link::default()
        }
    }

    fn route(table: u32, to: &str, ifindex: u32, via: Option<&str>) -> Route {
        let gateway = via.map(|via| via.parse().unwrap());
        Route {
            destination: to.parse().unwrap(),
            table,
            kind: libc::RTN_UNICAST,
            next_hops: vec![NextHop { ifindex, gateway, ..NextHop::default() }],
            ..Route::default()
        }
    }

    fn rule(priority: u32, table: u32) -> Rule {
        Rule { priority, action: TO_TABLE, table, ..Rule::default() }
    }

    /// eth0 in 10.0.0.0/24 with the default route, vpn0 without a link layer, docker0 without ports.
    fn node() -> NetnsEvidence {
        let ethernet = libc::ARPHRD_ETHER;
        NetnsEvidence {
            links: vec![
                link(2, "eth0", None, ethernet),
                link(3, "vpn0", Some("tun"), libc::ARPHRD_NONE),
                link(4, "docker0", Some("bridge"), ethernet),
            ],
            addresses: vec![Address {
                ifindex: 2,
                address: "10.0.0.11".parse().unwrap(),
                prefix_len: 24,
                ..Address::default()
            }],
            rules: vec![rule(32766, 254)],
            routes: vec![route(254, "0.0.0.0/0", 2, Some("10.0.0.1")), route(254, "10.0.0.0/24", 2, None)]
                .into(),
            ..NetnsEvidence::default()
        }
    }

    fn find(evidence: NetnsEvidence, to: &str) -> Option<(Option<Certainty>, String)> {
        let host = Host::new(1, Role::Node, None, Arc::new(evidence), [2].into());
        let found =
            Preempted::find(&host, &Question::to(to.parse().unwrap()).from("10.200.0.23".parse().unwrap()))?;
        let finding = found.say(&host, Likely, "");
        Some((found.suspicion(&host), format!("{}\n{}", finding.title, finding.fix)))
    }

    #[test]
    fn a_vpns_table_with_the_nodes_own_network_is_named_with_its_rule() {
        let mut evidence = node();
        evidence.rules.insert(0, rule(5270, 52));
        Arc::make_mut(&mut evidence.routes).push(route(52, "10.0.0.0/24", 3, None));
        let (sure, text) = find(evidence.clone(), "10.0.0.12").unwrap();
        assert_eq!(sure, Some(Likely));
        assert!(text.starts_with("ip rule 5270 of "), "{text}");
        assert!(
            text.contains("out of vpn0") && text.contains("eth0 has an address of that network"),
            "{text}"
        );
        assert!(text.contains("ip rule add priority 5269 to 10.0.0.0/24 lookup main"), "{text}");
        // What the table does not have goes as before.
        assert!(find(evidence, "192.0.2.1").is_none());
    }

    #[test]
    fn two_nics_in_one_network_with_a_table_each_are_nothing_wrong() {
        let mut evidence = node();
        evidence.links.push(link(5, "eth1", None, libc::ARPHRD_ETHER));
        evidence.addresses.push(Address {
            ifindex: 5,
            address: "10.0.0.21".parse().unwrap(),
            prefix_len: 24,
            ..Address::default()
        });
        evidence.rules.insert(0, rule(100, 7));
        Arc::make_mut(&mut evidence.routes).push(route(7, "10.0.0.0/24", 5, None));
        assert_eq!(find(evidence, "10.0.0.12").unwrap().0, None);
    }

    #[test]
    fn a_pod_with_a_nic_of_its_own_reaches_the_other_nics_network_by_it() {
        let mut evidence = node();
        evidence.links.push(link(5, "eth1", None, libc::ARPHRD_ETHER));
        evidence.rules.insert(0, Rule { source: Some("10.200.0.23/32".parse().unwrap()), ..rule(1536, 2) });
        Arc::make_mut(&mut evidence.routes).push(route(2, "0.0.0.0/0", 5, Some("10.9.0.1")));
        assert_eq!(find(evidence, "10.0.0.12").unwrap().0, None);
    }

    #[test]
    fn a_vpn_that_takes_all_may_be_meant() {
        let mut evidence = node();
        evidence.rules.insert(0, Rule { mark: 1, mask: u32::MAX, inverted: true, ..rule(100, 7) });
        Arc::make_mut(&mut evidence.routes).push(route(7, "0.0.0.0/0", 3, None));
        assert_eq!(find(evidence, "192.0.2.1").unwrap().0, Some(Possible));
    }

    #[test]
    fn a_bridge_without_ports_has_the_network_of_a_far_host() {
        let mut evidence = node();
        Arc::make_mut(&mut evidence.routes).push(route(254, "172.17.0.0/16", 4, None));
        let (sure, text) = find(evidence.clone(), "172.17.15.220").unwrap();
        assert_eq!(sure, Some(Likely));
        assert!(text.contains("docker0") && text.contains("172.17.0.0/16"), "{text}");
        assert!(text.contains("ip route add 172.17.15.220 via 10.0.0.1 dev eth0"), "{text}");
        evidence.links.push(Link { master: Some(4), ..link(6, "veth1", Some("veth"), libc::ARPHRD_ETHER) });
        assert!(find(evidence, "172.17.15.220").is_none(), "a container may be there");
    }

    #[test]
    fn a_next_hop_of_a_redirect_is_in_no_table() {
        let mut evidence = node();
        let told = Route { cached: true, ..route(254, "192.0.2.1/32", 2, Some("10.0.0.99")) };
        evidence.exceptions.push(told);
        let (sure, text) = find(evidence, "192.0.2.1").unwrap();
        assert_eq!(sure, Some(Possible));
        assert!(text.contains("to 10.0.0.99 on eth0, which an ICMP redirect told it"), "{text}");
        assert!(text.contains("ip route flush cache"), "{text}");
    }
}
