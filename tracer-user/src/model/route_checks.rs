// SPDX-License-Identifier: MIT OR Apache-2.0
//! Routes that lead somewhere, but not where they should.

use std::net::IpAddr;
use std::sync::Arc;

use super::packet_state::Flight;
use super::route_words::{ip_command, words};
use super::routes::Way;
use super::steps::Stage;
use super::walker::{Next, Walker};
use super::world::Host;
use crate::cause::Certainty::{Certain, Likely};
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::cluster::egress::datapath::is_egress_tunnel;
use crate::fib::Question;
use crate::node::Role;
use crate::node::rtnl::{NextHop, Route, Rule};
use crate::snapshot::Change;
use crate::text::table_name;

/// include/uapi/linux/fib_rules.h
const FR_ACT_TO_TBL: u8 = 1;

impl Walker<'_> {
    /// An egress mark's rule and table, and where they lead. True: wrong, and told.
    pub(crate) fn wrong_table(
        &mut self,
        host: &Arc<Host>,
        stage: Stage,
        mark: u32,
        way: &Way,
        to: IpAddr,
    ) -> bool {
        let name = host.name();
        let out = host.device(way.output);
        let (ipv6, ip) = (to.is_ipv6(), ip_command(to));
        let own = |r: &&crate::node::rtnl::Rule| {
            r.ipv6 == ipv6 && r.mask == u32::MAX && r.mark == mark && !r.inverted && r.table == way.table
        };
        let rule = host.evidence.rules.iter().find(own).filter(|rule| rule.table != mark);
        let finding = if let Some(rule) = rule {
            let (priority, table) = (rule.priority, rule.table);
            Finding::new(
                &c::FWMARK_TABLE_WRONG,
                Certain,
                format!("ip rule {priority} of {name} leads mark {mark:#x} to table {table}, not to table {mark}: the packet goes out of {out}"),
            )
            .checked(
                format!("table {table} answers for mark {mark:#x}"),
                host.command(format!("{ip} rule show fwmark {mark:#x}")),
            )
            .fix(format!(
                "{}; {}",
                host.command(format!("{ip} rule del priority {priority} fwmark {mark:#x}")),
                host.command(format!("{ip} rule add priority 99 fwmark {mark:#x} lookup {mark}"))
            ))
            .change(host.id, Change::DeleteRoutingRule(rule.clone()))
        } else if way.table == mark && host.link(way.output).is_some_and(|link| !is_egress_tunnel(link)) {
            Finding::new(
                &c::FWMARK_TABLE_WRONG,
                Certain,
                format!(
                    "the routing table of mark {mark:#x} on {name} leads out of {out}, not into {}",
                    crate::cluster::egress::datapath::DEVICE
                ),
            )
            .checked(
                format!("table {mark} answers with {out}"),
                host.command(format!("{ip} route show table {mark}")),
            )
            .fix(format!("restart the egressgateway agent on {name}: it writes the route again"))
            .may_repair(host.id, taken(host, way, to).cloned().map(Change::DeleteRoute))
        } else {
            return false;
        };
        self.wrong(stage, finding.at(Self::place(host, way.output)));
        true
    }

    /// Routes into the loopback, and out of the node what another route would lead to a pod.
    pub(crate) fn judge_way(
        &mut self,
        host: &Arc<Host>,
        flight: &Flight,
        asked: &Question,
        way: Way,
    ) -> Result<(), Next> {
        let (to, name) = (asked.destination, host.name());
        if way.local || flight.inside.is_some() {
            return Ok(());
        }
        let stage = self.stage(host, Stage::Routing, flight);
        let ip = ip_command(to);
        if host.link(way.output).is_some_and(crate::node::rtnl::Link::is_loopback) {
            let finding = Finding::new(
                &c::WRONG_ROUTE,
                Certain,
                format!(
                    "{name} routes {to} into itself by {} (table {}), though it does not have that address",
                    host.device(way.output),
                    table_name(way.table)
                ),
            )
            .checked("the kernel's own lookup finds it", host.command(format!("{ip} route get {to}")))
            .fix(format!("correct that route: {}", host.command(format!("{ip} route show table all"))))
            .at(Self::place(host, way.output));
            return Err(self.stop(host, stage, finding));
        }
        if host.role != Role::Node || !host.uplinks.contains(&way.output) {
            return Ok(());
        }
        if let Some(finding) = detour(host, to, &way, "packets leave the node as they are") {
            self.wrong(stage, finding);
        }
        Ok(())
    }

    /// The strict filter only does its work: the way back is what is wrong.
    pub(crate) fn way_back(
        &self,
        host: &Host,
        input: u32,
        source: IpAddr,
        back: Option<Way>,
    ) -> Option<Finding> {
        let (name, device) = (host.name(), host.device(input));
        if let Some(finding) = self.duplicate(host, input, source) {
            return Some(finding);
        }
        let refusing = host
            .evidence
            .routes
            .iter()
            .filter(|r| r.destination.contains(source))
            .max_by_key(|r| r.destination.len());
        if back.is_none()
            && let Some(route) = refusing.filter(|r| matches!(r.kind, 6..=8))
        {
            let (kind, word) = match route.kind {
                6 => (&c::ROUTE_BLACKHOLE, "blackhole"),
                8 => (&c::ROUTE_PROHIBIT, "prohibit"),
                _ => (&c::ROUTE_UNREACHABLE, "unreachable"),
            };
            let ip = ip_command(source);
            return Some(
                Finding::new(
                    kind,
                    Certain,
                    format!("{name} has a route of type {word} for {source}: it refuses packets from there"),
                )
                .checked(
                    format!("{device} has a reverse path filter, and the way back ends with that route"),
                    host.command(format!("{ip} route show table {} type {word}", route.table)),
                )
                .fix(
                    host.command(format!(
                        "{ip} route del {word} {} table {}",
                        route.destination, route.table
                    )),
                )
                .change(host.id, Change::DeleteRoute(route.clone()))
                .at(Self::place(host, input)),
            );
        }
        let meant = |hop: u32| hop == input;
        detour_by(
            host,
            source,
            &back?,
            &meant,
            &format!(
                "{device} refuses packets from there (strict reverse path filter), and answers would go astray"
            ),
        )
    }
}

impl Walker<'_> {
    /// The host has the source of a packet that came in, and so does another one.
    pub(crate) fn duplicate(&self, host: &Host, input: u32, source: IpAddr) -> Option<Finding> {
        let own_index = host.owner(source)?;
        let (name, own) = (host.name(), host.device(own_index));
        let other =
            self.world.watched().into_iter().find(|other| other.id != host.id && other.owns(source))?;
        let there = other.device(other.owner(source)?);
        Some(
            Finding::new(
                &c::DUPLICATE_ADDRESS,
                Certain,
                format!("two hosts have {source}: {name} on {own}, and {} on {there}; {name} refuses packets from an address that is its own", other.name()),
            )
            .checked(format!("{source} is on {own} of {name}"), host.command(format!("ip addr show to {source}")))
            .checked(
                format!("{} has it too", other.name()),
                other.command(format!("ip addr show to {source}")),
            )
            .fix(host.command(format!("ip addr del {source} dev {own}")) + ", if that one is wrong")
            .change(host.id, Change::DeleteAddress { ifindex: own_index, address: source })
            .at(Self::place(host, input)),
        )
    }
}

/// The route by which a packet goes.
fn taken<'h>(host: &'h Host, used: &Way, to: IpAddr) -> Option<&'h Route> {
    let taken = host.evidence.routes.iter().filter(|r| {
        r.table == used.table
            && r.destination.contains(to)
            && r.next_hops.iter().any(|hop| hop.ifindex == used.output)
    });
    taken.max_by_key(|r| (r.destination.len(), std::cmp::Reverse(r.priority)))
}

fn detour(host: &Host, to: IpAddr, used: &Way, wrong: &str) -> Option<Finding> {
    let inside = |ifindex: u32| {
        host.link(ifindex).is_some_and(|l| l.vxlan.is_some() || l.is_kind("bridge"))
            && !host.uplinks.contains(&ifindex)
    };
    detour_by(host, to, used, &inside, wrong)
}

/// Another route fits as well, by a device that is meant; or a bridge has the network, and no route to it.
fn detour_by(
    host: &Host,
    to: IpAddr,
    used: &Way,
    meant: &dyn Fn(u32) -> bool,
    wrong: &str,
) -> Option<Finding> {
    let fits =
        |r: &&Route| r.kind == libc::RTN_UNICAST && r.destination.contains(to) && !r.destination.is_empty();
    let other = host
        .evidence
        .routes
        .iter()
        .filter(fits)
        .filter(|r| r.next_hops.iter().any(|hop| meant(hop.ifindex)))
        .max_by_key(|r| r.destination.len());
    let (name, ip) = (host.name(), ip_command(to));
    let out = host.device(used.output);
    let via = if used.gateway { format!(" via {}", used.next_hop) } else { String::new() };
    let taken = taken(host, used, to)?;
    if let Some(other) = other {
        let rule = host.evidence.rules.iter().find(|r| r.table == used.table && r.action == FR_ACT_TO_TBL);
        let rule = rule.filter(|_| used.table != other.table);
        let why = match (rule, taken.destination.len() > other.destination.len()) {
            (Some(rule), _) => format!(
                "ip rule {} ({}) asks table {} first",
                rule.priority,
                rule.selector(),
                table_name(used.table)
            ),
            (None, true) => "it is the more precise one".to_owned(),
            (None, false) => format!("its metric {} is lower than {}", taken.priority, other.priority),
        };
        let finding = Finding::new(
            &c::WRONG_ROUTE,
            Likely,
            format!("{name} routes {to} by {}, not by {}: {wrong}", words(host, taken), words(host, other)),
        )
        .checked(
            format!("both routes fit {to}, and {why}"),
            host.command(format!("{ip} route show table all match {to}")),
        )
        .about(to)
        .at(Walker::place(host, used.output));
        // The table of a rule is somebody's: what it has for others stays.
        return Some(match rule.and_then(|rule| rule.priority.checked_sub(1)) {
            Some(priority) => {
                let before = Rule {
                    priority,
                    ipv6: to.is_ipv6(),
                    action: FR_ACT_TO_TBL,
                    table: other.table,
                    destination: Some(other.destination),
                    ..Rule::default()
                };
                let command = format!(
                    "{ip} rule add priority {priority} to {} lookup {}",
                    other.destination,
                    table_name(other.table)
                );
                finding.fix(host.command(command)).change(host.id, Change::AddRoutingRule(before))
            }
            None => finding
                .fix(host.command(format!("{ip} route del {}", words(host, taken))))
                .change(host.id, Change::DeleteRoute(taken.clone())),
        });
    }
    let network = host.evidence.addresses.iter().find_map(|a| {
        let network = crate::node::IpPrefix::new(a.address, a.prefix_len)?;
        let bridge = host.link(a.ifindex).is_some_and(|l| l.is_kind("bridge"));
        (bridge && meant(a.ifindex) && network.contains(to) && !network.is_empty())
            .then_some((network, a.ifindex))
    });
    let (network, bridge) = network?;
    if host.link(bridge).is_some_and(|link| !link.is_up()) {
        let index = bridge;
        let bridge = host.device(bridge);
        return Some(
            Finding::new(
                &c::POD_ROUTE_MISSING,
                Certain,
                format!("{bridge} of {name}, which has the network {network} of {to}, is down: its route is gone, and the packet leaves by {out}{via}"),
            )
            .checked(format!("{bridge} is down"), host.command(format!("ip -d addr show dev {bridge}")))
            .checked("the kernel's own lookup finds it", host.command(format!("{ip} route get {to}")))
            .fix(host.command(format!("ip link set {bridge} up")))
            .change(host.id, Change::DeviceUp(index))
            .about(to)
            .at(Walker::place(host, index)),
        );
    }
    let missing = Route {
        destination: network,
        next_hops: vec![NextHop { ifindex: bridge, ..NextHop::default() }],
        ..Route::default()
    };
    let bridge = host.device(bridge);
    Some(
        Finding::new(
            &c::WRONG_ROUTE,
            Certain,
            format!("{to} is of the network {network} of {bridge} on {name}, but {name} routes it{via} out of {out}"),
        )
        .checked("the kernel's own lookup finds it", host.command(format!("{ip} route get {to}")))
        .checked(format!("{bridge} has an address of {network}"), host.command(format!("ip addr show dev {bridge}")))
        .fix(host.command(format!("{ip} route replace {network} dev {bridge}")) + &format!(", and delete what leads {to} to {out}"))
        .change(host.id, Change::DeleteRoute(taken.clone()))
        .change(host.id, Change::AddRoute(missing))
        .at(Walker::place(host, used.output)),
    )
}
