// SPDX-License-Identifier: MIT OR Apache-2.0
//! Routing by EgressGateway's marks: the ip rule, the table, the device.

use super::context::{Lookup, View, is_tunnel};
use crate::cause::Certainty::{Certain, Likely};
use crate::cause::Finding;
use crate::cause::catalogue as c;
use crate::cluster::egress::datapath::{DEVICE, is_node_mark};

/// Marked for a gateway, but not routed by the mark's table.
pub(super) fn explain(view: &View<'_>) -> Option<Finding> {
    if let Some(finding) = table_leads_out(view) {
        return Some(finding);
    }
    let found = view.lookups().find(|l| {
        !l.reverse && !l.encap && l.error == 0 && is_node_mark(l.mark) && l.table != l.mark && l.table != 255
    })?;
    let mark = found.mark;
    if let Some(finding) = other_table(view, &found) {
        return Some(finding);
    }
    let asked = view.lookups().any(|l| l.netns == found.netns && l.table == mark && l.error != 0);
    let out = view.device_name(found.netns, found.ifindex);
    let name = view.netns(found.netns);
    let table = crate::text::table_name(found.table);
    let tunnel = view
        .namespace(found.netns)
        .and_then(|ns| ns.devices.values().find(|d| is_tunnel(view, ns.id, d.ifindex)));
    let place = view.place(found.netns, found.ifindex);
    let ip = view.ip_command();
    if asked {
        let why = match tunnel {
            None => format!("{DEVICE} does not exist on {name}"),
            Some(d) if !d.up => format!("{} is down", d.name),
            Some(_) => "its route is missing".to_owned(),
        };
        return Some(
            Finding::new(
                &c::FWMARK_TABLE_EMPTY,
                Certain,
                format!(
                    "the routing table of mark {mark:#x} is empty ({why}): the packet leaks out of {out}"
                ),
            )
            .checked(
                format!("the lookup in table {mark} failed, table {table} was used"),
                view.command(found.netns, format!("{ip} route show table {mark}")),
            )
            .checked(why, view.command(found.netns, format!("ip -d link show {DEVICE}")))
            .fix(format!("restart the egressgateway agent on {name}: it makes {DEVICE} and the route again"))
            .at(place),
        );
    }
    if let Some(finding) = preempted(view, &found) {
        return Some(finding);
    }
    Some(
        Finding::new(
            &c::FWMARK_WITHOUT_RULE,
            Certain,
            format!(
                "the packet has mark {mark:#x}, but no ip rule for it: table {table} sent it out of {out}"
            ),
        )
        .checked(
            format!("table {mark} was never asked"),
            view.command(found.netns, format!("{ip} rule show fwmark {mark:#x}")),
        )
        .fix(view.command(found.netns, format!("{ip} rule add priority 99 fwmark {mark:#x} lookup {mark}")))
        .at(place),
    )
}

/// The mark's own table, but its route is by another device than the tunnel.
fn table_leads_out(view: &View<'_>) -> Option<Finding> {
    let found = view.lookups().find(|l| {
        let other = l.ifindex != 0 && !is_tunnel(view, l.netns, l.ifindex);
        !l.reverse && !l.encap && l.error == 0 && is_node_mark(l.mark) && l.table == l.mark && other
    })?;
    let (mark, name) = (found.mark, view.netns(found.netns));
    let out = view.device_name(found.netns, found.ifindex);
    let via = if found.gateway.is_none() { String::new() } else { format!(" via {}", found.gateway) };
    let ip = view.ip_command();
    Some(
        Finding::new(
            &c::FWMARK_TABLE_WRONG,
            Certain,
            format!(
                "the routing table of mark {mark:#x} on {name} leads out of {out}{via}, not into {DEVICE}"
            ),
        )
        .checked(
            format!("the lookup in table {mark} found {out}{via}"),
            view.command(found.netns, format!("{ip} route show table {mark}")),
        )
        .fix(format!(
            "restart the egressgateway agent on {name}: it writes the default route by {DEVICE} again"
        ))
        .about(mark)
        .at(view.place(found.netns, found.ifindex)),
    )
}

/// The mark's rule names another table than EgressGateway's.
fn other_table(view: &View<'_>, found: &Lookup) -> Option<Finding> {
    let ipv6 = view.journey.packet.ipv6;
    let mark = found.mark;
    let rule = view.of(found.netns)?.rules.iter().find(|r| {
        r.ipv6 == ipv6 && r.mask == u32::MAX && r.mark == mark && !r.inverted && r.table == found.table
    })?;
    let (name, ip) = (view.netns(found.netns), view.ip_command());
    let out = view.device_name(found.netns, found.ifindex);
    let priority = rule.priority;
    Some(
        Finding::new(
            &c::FWMARK_TABLE_WRONG,
            Certain,
            format!("ip rule {priority} of {name} leads mark {mark:#x} to table {}, not to table {mark}: the packet goes out of {out}", rule.table),
        )
        .checked(
            format!("table {} answered for mark {mark:#x}", found.table),
            view.command(found.netns, format!("{ip} rule show fwmark {mark:#x}")),
        )
        .fix(format!(
            "{}; {}",
            view.command(found.netns, format!("{ip} rule del priority {priority} fwmark {mark:#x}")),
            view.command(found.netns, format!("{ip} rule add priority 99 fwmark {mark:#x} lookup {mark}"))
        ))
        .about(mark)
        .at(view.place(found.netns, found.ifindex)),
    )
}

/// The mark's rule is there, but the lookup never came to it.
fn preempted(view: &View<'_>, found: &Lookup) -> Option<Finding> {
    let evidence = view.of(found.netns)?;
    let ipv6 = view.journey.packet.ipv6;
    let own = evidence.rules.iter().find(|r| {
        r.ipv6 == ipv6 && r.mask != 0 && !r.inverted && found.mark & r.mask == r.mark && r.table == found.mark
    })?;
    let ends = view.journey.packet.ends;
    let (source, destination) = (ends.src.addr.ip(), ends.dst.addr.ip());
    let first = evidence.rules.iter().find(|r| {
        r.priority <= own.priority
            && r.table == found.table
            && *r != own
            && r.matches(source, destination, found.mark)
    });
    let out = view.device_name(found.netns, found.ifindex);
    let table = crate::text::table_name(found.table);
    let show = view.command(found.netns, format!("{} rule show", view.ip_command()));
    let (certainty, title) = match first {
        Some(first) => (
            Certain,
            format!(
                "ip rule {} ({}) comes before rule {} of mark {:#x}: table {table} sent the packet out of {out}",
                first.priority,
                first.selector(),
                own.priority,
                found.mark
            ),
        ),
        None => (
            Likely,
            format!(
                "ip rule {} of mark {:#x} did not apply to the packet ({}): table {table} sent it out of {out}",
                own.priority,
                found.mark,
                own.selector()
            ),
        ),
    };
    let fix = match first {
        Some(first) => {
            format!("delete ip rule {}, or give it a priority number above {}", first.priority, own.priority)
        }
        None => format!("see what ip rule {} asks for besides the mark", own.priority),
    };
    Some(
        Finding::new(&c::FWMARK_RULE_PREEMPTED, certainty, title)
            .checked(format!("table {} was never asked", own.table), show)
            .fix(fix)
            .at(view.place(found.netns, found.ifindex)),
    )
}
